"""Files of inputs, CSV, JSON lines or Parquet, read row by row, with one row in memory at a time.

A CSV or Parquet file has a column for each field of a contract, named as `Titles` finds it and in any order;
those with a default may be missing, and others are ignored. Each JSON line is an object with the fields of
the HTTP API, which may be named as columns are."""

from __future__ import annotations

import codecs
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import IO, Literal, NamedTuple

from msgspec.structs import replace

from bdlab.errors import InvalidInput
from bdlab.events import Input
from bdlab.inputs import parquet
from bdlab.inputs.body import FieldProblem, InputInvalid, Validator
from bdlab.inputs.remote import copied, fetch, is_address
from bdlab.inputs.tables import Lines, Titles, cell_of, csv_rows, input_of, title_of

Format = Literal["csv", "jsonl", "parquet"]
STANDARD_INPUT = "-"
_SUFFIXES: Mapping[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
"""Of Parquet the first bytes tell."""
_SHOWN_COLUMNS, _SHOWN_CHARS = 20, 40
_DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}


class Row(NamedTuple):
    """An input and the line of the file that it begins on, from 1."""

    line: int
    given: Input


class Place(NamedTuple):
    """A place between two rows: the offset in bytes of what follows, and the number of lines before it."""

    offset: int
    lines: int


class BadRow(NamedTuple):
    """A row that is no valid input: the line on which it begins, and why."""

    line: int
    problems: tuple[FieldProblem, ...]

    def __str__(self) -> str:
        return f"line {self.line}: {'; '.join(map(str, self.problems))}"


@dataclass
class InputFile:
    """The rows of `source`, a path, an address or ``-`` for `standard_input`; can be read more than once. What is no
    file here is copied into a temporary file, and Parquet is converted: its rows are its lines. If `kind` is None, the
    suffix of the name decides, else the first characters. A field, or a JSON line, may have `max_row_bytes`. A context
    manager, which raises InvalidInput if the file cannot be read."""

    source: str
    standard_input: IO[bytes]
    validator: Validator
    _: KW_ONLY
    kind: Format | None
    max_row_bytes: int
    delimiter: str = ","

    def __post_init__(self) -> None:
        self.name = "standard input" if self.source == STANDARD_INPUT else self.source
        self._titles = Titles(self.validator.contract)
        self._file: IO[bytes]
        self._lines: Lines

    def __enter__(self) -> InputFile:
        try:
            self._file = file = self._open()
            file.seek(0)
            start = file.read(len(parquet.MAGIC))
            file.seek(0)
            if self.kind == "parquet" or (self.kind is None and start == parquet.MAGIC):
                self.kind, inputs = "jsonl", self.validator.contract.inputs
                with file:
                    self._file = parquet.to_json_lines(file, self.name, inputs, lambda each: self._columns(each, ","))
        except OSError as error:
            why = f"{self.name} cannot be read: {(error.strerror or str(error)).lower()}"
            raise InvalidInput(why, hint="Name a CSV, JSON lines or Parquet file, or - for standard input.") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _open(self) -> IO[bytes]:
        if is_address(self.source):
            return fetch(self.source)
        if self.source != STANDARD_INPUT:
            found = Path(self.source).open("rb")  # noqa: SIM115 - closed by __exit__
            if stat.S_ISREG(os.fstat(found.fileno()).st_mode):
                return found
            with found:
                return copied(found)
        return copied(self.standard_input)

    @property
    def size(self) -> int:
        """Return the size of the open file in bytes."""
        return os.fstat(self._file.fileno()).st_size

    @property
    def place(self) -> Place:
        """Return the place after the last row that `rows` has returned."""
        return Place(self._file.tell(), self._lines.number)

    @contextmanager
    def reopened(self) -> Iterator[None]:
        """Read with a position of its own, in a process that was forked."""
        before = self._file
        with Path(f"/proc/self/fd/{before.fileno()}").open("rb") as own:
            self._file = own
            yield
        self._file = before

    def rows(self, start: Place | None = None) -> Iterator[Row | BadRow]:
        """Return all rows from the first, or from `start`, on. Raises InvalidInput if the rest of the file cannot be
        read."""
        lines = self._lines = Lines(self._file, self.name, self.max_row_bytes)
        kind = self.kind or _SUFFIXES.get(Path(self.source).suffix.lower()) or self._sniff()
        self._file.seek(lines.begin)
        yield from (self._csv_rows if kind == "csv" else self._json_rows)(lines, start)

    def _sniff(self) -> Format:
        self._file.seek(0)
        start = self._file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
        if start.startswith(b"["):
            hint = "Convert it first: jq -c '.[]' FILE | bdlab predict --file -"
            raise InvalidInput(f"{self.name} is a JSON array, and JSON lines have one object on each line", hint=hint)
        return "jsonl" if start.startswith(b"{") else "csv"

    def _csv_rows(self, lines: Lines, start: Place | None) -> Iterator[Row | BadRow]:
        rows = csv_rows(lines, self.delimiter)
        _, header = next(rows, (1, None))
        if header is None:
            raise InvalidInput(f"{lines.name} is empty", hint="The first line has to name the columns.")
        columns = self._columns(header, self.delimiter)
        titles = {name: header[index] for name, index in columns.items()}
        inputs = self.validator.contract.inputs
        places = [(each.name, columns[each.name], cell_of(each)) for each in inputs if each.name in columns]
        if start:
            lines.go_on(*start)
        for line, row in rows:
            if len(row) != len(header):
                why = f"the row has {len(row)} columns, and the header has {len(header)}"
                yield BadRow(line, (FieldProblem("body", why),))
                continue
            try:
                yield Row(line, input_of(self.validator, row, places))
            except InputInvalid as error:
                problems = (replace(each, field=titles.get(each.field, each.field)) for each in error.problems)
                yield BadRow(line, tuple(problems))

    def _columns(self, header: Sequence[str], delimiter: str) -> dict[str, int]:
        """Return the place of each field's column, in the order of the contract."""
        places: dict[str, int] = {}
        for index, title in enumerate(header):
            field = self._titles(title)
            if field and field.name in places:
                both = f"{header[places[field.name]]!r} and {title!r}"
                raise InvalidInput(f"{self.name}: two columns are named {field.name!r}: {both}")
            if field:
                places[field.name] = index
        inputs = self.validator.contract.inputs
        required = {field.name for field in inputs if field.required}
        if missing := [field for field in inputs if field.name in required - places.keys()]:
            for other, called in _DELIMITERS.items():
                titles = [title.strip(' "') for title in delimiter.join(header).split(other)]
                if other != delimiter and required <= {each.name for each in map(self._titles, titles) if each}:
                    why = f"the columns are separated by {called}, and not by {_DELIMITERS.get(delimiter, delimiter)}"
                    hint = f"Give --delimiter {'tab' if other == chr(9) else repr(other)}."
                    raise InvalidInput(f"{self.name}: {why}", hint=hint)
            names = " and ".join(repr(title_of(field)) for field in missing)
            verb = "column {} is" if len(missing) == 1 else "columns {} are"
            shown = ", ".join(repr(title[:_SHOWN_CHARS]) for title in header[:_SHOWN_COLUMNS])
            needed, others = (
                ", ".join(title_of(each) for each in inputs if each.required is it) for it in (True, False)
            )
            hint = f"Columns: {needed}{f', and optionally {others}' if others else ''}."
            raise InvalidInput(f"{self.name}: the {verb.format(names)} missing; the first line has {shown}", hint=hint)
        return {field.name: places[field.name] for field in inputs if field.name in places}

    def _json_rows(self, lines: Lines, start: Place | None) -> Iterator[Row | BadRow]:
        if start:
            lines.go_on(*start)
        for data in lines.raw():
            if data is None:
                yield BadRow(lines.number, (FieldProblem("body", f"the line is longer than {lines.limit} bytes"),))
            elif data.strip():
                try:
                    yield Row(lines.number, self.validator.decode_plain(data) or self._from_json(data))
                except InputInvalid as error:
                    yield BadRow(lines.number, error.problems)

    def _from_json(self, data: bytes) -> Input:
        """Return the input in a JSON object whose names may be those of columns."""
        value = self.validator.parse(data)
        if isinstance(value, dict):
            names = {name: field.name if (field := self._titles(name)) else name for name in value}
            counts = Counter(names.values())
            counts.update(names[name] for name in getattr(value, "names", ()))
            known = (field.name for field in self.validator.contract.inputs)
            if twice := [name for name in sorted(known) if counts[name] > 1]:
                raise InputInvalid([FieldProblem(name, "stands twice") for name in twice])
            value = {names[name]: found for name, found in value.items()}
        return self.validator.given_of(value)
