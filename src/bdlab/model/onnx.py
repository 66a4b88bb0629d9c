"""A scorer of a model in ONNX, by onnxruntime, which runs no code of the file."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bdlab.contract import Contract, Field
from bdlab.errors import ModelError, require
from bdlab.events import EventCodec, Input, Score
from bdlab.model.library import Answers, LibraryScorer, Traits, class_name, column
from bdlab.model.scorer import File

_TEXT = "tensor(string)"
_WHOLE = ("integer", "boolean")
#: Of each type, what an array of it has, and the kinds of fields that it holds without a loss.
_TYPES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "tensor(float)": (np.float32, ("number", *_WHOLE)),
    "tensor(double)": (np.float64, ("number", *_WHOLE)),
    "tensor(float16)": (np.float16, ("number", *_WHOLE)),
    "tensor(int64)": (np.int64, _WHOLE),
    "tensor(int32)": (np.int32, _WHOLE),
    "tensor(bool)": (np.bool_, ("boolean",)),
    _TEXT: (np.object_, ("string",)),
}
_FLOATS = ("tensor(float)", "tensor(double)", "tensor(float16)")
_LABELS = (_TEXT, "tensor(int64)", "tensor(int32)", "tensor(bool)")
_SHAPES = "docs/model.md says which inputs and outputs of ONNX models can be served; export the model so."


def session_of(content: bytes, *, source: str) -> Any:
    """Return onnxruntime's session. Raises ModelError, or InvalidInput if onnxruntime is not installed."""
    require("onnxruntime", extra="onnx", what=f"{source} is an ONNX model")
    import onnxruntime  # noqa: PLC0415 - an extra, which few models need

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it says is in the error
    # Threads that wait for work by turning round would take the cores of those that answer.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has a class of its own for each status
        hint = "Export it for this version (its opset and IR version), or install a newer onnxruntime."
        why = f"{source} cannot be loaded by onnxruntime {onnxruntime.__version__}: {error}"
        raise ModelError(why, hint=hint) from error
    if not session.get_inputs():
        raise ModelError(f"{source} has no input, and gives the same for each row", hint=_SHAPES)
    return session


def onnx_scorer(content: bytes, file: File, codec: EventCodec, *, source: str, name: str) -> LibraryScorer:
    """Return the scorer of a checked file. Raises ModelError if its inputs or outputs do not fit."""
    session = session_of(content, source=source)
    inputs = session.get_inputs()
    feed = _feed(inputs, codec.contract.inputs, source)
    read, outputs = _reader(codec, session.get_outputs(), file.classes, source)
    one_by_one = any(each.shape and each.shape[0] == 1 for each in inputs)

    def predict(rows: Sequence[Input]) -> list[Score]:
        if one_by_one and len(rows) > 1:
            return [predict([row])[0] for row in rows]
        return read(session.run(outputs, feed(rows)), len(rows))

    return LibraryScorer(codec, predict, name=name, sha256=file.sha256)


def traits(content: bytes, *, source: str) -> Traits:
    """Return what a model takes and gives. Raises ModelError if it cannot be loaded."""
    session = session_of(content, source=source)
    inputs = session.get_inputs()
    maps, numbers, labels = _kinds(session.get_outputs())

    def classes(contract: Contract, rows: Sequence[Input]) -> list[str] | None:
        """Only a map has names; otherwise the rows show which label mostly has the highest probability."""
        feed, votes = _feed(inputs, contract.inputs, source), defaultdict[int, Counter[str]](Counter)
        for row in rows:
            chances, *label = session.run([*(maps or numbers)[:1], *labels[:1]], feed([row]))
            if maps:
                return [str(key) for key in chances[0]]
            place, width = int(chances.argmax()), chances.size
            votes[place][class_name(label[0].reshape(-1).tolist()[0]) if label else str(place)] += 1
        found = {place: each.most_common(1)[0][0] for place, each in votes.items()}
        shown = len({*found.values()})
        if shown < len(found) or (shown < width and found != {place: str(place) for place in found}):
            why = f"{source} has {width} classes without names, and the sample shows {shown} of them"
            raise ModelError(why, hint="Give a sample with a row of each class, or export the model with ZipMap.")
        return [found.get(place, str(place)) for place in range(width)] if width > 1 else None

    ordered = bool(labels) and not maps
    if len(inputs) > 1:
        return Traits({each.name: each.type == _TEXT for each in inputs}, None, classes, ordered=ordered)
    [one] = inputs
    width = one.shape[1] if len(one.shape) == 2 and isinstance(one.shape[1], int) else None
    return Traits(None, width, classes, text=one.type == _TEXT, ordered=ordered)


def _kinds(outputs: Sequence[Any]) -> tuple[list[str], list[str], list[str]]:
    """Return the names of outputs that map classes to probabilities, of numbers, and of labels."""
    maps = [each.name for each in outputs if each.type.startswith("seq(map(")]
    numbers, labels = ([each.name for each in outputs if each.type in kinds] for kinds in (_FLOATS, _LABELS))
    return maps, numbers, labels


def _feed(inputs: Sequence[Any], fields: Sequence[Field], source: str) -> Callable[[Sequence[Input]], dict[str, Any]]:
    """Return what makes the arguments of a session: a matrix of all fields, or an array by name."""
    by_name = {name: [field] for field in fields for name in (field.column, field.name)}
    if len(inputs) == 1 and (len(fields) > 1 or inputs[0].name not in by_name):
        by_name = {inputs[0].name: [*fields]}
    for given in inputs:
        if given.name not in by_name:
            why = f"{source} takes the input {given.name[:100]!r}, and the contract has none of this name"
            raise ModelError(why, hint="Name the contract's inputs as the model's.")
    arrays = {given.name: _matrix(given, by_name[given.name], source) for given in inputs}
    return lambda rows: {name: array(rows) for name, array in arrays.items()}


def _matrix(given: Any, fields: Sequence[Field], source: str) -> Callable[[Sequence[Input]], Any]:
    shape, (dtype, kinds) = given.shape, _TYPES.get(given.type, (None, ()))
    width, shown = len(fields), " x ".join(str(each) if isinstance(each, int) else "n" for each in shape)
    where = f"{source}: its input {given.name[:100]!r} is a {given.type} of {shown or 'one value'}"
    if not (len(shape) == 2 or (len(shape) == 1 and width == 1)):
        raise ModelError(f"{where}, and bdlab gives a row for each input", hint=_SHAPES)
    if len(shape) == 2 and isinstance(shape[1], int) and shape[1] != width:
        raise ModelError(f"{where}, and the contract has {width} inputs for it", hint=_SHAPES)
    if isinstance(shape[0], int) and shape[0] != 1:
        raise ModelError(f"{where}, and takes no other number of rows than {shape[0]}", hint=_SHAPES)
    for field in fields:
        null = field.nullable and given.type not in (*_FLOATS, _TEXT)
        if null or field.kind not in kinds:
            what = f"is a {field.kind}{' that may be null' if null else ''}"
            raise ModelError(f"{where}, and the contract's input {field.name!r} {what}", hint=_SHAPES)
    columns = [column(field, missing="" if field.kind == "string" else np.nan) for field in fields]

    def made(rows: Sequence[Input]) -> Any:
        array = np.array([[value(row) for value in columns] for row in rows], dtype=dtype)
        return array if len(shape) == 2 else array[:, 0]

    return made


def _reader(
    codec: EventCodec, outputs: Sequence[Any], order: Sequence[str], source: str
) -> tuple[Callable[[list[Any], int], list[Score]], list[str]]:
    """Return what reads the results of a session, and the names of those that it reads. `order` has the classes as the
    probabilities have them; if it is empty, they are in the order of the enum, and a label that is not the most
    probable class shows that they are not."""
    choices = codec.contract.classes
    maps, numbers, labels = _kinds(outputs)
    gives = ", ".join(f"{each.name} ({each.type})" for each in outputs)
    if not choices:
        answers = Answers(codec, None, source=source)
        if not numbers or maps:
            raise ModelError(f"{source} gives {gives}, and the contract wants one number", hint=_SHAPES)
        return lambda results, count: answers.numbers(results[0], count), numbers[:1]
    answers = Answers(codec, order, source=source)
    if not (maps or numbers):
        raise ModelError(f"{source} gives {gives}, and no probabilities of classes", hint=_SHAPES)

    def read(results: list[Any], count: int) -> list[Score]:
        chances, names = results[0], list(order or choices)
        if maps:
            keys = list(chances[0])
            chances, names = [[row[key] for key in keys] for row in chances], [str(key) for key in keys]
        table = np.asarray(chances)
        if labels:
            return answers.classes(results[1], table, names, count, surest=not (maps or order))
        if table.ndim != 2 or table.shape[1] != len(names) or abs(table.sum(axis=1) - 1).max() > 1e-3:
            raise ModelError("gave no probabilities that add up to 1, one for each class", hint=_SHAPES)
        return answers.classes([names[place] for place in table.argmax(axis=1)], table, names, count)

    return read, [*(maps or numbers)[:1], *labels[:1]]
