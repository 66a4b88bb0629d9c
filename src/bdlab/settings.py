"""The settings: one typed, frozen object, built from layers and passed down.

The last layer that names a field wins: defaults < ``bdlab.toml`` < Vault < environment < command line.
A field ``http.port`` is ``port`` under ``[http]`` in the file, and ``BDLAB_HTTP_PORT`` in the environment.
There is no field for a password: those come from Vault alone (see `bdlab.credentials`)."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from bdlab.errors import InvalidInput, SettingsInvalid
from bdlab.services import BDLAB, Deployment
from bdlab.trust import require_own
from bdlab.values import ProxyUrl, Secret, duration, http_url, lines_of, listed, near

#: Beside what is defined here: what settings are made of.
__all__ = ["ProxyUrl", "Secret", "duration", "http_url"]
Seconds = Annotated[float, Meta(gt=0)]
Port = Annotated[int, Meta(ge=1, le=65535)]
SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SslMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]
#: The model path by which a layer overrides another's with the model that comes with bdlab.
SHIPPED_MODEL = "shipped"
#: Names of the servers' own tools, which users may have in their environment.
_ALIASES = {
    "VAULT_ADDR": "BDLAB_VAULT_ADDRESS",
    "VAULT_CACERT": "BDLAB_VAULT_CA_FILE",
    "VAULT_NAMESPACE": "BDLAB_VAULT_NAMESPACE",
    "NO_PROXY": "BDLAB_VAULT_NO_PROXY",
    "no_proxy": "BDLAB_VAULT_NO_PROXY",
}


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class VaultSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`identity_dir` has a folder for each service, with its `role_id` and its secret id."""

    address: str = "http://127.0.0.1:8200"
    ca_file: str = ""
    namespace: str = ""  # the path of the namespace to use; empty, or `root`, is the root namespace
    proxy: ProxyUrl = ProxyUrl("")  # the only proxy that requests to Vault go through
    no_proxy: str = ""  # hosts, domains, addresses and networks that are reached without `proxy`, with commas
    identity_dir: str = "~/.local/state/bdlab/identity"
    kv_mount: str = "kv"
    database_mount: str = "database"
    approle_mount: str = "approle"
    timeout_s: Seconds = 10.0
    poll_s: Seconds = 2.0  # how often a running service looks whether a new version of its Kafka login is in Vault

    @property
    def identities(self) -> Path:
        """The folder `identity_dir`, which has a folder for each service."""
        return Path(self.identity_dir).expanduser()


class KafkaSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    bootstrap_servers: str = ""
    security_protocol: SecurityProtocol = "PLAINTEXT"
    sasl_mechanism: str = "SCRAM-SHA-512"
    topic: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9._-]{1,249}$")] = "predictions"
    feedback_topic: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9._-]{1,249}$")] = "feedback"
    partitions: Annotated[int, Meta(ge=1, le=10_000)] = 6  # of each topic
    replication_factor: Annotated[int, Meta(ge=-1, le=100)] = -1  # -1 is the broker's own default
    group: Annotated[str, Meta(min_length=1)] = "bdlab-db-consumer"
    delivery_timeout_s: Seconds = 10.0  # how long a prediction waits for the broker's acknowledgement, before a 503
    session_timeout_s: Annotated[float, Meta(ge=1)] = 10.0  # then a silent consumer's partitions move

    @property
    def feedback_group(self) -> str:
        """The consumer group of the feedback topic: of its own, so that neither topic waits for the other's members."""
        return f"{self.group}-feedback"

    def servers(self) -> tuple[tuple[str, int], ...]:
        """Return host and port of each bootstrap server, as librdkafka reads them. Raises SettingsInvalid."""
        named, found = f"kafka.bootstrap_servers {self.bootstrap_servers!r}", []
        for each in listed(self.bootstrap_servers):
            scheme, _, place = each.rpartition("://")
            if scheme.upper() not in ("", *get_args(SecurityProtocol)):
                hint = "Write host:port alone: kafka.security_protocol says how it is secured."
                raise SettingsInvalid(f"{named}: brokers have no {scheme}:// address", hint=hint)
            try:
                parts = urlsplit(f"//{place}")
                found.append((parts.hostname or "", parts.port or 9092))  # librdkafka's default
            except ValueError as error:
                raise SettingsInvalid(f"{named} is no list of host:port: {error}") from error
        return tuple(found)


class PostgresSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    host: str = ""  # a host name, an address, or the folder of a Unix socket
    port: Port = 5432
    dbname: str = "bdlab"
    sslmode: SslMode = "prefer"
    ca_file: str = ""
    connect_timeout_s: Seconds = 5.0


class HttpSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000  # 0 lets the system choose a free port
    allowed_hosts: str = ""  # names by which it may be called, with commas; `*` is any. Empty: those of this machine
    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    max_body_bytes: Annotated[int, Meta(ge=1024)] = 1 << 20
    max_batch: Annotated[int, Meta(ge=1)] = 1000  # inputs in one call of /predict/batch
    max_in_flight: Annotated[int, Meta(ge=1)] = 2000  # predictions that wait for the broker, before a 503
    max_connections: Annotated[int, Meta(ge=0)] = 0  # of one process; 0 is 2,048, or fewer as open files allow
    keep_alive_s: Seconds = 75.0  # how long an idle connection stays open; longer than a proxy in front keeps it
    cors_origins: str = ""  # origins, with commas, whose pages may call from a browser; `*` is any. Empty: none
    require_key: str = ""  # scopes whose routes need a key or a token, `none` or `all`. Empty: see `required_scopes`
    jwt_issuer: str = ""  # the URL of an identity provider (OpenID Connect) whose tokens are taken; empty takes none
    jwt_audience: str = ""  # what has to be among the audiences of a token
    jwt_ca_file: str = ""  # the authority of the provider's certificate, beside the system's
    tls_cert_file: str = ""
    tls_key_file: str = ""
    ca_file: str = ""  # the authority that signed the certificates of the API and the consumers, for those who ask them

    def origins(self) -> tuple[str, ...]:
        """Return the origins of `cors_origins`. Raises SettingsInvalid."""
        for each in (found := listed(self.cors_origins)):
            with suppress(InvalidInput):
                parts = http_url(each)
                if "*" not in each and each == f"{parts.scheme}://{parts.netloc}".lower():
                    continue
            if each != "*":
                form = "An origin is a scheme, a host and a port, as https://shop.example or http://localhost:3000"
                hint = f"{form}, in lower case and without a path; `*` is any."
                raise SettingsInvalid(f"http.cors_origins names {each!r}, which is no origin", hint=hint)
        return found


class ConsoleSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8001  # 0 lets the system choose a free port
    allowed_hosts: str = ""  # as `http.allowed_hosts`
    require_key: str = (
        ""  # of read, replay and promote, those that need a sign-in, `none` or `all`. Empty: none on loopback
    )
    mask_texts: bool = False  # texts of inputs are shown only once somebody asks for them
    oidc_client_id: str = ""  # signs people in at `http.jwt_issuer`, which knows the console by this id; empty: not
    oidc_scopes: str = "openid"  # asked for there, with spaces between
    public_url: str = ""  # where browsers find it, behind a proxy; empty: as they ask
    api_url: str = ""  # where `serve` answers, for Try and feedback; empty: as the settings `http` say
    tls_cert_file: str = ""
    tls_key_file: str = ""


class SinkSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    batch_size: Annotated[int, Meta(ge=1, le=100_000)] = 2000  # events in one transaction
    batch_wait_s: Seconds = 0.25  # how long a batch that is not full waits for more events
    metrics_port: Annotated[int, Meta(ge=-1, le=65535)] = -1  # -1 is no metrics; 0 lets the system choose a free port
    tls_cert_file: str = ""  # A PEM file, as of the API; `http.ca_file` is the authority for those who ask
    tls_key_file: str = ""
    urls: str = ""  # URLs of the consumers for `status`, with commas; empty is this machine and `metrics_port`


class ModelSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    path: str = ""  # a model card, a joblib file of a fitted text pipeline, or `shipped`; it switches the registry off
    registry: str = ""  # a folder, or an address such as s3://bucket/models, of versions; empty: the shipped model
    poll_s: Seconds = 5.0  # how often `serve` looks whether another version was promoted
    cache_dir: str = "~/.cache/bdlab/models"  # keeps the versions that were read from the registry


class LogSettings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"  # auto is JSON if stderr is no terminal


class Settings(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    deployment: Deployment = BDLAB  # another one than `bdlab` has other defaults of `_NAMES`
    vault: VaultSettings = VaultSettings()
    kafka: KafkaSettings = KafkaSettings()
    postgres: PostgresSettings = PostgresSettings()
    http: HttpSettings = HttpSettings()
    sink: SinkSettings = SinkSettings()
    console: ConsoleSettings = ConsoleSettings()
    model: ModelSettings = ModelSettings()
    log: LogSettings = LogSettings()
    startup_timeout_s: Annotated[float, Meta(ge=0)] = 60.0  # of a command for Vault, of a daemon for any server

    def of_console(self) -> "Settings":
        """Return the settings with those of the console in the place of the API's."""
        own = {name: getattr(self.console, name) for name in ("host", "port", "allowed_hosts", "require_key")}
        own |= {name: getattr(self.console, name) for name in ("tls_cert_file", "tls_key_file")}
        http = msgspec.structs.replace(self.http, **own, workers=1, cors_origins="")
        return msgspec.structs.replace(self, http=http)


_SECTIONS: dict[str, type[_Section]] = {
    field.name: field.type
    for field in msgspec.structs.fields(Settings)
    if isinstance(field.type, type) and issubclass(field.type, _Section)
}
#: Every setting, as ``http.port``.
FIELDS = (
    *(f"{section}.{field}" for section, kind in _SECTIONS.items() for field in kind.__struct_fields__),
    *(field for field in Settings.__struct_fields__ if field not in _SECTIONS),
)
#: The settings whose defaults are names of the deployment, each with its section.
_NAMES = {"kv_mount": "vault", "topic": "kafka", "feedback_topic": "kafka", "group": "kafka", "dbname": "postgres"}
Values = Mapping[str, Mapping[str, Any] | float | str]


class Layers(msgspec.Struct, frozen=True):
    """The layers below and above Vault's, whose values can be put between them at any time. For messages: `source`
    names the file, `lines` has the line there of each setting, and `variables` the environment variable. `defaults` are
    the caller's own."""

    file: Values
    environment: Values
    command_line: Values
    source: str
    defaults: Values = {}
    lines: Mapping[str, int] = {}
    variables: Mapping[str, str] = {}

    def settings(self, vault: Values | None = None) -> Settings:
        """Return the settings, with the values `vault` in their place. Raises SettingsInvalid."""
        merged: dict[str, Any] = {}
        for section, name, value, _ in self._values(vault):
            if name and isinstance(merged.setdefault(section, {}), dict):
                merged[section][name] = value
            elif not name and (value != {} or section not in merged):
                merged[section] = value
        try:
            found = msgspec.convert(merged, Settings, strict=False, dec_hook=_decode)
            for field, section in _NAMES.items():
                bdlab = getattr(getattr(Settings(), section), field)
                own = found.deployment.own(bdlab, "_" if section == "postgres" else "-")
                merged.setdefault(section, {}).setdefault(field, own)
            return msgspec.convert(merged, Settings, strict=False, dec_hook=_decode)
        except msgspec.ValidationError as error:
            field, reason = explained(error)
            hint = "The README's table of settings lists every setting with its type and default."
            place = self.origins(vault).get(field, "the settings")
            raise SettingsInvalid(f"setting {field or '?'} from {place}: {reason}", hint=hint) from None

    def impatient(self) -> "Layers":
        """Return the layers with short time-outs, for one who looks at servers that may hang."""
        now, given = self.settings(), cast("dict[str, Any]", self.command_line)
        vault = {**given.get("vault", {}), "timeout_s": min(2.0, now.vault.timeout_s)}
        postgres = {**given.get("postgres", {}), "connect_timeout_s": min(2.0, now.postgres.connect_timeout_s)}
        return msgspec.structs.replace(self, command_line={**given, "vault": vault, "postgres": postgres})

    def _values(self, vault: Values | None) -> Iterator[tuple[str, str, Any, str]]:
        """Yield section, name, value, and the place in its layer, of each setting, the layers from the lowest."""
        for layer, place, each in (
            (self.defaults, "default", {}),
            (self.file, self.source, {name: f"{self.source}, line {line}" for name, line in self.lines.items()}),
            (vault or {}, "Vault", {}),
            (self.environment, "", {name: f"the environment ({used})" for name, used in self.variables.items()}),
            (self.command_line, "the command line", {}),
        ):
            for section, inner in layer.items():
                for name, value in inner.items() if inner and isinstance(inner, Mapping) else (("", inner),):
                    yield section, name, value, each.get(f"{section}.{name}".rstrip("."), place)

    def origins(self, vault: Values | None = None) -> dict[str, str]:
        """Return where each setting that is no default is from; for messages, also that of each section's first."""
        found: dict[str, str] = {}
        for section, name, _, place in self._values(vault):
            found.setdefault(section, place)
            found[f"{section}.{name}".rstrip(".")] = place
        return found

    def faults(self, vault: Values | None = None) -> list[SettingsInvalid]:
        """Return what is wrong in any layer, each value by itself."""
        found = []
        for section, name, value, place in self._values(vault):
            try:
                Layers({}, {}, {section: {name: value} if name else value}, source="").settings()
            except SettingsInvalid as error:
                found.append(SettingsInvalid(error.message.replace("the command line", place), hint=error.hint))
        return found


def _decode(kind: type, value: Any) -> Any:
    return kind(str(value))  # msgspec adds the field's name to a ValueError


def explained(error: msgspec.ValidationError) -> tuple[str, str]:
    """Return the setting that is wrong, as ``http.port``, and the reason."""
    reason, _, path = str(error).partition(" - at `$")
    field = path.strip("`").lstrip(".")
    if "unknown field" in reason:
        unknown = reason.removeprefix("Object contains unknown field ").strip("`")
        field = f"{field}.{unknown}".lstrip(".")
        reason = "there is no such setting" + near(field, (*FIELDS, *_SECTIONS))
    return field, f"{reason[:1].lower()}{reason[1:]}"


def twin(field: str) -> str:
    """Return the environment variable of a setting."""
    return "BDLAB_" + ("startup_timeout" if field == "startup_timeout_s" else field.replace(".", "_")).upper()


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that `environ` has, each with its variable there. An empty one says nothing."""
    named = {name: alias for alias, name in _ALIASES.items() if environ.get(alias)}
    named |= {name: name for name in environ if environ[name]}
    return {field: named[name] for field in FIELDS if (name := twin(field)) in named}


def environment_layer(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the values in `environ`: ``BDLAB_HTTP_PORT=80`` is ``{"http": {"port": "80"}}``. Other variables that
    start with ``BDLAB_`` belong to command-line options."""
    values: dict[str, Any] = {}
    for field, variable in variables(environ).items():
        section, _, name = field.rpartition(".")
        (values.setdefault(section, {}) if section else values)[name] = environ[variable]
    return values


def load(
    *,
    config: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    command_line: Values | None = None,
    defaults: Values | None = None,
    checked: bool = True,
) -> Layers:
    """Read the layers below and above Vault's. `defaults` are the caller's own, below the file's values. `config` is
    the TOML file to read, which has to exist; without it ``BDLAB_CONFIG``, or ``./bdlab.toml`` if there is one. Raises
    SettingsInvalid for an unknown setting or a wrong value, unless not `checked`, and BdlabError for a ``./bdlab.toml``
    that somebody else may have written."""
    chosen = config or environ.get("BDLAB_CONFIG")
    path, text, file = Path(chosen or "bdlab.toml"), "", dict[str, Any]()
    try:
        if chosen or path.is_file():
            if not chosen:
                require_own(path, option="--config")
            text = path.read_text("utf-8")
            file = tomllib.loads(text)
    except OSError as error:
        hint = "Name an existing file with --config or BDLAB_CONFIG, or leave both out."
        raise SettingsInvalid(f"the settings file {path} cannot be read: {error.strerror}", hint=hint) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsInvalid(f"the settings file {path} is not valid TOML: {error}") from error
    above = environment_layer(environ), command_line or {}
    layers = Layers(file, *above, str(path), defaults or {}, lines_of(text), variables(environ))
    if checked:
        layers.settings()
    return layers
