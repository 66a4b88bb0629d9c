"""The parts of `bdlab rescore` put together."""

import os
from contextlib import ExitStack, closing
from datetime import datetime
from functools import partial

from uuid_utils.compat import uuid7

from bdlab.model import load_scorer
from bdlab.postgres.reader import Reader
from bdlab.postgres.rescores import Ranges
from bdlab.rescoring import Done, Rescored, Rescoring, scoring
from bdlab.retry import wait_for
from bdlab.settings import Layers
from bdlab_cli.output.progress import no_line, progress_bar
from bdlab_cli.wiring.models import load_version
from bdlab_cli.wiring.session import open_session
from bdlab_cli.wiring.signals import stop_on_signal


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
                read = partial(load_version, session.settings(), reader, model, many=True)
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
