"""Waiting and trying again: the pauses, the end of the time, and how many lines an outage is."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from bdlab.errors import BdlabError, BrokerUnavailable, DatabaseUnavailable, PolicyDenied, VaultUnavailable
from bdlab.retry import Backoff, Outage, tries, wait_for

A = VaultUnavailable("unreachable", hint="Start it.")
B = VaultUnavailable("sealed", hint="Unseal it.")
C = DatabaseUnavailable("closed by the server")
KINDS = (A, B, C, BrokerUnavailable("no broker answers"))


class Scripted:
    """A call that raises or returns what its script says, an entry a call; the last one for good."""

    def __init__(self, *entries: BdlabError | str) -> None:
        self._entries = list(entries)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        entry = self._entries.pop(0) if len(self._entries) > 1 else self._entries[0]
        if isinstance(entry, BdlabError):
            raise entry
        return entry


@given(first_s=st.floats(1e-3, 10), factor=st.floats(1, 1000), count=st.integers(1, 30))
def test_pauses_double_up_to_the_longest_with_jitter_of_at_most_a_half(
    first_s: float, factor: float, count: int
) -> None:
    longest_s = first_s * factor
    backoff = Backoff(first_s, longest_s)
    for _ in range(2):
        for number in range(count):
            full_s = min(longest_s, first_s * 2**number)
            assert full_s / 2 <= backoff.next_s() <= full_s
        backoff.reset()


def test_two_clients_do_not_come_back_at_the_same_moments() -> None:
    one, other = Backoff(1, 60), Backoff(1, 60)
    assert [one.next_s() for _ in range(10)] != [other.next_s() for _ in range(10)]


@given(errors=st.lists(st.sampled_from(KINDS)), by_hint=st.booleans())
def test_an_outage_is_a_line_for_each_kind_of_error_and_one_when_it_is_over(
    errors: list[BdlabError], by_hint: bool
) -> None:
    outage = Outage("does not work", "works again", by_hint=by_hint, service="test")
    with capture_logs() as lines:
        logged = [outage.failed(error) for error in errors]
        outage.over()
        outage.over()
    first = {(type(error), error.hint if by_hint else ""): error.message for error in reversed(errors)}
    kinds = [error.message for error in errors if error.message in first.values()]
    kinds = list(dict.fromkeys(kinds))
    assert [line["problem"] for line in lines[:-1]] == kinds
    assert [line["event"] for line in lines] == ["does not work"] * len(kinds) + ["works again"] * bool(kinds)
    assert sum(logged) == len(kinds)
    assert all(line["service"] == "test" for line in lines)


def test_what_passes_soon_is_not_logged_unless_somebody_has_to_act() -> None:
    outage = Outage("does not work", "works again", quiet_s=60)
    with capture_logs() as lines:
        assert not outage.failed(A)
        outage.over()
        assert lines == []
        assert not outage.failed(A)
        assert outage.failed(PolicyDenied("forbidden"), at_once=True)
        outage.over()
    assert [line["event"] for line in lines] == ["does not work", "works again"]


@given(timeout_s=st.floats(0, 0.05))
def test_there_is_a_first_try_and_a_last_one_when_the_time_is_over(timeout_s: float) -> None:
    began = time.monotonic()
    left_s = list(tries(timeout_s, first_s=0.01))
    assert time.monotonic() - began >= timeout_s
    assert left_s[0] == timeout_s
    assert left_s == sorted(left_s, reverse=True)
    assert len(left_s) == 1 or left_s[-1] < 0.001


def test_a_stop_ends_the_tries() -> None:
    stop = threading.Event()
    stop.set()
    assert len(list(tries(3600, stop=stop))) == 1


def test_a_result_comes_as_soon_as_there_is_one_and_its_wait_is_told_once_a_kind() -> None:
    attempt = Scripted(*[A, B] * 3, "result")
    with capture_logs() as lines:
        found = wait_for("Vault", attempt, timeout_s=60, service="x")
    assert found == "result"
    events = [line["event"] for line in lines]
    assert events == ["waiting for Vault", "waiting for Vault", "Vault is there"]
    assert {line["service"] for line in lines} == {"x"}


def test_a_wait_that_is_over_says_how_long_it_was_and_keeps_the_advice() -> None:
    attempt = Scripted(A)
    with pytest.raises(VaultUnavailable, match=r"^unreachable \(waited 1 s\)$") as raised:
        wait_for("Vault", attempt, timeout_s=0.6)
    assert raised.value.hint == A.hint
    assert raised.value.__cause__ is A
    assert attempt.calls > 2


def test_what_waiting_cannot_help_is_raised_at_once() -> None:
    attempt = Scripted(PolicyDenied("forbidden"))
    with pytest.raises(PolicyDenied, match=r"^forbidden$"):
        wait_for("Vault", attempt, timeout_s=3600)
    with pytest.raises(VaultUnavailable, match=r"^sealed$"):
        wait_for("Vault", Scripted(A, B), timeout_s=3600, errors=lambda error: error is A)
    assert attempt.calls == 1


def test_a_stop_ends_a_wait() -> None:
    stop, attempt = threading.Event(), Scripted(A)
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(VaultUnavailable, match=r"waited \d s"):
        wait_for("Vault", attempt, timeout_s=3600, stop=stop)
