"""Decoding, cutting and bisecting: each for any input."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bdlab.errors import RowRejected
from bdlab.events import Record, encode
from bdlab.ledger import Accepted, DeadLetter, Entry
from bdlab.sink.batches import decode_entry, split_by_size, split_refused
from tests.samples import REVIEWS, accepted, at, dead, event

GOOD = json.loads(encode(event())[1])

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def spoilt_events(draw: st.DrawFn) -> bytes:
    """A good event with some fields gone, replaced by anything, or joined by unknown ones."""
    fields: dict[str, Any] = dict(GOOD)
    for name in draw(st.sets(st.sampled_from(sorted(GOOD)), max_size=3)):
        fields.pop(name)
    fields |= draw(st.dictionaries(st.sampled_from(sorted(GOOD)) | st.text(max_size=5), json_values, max_size=3))
    raw = json.dumps(fields, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    cut = draw(st.integers(0, len(raw)))
    return draw(st.sampled_from([raw, raw[:cut], raw + raw, raw[:cut] + draw(st.binary(max_size=3)) + raw[cut:]]))


@given(value=st.none() | st.binary(max_size=200) | spoilt_events(), key=st.none() | st.binary(max_size=40))
def test_any_record_is_an_event_or_a_dead_letter_with_a_short_reason(value: bytes | None, key: bytes | None) -> None:
    found = decode_entry(REVIEWS, Record(at(0), key, value))
    if isinstance(found, DeadLetter):
        assert found.reason
        assert len(found.reason) < 600
        assert found.sqlstate == ""
    else:
        assert key == str(found.event.id).encode()
        assert value is not None
        # What was accepted is an event again after another way through the topic.
        again_key, again = encode(found.event)
        again_found = decode_entry(REVIEWS, Record(at(0), again_key, again))
        assert isinstance(again_found, Accepted)
        assert again_found.event == found.event


@given(fields=st.dictionaries(st.sampled_from(sorted(GOOD)), json_values, max_size=2))
def test_a_good_key_does_not_make_a_spoilt_event_good(fields: dict[str, Any]) -> None:
    value = json.dumps(GOOD | fields).encode("utf-8", "surrogatepass")
    found = decode_entry(REVIEWS, Record(at(0), GOOD["id"].encode(), value))
    if isinstance(found, Accepted):
        assert encode(found.event)[0].decode() == GOOD["id"]
        for name, given_value in fields.items():
            assert json.loads(encode(found.event)[1])[name] == given_value or name in {"created_at", "timestamp"}


def test_a_reason_that_quotes_the_record_is_cut() -> None:
    value = json.dumps(GOOD | {"x" * 100_000: 1}).encode()
    found = decode_entry(REVIEWS, Record(at(0), b"k", value))
    assert isinstance(found, DeadLetter)
    assert len(found.reason) < 600


def settle(batch: list[Entry], poison: set[int]) -> tuple[list[Entry], int]:
    """Store `batch` in a database that refuses the offsets in `poison`: what was stored, in how many
    tries.
    """
    pending, stored, tries = deque([batch]), [], 0
    while pending:
        part = pending.popleft()
        tries += 1
        if any(isinstance(entry, Accepted) and entry.record.position.offset in poison for entry in part):
            refusal = RowRejected("no", sqlstate="22001")
            pending.extendleft(reversed(split_refused(part, refusal)))
        else:
            stored += part
    return stored, tries


@given(size=st.integers(1, 60), poison=st.sets(st.integers(0, 59)), undecodable=st.sets(st.integers(0, 59)))
def test_bisecting_finds_exactly_the_poison(size: int, poison: set[int], undecodable: set[int]) -> None:
    batch: list[Entry] = [dead(at(offset)) if offset in undecodable else accepted(at(offset)) for offset in range(size)]
    stored, tries = settle(batch, poison)
    assert [entry.record for entry in stored] == [entry.record for entry in batch]
    refused = {
        entry.record.position.offset for entry in stored if isinstance(entry, DeadLetter) and entry.sqlstate == "22001"
    }
    guilty = poison & set(range(size)) - undecodable
    assert refused == guilty
    # A bisection costs at most two tries a level for each of them, and one for the rest.
    assert tries <= 1 + 2 * len(guilty) * (size.bit_length() + 1)


def test_a_refusal_without_a_suspect_is_raised() -> None:
    with pytest.raises(RowRejected):
        split_refused([dead(at(0))], RowRejected("no", sqlstate="23514"))


@given(sizes=st.lists(st.integers(0, 50)), max_bytes=st.integers(1, 60))
def test_cutting_by_size_keeps_everything_in_order_and_bounded(sizes: Sequence[int], max_bytes: int) -> None:
    entries = [dead(at(offset), value=b"x" * size) for offset, size in enumerate(sizes)]
    runs = list(split_by_size(entries, max_bytes))
    assert [entry for run in runs for entry in run] == entries
    for run in runs:
        assert len(run) == 1 or sum(len(entry.record.value or b"") for entry in run) <= max_bytes
