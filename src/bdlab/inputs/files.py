"""Files of reviews, CSV, JSON lines or Parquet, read row by row, with one row in memory at a time.

CSV columns are those of the Amazon reviews (`Text`, `Summary`, `HelpfulnessNumerator`,
`HelpfulnessDenominator`), in any case and order; only `Text` is required. Each JSON line is an object with
the fields of the HTTP API or the names of the columns.
"""

from __future__ import annotations

import codecs
import os
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from bdlab.contract import review_contract
from bdlab.errors import InvalidInput
from bdlab.events import MAX_COUNT, Review
from bdlab.inputs import parquet
from bdlab.inputs.body import FieldProblem, InputInvalid, Repeating, Validator
from bdlab.inputs.remote import fetch, is_address
from bdlab.inputs.tables import Lines, csv_rows, refuse_delimiter

Format = Literal["csv", "jsonl", "parquet"]

STANDARD_INPUT = "-"
_SUFFIXES: Mapping[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
"""Of Parquet the first bytes tell."""

_reviews = Validator(review_contract())
FIELDS = [field.name for field in _reviews.contract.inputs]
COUNT_FIELDS = FIELDS[2:]

#: The names of each field, in lower case.
_FIELDS = {
    "text": "text",
    "summary": "summary",
    "helpfulnessnumerator": "HelpfulnessNumerator",
    "helpfulness_numerator": "HelpfulnessNumerator",
    "helpfulnessdenominator": "HelpfulnessDenominator",
    "helpfulness_denominator": "HelpfulnessDenominator",
}

_ATTRIBUTES = dict(zip(Review.__struct_encode_fields__, Review.__struct_fields__, strict=True))


class Row(NamedTuple):
    """A review and the line of the file that it begins on, from 1."""

    line: int
    review: Review


class Place(NamedTuple):
    """A place between two rows: the offset in bytes of what follows, and the number of lines before it."""

    offset: int
    lines: int


class BadRow(NamedTuple):
    """A row that is not a valid review: the line on which it begins, and why."""

    line: int
    problems: tuple[FieldProblem, ...]

    def __str__(self) -> str:
        return f"line {self.line}: {'; '.join(map(str, self.problems))}"


class InputFile:
    """The rows of `source`, a path, an address or ``-`` for `standard_input`; can be read more than once.

    What is no file here is copied into a temporary file, and Parquet is converted: its rows are its lines. If
    `kind` is None, the suffix of the name decides, else the first characters. A field, or a JSON line, may
    have `max_row_bytes`. A context manager, which raises InvalidInput if the file cannot be read.
    """

    def __init__(
        self,
        source: str,
        standard_input: IO[bytes],
        *,
        kind: Format | None,
        max_row_bytes: int,
        delimiter: str = ",",
    ) -> None:
        self.name = "standard input" if source == STANDARD_INPUT else source
        self._source = source
        self._standard_input = standard_input
        self._kind = kind
        self._max_row_bytes = max_row_bytes
        self._delimiter = delimiter
        self._file: IO[bytes] | None = None
        self._lines: Lines | None = None

    def __enter__(self) -> InputFile:
        try:
            self._file = self._converted(self._open())
        except OSError as error:
            raise InvalidInput(
                f"{self.name} cannot be read: {(error.strerror or str(error)).lower()}",
                hint="Name a CSV, JSON lines or Parquet file, or - for standard input.",
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _converted(self, file: IO[bytes]) -> IO[bytes]:
        file.seek(0)
        start = file.read(len(parquet.MAGIC))
        file.seek(0)
        if self._kind == "parquet" or (self._kind is None and start == parquet.MAGIC):
            self._kind = "jsonl"
            with file:
                return parquet.to_json_lines(file, self.name, lambda titles: _columns(titles, self.name, ","))
        return file

    def _open(self) -> IO[bytes]:
        if is_address(self._source):
            return fetch(self._source)
        if self._source != STANDARD_INPUT:
            found = Path(self._source).open("rb")  # noqa: SIM115 - closed by __exit__
            if stat.S_ISREG(os.fstat(found.fileno()).st_mode):
                return found
            with found:
                return _kept(found)
        return _kept(self._standard_input)

    @property
    def size(self) -> int:
        """Return the size of the open file in bytes."""
        assert self._file is not None, "the file is not open"  # noqa: S101
        return os.fstat(self._file.fileno()).st_size

    @property
    def place(self) -> Place:
        """Return the place after the last row that `rows` has returned."""
        assert self._file is not None  # noqa: S101
        assert self._lines is not None, "no row was read"  # noqa: S101
        return Place(self._file.tell(), self._lines.number)

    @contextmanager
    def reopened(self) -> Iterator[None]:
        """Read with a position of its own, in a process that was forked."""
        assert self._file is not None, "the file is not open"  # noqa: S101
        before = self._file
        with Path(f"/proc/self/fd/{before.fileno()}").open("rb") as own:
            self._file = own
            yield
        self._file = before

    def rows(self, start: Place | None = None) -> Iterator[Row | BadRow]:
        """Return all rows from the first, or from `start`, on.

        Raises InvalidInput if the rest of the file cannot be read.
        """
        assert self._file is not None, "the file is not open"  # noqa: S101
        lines = self._lines = Lines(self._file, self.name, self._max_row_bytes)
        kind = self._kind or _SUFFIXES.get(Path(self._source).suffix.lower()) or self._sniff()
        self._file.seek(lines.begin)
        yield from _csv_rows(lines, self._delimiter, start) if kind == "csv" else _json_rows(lines, start)

    def _sniff(self) -> Format:
        assert self._file is not None  # noqa: S101
        self._file.seek(0)
        start = self._file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
        if start.startswith(b"["):
            raise InvalidInput(
                f"{self.name} is a JSON array, and JSON lines have one object on each line",
                hint="Convert it first: jq -c '.[]' FILE | bdlab predict --file -",
            )
        return "jsonl" if start.startswith(b"{") else "csv"


def _kept(stream: IO[bytes]) -> IO[bytes]:
    kept = tempfile.TemporaryFile(prefix="bdlab-reviews-")  # noqa: SIM115 - closed by the InputFile
    shutil.copyfileobj(stream, kept)
    return kept


def _csv_rows(lines: Lines, delimiter: str, start: Place | None) -> Iterator[Row | BadRow]:
    rows = csv_rows(lines, delimiter)
    _, header = next(rows, (1, None))
    if header is None:
        raise InvalidInput(f"{lines.name} is empty", hint="The first line has to name the columns.")
    columns = _columns(header, lines.name, delimiter)
    if start:
        lines.go_on(*start)
    for line, row in rows:
        if len(row) != len(header):
            why = f"the row has {len(row)} columns, and the header has {len(header)}"
            yield BadRow(line, (FieldProblem("body", why),))
            continue
        yield _csv_row(line, {field: row[index] for field, index in columns.items()}, header, columns)


def _columns(header: list[str], name: str, delimiter: str) -> dict[str, int]:
    columns: dict[str, int] = {}
    for index, title in enumerate(header):
        field = _FIELDS.get(title.strip().lower())
        if field in columns:
            both = f"{header[columns[field]]!r} and {title!r}"
            raise InvalidInput(f"{name}: two columns are named {field!r}: {both}")
        if field:
            columns[field] = index
    if "text" not in columns:
        refuse_delimiter(header, ("text",), name, delimiter)
        shown = ", ".join(repr(title[:40]) for title in header[:20])
        raise InvalidInput(
            f"{name}: the column 'Text' is missing; the first line has {shown}",
            hint="Columns: Text, and optionally Summary, HelpfulnessNumerator, HelpfulnessDenominator.",
        )
    return columns


def _csv_row(
    line: int, values: Mapping[str, str], header: list[str], columns: Mapping[str, int]
) -> Row | BadRow:
    fields: dict[str, Any] = {"text": values["text"], "summary": values.get("summary", "")}
    problems = []
    for name in COUNT_FIELDS:
        value = values.get(name, "").strip()
        if not value:
            continue
        if not (value.isascii() and value.isdigit()) or len(value) > 10 or int(value) > MAX_COUNT:
            why = f"has to be an integer from 0 to {MAX_COUNT}, and is {value[:40]!r}"
            problems.append(FieldProblem(header[columns[name]], why))
        else:
            fields[_ATTRIBUTES[name]] = int(value)
    try:
        review = Review(**fields)
        _reviews.check(review)
    except InputInvalid as error:
        found = [FieldProblem(header[columns.get(p.field, 0)], p.why) for p in error.problems]
        return BadRow(line, (*found, *problems))
    return BadRow(line, tuple(problems)) if problems else Row(line, review)


def _json_rows(lines: Lines, start: Place | None) -> Iterator[Row | BadRow]:
    if start:
        lines.go_on(*start)
    for data in lines.raw():
        if data is None:
            why = f"the line is longer than {lines.limit} bytes"
            yield BadRow(lines.number, (FieldProblem("body", why),))
        elif data.strip():
            try:
                yield Row(lines.number, _from_json(data))
            except InputInvalid as error:
                yield BadRow(lines.number, error.problems)


def _from_json(data: bytes) -> Any:
    review = _reviews.decode_plain(data)
    if review is not None:
        return review
    value = _reviews.parse(data)
    if isinstance(value, dict):
        repeated = value.names if isinstance(value, Repeating) else frozenset()
        names = [_FIELDS.get(name.lower(), name) for name in value]
        counts = Counter(names) + Counter(_FIELDS.get(name.lower()) for name in repeated)
        if twice := [field for field in sorted(FIELDS) if counts[field] > 1]:
            raise InputInvalid([FieldProblem(field, "stands twice") for field in twice])
        value = dict(zip(names, value.values(), strict=True))
    return _reviews.given_of(value)
