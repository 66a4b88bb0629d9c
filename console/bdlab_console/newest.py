"""The newest rows of `predictions`, and the figures of the last minutes: one task asks for all who look."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from litestar import Litestar

from bdlab.errors import BdlabError
from bdlab_console.feed import MAX_VIEWERS, Channel, full
from bdlab_console.parts import Console

SHOWN = 200  # rows in one event, and on a page
WINDOW_S, STEP_S = 300, 5  # of the figures, and of one point of the chart
_KEPT, _MOST = 1000, 200_000  # rows kept for who comes; positions that are looked through, not only counted
_ROUND_S, _FIRST_S, _IDLE_S, _FILTERS = 1.0, 2.0, 60.0, 50


class Wanted(NamedTuple):
    """What a viewer wants: rows of a model (a name, or name@version), an outcome, with a text; `hide` masks texts."""

    model: str = ""
    outcome: str = ""
    text: str = ""
    hide: bool = False

    @property
    def narrow(self) -> bool:
        return bool(self.model or self.outcome or self.text)

    def has(self, row: dict[str, Any]) -> bool:
        model = row["model"] if "@" in self.model else row["model"].partition("@")[0]
        return (
            self.model in ("", model)
            and self.outcome in ("", row["outcome"])
            and (self.hide or self.text.casefold() in row["words"].casefold())
        )


class Figures(NamedTuple):
    """Rows by (outcome, step of latency) in `seconds`."""

    counts: Counter[tuple[str | None, int]]
    seconds: int

    @property
    def rows(self) -> int:
        return self.counts.total()

    @property
    def mix(self) -> dict[str, int]:
        found: Counter[str] = Counter()
        for (outcome, _), rows in self.counts.items():
            if outcome is not None:
                found[outcome] += rows
        return dict(sorted(found.items()))

    def latency_ms(self, share: float) -> float | None:
        """Return a quantile of the latencies, to within 5 %; None if there are no rows."""
        left, steps = share * self.rows, Counter[int]()
        for (_, step), rows in self.counts.items():
            steps[step] += rows
        for step, rows in sorted(steps.items()):
            if (left := left - rows) <= 0:
                return round(float(1.05 ** (step + 0.5)), 1)
        return None


class Feed:
    """Reads by position: in a partition all from one next_offset of the sink to the next is recorded, so that each
    position is shown, or counted, once. It asks while somebody looks, and goes on later from where it was."""

    def __init__(self, parts: Console) -> None:
        self._parts = parts
        self._macros: Any = None
        self.rows: deque[dict[str, Any]] = deque(maxlen=_KEPT)  # the newest first
        self.total = 0  # positions recorded: the id of an event
        self.error: BdlabError | None = None
        self._channels: dict[Wanted, Channel] = {}
        self._next: dict[tuple[int, int], int] | None = None
        self._seconds: dict[int, Counter[tuple[str | None, int]]] = {}
        self._now = self._looked_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self.outcomes: list[str] = []
        self.figures: dict[str, str] = {}  # as they were sent last

    async def channel(self, wanted: Wanted, app: Litestar) -> Channel:
        """Return the channel of those who want the same. Raises HTTPException 503 if there are too many."""
        self._looked_at = time.monotonic()
        self._macros = self._macros or app.template_engine.engine.get_template("parts/live.html").module  # type: ignore[union-attr]
        if self._task is not None and self._task.done():
            self._task.result()  # raises what it failed with, once
            self._task = None
        if self._task is None:
            self._ready.clear()
            self._task = asyncio.create_task(self._go_on())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ready.wait(), _FIRST_S)
        if (found := self._channels.pop(wanted, None)) is None:
            empty = [each for each, channel in self._channels.items() if not channel.viewers]
            if len(self._channels) >= _FILTERS:
                if not empty:
                    raise full()
                del self._channels[empty[0]]
            found = Channel(missed=self._missed, last=self.total)
        self._channels[wanted] = found
        if sum(channel.viewers for channel in self._channels.values()) >= MAX_VIEWERS:
            raise full()
        return found

    async def _go_on(self) -> None:
        while time.monotonic() - self._looked_at < _IDLE_S or any(each.viewers for each in self._channels.values()):
            await self._round()
            self._ready.set()
            await asyncio.sleep(_ROUND_S)

    async def _round(self) -> None:
        """Ask for what is new, and send it; what is away is asked again in the next round."""
        step = int(self._now) // STEP_S
        try:
            await self._look()
            self.error = None
        except BdlabError as error:
            self.error = error
        names = ["tiles"] if self.figures and int(self._now) // STEP_S == step else ["tiles", "chart", "table"]
        for name in names:
            html = getattr(self._macros, name)(self)
            if self.figures.get(name) != html:
                self.figures[name] = html
                for channel in self._channels.values():
                    channel.publish(name, html, last=channel.last)

    async def _look(self) -> None:
        ends = await self._ask("ends", topic=self._parts.settings.kafka.topic)
        now, following, new = time.time(), dict[tuple[int, int], int](), list[tuple[int, int, int, int]]()
        for log, partition, first, end, now in (each.values() for each in ends):  # noqa: B007
            following[log, partition] = end
            since = end - SHOWN if self._next is None else self._next.get((log, partition), first)
            new += [(log, partition, max(first, since), end)] if end > max(first, since) else []
        values = dict(zip(("logs", "partitions", "since", "next"), map(list, zip(*new, strict=True)), strict=False))
        recorded = sum(end - since for _, _, since, end in new)
        afresh = self._next is None or recorded > _MOST
        rows = await self._ask("rows", limit=SHOWN, **values) if new else []
        counts = {"unknown": recorded - len(rows)}
        figures = await self._ask("past_figures" if afresh else "figures", **values) if new or afresh else []
        if new and not afresh:
            (counts,) = await self._ask("others", **values)
            stored = sum(each["rows"] for each in figures)
            counts |= {"more": max(0, stored - len(rows)), "gone": recorded - stored - sum(counts.values())}
        seconds = {} if afresh else {at: rows for at, rows in self._seconds.items() if at >= now - WINDOW_S - STEP_S}
        for each in figures:
            seconds.setdefault(each["second"], Counter())[each["outcome"], each["step"]] += each["rows"]
        self.rows.extendleft(reversed(rows))
        if self._next is None:
            self.total = sum(each["next_offset"] - each["first_offset"] for each in ends)
        elif new:
            self.total += recorded
            for wanted, channel in self._channels.items():
                found = [*filter(wanted.has, rows)]
                if found or any(counts.values()):
                    html = self._macros.rows(self, found, wanted.hide, new=True) + self._macros.more(counts, wanted)
                    channel.publish("rows", html, last=self.total)
        self._now, self._next, self._seconds = now, following, seconds

    def _missed(self, count: int) -> tuple[str, str]:
        return "rows", self._macros.more({"unknown": count}, Wanted())

    async def _ask(self, query: str, **values: Any) -> list[dict[str, Any]]:
        contract = await self._parts.contract()
        columns = {field.column: f'"{field.column}"' for field in contract}
        texts = [field for field in contract.inputs if field.is_text]
        first = next((field for field in texts if field.required), None) or next(iter(texts), None)
        words = columns[first.column] if first else f"concat_ws(', ', {', '.join(list(columns.values())[:4])})"
        outcome = next((field for field in contract.outputs if field.choices), None)
        self.outcomes = [*outcome.choices] if outcome else []
        names = {
            "outcome": columns[outcome.column] if outcome else "NULL::text",
            "words": f"coalesce({words}, '')",
            "confidence": columns.get("confidence", "NULL"),
        }
        return await self._parts.shared.run(
            partial(self._parts.newest.ask, query, "live", names if query != "ends" else None, **values)
        )

    def kind(self, outcome: str) -> str:
        """Return the class of an outcome's colour."""
        return f"c{self.outcomes.index(outcome) % 6 + 1}" if outcome in self.outcomes else "unknown"

    def over(self, seconds: int, *, until: int | None = None) -> Figures:
        """Return the figures of the last seconds that are over."""
        end = int(self._now) if until is None else until
        counts: Counter[tuple[str | None, int]] = Counter()
        for at in range(end - seconds, end):
            counts.update(self._seconds.get(at, ()))
        return Figures(counts, seconds)

    def points(self) -> Iterator[tuple[int, Figures]]:
        """Yield the figures of each STEP_S seconds, with when they began, in seconds since 1970."""
        end = int(self._now) // STEP_S * STEP_S
        for at in range(end - WINDOW_S, end, STEP_S):
            yield at, self.over(STEP_S, until=at + STEP_S)
