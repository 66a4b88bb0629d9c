"""The results of `bdlab predict`: a table, JSON lines, or a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

import msgspec
from msgspec import UNSET

from bdlab.contract import Contract, Field
from bdlab.errors import BdlabError, InvalidInput
from bdlab.events import Term
from bdlab.files import Replacement
from bdlab.inputs import parquet
from bdlab.inputs.bulk import RowResult
from bdlab.inputs.remote import Upload, is_address
from bdlab_cli.output import terminal
from bdlab_cli.output.columns import Column, Row, input_columns, is_rating, output_columns

if TYPE_CHECKING:
    from rich.table import Table

TABLE_ROWS = 50
"""How many results a table shows; --json and --output give all."""
_DOUBTED = "? few words are known, or stars and sentiment contradict each other: --json tells which"
_WIDE, _ID_WIDTH = 80, 39
#: With what a cell begins that a spreadsheet calculates or splits; the wide forms too.
_FORMULAS = frozenset("=+-@＝＋－＠")
_BREAKS = frozenset("\t\r\n")
_BEFORE = {"line": int, "state": str, "id": str}
_AFTER = {
    "explanation": Term, "known_terms": float, "warning": str, "model": str, "created_at": str,
    "partition": int, "offset": int,
}  # fmt: skip
"""The columns of a file that any model has, before and after its outputs, with their types in Parquet."""
_TYPES = {"string": str, "integer": int, "number": float, "boolean": bool, "date-time": datetime}


class Results(AbstractContextManager["Results"]):
    """Where results go: a context; `complete` is called after the last one, if none is missing."""

    def __exit__(self, *raised: object) -> None:
        """End, whether or not all results were added."""

    def add(self, result: Any) -> None:
        raise NotImplementedError

    def complete(self) -> None:
        """Make the results final."""


def results(contract: Contract, *, as_json: bool, output: str | None, published: bool, raw_cells: bool) -> Results:
    """Return where results go. Raises InvalidInput if --output has no known suffix or address."""
    if output is None:
        return _JsonLines(contract) if as_json else _Table(contract, published=published)
    fields = _Fields(contract)
    return RowFile(fields.types, output, raw_cells=raw_cells, fields=fields.with_inputs)


class _Fields:
    """The fields of results as JSON has them, and their types. What is given is in files, but for numbers with a
    default other than null."""

    def __init__(self, contract: Contract) -> None:
        plain = [each for each in contract if each.kind not in ("integer", "number") or each.default in (UNSET, None)]
        echoed = [field for field in plain if field in contract.inputs]
        self._outputs, self._inputs = (
            {_name(each): each.column for each in part} for part in (contract.outputs, echoed)
        )
        self._score = self._outputs | {name: name for name in ("known_terms", "warning", "explanation")}
        kinds = {_name(field): _TYPES.get(field.kind, contract.classes or str) for field in contract}
        self.types: dict[str, Any] = {
            **_BEFORE, **{name: kinds[name] for name in self._outputs},
            **_AFTER, **{name: kinds[name] for name in self._inputs},
        }  # fmt: skip

    def __call__(self, result: RowResult) -> dict[str, Any]:
        """Return a result; with `id` and `created_at` if it is, or may be, on the topic."""
        event, score = result.event, result.score
        fields: dict[str, Any] = {"line": result.line, "state": result.status}
        if event is not None:
            fields["id"] = str(event.id)
        for name, attribute in self._score.items():
            fields[name] = getattr(score, attribute)
        fields["model"] = result.model
        if event is not None:
            fields["created_at"] = event.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if result.position is not None:
            fields["partition"], fields["offset"] = result.position.partition, result.position.offset
        return fields

    def with_inputs(self, result: RowResult) -> dict[str, Any]:
        """Return a result, and what it was made from."""
        fields, given = self(result), result.given
        for name, attribute in self._inputs.items():
            fields[name] = getattr(given, attribute)
        return fields


def _name(field: Field) -> str:
    """Return the name of a field in files, which is its column unless all results have another field so."""
    return f"{field.column}_" if field.column in _BEFORE else field.column


class _JsonLines(Results):
    """One object a line on standard output, as soon as it is known."""

    def __init__(self, contract: Contract) -> None:
        self._fields = _Fields(contract)

    def add(self, result: RowResult) -> None:
        terminal.echo_json(self._fields(result))


Fields = dict[str, Any]
"""What is written of a row."""


class RowFile(Results):
    """A file for rows, of which `fields` makes those that have these types. It is replaced once all rows are there;
    until then they are in a file beside it. A context, whose `complete` is called after the last row. Raises
    InvalidInput if --output has no known suffix or address."""

    def __init__(
        self, types: Mapping[str, Any], path: str, *, raw_cells: bool, fields: Callable[[Any], Fields] = lambda row: row
    ) -> None:
        self._types, self._path, self._raw_cells, self._fields = types, path, raw_cells, fields
        self._kind = PurePosixPath(path).suffix.lower()
        if self._kind not in (".csv", ".jsonl", ".ndjson", ".parquet"):
            hint = "For standard output leave it out, and give --json."
            raise InvalidInput(f"--output {path} ends in none of .csv, .jsonl and .parquet", hint=hint)
        if self._kind == ".parquet":
            parquet.check_installed(path)
        self._new = Upload(path) if is_address(path) else Replacement(Path(path), hidden=False)

    def __enter__(self) -> Self:
        with self._named(), ExitStack() as closing:
            file = self._new.__enter__().file
            self._write: Callable[[Fields], object] = lambda fields: file.write(msgspec.json.encode(fields) + b"\n")
            if self._kind == ".csv":
                text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
                self._write = csv_writer(text, self._types, raw_cells=self._raw_cells)
            elif self._kind == ".parquet":
                rows = parquet.Writer(file, self._types)
                self._write = rows.write
                closing.callback(rows.close)
            self._closing = closing.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        with suppress(OSError):
            self._closing.close()
        self._new.__exit__(*raised)
        if self._new.partial is not None and self._new.keep:
            terminal.echo(f"{self._path} is what it was; the results so far are in {self._new.partial}", err=True)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
            why = (getattr(error, "strerror", None) or str(error)).lower()
            raise BdlabError(f"--output {self._path} cannot be written: {why}") from error

    def add(self, row: Any) -> None:
        self._new.keep = True
        try:  # a context manager would take as long as the writing
            self._write(self._fields(row))
        except (OSError, RuntimeError):
            with self._named():
                raise

    def complete(self) -> None:
        with self._named():
            self._closing.close()
            self._new.commit()


def csv_writer(file: Any, types: Mapping[str, Any], *, raw_cells: bool) -> Callable[[Fields], None]:
    """Write the columns' names to a text file, and return what writes a row of it."""
    cell: Callable[[Any], Any] = (lambda value: value) if raw_cells else inert
    as_json = [name for name, kind in types.items() if kind not in (int, str, float)]  # which are as Python writes them
    write = csv.writer(file).writerow
    write(types)

    def write_row(fields: Fields) -> None:
        for name in as_json:
            if (value := fields[name]) is not None:
                fields[name] = msgspec.json.encode(value).decode().strip('"')
        write([cell(fields.get(name)) for name in types])

    return write_row


class Stored:
    """Stored predictions as `query` shows them: JSON lines as the API has them, CSV, a table, or a file."""

    def __init__(self, contract: Contract) -> None:
        kinds = {field.column: _TYPES.get(field.kind, contract.classes or str) for field in contract}
        inputs = {name: kinds.pop(name) for name in contract.columns}
        own = {"model": str, "source": str, "created_at": datetime, "stored_at": datetime}
        self.types = {"id": str, **kinds, "explanation": Term, **own, "partition": int, "offset": int, **inputs}
        self._columns = [*input_columns(contract), *output_columns(contract, words=False)]

    def fields(self, row: Any) -> dict[str, Any]:
        """Return a row as a file has it."""
        fields: dict[str, Any] = msgspec.to_builtins(row, builtin_types=(datetime,))
        fields |= fields.pop("position")
        return fields

    def table(self, rows: Sequence[Any]) -> Table:
        from rich.table import Table

        shown = [msgspec.to_builtins(row) for row in rows]
        table = Table()
        for place, title in enumerate(("stored (UTC)", *(each.title for each in self._columns), "model", "id")):
            table.add_column(title, overflow="fold", no_wrap=title == "id", ratio=3 if place == 1 else None)
        for row, each in zip(shown, rows, strict=True):
            stored = f"{each.stored_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
            table.add_row(stored, *(cell(row) for _, cell in self._columns), row["model"], row["id"])
        return table


def inert(value: Any) -> Any:
    """Return a cell that no spreadsheet calculates: text like a formula gets an apostrophe in front."""
    if isinstance(value, str) and (value[:1] in _BREAKS or value.lstrip()[:1] in _FORMULAS):
        return f"'{value}"
    return value


class _Table(Results):
    """A table of the first results on standard output."""

    def __init__(self, contract: Contract, *, published: bool) -> None:
        self._contract, self._published = contract, published
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
        rows = [
            {**msgspec.structs.asdict(each.given), **msgspec.to_builtins(each.score), "id": each.status}
            | ({"id": str(each.event.id)} if each.event and each.position else {})
            for each in self._first
        ]
        wide = out.width >= _WIDE + (_ID_WIDTH if self._published else 0) or self._count == 1
        words = is_rating(self._contract) or any(row["explanation"] for row in rows)
        columns = input_columns(self._contract) + output_columns(self._contract, wide=wide, words=words)
        out.print(self._alone(rows[0], columns) if self._count == 1 else self._all(rows, columns))
        if more := self._count - len(self._first):
            terminal.echo(f"... and {more} more; --json or --output has all of them", err=True)

    def _alone(self, row: Row, columns: Sequence[Column]) -> Table:
        """Return a table of one result, a row for each field."""
        from rich import table
        from rich.text import Text

        alone = table.Table(table.Column(style="bold"), table.Column(overflow="fold"), show_header=False)
        for title, cell in columns:
            alone.add_row(title, cell(row))
        if row["warning"]:
            alone.add_row("warning", Text(row["warning"], style="yellow"))
        if self._published:
            alone.add_row("id", row["id"])
        return alone

    def _all(self, rows: Sequence[Row], columns: Sequence[Column]) -> Table:
        """Return a table with a row for each result; on a narrow terminal an id stays whole."""
        from rich.table import Table

        doubted = any(row["warning"] for row in rows)
        table = Table(caption=_DOUBTED if doubted else None, caption_justify="left")
        for place, column in enumerate(columns):
            table.add_column(column.title, overflow="fold", ratio=None if place else 3)
        if self._published:
            table.add_column("id", no_wrap=True)
        for row in rows:
            table.add_row(*(cell(row) for _, cell in columns), *([row["id"]] if self._published else []))
        return table
