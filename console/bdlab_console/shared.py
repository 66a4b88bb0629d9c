"""What is asked once for all viewers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import msgspec
import structlog

from bdlab.errors import BdlabError

log = structlog.get_logger()
T = TypeVar("T")
_KEPT = 500  # answers; the oldest go first
_MOST_AT_ONCE = 10


def told(error: Exception) -> str:
    """Return what a person is told of an error in a thread; one that nobody expects is logged."""
    if isinstance(error, BdlabError):
        return f"{error.message} {error.hint}".strip()
    log.error("defect", exc_info=error)
    return "A defect of bdlab; the console's log has the reason."


class Answer(msgspec.Struct, Generic[T], kw_only=True):
    """The newest `value` and when it was asked for; if a later question failed, its `error` and `since` when."""

    value: T | None = None
    at: datetime | None = None
    error: BdlabError | None = None
    since: datetime | None = None
    asked_at: float = 0.0

    def found(self) -> T:
        """Return the value. Raises the error if there is none."""
        if self.value is None and self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]


class Shared:
    """Answers to questions that block, each asked by one thread at a time and kept for a while, so that servers are not
    asked more often because more people look."""

    def __init__(self, threads: int = 8) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="question")
        self._answers: dict[Hashable, Answer[Any]] = {}
        self._asking: dict[Hashable, asyncio.Task[Answer[Any]]] = {}
        self._since: dict[Hashable, datetime] = {}

    def close(self) -> None:
        """Wait for nobody; what still runs is forgotten."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def get(
        self, key: Hashable, question: Callable[[], T], *, keep_s: float, wait_s: float | None = None
    ) -> Answer[T]:
        """Return the answer under `key`, at most `keep_s` seconds old. A question that raises BdlabError leaves the
        value of before, with the error beside it. Whoever has waited `wait_s` seconds gets the answer of before, or one
        without a value."""
        known = self._answers.get(key)
        if known is not None and time.monotonic() - known.asked_at < keep_s:
            return known
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._ask(key, question))
            self._since[key] = datetime.now(UTC)
            task.add_done_callback(lambda _: (self._asking.pop(key, None), self._since.pop(key, None)))
        await asyncio.wait({task}, timeout=wait_s)
        return task.result() if task.done() else self._answers.get(key, Answer())

    async def begin(
        self, key: Hashable, question: Callable[[], T], *, keep_s: float
    ) -> tuple[Answer[T], datetime | None]:
        """Return what is known under `key`, however old, and since when it is being asked anew, for questions that take
        long; the first second is waited for. Raises BdlabError if many others are being asked."""
        if not {key} & {*self._answers, *self._asking} and len(self._asking) >= _MOST_AT_ONCE:
            raise BdlabError("as many other figures as may wait are being counted", hint="Reload the page in a minute.")
        answer = await self.get(key, question, keep_s=keep_s, wait_s=1.0)
        return answer, self._since.get(key)

    async def _ask(self, key: Hashable, question: Callable[[], T]) -> Answer[T]:
        before = self._answers.get(key, Answer[T]())
        now = datetime.now(UTC)
        try:
            answer = Answer(value=await self.run(question), at=now)
        except BdlabError as error:
            answer = Answer(value=before.value, at=before.at, error=error, since=before.since or now)
        answer.asked_at = time.monotonic()
        self._answers.pop(key, None)
        self._answers[key] = answer
        while len(self._answers) > _KEPT:
            del self._answers[next(iter(self._answers))]
        return answer

    def forget(self, key: Hashable) -> None:
        """Have the next one who asks under `key` get a new answer."""
        self._answers.pop(key, None)

    async def run(self, call: Callable[[], T]) -> T:
        """Return what `call` does in a thread, for one who asked for it."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)
