"""Scoring from the event loop: at once if that is fast, else in a thread and in micro-batches."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from bdlab.events import Input, Score
from bdlab.model import Scorer

QUICK_CHARACTERS = 16_000  # scoring a text or decoding a body of that length takes a few ms: no thread is worth it
THREADS = 2  # Python runs one at a time: with more of them the event loop would only wait longer
MAX_MICRO_BATCH = 256
T = TypeVar("T")


class AsyncScorer:
    """Scores from the event loop. A blocking scorer gets the inputs that came in during its last batch."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self._texts = [field.column for field in scorer.codec.contract.inputs if field.is_text]
        self._waiting: deque[tuple[Input, asyncio.Future[Score]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="scoring")

    async def in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return the result of `work`, called in a thread. Raises what `work` raises."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def score(self, given: Input) -> Score:
        """Return the score. Raises ModelError."""
        if self.scorer.blocking:
            future: asyncio.Future[Score] = asyncio.get_running_loop().create_future()
            self._waiting.append((given, future))
            if self._worker is None or self._worker.done():
                self._worker = asyncio.create_task(self._score_waiting())
            return await future
        characters = 0
        for column in self._texts:
            characters += len(getattr(given, column) or "")
        if characters > QUICK_CHARACTERS:
            return await self.in_thread(self.scorer.score, given)
        return self.scorer.score(given)

    async def _score_waiting(self) -> None:
        while self._waiting:
            size = min(MAX_MICRO_BATCH, len(self._waiting))
            await self._score_batch([self._waiting.popleft() for _ in range(size)])

    async def _score_batch(self, batch: Sequence[tuple[Input, asyncio.Future[Score]]]) -> None:
        try:
            scores = await self.in_thread(self.scorer.score_many, [given for given, _ in batch])
        except Exception as error:  # noqa: BLE001 - raised in the task that waits for it
            if len(batch) > 1:  # one input may be the cause: the others are scored without it
                for one in batch:
                    await self._score_batch([one])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        for (_, future), score in zip(batch, scores, strict=True):
            if not future.done():
                future.set_result(score)
