"""What a broker that forgets takes with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bdlab.stack import Event
from bdlab.stack.brokers import VolatileLog, lost_events
from bdlab.stack.service import CommandResult


@pytest.mark.parametrize(
    ("output", "lost"),
    [
        ('{"verified": true, "closed": [{"cluster_id": "a", "lost": 2}, {"cluster_id": "a", "lost": 3}]}', 5),
        ('{"closed": [{"cluster_id": "a", "lost": 0}, {"cluster_id": "b", "lost": 3}]}', 0),
        ('{"closed": [{"cluster_id": "b", "lost": 3}]}', None),
        ('{"closed": []}', None),
        ("", None),
        ("error: no broker", None),
    ],
)
def test_lost_events_are_those_of_one_incarnation(output: str, lost: int | None) -> None:
    assert lost_events(output, "a") == lost


def test_an_open_log_is_remembered_until_it_is_stored(tmp_path: Path) -> None:
    def volatile_log() -> VolatileLog:
        return VolatileLog(
            tmp_path / "open-log", "broker", verify=lambda *_: CommandResult(0, "", ""), report=told.append
        )

    told: list[Event] = []
    assert volatile_log().opened("a") == ""
    assert volatile_log().opened("a") == ""
    assert volatile_log().opened("b") == "a"
    volatile_log().drain()
    assert [(event.kind, event.step) for event in told] == [("done", "stored what was on the broker")]
    assert volatile_log().opened("c") == ""
