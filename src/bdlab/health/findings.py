"""What follows from the facts of a deployment: findings, each with its gravity and what to do about it.

The words are in findings.json: name -> gravity, message and hint, with the values in braces.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import msgspec

from bdlab.errors import BdlabError, SettingsInvalid
from bdlab.hosts import LOOPBACK
from bdlab.settings import FIELDS, SHIPPED_MODEL, Layers, Settings, Values, twin
from bdlab.values import near

Gravity = Literal["critical", "warning", "notice"]

#: Of the first set-up (.env.example), of compose, and of no option.
_OTHER_VARIABLES = ("BDLAB_KAFKA_HOME", "BDLAB_PUBLISH", "BDLAB_VAULT_TOKEN")
_HERE = (*LOOPBACK, "::1")
_WORDS: Mapping[str, tuple[Gravity, str, str]] = msgspec.json.decode(
    Path(__file__).with_suffix(".json").read_bytes(), type=dict[str, tuple[Gravity, str, str]]
)


class Finding(msgspec.Struct, frozen=True):
    """`name` says what it is about, such as a check or a setting; `hint` what to do."""

    gravity: Gravity
    name: str
    message: str
    hint: str = ""


def by_gravity(found: Iterable[Finding]) -> list[Finding]:
    """Return the gravest first."""
    return sorted(found, key=lambda each: (get_args(Gravity).index(each.gravity), each.name))


def worded(name: str, **values: Any) -> Finding:
    """Return the finding of findings.json."""
    gravity, message, hint = _WORDS[name]
    return Finding(gravity, name, message.format(**values), hint)


def settings_findings(
    layers: Layers, vault: Values, problem: str, environ: Mapping[str, str], options: Collection[str]
) -> list[Finding]:
    """Return all that is wrong with the settings. `problem` says why Vault's layer, `vault`, could not be read.

    `options` are the environment twins of the commands' options.
    """
    known = {*map(twin, FIELDS), *options, *_OTHER_VARIABLES}
    found = [
        Finding(
            "critical", name, f"no setting and no option has this variable{near(name, known)}", "Correct or unset it."
        )
        for name in environ
        if name.startswith("BDLAB_") and name not in known
    ]
    if problem:  # a wrong value in Vault is one of the reasons
        gravity: Gravity = "critical" if problem.startswith("setting ") else "notice"
        found.append(Finding(gravity, "vault", f"Vault's layer could not be read: {problem}", "See `bdlab status`."))
    faults: list[BdlabError] = [*layers.faults(vault)]
    if not faults:
        settings = layers.settings(vault)
        for reads in (settings.kafka.servers, settings.http.origins):
            try:
                reads()
            except SettingsInvalid as error:
                faults.append(error)
        found += [*of_settings(settings), *_unreadable(settings)]
    return by_gravity([*found, *(Finding("critical", "settings", each.message, each.hint) for each in faults)])


def _unreadable(settings: Settings) -> Iterator[Finding]:
    for name in FIELDS:
        section, _, field = name.rpartition(".")
        path = getattr(getattr(settings, section, None), field, "")
        if (field.endswith("_file") or name == "model.path") and path and path != SHIPPED_MODEL:
            try:
                Path(path).expanduser().open("rb").close()
            except OSError as error:
                yield worded("file", setting=name, path=path, why=error.strerror)
    if not settings.vault.identities.is_dir():
        yield worded("vault.identity_dir", path=settings.vault.identities)


def of_settings(settings: Settings, *, lease_s: float | None = None) -> Iterator[Finding]:
    """Yield what does not fit together; a database login is granted for `lease_s` seconds, if that is known."""
    vault, kafka, postgres, http, sink = (
        settings.vault,
        settings.kafka,
        settings.postgres,
        settings.http,
        settings.sink,
    )
    address = urlsplit(vault.address)
    rules = {
        # The broker's group.min.session.timeout.ms and group.max.session.timeout.ms.
        "kafka.session_timeout_s": not 6 <= kafka.session_timeout_s <= 1800,
        # A graceful stop waits for what is in flight; 30 s is Kubernetes' terminationGracePeriodSeconds.
        "kafka.delivery_timeout_s": kafka.delivery_timeout_s + 1 >= 30,
        "http.keep_alive_s": http.keep_alive_s <= 60 and http.host not in _HERE,
        "http.max_batch": http.max_batch > http.max_in_flight,
        "http.max_body_bytes": http.max_body_bytes > 8 << 20,
        "http.tls_key_file": bool(http.tls_cert_file) != bool(http.tls_key_file),
        "sink.tls_key_file": bool(sink.tls_cert_file) != bool(sink.tls_key_file),
        "startup_timeout_s": 0 < settings.startup_timeout_s < vault.timeout_s,
        "vault.poll_s": vault.poll_s > 5,
        # It is renewed when a third of it is left.
        "vault.timeout_s": lease_s is not None and lease_s / 3 < vault.timeout_s,
        "postgres.ca_file": postgres.sslmode.startswith("verify") and not postgres.ca_file,
        "vault.address": address.scheme == "http" and address.hostname not in _HERE,
        "kafka.security_protocol": (kafka.security_protocol, kafka.sasl_mechanism) == ("SASL_PLAINTEXT", "PLAIN"),
    }
    values = msgspec.structs.asdict(settings) | {"lease_s": lease_s}
    return (worded(name, **values) for name, applies in rules.items() if applies)
