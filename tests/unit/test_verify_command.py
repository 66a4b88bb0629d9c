"""What `bdlab verify` says to a person."""

from __future__ import annotations

from io import StringIO

import msgspec
from rich.console import Console

from bdlab.verification import PartitionReport, Report
from bdlab_cli.output.accounting import show

FROM_THE_START = PartitionReport(
    cluster_id="c",
    topic="predictions",
    partition=0,
    log_start=0,
    end=9,
    first_offset=0,
    next_offset=9,
    stored=9,
    duplicates=0,
    dead_letters=0,
    pruned=0,
)


def shown(*partitions: PartitionReport) -> str:
    out = StringIO()
    show(Report(verified=True, partitions=partitions), Console(file=out, width=200))
    return out.getvalue()


def test_what_was_deleted_before_the_first_look_is_told() -> None:
    late = msgspec.structs.replace(FROM_THE_START, partition=1, log_start=5, first_offset=4, stored=5)
    found = shown(FROM_THE_START, late)
    assert "predictions/1: offsets 0 to 3 had been deleted by the broker's retention" in found
    assert "predictions/0: offsets" not in found


def test_a_log_that_was_read_from_its_start_lacks_nothing() -> None:
    trimmed_later = msgspec.structs.replace(FROM_THE_START, log_start=5)
    assert "deleted" not in shown(FROM_THE_START, trimmed_later)
