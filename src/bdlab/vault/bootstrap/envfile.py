"""Reading `.env`, the input of the first set-up. `.env.example` explains every line."""

import io
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import dotenv.parser
import msgspec

from bdlab.credentials import DatabaseLogin, KafkaLogin
from bdlab.errors import InvalidInput, SettingsInvalid
from bdlab.services import BDLAB, Deployment
from bdlab.settings import Secret, Settings, duration, environment_layer, explained
from bdlab.vault.bootstrap.plan import Seeds
from bdlab.vault.logins import ADDRESS_FIELDS

_REQUIRED = ("POSTGRES_USER", "POSTGRES_PASSWORD", "BDLAB_POSTGRES_HOST", "BDLAB_KAFKA_BOOTSTRAP_SERVERS")
_ADDRESSES = tuple(f"BDLAB_{section}_{field}".upper() for section, fields in ADDRESS_FIELDS.items() for field in fields)
_OTHERS = (
    "POSTGRES_CA_FILE",
    "BDLAB_POSTGRES_CA_FILE",
    "BDLAB_KAFKA_CA_FILE",
    "BDLAB_KAFKA_USERNAME",
    "BDLAB_KAFKA_PASSWORD",
    "BDLAB_SECRET_ID_CIDRS",
    "BDLAB_TOKEN_PERIOD",
    "BDLAB_LEASE_TTL",
    "BDLAB_LEASE_MAX_TTL",
)
NAMES = frozenset((*_REQUIRED, *_ADDRESSES, *_OTHERS))

#: Instead of a file's name: Vault signs the servers' certificates itself.
_BY_VAULT = "vault"

_SEE = "See .env.example, where every name is explained."

_T = TypeVar("_T")


@dataclass
class _Lines:
    """The values of one file, each with its line number for messages."""

    path: Path
    values: dict[str, tuple[int, str]]

    def get(self, name: str) -> str:
        return self.values.get(name, (0, ""))[1]

    def parsed(self, name: str, parse: Callable[[str], _T]) -> _T:
        """Return what `parse` makes of a value. Raises InvalidInput with the reason of its ValueError."""
        try:
            return parse(self.get(name))
        except ValueError as error:
            raise self.wrong(name, str(error)) from error

    def wrong(self, name: str, reason: str) -> InvalidInput:
        line = self.values.get(name, (0, ""))[0]
        return InvalidInput(f"{self.path}{f', line {line}' if line else ''}: {name} {reason}", hint=_SEE)


def read(path: Path, deployment: Deployment = BDLAB) -> Seeds:
    """Read a file. Raises InvalidInput, naming the line, for a wrong value or an unknown or missing name."""
    lines = _Lines(path, _parse(path))
    for name in _REQUIRED:
        if not lines.get(name):
            raise lines.wrong(name, "is missing")
    user, password = lines.get("BDLAB_KAFKA_USERNAME"), lines.get("BDLAB_KAFKA_PASSWORD")
    if bool(user) != bool(password):
        raise lines.wrong("BDLAB_KAFKA_PASSWORD" if user else "BDLAB_KAFKA_USERNAME", "is missing beside the other")
    ttl, longest = (lines.parsed(name, _seconds) for name in ("BDLAB_LEASE_TTL", "BDLAB_LEASE_MAX_TTL"))
    if ttl and longest and ttl > longest:
        raise lines.wrong("BDLAB_LEASE_TTL", f"is longer ({ttl} s) than BDLAB_LEASE_MAX_TTL ({longest} s)")
    found = _addresses(lines, deployment)
    return Seeds(
        administrator=DatabaseLogin(
            server=found.postgres, user=lines.get("POSTGRES_USER"), password=Secret(lines.get("POSTGRES_PASSWORD"))
        ),
        postgres_ca_pem=lines.parsed("BDLAB_POSTGRES_CA_FILE", _pem),
        postgres_authority=lines.get("BDLAB_POSTGRES_CA_FILE") == _BY_VAULT,
        kafka=KafkaLogin(
            server=found.kafka,
            username=user,
            password=Secret(password),
            ca_pem=lines.parsed("BDLAB_KAFKA_CA_FILE", _pem),
        ),
        kafka_authority=lines.get("BDLAB_KAFKA_CA_FILE") == _BY_VAULT,
        cidrs=lines.parsed("BDLAB_SECRET_ID_CIDRS", _cidrs),
        token_period_s=lines.parsed("BDLAB_TOKEN_PERIOD", _seconds),
        lease_ttl_s=ttl,
        lease_max_ttl_s=longest,
    )


def _parse(path: Path) -> dict[str, tuple[int, str]]:
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise InvalidInput(
            f"there is no file {path}", hint="Copy .env.example to .env and fill it in, or name it with --env-file."
        ) from error
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text (byte {error.start})") from error
    found: dict[str, tuple[int, str]] = {}
    for binding in dotenv.parser.parse_stream(io.StringIO(text)):
        original = binding.original.string
        line = binding.original.line + len(original) - len(original.lstrip("\r\n"))
        if binding.error or (binding.key and binding.value is None):
            raise InvalidInput(f"{path}, line {line}: this is no NAME=value", hint=_SEE)
        if binding.key is None:
            continue
        if binding.key not in NAMES:
            raise InvalidInput(f"{path}, line {line}: there is no setting {binding.key}", hint=_SEE)
        if binding.key in found:
            raise InvalidInput(f"{path}, line {line}: {binding.key} stands on line {found[binding.key][0]} already")
        found[binding.key] = line, binding.value or ""
    return found


def _addresses(lines: _Lines, deployment: Deployment) -> Settings:
    """Return settings with the servers' addresses, that of the database as its administrator uses it."""
    layer = environment_layer({name: lines.get(name) for name in _ADDRESSES})
    try:
        found = msgspec.convert(layer, Settings, strict=False)
        found.kafka.servers()
    except msgspec.ValidationError as error:
        field, reason = explained(error)
        raise lines.wrong(f"BDLAB_{field}".replace(".", "_").upper(), f"is not valid: {reason}") from None
    except SettingsInvalid as error:
        raise lines.wrong("BDLAB_KAFKA_BOOTSTRAP_SERVERS", f"is not valid: {error.message}") from error
    ca_name = "POSTGRES_CA_FILE" if lines.get("POSTGRES_CA_FILE") else "BDLAB_POSTGRES_CA_FILE"
    ca_file = str(Path(lines.get(ca_name)).expanduser()) if lines.parsed(ca_name, _pem) else ""
    if found.postgres.sslmode.startswith("verify") and not ca_file:
        why = f"with sslmode {found.postgres.sslmode} the administrator, too, verifies the server"
        raise lines.wrong("POSTGRES_CA_FILE", f"is missing: {why}")
    dbname = lines.get("BDLAB_POSTGRES_DBNAME") or deployment.database
    admin = msgspec.structs.replace(found.postgres, ca_file=ca_file, dbname=dbname)
    return msgspec.structs.replace(found, postgres=admin)


def _pem(file: str) -> str:
    """Return the text of the file; empty if none is named."""
    if file in ("", _BY_VAULT):
        return ""
    try:
        text = Path(file).expanduser().read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"names {file}, which cannot be read: {error}") from error
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise ValueError(f"names {file}, which holds no certificate in PEM form")
    return text


def _cidrs(text: str) -> tuple[str, ...] | None:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return tuple(str(ipaddress.ip_network(part)) for part in parts) or None
    except ValueError as error:
        raise ValueError(f"is no list of networks: {error}") from error


def _seconds(text: str) -> int | None:
    if not text:
        return None
    try:
        seconds = int(duration(f"{text}s" if text.isdigit() else text).total_seconds())
    except ValueError:
        seconds = 0
    if seconds < 1:
        raise ValueError(f"is no duration: {text!r}; write 90s, 30m, 1h or 1d")
    return seconds
