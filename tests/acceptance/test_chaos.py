"""Storms of faults: all that is acknowledged is stored exactly once, and no row that nobody sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.brokers import KIND
from tests.chaos import storm
from tests.chaos.faults import catalogue
from tests.chaos.storm import Report
from tests.chaos.system import System
from tests.rounds import rounds

# What a storm loses once it has lost: never tried again, not by CI either.
pytestmark = pytest.mark.flaky(reruns=0)

#: Faults of the broker, of the ways to it, and of who is in the consumers' group.
OF_THE_BROKER = frozenset(
    {
        "kill broker", "kill zookeeper", "kill partition leader", "lose the in-sync majority",
        "zombie broker", "freeze broker", "kill consume", "zombie consumer", "add consumer",
        "reset serve-broker", "stall serve-broker", "reset consume-broker", "stall consume-broker",
    }
)  # fmt: skip


def _assert_held(report: Report, *, predictions: int, faults: int) -> None:
    print(report.as_json())  # noqa: T201 - pytest shows it beside a failure
    assert report.lost == []
    assert report.unknown == []
    assert report.wrong_answers == []
    assert report.broken == []
    assert report.verify_exit_code == 0, report.verify_output
    assert report.acknowledged >= predictions
    assert sum(report.faults.values()) >= faults
    # They were spread over the whole run, not through before the load was.
    assert report.acknowledged_at_last_fault >= predictions * (faults - 1) / faults
    assert report.dead_letters == 0
    assert report.feedback_acknowledged >= predictions / 10
    assert report.feedback_of_nobody > 0
    assert report.promotions_reported > 0
    assert report.rescored == report.stored


@pytest.mark.elsewhere
@pytest.mark.broker
@pytest.mark.parametrize(
    "only", [pytest.param(OF_THE_BROKER, marks=[pytest.mark.on_cluster, pytest.mark.on_zookeeper]), None]
)
def test_a_short_storm_loses_nothing(tmp_path: Path, only: frozenset[str] | None) -> None:
    """Of a cluster the leaders are killed, and two of three brokers at once; with ZooKeeper that, too."""
    with System(tmp_path, broker=KIND) as system:
        wanted = {name for name in catalogue(system) if only is None or name in only}
        predictions = 500 * len(wanted)
        report = storm.run(
            system, seed=20260131, predictions=predictions, faults=len(wanted), only=wanted, limit_s=1200
        )
    _assert_held(report, predictions=predictions, faults=len(wanted))
    assert set(report.faults) == wanted, "not every kind of fault has hit"


@pytest.mark.storm
def test_a_storm_loses_nothing(tmp_path: Path) -> None:
    """Every kind of fault hits, and with all rounds almost three times."""
    with System(tmp_path, broker=KIND, consumers=3) as system:
        kinds = len(catalogue(system))
        faults, predictions = rounds(kinds, 80), rounds(12_500, 120_000)
        report = storm.run(system, seed=7, predictions=predictions, faults=faults, limit_s=1800)
    _assert_held(report, predictions=predictions, faults=faults)
    assert len(report.faults) == kinds
    assert min(report.faults.values()) >= rounds(1, 2)


@pytest.mark.storm
def test_sigterm_at_random_moments_loses_nothing(tmp_path: Path) -> None:
    """Many times a daemon is told to stop in the middle of its work; each time it ends in order."""
    faults = rounds(8, 50)
    # At Tansu, which waits without end for a member that is gone: a consumer has to see to that, too.
    with System(tmp_path, broker="tansu") as system:
        report = storm.run(
            system, seed=50, predictions=1000, faults=faults, only={"restart consumer", "restart serve"}, limit_s=1800
        )
    _assert_held(report, predictions=1000, faults=faults)
