"""Text files read line by line, and CSV in them. A file in another format is reported with its format."""

import codecs
import csv
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from bdlab.errors import InvalidInput

_TO_UTF8 = "Convert it first, for example: iconv -f {encoding} -t UTF-8 {path} > FILE"
_START_BYTES = 1 << 16

_FORMATS: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_name("formats.toml").read_text("utf-8"))
_WORKBOOK = (b"[Content_Types].xml", b"_rels/", b"opendocument.spreadsheet")
_CR_ALONE = re.compile(rb"\r[^\n]")
_DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}


class Lines:
    """Numbered lines of a UTF-8 file.

    `number` is that of the last line read, `begin` the offset of the first, after a byte order mark.
    Construction reads the start of the file, and raises InvalidInput if it is not UTF-8 text.
    """

    def __init__(self, file: IO[bytes], name: str, limit: int) -> None:
        self.name = name
        self.number = 0
        self.limit = limit
        self._file = file
        file.seek(0)
        start = file.read(_START_BYTES)
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
                offset = self._file.tell() - len(line) + error.start
                raise InvalidInput(
                    f"{self.name}, line {self.number}: not UTF-8: byte 0x{line[error.start]:02x} at offset "
                    f"{offset} of the file",
                    hint=_TO_UTF8.format(encoding="WINDOWS-1252", path=self.name),
                ) from error


def _refuse_others(start: bytes, name: str) -> None:
    found = next((each for each in _FORMATS.values() if start.startswith(bytes.fromhex(each["bytes"]))), {})
    what, hint = found.get("is", ""), found.get("hint", "")
    if found is _FORMATS["zip"] and any(part in start[:4096] for part in _WORKBOOK):
        what, hint = "a workbook (.xlsx, .ods)", _FORMATS["excel"]["hint"]
    elif not what and start.count(0) > len(start) // 4:
        order = "LE" if start[1::2].count(0) > start[::2].count(0) else "BE"
        what, hint = f"UTF-16{order}", _TO_UTF8.replace("{encoding}", what)
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
            raise InvalidInput(
                f"{lines.name}, the row that begins on line {line}: not valid CSV: {error}",
                hint='A quote inside a quoted field has to be doubled (""), and each has to be closed.',
            ) from error
        finally:
            csv.field_size_limit(before)
        if row is None:
            return
        if row:
            yield line, row


def refuse_delimiter(header: Sequence[str], suffices: Callable[[list[str]], bool], name: str, delimiter: str) -> None:
    """Raise InvalidInput if `header` would have titles that suffice with another delimiter."""
    for other, called in _DELIMITERS.items():
        titles = [title.strip(' "') for title in delimiter.join(header).split(other)]
        if other != delimiter and suffices(titles):
            option, used = ("tab" if other == "\t" else f"'{other}'"), _DELIMITERS.get(delimiter, delimiter)
            raise InvalidInput(
                f"{name}: the columns are separated by {called}, and not by {used}", hint=f"Give --delimiter {option}."
            )
