"""Predictions on their way out: a table, JSON lines, or a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from bdlab.errors import BdlabError, InvalidInput
from bdlab.files import Replacement
from bdlab.reviews.bulk import RowResult
from bdlab_cli.output import terminal

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

#: What a cell begins with that a spreadsheet calculates or splits; of the wide forms, too.
_FORMULAS = frozenset("=+-@＝＋－＠")
_BREAKS = frozenset("\t\r\n")

_FIELDS = (
    "line", "state", "id", "prediction", "sentiment", "confidence", "explanation", "known_terms", "warning",
    "model", "created_at", "partition", "offset", "summary", "text",
)  # fmt: skip


class Results(Protocol):
    def add(self, outcome: RowResult) -> None: ...

    def complete(self) -> None:
        """To be called after the last one, where none is missing."""

    def __enter__(self) -> Results: ...

    def __exit__(self, *raised: Any) -> None: ...


def results(*, as_json: bool, output: Path | None, published: bool, raw_cells: bool) -> Results:
    """Where results go. Raises InvalidInput for an --output of another kind."""
    if output is None:
        return _JsonLines() if as_json else _Table(published=published)
    kind = output.suffix.lower()
    if kind == ".csv":
        return _CsvFile(output, raw_cells=raw_cells)
    if kind in (".jsonl", ".ndjson"):
        return _JsonFile(output)
    raise InvalidInput(
        f"--output {output} ends in neither .csv nor .jsonl",
        hint="For standard output leave it out, and give --json.",
    )


def as_fields(outcome: RowResult) -> dict[str, Any]:
    """An outcome as JSON has it. `id` and `created_at` are there for what is, or may be, on the topic."""
    event = outcome.event
    fields: dict[str, Any] = {"line": outcome.line, "state": outcome.status}
    if outcome.status != "scored":
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
    if outcome.status != "scored":
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

    def add(self, outcome: RowResult) -> None:
        terminal.echo_json(as_fields(outcome))

    def complete(self) -> None:
        """Nothing is left to do."""


class _File:
    """A file that holds all results in the end; until then, and where some are missing, it stays what it was.

    What is known so far is beside it. Lines are in the order of the reviews.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new = Replacement(path, hidden=False)

    def __enter__(self) -> _File:
        with self._named():
            self._new.__enter__()
            self.begin()
        return self

    def __exit__(self, *raised: object) -> None:
        self._new.__exit__(*raised)
        if self._new.partial is not None and self._new.keep:
            terminal.stderr().print(
                f"{self._path} is what it was; the results so far are in {self._new.partial}", soft_wrap=True
            )

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
            why = (getattr(error, "strerror", None) or str(error)).lower()
            raise BdlabError(f"--output {self._path} cannot be written: {why}") from error

    def begin(self) -> None:
        """Write what comes before the first result."""

    def add(self, outcome: RowResult) -> None:
        event = outcome.event
        fields = as_fields(outcome) | {"summary": event.summary, "text": event.text}
        self._new.keep = True
        with self._named():
            self.write(fields)

    def complete(self) -> None:
        with self._named():
            self._new.commit()

    def write(self, fields: dict[str, Any]) -> None:
        raise NotImplementedError


class _JsonFile(_File):
    def write(self, fields: dict[str, Any]) -> None:
        self._new.file.write(msgspec.json.encode(fields) + b"\n")


class _CsvFile(_File):
    def __init__(self, path: Path, *, raw_cells: bool) -> None:
        super().__init__(path)
        self._cell: Callable[[Any], Any] = (lambda value: value) if raw_cells else inert

    def begin(self) -> None:
        self._text = io.TextIOWrapper(self._new.file, "utf-8", newline="", write_through=True)
        self._writer = csv.DictWriter(self._text, _FIELDS, restval="")
        self._writer.writeheader()

    def write(self, fields: dict[str, Any]) -> None:
        fields["explanation"] = msgspec.json.encode(fields["explanation"]).decode()
        self._writer.writerow({name: self._cell(value) for name, value in fields.items()})


def inert(value: Any) -> Any:
    """A cell that no spreadsheet calculates: text that looks like a formula gets an apostrophe in front."""
    if isinstance(value, str) and (value[:1] in _BREAKS or value.lstrip()[:1] in _FORMULAS):
        return f"'{value}"
    return value


class _Table:
    """A table on standard output, of the first reviews."""

    def __init__(self, *, published: bool) -> None:
        self._published = published
        self._first: list[RowResult] = []
        self._count = 0

    def __enter__(self) -> _Table:
        return self

    def complete(self) -> None:
        """Nothing is left to do."""

    def add(self, outcome: RowResult) -> None:
        self._count += 1
        if len(self._first) < TABLE_ROWS:
            self._first.append(outcome)

    def __exit__(self, *_: object) -> None:
        if not self._first:
            return
        out = terminal.stdout()
        out.print(self._alone(self._first[0]) if self._count == 1 else self._rows(out.width))
        if self._count > len(self._first):
            more = self._count - len(self._first)
            terminal.stderr().print(f"... and {more} more; --json or --output has all of them")

    def _alone(self, outcome: RowResult) -> Table:
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


def _sentiment(outcome: RowResult) -> Text:
    from rich.text import Text

    event = outcome.event
    style = "green" if event.sentiment == "positive" else "red"
    doubt = " ?" if outcome.score.warning else ""
    return Text(f"{event.sentiment} {event.confidence:.0%}{doubt}", style=style)


def _id(outcome: RowResult) -> str:
    return str(outcome.event.id) if outcome.position else outcome.status


def stars(prediction: float) -> str:
    """Like ★★★★☆ 3.9."""
    full = round(prediction)
    return f"{'★' * full}{'☆' * (5 - full)} {prediction:.1f}"


def top_words(outcome: RowResult) -> str:
    """Like terrible -1.9, waste -0.8: the strongest terms, in stars, but those that show as 0.0."""
    strongest = [term for term in outcome.event.explanation[:_TOP_TERMS] if abs(term.weight) >= _SHOWN_WEIGHT]
    return ", ".join(f"{term.term} {term.weight:+.1f}" for term in strongest) or "(none)"


def _short(text: str, length: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"
