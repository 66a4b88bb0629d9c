"""The lines that COPY reads: the same rows from an event's own JSON as from its decoded fields."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bdlab.events import Origin, PredictionEvent, Record, Term, encode, headers
from bdlab.ledger import Accepted, log_partition, runs
from bdlab.postgres.rows import CopyLines
from tests.samples import REVIEWS, accepted, at, event

_LOGS = {log_partition(at(0, partition)): partition + 7 for partition in range(3)}
_lines = CopyLines(REVIEWS.event)
_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1) | st.text(
    'a"\\\n\t\r\b\f/\x1f\x7f[]{},:é', min_size=1
)
_NAMED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def _read(column: str) -> str:
    """Return what COPY reads (PostgreSQL documentation, COPY, "Text Format")."""
    assert not re.search(r"\\[x0-7N.]", column.replace("\\\\", ""))
    return re.sub(r"\\(.)", lambda found: _NAMED.get(found[1], found[1]), column, flags=re.DOTALL)


def _rows(entries: list[Accepted]) -> list[list[object]]:
    rows: list[list[object]] = []
    lines = _lines(entries, _LOGS).decode()
    assert lines.endswith("\n") or not entries
    for line in lines.split("\n")[:-1]:
        row: list[object] = [_read(column) if column != "\\N" else None for column in line.split("\t")]
        row[5], row[7], row[8] = float(str(row[5])), float(str(row[7])), json.loads(str(row[8]))
        row[10] = datetime.fromisoformat(str(row[10]))
        rows.append(row)
    return rows


_events = st.builds(
    msgspec.structs.replace,
    st.builds(event, text=_texts),
    summary=st.just("") | _texts,
    explanation=st.lists(st.builds(Term, _texts, st.floats(-5, 5)), max_size=3).map(tuple),
    prediction=st.floats(1, 5),
    confidence=st.floats(0, 1),
)


@given(_events, st.sampled_from([(b"{", b"{"), (b"/", b"\\/")]))
def test_a_row_is_the_same_from_json_and_from_decoded_fields(
    sent: PredictionEvent, other_form: tuple[bytes, bytes]
) -> None:
    key, value = encode(sent)
    record = Record(at(3), key, value.replace(*other_form))
    decoded, fields = REVIEWS.decode(record)
    assert decoded == sent
    (row,) = _rows([Accepted(record, decoded, fields)])
    assert [row] == _rows([Accepted(record, decoded)])
    kept = json.loads(value)
    assert row == [
        *(str(kept[name]) if type(kept[name]) is int else kept[name] for name in list(kept)[:10]),
        sent.created_at, *[None] * 6, "7", "0", "3",
    ]  # fmt: skip


def test_a_row_tells_of_its_request_and_of_its_reading() -> None:
    sent, received_at, read_at = event(), datetime(2026, 1, 31, 12, 0, 0, 1, UTC), datetime(2026, 1, 31, 12, tzinfo=UTC)
    origin = Origin(received_at=received_at, key_name="shop")
    found = headers(sent, source="/bdlab/serve", traceparent=f"00-{'ab' * 16}-{'1' * 16}-01", origin=origin)
    records = [Record(at(0), *encode(sent), found, 7, read_at), Record(at(1), *encode(sent), found)]
    told = ["serve", "shop", "ab" * 16, "1769860800000001"]
    assert [row[11:] for row in _rows([Accepted(record, *REVIEWS.decode(record)) for record in records])] == [
        [*told, "7000", "1769860800000000", "7", "0", "0"],
        [*told, None, None, "7", "0", "1"],
    ]


def test_fields_are_taken_as_they_stand_from_what_bdlab_writes_and_from_nothing_else() -> None:
    one = accepted(at(0), event(text='He said "no",\nand left \\ é'))
    assert one.fields is not None
    value, key = one.record.value or b"", one.record.key
    for old, new in (
        (b"1.37", b"1.37e0"),
        (b"1.37", b"0.137E1"),
        (b"1.37", b" 1.37"),
        (b"-1.9", b"-1.90"),
        (b"He", b"\\u0048e"),
        (b"T12:00:00.123456Z", b"T13:00:00.123456+01:00"),
        (b"T12:00:00.123456Z", b" 12:00:00.123456z"),
        (b"12:00:00.123456Z", b"12:00:00.123456000Z"),
    ):
        assert old in value
        decoded, fields = REVIEWS.decode(Record(at(0), key, value.replace(old, new)))
        assert fields is None
        assert decoded == one.event


@given(st.permutations([(partition, offset) for partition in range(3) for offset in range(3)]))
def test_lines_are_sorted_by_id_and_each_has_its_own_place(places: list[tuple[int, int]]) -> None:
    entries = [accepted(at(offset, partition)) for partition, offset in places]
    assert [[row[0], *(int(str(found)) for found in row[-3:])] for row in _rows(entries[::-1])] == sorted(
        [str(one.event.id), place[0] + 7, *place] for one, place in zip(entries, places, strict=True)
    )


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3), st.sampled_from(["a", "b"]))))
def test_runs_are_slices_of_consecutive_offsets_as_long_as_possible(places: list[tuple[int, int, str]]) -> None:
    positions = [at(offset, partition, cluster) for partition, offset, cluster in places]
    found = list(runs(positions))
    assert [one for _, begin, end in found for one in positions[begin:end]] == positions
    for log, begin, end in found:
        assert positions[begin:end] == [log.at(positions[begin].offset + step) for step in range(end - begin)]
        assert end > begin
        assert end == len(positions) or positions[end] != log.at(positions[end - 1].offset + 1)
