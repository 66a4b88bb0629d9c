"""Models of libraries: the inputs of a contract as these take them, and what they predict as its scores.

An input is a row of a data frame, a text of a list, or a row of an array. Anything that the contract has not is
refused."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bdlab.contract import Contract, Field, column_name
from bdlab.contract.fields import ANSWERS, PREDICTION, PROBABILITIES
from bdlab.errors import ModelError, require
from bdlab.events import EventCodec, Input, Score

Floats = NDArray[np.float64]
NUMERIC = frozenset(("integer", "number", "boolean"))
Take = Callable[[Sequence[Input]], Any]


class Traits(NamedTuple):
    """What a model takes and gives. `names` are those of its inputs, each with whether it has to be a text. If they
    have none, `number` says how many they are, None if it is not known, and `text` whether they are texts. `classes`
    finds the classes that it predicts, None if it predicts numbers; some inputs of a contract help. If `ordered`, the
    card has to say their order."""

    names: dict[str, bool] | None
    number: int | None
    classes: Callable[[Contract, Sequence[Input]], list[str] | None]
    text: bool = False
    ordered: bool = False


#: The type of a column without and with nulls: then a number is a float, as NaN is one.
_DTYPES = {"integer": "int64", "number": "float64", "boolean": "bool", "date-time": "datetime64[us, UTC]"}
_NULLABLE = {**dict.fromkeys(("integer", "number"), "float64"), "date-time": _DTYPES["date-time"]}


def taken_by(estimator: Any, contract: Contract, *, source: str) -> Take:
    """Return what makes the argument of an estimator's `predict`. Raises ModelError if it cannot be made. An estimator
    that was fitted on named columns gets a pandas data frame, in the order of its names; one without a number of
    features gets the texts of a contract with one text; others get an array with the contract's order."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is not None:
        require("pandas", extra="pandas", what=f"{source} takes a data frame")
        import pandas as pd  # noqa: PLC0415 - an extra, which few models need

        named = {str(name): _named(str(name), contract, source) for name in names}
        # Both know texts as categories only, and find them by their values.
        categories = type(estimator).__module__.startswith(("lightgbm", "xgboost"))

        def dtype_of(field: Field) -> Any:
            if field.choices and categories:
                return pd.CategoricalDtype(field.choices)
            return (_NULLABLE if field.nullable else _DTYPES).get(field.kind, "object")

        frame = [(name, column(field), dtype_of(field)) for name, field in named.items()]
        return lambda inputs: pd.DataFrame(
            {name: pd.Series([value(each) for each in inputs], dtype=kind) for name, value, kind in frame}
        )
    count = getattr(estimator, "n_features_in_", None)
    if count is None and [field.kind for field in contract.inputs] == ["string"]:
        texts = column(contract.inputs[0], missing="")
        return lambda inputs: [texts(given) for given in inputs]
    if count is not None and count != len(contract.inputs):
        why = f"{source} takes {count} features, and the contract has {len(contract.inputs)} inputs"
        raise ModelError(why, hint="Give the contract the inputs that the model was fitted with, in their order.")
    fields = contract.inputs
    dtype = float if all(field.kind in NUMERIC for field in fields) else object
    columns = [column(field, missing=math.nan if field.kind in NUMERIC else None) for field in fields]
    return lambda inputs: np.array([[value(each) for value in columns] for each in inputs], dtype=dtype)


def column(field: Field, *, missing: Any = math.nan) -> Callable[[Input], Any]:
    """Return what finds the value of a field in an input; a null is `missing`."""
    value = attrgetter(field.column)
    if not field.nullable:
        return value
    return lambda given: missing if (found := value(given)) is None else found


def _named(name: str, contract: Contract, source: str) -> Field:
    """Return the field of a column; LightGBM writes the spaces of its names as underscores."""
    for field in contract.inputs:
        if name == field.name or column_name(name) == field.column:
            return field
    hint = "Name the contract's inputs as the columns that the model was fitted with."
    raise ModelError(f"{source} takes the column {name[:100]!r}, and the contract has no such input", hint=hint)


PAGE = "docs/model.md says which models can be served."
_INIT = "`bdlab model init` writes a card with a contract that fits the model."
_ROUNDING = 1e-5
"""A probability may be this much outside 0 to 1, as 32-bit numbers that add up to 1 are."""


@dataclass
class LibraryScorer:
    """Scores with a library: slow for one input, much faster an input for many. Explains nothing. `predict` returns the
    scores in order; what it raises becomes a ModelError."""

    blocking = True

    codec: EventCodec
    predict: Callable[[Sequence[Input]], list[Score]]
    name: str
    sha256: str
    forkable: bool = False

    def score(self, given: Input) -> Score:
        """Return the score. Raises ModelError if the model fails."""
        return self.score_many([given])[0]

    def score_many(self, inputs: Sequence[Input]) -> list[Score]:
        """Return the scores in order. Raises ModelError if the model fails."""
        try:
            return self.predict(inputs) if inputs else []
        except ModelError as error:
            raise ModelError(f"the model {self.name} {error.message}", hint=error.hint or PAGE) from error
        except Exception as error:  # a foreign model may raise anything
            why = str(error).partition("\nStack trace")[0].strip()  # which XGBoost has, of C++
            raise ModelError(f"the model {self.name} failed: {type(error).__name__}: {why}", hint=PAGE) from error


class Answers:
    """Makes the scores of a contract. Raises ModelError if the model of `source` cannot give its outputs. `classes` are
    those of a classifier, None if it predicts numbers."""

    def __init__(self, codec: EventCodec, classes: Iterable[Any] | None, *, source: str) -> None:
        outputs = {field.name: field for field in codec.contract.outputs}
        self._low, self._high = outputs[PREDICTION].bounds
        self._make, self._all = codec.score, PROBABILITIES in outputs
        self._choices = codec.contract.classes
        if (classes is None) == bool(self._choices):
            has, wants = ("no classes", "an enum") if classes is None else ("classes", "a number")
            why = f"{source} predicts {has}, and the contract's output {PREDICTION!r} is {wants}"
            raise ModelError(why, hint=_INIT)
        if more := [name for name in outputs if name not in ({PREDICTION} if classes is None else ANSWERS)]:
            raise ModelError(f"{source} does not give the contract's output {more[0]!r}", hint=_INIT)
        names = [*map(class_name, classes or ())]
        if len({*names}) < len(names):
            raise ModelError(f"{source} has the class {max(names, key=names.count)!r} twice", hint=PAGE)
        self._check_known(names, f"{source} predicts")

    def _check_known(self, names: Iterable[str], who: str) -> None:
        for name in names:
            if name not in self._choices:
                why = f"{who} the class {name[:100]!r}, which the contract's enum of {PREDICTION!r} has not"
                raise ModelError(why, hint=f"Add it to the enum, for predictions that are new. {_INIT}")

    def numbers(self, predicted: Any, count: int) -> list[Score]:
        """Return the scores of a regression."""
        values: Floats = np.asarray(predicted, dtype=float)
        if values.shape not in ((count,), (count, 1)):
            raise _wrong_count(values.shape, count)
        found = values.reshape(count).tolist()
        for odd in (value for value in found if not self._low <= value <= self._high):
            hint = f"Mend the model, or the bounds of the contract's output {PREDICTION!r}."
            raise ModelError(f"predicted {odd:g}, which is no number from {self._low:g} to {self._high:g}", hint=hint)
        return [self._make(prediction=value) for value in found]

    def classes(
        self, labels: Any, chances: Any, names: Sequence[str], count: int, *, surest: bool = False
    ) -> list[Score]:
        """Return the scores of a classification: the label of each, and its probability among `names`. With `surest`
        the label has to be the most probable class: otherwise `names` may be in another order."""
        table: Floats = np.asarray(chances, dtype=float)
        if table.shape != (count, len(names)):
            raise _wrong_count(table.shape, count)
        if not ((table >= -_ROUNDING) & (table <= 1 + _ROUNDING)).all():
            raise ModelError("gave a probability that is not between 0 and 1", hint=PAGE)
        places = {name: place for place, name in enumerate(names)}
        found = [class_name(label) for label in np.asarray(labels).reshape(-1).tolist()]
        if len(found) != count:
            raise _wrong_count((len(found),), count)
        self._check_known({*found, *names}, "predicted")
        scores = []
        for name, row in zip(found, table.clip(0, 1).tolist(), strict=True):
            if name not in places:
                raise ModelError(f"predicted the class {name!r}, and gave no probability for it", hint=PAGE)
            if surest and row[places[name]] < max(row):
                why = f"predicted the class {name!r}, which by the order of the enum is not the surest"
                hint = (
                    'Give the card the order of the probabilities: "classes" of the file. `bdlab model init` finds it.'
                )
                raise ModelError(why, hint=hint)
            more = {PROBABILITIES: dict(zip(names, row, strict=True))} if self._all else {}
            scores.append(self._make(prediction=name, confidence=row[places[name]], **more))
        return scores


def class_name(value: Any) -> str:
    """Return a class as the contract's enum has it."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _wrong_count(shape: Sequence[int], count: int) -> ModelError:
    shown = " x ".join(map(str, shape)) or "1"
    return ModelError(
        f"did not predict one result for each input: {shown} results for {count}",
        hint=f"A model has one output, and each prediction is of one row alone. {PAGE}",
    )
