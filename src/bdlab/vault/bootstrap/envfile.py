"""Reading `.env`, the input of the first set-up. `.env.example` explains every line."""

import io
import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import dotenv.parser
import msgspec

from bdlab.errors import InvalidInput, SettingsInvalid
from bdlab.services import BDLAB, Deployment
from bdlab.settings import KafkaSettings, PostgresSettings, Secret, duration
from bdlab.vault.bootstrap.plan import Seeds

_FIELDS = {
    "postgres": ("host", "port", "dbname", "sslmode"),
    "kafka": ("bootstrap_servers", "security_protocol", "sasl_mechanism"),
}
#: section of the settings -> name in `.env` -> field of the section
_SECTIONS = {
    section: {f"BDLAB_{section}_{field}".upper(): field for field in fields}
    for section, fields in _FIELDS.items()
}
_REQUIRED = ("POSTGRES_USER", "POSTGRES_PASSWORD", "BDLAB_POSTGRES_HOST", "BDLAB_KAFKA_BOOTSTRAP_SERVERS")
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
NAMES = frozenset((*_REQUIRED, *_SECTIONS["postgres"], *_SECTIONS["kafka"], *_OTHERS))

#: Instead of a file's name: Vault signs the servers' certificates itself.
_BY_VAULT = "vault"

_SEE = "See .env.example, where every name is explained."

_Section = TypeVar("_Section", PostgresSettings, KafkaSettings)


class _Lines:
    """The values of one file, each with its line number for messages."""

    def __init__(self, path: Path, values: Mapping[str, tuple[int, str]]) -> None:
        self._path = path
        self._values = values

    def get(self, name: str) -> str:
        return self._values[name][1] if name in self._values else ""

    def wrong(self, name: str, reason: str) -> InvalidInput:
        line = self._values[name][0] if name in self._values else 0
        return InvalidInput(f"{self._path}{f', line {line}' if line else ''}: {name} {reason}", hint=_SEE)


def read(path: Path, deployment: Deployment = BDLAB) -> Seeds:
    """Read a file. Raises InvalidInput, naming the line, for a wrong value or an unknown or missing name."""
    lines = _Lines(path, _parse(path))
    for name in _REQUIRED:
        if not lines.get(name):
            raise lines.wrong(name, "is missing")
    user, password = lines.get("BDLAB_KAFKA_USERNAME"), lines.get("BDLAB_KAFKA_PASSWORD")
    if bool(user) != bool(password):
        raise lines.wrong(
            "BDLAB_KAFKA_PASSWORD" if user else "BDLAB_KAFKA_USERNAME", "is missing beside the other"
        )
    ttl, longest = _seconds(lines, "BDLAB_LEASE_TTL"), _seconds(lines, "BDLAB_LEASE_MAX_TTL")
    if ttl and longest and ttl > longest:
        raise lines.wrong("BDLAB_LEASE_TTL", f"is longer ({ttl} s) than BDLAB_LEASE_MAX_TTL ({longest} s)")
    return Seeds(
        postgres_user=lines.get("POSTGRES_USER"),
        postgres_password=Secret(lines.get("POSTGRES_PASSWORD")),
        postgres=_postgres(lines, deployment.database),
        postgres_ca_pem=_pem(lines, "BDLAB_POSTGRES_CA_FILE"),
        postgres_authority=lines.get("BDLAB_POSTGRES_CA_FILE") == _BY_VAULT,
        kafka=_kafka(lines),
        kafka_ca_pem=_pem(lines, "BDLAB_KAFKA_CA_FILE"),
        kafka_authority=lines.get("BDLAB_KAFKA_CA_FILE") == _BY_VAULT,
        kafka_username=user,
        kafka_password=Secret(password),
        cidrs=_cidrs(lines),
        token_period_s=_seconds(lines, "BDLAB_TOKEN_PERIOD"),
        lease_ttl_s=ttl,
        lease_max_ttl_s=longest,
    )


def _parse(path: Path) -> dict[str, tuple[int, str]]:
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise InvalidInput(
            f"there is no file {path}",
            hint="Copy .env.example to .env and fill it in, or name it with --env-file.",
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
            raise InvalidInput(
                f"{path}, line {line}: {binding.key} stands on line {found[binding.key][0]} already"
            )
        found[binding.key] = line, binding.value or ""
    return found


def _section(lines: _Lines, names: Mapping[str, str], kind: type[_Section], **defaults: str) -> _Section:
    values = defaults | {field: lines.get(name) for name, field in names.items() if lines.get(name)}
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at `$")
        field = where.strip("`.")
        name = next((name for name, known in names.items() if known == field), where)
        raise lines.wrong(name, f"is not valid: {reason[:1].lower()}{reason[1:]}") from None


def _postgres(lines: _Lines, dbname: str) -> PostgresSettings:
    """Return the server's address as its administrator uses it."""
    section = _section(lines, _SECTIONS["postgres"], PostgresSettings, dbname=dbname)
    name = "POSTGRES_CA_FILE" if lines.get("POSTGRES_CA_FILE") else "BDLAB_POSTGRES_CA_FILE"
    if _pem(lines, name):
        return msgspec.structs.replace(section, ca_file=str(Path(lines.get(name)).expanduser()))
    if section.sslmode.startswith("verify"):
        reason = f"is missing: with sslmode {section.sslmode} the administrator, too, verifies the server"
        raise lines.wrong("POSTGRES_CA_FILE", reason)
    return section


def _kafka(lines: _Lines) -> KafkaSettings:
    section = _section(lines, _SECTIONS["kafka"], KafkaSettings)
    try:
        section.servers()
    except SettingsInvalid as error:
        raise lines.wrong("BDLAB_KAFKA_BOOTSTRAP_SERVERS", f"is not valid: {error.message}") from error
    return section


def _pem(lines: _Lines, name: str) -> str:
    """Return the text of the file; empty if none is named."""
    file = lines.get(name)
    if file in ("", _BY_VAULT):
        return ""
    try:
        text = Path(file).expanduser().read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise lines.wrong(name, f"names {file}, which cannot be read: {error}") from error
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise lines.wrong(name, f"names {file}, which holds no certificate in PEM form")
    return text


def _cidrs(lines: _Lines) -> tuple[str, ...] | None:
    name = "BDLAB_SECRET_ID_CIDRS"
    parts = [part.strip() for part in lines.get(name).split(",") if part.strip()]
    try:
        return tuple(str(ipaddress.ip_network(part)) for part in parts) or None
    except ValueError as error:
        raise lines.wrong(name, f"is no list of networks: {error}") from error


def _seconds(lines: _Lines, name: str) -> int | None:
    text = lines.get(name)
    if not text:
        return None
    try:
        seconds = int(duration(f"{text}s" if text.isdigit() else text).total_seconds())
    except ValueError:
        seconds = 0
    if seconds < 1:
        raise lines.wrong(name, f"is no duration: {text!r}; write 90s, 30m, 1h or 1d")
    return seconds
