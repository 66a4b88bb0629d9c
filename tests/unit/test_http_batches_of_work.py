"""What the API does for many requests together: time limits, and counting for the metrics."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bdlab.serving.in_progress import TICK_S, Deadlines, InProgress
from bdlab.serving.metrics import Metrics


def test_only_what_is_late_ends_with_a_timeout() -> None:
    deadlines = Deadlines(0.2)

    async def waiting(work: asyncio.Future[str]) -> str:
        with deadlines:
            return await work

    async def scenario() -> None:
        in_progress = InProgress(deadlines.expire)
        works = [asyncio.get_running_loop().create_future() for _ in range(4)]
        in_progress.begin()
        tasks = [asyncio.create_task(waiting(work)) for work in works]
        await asyncio.sleep(0)
        works[0].set_result("in time")
        assert await tasks[0] == "in time"
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        works[2].set_exception(ValueError("its own"))
        with pytest.raises(ValueError, match="its own"):
            await tasks[2]
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            await tasks[3]
        assert 0.1 < time.monotonic() - started < 0.2 + 20 * TICK_S
        assert tasks[3].cancelling() == 0
        in_progress.end()

    asyncio.run(scenario())


@given(
    st.lists(st.tuples(st.sampled_from(["/predict", "/health"]), st.floats(1e-6, 20))),
    st.lists(st.sampled_from([0.001, 0.0025, 0.3, 10, 11]), max_size=3),
)
def test_what_is_counted_in_batches_is_shown_as_if_counted_one_by_one(
    requests: list[tuple[str, float]], acknowledged: list[float]
) -> None:
    batches, single = Metrics("model"), Metrics("model")
    for number, (route, seconds) in enumerate(requests):
        batches.answered("GET", route, 200, seconds)
        single.of["requests"].labels("GET", route, "200").inc()
        single.of["seconds"].labels(route).observe(seconds)
        if number % 2:
            batches.flush()
    for seconds in acknowledged:
        batches.acknowledged("predictions", seconds)
        single.of["predictions"].labels("acknowledged").inc()
        single.of["acknowledgement_seconds"].observe(seconds)
    batches.missed("predictions", "not_acknowledged")
    single.of["predictions"].labels("not_acknowledged").inc()
    batches.missed("predictions", "busy", 3)
    single.of["predictions"].labels("busy").inc(3)
    batches.flush()

    def shown(metrics: Metrics) -> dict[str, float]:
        lines = metrics.render().decode().splitlines()
        pairs = [line.rpartition(" ") for line in lines if not line.startswith("#") and "_created" not in line]
        return {name: float(value) for name, _, value in pairs}

    assert shown(batches) == pytest.approx(shown(single))
