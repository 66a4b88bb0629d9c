"""SIGTERM, or SIGHUP, for the API at any moment: whatever was answered with 200 is on the topic."""

from __future__ import annotations

import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests import tls
from tests.fix_pipeline import Pipeline
from tests.integration.test_serve import on_topic
from tests.rounds import rounds

CLIENTS = 8
SEED = 20260131


def _load(url: str, stop: threading.Event) -> list[str]:
    """The ids that were acknowledged until the server was gone."""
    acknowledged = []
    with httpx.Client(base_url=url, timeout=30, trust_env=False, verify=tls.VERIFY) as client:
        while not stop.is_set():
            try:
                answer = client.post("/predict", json={"text": "good, and gone in a moment"})
            except httpx.TransportError:
                break
            assert answer.status_code in (200, 503)
            if answer.status_code == 200:
                acknowledged.append(answer.json()["id"])
    return acknowledged


def _terminate_under_load(pipeline: Pipeline, after_s: float, workers: int, number: signal.Signals) -> list[str]:
    stop = threading.Event()
    with pipeline.serve("--workers", str(workers)) as (daemon, client), ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(_load, str(client.base_url), stop) for _ in range(CLIENTS)]
        try:
            stop.wait(after_s)
            daemon.process.send_signal(number)
            if number == signal.SIGHUP:  # a terminal that closes tells all of them, and more than once
                for child in Path(f"/proc/{daemon.process.pid}/task").glob("*/children"):
                    for pid in child.read_text().split():
                        os.kill(int(pid), number)
                daemon.process.send_signal(number)
            assert daemon.ended() == 0, daemon.lines
        finally:
            stop.set()
        return [found for future in running for found in future.result()]


@pytest.mark.parametrize("times", [2, pytest.param(rounds(8, 50), marks=pytest.mark.storm)])
@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_a_random_moment_loses_nothing(
    pipeline: Pipeline, times: int, signal_number: signal.Signals
) -> None:
    chance = random.Random(SEED)
    acknowledged: list[str] = []
    for number in range(times):
        workers = 1 + number % 2
        acknowledged += _terminate_under_load(pipeline, chance.uniform(0, 1.5), workers, signal_number)
    assert acknowledged
    keys = [(record.key or b"").decode() for record in on_topic(pipeline, set(acknowledged))]
    assert all(count == 1 for count in map(keys.count, acknowledged[:100]))
    assert len(set(acknowledged)) == len(acknowledged)
