"""The steps of `bdlab predict`: check all inputs, score, publish, print, and account for each."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from uuid_utils.compat import uuid7

from bdlab.errors import BdlabError, InvalidInput
from bdlab.events import Event, Input, Score, codec_of
from bdlab.inputs.body import Validator
from bdlab.inputs.bulk import PART_ROWS, RowResult, ScoredRow, ScoringProcesses, publish_rows, score_each, unpublished
from bdlab.inputs.files import STANDARD_INPUT, BadRow, Format, InputFile, Place, Row
from bdlab.model import Scorer, load_scorer
from bdlab.settings import Layers
from bdlab_cli.output import terminal
from bdlab_cli.output.predictions import Results
from bdlab_cli.wiring.session import open_session
from bdlab_cli.wiring.signals import stop_on_signal

if TYPE_CHECKING:
    from rich.progress import Progress

    from bdlab.credentials import KafkaCredentials
    from bdlab.vault.session import VaultSession

SHOWN_PROBLEMS = 20
MAX_RUN_ID = 200
MANY_BYTES = 1 << 20
"""From this size of a file on, processes that score many inputs at once repay their start."""


@dataclass
class Prediction:
    """One run of the command, with the options that one input and a file have in common."""

    layers: Layers
    model_path: str
    validator: Validator
    results: Results
    publish: bool
    output: str | None
    chosen_run_id: str | None
    source: str
    service: ClassVar[str] = "predict"

    def __post_init__(self) -> None:
        if self.chosen_run_id is not None and not 1 <= (length := len(self.chosen_run_id)) <= MAX_RUN_ID:
            raise InvalidInput(f"--run-id has to be of 1 to {MAX_RUN_ID} characters, and has {length}")
        self.contract = self.validator.contract
        self.run_id = self.chosen_run_id or str(uuid7())
        self.max_row_bytes = self.layers.settings().http.max_body_bytes

    def scorer(self, *, many: bool = False) -> Scorer:
        return load_scorer(self.model_path, many=many)

    def topic(self, vault: VaultSession) -> KafkaCredentials:
        return vault

    def event(self, row: ScoredRow, model: str) -> Event:
        """Return the event of a row: the same file under the same run id gives the same ids."""
        codec = codec_of(self.contract)
        event_id = codec.idempotent_id(f"{self.run_id}:{row.line}", row.given)
        return codec.make(event_id, row.given, cast("Score", row.score), model=model)

    def outcomes(
        self, scored: Iterable[ScoredRow], model: str, stop: threading.Event, *, many: bool = True
    ) -> Iterator[RowResult]:
        """Publish the scored rows unless the options say otherwise. Raises VaultError."""
        if not self.publish:
            yield from unpublished(scored, model=model)
            return
        from bdlab import tracing
        from bdlab.kafka.producer import Producer

        with ExitStack() as stack:
            there = self.topic(stack.enter_context(open_session(self.layers, stop, service=self.service)))
            source = f"/bdlab/{self.source}"
            producer = Producer(there, client_id=f"bdlab-{self.service}", source=source, idempotent=many)
            if spans := tracing.start(self.service, os.environ, topic=there.kafka().server.topic):
                stack.callback(spans.close)
                producer.publish = spans.sending(producer.publish)  # type: ignore[method-assign]
            producer.open()
            # Every input is accounted for by then, so nothing is left to wait for.
            stack.callback(producer.close, 1.0)
            yield from publish_rows(scored, producer, lambda row: self.event(row, model), stop=stop)


def predict_one(prediction: Prediction, given: Input) -> None:
    """Predict from one input. Raises VaultError, BrokerError (it is not acknowledged)."""
    noun, scorer = prediction.contract.noun, prediction.scorer()
    with stop_on_signal() as stop, prediction.results as shown:
        for outcome in prediction.outcomes(score_each([Row(1, given)], scorer), scorer.name, stop, many=False):
            if outcome.problem is not None:
                hint = f"Run it again with --run-id {prediction.run_id}: then it is stored once, "
                hint += "whether or not the broker has it already."
                raise type(outcome.problem)(outcome.problem.message, hint=hint) from outcome.problem
            shown.add(outcome)
            shown.complete()
            break
        else:
            raise BdlabError(f"interrupted; the {noun} was not published")
    if outcome.event is not None:
        at = outcome.position
        place = f", partition {at.partition} offset {at.offset}" if at else ""
        _tell_lost_results(f"The {noun} is published: id {outcome.event.id}{place}.")


def predict_file(
    prediction: Prediction, source: str, *, kind: Format | None, delimiter: str, skip_invalid: bool
) -> None:
    """Predict from a file. Raises InvalidInput for a bad row before any is published, and BdlabError."""
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    from bdlab_cli.output.progress import no_line, progress_bar

    if prediction.output is not None:
        same = source == prediction.output
        with suppress(OSError, RuntimeError):  # one of them is missing, which is said later, or an address
            same = Path(prediction.output).samefile("/dev/stdin" if source == STANDARD_INPUT else source)
        if same:
            hint = "Name another file."
            raise InvalidInput(f"--output {prediction.output} is the file that is read", hint=hint)
    if source == "-" and sys.stdin.isatty():
        terminal.echo(f"Reading {prediction.contract.plural} from the terminal; Ctrl-D ends them.", err=True)
    given, most = (source, sys.stdin.buffer, prediction.validator), prediction.max_row_bytes
    file = InputFile(*given, kind=kind, max_row_bytes=most, delimiter=delimiter)
    with stop_on_signal() as stop, no_line(), file, ExitStack() as stack:
        scorer = prediction.scorer(many=file.size >= MANY_BYTES)
        # Before the thread of the progress bar begins, since they are forked.
        forked = file.size >= MANY_BYTES and scorer.forkable
        processes = stack.enter_context(ScoringProcesses(file, scorer)) if forked else None
        progress = stack.enter_context(progress_bar(MofNCompleteColumn(), TimeRemainingColumn()))
        count, places = _check_all(prediction, file, progress, stop, skip_invalid=skip_invalid)
        if prediction.publish and prediction.chosen_run_id is None:
            terminal.echo(f"run id {prediction.run_id}", err=True)
        tally = _Tally()
        rows = (row for row in file.rows() if isinstance(row, Row))
        scored = processes.scored(places, stop) if processes else score_each(rows, scorer)
        task = progress.add_task("publishing" if prediction.publish else "scoring", total=count)
        with prediction.results as shown:
            for outcome in prediction.outcomes(scored, scorer.name, stop):
                tally.count(outcome)
                if tally.lost is None:
                    tally.lost = _lost(shown.add, outcome)
                if tally.tried % 100 == 0:
                    progress.update(task, completed=tally.tried)
                if tally.lost:
                    stop.set()
                if not prediction.publish and (stop.is_set() or terminal.failed()):
                    break
            progress.stop()  # its line is where the table begins
            if tally.tried == count and not (tally.failed or tally.lost):
                tally.lost = _lost(shown.complete)
    if prediction.publish:
        _tell_lost_results(f"To have the results: --run-id {prediction.run_id} --output FILE.")
    elif terminal.failed():
        return  # nothing else was to be done
    _account(prediction, file, tally, count, interrupted=stop.is_set())


def _lost(write: Callable[..., None], *results: RowResult) -> BdlabError | None:
    """Return what keeps a result from its file; the inputs in flight are still accounted for."""
    try:
        write(*results)
    except BdlabError as error:
        return error
    return None


def _tell_lost_results(published: str) -> None:
    """Tell of results that standard output did not take; the exit code remains that of the inputs."""
    if why := terminal.take_failure():
        terminal.echo(f"error: standard output cannot be written: {why}; results are missing\n{published}", err=True)


def _check_all(
    prediction: Prediction, file: InputFile, progress: Progress, stop: threading.Event, *, skip_invalid: bool
) -> tuple[int, list[Place | None]]:
    """Return how many rows are inputs, and the places after each PART_ROWS rows, from None for the first. Raises
    InvalidInput if a row is none, unless `skip_invalid`."""
    plural, done = prediction.contract.plural, "published" if prediction.publish else "scored"
    task = progress.add_task("checking", total=None)
    good, bad = 0, 0
    shown, places = list[str](), list[Place | None]([None])
    for number, row in enumerate(file.rows()):
        if stop.is_set():
            raise BdlabError(f"interrupted; nothing was {done}")
        if isinstance(row, BadRow):
            bad += 1
            if len(shown) < SHOWN_PROBLEMS:
                shown.append(str(row))
        else:
            good += 1
        if number % PART_ROWS == PART_ROWS - 1:
            places.append(file.place)
            progress.update(task, completed=number + 1, total=(number + 1) * file.size // file.place.offset)
    progress.remove_task(task)
    if bad > len(shown):
        shown.append(f"... and {bad - len(shown)} more")
    if bad and not skip_invalid:
        why = f"{file.name}: {bad} of {good + bad} rows are no {plural}, so nothing was {done}\n" + "\n".join(shown)
        raise InvalidInput(why, hint="Correct them, or leave them out with --skip-invalid.")
    if bad:
        terminal.echo(f"{file.name}: {bad} rows are left out\n" + "\n".join(shown), err=True)
    if not good:
        raise InvalidInput(f"{file.name} holds no {plural}: 0 rows")
    return good, places


class _Tally:
    """How many inputs were tried, and the lines of those that failed (at most those in flight)."""

    def __init__(self) -> None:
        self.tried = self.last_line = 0
        self.failed: dict[str, list[int]] = {}
        self.problem: BdlabError | None = None
        self.lost: BdlabError | None = None  # why the results are not in their file

    def count(self, outcome: RowResult) -> None:
        self.tried += 1
        self.last_line = outcome.line
        if outcome.problem is not None:
            self.failed.setdefault(outcome.status, []).append(outcome.line)
            self.problem = self.problem or outcome.problem


def _account(prediction: Prediction, file: InputFile, tally: _Tally, count: int, *, interrupted: bool) -> None:
    """Say what became of all rows. Raises BdlabError if some are not acknowledged."""
    unsent = count - tally.tried
    plural = prediction.contract.plural
    failed = sum(map(len, tally.failed.values()))
    verb = "acknowledged by the broker" if prediction.publish else "scored"
    done = f"{tally.tried - failed} of {count} {plural} {verb}"
    if not (failed or unsent or tally.lost):
        terminal.echo(done, err=True)
        return
    parts = [f"{file.name}: {done}"]
    for status, lines in tally.failed.items():
        note = " (the broker may have them)" if status == "not acknowledged" else ""
        parts.append(f"{status}{note}: {'line' if len(lines) == 1 else 'lines'} {_ranges(lines)}")
    if unsent:
        what = "sent" if prediction.publish else "scored"
        after = f"all after line {tally.last_line}" if tally.last_line else f"none was {what}"
        parts.append(f"not {what}: {unsent} {plural}, {after}")
    if problem := tally.problem or tally.lost:
        parts.append(f"the first problem: {problem.message}")
    elif interrupted:
        parts.append("the run was interrupted")
    again = f"Run it again with --run-id {prediction.run_id}: that completes it without duplicates."
    raise BdlabError("\n".join(parts), hint=again if prediction.publish else "")


def _ranges(lines: list[int]) -> str:
    """Return line numbers like 3, 7-9."""
    runs = groupby(enumerate(lines), lambda numbered: numbered[1] - numbered[0])
    spans = ([line for _, line in run] for _, run in runs)
    return ", ".join(f"{span[0]}-{span[-1]}" if len(span) > 1 else str(span[0]) for span in spans)
