"""The HTTP API over the real servers, in this process or in several workers: what `bdlab serve` runs."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

import structlog

from bdlab import tracing
from bdlab.contract import check_fits
from bdlab.credentials import FeedbackTopic
from bdlab.errors import BdlabError, DatabaseError, ModelNotFound, VaultError, VaultUnavailable
from bdlab.forked import end_with_parent
from bdlab.retry import tries, wait_for
from bdlab.settings import Layers, Settings
from bdlab_cli.output import logs, terminal
from bdlab_cli.wiring.session import daemon_session

if TYPE_CHECKING:
    from bdlab.serving.running import Promotions

log = structlog.get_logger()
Application = Callable[..., Awaitable[None]]
SERVICE = "serve"
STARTUP_FAILED = 3  # tells uvicorn's supervisor that another try would fail in the same way
_COMPARED_WITHIN_S = 3.0  # how long the start waits for the database's contract, which is then compared later
_COMPARE_EVERY_S = 2.0
_GC_THRESHOLD = 10_000  # new objects until the next collection, which looks at all requests in progress: no garbage
# malloc.h: the size from which a block is mapped by itself, and the number of arenas for threads.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8


class Api:
    """Everything that the API uses. It is opened once, in the process that serves."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._open = ExitStack()
        self._compared = threading.Event()
        self._refusal: BdlabError | None = None  # why the model cannot be served over this database
        self._promotions: Promotions | None = None

    def open(self) -> None:
        """Load the model, log in to Vault (waiting for it) and start connecting; does not wait for a broker. Raises
        ModelError, also if the model's contract is not that of the database, and VaultError; with a registry also
        DatabaseError, if the database is away and this machine does not know what is promoted."""
        from bdlab.kafka.admin import Admin
        from bdlab.kafka.producer import Producer
        from bdlab.model import load_scorer
        from bdlab.postgres.reader import Reader
        from bdlab.serving.running import Running

        _give_memory_back()
        before = self._layers.settings()
        follows = before.model.registry and not before.model.path
        if not follows:
            self.model = Running(load_scorer(before.model.path))
        with ExitStack() as opening:
            self.spans = tracing.start(SERVICE, os.environ, topic=before.kafka.topic)
            if self.spans:
                opening.callback(self.spans.close)
            self.vault = opening.enter_context(closing(daemon_session(self._layers, SERVICE)))
            self.vault.open(before.startup_timeout_s)
            self.settings = self.vault.settings()
            # Shorter than the time-out of /health, and short enough for a stop to wait for.
            self.admin = opening.enter_context(closing(Admin(self.vault, client_id="bdlab-serve", timeout_s=2.0)))
            asks = Admin(FeedbackTopic(self.vault), client_id="bdlab-serve-feedback-state", timeout_s=2.0)
            self.feedback_admin = opening.enter_context(closing(asks))
            self.reader = opening.enter_context(closing(Reader(self.vault)))
            if follows:
                self._follow(before)
            self.producer = Producer(self.vault, client_id="bdlab-serve", source="/bdlab/serve")
            if self.spans:
                self.producer.publish = self.spans.sending(self.producer.publish)  # type: ignore[method-assign]
            opening.callback(self.producer.close)
            self.producer.open()
            feedback = Producer(FeedbackTopic(self.vault), client_id="bdlab-serve-feedback", source="/bdlab/serve")
            self.feedback = opening.enter_context(closing(feedback))
            self.feedback.open()
            stop = threading.Event()
            opening.callback(stop.set)
            threading.Thread(target=self._watch, args=[stop, before.model.poll_s], daemon=True).start()
            self._compared.wait(_COMPARED_WITHIN_S)
            self._compared.set()
            if self._refusal is not None:
                raise self._refusal
            self._open = opening.pop_all()

    def _follow(self, settings: Settings) -> None:
        """Load what is promoted; what was, as far as this machine knows, if the database does not answer."""
        from bdlab.model.registry import Registry, Version
        from bdlab.serving.running import Promotions

        def promoted() -> Version | None:
            return next((Version(**row) for row in self.reader.ask("promoted", "models")), None)

        registry, away = Registry.of(settings), (DatabaseError, VaultError)
        try:
            version = wait_for("the database", promoted, timeout_s=_COMPARED_WITHIN_S, errors=away)
        except away:
            try:
                version = registry.remembered()
            except ModelNotFound:  # the shipped model may be another than is promoted
                version = wait_for("the database", promoted, timeout_s=settings.startup_timeout_s, errors=away)
        self._promotions = Promotions(registry, promoted)
        self.model = self._promotions.start(version)

    def _watch(self, stop: threading.Event, poll_s: float) -> None:
        """Compare the model's contract with the database's, once that answers; then follow what is promoted. With a
        mismatch the API is not ready, and publishes nothing, for as long as it lasts."""
        for _ in tries(math.inf, stop=stop, longest_s=_COMPARE_EVERY_S):
            try:
                check_fits(self.model.scorer.codec.contract, self.reader.contract())
                self.model.unfit = ""
                break
            except (DatabaseError, VaultError):
                self._compared.set()
            except BdlabError as error:
                new = not self.model.unfit
                self._refusal, self.model.unfit = error, error.message
                if new:
                    log.error("not ready: the model does not fit the database", problem=error.message, hint=error.hint)
                self._compared.set()
        self._compared.set()
        while self._promotions and not stop.wait(poll_s):
            with suppress(DatabaseError, VaultError):
                self._promotions.look()

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
            model=self.model,
            publisher=AsyncPublisher(self.producer),
            feedback=AsyncPublisher(self.feedback),
            stored=self.reader,
            vault=self.vault,
            broker=self.admin,
            feedback_broker=self.feedback_admin,
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
    """Have the memory of large bodies and answers given back to the system once it is free. glibc raises its threshold
    with each large block that is freed, and keeps an arena for each thread: after a few large requests a process would
    keep for ever what all of them needed together."""
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
