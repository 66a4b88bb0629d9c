"""Dead letters as `bdlab dlq` shows them."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from bdlab.deadletters import OPEN, StoredDeadLetter, closed, state
from bdlab.events import Position, Record
from bdlab_cli.output.dead_letters import summary, table

REASON = 'the database refuses the row: new row for relation "predictions" violates check constraint "no_poison"'


def letter(offset: int = 1207, cluster_id: str = "one", **fields: Any) -> StoredDeadLetter:
    record = Record(Position(cluster_id, "predictions", 3, offset), b"k", b"v")
    recorded_at = datetime(2026, 1, 31, 12, tzinfo=UTC)
    usual: dict[str, Any] = {"reason": REASON, "sqlstate": "23514", "recorded_at": recorded_at, "replays": 0}
    return StoredDeadLetter(record=record, **(usual | fields))


def shown(*letters: StoredDeadLetter, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(table(letters, f"{len(letters)} open of 9 dead letters"))
    output: str = console.file.getvalue()  # type: ignore[attr-defined]
    return output.splitlines()


@pytest.mark.parametrize(
    "one",
    [
        letter(),
        letter(offset=123_456_789_012, state="superseded", replayed_to=(5, 123_456_789_013), replays=3),
        letter(state="returned", replays=2),
        letter(reason="x" * 300),
        letter(reason="a\x1b]52;c;evil\x07b\nc [red]"),
    ],
)
def test_at_80_columns_nothing_is_cut(one: StoredDeadLetter) -> None:
    lines = shown(one)
    assert max(map(len, lines)) <= 80
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    recorded, place, its_state, reason = ("".join(column) for column in zip(*cells, strict=True))
    assert (recorded, place) == ("2026-01-31 12:00", f"3/{one.record.position.offset}")
    assert its_state.replace(" ", "") == state(one).replace(" ", "")
    printed = one.reason.encode("unicode_escape").decode()
    assert reason.replace(" ", "") == f"23514: {printed}".replace(" ", "")


def test_the_log_is_named_only_if_there_are_several() -> None:
    assert not any(" log " in line for line in shown(letter(), letter(2), width=120))
    assert any(" two " in line for line in shown(letter(), letter(cluster_id="two"), width=120))


@pytest.mark.parametrize(
    ("fields", "words", "refusal"),
    [
        ({}, "open", ""),
        ({"state": "returned", "replays": 1}, "open; came back from 1 replay", ""),
        ({"state": "sent", "replayed_to": (4, 7)}, "sent back as 4/7", "4/7, which no consumer has recorded yet"),
        ({"state": "stored", "replayed_to": (4, 7)}, "stored as 4/7", "its replay, 4/7, is stored"),
        ({"state": "superseded", "replayed_to": (4, 7)}, "dead again as 4/7", "what is open is 4/7"),
        ({"state": "discarded", "discarded_because": "a test"}, "discarded", "it was discarded: a test"),
    ],
)
def test_a_state_in_words_and_why_nothing_is_left_to_do(fields: dict[str, Any], words: str, refusal: str) -> None:
    one = letter(**fields)
    assert state(one) == words
    assert refusal in closed(one)
    assert bool(closed(one)) == (one.state not in OPEN)
    assert not (one.state == "sent" and closed(one, again=True))
    assert summary(one)["replayed_to"] == ("4/7" if one.replayed_to else None)
