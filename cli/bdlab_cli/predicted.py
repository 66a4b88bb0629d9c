"""Predictions on their way out: a table, JSON lines, or a file."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import msgspec
import typer

from bdlab.errors import BdlabError, InvalidInput
from bdlab.reviews.bulk import Outcome
from bdlab_cli import wiring

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

TABLE_ROWS = 50
"""A table shows so many; a larger file is for --json and --output."""

_TOP_TERMS = 4
_SHOWN_WEIGHT = 0.05
_DOUBTED = "? few words are known, or stars and sentiment contradict each other: --json tells which"
_WIDE = 80
_ID_WIDTH = 39
_FIELDS = (
    "line", "state", "id", "prediction", "sentiment", "confidence", "explanation", "known_terms", "warning",
    "model", "created_at", "partition", "offset", "summary", "text",
)  # fmt: skip


class Results(Protocol):
    def add(self, outcome: Outcome) -> None: ...

    def __enter__(self) -> Results: ...

    def __exit__(self, *raised: Any) -> None: ...


def results(*, as_json: bool, output: Path | None, published: bool) -> Results:
    """Where results go. Raises InvalidInput for an --output of another kind."""
    if output is None:
        return _JsonLines() if as_json else _Table(published=published)
    kinds = {".csv": _CsvFile, ".jsonl": _JsonFile, ".ndjson": _JsonFile}
    kind = kinds.get(output.suffix.lower())
    if kind is None:
        raise InvalidInput(f"--output {output} ends in neither .csv nor .jsonl")
    return kind(output)


def as_fields(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON has it. `id` and `created_at` are there for what is, or may be, on the topic."""
    event = outcome.event
    fields: dict[str, Any] = {"line": outcome.line, "state": outcome.became}
    if outcome.became != "scored":
        fields["id"] = str(event.id)
    fields |= {
        "prediction": event.prediction,
        "sentiment": event.sentiment,
        "confidence": event.confidence,
        "known_terms": outcome.score.known_terms,
        "warning": outcome.score.warning or None,
        "explanation": msgspec.to_builtins(event.explanation),
        "model": event.model,
    }
    if outcome.became != "scored":
        fields["created_at"] = event.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if outcome.position is not None:
        fields |= {"partition": outcome.position.partition, "offset": outcome.position.offset}
    return fields


class _JsonLines:
    """One object a line on standard output, as soon as it is known."""

    def __enter__(self) -> _JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def add(self, outcome: Outcome) -> None:
        typer.echo(msgspec.json.encode(as_fields(outcome)))


class _File:
    """A file that holds what is known so far at any time; lines in the order of the reviews."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] = io.StringIO()

    def __enter__(self) -> _File:
        try:
            self._file = self._path.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise BdlabError(f"--output {self._path} cannot be written: {error.strerror}") from error
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def begin(self) -> None:
        """Write what comes before the first result."""

    def add(self, outcome: Outcome) -> None:
        event = outcome.event
        fields = as_fields(outcome) | {"summary": event.summary, "text": event.text}
        try:
            self.write(fields)
        except OSError as error:
            raise BdlabError(f"--output {self._path} cannot be written: {error.strerror}") from error

    def write(self, fields: dict[str, Any]) -> None:
        raise NotImplementedError


class _JsonFile(_File):
    def write(self, fields: dict[str, Any]) -> None:
        self._file.write(msgspec.json.encode(fields).decode() + "\n")


class _CsvFile(_File):
    def begin(self) -> None:
        self._writer = csv.DictWriter(self._file, _FIELDS, restval="")
        self._writer.writeheader()

    def write(self, fields: dict[str, Any]) -> None:
        self._writer.writerow(fields | {"explanation": msgspec.json.encode(fields["explanation"]).decode()})


class _Table:
    """A table on standard output, of the first reviews."""

    def __init__(self, *, published: bool) -> None:
        self._published = published
        self._first: list[Outcome] = []
        self._count = 0

    def __enter__(self) -> _Table:
        return self

    def add(self, outcome: Outcome) -> None:
        self._count += 1
        if len(self._first) < TABLE_ROWS:
            self._first.append(outcome)

    def __exit__(self, *_: object) -> None:
        if not self._first:
            return
        out = wiring.out()
        out.print(self._alone(self._first[0]) if self._count == 1 else self._rows(out.width))
        if self._count > len(self._first):
            more = self._count - len(self._first)
            wiring.talk().print(f"... and {more} more; --json or --output has all of them")

    def _alone(self, outcome: Outcome) -> Table:
        """One review, field by field."""
        from rich.table import Table
        from rich.text import Text

        table = Table(show_header=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        event = outcome.event
        table.add_row("review", Text(_short(event.summary or event.text)))
        table.add_row("stars", Text(stars(event.prediction)))
        table.add_row("sentiment", _sentiment(outcome))
        table.add_row("top words", Text(top_words(outcome)))
        if outcome.score.warning:
            table.add_row("warning", Text(outcome.score.warning, style="yellow"))
        if self._published:
            table.add_row("id", Text(_id(outcome)))
        return table

    def _rows(self, width: int) -> Table:
        """A row a review; on a terminal too narrow for all, an id stays whole and the words make room."""
        from rich.table import Table
        from rich.text import Text

        wide = width >= _WIDE + (_ID_WIDTH if self._published else 0)
        doubted = any(outcome.score.warning for outcome in self._first)
        table = Table(caption=_DOUBTED if doubted else None, caption_justify="left")
        table.add_column("review", ratio=3)
        for title in ("stars", "sentiment", *(["top words"] if wide else [])):
            table.add_column(title, overflow="fold")
        if self._published:
            table.add_column("id", no_wrap=True)
        for outcome in self._first:
            event = outcome.event
            cells = [
                Text(_short(event.summary or event.text)),
                Text(stars(event.prediction) if wide else f"{event.prediction:.1f}"),
                _sentiment(outcome),
            ]
            if wide:
                cells.append(Text(top_words(outcome)))
            if self._published:
                cells.append(Text(_id(outcome)))
            table.add_row(*cells)
        return table


def _sentiment(outcome: Outcome) -> Text:
    from rich.text import Text

    event = outcome.event
    style = "green" if event.sentiment == "positive" else "red"
    doubt = " ?" if outcome.score.warning else ""
    return Text(f"{event.sentiment} {event.confidence:.0%}{doubt}", style=style)


def _id(outcome: Outcome) -> str:
    return str(outcome.event.id) if outcome.position else outcome.became


def stars(prediction: float) -> str:
    """Like ★★★★☆ 3.9."""
    full = round(prediction)
    return f"{'★' * full}{'☆' * (5 - full)} {prediction:.1f}"


def top_words(outcome: Outcome) -> str:
    """Like terrible -1.9, waste -0.8: the strongest terms, in stars, but those that show as 0.0."""
    strongest = [term for term in outcome.event.explanation[:_TOP_TERMS] if abs(term.weight) >= _SHOWN_WEIGHT]
    return ", ".join(f"{term.term} {term.weight:+.1f}" for term in strongest) or "(none)"


def _short(text: str, length: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"
