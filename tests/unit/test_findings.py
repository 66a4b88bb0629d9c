"""What follows from settings and facts: each rule in a case that it is for, and in one that it is not for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bdlab.health import CheckResult, findings
from bdlab.health.findings import Facts, Finding, Share, TopicFacts, by_gravity, masked, of_facts, of_settings
from bdlab.kafka.admin import TOPIC_MAX_MESSAGE_BYTES
from bdlab.settings import Settings
from bdlab.vault.logins import Ttl
from bdlab.wiring.doctor import of_log

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


ALL = [("one", [0, 1]), ("two", [2])]


def share(percent: int) -> dict[str, Share]:
    return {"disk": Share(percent, 100, "bytes")}


@pytest.mark.parametrize(
    ("facts", "name", "gravity"),
    [
        ({"clocks_ms": {"Vault": 2_001}}, "clock", "warning"),
        ({"clocks_ms": {"Vault": -60_000}}, "clock", "warning"),
        ({"clocks_ms": {"Vault": -60_001, "the API": 2_000}}, "clock", "critical"),
        ({"clocks_ms": {"Vault": 2_000, "PostgreSQL": -2_000}}, "", ""),
        ({"shares": share(90)}, "", ""),
        ({"shares": share(91)}, "share.bytes", "warning"),
        ({"shares": share(97)}, "share.bytes", "warning"),
        ({"shares": share(98)}, "share.bytes", "critical"),
        ({"members": [], "lag": 1}, "group.empty", "critical"),
        ({"members": [], "lag": 0}, "group.empty", "warning"),
        ({"members": ALL, "partitions": 3}, "", ""),
        ({"members": ALL, "partitions": 5}, "group.partitions", "warning"),
        ({"members": None, "lag": 0}, "", ""),
        ({"lag": 1000, "lag_per_s": 0.5}, "lag.growing", "warning"),
        ({"lag": 1000, "lag_per_s": -0.5}, "lag.shrinking", "notice"),
        ({"lag": 1000, "lag_per_s": 0.0}, "lag.standing", "warning"),
        ({"lag": 1000}, "", ""),
        ({"feedback": TopicFacts(members=[], lag=1)}, "feedback.group.empty", "critical"),
        ({"feedback": TopicFacts(lag=1000, lag_per_s=0.0)}, "feedback.lag.standing", "warning"),
        ({"lag": 999, "lag_per_s": 50.0}, "", ""),
        ({"log_errors": {"serve.log": ["..."]}}, "log_errors", "notice"),
    ],
)
def test_what_follows_from_the_facts(facts: dict[str, Any], name: str, gravity: str) -> None:
    found = list(of_facts(Facts(**facts), ()))
    assert [(each.name, each.gravity) for each in found] == ([(name, gravity)] if name else [])


def test_a_lag_that_shrinks_says_when_it_is_gone() -> None:
    (found,) = of_facts(Facts(lag=3000, lag_per_s=-50.0), ())
    assert "3000 events, -50 events/s, none in about 60 s" in found.message


def test_checks_that_are_not_healthy_are_findings() -> None:
    expired = CheckResult("api.certificate", "unhealthy", "not accepted: certificate has expired", "Renew it.")
    late = CheckResult("vault.certificate", "degraded", "good until tomorrow", "Look why.")
    letters = CheckResult("postgres.dead_letters", "healthy", "2 open", "", {"open": 2})
    fine = CheckResult("log", "healthy", "the recorded one")
    unknown = CheckResult("consumer", "unknown", "no address is known")
    found = list(of_facts(Facts(), (late, fine, letters, unknown, expired)))
    assert [(each.name, each.gravity) for each in by_gravity(found)] == [
        ("api.certificate", "critical"),
        ("vault.certificate", "warning"),
        ("dead_letters", "notice"),
    ]


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("field 'my name' stands twice", "field ***"),
        ('invalid input syntax for type integer: "mine"', "invalid input syntax for type integer: ***"),
        ("Key (id)=(mine) exists", "Key ***"),
        ("the record has no value", "the record has no value"),
    ],
)
def test_what_a_message_quotes_is_masked(message: str, shown: str) -> None:
    assert masked(message) == shown


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            '{"event": "refused", "reason": "mine", "level": "error", "timestamp": "2026-01-01T00:00:00Z"}',
            "2026-01-01T00:00:00Z refused",
        ),
        ('{"event": "dead letter", "reason": "mine", "level": "warning", "timestamp": "2026-01-01T00:00:00Z"}', ""),
        (
            '2026-01-01 00:00:00 UTC [7] ERROR:  invalid input: "mine"',
            "2026-01-01 00:00:00 UTC [7] ERROR:  invalid input: ***",
        ),
        ("2026-01-01 00:00:00 UTC [7] STATEMENT:  SELECT 'mine'", ""),
        ("[2026-01-01 00:00:00] ERROR [broker] it (mine) ends", "[2026-01-01 00:00:00] ERROR [broker] it ***"),
        (
            '2026-01-01T00:00:00Z [ERROR] core: it ends: error="mine"',
            "2026-01-01T00:00:00Z [ERROR] core: it ends: error= ***",
        ),
        ("2026-01-01T00:00:00Z [INFO]  core: no error", ""),
    ],
)
def test_a_line_of_a_log_is_shown_without_what_it_quotes(line: str, shown: str) -> None:
    assert of_log(line) == shown


@given(before=st.text("ab :", max_size=9), quote=st.sampled_from("\"'`({"), mine=st.text(max_size=20))
def test_nothing_after_a_quote_is_shown(before: str, quote: str, mine: str) -> None:
    assert masked(f"{before}{quote}{mine}") == f"{before.rstrip()} ***"


@pytest.mark.parametrize("name", WORDS)
def test_each_finding_says_what_to_do(name: str) -> None:
    gravity, message, hint = WORDS[name]
    assert gravity in ("critical", "warning", "notice")
    assert message
    assert hint.endswith(".")
