"""What follows from settings and facts: each rule in a case that it is for, and in one that it is not for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bdlab.health import findings
from bdlab.health.findings import Finding, by_gravity, of_settings
from bdlab.kafka.admin import TOPIC_MAX_MESSAGE_BYTES
from bdlab.settings import Settings
from bdlab.vault.leases import Ttl

WORDS = json.loads(Path(findings.__file__).with_suffix(".json").read_text("utf-8"))


def settings(**sections: Any) -> Settings:
    return msgspec.convert(sections, Settings)


def names(found: Any) -> list[str]:
    return [each.name for each in found]


def test_the_defaults_fit_together() -> None:
    assert names(of_settings(Settings(), lease_s=3600)) == []


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("kafka.session_timeout_s", {"session_timeout_s": 5.9}, {"session_timeout_s": 6.0}),
        ("kafka.session_timeout_s", {"session_timeout_s": 1801.0}, {"session_timeout_s": 1800.0}),
        ("kafka.delivery_timeout_s", {"delivery_timeout_s": 29.0}, {"delivery_timeout_s": 28.0}),
        ("http.keep_alive_s", {"host": "::", "keep_alive_s": 60.0}, {"host": "::", "keep_alive_s": 61.0}),
        ("http.keep_alive_s", {"host": "::", "keep_alive_s": 5.0}, {"host": "::1", "keep_alive_s": 5.0}),
        ("http.max_batch", {"max_batch": 2001}, {"max_batch": 2000}),
        (
            "http.max_body_bytes",
            {"max_body_bytes": TOPIC_MAX_MESSAGE_BYTES + 1},
            {"max_body_bytes": TOPIC_MAX_MESSAGE_BYTES},
        ),
        ("http.tls_key_file", {"tls_cert_file": "a"}, {"tls_cert_file": "a", "tls_key_file": "a"}),
        ("sink.tls_key_file", {"tls_key_file": "a"}, {"tls_cert_file": "a", "tls_key_file": "a"}),
        ("startup_timeout_s", 9.0, 10.0),
        ("startup_timeout_s", 1.0, 0.0),
        ("vault.poll_s", {"poll_s": 5.5}, {"poll_s": 5.0}),
        ("vault.address", {"address": "http://vault:8200"}, {"address": "https://vault:8200"}),
        ("vault.address", {"address": "http://10.0.0.1:8200"}, {"address": "http://[::1]:8200"}),
        ("postgres.ca_file", {"sslmode": "verify-full"}, {"sslmode": "verify-full", "ca_file": "a"}),
        ("postgres.ca_file", {"sslmode": "verify-ca"}, {"sslmode": "require"}),
        (
            "kafka.security_protocol",
            {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"},
            {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN"},
        ),
    ],
)
def test_what_does_not_fit_together_is_named(name: str, wrong: Any, right: Any) -> None:
    section = name.partition(".")[0]
    assert names(of_settings(settings(**{section: wrong}))) == [name]
    assert names(of_settings(settings(**{section: right}))) == []


def test_a_login_is_renewed_in_time_if_vault_hangs_for_one_request() -> None:
    granted = Ttl.granted(0, 29)
    assert granted.ttl_s - granted.due_at < Settings().vault.timeout_s
    assert names(of_settings(Settings(), lease_s=29)) == ["vault.timeout_s"]
    assert names(of_settings(Settings(), lease_s=30)) == []


def test_the_gravest_finding_comes_first() -> None:
    found = [
        Finding("notice", "a", ""),
        Finding("critical", "c", ""),
        Finding("warning", "b", ""),
        Finding("notice", "0", ""),
    ]
    assert names(by_gravity(found)) == ["c", "b", "0", "a"]


@pytest.mark.parametrize("name", WORDS)
def test_each_finding_says_what_to_do(name: str) -> None:
    gravity, message, hint = WORDS[name]
    assert gravity in ("critical", "warning", "notice")
    assert message
    assert hint.endswith(".")
