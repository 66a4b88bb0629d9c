"""The HTTP API on a real uvicorn server in this process: over twins in memory, or over real servers."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import httpx
import msgspec
import pytest
import uvicorn

from bdlab.access import ApiKey, Scope, hash_of, new_secret
from bdlab.errors import BrokerError, DatabaseUnavailable
from bdlab.events import UNKNOWN, Event, EventCodec, Origin, Position, Record, read_headers
from bdlab.kafka.producer import Producer
from bdlab.model import Scorer, load_scorer
from bdlab.postgres.reader import row_type
from bdlab.probes import BrokerState, DatabaseState, VaultState
from bdlab.selection import Page, PageCursor, Selection
from bdlab.serving import Parts, make_app
from bdlab.serving.publisher import AsyncPublisher
from bdlab.serving.running import Running
from bdlab.settings import HttpSettings, KafkaSettings, Settings
from bdlab_cli.wiring import uvicorn_server
from tests.memory.log import MemoryLog, MemoryProducer

STARTED_WITHIN_S = 20


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextmanager
def serving(make_parts: Callable[[], Parts], **options: Any) -> Iterator[httpx.Client]:
    """A client of the API over the parts, which are made on the event loop that serves them.

    `options` are of the server's configuration.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn_server.Config(
            lambda: make_app(make_parts()),  # a factory, as `factory` says
            factory=True,
            lifespan="on",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=10,
            **options,
        )
        server = _Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), name="api")
        thread.start()
        try:
            assert server.ready.wait(STARTED_WITHIN_S), "the API did not start"
            port = listener.getsockname()[1]
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join(STARTED_WITHIN_S)
            assert not thread.is_alive(), "the API did not stop"


class FixedVault:
    """A Vault probe that finds `found`."""

    def __init__(self) -> None:
        self.found = VaultState(
            connected=True,
            authenticated=True,
            sealed=False,
            secrets_engine="kv v2 at kv/",
            token_ttl_s=3600.0,
            policies=("serve",),
            credentials_valid=True,
        )

    def state(self) -> VaultState:
        return self.found

    def expiries(self) -> dict[str, float]:
        return {"vault_token": 2_000_000_000.0, "database_lease": 2_000_000_000.0}


class StoredInMemory:
    """The rows of a log's events, as the consumer would store them; away where `online` is false."""

    def __init__(self, log: MemoryLog, codec: EventCodec) -> None:
        self._log = log
        self._codec = codec
        self._row = row_type(codec.contract)
        self.online = True

    def _rows(self) -> list[Any]:
        if not self.online:
            raise DatabaseUnavailable("the database in memory is switched off")
        ranges = self._log.log_ranges()
        records = [record for at in ranges for record in self._log.read(at.partition, at.start, at.end)]
        return list(map(self._stored, records))

    def _stored(self, record: Record) -> Any:
        event = msgspec.structs.asdict(self._codec.decode(record)[0])
        fields = {name: event[name] for name in self._row.__struct_fields__ if name in event}
        source = (read_headers(record.headers)[1] or b"").decode() or None
        return self._row(**fields, stored_at=datetime.now(UTC), source=source, position=record.position)

    def page(self, wanted: Selection, limit: int) -> Page:
        """Without the other conditions, which PostgreSQL has."""

        def is_wanted(row: Any) -> bool:
            if wanted.after and row.created_at >= wanted.after.created_at:
                return False
            return wanted.source in {"all", row.source} or (
                wanted.source == "real" and row.source not in {"drill", "demo"}
            )

        rows = sorted(filter(is_wanted, self._rows()), key=lambda row: row.created_at, reverse=True)
        last = rows[limit - 1] if len(rows) > limit else None
        return Page(rows[:limit], last and PageCursor(last.stored_at, last.created_at, last.id))

    def get(self, prediction_id: UUID) -> Any | None:
        return next((row for row in self._rows() if row.id == prediction_id), None)

    def state(self, *, count_rows: bool = True) -> DatabaseState:
        return DatabaseState(connected=self.online, rows=len(self._rows()) if count_rows else None)


class KeysInMemory:
    """The API keys of a Vault, by their names; each poll of a session would find other objects."""

    def __init__(self) -> None:
        self.known: dict[str, ApiKey] = {}

    def api_keys(self) -> Mapping[str, ApiKey]:
        return {name: msgspec.structs.replace(key) for name, key in self.known.items()}

    def add(self, name: str, *scopes: Scope, rate: float | None = None, expires_in_s: float | None = None) -> str:
        """Make a key, and return it."""
        secret, now = new_secret(), datetime.now(UTC)
        self.known[name] = ApiKey(
            name=name,
            hash=hash_of(secret),
            scopes=frozenset(scopes),
            created_at=now,
            expires_at=None if expires_in_s is None else now + timedelta(seconds=expires_in_s),
            rate=rate,
        )
        return f"bdlab_{name}_{secret}"


class HeldPublisher:
    """Passes events on only once `release` was called; `results` may name what becomes of them instead.

    To be made on the event loop.
    """

    def __init__(self, inner: AsyncPublisher) -> None:
        self._inner = inner
        self._loop = asyncio.get_running_loop()
        self._released = asyncio.Event()
        self._released.set()
        self.failures: Callable[[Event], BrokerError | None] = lambda _: None
        self.arrived = threading.Semaphore(0)

    def hold(self) -> None:
        self._loop.call_soon_threadsafe(self._released.clear)

    def release(self) -> None:
        self._loop.call_soon_threadsafe(self._released.set)

    async def publish(self, event: Event, origin: Origin = UNKNOWN) -> Position:
        self.arrived.release()
        await self._released.wait()
        failure = self.failures(event)
        if failure is not None:
            raise failure
        return await self._inner.publish(event, origin)


class MemoryApi:
    """An API of which everything outside is in memory, and can be switched off."""

    def __init__(self, settings: Settings | None = None, scorer: Scorer | None = None) -> None:
        self.settings = settings or Settings(
            kafka=KafkaSettings(delivery_timeout_s=1.0), http=HttpSettings(max_batch=100)
        )
        self.log = MemoryLog()
        self.producer = MemoryProducer(
            self.log, source="/tests", delivery_timeout_s=self.settings.kafka.delivery_timeout_s
        )
        self.vault = FixedVault()
        self.scorer = scorer or load_scorer()
        self.stored = StoredInMemory(self.log, self.scorer.codec)
        self.publisher: HeldPublisher | None = None
        self.keys = KeysInMemory()

    def parts(self) -> Parts:
        self.publisher = HeldPublisher(AsyncPublisher(cast("Producer", self.producer)))
        return Parts(
            settings=self.settings,
            model=Running(self.scorer),
            publisher=self.publisher,
            feedback=self.publisher,
            stored=self.stored,
            vault=self.vault,
            broker=self.log,
            feedback_broker=self.log,
            keys=self.keys,
            log_published=lambda *_: None,
            flush_log=lambda: 0,
        )

    def records(self) -> list[Record]:
        """Everything on the topic."""
        ranges = self.log.log_ranges()
        return [record for at in ranges for record in self.log.read(at.partition, at.start, at.end)]


class SilentBroker:
    """A broker probe that never answers in time."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer = threading.Event()

    def state(self) -> BrokerState:
        self.asked += 1
        self.answer.wait(20)
        return BrokerState(connected=True)


@pytest.fixture
def memory_api() -> MemoryApi:
    return MemoryApi()


@pytest.fixture
def api(memory_api: MemoryApi) -> Iterator[httpx.Client]:
    """A client of the API over `memory_api`."""
    with memory_api.producer, serving(memory_api.parts) as client:
        yield client
