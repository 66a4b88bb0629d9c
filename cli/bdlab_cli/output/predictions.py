"""The results of `bdlab predict`: a table, JSON lines, or a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

import msgspec
from msgspec import UNSET

from bdlab.contract import Contract, Field
from bdlab.errors import BdlabError, InvalidInput, require
from bdlab.events import Term
from bdlab.files import Replacement
from bdlab.inputs import parquet
from bdlab.inputs.bulk import RowResult
from bdlab.inputs.remote import Upload, is_address
from bdlab_cli.output import terminal
from bdlab_cli.output.columns import Column, Row, input_columns, is_rating, output_columns

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

TABLE_ROWS = 50
"""How many results a table shows; --json and --output give all."""
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
        event = result.event
        fields: dict[str, Any] = {"line": result.line, "state": result.status}
        if event is not None:
            fields["id"] = str(event.id)
        fields |= {name: getattr(result.score, attribute) for name, attribute in self._score.items()}
        fields["model"] = result.model
        if event is not None:
            fields["created_at"] = event.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if result.position is not None:
            fields["partition"], fields["offset"] = result.position.partition, result.position.offset
        return fields

    def with_inputs(self, result: RowResult) -> dict[str, Any]:
        """Return a result, and what it was made from."""
        return self(result) | {name: getattr(result.given, attribute) for name, attribute in self._inputs.items()}


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
            require("pyarrow", extra="parquet", what=f"{path} is a Parquet file")
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
        stored, *own_columns = (Column(name, partial(_text, name)) for name in ("stored (UTC)", "model", "id"))
        self._columns = [stored, *input_columns(contract), *output_columns(contract, words=False), *own_columns]

    def fields(self, row: Any) -> dict[str, Any]:
        """Return a row as a file has it."""
        fields: dict[str, Any] = msgspec.to_builtins(row, builtin_types=(datetime,))
        fields |= fields.pop("position")
        return fields

    def table(self, rows: Sequence[Any]) -> Table:
        when = (f"{each.stored_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}" for each in rows)
        shown = [{**msgspec.to_builtins(row), "stored (UTC)": at} for row, at in zip(rows, when, strict=True)]
        return _grid(self._columns, shown, widest=1)


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
        from rich import table
        from rich.text import Text

        if not self._first:
            return
        out = terminal.stdout()
        rows = [
            {**msgspec.structs.asdict(each.given), **msgspec.to_builtins(each.score), "id": each.status}
            | ({"id": str(each.event.id)} if each.event and each.position else {})
            for each in self._first
        ]
        wide = out.width >= (119 if self._published else 80) or self._count == 1  # an id takes 39
        words = is_rating(self._contract) or any(row["explanation"] for row in rows)
        columns = input_columns(self._contract) + output_columns(self._contract, wide=wide, words=words)
        if self._count == 1 and rows[0]["warning"]:
            columns.append(Column("warning", lambda row: Text(row["warning"], style="yellow")))
        if self._published:
            columns.append(Column("id", partial(_text, "id")))
        if self._count == 1:
            shown = table.Table(table.Column(style="bold"), table.Column(overflow="fold"), show_header=False)
            for title, cell in columns:
                shown.add_row(title, cell(rows[0]))
        else:
            doubt = "? few words are known, or stars and sentiment contradict each other: --json tells which"
            shown = _grid(columns, rows, widest=0)
            shown.caption, shown.caption_justify = doubt if any(row["warning"] for row in rows) else None, "left"
        out.print(shown)
        if more := self._count - len(self._first):
            terminal.echo(f"... and {more} more; --json or --output has all of them", err=True)


def _text(name: str, row: Row) -> Text:
    from rich.text import Text

    return Text(row[name])


def _grid(columns: Sequence[Column], rows: Sequence[Row], *, widest: int) -> Table:
    """Return a table with a row for each; on a narrow terminal an id stays whole."""
    from rich.table import Table

    grid = Table()
    for place, (title, _) in enumerate(columns):
        grid.add_column(title, overflow="fold", no_wrap=title == "id", ratio=3 if place == widest else None)
    for row in rows:
        grid.add_row(*(cell(row) for _, cell in columns))
    return grid
