"""Text files read line by line, and CSV in them: a contract's inputs as people write them, with titles of columns and
values as text. A file in another format is reported with its format."""

import codecs
import csv
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from msgspec import UNSET

from bdlab.contract import Contract, Field
from bdlab.contract.fields import FLOAT64, INT64
from bdlab.errors import InvalidInput
from bdlab.events import Input
from bdlab.inputs.body import BODY, FieldProblem, InputInvalid, Validator

_SHOWN = 40
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_TRUTH = re.compile("|".join(_TRUTHS), re.IGNORECASE)
#: Of kinds that are no texts in JSON: what they are, how they are written, and what makes a value of that.
_FORMS: dict[str, tuple[str, re.Pattern[str], Callable[[str], Any]]] = {
    "integer": ("an integer from {0[0]} to {0[1]}", re.compile(r"-?[0-9]{1,19}"), int),
    "number": ("a number", re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"), float),
    "boolean": ("true or false, yes or no, 1 or 0", _TRUTH, lambda text: _TRUTHS[text.lower()]),
}
_TO_UTF8 = "Convert it first, for example: iconv -f {} -t UTF-8 {} > FILE"
_FORMATS: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_name("formats.toml").read_text("utf-8"))
_WORKBOOK = (b"[Content_Types].xml", b"_rels/", b"opendocument.spreadsheet")
_CR_ALONE = re.compile(rb"\r[^\n]")


class Titles:
    """Finds a contract's input by the title of a column: its name or column, in any case, and with any
    spaces, dashes and underscores if that leaves no doubt which is meant."""

    def __init__(self, contract: Contract) -> None:
        self._exact = {called: field for field in contract.inputs for called in (field.column, field.name)}
        self._loose: dict[str, Field | None] = {}
        for field in contract.inputs:
            for called in {_plain(field.name), _plain(field.column)}:
                self._loose[called] = None if called in self._loose else field

    def __call__(self, title: str) -> Field | None:
        title = title.strip()
        return self._exact.get(title) or self._loose.get(_plain(title))


def _plain(title: str) -> str:
    return re.sub(r"[\s_-]+", "", title).casefold()


def title_of(field: Field) -> str:
    """Return the title of the field's column in messages and in files that are made."""
    return field.name[:1].upper() + field.name[1:]


def cell_of(field: Field) -> Callable[[str], Any]:
    """Return what makes the field's JSON value of a text; its bounds, but for an integer's, are not checked. An empty
    text is null if the field may be that, else UNSET, for the field's default. It raises ValueError with why the text
    is no value."""
    empty = None if field.nullable else UNSET
    needed = field.required and not field.nullable
    if field.is_text:
        return str if needed else lambda text: text or empty
    wanted, form, value_of = _FORMS.get(field.kind, ("", None, str))
    low, high = field.bounds if field.kind == "integer" else FLOAT64
    wanted = "an integer of 64 bits" if (low, high) == INT64 else wanted.format(field.bounds)

    def read(text: str) -> Any:
        if form is None and text and text in field.choices:  # which may be white space alone
            return text
        given = text.strip()
        if needed and not given:
            raise ValueError("is empty")
        if form is None or not given:
            return given or empty
        if form.fullmatch(given):
            value: Any = value_of(given)
            if low <= value <= high:
                return value
        raise ValueError(f"has to be {wanted}, and is {given[:_SHOWN]!r}")

    return read


def input_of(validator: Validator, texts: Any, places: Iterable[tuple[str, Any, Callable[[str], Any]]]) -> Input:
    """Return the input whose values are in `texts`. `places` has the name of each field, its text's place in `texts`,
    and what makes a value of it. Raises InputInvalid with every field that is wrong."""
    values: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for name, place, read in places:
        try:
            value = read(texts[place])
        except ValueError as error:
            wrong[name] = str(error)
        else:
            if value is not UNSET:
                values[name] = value
    try:
        given = validator.given_of(values)
    except InputInvalid as error:
        wrong = {problem.field: problem.why for problem in error.problems} | wrong
    if wrong:
        known = (BODY, *(field.name for field in validator.contract.inputs))
        names = [name for name in known if name in wrong]
        raise InputInvalid([FieldProblem(name, wrong[name]) for name in names], validator.contract.noun)
    return given


class Lines:
    """Numbered lines of a UTF-8 file. `number` is that of the last line read, `begin` the offset of the first, after a
    byte order mark. Construction reads the start of the file, and raises InvalidInput if it is not UTF-8 text."""

    def __init__(self, file: IO[bytes], name: str, limit: int) -> None:
        self.name = name
        self.number = 0
        self.limit = limit
        self._file = file
        file.seek(0)
        start = file.read(1 << 16)
        _refuse_others(start, name)
        self.begin = len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0
        file.seek(self.begin)

    def go_on(self, offset: int, number: int) -> None:
        """Continue at `offset`, after line `number`."""
        self._file.seek(offset)
        self.number = number

    def raw(self) -> Iterator[bytes | None]:
        """Return each line as bytes, None for one that is too long."""
        while line := self._file.readline(self.limit + 1):
            self.number += 1
            if len(line) <= self.limit:
                yield line
                continue
            while line and not line.endswith(b"\n"):
                line = self._file.readline(self.limit)
            yield None

    def text(self) -> Iterator[str]:
        """Return each line as text. Raises InvalidInput for one that is too long or not UTF-8."""
        for line in self.raw():
            if line is None:
                raise InvalidInput(f"{self.name}, line {self.number}: longer than {self.limit} bytes")
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                offset, hint = self._file.tell() - len(line) + error.start, _TO_UTF8.format("WINDOWS-1252", self.name)
                byte = f"byte 0x{line[error.start]:02x} at offset {offset} of the file"
                raise InvalidInput(f"{self.name}, line {self.number}: not UTF-8: {byte}", hint=hint) from error


def _refuse_others(start: bytes, name: str) -> None:
    found = next((each for each in _FORMATS.values() if start.startswith(bytes.fromhex(each["bytes"]))), {})
    what, hint = found.get("is", ""), found.get("hint", "")
    if found is _FORMATS["zip"] and any(part in start[:4096] for part in _WORKBOOK):
        what, hint = "a workbook (.xlsx, .ods)", _FORMATS["excel"]["hint"]
    elif not what and start.count(0) > len(start) // 4:
        order = "LE" if start[1::2].count(0) > start[::2].count(0) else "BE"
        what, hint = f"UTF-16{order}", _TO_UTF8.format(f"UTF-16{order}", name)
    elif not what and b"\n" not in start and _CR_ALONE.search(start):
        what, hint = "text whose lines end in CR alone", "Convert it first: tr '\\r' '\\n' < {path} > FILE"
    if what:
        wanted = "UTF-8" if what.startswith("UTF") else "plain text"
        raise InvalidInput(f"{name} is {what}, and not {wanted}", hint=hint.replace("{path}", name))


def csv_rows(lines: Lines, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Return each row that is not empty, with the line on which it begins. Raises InvalidInput."""
    # Strict: otherwise a quote that is not closed would make one row of the rest of the file.
    reader = csv.reader(lines.text(), strict=True, delimiter=delimiter)
    while True:
        line = lines.number + 1
        before = csv.field_size_limit(lines.limit)  # it is global
        try:
            row = next(reader, None)
        except csv.Error as error:
            hint = 'A quote inside a quoted field has to be doubled (""), and each has to be closed.'
            why = f"{lines.name}, the row that begins on line {line}: not valid CSV: {error}"
            raise InvalidInput(why, hint=hint) from error
        finally:
            csv.field_size_limit(before)
        if row is None:
            return
        if row:
            yield line, row
