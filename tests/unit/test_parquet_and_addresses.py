"""Reviews and results in Parquet files and at addresses."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from pyarrow import parquet as pq
from pyarrow.parquet import encryption as pe

from bdlab.errors import BdlabError, InvalidInput
from bdlab.events import Term
from bdlab.inputs.bulk import RowResult
from bdlab.inputs.files import BadRow, Format, InputFile, Row
from bdlab_cli.output.predictions import Results, results
from tests.samples import REVIEW, Review, ReviewScore

PAGE: dict[str, Any] = {
    "Id": [1, 2, 3, 4],
    "Text": ["good", 'né\n"x"', None, "b\0d"],
    "Summary": [None, "fine", "s", ""],
    "HelpfulnessNumerator": [3.0, float("nan"), None, 0.0],
    "helpfulness_denominator": [5, None, 1, 0],
}
WANTED = [
    Row(1, Review(text="good", helpfulness_numerator=3, helpfulness_denominator=5)),
    Row(2, Review(text='né\n"x"', summary="fine")),
    "line 3: field 'text' is empty: there is nothing to predict from",
    "line 4: field 'text' holds a NUL character (U+0000) at character 1, which cannot be stored",
]


def read(source: str, kind: Format | None = None, given: bytes = b"") -> list[Row | str]:
    with InputFile(source, io.BytesIO(given), REVIEW, kind=kind, max_row_bytes=9999) as file:
        return [str(row) if isinstance(row, BadRow) else row for row in file.rows()]


def parquet(columns: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content)
    return content.getvalue()


@pytest.mark.parametrize("kind", ["parquet", None])
def test_a_parquet_file_is_read_as_its_rows(tmp_path: Path, kind: Format | None) -> None:
    path = tmp_path / "reviews.any"
    path.write_bytes(parquet(PAGE))
    assert read(str(path), kind) == WANTED
    assert read("-", kind, given=path.read_bytes()) == WANTED
    path.write_bytes(parquet(PAGE | {"Summary": pa.array(PAGE["Summary"]).dictionary_encode()}))
    assert read(str(path), kind) == WANTED


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (parquet({"Score": [1]}), "the column 'Text' is missing; the first line has 'Score'"),
        (parquet({"Text": ["a"], "text": ["b"]}), "two columns are named 'text'"),
        (parquet(PAGE)[:-9], "cannot be read as Parquet: "),
        (b"Text\na\n", "cannot be read as Parquet: "),
    ],
)
def test_a_parquet_file_that_cannot_be_read_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"(?s).*") as raised:
        read(str(tmp_path / "x"), "parquet")
    assert told in raised.value.message


def test_an_encrypted_parquet_file_is_told() -> None:
    keys = pe.CryptoFactory(lambda _: _PlainKeys())
    secret = keys.file_encryption_properties(
        pe.KmsConnectionConfig(), pe.EncryptionConfiguration("k", uniform_encryption=True)
    )
    pq.write_table(pa.table(PAGE), content := io.BytesIO(), encryption_properties=secret)
    with pytest.raises(InvalidInput, match=r"cannot be read as Parquet: .*encrypt"):
        read("-", "parquet", given=content.getvalue())


class _PlainKeys(pe.KmsClient):  # type: ignore[misc]
    def wrap_key(self, key: bytes, _: str) -> str:
        return key.hex()


def test_what_other_writers_leave_is_read_as_text() -> None:
    content = parquet({"Text": pa.array([b"caf\xc3\xa9"], pa.large_binary()), "a.Text": ["no"]})
    assert read("-", given=content) == [Row(1, Review(text="caf\u00e9"))]
    with pytest.raises(InvalidInput, match="cannot be read as Parquet: Invalid UTF8"):
        read("-", given=parquet({"Text": [b"\xff"]}))


def test_a_column_of_another_type_is_told_of_each_row() -> None:
    texts = "field 'text' has to be a string, and is an array"
    for nested in ([[1]], pa.array([{"a": 1}]), pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8()))):
        [told] = read("-", given=parquet({"Text": nested, "Summary": [7]}))
        assert str(told).startswith("line 1: field 'text' has to be a string, and is a")
    [told] = read("-", given=parquet({"Text": [[1]], "Summary": [7]}))
    assert told == f"line 1: {texts}; field 'summary' has to be a string, and is a number"


def test_an_address_is_read_in_any_format() -> None:
    for name, content in (("a.csv", b"Text\ngood\n"), ("a.jsonl", b'{"text":"good"}'), ("a", parquet(PAGE))):
        fsspec.filesystem("memory").pipe(f"/in/{name}", content)
    csv, lines, columns = (read(f"memory://in/{name}") for name in ("a.csv", "a.jsonl", "a"))
    assert [csv, lines, columns] == [[Row(2, Review(text="good"))], [Row(1, Review(text="good"))], WANTED]


@pytest.mark.parametrize(
    ("address", "told"),
    [("memory://none", "cannot be read: "), ("nosuch://x/y", "cannot be reached: Protocol not known")],
)
def test_an_address_that_cannot_be_read_is_told(address: str, told: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        read(address)
    assert raised.value.message.startswith(f"{address} {told}")


@pytest.mark.parametrize(("package", "extra"), [("fsspec", "remote"), ("pyarrow", "parquet")])
def test_without_its_package_an_extra_is_named(monkeypatch: pytest.MonkeyPatch, package: str, extra: str) -> None:
    given = parquet({"Text": ["good"]}) if package == "pyarrow" else b""
    monkeypatch.setitem(sys.modules, package, None)
    for use in (lambda: read("-" if given else "memory://a", given=given), lambda: shown("memory://x.parquet")):
        with pytest.raises(InvalidInput, match=f", and the package {package} is not installed$") as raised:
            use()
        assert raised.value.hint == f"pip install 'bdlab[{extra}]'"


SCORED = RowResult(
    line=7,
    given=Review(text="good é", summary="s"),
    score=ReviewScore(prediction=4.5, sentiment="positive", confidence=0.9, explanation=(Term("good", 1.5),)),
    model="m@1",
    status="scored",
)


def shown(output: str) -> Results:
    return results(REVIEW.contract, as_json=False, output=output, published=False, raw_cells=False)


def test_results_are_written_as_parquet_with_what_is_known_after_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    with shown(str(path)) as writing:
        writing.add(SCORED)
        writing.complete()
    [row] = pq.read_table(path).to_pylist()
    assert (row["line"], row["text"], row["explanation"]) == (7, "good é", [{"term": "good", "weight": 1.5}])
    assert (row["prediction"], row["known_terms"], row["id"], row["offset"]) == (4.5, None, None, None)
    with shown(str(path)) as writing:
        writing.add(SCORED)
        writing.add(SCORED)
    [partial] = tmp_path.glob("out.partial-*.parquet")
    assert (len(pq.read_table(path)), len(pq.read_table(partial))) == (1, 2)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_results_go_to_an_address_once_all_are_there(suffix: str) -> None:
    memory, address = fsspec.filesystem("memory"), f"memory://out/x.{suffix}"
    with shown(address) as writing:
        writing.add(SCORED)
        assert not memory.exists(address)
        writing.complete()
    assert b"good" in memory.cat(address)


def test_an_address_that_cannot_be_written_is_told() -> None:
    with pytest.raises(BdlabError, match=r"^--output file:///proc/x.csv cannot be written: "):  # noqa: SIM117
        with shown("file:///proc/x.csv") as writing:
            writing.complete()
