"""Signals for commands that wait for the database: libpq waits where Python runs nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx
import pytest

from tests.fix_pipeline import Pipeline
from tests.waiting import until

pytestmark = pytest.mark.once


@pytest.fixture
def locked(pipeline: Pipeline) -> Iterator[Pipeline]:
    """Whoever reads `predictions` waits, for as long as PostgreSQL lets a connection wait for a lock."""
    with closing(pipeline.database()) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE predictions IN ACCESS EXCLUSIVE MODE")
        yield pipeline


def until_waiting(pipeline: Pipeline, name: str) -> int:
    """Wait until a connection of this application waits for the lock; the server's process behind it."""
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock'"
    found: list[int] = []

    def waiting() -> bool:
        with closing(pipeline.database()) as connection, connection.cursor() as cursor:
            cursor.execute(query, [name])
            found.extend(pid for (pid,) in cursor.fetchall())
        return bool(found)

    until(waiting)
    return found[0]


def test_the_second_signal_ends_a_command_that_waits_inside_a_library(locked: Pipeline) -> None:
    with locked.daemon("verify") as verify:
        frozen = until_waiting(locked, "bdlab verify")
        os.kill(frozen, signal.SIGSTOP)
        try:
            verify.process.send_signal(signal.SIGINT)
            verify.process.send_signal(signal.SIGTERM)
            assert verify.ended() == 130
        finally:
            os.kill(frozen, signal.SIGCONT)


def test_the_second_signal_ends_serve_at_once(locked: Pipeline) -> None:
    with locked.serve() as (daemon, client), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.get, "/predictions")
        until_waiting(locked, "bdlab")
        daemon.process.send_signal(signal.SIGTERM)
        daemon.process.send_signal(signal.SIGINT)
        assert daemon.ended() == 130
        assert isinstance(asked.exception(), httpx.TransportError)


@pytest.mark.long
def test_serve_ends_though_nothing_was_answered(locked: Pipeline) -> None:
    """Each question alone would wait longer for the lock than it may take to end."""
    with locked.serve() as (daemon, client), ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            pool.submit(client.get, "/predictions")
        until_waiting(locked, "bdlab")
        assert daemon.stop() == 0, daemon.lines
