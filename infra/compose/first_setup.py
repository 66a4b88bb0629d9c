"""Make what the servers need before their first start. Runs at each `up`, as root and without a network.

    first_setup.py prepare   seal key and TLS certificates, once; hands `.env` over to vault-init and Postgres
    first_setup.py forget    removes both copies of `.env` again, once vault-init is done

The folders under /volumes are the volumes of docker-compose.yml; each server mounts only its own.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from dotenv import dotenv_values

VOLUMES = Path("/volumes")
#: The user ids under which docker-compose.yml runs the servers; 999 is `postgres` in the official image.
BDLAB, VAULT, POSTGRES = 10001, 10002, 999

#: The first that exists.
ENV_FILES = (Path("/checkout/infra/.env"), Path("/checkout/.env"))
#: The addresses of the compose file's servers, whatever .env says.
FIXED = {
    "BDLAB_POSTGRES_HOST": "postgres",
    "BDLAB_POSTGRES_PORT": "5432",
    "BDLAB_POSTGRES_SSLMODE": "verify-full",
    "BDLAB_POSTGRES_CA_FILE": "/run/bdlab/trust/ca.pem",
    "BDLAB_KAFKA_BOOTSTRAP_SERVERS": "kafka:9092",
    "BDLAB_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "BDLAB_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
    "BDLAB_KAFKA_CA_FILE": "vault",
}

_VALID_DAYS = 3650
_RENEW_DAYS = 30
_SEAL_KEY_BYTES = 32
_PASSWORD_BYTES = 32
_OPENSSL_TIMEOUT_S = 60


def main() -> int:
    os.umask(0o077)
    if sys.argv[1:] == ["forget"]:
        forget()
        return 0
    own(VOLUMES / "vault-data", VAULT)
    own(VOLUMES / "kafka-tls", BDLAB, 0o750)
    make_seal_key()
    make_certificates()
    hand_over()
    return 0


def make_seal_key() -> None:
    folder = VOLUMES / "vault-seal"
    own(folder, VAULT)
    key = folder / "static.key"
    if key.exists():
        return
    if any((VOLUMES / "vault-data").iterdir()):
        sys.exit(
            "error: the volume vault-seal is empty, and without its key nobody can read vault-data. "
            "Put static.key back from a backup, or begin anew: docker compose down --volumes"
        )
    write(key, secrets.token_bytes(_SEAL_KEY_BYTES), VAULT)
    say("seal key made")


def make_certificates() -> None:
    """Make the certificates of Vault and Postgres, by a CA whose key is deleted after the signing."""
    trust, holders = VOLUMES / "trust", {"vault": VAULT, "postgres": POSTGRES}
    own(trust, BDLAB, 0o755)
    files = [trust / "ca.pem", *(VOLUMES / f"{name}-tls" / "server.pem" for name in holders)]
    if all(map(lasts, files)):
        return
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        authority = ("-x509", "-days", str(_VALID_DAYS), "-subj", "/CN=bdlab stack authority")
        uses = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        openssl("req", *new_key, *authority, *uses, "-keyout", work / "ca.key", "-out", work / "ca.pem")
        for name, user in holders.items():
            folder = VOLUMES / f"{name}-tls"
            own(folder, user)
            key, request, signed = (work / f"{name}.{kind}" for kind in ("key", "csr", "pem"))
            openssl("req", *new_key, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
            extensions = work / f"{name}.ext"
            extensions.write_text(
                f"subjectAltName=DNS:{name},DNS:localhost,IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n"
                "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n",
                "ascii",
            )
            signer = ("-CA", work / "ca.pem", "-CAkey", work / "ca.key", "-CAcreateserial")
            span = ("-days", str(_VALID_DAYS), "-extfile", extensions)
            openssl("x509", "-req", "-in", request, *signer, *span, "-out", signed)
            write(folder / "server.key", key.read_bytes(), user)
            write(folder / "server.pem", signed.read_bytes(), user)
        # Last: if a run is cut off before this, the next one makes all anew. The former CA stays
        # trusted: until they are restarted, the servers show certificates that it has signed.
        former = (trust / "ca.pem").read_bytes() if (trust / "ca.pem").exists() else b""
        write(trust / "ca.pem", (work / "ca.pem").read_bytes() + former, BDLAB, 0o644)
    say("certificates of Vault and Postgres made")


def lasts(certificate: Path) -> bool:
    """Return whether the certificate is there and stays valid for some weeks."""
    if not certificate.exists():
        return False
    span = str(_RENEW_DAYS * 86400)
    command = ["openssl", "x509", "-in", str(certificate), "-noout", "-checkend", span]
    outcome = subprocess.run(command, capture_output=True, timeout=_OPENSSL_TIMEOUT_S, check=False)
    return outcome.returncode == 0


def hand_over() -> None:
    """Give vault-init its `.env` and Postgres its administrator: once, and again if there is an `.env` again.

    If it has no password, make one up, which nobody has to know: from then on Vault makes the users.
    """
    setup, database = VOLUMES / "vault-setup", VOLUMES / "postgres-setup"
    own(setup, BDLAB)
    own(database, POSTGRES)
    source = next((file for file in ENV_FILES if file.is_file()), None)
    given = values_of(source) if source else {}
    password = given.get("POSTGRES_PASSWORD", "")
    if not password and (database / "done").exists():
        return
    if not password:
        # Keep what an interrupted first set-up made up: Postgres may have it already.
        password = values_of(setup / ".env").get("POSTGRES_PASSWORD") or secrets.token_urlsafe(_PASSWORD_BYTES)
    values = {"POSTGRES_USER": "postgres"} | {name: value for name, value in given.items() if value}
    values |= FIXED | {"POSTGRES_PASSWORD": password}
    replaced = [name for name, value in FIXED.items() if given.get(name) and given[name] != value]
    if replaced:
        say(f"{source}: the compose file has its own values for {', '.join(replaced)}")
    write(database / "user", values["POSTGRES_USER"].encode(), POSTGRES)
    write(database / "password", password.encode(), POSTGRES)
    text = "".join(f"{name}={quoted(value)}\n" for name, value in values.items())
    write(setup / ".env", text.encode(), BDLAB)
    say(f"first set-up from {source}" if source else "first set-up without an .env: the password is made up")


def values_of(file: Path) -> dict[str, str]:
    """Return the values of an `.env`; none if the file is missing."""
    return {name: value or "" for name, value in dotenv_values(file, interpolate=False).items()}


def forget() -> None:
    setup, database = VOLUMES / "vault-setup", VOLUMES / "postgres-setup"
    (setup / ".env").unlink(missing_ok=True)
    for name in ("user", "password"):
        # The files stay, empty: Postgres looks for them at each start, and needs the content only once.
        write(database / name, b"", POSTGRES)
    write(database / "done", b"", POSTGRES)
    say("Vault holds every credential; the copies of .env are gone, and .env itself can be deleted")


def quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def openssl(*arguments: str | Path) -> None:
    command = ["openssl", *map(str, arguments)]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=_OPENSSL_TIMEOUT_S, check=False)
    if outcome.returncode != 0:
        sys.exit(f"error: openssl {arguments[0]}: {outcome.stderr.strip()}")


def own(folder: Path, user: int, mode: int = 0o700) -> None:
    shutil.chown(folder, user, user)
    folder.chmod(mode)


def write(file: Path, content: bytes, user: int, mode: int = 0o600) -> None:
    """Write the file completely or not at all, and never readable by others."""
    new = file.with_name(f".{file.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    shutil.chown(new, user, user)
    new.chmod(mode)
    new.replace(file)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
