"""Whether a broker's log is the recorded one: by its topic id and a record that both hold."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bdlab.events import Record
from bdlab.ledger import LogPartition, LogRange
from bdlab.log_identity import KnownLog, KnownRecord, match_log, refusals
from tests.samples import at

IDS = st.sampled_from(["", "one", "two"])


def ranges(topic_id: str, partitions: int = 2) -> list[LogRange]:
    return [LogRange("c", "t", number, 0, 10, topic_id) for number in range(partitions)]


def reads(records: Mapping[int, Record], places: Mapping[int, int]) -> Mapping[int, Record]:
    return {partition: records[partition] for partition in places if partition in records}


def refused(topic_id: str, known: KnownLog | None, keys: Mapping[int, bytes]) -> dict[int, str]:
    records = {partition: Record(at(9, partition), key, b"v") for partition, key in keys.items()}
    return refusals(ranges(topic_id), known, lambda places: reads(records, places))


def known(topic_id: str, *, adopted: bool = False, recorded: bool = True, records: int = 2) -> KnownLog:
    asked = {number: KnownRecord(offset=9, id=f"id-{number}") for number in range(records)}
    return KnownLog(topic_id=topic_id, recorded=recorded, adopted=adopted, records=asked)


SAME = {0: b"id-0", 1: b"id-1"}


@pytest.mark.parametrize(
    ("topic_id", "held", "keys", "partitions"),
    [
        ("one", None, {}, set()),
        ("one", known("", recorded=False, records=0), {}, set()),
        ("one", known("one", records=0), {}, set()),
        ("one", known("one"), SAME, set()),
        ("one", known("one"), {0: b"id-0", 1: b"other"}, {1}),
        ("one", known(""), SAME, set()),
        ("one", known(""), {1: b"id-1"}, set()),  # one partition proves the topic
        ("one", known(""), {}, {0, 1}),
        ("one", known(""), {0: b"id-0", 1: b"other"}, {0, 1}),
        ("one", known("", records=0), {}, {0, 1}),
        ("one", known("", adopted=True, records=0), {}, set()),
        ("one", known("", adopted=True), {0: b"other"}, {0}),  # recorded after it was adopted
        ("", known(""), SAME, set()),
        ("", known(""), {}, {0, 1}),
        ("", known("one"), SAME, set()),
        ("", known("one", records=0), {}, {0, 1}),
    ],
)
def test_what_is_refused(topic_id: str, held: KnownLog | None, keys: dict[int, bytes], partitions: set[int]) -> None:
    found = refused(topic_id, held, keys)
    assert set(found) == partitions
    for number, reason in found.items():
        assert f"partition {number}" in reason
        assert "--adopt-log" in reason
        assert "--new-log" in reason
        assert f"the broker's topic id is {topic_id or 'none'}" in reason


@given(IDS, IDS, st.booleans(), st.dictionaries(st.integers(0, 1), st.sampled_from([b"id-0", b"id-1", b"x"])))
def test_a_record_that_differs_is_never_taken(
    topic_id: str, held_id: str, adopted: bool, keys: dict[int, bytes]
) -> None:
    found = refused(topic_id, known(held_id, adopted=adopted), keys)
    differ = {number for number, key in keys.items() if key != f"id-{number}".encode()}
    assert differ <= set(found)
    if not found and not adopted and held_id != topic_id:
        assert any(key == f"id-{number}".encode() for number, key in keys.items())


@pytest.mark.parametrize(("key", "value", "same"), [(b"k", b"\xff", True), (None, b"\xff", False), (b"k", None, False)])
def test_a_dead_letter_is_compared_with_key_and_value(key: bytes | None, value: bytes | None, same: bool) -> None:
    assert KnownRecord(offset=0, key=b"k", value=b"\xff").matches(Record(at(0), key, value)) is same


LOGS = st.builds(LogPartition, st.sampled_from("ab"), st.just("t"), st.integers(0, 1), IDS)


@given(LOGS, st.lists(LOGS))
def test_a_log_is_matched_by_its_id_and_by_its_words_only_where_an_id_is_unknown(
    log: LogPartition, candidates: list[LogPartition]
) -> None:
    found = match_log(log, candidates)
    if log in candidates:
        assert found == log
    elif found is not None:
        assert found[:3] == log[:3]
        assert "" in {found.topic_id, log.topic_id}
    else:
        assert not [one for one in candidates if one[:3] == log[:3] and "" in {one.topic_id, log.topic_id}]
