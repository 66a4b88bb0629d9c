"""The settings: one typed, frozen object, built from layers and passed down.

The last layer that names a field wins: defaults < ``bdlab.toml`` < Vault < environment < command line.
A field ``http.port`` is ``port`` under ``[http]`` in the file, and ``BDLAB_HTTP_PORT`` in the environment.
There is no field for a password: those come from Vault alone (see `bdlab.credentials`).
"""

import os
import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Meta

from bdlab.errors import InvalidInput, SettingsInvalid
from bdlab.services import BDLAB, Deployment
from bdlab.trust import require_own

Seconds = Annotated[float, Meta(gt=0)]
Port = Annotated[int, Meta(ge=1, le=65535)]
SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SslMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]

CONFIG_FILE = "bdlab.toml"

#: The model path by which a layer overrides another's with the model that comes with bdlab.
SHIPPED_MODEL = "shipped"

#: librdkafka's default port.
_KAFKA_PORT = 9092

_DURATION = re.compile(r"(\d+)\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

#: Names of the servers' own tools, which users may have in their environment.
_ALIASES = {
    "VAULT_ADDR": "BDLAB_VAULT_ADDRESS",
    "VAULT_CACERT": "BDLAB_VAULT_CA_FILE",
    "VAULT_NAMESPACE": "BDLAB_VAULT_NAMESPACE",
    "NO_PROXY": "BDLAB_VAULT_NO_PROXY",
    "no_proxy": "BDLAB_VAULT_NO_PROXY",
}


def http_url(text: str) -> SplitResult:
    """Return the parts of an http or https URL. Raises InvalidInput."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError as error:
        raise InvalidInput(f"{text!r} is no http(s) URL: {error}") from error
    if not usable:
        raise InvalidInput(f"{text!r} is no http(s) URL")
    return parts


def duration(text: str) -> timedelta:
    """Return the duration of a number and one of s, m, h, d, w, such as ``30m``. Raises ValueError."""
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text!r} is no number and one of s, m, h, d, w")
    try:
        return timedelta(**{_UNITS[found[2]]: int(found[1])})
    except OverflowError as error:
        raise ValueError(f"{text!r} is too long") from error


class Secret:
    """A value that never shows itself: in a repr, a log line or a traceback it is ``***``."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value itself; to be called only when a server needs it."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


class ProxyUrl(Secret):
    """The http(s) URL of a proxy, which may have a password; empty is none."""

    __slots__ = ()

    def __init__(self, value: str) -> None:
        """Raise ValueError, without any part of `value` in it, if it is no URL."""
        super().__init__(value)
        try:
            usable = not value or bool(http_url(value))
        except InvalidInput:
            usable = False
        if not usable:
            raise ValueError("this is no http(s) URL of a proxy, such as http://proxy.example.org:3128")

    @property
    def shown(self) -> str:
        """The URL without user name and password, for messages."""
        parts = urlsplit(self.reveal())
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class VaultSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`identity_dir` has a folder for each service, with its `role_id` and its secret id."""

    address: str = "http://127.0.0.1:8200"
    ca_file: str = ""
    namespace: str = ""
    """The path of the namespace to use; empty, or `root`, is the root namespace."""
    proxy: ProxyUrl = ProxyUrl("")
    """The only proxy that requests to Vault go through."""
    no_proxy: str = ""
    """Hosts, domains, addresses and networks that are reached without `proxy`, with commas."""
    identity_dir: str = "~/.local/state/bdlab/identity"
    kv_mount: str = "kv"
    database_mount: str = "database"
    approle_mount: str = "approle"
    timeout_s: Seconds = 10.0
    poll_s: Seconds = 2.0
    """How often a running service looks whether a new version of its Kafka login is in Vault."""

    @property
    def identities(self) -> Path:
        """The folder `identity_dir`, which has a folder for each service."""
        return Path(self.identity_dir).expanduser()


class KafkaSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    bootstrap_servers: str = ""
    security_protocol: SecurityProtocol = "PLAINTEXT"
    sasl_mechanism: str = "SCRAM-SHA-512"
    topic: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9._-]{1,249}$")] = "predictions"
    partitions: Annotated[int, Meta(ge=1, le=10_000)] = 6
    replication_factor: Annotated[int, Meta(ge=-1, le=100)] = -1
    """-1 is the broker's own default."""
    group: Annotated[str, Meta(min_length=1)] = "bdlab-db-consumer"
    delivery_timeout_s: Seconds = 10.0
    """How long a prediction may wait for the broker's acknowledgement before the caller is told to retry."""
    session_timeout_s: Annotated[float, Meta(ge=1)] = 10.0
    """How long the group waits for a silent consumer before its partitions move."""

    def servers(self) -> tuple[tuple[str, int], ...]:
        """Return host and port of each bootstrap server, as librdkafka reads them. Raises SettingsInvalid."""
        listed = [each.strip() for each in self.bootstrap_servers.split(",") if each.strip()]
        for each in listed:
            scheme, named, _ = each.rpartition("://")
            if named and scheme.upper() not in get_args(SecurityProtocol):
                listed_as = f"kafka.bootstrap_servers {self.bootstrap_servers!r}"
                raise SettingsInvalid(
                    f"{listed_as}: brokers have no {scheme}:// address",
                    hint="Write host:port alone: kafka.security_protocol says how it is secured.",
                )
        try:
            places = [urlsplit(f"//{each.rpartition('//')[2]}") for each in listed]
            return tuple((place.hostname or "", place.port or _KAFKA_PORT) for place in places)
        except ValueError as error:
            raise SettingsInvalid(
                f"kafka.bootstrap_servers {self.bootstrap_servers!r} is no list of host:port: {error}"
            ) from error


class PostgresSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    host: str = ""
    """A host name, an address, or the folder of a Unix socket."""
    port: Port = 5432
    dbname: str = "bdlab"
    sslmode: SslMode = "prefer"
    ca_file: str = ""
    connect_timeout_s: Seconds = 5.0


class HttpSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    """0 lets the system choose a free port."""
    allowed_hosts: str = ""
    """The names by which the API may be called, with commas; `*` is any. Empty: those of this machine."""
    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    max_body_bytes: Annotated[int, Meta(ge=1024)] = 1 << 20
    max_batch: Annotated[int, Meta(ge=1)] = 1000
    """Inputs in one call of /predict/batch."""
    max_in_flight: Annotated[int, Meta(ge=1)] = 2000
    """Predictions that may wait for the broker at once before new ones get a 503."""
    max_connections: Annotated[int, Meta(ge=0)] = 0
    """Connections of one process; 0 is 2,048, or fewer if the limit of open files is lower."""
    keep_alive_s: Seconds = 75.0
    """How long a connection without a request stays open; longer than a proxy in front keeps it."""
    cors_origins: str = ""
    """Origins, with commas, whose pages may call the API from a browser; `*` is any. Empty is none."""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    ca_file: str = ""
    """The authority that signed the certificates of the API and the consumers, for those who ask them."""

    def origins(self) -> tuple[str, ...]:
        """Return the origins of `cors_origins`. Raises SettingsInvalid."""
        listed = tuple(each.strip() for each in self.cors_origins.split(",") if each.strip())
        for each in listed:
            try:
                parts = http_url(each)
            except InvalidInput:
                parts = None
            alone = parts is not None and "*" not in each and each == f"{parts.scheme}://{parts.netloc}".lower()
            if each != "*" and not alone:
                raise SettingsInvalid(
                    f"http.cors_origins names {each!r}, which is no origin",
                    hint="An origin is a scheme, a host and a port, as https://shop.example or "
                    "http://localhost:3000, in lower case and without a path; `*` is any.",
                )
        return listed


class SinkSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    batch_size: Annotated[int, Meta(ge=1, le=100_000)] = 2000
    """Events in one transaction."""
    batch_wait_s: Seconds = 0.25
    """How long a batch that is not full waits for more events."""
    metrics_port: Annotated[int, Meta(ge=-1, le=65535)] = -1
    """-1 serves no metrics; 0 lets the system choose a free port."""
    tls_cert_file: str = ""
    """A PEM file, as of the API; `http.ca_file` is the authority for those who ask."""
    tls_key_file: str = ""
    urls: str = ""
    """URLs of the consumers for `status`, with commas; empty is this machine and `metrics_port`."""


class ModelSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    path: str = ""
    """A model card, or a joblib file of a fitted text pipeline; empty or `shipped` is the shipped model."""


class LogSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"
    """auto is JSON if stderr is no terminal."""


class Settings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    deployment: Deployment = BDLAB
    """Another one than `bdlab` has other defaults of `_NAMES`."""
    vault: VaultSettings = VaultSettings()
    kafka: KafkaSettings = KafkaSettings()
    postgres: PostgresSettings = PostgresSettings()
    http: HttpSettings = HttpSettings()
    sink: SinkSettings = SinkSettings()
    model: ModelSettings = ModelSettings()
    log: LogSettings = LogSettings()
    startup_timeout_s: Annotated[float, Meta(ge=0)] = 60.0
    """How long a command waits at its start for a Vault, a daemon for any server, that is away or sealed."""


_SECTIONS: dict[str, type[_Section]] = {
    field.name: field.type
    for field in msgspec.structs.fields(Settings)
    if isinstance(field.type, type) and issubclass(field.type, _Section)
}

#: The settings whose defaults are names of the deployment, each with its section.
_NAMES = {"kv_mount": "vault", "topic": "kafka", "group": "kafka", "dbname": "postgres"}

Values = Mapping[str, Mapping[str, Any] | float | str]


class Layers(msgspec.Struct, frozen=True):
    """The layers below and above Vault's, whose values can be put between them at any time.

    `source` names the file of the file layer, for messages.
    """

    file: Values
    environment: Values
    command_line: Values
    source: str

    def settings(self, vault: Values | None = None) -> Settings:
        """Return the settings, with the values `vault` in their place. Raises SettingsInvalid."""
        merged: dict[str, Any] = {}
        origin: dict[str, str] = {}
        for name, layer in (
            (self.source, self.file),
            ("Vault", vault or {}),
            ("the environment", self.environment),
            ("the command line", self.command_line),
        ):
            for section, values in layer.items():
                origin[section] = name
                if isinstance(values, Mapping):
                    merged.setdefault(section, {}).update(values)
                    origin.update({f"{section}.{field}": name for field in values})
                else:
                    merged[section] = values
        try:
            found = msgspec.convert(merged, Settings, strict=False, dec_hook=_decode)
            for field, section in _NAMES.items():
                bdlab = getattr(getattr(Settings(), section), field)
                own = found.deployment.own(bdlab, "_" if section == "postgres" else "-")
                merged.setdefault(section, {}).setdefault(field, own)
            return msgspec.convert(merged, Settings, strict=False, dec_hook=_decode)
        except msgspec.ValidationError as error:
            field, reason = explained(error)
            raise SettingsInvalid(
                f"setting {field or '?'} from {origin.get(field, 'the settings')}: {reason}",
                hint="The README's table of settings lists every setting with its type and default.",
            ) from None


def _decode(kind: type, value: Any) -> Any:
    """Make a type that msgspec does not know; msgspec adds the field's name to a ValueError."""
    return kind(str(value))


def explained(error: msgspec.ValidationError) -> tuple[str, str]:
    """Return the setting that is wrong, as ``http.port``, and the reason."""
    reason, _, path = str(error).partition(" - at `$")
    field = path.strip("`").lstrip(".")
    if "unknown field" in reason:
        unknown = reason.removeprefix("Object contains unknown field ").strip("`")
        field, reason = f"{field}.{unknown}".lstrip("."), "there is no such setting"
    return field, f"{reason[:1].lower()}{reason[1:]}"


def environment_layer(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the values in `environ`: ``BDLAB_HTTP_PORT=80`` is ``{"http": {"port": "80"}}``.

    Other variables that start with ``BDLAB_`` belong to command-line options.
    """
    values: dict[str, Any] = {}
    named = {name: environ[alias] for alias, name in _ALIASES.items() if environ.get(alias)}
    named |= {name: value for name, value in environ.items() if name.startswith("BDLAB_") and value}
    for section, kind in _SECTIONS.items():
        for field in kind.__struct_fields__:
            if (name := f"BDLAB_{section}_{field}".upper()) in named:
                values.setdefault(section, {})[field] = named[name]
    for name, field in (("BDLAB_STARTUP_TIMEOUT", "startup_timeout_s"), ("BDLAB_DEPLOYMENT", "deployment")):
        if name in named:
            values[field] = named[name]
    return values


def load(
    *,
    config: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    command_line: Values | None = None,
    defaults: Values | None = None,
) -> Layers:
    """Read the layers below and above Vault's. `defaults` are the caller's own, below the file's values.

    `config` is the TOML file to read, which has to exist; without it ``BDLAB_CONFIG``, or ``./bdlab.toml`` if
    there is one. Raises SettingsInvalid for an unknown setting or a wrong value, and BdlabError for a
    ``./bdlab.toml`` that somebody else may have written.
    """
    chosen = config or (Path(environ["BDLAB_CONFIG"]) if environ.get("BDLAB_CONFIG") else None)
    path = chosen or Path(CONFIG_FILE)
    file: dict[str, Any] = {}
    if chosen or path.is_file():
        if not chosen:
            require_own(path, option="--config")
        try:
            file = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise SettingsInvalid(
                f"the settings file {path} cannot be read: {error.strerror}",
                hint="Name an existing file with --config or BDLAB_CONFIG, or leave both out.",
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsInvalid(f"the settings file {path} is not valid TOML: {error}") from error
    file = {**(defaults or {}), **file}
    layers = Layers(file, environment_layer(environ), command_line or {}, source=str(path))
    layers.settings()
    return layers
