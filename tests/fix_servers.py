"""Real servers for tests: one of each a session, and factories for tests that kill or restart theirs."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import pytest

from bdlab.errors import BinaryMissing
from bdlab.stack import OpenBao, Postgres, Server, Tansu


class Startable(Protocol):
    def start(self) -> None: ...


S = TypeVar("S", bound=Server)
T = TypeVar("T", bound=Startable)


def start_or_skip(server: T) -> T:
    """Start it. A server that is not installed skips the test on a laptop and fails it in CI."""
    try:
        server.start()
    except BinaryMissing as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{missing.message} ({missing.hint})")
    return server


@contextlib.contextmanager
def _session_server(server: S) -> Iterator[S]:
    start_or_skip(server)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """A running OpenBao that nobody has initialised yet."""
    with _session_server(OpenBao(tmp_path_factory.mktemp("openbao"))) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A running Postgres; make a database of your own in it."""
    with _session_server(Postgres(tmp_path_factory.mktemp("postgres"))) as server:
        yield server


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tansu]:
    """A running broker; use topics of your own on it."""
    with _session_server(Tansu(tmp_path_factory.mktemp("broker"))) as server:
        yield server


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A temporary folder whose path leaves room for a Unix socket, which `tmp_path` may not."""
    with tempfile.TemporaryDirectory(prefix="bdlab-") as folder:
        yield Path(folder)


@pytest.fixture
def own_openbao(tmp_path: Path) -> Iterator[Callable[[], OpenBao]]:
    """Makes and starts an OpenBao for this test alone."""
    yield from _factory(OpenBao, tmp_path)


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Callable[[], Postgres]]:
    """Makes and starts a Postgres for this test alone."""
    yield from _factory(Postgres, tmp_path)


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Callable[[], Tansu]]:
    """Makes and starts a broker for this test alone."""
    yield from _factory(Tansu, tmp_path)


def _factory(kind: type[S], folder: Path) -> Iterator[Callable[[], S]]:
    with contextlib.ExitStack() as started:

        def make() -> S:
            server = kind(folder / f"{kind.name}-{len(list(folder.iterdir()))}")
            started.callback(server.stop)
            return start_or_skip(server)

        yield make
