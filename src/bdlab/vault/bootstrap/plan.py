"""What `vault-init` is given, what its steps are, and what they report. `.env`, the input of the first set-up, is read
here; `.env.example` explains every line."""

import contextlib
import io
import ipaddress
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import dotenv.parser
import msgspec

from bdlab.credentials import DatabaseLogin, KafkaLogin
from bdlab.errors import InvalidInput, SettingsInvalid
from bdlab.services import BDLAB, Deployment
from bdlab.settings import Secret, Settings, VaultSettings, duration, environment_layer, explained
from bdlab.vault.client import VaultClient
from bdlab.vault.logins import ADDRESS_FIELDS
from bdlab.vault.responses import refusal

T = TypeVar("T")
StepOutcome = Literal["done", "unchanged", "would do"]
_REQUIRED = ("POSTGRES_USER", "POSTGRES_PASSWORD", "BDLAB_POSTGRES_HOST", "BDLAB_KAFKA_BOOTSTRAP_SERVERS")
_ADDRESSES = tuple(f"BDLAB_{section}_{field}".upper() for section, fields in ADDRESS_FIELDS.items() for field in fields)
_CA_FILES = ("POSTGRES_CA_FILE", "BDLAB_POSTGRES_CA_FILE", "BDLAB_KAFKA_CA_FILE")
_OTHERS = ("BDLAB_KAFKA_USERNAME", "BDLAB_KAFKA_PASSWORD", "BDLAB_SECRET_ID_CIDRS", "BDLAB_TOKEN_PERIOD")
_LEASES = ("BDLAB_LEASE_TTL", "BDLAB_LEASE_MAX_TTL")
NAMES = frozenset((*_REQUIRED, *_ADDRESSES, *_CA_FILES, *_OTHERS, *_LEASES))
#: Instead of a file's name: Vault signs the servers' certificates itself.
_BY_VAULT = "vault"
_SEE = "See .env.example, where every name is explained."


class StepResult(msgspec.Struct, frozen=True):
    """The result of one step; `details` names what was changed, or would be."""

    name: str
    outcome: StepOutcome
    details: tuple[str, ...] = ()


class Seeds(msgspec.Struct, frozen=True, kw_only=True):
    """The values of `.env`, with PostgreSQL's `administrator`. Times are in seconds; None: not set. The user of `kafka`
    is empty if each service gets generated users of its own. `kafka_authority` and `postgres_authority` are set if
    Vault itself is to sign the certificates of that server."""

    administrator: DatabaseLogin
    postgres_ca_pem: str = ""
    postgres_authority: bool = False
    kafka: KafkaLogin
    kafka_authority: bool = False
    cidrs: tuple[str, ...] | None = None
    token_period_s: int | None = None
    lease_ttl_s: int | None = None
    lease_max_ttl_s: int | None = None


class DatabaseManager(Protocol):
    """Sets up the database role through which Vault makes users; the set-up itself never connects there."""

    def exists(self) -> bool:
        """Return whether the role exists. Reads only."""

    def missing(self) -> tuple[str, ...]:
        """Return a line for each change that `prepare` would make, except the password. Reads only."""

    def prepare(self, password: Secret | None) -> str:
        """Make what is missing, set the role's password if one is given, and return the role's name."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of `vault-init` is to reach, and what it may use. `token` is an administrator's, for a Vault that
    was initialised elsewhere, and is not revoked. `seeds` and `manager` are from `.env`, None if that is gone; they are
    needed until the database engine and the key-value engine are set up. `ask_key` is given the number of a key share
    and returns it; None if nobody can be asked. Vault may be unreachable or sealed for `timeout_s` seconds, and a
    wrapped secret id can be unwrapped for `wrap_ttl_s`. `certificate_authorities` are names of
    `pki.CERTIFICATE_AUTHORITIES`, beside those of `.env`; `renew` are identities that get another secret id even if
    theirs is valid, and whose former ones are destroyed. The certificate of a broker on this machine is written to
    `broker_folder`, if none is there, for `broker_ttl_s` seconds (None: one year)."""

    vault: VaultSettings
    deployment: Deployment = BDLAB
    keys_file: Path
    seeds: Seeds | None = None
    manager: DatabaseManager | None = None
    token: Secret | None = None
    shares: int = 1
    threshold: int = 1
    ask_key: Callable[[int], Secret | None] | None = None
    timeout_s: float = 60.0
    wrap_ttl_s: int = 24 * 3600
    certificate_authorities: tuple[str, ...] = ()
    renew: tuple[str, ...] = ()
    broker_folder: Path | None = None
    broker_ttl_s: int | None = None
    dry_run: bool = False


Change = Callable[[VaultClient], object]
"""Puts one thing right in Vault."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the set-up, which can be repeated at any time, as after a run that was killed. `missing` returns by
    name what is missing or differs, with the change that puts it right; it reads only. The changes are made in order,
    or `at_once`, and `finish` is called after them with their names."""

    name: str
    missing: Callable[[VaultClient], dict[str, Change]]
    at_once: bool = False
    finish: Callable[[Collection[str]], None] = lambda _names: None

    def apply(self, writer: VaultClient, changes: dict[str, Change]) -> None:
        if self.at_once:
            in_parallel(lambda change: change(writer), changes.values())
        else:
            for change in changes.values():
                change(writer)
        self.finish(changes)


def in_parallel(work: Callable[[T], object], items: Iterable[T]) -> None:
    """Do `work` for each item, a few at once, as Vault puts concurrent requests into one write to its disk. All are
    finished before the first error is raised."""
    with ThreadPoolExecutor(4, thread_name_prefix="vault-init") as pool:
        list(pool.map(work, items))


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be at `path` in Vault: the fields `wanted`, and `defaults` if nothing is there yet."""

    path: str
    wanted: dict[str, Any]
    defaults: dict[str, Any] = {}


def entries(name: str, wanted: dict[str, Entry]) -> Step:
    """Return the step that writes those of the entries, each with a name, of which a wanted field differs."""

    def missing(reader: VaultClient) -> dict[str, Change]:
        changes: dict[str, Change] = {}
        for title, entry in wanted.items():
            found = reader.read_if_present(entry.path)
            there, fields = found or {}, entry.wanted.items()
            if found is None or any(_plain(field, there.get(field)) != _plain(field, each) for field, each in fields):
                kept = {field: there.get(field, default) for field, default in entry.defaults.items()}
                changes[title] = partial(VaultClient.write, path=entry.path, body=kept | entry.wanted)
        return changes

    return Step(name=name, missing=missing, at_once=True)


def _plain(name: str, value: Any) -> Any:
    """Return the value of a field to be compared: lists as sets, None as empty."""
    if name.endswith("_bound_cidrs"):
        return sorted(str(ipaddress.ip_network(cidr, strict=False)) for cidr in value or ())
    return [] if value is None else sorted(value) if isinstance(value, list | tuple) else value


def read_env(path: Path, deployment: Deployment = BDLAB) -> Seeds:
    """Read a `.env`, the input of the first set-up, of which `.env.example` explains every line. Raises InvalidInput,
    naming the line, for a wrong value or an unknown or missing name."""
    values = _parse(path)

    def get(name: str) -> str:
        return values.get(name, (0, ""))[1]

    def wrong(name: str, reason: str) -> InvalidInput:
        line = values.get(name, (0, ""))[0]
        return InvalidInput(f"{path}{f', line {line}' if line else ''}: {name} {reason}", hint=_SEE)

    def parsed(name: str, parse: Callable[[str], T]) -> T:
        try:
            return parse(get(name))
        except ValueError as error:
            raise wrong(name, str(error)) from error

    for name in _REQUIRED:
        if not get(name):
            raise wrong(name, "is missing")
    user, password = get("BDLAB_KAFKA_USERNAME"), get("BDLAB_KAFKA_PASSWORD")
    if bool(user) != bool(password):
        raise wrong("BDLAB_KAFKA_PASSWORD" if user else "BDLAB_KAFKA_USERNAME", "is missing beside the other")
    ttl, longest = (parsed(name, _seconds) for name in _LEASES)
    if ttl and longest and ttl > longest:
        raise wrong("BDLAB_LEASE_TTL", f"is longer ({ttl} s) than BDLAB_LEASE_MAX_TTL ({longest} s)")
    layer = environment_layer({name: get(name) for name in _ADDRESSES})
    try:
        found = msgspec.convert(layer, Settings, strict=False)
        found.kafka.servers()
    except msgspec.ValidationError as error:
        field, reason = explained(error)
        raise wrong(f"BDLAB_{field}".replace(".", "_").upper(), f"is not valid: {reason}") from None
    except SettingsInvalid as error:
        raise wrong("BDLAB_KAFKA_BOOTSTRAP_SERVERS", f"is not valid: {error.message}") from error
    ca_name = "POSTGRES_CA_FILE" if get("POSTGRES_CA_FILE") else "BDLAB_POSTGRES_CA_FILE"
    ca_file = str(Path(get(ca_name)).expanduser()) if parsed(ca_name, _pem) else ""
    if found.postgres.sslmode.startswith("verify") and not ca_file:
        why = f"with sslmode {found.postgres.sslmode} the administrator, too, verifies the server"
        raise wrong("POSTGRES_CA_FILE", f"is missing: {why}")
    dbname = get("BDLAB_POSTGRES_DBNAME") or deployment.database
    postgres = msgspec.structs.replace(found.postgres, ca_file=ca_file, dbname=dbname)  # as its administrator uses it
    admin, kafka_ca = Secret(get("POSTGRES_PASSWORD")), parsed("BDLAB_KAFKA_CA_FILE", _pem)
    return Seeds(
        administrator=DatabaseLogin(server=postgres, user=get("POSTGRES_USER"), password=admin),
        postgres_ca_pem=parsed("BDLAB_POSTGRES_CA_FILE", _pem),
        postgres_authority=get("BDLAB_POSTGRES_CA_FILE") == _BY_VAULT,
        kafka=KafkaLogin(server=found.kafka, username=user, password=Secret(password), ca_pem=kafka_ca),
        kafka_authority=get("BDLAB_KAFKA_CA_FILE") == _BY_VAULT,
        cidrs=parsed("BDLAB_SECRET_ID_CIDRS", _cidrs),
        token_period_s=parsed("BDLAB_TOKEN_PERIOD", _seconds),
        lease_ttl_s=ttl,
        lease_max_ttl_s=longest,
    )


def _parse(path: Path) -> dict[str, tuple[int, str]]:
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise refusal(InvalidInput, "no_env_file", path=path) from error
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


def _pem(file: str) -> str:
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
    with contextlib.suppress(ValueError):
        if (seconds := int(duration(f"{text}s" if text.isdigit() else text).total_seconds())) >= 1:
            return seconds
    raise ValueError(f"is no duration: {text!r}; write 90s, 30m, 1h or 1d")
