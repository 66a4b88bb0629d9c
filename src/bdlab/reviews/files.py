"""Files of reviews, CSV or JSON lines, read row by row: one row is in memory at a time.

CSV columns are those of the Amazon reviews (`Text`, `Summary`, `HelpfulnessNumerator`,
`HelpfulnessDenominator`), in any case and order; only `Text` has to be there. JSON lines hold an object each,
with the fields of the HTTP API or the columns' names.
"""

from __future__ import annotations

import codecs
import csv
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import msgspec

from bdlab.errors import InvalidInput
from bdlab.events import MAX_COUNT, Review
from bdlab.reviews.body import (
    FieldProblem,
    Repeating,
    ReviewInvalid,
    check,
    find_problems,
    parse,
    without_others,
)

Format = Literal["csv", "jsonl"]

STANDARD_INPUT = "-"
_SUFFIXES: Mapping[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_FOREIGN_BOMS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}

#: The spellings of each field, folded to lower case.
_FIELDS = {
    "text": "text",
    "summary": "summary",
    "helpfulnessnumerator": "HelpfulnessNumerator",
    "helpfulness_numerator": "HelpfulnessNumerator",
    "helpfulnessdenominator": "HelpfulnessDenominator",
    "helpfulness_denominator": "HelpfulnessDenominator",
}
_TO_UTF8 = "Convert it first, for example: iconv -f WINDOWS-1252 -t UTF-8 {path}"


class Row(NamedTuple):
    """A review and the line of the file that it begins on, from 1."""

    line: int
    review: Review


class BadRow(NamedTuple):
    """A row that is no review: the line it begins on, and why."""

    line: int
    problems: tuple[FieldProblem, ...]

    def __str__(self) -> str:
        return f"line {self.line}: {'; '.join(map(str, self.problems))}"


class ReviewFile:
    """The rows of `source`, a path or ``-`` for `standard_input`; can be read more than once.

    What cannot be read twice (a pipe) is kept in a temporary file. `kind` None goes by the suffix, else by
    the first character. A field, and a line, may have `max_row_bytes`. Raises InvalidInput for what makes
    the file as a whole unreadable; a context manager.
    """

    def __init__(
        self, source: str, standard_input: IO[bytes], *, kind: Format | None, max_row_bytes: int
    ) -> None:
        self.name = "standard input" if source == STANDARD_INPUT else source
        self._source = source
        self._standard_input = standard_input
        self._kind = kind
        self._max_row_bytes = max_row_bytes
        self._file: IO[bytes] | None = None

    def __enter__(self) -> ReviewFile:
        try:
            self._file = self._open()
        except OSError as error:
            raise InvalidInput(
                f"{self.name} cannot be read: {(error.strerror or str(error)).lower()}",
                hint="Name a CSV or JSON lines file, or - for standard input.",
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> IO[bytes]:
        if self._source != STANDARD_INPUT:
            found = Path(self._source).open("rb")  # noqa: SIM115 - closed by __exit__
            if stat.S_ISREG(os.fstat(found.fileno()).st_mode):
                return found
            with found:
                return _kept(found)
        return _kept(self._standard_input)

    def rows(self) -> Iterator[Row | BadRow]:
        """All rows from the first on. Raises InvalidInput for a file that cannot be read any further."""
        assert self._file is not None, "the file is not open"  # noqa: S101
        self._file.seek(0)
        lines = _Lines(self._file, self.name, self._max_row_bytes)
        kind = self._kind or _SUFFIXES.get(Path(self._source).suffix.lower()) or self._sniff()
        self._file.seek(lines.skip_mark())
        yield from _csv_rows(lines) if kind == "csv" else _json_rows(lines)

    def _sniff(self) -> Format:
        assert self._file is not None  # noqa: S101
        start = self._file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
        if start.startswith(b"["):
            raise InvalidInput(
                f"{self.name} holds a JSON array, and one object a line is wanted",
                hint="Take it apart first: jq -c '.[]' FILE | bdlab predict --file -",
            )
        return "jsonl" if start.startswith(b"{") else "csv"


def _kept(stream: IO[bytes]) -> IO[bytes]:
    kept = tempfile.TemporaryFile(prefix="bdlab-reviews-")  # noqa: SIM115 - closed by the ReviewFile
    shutil.copyfileobj(stream, kept)
    return kept


class _Lines:
    """Lines of UTF-8 with their number, so that a byte that is none can be named by its place.

    `number` is that of the last line read.
    """

    def __init__(self, file: IO[bytes], name: str, limit: int) -> None:
        self.name = name
        self.number = 0
        self.limit = limit
        self._file = file

    def skip_mark(self) -> int:
        """The offset after a byte order mark. Raises InvalidInput for one that is not UTF-8's."""
        self._file.seek(0)
        start = self._file.read(4)
        for mark, encoding in _FOREIGN_BOMS.items():
            if start.startswith(mark):
                raise InvalidInput(
                    f"{self.name} is {encoding}, and UTF-8 is wanted",
                    hint=f"Convert it first: iconv -f {encoding} -t UTF-8 {self.name}",
                )
        return len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0

    def raw(self) -> Iterator[bytes | None]:
        """Each line as bytes; None for one that is too long."""
        while line := self._file.readline(self.limit + 1):
            self.number += 1
            if len(line) <= self.limit:
                yield line
                continue
            while line and not line.endswith(b"\n"):
                line = self._file.readline(self.limit)
            yield None

    def text(self) -> Iterator[str]:
        """Each line as text. Raises InvalidInput for one that is too long or no UTF-8."""
        for line in self.raw():
            if line is None:
                raise InvalidInput(f"{self.name}, line {self.number}: longer than {self.limit} bytes")
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                offset = self._file.tell() - len(line) + error.start
                raise InvalidInput(
                    f"{self.name}, line {self.number}: not UTF-8: byte 0x{line[error.start]:02x} at offset "
                    f"{offset} of the file",
                    hint=_TO_UTF8.format(path=self.name),
                ) from error


@contextmanager
def _field_limit(limit: int) -> Iterator[None]:
    """The csv module's limit for a field is global: put it back as it was."""
    before = csv.field_size_limit(limit)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _csv_rows(lines: _Lines) -> Iterator[Row | BadRow]:
    # Strict, or a quote that is never closed would make one review of the rest of the file.
    reader = csv.reader(lines.text(), strict=True)
    header = _next(reader, lines, 1)
    if header is None:
        raise InvalidInput(f"{lines.name} is empty", hint="The first line has to name the columns.")
    columns = _columns(header, lines.name)
    while True:
        line = lines.number + 1
        row = _next(reader, lines, line)
        if row is None:
            return
        if not row:
            continue
        if len(row) != len(header):
            why = f"the row has {len(row)} columns, and the header has {len(header)}"
            yield BadRow(line, (FieldProblem("body", why),))
            continue
        yield _csv_row(line, {field: row[index] for field, index in columns.items()}, header, columns)


def _next(reader: Iterator[list[str]], lines: _Lines, line: int) -> list[str] | None:
    with _field_limit(lines.limit):
        try:
            return next(reader, None)
        except csv.Error as error:
            raise InvalidInput(
                f"{lines.name}, the row that begins on line {line}: not valid CSV: {error}",
                hint='A quote inside a quoted field has to be doubled (""), and each has to be closed.',
            ) from error


def _columns(header: list[str], name: str) -> dict[str, int]:
    columns: dict[str, int] = {}
    for index, title in enumerate(header):
        field = _FIELDS.get(title.strip().lower())
        if field in columns:
            both = f"{header[columns[field]]!r} and {title!r}"
            raise InvalidInput(f"{name}: two columns are for {field!r}: {both}")
        if field:
            columns[field] = index
    if "text" not in columns:
        shown = ", ".join(repr(title[:40]) for title in header[:20])
        raise InvalidInput(
            f"{name}: the column 'Text' is missing; the first line has {shown}",
            hint="Columns: Text, and if there are any Summary, HelpfulnessNumerator, HelpfulnessDenominator.",
        )
    return columns


def _csv_row(
    line: int, values: Mapping[str, str], header: list[str], columns: Mapping[str, int]
) -> Row | BadRow:
    fields: dict[str, Any] = {"text": values["text"], "summary": values.get("summary", "")}
    problems = []
    for name in ("HelpfulnessNumerator", "HelpfulnessDenominator"):
        value = values.get(name, "").strip()
        if not value:
            continue
        if not (value.isascii() and value.isdigit()) or len(value) > 10 or int(value) > MAX_COUNT:
            why = f"has to be an integer from 0 to {MAX_COUNT}, and is {value[:40]!r}"
            problems.append(FieldProblem(header[columns[name]], why))
        else:
            fields[name] = int(value)
    try:
        review = Review(
            text=fields["text"],
            summary=fields["summary"],
            helpfulness_numerator=fields.get("HelpfulnessNumerator", 1),
            helpfulness_denominator=fields.get("HelpfulnessDenominator", 1),
        )
        check(review)
    except ReviewInvalid as error:
        found = [FieldProblem(header[columns.get(p.field, 0)], p.why) for p in error.problems]
        return BadRow(line, (*found, *problems))
    return BadRow(line, tuple(problems)) if problems else Row(line, review)


def _json_rows(lines: _Lines) -> Iterator[Row | BadRow]:
    for data in lines.raw():
        if data is None:
            why = f"the line is longer than {lines.limit} bytes"
            yield BadRow(lines.number, (FieldProblem("body", why),))
        elif data.strip():
            try:
                yield Row(lines.number, _from_json(data))
            except ReviewInvalid as error:
                yield BadRow(lines.number, error.problems)


def _from_json(data: bytes) -> Review:
    value = parse(data)
    if isinstance(value, dict):
        repeated = value.names if isinstance(value, Repeating) else ()
        known: dict[str, Any] = {}
        twice: set[str] = set()
        for name, content in value.items():
            field = _FIELDS.get(name.lower())
            if field and (field in known or name in repeated):
                twice.add(field)
            known[field or name] = content
        if twice:
            raise ReviewInvalid([FieldProblem(name, "stands twice") for name in sorted(twice)])
        value = known
    problems = find_problems(value)
    if problems:
        raise ReviewInvalid(problems)
    return msgspec.convert(without_others(value), Review)
