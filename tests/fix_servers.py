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
from bdlab.stack import OpenBao, Postgres, Tansu
from tests.brokers import KIND, LocalBroker, new_broker
from tests.tls import new_openbao, new_postgres


class Startable(Protocol):
    def start(self) -> None: ...

    def stop(self) -> None: ...


T = TypeVar("T", bound=Startable)


@contextlib.contextmanager
def installed_or_skip() -> Iterator[None]:
    """What is not installed skips the test on a laptop and fails it in CI."""
    try:
        yield
    except BinaryMissing as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{missing.message} ({missing.hint})")


def start_or_skip(server: T) -> T:
    with installed_or_skip():
        server.start()
    return server


@contextlib.contextmanager
def _session_server(server: T) -> Iterator[T]:
    start_or_skip(server)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """A running OpenBao that nobody has initialised yet."""
    with _session_server(_openbao(tmp_path_factory.mktemp("openbao"))) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A running Postgres; make a database of your own in it."""
    with _session_server(new_postgres(tmp_path_factory.mktemp("postgres"))) as server:
        yield server


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    """A running broker of this run's kind; use topics of your own on it."""
    with _session_server(new_broker(tmp_path_factory.mktemp("broker"))) as server:
        yield server


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A temporary folder whose path leaves room for a Unix socket, which `tmp_path` may not."""
    with tempfile.TemporaryDirectory(prefix="bdlab-") as folder:
        yield Path(folder)


@pytest.fixture
def own_openbao(tmp_path: Path) -> Iterator[Callable[[], OpenBao]]:
    """Makes and starts an OpenBao for this test alone."""
    yield from _factory(_openbao, tmp_path)


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Callable[[], Postgres]]:
    """Makes and starts a Postgres for this test alone."""
    yield from _factory(new_postgres, tmp_path)


@pytest.fixture
def breakable_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalBroker]:
    """A broker of this run's kind that the test may stop; use topics of your own on it.

    It is the session's, and runs again afterwards; one in memory, which would lose its log, is the test's.
    """
    if KIND == "tansu":
        with _session_server(new_broker(tmp_path)) as own:
            yield own
        return
    broker: LocalBroker = request.getfixturevalue("broker")
    yield broker
    if not broker.running:
        broker.start()


@pytest.fixture
def own_tansu(tmp_path: Path) -> Iterator[Callable[[], Tansu]]:
    """Makes and starts a broker that another log at another address follows when it starts again."""
    yield from _factory(Tansu, tmp_path)


def _openbao(folder: Path) -> OpenBao:
    return new_openbao(folder, OpenBao)


def _factory(kind: Callable[[Path], T], folder: Path) -> Iterator[Callable[[], T]]:
    with contextlib.ExitStack() as started:

        def make() -> T:
            server = kind(folder / f"server-{len(list(folder.iterdir()))}")
            started.callback(server.stop)
            return start_or_skip(server)

        yield make
