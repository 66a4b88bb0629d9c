"""The console's page Proof: who counts, what is found, where an offset is missing, and what is kept of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from bdlab.events import encode
from bdlab.verification import PartitionReport
from bdlab_console.pages.proof import strip
from tests.fix_console import Console, StartConsole
from tests.fix_golden import Place
from tests.fix_pipeline import Pipeline
from tests.samples import event
from tests.waiting import until


def counted(console: Console, wait: str = "0") -> httpx.Response:
    """The page once a run that is begun now has ended."""
    console.post("/proof/run", {"wait": wait}, form="/proof")
    until(lambda: 'hx-trigger="every 1s"' not in console.get("/proof").text)
    return console.get("/proof")


def test_a_missing_offset_is_shown_where_it_is_and_the_runs_outlive_the_console(
    pipeline: Pipeline, start_console: StartConsole, tmp_path: Path
) -> None:
    place = Place(pipeline)
    place.done("migrate")
    place.produce([(0, *encode(event()), []) for _ in range(10)])
    place.done("consume", "--until-idle")
    settings: dict[str, Any] = place.environment | {
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "BDLAB_VAULT_IDENTITY_DIR": str(pipeline.folder / "identity"),
    }
    key = pipeline.run("api-key", "create", "counter", "--scope", "read").stdout.strip()
    console = start_console(key=key, **settings)
    assert "Nothing was counted here yet" in console.get("/proof").text
    first = counted(console).text
    assert "<strong>Verified</strong>: 10 stored + 0 duplicates + 0 dead letters, of 10 offsets" in first
    assert "by <bdi>counter</bdi>" in first

    place.database.execute('DELETE FROM predictions WHERE "offset" IN (4, 5)')
    found = counted(console).text
    assert "<strong>Not verified</strong>" in found
    assert "2 recorded nowhere: offsets 4 to 5 (ids " in found
    assert '<a href="/predictions/0/4">4 to 5</a>' in found
    segments = re.findall(r'<rect class="(\w+)" x="([\d.]+)" width="([\d.]+)"[^>]*><title>([^<]+)', found)
    assert segments[:3] == [
        ("healthy", "0", "40.0", "recorded: 0 to 3"),
        ("unhealthy", "40.0", "20.0", "recorded nowhere: 4 to 5"),
        ("healthy", "60.0", "40.0", "recorded: 6 to 9"),
    ]
    place.produce([(0, *encode(event()), [])])
    assert "recorded: 6 to 9, not recorded yet: 10" in counted(console).text

    for wrong in ("-1", "61", "nan", "soon"):
        assert "this is no wait" in console.post("/proof/run", {"wait": wrong}, form="/proof", code=400).text
    stranger = console.browser()
    assert stranger.post("/proof/run", data={"wait": "0"}, headers={"X-API-Key": key}).status_code == 403
    assert stranger.post("/proof/run", data={"wait": "0"}).status_code == 403

    console.daemon.stop()
    (kept,) = (tmp_path / "state/bdlab/console").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    with kept.open("a") as file:
        file.write('{"number": "broken\n\xff\n')
    again = start_console(key=key, **settings)
    assert re.findall(r'<a href="/proof/(\d+)">\d+</a></th>', again.get("/proof").text) == ["3", "2", "1"]
    assert "<strong>Verified</strong>" in again.get("/proof/1").text
    assert '<a href="/predictions/0/4">' in again.get("/proof/2").text
    assert "Run 9 is not known here" in again.get("/proof/9", code=404).text


@pytest.mark.parametrize("end", [20, 10**9])
def test_a_fault_is_seen_in_a_strip_however_long_the_log_is(end: int) -> None:
    place = {"cluster_id": "one", "topic": "predictions", "partition": 0}
    segments = strip(PartitionReport(**place, log_start=5, end=end, first_offset=6, next_offset=end - 1))  # type: ignore[arg-type]
    assert [what for _, _, what in segments] == [
        "never read: 5",
        f"recorded: 6 to {end - 2}",
        f"not recorded yet: {end - 1}",
    ]
    assert sum(width for width, _, _ in segments) == pytest.approx(100)
    assert all(width > 0.7 for width, _, _ in segments)
