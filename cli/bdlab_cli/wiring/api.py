"""The HTTP API over the real servers, in this process or in several workers: what `bdlab serve` runs."""

import ctypes
import gc
import math
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import structlog

from bdlab import tracing
from bdlab.contract import check_fits
from bdlab.errors import BdlabError, DatabaseError, VaultError, VaultUnavailable
from bdlab.forked import end_with_parent
from bdlab.retry import tries
from bdlab.settings import Layers
from bdlab_cli.output import logs, terminal
from bdlab_cli.wiring.session import daemon_session

log = structlog.get_logger()

Application = Callable[..., Awaitable[None]]

SERVICE = "serve"
STARTUP_FAILED = 3  # tells uvicorn's supervisor that another try would fail in the same way

_COMPARED_WITHIN_S = 3.0  # how long the start waits for the database's contract, which is then compared later
_COMPARE_EVERY_S = 2.0

_GC_THRESHOLD = 10_000  # new objects until the next collection, which looks at all requests in progress: no garbage

#: malloc.h: the size from which a block is mapped by itself, and the number of arenas for threads.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8


class Api:
    """Everything that the API uses. It is opened once, in the process that serves."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._open = ExitStack()
        self._compared = threading.Event()
        self.refusal: BdlabError | None = None  # why the model cannot be served over this database

    def open(self) -> None:
        """Load the model, log in to Vault (waiting for it) and start connecting; does not wait for a broker.

        Raises ModelError, also if the model's contract is not that of the database, and VaultError."""
        from bdlab.kafka.admin import Admin
        from bdlab.kafka.producer import Producer
        from bdlab.model import load_scorer
        from bdlab.postgres.reader import Reader

        _give_memory_back()
        before = self._layers.settings()
        self.scorer = load_scorer(before.model.path)
        with ExitStack() as opening:
            self.spans = tracing.start(SERVICE, os.environ, topic=before.kafka.topic)
            if self.spans:
                opening.callback(self.spans.close)
            self.vault = daemon_session(self._layers, SERVICE)
            opening.callback(self.vault.close)
            self.vault.open(before.startup_timeout_s)
            self.settings = self.vault.settings()
            # Shorter than the time-out of /health, and short enough for a stop to wait for.
            self.admin = Admin(self.vault, client_id="bdlab-serve", timeout_s=2.0)
            opening.callback(self.admin.close)
            self.reader = Reader(self.vault)
            opening.callback(self.reader.close)
            self.producer = Producer(self.vault, client_id="bdlab-serve", source="/bdlab/serve")
            if self.spans:
                self.producer.publish = self.spans.sending(self.producer.publish)  # type: ignore[method-assign]
            opening.callback(self.producer.close)
            self.producer.open()
            stop = threading.Event()
            opening.callback(stop.set)
            threading.Thread(target=self._compare_contracts, args=[stop], daemon=True).start()
            self._compared.wait(_COMPARED_WITHIN_S)
            self._compared.set()
            if self.refusal is not None:
                raise self.refusal
            self._open = opening.pop_all()

    def _compare_contracts(self, stop: threading.Event) -> None:
        """Compare the model's contract with the database's, once that answers.

        A mismatch ends the process if its start is over."""
        for _ in tries(math.inf, stop=stop, longest_s=_COMPARE_EVERY_S):
            try:
                check_fits(self.scorer.codec.contract, self.reader.contract())
            except (DatabaseError, VaultError):
                self._compared.set()
                continue
            except BdlabError as error:
                self.refusal = error
                if self._compared.is_set():
                    log.error("stopping: the model does not fit the database", problem=error.message)
                    os.kill(os.getpid(), signal.SIGTERM)
            self._compared.set()
            return

    def close(self) -> None:
        """Wait for what is in flight, then log out, in the reverse order of opening."""
        self._open.close()

    def asgi(self) -> Application:
        """Return the application; called on the event loop that serves it."""
        from bdlab.serving import Parts, make_app
        from bdlab.serving.publisher import AsyncPublisher

        lines = logs.published_lines()
        parts = Parts(
            settings=self.settings,
            scorer=self.scorer,
            publisher=AsyncPublisher(self.producer),
            stored=self.reader,
            vault=self.vault,
            broker=self.admin,
            keys=self.vault,
            log_published=lines.published,
            flush_log=lines.flush,
        )
        app = make_app(parts, on_shutdown=self.close)
        # What exists now stays for good: scanning it would stop everything for a tenth of a second.
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD)
        return self.spans.http(app) if self.spans else app


def _give_memory_back() -> None:
    """Have the memory of large bodies and answers given back to the system once it is free.

    glibc raises its threshold with each large block that is freed, and keeps an arena for each thread: after
    a few large requests a process would keep for ever what all of them needed together."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not in every C library
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 128 << 10)
        mallopt(_M_ARENA_MAX, 2)


def make_worker(layers: Layers) -> Application:
    """Return the application of one worker process, for uvicorn. It ends with its parent, even if that is killed."""
    terminal.prepare()
    logs.configure(layers.settings().log)
    # A terminal that closes also tells the parent, which ends its workers in order.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if not end_with_parent(signal.SIGTERM):
        sys.exit(STARTUP_FAILED)
    api = Api(layers)
    try:
        api.open()
    except BdlabError as error:
        log.error("worker not started", problem=error.message, hint=error.hint)
        sys.exit(1 if isinstance(error, VaultUnavailable) else STARTUP_FAILED)
    return api.asgi()
