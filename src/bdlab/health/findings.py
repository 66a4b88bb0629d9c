"""What follows from the facts of a deployment: findings, each with its gravity and what to do about it.

The words are in findings.json: name -> gravity, message and hint, with the values in braces."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import msgspec

from bdlab.access import required_scopes
from bdlab.errors import BdlabError, SettingsInvalid
from bdlab.health import CheckResult
from bdlab.hosts import is_this_machine
from bdlab.settings import FIELDS, SHIPPED_MODEL, Layers, ProxyUrl, Settings, Values, twin
from bdlab.values import near

Gravity = Literal["critical", "warning", "notice"]
#: Of the first set-up (.env.example), of compose, and of no option.
_OTHER_VARIABLES = ("BDLAB_API_KEY", "BDLAB_KAFKA_HOME", "BDLAB_PUBLISH", "BDLAB_VAULT_TOKEN")
_GRAVITY: Mapping[str, Gravity] = {"unhealthy": "critical", "degraded": "warning"}
_WORDS = msgspec.json.decode(Path(__file__).with_suffix(".json").read_bytes(), type=dict[str, tuple[Gravity, str, str]])


class Finding(msgspec.Struct, frozen=True):
    """`name` says what it is about, such as a check or a setting; `hint` what to do."""

    gravity: Gravity
    name: str
    message: str
    hint: str = ""


def by_gravity(found: Iterable[Finding]) -> list[Finding]:
    """Return the gravest first."""
    return sorted(found, key=lambda each: (get_args(Gravity).index(each.gravity), each.name))


class Share(msgspec.Struct, frozen=True):
    """How much of something is in use."""

    used: int
    limit: int
    unit: Literal["bytes", "files", "connections"]


class TopicFacts(msgspec.Struct, kw_only=True):
    """What was seen of a topic and its group. `members` are its consumers with their partitions. `lag` is in events,
    and changed by `lag_per_s` events a second."""

    partitions: int = 0
    members: list[tuple[str, list[int]]] | None = None
    lag: int | None = None
    lag_per_s: float | None = None


class Facts(TopicFacts, kw_only=True):
    """What was seen, of the predictions' topic and all else; what was not stays empty. `clocks_ms` is how far each
    server's clock is ahead of this machine's. `dead_letters` are the newest open ones, by their positions."""

    feedback: TopicFacts = msgspec.field(default_factory=TopicFacts)
    versions: dict[str, str] = {}
    settings: list[dict[str, Any]] = []
    clocks_ms: dict[str, int] = {}
    shares: dict[str, Share] = {}
    dead_letters: dict[str, str] = {}
    log_errors: dict[str, list[str]] = {}


class Diagnosis(msgspec.Struct, frozen=True):
    """The answer of `doctor`: findings, the gravest first; what they follow from; why something was not looked at."""

    state: Literal["healthy", "unhealthy"]
    made_at: datetime
    findings: list[Finding]
    checks: tuple[CheckResult, ...]
    facts: Facts
    not_looked_at: dict[str, str]


def masked(text: str) -> str:
    """Return a message up to what it quotes, which may be somebody's text."""
    return re.sub(r"\s*[\"'`({].*", " ***", text, flags=re.DOTALL)


def of_facts(facts: Facts, checks: Iterable[CheckResult]) -> Iterator[Finding]:
    """Yield what follows from what was seen, and from checks that are not healthy."""
    for check in checks:
        if gravity := _GRAVITY.get(check.state):
            yield Finding(gravity, check.name, check.message, check.hint)
        if check.name == "postgres.dead_letters" and check.detail.get("open"):
            yield worded("dead_letters", **check.detail)
    for server, ms in facts.clocks_ms.items():
        if abs(ms) > 2_000:
            yield worded("clock", grave=abs(ms) > 60_000, server=server, ms=ms)
    for what, share in facts.shares.items():
        if share.used > share.limit * 0.9:
            used = share.used / share.limit
            yield worded(f"share.{share.unit}", grave=used > 0.97, what=what, used=used, limit=share.limit)
    yield from _of_topic(facts)
    for found in _of_topic(facts.feedback):
        yield Finding(found.gravity, f"feedback.{found.name}", f"feedback: {found.message}", found.hint)
    if facts.log_errors:
        yield worded("log_errors", logs=", ".join(facts.log_errors))


def _of_topic(facts: TopicFacts) -> Iterator[Finding]:
    events, rate = facts.lag or 0, facts.lag_per_s
    if facts.members == []:
        yield worded("group.empty", grave=events > 0, events=events)
    elif facts.members and (lone := set(range(facts.partitions)).difference(*(own for _, own in facts.members))):
        yield worded("group.partitions", partitions=", ".join(map(str, sorted(lone))))
    if rate is not None and events >= 1000:  # a smaller lag comes and goes within a second
        rule = "lag.growing" if rate > 0 else "lag.shrinking" if rate < 0 else "lag.standing"
        yield worded(rule, events=events, rate=rate, left_s=-events / rate if rate else 0)


def worded(name: str, *, grave: bool = False, **values: Any) -> Finding:
    """Return the finding of findings.json, which is critical if it is that `grave` here."""
    gravity, message, hint = _WORDS[name]
    return Finding("critical" if grave else gravity, name, message.format(**values), hint)


def settings_findings(
    layers: Layers, vault: Values, problem: str, environ: Mapping[str, str], options: Collection[str]
) -> list[Finding]:
    """Return all that is wrong with the settings. `problem` says why Vault's layer, `vault`, could not be read.
    `options` are the environment twins of the commands' options."""
    known = {*map(twin, FIELDS), *options, *_OTHER_VARIABLES}
    found = [
        Finding("critical", name, f"no setting and no option has this variable{near(name, known)}")
        for name in environ
        if name.startswith("BDLAB_") and name not in known
    ]
    if problem:  # a wrong value in Vault is one of the reasons
        gravity: Gravity = "critical" if problem.startswith("setting ") else "notice"
        found.append(Finding(gravity, "vault", f"Vault's layer could not be read: {problem}", "See `bdlab status`."))
    faults: list[BdlabError] = [*layers.faults(vault)]
    if not faults:
        settings = layers.settings(vault)
        scopes = (
            partial(required_scopes, settings.http),
            partial(required_scopes, settings.of_console().http, "console"),
        )
        for reads in (settings.kafka.servers, settings.http.origins, *scopes):
            try:
                reads()
            except SettingsInvalid as error:
                faults.append(error)
        found += [*of_settings(settings), *_unreadable(settings)]
    return by_gravity([*found, *(Finding("critical", "settings", each.message, each.hint) for each in faults)])


def _unreadable(settings: Settings) -> Iterator[Finding]:
    for name in FIELDS:
        path = attrgetter(name)(settings)
        if (name.endswith("_file") or name == "model.path") and path not in ("", SHIPPED_MODEL):
            try:
                Path(path).expanduser().open("rb").close()
            except OSError as error:
                yield worded("file", setting=name, path=path, why=error.strerror)
    if not settings.vault.identities.is_dir():
        yield worded("vault.identity_dir", path=settings.vault.identities)


def of_settings(settings: Settings, *, lease_s: float | None = None) -> Iterator[Finding]:
    """Yield what does not fit together; a database login is granted for `lease_s` seconds, if that is known."""
    vault, kafka, http, sink = settings.vault, settings.kafka, settings.http, settings.sink
    postgres, address = settings.postgres, urlsplit(vault.address)
    rules = {
        # The broker's group.min.session.timeout.ms and group.max.session.timeout.ms.
        "kafka.session_timeout_s": not 6 <= kafka.session_timeout_s <= 1800,
        # A graceful stop waits for what is in flight; 30 s is Kubernetes' terminationGracePeriodSeconds.
        "kafka.delivery_timeout_s": kafka.delivery_timeout_s + 1 >= 30,
        "http.keep_alive_s": http.keep_alive_s <= 60 and not is_this_machine(http.host),
        "http.max_batch": http.max_batch > http.max_in_flight,
        "http.max_body_bytes": http.max_body_bytes > 8 << 20,
        "http.tls_key_file": bool(http.tls_cert_file) != bool(http.tls_key_file),
        "sink.tls_key_file": bool(sink.tls_cert_file) != bool(sink.tls_key_file),
        "startup_timeout_s": 0 < settings.startup_timeout_s < vault.timeout_s,
        "vault.poll_s": vault.poll_s > 5,
        # It is renewed when a third of it is left.
        "vault.timeout_s": lease_s is not None and lease_s / 3 < vault.timeout_s,
        "postgres.ca_file": postgres.sslmode.startswith("verify") and not postgres.ca_file,
        "vault.address": address.scheme == "http" and not is_this_machine(address.hostname or ""),
        "kafka.security_protocol": (kafka.security_protocol, kafka.sasl_mechanism) == ("SASL_PLAINTEXT", "PLAIN"),
    }
    values = msgspec.structs.asdict(settings) | {"lease_s": lease_s}
    return (worded(name, **values) for name, applies in rules.items() if applies)


def of_layers(layers: Layers, vault: Values) -> list[dict[str, Any]]:
    """Return each setting as JSON has it: name, value, and the layer that it is `from`. No secret is in it."""
    settings, origins = layers.settings(vault), layers.origins(vault)
    return [
        {"name": name, "value": _shown(attrgetter(name)(settings)), "from": origins.get(name, "default")}
        for name in FIELDS
    ]


def _shown(value: Any) -> int | float | str:
    if isinstance(value, int | float):
        return value
    return "" if value == ProxyUrl("") else re.sub("//[^/@]*@", "//***@", str(value))  # a proxy's URL is a secret
