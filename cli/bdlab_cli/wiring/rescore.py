"""The parts of `bdlab rescore` put together, and its threads.

A range is read, scored and stored in one transaction that holds the lock of its row. So any number of threads and
machines work at once, and what one that ended had in hand is free again."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from uuid_utils.compat import uuid7

from bdlab.model import load_scorer
from bdlab.postgres.reader import Reader
from bdlab.postgres.rescores import Ranges
from bdlab.rescoring import Done, Rescored, Score, Window, scoring
from bdlab.retry import AWAY, Backoff, Outage, wait_for
from bdlab.settings import Layers
from bdlab.wiring.models import load_version
from bdlab_cli.output.progress import no_line, progress_bar
from bdlab_cli.wiring.session import open_session
from bdlab_cli.wiring.signals import stop_on_signal

PLAN_EVERY_S = 3.0
"""How often what has arrived is planned."""
_PAUSE_S, _TELL_S = 0.5, 0.2


@dataclass
class Rescoring:
    """One run: a thread for each of `scores`, with ranges that `make` makes. With `follow` it goes on with what
    arrives, until `stop` is set. Servers that are away are waited for, at the start for at most `patience_s` seconds.
    `tell` is called several times a second with what is done, and the offsets that were left at the beginning."""

    make: Callable[[], Ranges]
    scores: Sequence[Score]
    stop: threading.Event
    follow: bool
    patience_s: float
    tell: Callable[[Done, int], None]
    _totals: dict[int, Done] = field(default_factory=dict)

    def run(self, since: datetime | None, until: datetime | None) -> Rescored:
        """Score what was stored from `since` to before `until`. A range in hand is finished when `stop` is set. Raises
        ModelError if the model fails on a row, DatabaseError, VaultError."""
        began, outage = time.monotonic(), Outage("what has arrived is not planned yet", "going on")
        with closing(self.make()) as ranges, ThreadPoolExecutor(len(self.scores)) as pool:
            waited = partial(wait_for, "PostgreSQL", timeout_s=self.patience_s, stop=self.stop)
            self._window: Window = waited(partial(ranges.plan, since, until))
            _, total = waited(partial(ranges.left, self._window))
            workers = [pool.submit(self._work, number) for number in range(len(self.scores))]
            planned_at = time.monotonic()
            try:
                while wait(workers, _TELL_S).not_done:
                    self.tell(self._done(), total)
                    if self.follow and not self.stop.is_set() and time.monotonic() - planned_at > PLAN_EVERY_S:
                        planned_at = time.monotonic()
                        try:
                            self._window = ranges.plan(since, until, self._window)
                            outage.over()
                        except AWAY as error:
                            outage.failed(error)
            except BaseException:
                self.stop.set()  # or the pool would wait for those who follow
                raise
            for worker in workers:
                worker.result()
            # The database knows better: a connection may end between a commit and its answer.
            count, predictions = waited(ranges.done)
            left, _ = waited(partial(ranges.left, self._window))
        return Rescored(
            model=ranges.model,
            run=ranges.run,
            ranges=count,
            predictions=predictions,
            known=self._done().known,
            ranges_left=left,
            seconds=round(time.monotonic() - began, 3),
        )

    def _done(self) -> Done:
        return Done(*map(sum, zip(Done(), *self._totals.values(), strict=True)))

    def _work(self, number: int) -> None:
        total = Done()
        backoff, outage = Backoff(0.1, 2.0), Outage("a range is not scored yet", "going on")
        with closing(self.make()) as ranges:
            while not self.stop.is_set():
                try:
                    if done := ranges.work(self.scores[number], self._window):
                        total = self._totals[number] = Done(*map(sum, zip(total, done, strict=True)))
                    elif not self.follow and not ranges.left(self._window)[0]:
                        return
                    else:  # others have them, and may yet lose them
                        self.stop.wait(_PAUSE_S)
                except AWAY as error:
                    outage.failed(error)
                    backoff.wait(self.stop)
                except BaseException:
                    self.stop.set()
                    raise
                else:
                    outage.over()
                    backoff.reset()


def rescore_stored(
    layers: Layers,
    model: str | None,
    card: str | None,
    *,
    since: datetime | None,
    until: datetime | None,
    follow: bool,
    jobs: int | None,
) -> Rescored:
    """Score what is stored with a version of the registry, or with `card`. Raises BdlabError."""
    from rich.progress import MofNCompleteColumn, TextColumn, TimeRemainingColumn

    patience_s = layers.settings().startup_timeout_s
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_signal())
        session_of = partial(open_session, layers, stop, service="rescore", database=True, kafka=False)
        if model:
            with session_of() as session, closing(Reader(session, application_name="bdlab rescore")) as reader:
                read = partial(load_version, session.settings(), reader, model)
                scorer = wait_for("PostgreSQL", read, timeout_s=patience_s, stop=stop)
        else:
            scorer = load_scorer(card or "", many=True)
        # Processes are forked before the threads begin that renew logins.
        scores = stack.enter_context(scoring(scorer, jobs or len(os.sched_getaffinity(0))))
        session = stack.enter_context(session_of(renewed=True))
        stack.enter_context(no_line())
        rate = TextColumn("{task.fields[rate]}")
        bar = stack.enter_context(progress_bar(MofNCompleteColumn(), rate, TimeRemainingColumn()))
        task = bar.add_task("scoring", total=None, rate="")

        def tell(done: Done, offsets: int) -> None:
            rate = done.predictions / (bar.tasks[0].elapsed or 1)
            bar.update(task, completed=done.offsets, total=None if follow else offsets, rate=f"{rate:,.0f}/s")

        run, contract = str(uuid7()), scorer.codec.contract
        return Rescoring(
            make=lambda: Ranges(session, scorer.name, contract, run),
            scores=scores,
            stop=stop,
            follow=follow,
            patience_s=patience_s,
            tell=tell,
        ).run(since, until)
