"""Files of reviews: what is read, and how what cannot be read is named."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import os
import threading
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bdlab.errors import InvalidInput
from bdlab.inputs.files import BadRow, Format, InputFile, Row
from bdlab.model.features import read_examples
from tests.samples import REVIEW, Review

MAX = 100_000
AMAZON = "Id,ProductId,HelpfulnessNumerator,HelpfulnessDenominator,Score,Time,Summary,Text\n"


def read(path: Path | str, kind: Format | None = None, standard_input: bytes = b"") -> list[Row | BadRow]:
    with InputFile(str(path), io.BytesIO(standard_input), REVIEW, kind=kind, max_row_bytes=MAX) as file:
        first = list(file.rows())
        assert list(file.rows()) == first, "a second reading differs from the first"
        return first


def written(folder: Path, content: str | bytes, name: str = "reviews.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path: Path | str, **more: bytes) -> str:
    with pytest.raises(InvalidInput) as caught:
        read(path, **more)  # type: ignore[arg-type]
    return caught.value.message


def bad(rows: list[Row | BadRow]) -> list[str]:
    return [str(row) for row in rows if isinstance(row, BadRow)]


# CSV that is right.


def test_the_amazon_columns_are_understood(tmp_path: Path) -> None:
    content = AMAZON + '1,B1,3,4,5,130,"Good, cheap","They said ""great""\nand it was"\n2,B2,0,0,1,131,,Bad\n'
    assert read(written(tmp_path, content)) == [
        Row(
            2,
            Review(
                text='They said "great"\nand it was',
                summary="Good, cheap",
                helpfulness_numerator=3,
                helpfulness_denominator=4,
            ),
        ),
        Row(4, Review(text="Bad", helpfulness_numerator=0, helpfulness_denominator=0)),
    ]


@pytest.mark.parametrize("header", ["Text", "text", " TEXT ", "Score,text", "summary,Text"])
def test_only_the_text_has_to_be_there(tmp_path: Path, header: str) -> None:
    width = header.count(",")
    [row] = read(written(tmp_path, f"{header}\n{'5,' * width}good\n"))
    assert isinstance(row, Row)
    assert row.given.text == "good"
    assert (row.given.helpfulness_numerator, row.given.helpfulness_denominator) == (1, 1)


@pytest.mark.parametrize("name", ["helpfulness_numerator", "HELPFULNESSNUMERATOR", "HelpfulnessNumerator"])
def test_the_counts_go_by_several_names_and_may_be_empty(tmp_path: Path, name: str) -> None:
    rows = read(written(tmp_path, f"text,{name}\na,7\nb,\nc, 8 \n"))
    assert [row.given.helpfulness_numerator for row in rows if isinstance(row, Row)] == [7, 1, 8]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_byte_order_mark_and_windows_line_ends_are_no_matter(tmp_path: Path, newline: str) -> None:
    content = codecs.BOM_UTF8 + newline.join(["Text", "käse ✓", "", "b"]).encode()
    assert read(written(tmp_path, content)) == [Row(2, Review(text="käse ✓")), Row(4, Review(text="b"))]


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=6))
def test_whatever_csv_writes_is_read_back(texts: list[str]) -> None:
    made = io.StringIO(newline="")
    writer = csv.writer(made)
    writer.writerow(["Text", "Summary"])
    writer.writerows([[text, "s"] for text in texts])
    rows = read("-", kind="csv", standard_input=made.getvalue().encode())
    assert [row.given.text for row in rows if isinstance(row, Row)] == [text for text in texts if text.strip()]
    assert len(rows) == len(texts)


# JSON lines that are right.


def test_json_lines_take_the_names_of_the_api_and_of_the_columns(tmp_path: Path) -> None:
    lines = [
        {"text": "a", "summary": "s", "HelpfulnessNumerator": 2, "HelpfulnessDenominator": 3},
        {"Text": "b", "Summary": "s", "helpfulness_numerator": 2, "ignored": [1]},
    ]
    content = "\n\n".join(map(json.dumps, lines))
    assert read(written(tmp_path, content, "r.jsonl")) == [
        Row(1, Review(text="a", summary="s", helpfulness_numerator=2, helpfulness_denominator=3)),
        Row(3, Review(text="b", summary="s", helpfulness_numerator=2)),
    ]


def test_without_a_suffix_the_content_tells(tmp_path: Path) -> None:
    assert read("-", standard_input=b'\xef\xbb\xbf {"text": "a"}\n') == [Row(1, Review(text="a"))]
    assert read("-", standard_input=b"text\na\n") == [Row(2, Review(text="a"))]
    assert read(written(tmp_path, "text\na\n", "reviews.txt")) == [Row(2, Review(text="a"))]


def test_a_pipe_is_read_twice_as_well(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"text\na\nb\n",))
    writer.start()
    assert len(read(pipe)) == 2
    writer.join()


# Rows that are wrong.


def test_bad_csv_rows_are_named_by_line_and_column(tmp_path: Path) -> None:
    content = 'Text,HelpfulnessNumerator\ngood,1\n,1\n"two\nlines",x\na,-1\nb,1.0\nc,99999999999\n'
    content += "d,1,2\ne\nf\0,1\ng,2\n"
    rows = read(written(tmp_path, content))
    assert [row.line for row in rows] == [2, 3, 4, 6, 7, 8, 9, 10, 11, 12]
    found = bad(rows)
    assert found[0] == "line 3: field 'Text' is empty: there is nothing to predict from"
    assert found[1].startswith("line 4: field 'HelpfulnessNumerator' has to be an integer from 0 to 2147483647")
    assert "'-1'" in found[2]
    assert "'1.0'" in found[3]
    assert "'99999999999'" in found[4]
    assert found[5] == "line 9: the row has 3 columns, and the header has 2"
    assert found[6] == "line 10: the row has 1 columns, and the header has 2"
    assert found[7].startswith("line 11: field 'Text' holds a NUL character (U+0000) at character 1")
    assert len(found) == 8


def test_bad_json_lines_are_named_by_line_and_field(tmp_path: Path) -> None:
    lines = [
        '{"text": "good"}',
        "{",
        '{"text": 5}',
        "[1]",
        '{"text": "a\\ud800"}',
        '{"text": "a", "Text": "b"}',
        '{"text": "a", "x": ' + "[" * 20_000 + "]" * 20_000 + "}",
        '{"text": "' + "a" * MAX + '"}',
        '{"text": "last"}',
        '{"Text": "a", "Summary": "s", "Text": "b"}',
    ]
    rows = read(written(tmp_path, "\n".join(lines), "r.jsonl"))
    found = bad(rows)
    assert [row.line for row in rows if isinstance(row, Row)] == [1, 9]
    assert found[0].startswith("line 2: is not valid JSON: ")
    assert found[1] == "line 3: field 'text' has to be a string, and is a number"
    assert found[2] == "line 4: has to be a JSON object with the field 'text', and is an array"
    assert "half of a surrogate pair (U+D800) at character 1" in found[3]
    assert found[4] == "line 6: field 'text' stands twice"
    assert found[5] == "line 7: is nested too deeply"
    assert found[6] == f"line 8: the line is longer than {MAX} bytes"
    assert found[7] == "line 10: field 'text' stands twice"


def test_a_line_of_json_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    [row] = read(written(tmp_path, b'{"text": "\xff"}', "r.jsonl"))
    assert "is not UTF-8: byte 0xff at offset 10" in str(row)


# Files that are wrong as a whole.


def test_missing_columns_are_named(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, "Id,Score\n1,2\n"))
    assert "the column 'Text' is missing; the first line has 'Id', 'Score'" in message


def test_a_column_that_stands_twice_is_named(tmp_path: Path) -> None:
    assert "'Text' and 'text'" in refusal(written(tmp_path, "Text,text\na,b\n"))


def test_no_utf8_is_named_by_line_and_offset(tmp_path: Path) -> None:
    path = written(tmp_path, b"Text\ngood\nk\xe4se\n")
    assert f"{path}, line 3: not UTF-8: byte 0xe4 at offset 11 of the file" in refusal(path)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_is_named(tmp_path: Path, encoding: str) -> None:
    mark = codecs.BOM_UTF16_LE if encoding.endswith("le") else codecs.BOM_UTF16_BE
    assert "is UTF-16, and not UTF-8" in refusal(written(tmp_path, mark + "Text\na\n".encode(encoding)))


def _zip(*names: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in names:
            archive.writestr(name, "Text\na\n")
    return made.getvalue()


CR_ALONE = b"Text,Summary\rgood,a\rbad,b\r"
OTHERS = {
    "compressed with gzip": (gzip.compress(b"Text\na\n"), "zcat {path}"),
    "compressed with bzip2": (bz2.compress(b"Text\na\n"), "bzcat {path}"),
    "compressed with xz": (lzma.compress(b"Text\na\n"), "xzcat {path}"),
    "a ZIP archive": (_zip("reviews.csv"), "unzip -p {path}"),
    "a workbook (.xlsx, .ods)": (_zip("[Content_Types].xml", "xl/workbook.xml"), "Save it as CSV"),
    "text whose lines end in CR alone": (CR_ALONE, r"tr '\r' '\n' < {path}"),
    "UTF-16LE": ("Text\na\n".encode("utf-16-le"), "iconv -f UTF-16LE -t UTF-8 {path}"),
    "UTF-16BE": ("Text\na\n".encode("utf-16-be"), "iconv -f UTF-16BE -t UTF-8 {path}"),
    "UTF-32": ("Text\na\n".encode("utf-32"), "iconv -f UTF-32 -t UTF-8 {path}"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_text_is_named_with_what_makes_text_of_it(tmp_path: Path, what: str) -> None:
    content, way = OTHERS[what]
    path = written(tmp_path, content)
    for look in (lambda: read(path), lambda: list(read_examples(path))):
        with pytest.raises(InvalidInput) as caught:
            look()
        assert f"{path} is {what}, and " in caught.value.message
        assert way.replace("{path}", str(path)) in caught.value.hint


@pytest.mark.parametrize(
    ("other", "option"), [(";", "--delimiter ';'"), ("\t", "--delimiter tab"), ("|", "--delimiter '|'")]
)
def test_another_delimiter_is_named_and_taken(tmp_path: Path, other: str, option: str) -> None:
    content = "ProductId,Score,Summary,Text\nB1,5,Good,Fine\n".replace(",", other)
    path = written(tmp_path, content)
    for look in (lambda: read(path), lambda: list(read_examples(path))):
        with pytest.raises(InvalidInput, match=r"separated by .*, and not by a comma") as caught:
            look()
        assert option in caught.value.hint
    with InputFile(str(path), io.BytesIO(), REVIEW, kind=None, max_row_bytes=MAX, delimiter=other) as file:
        assert list(file.rows()) == [Row(2, Review(text="Fine", summary="Good"))]
    [example] = read_examples(path, delimiter=other)
    assert (example.summary, example.text) == ("Good", "Fine")


def test_a_long_field_is_taken_by_both_readers(tmp_path: Path) -> None:
    """The csv module's own limit is 131,072 characters."""
    text = "word " * 40_000
    path = written(tmp_path, f'ProductId,Score,Summary,Text\nB1,5,Good,"{text}"\n')
    with InputFile(str(path), io.BytesIO(), REVIEW, kind=None, max_row_bytes=1 << 20) as file:
        assert list(file.rows()) == [Row(2, Review(text=text, summary="Good"))]
    [example] = read_examples(path)
    assert example.text == text
    assert csv.field_size_limit() == 131_072


def test_a_quote_that_is_never_closed_is_named_by_its_row(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, 'Text\ngood\n"never closed\nmore\n'))
    assert "the row that begins on line 3: not valid CSV" in message


def test_a_field_that_is_too_large_is_named_by_its_row(tmp_path: Path) -> None:
    content = 'Text\ngood\n"' + ("a" * 1000 + "\n") * 200 + '"\n'
    before = csv.field_size_limit()
    assert "the row that begins on line 3: not valid CSV: field larger" in refusal(written(tmp_path, content))
    assert csv.field_size_limit() == before


def test_a_line_that_is_too_long_is_named(tmp_path: Path) -> None:
    assert f"line 2: longer than {MAX} bytes" in refusal(written(tmp_path, "Text\n" + "a" * (MAX + 1)))


def test_an_empty_file_a_folder_and_no_file_are_named(tmp_path: Path) -> None:
    assert "is empty" in refusal(written(tmp_path, ""))
    assert f"{tmp_path} cannot be read: is a directory" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "missing.csv")


def test_a_json_array_is_named(tmp_path: Path) -> None:
    assert "is a JSON array" in refusal(written(tmp_path, '[{"text": "a"}]', "reviews"))


def test_a_file_without_rows_has_none(tmp_path: Path) -> None:
    assert read(written(tmp_path, "Text\n")) == []
    assert read(written(tmp_path, "\n\n", "r.jsonl")) == []
