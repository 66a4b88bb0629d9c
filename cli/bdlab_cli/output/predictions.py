"""The results of `bdlab predict`: a table, JSON lines, or a file."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec

from bdlab.errors import BdlabError, InvalidInput
from bdlab.events import Term
from bdlab.files import Replacement
from bdlab.inputs import parquet
from bdlab.inputs.bulk import RowResult
from bdlab.inputs.remote import Upload, is_address
from bdlab_cli.output import terminal

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

TABLE_ROWS = 50
"""How many results a table shows; --json and --output give all."""

_TOP_TERMS = 4
_SHOWN_WEIGHT = 0.05
_DOUBTED = "? few words are known, or stars and sentiment contradict each other: --json tells which"
_WIDE = 80
_ID_WIDTH = 39

#: With what a cell begins that a spreadsheet calculates or splits; the wide forms too.
_FORMULAS = frozenset("=+-@＝＋－＠")
_BREAKS = frozenset("\t\r\n")

_FIELDS = {
    "line": int, "state": str, "id": str, "prediction": float, "sentiment": str, "confidence": float,
    "explanation": Term, "known_terms": float, "warning": str, "model": str, "created_at": str,
    "partition": int, "offset": int, "summary": str, "text": str,
}  # fmt: skip
"""The columns of a file, with their types in Parquet."""


class Results:
    """Where results go: a context; `complete` is called after the last one, if none is missing."""

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *raised: object) -> None:
        """End, whether or not all results were added."""

    def add(self, result: RowResult) -> None:
        raise NotImplementedError

    def complete(self) -> None:
        """Make the results final."""


def results(*, as_json: bool, output: str | None, published: bool, raw_cells: bool) -> Results:
    """Return where results go. Raises InvalidInput if --output has no known suffix or address."""
    if output is None:
        return _JsonLines() if as_json else _Table(published=published)
    kind = PurePosixPath(output).suffix.lower()
    if kind == ".csv":
        return _CsvFile(output, raw_cells=raw_cells)
    if kind in (".jsonl", ".ndjson"):
        return _JsonFile(output)
    if kind == ".parquet":
        parquet.check_installed(output)
        return _ParquetFile(output)
    raise InvalidInput(
        f"--output {output} ends in none of .csv, .jsonl and .parquet",
        hint="For standard output leave it out, and give --json.",
    )


def _as_fields(result: RowResult) -> dict[str, Any]:
    """Return a result as JSON has it; with `id` and `created_at` if it is, or may be, on the topic."""
    event, score = result.event, result.score
    fields: dict[str, Any] = {"line": result.line, "state": result.status}
    if event is not None:
        fields["id"] = str(event.id)
    fields |= {
        "prediction": score.prediction,
        "sentiment": score.sentiment,
        "confidence": score.confidence,
        "known_terms": score.known_terms,
        "warning": score.warning,
        "explanation": score.explanation,
        "model": result.model,
    }
    if event is not None:
        fields["created_at"] = event.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if result.position is not None:
        fields |= {"partition": result.position.partition, "offset": result.position.offset}
    return fields


class _JsonLines(Results):
    """One object a line on standard output, as soon as it is known."""

    def add(self, result: RowResult) -> None:
        terminal.echo_json(_as_fields(result))


class _File(Results):
    """A file that is replaced once all results are there; until then they are in a file beside it.

    Lines are in the order of the reviews.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._new = Upload(path) if is_address(path) else Replacement(Path(path), hidden=False)

    def __enter__(self) -> _File:
        with self._named():
            self._new.__enter__()
            self.begin()
        return self

    def __exit__(self, *raised: object) -> None:
        self._new.__exit__(*raised)
        if self._new.partial is not None and self._new.keep:
            terminal.echo(
                f"{self._path} is what it was; the results so far are in {self._new.partial}", err=True
            )

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> BdlabError:
        why = (getattr(error, "strerror", None) or str(error)).lower()
        return BdlabError(f"--output {self._path} cannot be written: {why}")

    def begin(self) -> None:
        """Write what comes before the first result."""

    def add(self, result: RowResult) -> None:
        fields = _as_fields(result) | {"summary": result.review.summary, "text": result.review.text}
        self._new.keep = True
        try:  # a context manager would take as long as the writing
            self.write(fields)
        except (OSError, RuntimeError) as error:
            raise self._failure(error) from error

    def complete(self) -> None:
        with self._named():
            self._new.commit()

    def write(self, fields: dict[str, Any]) -> None:
        raise NotImplementedError


class _JsonFile(_File):
    def begin(self) -> None:
        self._lines = self._new.file

    def write(self, fields: dict[str, Any]) -> None:
        self._lines.write(msgspec.json.encode(fields) + b"\n")


class _ParquetFile(_JsonFile):
    """Written at the end, since Parquet is not written row by row; until then JSON in a temporary file."""

    def begin(self) -> None:
        self._lines = tempfile.TemporaryFile(prefix="bdlab-results-")  # noqa: SIM115 - closed by __exit__

    def complete(self) -> None:
        with self._named(), closing(self._lines):
            parquet.from_json_lines(self._lines, self._new.file, _FIELDS)
        super().complete()

    def __exit__(self, *raised: object) -> None:
        with closing(self._lines), suppress(OSError):
            if self._new.keep and not self._lines.closed:
                parquet.from_json_lines(self._lines, self._new.file, _FIELDS)
        super().__exit__(*raised)


class _CsvFile(_File):
    def __init__(self, path: str, *, raw_cells: bool) -> None:
        super().__init__(path)
        self._cell: Callable[[Any], Any] = (lambda value: value) if raw_cells else inert

    def begin(self) -> None:
        self._text = io.TextIOWrapper(self._new.file, "utf-8", newline="", write_through=True)
        self._writer = csv.DictWriter(self._text, list(_FIELDS), restval="")
        self._writer.writeheader()

    def write(self, fields: dict[str, Any]) -> None:
        fields["explanation"] = msgspec.json.encode(fields["explanation"]).decode()
        self._writer.writerow({name: self._cell(value) for name, value in fields.items()})


def inert(value: Any) -> Any:
    """Return a cell that no spreadsheet calculates: text like a formula gets an apostrophe in front."""
    if isinstance(value, str) and (value[:1] in _BREAKS or value.lstrip()[:1] in _FORMULAS):
        return f"'{value}"
    return value


class _Table(Results):
    """A table of the first reviews on standard output."""

    def __init__(self, *, published: bool) -> None:
        self._published = published
        self._first: list[RowResult] = []
        self._count = 0

    def add(self, result: RowResult) -> None:
        self._count += 1
        if len(self._first) < TABLE_ROWS:
            self._first.append(result)

    def __exit__(self, *_: object) -> None:
        if not self._first:
            return
        out = terminal.stdout()
        out.print(self._alone(self._first[0]) if self._count == 1 else self._rows(out.width))
        if self._count > len(self._first):
            more = self._count - len(self._first)
            terminal.echo(f"... and {more} more; --json or --output has all of them", err=True)

    def _alone(self, result: RowResult) -> Table:
        """Return a table of one review, a row for each field."""
        from rich.table import Column, Table
        from rich.text import Text

        table = Table(Column(style="bold"), Column(overflow="fold"), show_header=False)
        table.add_row("review", Text(_short(result.review.summary or result.review.text)))
        table.add_row("stars", Text(stars(result.score.prediction)))
        table.add_row("sentiment", _sentiment(result))
        table.add_row("top words", Text(top_words(result)))
        if result.score.warning:
            table.add_row("warning", Text(result.score.warning, style="yellow"))
        if self._published:
            table.add_row("id", Text(_id(result)))
        return table

    def _rows(self, width: int) -> Table:
        """Return a table with a row for each review; on a narrow terminal an id stays whole."""
        from rich.table import Table
        from rich.text import Text

        wide = width >= _WIDE + (_ID_WIDTH if self._published else 0)
        doubted = any(result.score.warning for result in self._first)
        table = Table(caption=_DOUBTED if doubted else None, caption_justify="left")
        table.add_column("review", ratio=3)
        for title in ("stars", "sentiment", *(["top words"] if wide else [])):
            table.add_column(title, overflow="fold")
        if self._published:
            table.add_column("id", no_wrap=True)
        for result in self._first:
            rating = result.score.prediction
            cells = [
                Text(_short(result.review.summary or result.review.text)),
                Text(stars(rating) if wide else f"{rating:.1f}"),
                _sentiment(result),
            ]
            if wide:
                cells.append(Text(top_words(result)))
            if self._published:
                cells.append(Text(_id(result)))
            table.add_row(*cells)
        return table


def _sentiment(result: RowResult) -> Text:
    from rich.text import Text

    score = result.score
    style = "green" if score.sentiment == "positive" else "red"
    doubt = " ?" if score.warning else ""
    return Text(f"{score.sentiment} {score.confidence:.0%}{doubt}", style=style)


def _id(result: RowResult) -> str:
    return str(result.event.id) if result.event and result.position else result.status


def stars(prediction: float) -> str:
    """Return stars like ★★★★☆ 3.9."""
    full = round(prediction)
    return f"{'★' * full}{'☆' * (5 - full)} {prediction:.1f}"


def top_words(result: RowResult) -> str:
    """Return the strongest terms with their weight in stars, like terrible -1.9, waste -0.8."""
    strongest = [term for term in result.score.explanation[:_TOP_TERMS] if abs(term.weight) >= _SHOWN_WEIGHT]
    return ", ".join(f"{term.term} {term.weight:+.1f}" for term in strongest) or "(none)"


def _short(text: str, length: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"
