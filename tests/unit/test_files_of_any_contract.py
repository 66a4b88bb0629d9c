"""Files, arguments and results of any contract."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet as pq

from bdlab.contract import Contract, Field, parse_contract
from bdlab.errors import InvalidInput
from bdlab.events import codec_of
from bdlab.inputs import Validator
from bdlab.inputs.bulk import RowResult
from bdlab.inputs.files import BadRow, Format, InputFile, Row
from bdlab_cli.output.columns import input_columns, output_columns
from bdlab_cli.output.predictions import results
from bdlab_cli.wiring.arguments import from_arguments
from bdlab_cli.wiring.samples import samples_of
from tests.random_contracts import contracts, fields_of
from tests.samples import REVIEW

PERSON = parse_contract(
    {
        "input": {
            "type": "object",
            "title": "Person",
            "properties": {
                "age": {"type": ["integer", "null"], "minimum": 0, "maximum": 150},
                "Income (EUR)": {"type": "number", "minimum": 0, "maximum": 99},
                "city": {"enum": ["Ulm", "Bonn"], "default": "Ulm"},
                "is-member": {"type": "boolean"},
                "note": {"type": "string", "default": "none"},
                "state": {"type": ["string", "null"]},
                "since when": {"type": ["string", "null"], "format": "date-time"},
                "visits": {"type": "integer", "default": 1},
            },
            "required": ["Income (EUR)", "is-member"],
        },
        "output": {
            "type": "object",
            "properties": {
                "prediction": {"enum": ["rich", "poor"]},
                "confidence": {"type": "number", "minimum": 0, "maximum": 1},
                "probabilities": {"type": "object", "additionalProperties": {"type": "number"}},
                "sure": {"type": "boolean"},
            },
        },
    }
)
CODEC = codec_of(PERSON)
NEEDED = {"income_eur": 2.5, "is_member": True}


def person(**more: Any) -> Any:
    """A person with the defaults of what is not given."""
    return CODEC.input(**NEEDED | more)


def read(contract: Contract, content: bytes, kind: Format | None = None) -> list[Row | BadRow]:
    with InputFile("-", io.BytesIO(content), Validator(contract), kind=kind, max_row_bytes=99_999) as file:
        return list(file.rows())


def as_csv(rows: list[list[str]]) -> bytes:
    made = io.StringIO(newline="")
    csv.writer(made).writerows(rows)
    return made.getvalue().encode()


def as_cell(value: Any) -> str:
    if isinstance(value, bool):
        return "Yes" if value else "0"
    if isinstance(value, datetime):
        return f" {value.isoformat(' ')}"
    return "" if value is None else str(value)


def as_column(field: Field, values: list[Any]) -> Any:
    kinds = {
        "string": pa.dictionary(pa.int8(), pa.string()) if field.choices else pa.string(), "integer": pa.int64(),
        "number": pa.float64(), "boolean": pa.bool_(), "date-time": pa.timestamp("us", "UTC"),
    }  # fmt: skip
    return pa.array(values, kinds[field.kind])


def as_parquet(columns: Mapping[str, Any]) -> bytes:
    pq.write_table(pa.table(dict(columns)), content := io.BytesIO())
    return content.getvalue()


@settings(max_examples=50)
@given(st.data())
def test_what_a_file_holds_is_what_the_codec_has(data: st.DataObject) -> None:
    contract = data.draw(contracts())
    rows = data.draw(st.lists(fields_of(contract.inputs), min_size=1, max_size=3))
    inputs = contract.inputs
    wanted = [codec_of(contract).input(**row) for row in rows]

    lines = b"".join(
        json.dumps({field.name: row[field.column] for field in inputs}, default=str).encode() + b"\n" for row in rows
    )
    columns = {field.name: as_column(field, [row[field.column] for row in rows]) for field in inputs}
    assert read(contract, lines, "jsonl") == [*map(Row, range(1, 9), wanted)][: len(rows)]
    assert read(contract, as_parquet(columns)) == [*map(Row, range(1, 9), wanted)][: len(rows)]

    # An empty cell of a text that may be null is null, and of another text its default.
    for field in inputs:
        empty = None if field.nullable else "" if field.required else field.default
        for row in rows if field.is_text else ():
            row[field.column] = row[field.column] or empty
    header = [data.draw(st.sampled_from([field.name, field.column])) for field in inputs]
    cells = [[as_cell(row[field.column]) for field in inputs] for row in rows]
    found = read(contract, as_csv([header, *cells]), "csv")
    assert [row.given for row in found if isinstance(row, Row)] == [codec_of(contract).input(**row) for row in rows]


@pytest.mark.parametrize("title", ["income_eur", "INCOME EUR", " Income-(eur) ", "incomeEur"])
def test_a_column_is_found_however_it_is_written(title: str) -> None:
    [row] = read(PERSON, as_csv([[title, "IsMember", "other"], ["2.5", "TRUE", "x"]]))
    assert row == Row(2, person())
    [row] = read(PERSON, json.dumps({title: 2.5, "is member": True}).encode())
    assert row == Row(1, person())


def test_titles_that_could_be_two_fields_are_those_that_they_are_exactly() -> None:
    properties = {name: {"type": "integer"} for name in ("ab_c", "a_bc")}
    document = PERSON.document | {"input": {"type": "object", "properties": properties, "required": list(properties)}}
    contract = parse_contract(document)
    [row] = read(contract, b"a_bc,ab_c\n1,2\n")
    assert row == Row(2, codec_of(contract).input(ab_c=2, a_bc=1))
    with pytest.raises(InvalidInput, match="the columns 'Ab_c' and 'A_bc' are missing; the first line has"):
        read(contract, b"ABC,abc\n1,2\n")


def test_empty_cells_are_null_or_the_default() -> None:
    header = ["age", "Income (EUR)", "city", "is-member", "note", "state", "since when"]
    [row] = read(PERSON, as_csv([header, ["", "2.5", "", "1", "", "", ""]]))
    assert row == Row(2, person(age=None, city="Ulm", note="none", state=None, since_when=None))


@pytest.mark.parametrize(
    ("cells", "problems"),
    [
        (
            ["x", "1e999", "Koln", "maybe", "a\0", "2026-01-31T12:00:00"],
            [
                "field 'AGE' has to be an integer from 0 to 150, and is 'x'",
                "field 'Income EUR' has to be a number, and is '1e999'",
                "field 'city' has to be one of 'Ulm', 'Bonn', and is 'Koln'",
                "field 'is_member' has to be true or false, yes or no, 1 or 0, and is 'maybe'",
                "field 'note' holds a NUL character (U+0000) at character 1, which cannot be stored",
                "field 'since when' has to be a date and time with its offset from UTC",
            ],
        ),
        (
            ["151", "", "", "", "", ""],
            [
                "field 'AGE' has to be an integer from 0 to 150, and is '151'",
                "field 'Income EUR' is empty",
                "field 'is_member' is empty",
            ],
        ),
        (["1.0", "2", "Ulm", "1", "", ""], ["field 'AGE' has to be an integer from 0 to 150, and is '1.0'"]),
        (["", "-1", "Ulm", "1", "", ""], ["field 'Income EUR' has to be between 0 and 99, and is -1.0"]),
        (["", "1_0", "Ulm", "1", "", ""], ["field 'Income EUR' has to be a number, and is '1_0'"]),
        (["", "nan", "Ulm", "1", "", ""], ["field 'Income EUR' has to be a number, and is 'nan'"]),
    ],
)
def test_every_wrong_cell_of_a_row_is_named(cells: list[str], problems: list[str]) -> None:
    header = ["AGE", "Income EUR", "city", "is_member", "note", "since when"]
    [row] = read(PERSON, as_csv([header, cells]))
    assert isinstance(row, BadRow)
    for found, told in zip(row.problems, problems, strict=True):
        assert str(found).startswith(told)


def test_a_cell_of_an_integer_without_bounds_tells_none() -> None:
    [row] = read(PERSON, b"Income (EUR),is-member,visits\n1,yes,2.0\n")
    assert isinstance(row, BadRow)
    assert str(row.problems[0]) == "field 'visits' has to be an integer of 64 bits, and is '2.0'"


def test_columns_that_are_missing_are_named_with_all() -> None:
    with pytest.raises(InvalidInput) as caught:
        read(PERSON, b"Age,City\n1,Ulm\n")
    assert caught.value.message.endswith(
        "the columns 'Income (EUR)' and 'Is-member' are missing; the first line has 'Age', 'City'"
    )
    assert caught.value.hint == (
        "Columns: Income (EUR), Is-member, and optionally Age, City, Note, State, Since when, Visits."
    )


def test_other_types_of_parquet_columns_are_taken_or_named() -> None:
    columns = {
        "age": [1.0, float("nan"), 2.5],
        "Income (EUR)": pa.array([1, 2, -3], pa.int8()),
        "is_member": [True, None, False],
        "visits": pa.array([None, 7, None], pa.uint64()),
        "since when": [datetime(2026, 1, 31), None, None],  # noqa: DTZ001
    }
    naive, null, wrong = read(PERSON, as_parquet(columns))
    assert "field 'since when' has to be a date and time with its offset" in str(naive)
    assert str(null) == "line 2: field 'is-member' has to be true or false, and is null"
    assert "field 'age' has to be an integer or null, and is a number with a fraction" in str(wrong)
    assert "field 'Income (EUR)' has to be between 0 and 99, and is -3" in str(wrong)
    del columns["since when"]
    assert read(PERSON, as_parquet({name: each[:2] for name, each in columns.items()} | {"is_member": [True] * 2})) == [
        Row(1, person(age=1, income_eur=1.0)),
        Row(2, person(income_eur=2.0, visits=7)),
    ]


def test_an_infinite_number_in_parquet_is_named() -> None:
    content = as_parquet({"income_eur": [1.0, float("inf")], "is_member": [True, True]})
    with pytest.raises(InvalidInput, match="line 2: the column 'income_eur' holds an infinite number"):
        read(PERSON, content)


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["Income (EUR)=2.5", "is-member=yes"], {}),
        (["income_eur=2.5", "is_member=1", "age=null", "note=", "state=null", "city=Bonn"],
         {"note": "", "city": "Bonn"}),
        (["income_eur=2.5", "is_member=1", "note=null", "state=a=b"], {"note": "null", "state": "a=b"}),
        (['{"Income (EUR)": 2.5, "is-member": true, "state": "null"}'], {"state": "null"}),
    ],
)  # fmt: skip
def test_arguments_are_fields_or_an_object(arguments: list[str], wanted: dict[str, Any]) -> None:
    assert from_arguments(Validator(PERSON), arguments, None, 999) == person(**wanted)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["Agee=3", "income_eur=1"], "'Agee=3' begins with no name of a field of a person; is 'age' meant?"),
        (["hello"], "'hello' begins with no name of a field of a person"),
        (["is_member=1", "is-member=1"], "the field 'is-member' is given twice"),
        (["age=x", "is_member=1"],
         "field 'age' has to be an integer from 0 to 150, and is 'x'; field 'Income (EUR)' is missing"),
        (['{"age": 1'], "is not valid JSON: Expecting ',' delimiter at column 1"),
        (["[1]"], "'[1]' begins with no name of a field of a person"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(arguments: list[str], why: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        from_arguments(Validator(PERSON), arguments, None, 999)
    assert caught.value.message.startswith(why)
    with pytest.raises(InvalidInput, match="--summary: a person has no text 'summary'"):
        from_arguments(Validator(PERSON), [], "s", 999)


@pytest.mark.parametrize(
    ("arguments", "summary", "text"),
    [
        (["good = tea"], "s", "good = tea"),
        (["txet=good"], "s", "txet=good"),
        (["text={}"], "s", "{}"),
        (["text=text=a"], "s", "text=a"),
        (["{not JSON"], "s", "{not JSON"),
        (["summary=s", "good", "helpfulness_numerator=1"], None, "good"),
        (['{"text": "good", "summary": "s"}'], None, "good"),
    ],
)
def test_a_text_is_told_from_a_field(arguments: list[str], summary: str | None, text: str) -> None:
    found = from_arguments(REVIEW, arguments, summary, 999)
    assert (found.text, found.summary) == (text, "s")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["text=a", "sumary="], "'sumary=' begins with no name of a field of a review; is 'summary' meant?"),
        (["good", "tea"], "'good' begins with no name of a field of a review"),
        (["summary=a", "b"], "the field 'summary' is given twice"),
        (['{"text": 5}'], "field 'text' has to be a string, and is a number"),
    ],
)
def test_wrong_arguments_of_a_review_are_named(arguments: list[str], why: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        from_arguments(REVIEW, arguments, "s" if "summary" in arguments[0] else None, 999)
    assert caught.value.message == why


# Results.

SCORED = RowResult(
    line=7,
    given=person(note="=1+1", state="BW", since_when=datetime(2026, 1, 31, 12, tzinfo=UTC)),
    score=CODEC.score(prediction="rich", confidence=0.75, probabilities={"rich": 0.75, "poor": 0.25}, sure=True),
    model="m@1",
    status="scored",
)


def written(folder: Path, suffix: str) -> Path:
    path = folder / f"out.{suffix}"
    with results(PERSON, as_json=False, output=str(path), published=False, raw_cells=False) as writing:
        writing.add(SCORED)
        writing.complete()
    return path


def test_results_have_the_outputs_and_the_inputs_of_the_contract(tmp_path: Path) -> None:
    [row] = csv.DictReader(io.StringIO(written(tmp_path, "csv").read_text()))
    assert list(row) == [
        *("line", "state", "id", "prediction", "confidence", "probabilities", "sure", "explanation"),
        *("known_terms", "warning", "model", "created_at", "partition", "offset"),
        *("age", "income_eur", "city", "is_member", "note", "state_", "since_when"),
    ]
    assert (row["state"], row["state_"], row["note"], row["age"]) == ("scored", "BW", "'=1+1", "")
    assert (row["probabilities"], row["sure"]) == ('{"rich":0.75,"poor":0.25}', "true")
    assert (row["is_member"], row["since_when"]) == ("true", "2026-01-31T12:00:00Z")
    found = json.loads(written(tmp_path, "jsonl").read_text())
    assert found["probabilities"] == {"rich": 0.75, "poor": 0.25}
    assert (found["since_when"], found["age"]) == ("2026-01-31T12:00:00Z", None)
    [row] = pq.read_table(written(tmp_path, "parquet")).to_pylist()
    assert (row["probabilities"], row["sure"]) == ({"rich": 0.75, "poor": 0.25}, True)
    assert (row["age"], row["is_member"], row["since_when"]) == (None, True, SCORED.given.since_when)


def test_probabilities_without_classes_and_a_text_for_a_moment_are_taken_in_parquet(tmp_path: Path) -> None:
    moment = {"type": "string", "format": "date-time", "default": "2026-01-31T12:00:00Z"}
    numbers = {"type": "object", "additionalProperties": {"type": "number"}}
    inputs = {"at": moment, "x": {"type": "number"}}
    outputs = {"prediction": {"type": "number"}, "probabilities": numbers}
    contract = parse_contract(
        {
            "input": {"type": "object", "properties": inputs, "required": ["x"]},
            "output": {"type": "object", "properties": outputs},
        }
    )
    content = as_parquet({"at": [None, "2026-01-31T13:00:00+01:00"], "x": [1.0, 1.0]})
    first, second = read(contract, content)
    assert isinstance(first, Row)
    assert second == Row(2, first.given)
    score = codec_of(contract).score(prediction=1.5, probabilities={"a": 0.5})
    path = tmp_path / "out.parquet"
    with results(contract, as_json=False, output=str(path), published=False, raw_cells=False) as writing:
        writing.add(RowResult(line=1, given=first.given, score=score, model="m@1", status="scored"))
        writing.complete()
    [row] = pq.read_table(path).to_pylist()
    assert (json.loads(row["probabilities"]), row["x"]) == ({"a": 0.5}, 1.0)


def test_a_table_has_the_outputs_of_the_contract() -> None:
    row = {"prediction": "rich", "confidence": 0.75, "sure": True, "warning": None} | {
        "age": None,
        "income_eur": 123456.78,
        "city": "Ulm",
        "is_member": False,
        "note": "a\nb",
        "state": "BW",
        "since_when": None,
        "visits": 1,
    }
    shown = [(column.title, str(column.cell(row))) for column in output_columns(PERSON, words=False)]
    assert shown == [("prediction", "rich 75%"), ("sure", "true")]
    inputs = [(column.title, str(column.cell(row))) for column in input_columns(PERSON)]
    assert inputs == [
        *(("age", "-"), ("income_eur", "123457"), ("city", "Ulm"), ("is_member", "false"), ("note", "a b")),
        ("state", "BW"),
    ]


@settings(max_examples=50)
@given(contracts())
def test_samples_fit_their_contract(contract: Contract) -> None:
    samples = samples_of(contract)
    assert samples == samples_of(contract)
    for sample in samples:
        Validator(contract).given_of(json.loads(json.dumps(sample)))
