"""The hops of an event, and what is said of those that are not known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bdlab.errors import InvalidInput
from bdlab.events import Origin, Record, encode, headers
from bdlab.hops import HOPS, Wanted, hops, made_at, parse, trace_of
from tests.samples import at, event

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("3/1207", Wanted(partition=3, offset=1207)),
        ("ab" * 16, Wanted(trace_id="ab" * 16)),
        (f"00-{'ab' * 16}-{'1' * 16}-01", Wanted(trace_id="ab" * 16)),
        ("01A21A02-d0c8-74a1-aa32-777ae957e0d3", Wanted(id="01a21a02-d0c8-74a1-aa32-777ae957e0d3")),
    ],
)
def test_what_is_looked_for_is_named_in_four_ways(written: str, wanted: Wanted) -> None:
    assert parse(written) == wanted


@pytest.mark.parametrize("written", ["", "3/", "/7", "-1/7", "3/12 07", "3" * 10 + "/1", "x", "ab" * 15, "00-ab-cd-01"])
def test_anything_else_is_refused(written: str) -> None:
    with pytest.raises(InvalidInput, match="no prediction's id"):
        parse(written)


@given(st.dictionaries(st.sampled_from(HOPS), st.integers(-10_000_000, 10_000_000), min_size=1))
def test_a_hop_has_its_moment_or_a_note_and_the_ms_since_the_known_one_before(moments: dict[str, int]) -> None:
    times = {name: NOON + timedelta(microseconds=moment) for name, moment in moments.items()}
    found = hops(times, {name: f"why {name}" for name in HOPS})
    assert [(hop.name, hop.at) for hop in found] == [(name, times.get(name)) for name in HOPS]
    assert {hop.note for hop in found if hop.at is None} == {f"why {name}" for name in HOPS if name not in times}
    there = [hop for hop in found if hop.at is not None]
    assert there[0].ms is None
    for one, other in pairwise(there):
        real = (moments[other.name] - moments[one.name]) / 1000
        assert other.ms == (0 if other.name == "appended" and -1 < real < 0 else real)
        assert ("clocks" in other.note) == ((other.ms or 0) < 0)


def test_the_row_counts_before_the_record_and_the_record_tells_the_rest() -> None:
    sent, name = event(), f"00-{'ab' * 16}-{'1' * 16}-01"
    told = headers(sent, source="/bdlab/serve", traceparent=name, origin=Origin(received_at=NOON, key_name="shop"))
    record = Record(at(7), *encode(sent), told, 1769860800500)
    found = trace_of({}, record, outcome="on the topic", position=record.position, ahead=3)
    assert (found.id, found.model, found.contract, found.source) == (str(sent.id), "reviews@1.0.0", 1, "serve")
    assert (found.key_name, found.trace_id, found.ahead) == ("shop", "ab" * 16, 3)
    times = {hop.name: hop.at for hop in found.hops}
    assert times == {
        "received": NOON, "scored": sent.created_at, "published": sent.timestamp,
        "appended": NOON + timedelta(milliseconds=500), "read": None, "stored": None,
    }  # fmt: skip
    assert {hop.note for hop in found.hops if hop.at is None} == {"not there yet"}
    row = {"id": sent.id, "model": "other@2", "source": "demo", "received_at": NOON - timedelta(1), "stored_at": NOON}
    stored = trace_of(row, record, outcome="stored", position=record.position)
    assert (stored.model, stored.source, stored.hops[0].at, stored.hops[-1].at) == (
        "other@2", "demo", NOON - timedelta(1), NOON,
    )  # fmt: skip


def test_why_something_is_not_known_is_said() -> None:
    sent = event()
    plain = Record(at(0), *encode(sent), headers(sent, source="/bdlab/predict", traceparent=""))
    notes = [hop.note for hop in trace_of({}, plain, outcome="on the topic").hops]
    assert notes[0] == "it came through `predict`, not over HTTP"
    assert notes[3] == "the topic keeps the producer's time"
    row = {"id": sent.id, "created_at": NOON, "stored_at": NOON}
    gone = [hop.note for hop in trace_of(row, None, "no more on the topic", outcome="stored").hops]
    assert gone[:4] == ["its headers do not tell", "", "no more on the topic", "no more on the topic"]
    assert "from before" in gone[4]
    odd = Record(at(0), b"k", b"\xff", [("bdlab-contract", b"x"), ("traceparent", None)])
    letter = trace_of({"stored_at": NOON}, odd, outcome="dead letter")
    assert (letter.id, letter.contract, letter.hops[1].note) == ("", None, "its JSON does not tell")
    assert letter.hops[3].note == "a dead letter does not keep it"


def test_the_moment_of_an_id_is_known_of_version_7_alone() -> None:
    assert made_at("019c13ec-9e00-7000-8000-000000000000") == NOON
    assert made_at("01a21a02-d0c8-84a1-aa32-777ae957e0d3") is None
    assert made_at(None) is None
