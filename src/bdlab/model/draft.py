"""A card for a model file, as the file and a sample of rows let guess it, and what is wrong with one."""

import platform
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from bdlab.contract import Contract, column_name, parse_contract
from bdlab.contract.fields import CONFIDENCE, PREDICTION
from bdlab.errors import BdlabError, InvalidInput, ModelError, ModelNotFound
from bdlab.events import Scorer, codec_of
from bdlab.inputs import Validator
from bdlab.inputs.body import parses
from bdlab.inputs.files import BadRow, InputFile, Row
from bdlab.inputs.tables import Lines, csv_rows
from bdlab.model import onnx, pipeline, scorer
from bdlab.model.library import Traits
from bdlab.profile import profile_of

MOST_ROWS, MOST_FINDINGS = 10_000, 20
"""Of a sample that are read, and of a report that are told."""
_MAX_ROW_BYTES = 1 << 20
_ROLES = {".joblib": "pipeline", ".pkl": "pipeline", ".skops": "skops", ".onnx": "onnx"}
_LIBRARIES = ("sklearn", "numpy", "pandas", "lightgbm", "xgboost", "onnxruntime")
_MOST_CHOICES, _ROWS_A_CHOICE = 20, 10
_DELIMITER = "If the columns are not separated by commas, give --delimiter."
_MOST_EXAMPLES = 10
"""`bdlab demo` predicts from them: one of each field would make all its inputs the same."""
_NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")
#: A schema, what the values are that have it, what tells that a cell is one, and what makes a value of it.
_FORMS: tuple[tuple[dict[str, str], str, Callable[[str], object], Callable[[str], Any]], ...] = (
    ({"type": "integer"}, "whole numbers", re.compile(r"-?(?:0|[1-9]\d{0,17})").fullmatch, int),
    ({"type": "number"}, "numbers", _NUMBER.fullmatch, float),
    ({"type": "boolean"}, "true or false", re.compile("(?i)true|false").fullmatch, lambda cell: cell.lower() == "true"),
    ({"type": "string", "format": "date-time"}, "dates and times with their offset from UTC", parses, str),
)


class Guess(msgspec.Struct, frozen=True):
    """The schema that was guessed of a field, why, and whether a row may leave it out."""

    field: str
    schema: dict[str, Any]
    why: str
    optional: bool


class Draft(msgspec.Struct, frozen=True):
    """A card that was written to `path`. `predicted` sums up what the model says to the sample."""

    path: str
    card: scorer.Card
    guesses: list[Guess]
    predicted: dict[str, Any]


def draft_card(
    file: Path,
    sample: Path,
    *,
    name: str = "",
    version: str = "1.0.0",
    output: Path | None = None,
    target: str = "",
    bounds: bool = False,
    trust: bool = False,
    force: bool = False,
    contract: Path | None = None,
    delimiter: str = ",",
) -> Draft:
    """Write a card for the model in `file`, beside it, or with a copy of it in the folder `output`. The contract is
    that of the card `contract`, as for a model that was trained again; without one it follows from the model and the
    rows of `sample`, a CSV file, but for its column `target`. Loading a joblib file runs its code; a skops file with
    types that skops does not know needs `trust`. Nothing is written unless the model predicts the sample. Raises
    InvalidInput, ModelError."""
    folder = output or file.parent
    path = folder / (file.stem + scorer.SUFFIX)
    name, role = name or scorer.file_title(file), _ROLES.get(file.suffix)
    scorer.check_title(name, version)
    if path.exists() and not force:
        raise InvalidInput(f"there is a card already: {path}", hint="Give --force to replace it.")
    if role is None:
        raise InvalidInput(f"{file} is no model file: its name ends with none of {', '.join(_ROLES)}")
    content = scorer.read_file(file)
    entry, traits = _read_model(content, role, str(file), trust=trust)
    known = scorer.contract_of(scorer.read_card(contract), contract).document if contract else None
    tries = [[]] if known else list(_tries(sample, traits, target, delimiter, bounds=bounds))
    for tried in tries:
        properties = {each.field: each.schema for each in tried}
        required = [each.field for each in tried if not each.optional]
        inputs = {"type": "object", "properties": properties, "required": required}
        asked = parse_contract(known or {"input": inputs, "output": _output(None)})
        read = read_rows(sample, asked, delimiter)
        if bad := [row for row in read if isinstance(row, BadRow)]:
            raise InvalidInput(f"the sample {sample}, {bad[0]}")
        taken = [row.given for row in read if isinstance(row, Row)]
        try:
            classes = traits.classes(asked, taken)
            if traits.ordered:
                entry = msgspec.structs.replace(entry, classes=tuple(classes or ()))
            document = known or {"input": inputs, "output": _output(classes)}
            codec = codec_of(parse_contract(document))
            scores = scorer.library_scorer(content, entry, codec, source=str(file), name=name).score_many(taken)
            break
        except ModelError as error:
            if tried is tries[-1]:
                if tried and traits.names is None:
                    names = ", ".join(repr(each.field) for each in tried)
                    error.hint = f"Its inputs were {names}; if one is none, name it with --target. {error.hint}"
                raise
    loaded = {pipeline.PACKAGES.get(each, each): sys.modules.get(each) for each in _LIBRARIES}
    libraries = {package: module.__version__ for package, module in loaded.items() if module}
    libraries["python"] = platform.python_version()
    columns = {field.column: [getattr(row, field.column) for row in taken] for field in codec.contract.inputs}
    columns |= {field.column: [getattr(score, field.column) for score in scores] for field in codec.contract.truths}
    profile, files = profile_of(codec.contract, columns, [score.known_terms for score in scores]), {file.name: entry}
    card = scorer.Card(name=name, version=version, files=files, contract=document, profile=profile, libraries=libraries)
    copied = {} if folder.resolve() == file.parent.resolve() else {file.name: content}
    scorer.write_files(folder, {**copied, path.name: scorer.encode_card(card)})
    found = [score.prediction for score in scores]
    counts = dict(Counter(found).most_common()) if isinstance(found[0], str) else {}
    told = {"classes": counts} if counts else {"lowest": min(found), "highest": max(found)}
    return Draft(str(path), card, tried, {"rows": len(found), **told})


def _tries(sample: Path, traits: Traits, target: str, delimiter: str, *, bounds: bool) -> Iterator[list[Guess]]:
    """Return guesses of all fields, until a model predicts with them. Raises InvalidInput."""
    try:
        with sample.open("rb") as file:
            lines = Lines(file, str(sample), _MAX_ROW_BYTES)
            found = [[cell.strip() for cell in row] for _, row in islice(csv_rows(lines, delimiter), MOST_ROWS + 1)]
    except OSError as error:
        raise InvalidInput(f"the sample {sample} cannot be read: {error.strerror}") from error
    header, *cells = found or [[]]
    if not cells:
        raise InvalidInput(f"the sample {sample} has no rows: it needs a line of titles, and rows")
    rows = [row + [""] * (len(header) - len(row)) for row in cells]
    places = _places(header, traits, target, sample)

    def guesses(*, all_text: bool = False) -> list[Guess]:
        cells = ((header[place], [row[place] for row in rows], text) for place, text in places)
        return [guess(title, column, text=text or all_text, bounds=bounds) for title, column, text in cells]

    yield guesses()
    # Most encoders know a missing text; what splits texts into words knows empty ones only.
    yield [_emptied(each) for each in guesses()]
    if traits.names is None and traits.number is None:  # a text may look like a number
        yield [_emptied(each) for each in guesses(all_text=True)]


def guess(name: str, cells: Sequence[str], *, text: bool = False, bounds: bool = False) -> Guess:
    """Return the schema of a column as its cells have it. `text` says that the model takes texts there. Raises
    InvalidInput if all cells are empty."""
    found = [cell for cell in cells if cell]
    if not found:
        raise InvalidInput(f"the column {name!r} of the sample is empty: nothing tells its type")
    different = sorted(set(found))
    numbers = {cell for cell in different if _NUMBER.fullmatch(cell)}
    odd = {cell.lower() for cell in different if cell not in numbers}
    values: list[Any] = found
    schema: dict[str, Any] = {"type": "string"}
    fitting = () if text else (form for form in _FORMS if all(map(form[2], found)))
    if form := next(iter(fitting), None):
        schema, why, values = dict(form[0]), form[1], [*map(form[3], found)]
    elif not text and numbers and odd <= {"na", "nan", "n/a", "null", "none"}:
        hint = "Leave the cell of a missing value empty."
        raise InvalidInput(f"the column {name!r} of the sample has {min(odd)!r} among its numbers", hint=hint)
    elif len(different) <= _MOST_CHOICES and len(found) >= _ROWS_A_CHOICE * len(different):
        schema, why = {"enum": different}, f"{len(different)} different texts"
    else:
        why = f"{len(different)} different texts, too many for an enum"
    why = f"{len(found)} values: {why}"
    if bounds and schema.get("type") in ("integer", "number"):
        schema |= {"minimum": min(values), "maximum": max(values)}
    if missing := len(cells) - len(found):
        why += f"; {missing} are missing"
        schema |= {"enum": [*different, None]} if "enum" in schema else {"type": [schema["type"], "null"]}
    examples = [*dict.fromkeys(values)][: 1 if "enum" in schema else _MOST_EXAMPLES]
    if len(different) == 1:
        why += "; all are the same, which makes no default"
    return Guess(name, {**schema, "examples": examples}, why, bool(missing))


def _emptied(found: Guess) -> Guess:
    """Return the guess of a text that may be null as one that may be empty."""
    if found.schema.get("type") != ["string", "null"] or "format" in found.schema:
        return found
    schema = found.schema | {"type": "string", "default": ""}
    return Guess(found.field, schema, f"{found.why}; the model takes no null there", optional=True)


def _read_model(content: bytes, role: str, source: str, *, trust: bool) -> tuple[scorer.File, Traits]:
    file = scorer.file_of(role, content)
    if role == "onnx":
        return file, onnx.traits(content, source=source)
    if role == "skops" and trust:
        file = msgspec.structs.replace(file, trusted=(*pipeline.untrusted_types(content, source=source),))
    return file, pipeline.traits(pipeline.load(content, file, source=source), source=source)


def read_rows(sample: Path, contract: Contract, delimiter: str) -> list[Row | BadRow]:
    """Return the rows of a sample as a model with this contract gets them. Raises InvalidInput."""
    asked = Validator(contract)
    with InputFile(str(sample), BytesIO(), asked, kind=None, max_row_bytes=_MAX_ROW_BYTES, delimiter=delimiter) as file:
        found = list(islice(file.rows(), MOST_ROWS))
    if not found:
        raise InvalidInput(f"the sample {sample} has no rows", hint="Give some that the model can predict.")
    return found


def _places(header: list[str], traits: Traits, target: str, sample: Path) -> list[tuple[int, bool]]:
    """Return the column of each input of the model, and whether it has to be a text."""
    places = {column_name(title): place for place, title in enumerate(header) if title != target}
    if target and target not in header:
        raise InvalidInput(f"the sample {sample} has no column {target!r}; it has {', '.join(header)}")
    if traits.names is None:
        if traits.number not in (None, len(places)):
            hint = "Leave out what it does not take; --target names a column that is no input. " + _DELIMITER
            why = f"the model takes {traits.number} fields, and the sample has {len(places)} columns for it"
            raise InvalidInput(why, hint=hint)
        return [(place, traits.text) for place in places.values()]
    if missing := [name for name in traits.names if column_name(name) not in places]:
        raise InvalidInput(f"the sample {sample} lacks what the model takes: {', '.join(missing)}", hint=_DELIMITER)
    return [(places[column_name(name)], text) for name, text in traits.names.items()]


def _output(classes: Sequence[str] | None) -> dict[str, Any]:
    fields: dict[str, Any] = {PREDICTION: {"type": "number"}}
    if classes is not None:
        confidence = {"type": "number", "minimum": 0, "maximum": 1}
        fields = {PREDICTION: {"enum": list(classes)}, CONFIDENCE: confidence}
    return {"type": "object", "properties": fields}


class Finding(msgspec.Struct, frozen=True):
    """What is wrong, and what to do about it."""

    what: str
    hint: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`model` is the name and version, empty if it cannot be loaded; `rows` of the sample were predicted."""

    model: str = ""
    contract: Contract | None = None
    rows: int = 0
    findings: tuple[Finding, ...] = ()


def inspect(path: str, sample: Path | None = None, *, delimiter: str = ",") -> Report:
    """Load the model of a card, and predict its example and the rows of `sample`, a file of inputs. Raises
    ModelNotFound if there is no card, InvalidInput if the sample cannot be read."""
    contract = None
    try:
        contract = scorer.load_contract(path)
        model = scorer.load_scorer(path)
    except BdlabError as error:
        if contract is None and isinstance(error, ModelNotFound):
            raise
        return Report(contract=contract, findings=(Finding(error.message, error.hint),))
    found = [] if sample is None else read_rows(sample, contract, delimiter)
    valid = [row for row in found if isinstance(row, Row)]
    why = "Mend the row, or the contract if it is right."
    findings = [Finding(str(row), why) for row in found if isinstance(row, BadRow)]
    try:
        model.score_many([row.given for row in valid])
    except ModelError:
        findings += islice(_failures(model, valid), MOST_FINDINGS)
    return Report(model=model.name, contract=contract, rows=len(valid), findings=tuple(findings[:MOST_FINDINGS]))


def _failures(model: Scorer, rows: list[Row]) -> Iterator[Finding]:
    for row in rows:
        try:
            model.score(row.given)
        except ModelError as error:
            yield Finding(f"line {row.line}: {error.message}", error.hint)
