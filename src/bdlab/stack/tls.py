"""The certificates of Vault, PostgreSQL and the API in a data folder, and a first one for each. Vault issues them all,
and needs a certificate itself before it can. So the first ones are signed by a temporary CA in memory; its key is never
on disk."""

import contextlib
import http.client
import os
import signal
import ssl
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bdlab.certificates import CertificateFiles
from bdlab.credentials import Certificate
from bdlab.errors import BinaryMissing
from bdlab.files import replace_file
from bdlab.settings import Secret
from bdlab.stack.servers.server import Server

SERVERS = ("vault", "postgres", "api")


class TlsFolder:
    """The folder `path` with a subfolder for each server, and in `ca_file` the CAs that clients trust."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ca_file = path / "ca.pem"

    def files(self, server: str) -> CertificateFiles:
        return CertificateFiles(self.path / server)

    def client_context(self) -> ssl.SSLContext:
        """Return a context that verifies these servers."""
        return ssl.create_default_context(cafile=str(self.ca_file))

    def prepare(self, *, ttl_s: float = 3600) -> bool:
        """Make temporary certificates for all servers if one has none that is valid; return whether it did. Their CA is
        then trusted, too. `ttl_s` is enough for a set-up on a slow machine. Raises BinaryMissing without `trustme`."""
        for server in SERVERS:
            # A run may have been killed after Vault's certificates came, and before they were trusted.
            if self.files(server).ca_file.exists():
                self.trust(self.files(server).ca_file.read_text("ascii"), keep=True)
        if self.ca_file.exists() and all(self.files(server).ends_at > time.time() for server in SERVERS):
            return False
        issued = temporary_certificates(SERVERS, ttl_s=ttl_s)
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.trust(issued[SERVERS[0]].ca_pem, keep=True)
        # Recorded without a host, so that a renewal replaces them at once.
        for server, certificate in issued.items():
            files = self.files(server)
            files.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            files.write(certificate, (), ttl_s=ttl_s)
        return True

    def trust(self, ca_pem: str, *, keep: bool = False) -> None:
        """Have clients trust this CA; with `keep` those of before, too."""
        before = self.ca_file.read_text("ascii").strip() if keep and self.ca_file.exists() else ""
        added = "" if ca_pem.strip() in before else ca_pem.strip()
        replace_file(self.ca_file, (f"{before}\n{added}".strip() + "\n").encode("ascii"))


class TlsServer(Server):
    """A server that speaks TLS only if it has `tls`, and reads its certificate again on SIGHUP."""

    def __init__(self, data_dir: Path, *, tls: TlsFolder | None = None) -> None:
        super().__init__(data_dir)
        self.tls = tls

    def reload(self) -> None:
        """Have it read its certificate again; open connections stay."""
        if self.running and self.pid:
            os.kill(self.pid, signal.SIGHUP)


def temporary_certificates(names: Sequence[str], *, ttl_s: float) -> dict[str, Certificate]:
    """Return a certificate for each name, all by one new CA whose key is kept nowhere. They are valid for localhost and
    127.0.0.1, for servers and for clients; the subject is CN=bdlab-<name>,OU=temporary,O=bdlab. Raises BinaryMissing
    without `trustme`."""
    try:
        # Not every installation has the extra `local`.
        import trustme  # noqa: PLC0415
        from cryptography.hazmat.primitives import serialization as form  # noqa: PLC0415
    except ImportError as error:
        what = "TLS for the local servers needs the package trustme"
        raise BinaryMissing(what, hint="pip install 'bdlab[local]'") from error
    ca = trustme.CA(organization_name="bdlab", organization_unit_name="temporary CA")
    now = datetime.now(UTC)
    found = {}
    for name in names:
        leaf = ca.issue_cert(
            "localhost",
            "127.0.0.1",
            common_name=f"bdlab-{name}",
            organization_name="bdlab",
            organization_unit_name="temporary",
            not_before=now - timedelta(minutes=1),  # for clocks that differ
            not_after=now + timedelta(seconds=ttl_s),
        )
        key = form.load_pem_private_key(leaf.private_key_pem.bytes(), password=None)
        # Apache Kafka reads no other form.
        pkcs8 = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()).decode()
        pem, ca_pem = leaf.cert_chain_pems[0].bytes().decode(), ca.cert_pem.bytes().decode()
        found[name] = Certificate(pem=pem, key=Secret(pkcs8), ca_pem=ca_pem)
    return found


def connect(host: str, port: int, *, tls: TlsFolder | None, timeout_s: float) -> http.client.HTTPConnection:
    """Return a connection for HTTP requests, not opened yet; with `tls` one that verifies the server."""
    if tls is None:
        return http.client.HTTPConnection(host, port, timeout=timeout_s)
    return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=tls.client_context())


def get(port: int, path: str, *, tls: TlsFolder | None, timeout_s: float) -> tuple[int, bytes]:
    """Return status and body of the response to GET `path` on 127.0.0.1; 0 and nothing if there is none."""
    connection = connect("127.0.0.1", port, tls=tls, timeout_s=timeout_s)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    return 0, b""
