"""The inputs of a contract as scikit-learn and its kin take them: a data frame, a list of texts, an array."""

import math
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from bdlab.contract import Contract, Field, column_name
from bdlab.errors import ModelError, require
from bdlab.events import Input

NUMERIC = frozenset(("integer", "number", "boolean"))
Take = Callable[[Sequence[Input]], Any]


class Traits(NamedTuple):
    """What a model takes and gives.

    `names` are those of its inputs, each with whether it has to be a text. If they have none, `number` says how many
    they are, None if it is not known, and `text` whether they are texts. `classes` finds the classes that it predicts,
    None if it predicts numbers; some inputs of a contract help. If `ordered` is true, the card has to say their order.
    """

    names: dict[str, bool] | None
    number: int | None
    classes: Callable[[Contract, Sequence[Input]], list[str] | None]
    text: bool = False
    ordered: bool = False


#: The type of a column that has no nulls; a number that may be null is a float, as NaN is one.
_DTYPES = {"integer": "int64", "number": "float64", "boolean": "bool", "date-time": "datetime64[us, UTC]"}
_BOOSTERS = ("lightgbm", "xgboost")


def taken_by(estimator: Any, contract: Contract, *, source: str) -> Take:
    """Return what makes the argument of an estimator's `predict`. Raises ModelError if it cannot be made.

    An estimator that was fitted on named columns gets a pandas data frame, in the order of its names; one without a
    number of features gets the texts of a contract with one text; others get an array with the contract's order.
    """
    names = getattr(estimator, "feature_names_in_", None)
    if names is not None:
        require("pandas", extra="pandas", what=f"{source} takes a data frame")
        fields = {str(name): _named(str(name), contract, source) for name in names}
        # Both know texts as categories only, and find them by their values.
        return _frames(fields, categories=type(estimator).__module__.startswith(_BOOSTERS))
    count = getattr(estimator, "n_features_in_", None)
    if count is None and [field.kind for field in contract.inputs] == ["string"]:
        texts = column(contract.inputs[0], missing="")
        return lambda inputs: [texts(given) for given in inputs]
    if count is not None and count != len(contract.inputs):
        raise ModelError(
            f"{source} takes {count} features, and the contract has {len(contract.inputs)} inputs",
            hint="Give the contract the inputs that the model was fitted with, in their order.",
        )
    return _arrays(contract.inputs)


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
    raise ModelError(
        f"{source} takes the column {name[:100]!r}, and the contract has no such input",
        hint="Name the contract's inputs as the columns that the model was fitted with.",
    )


def _frames(fields: dict[str, Field], *, categories: bool) -> Take:
    import pandas as pd  # noqa: PLC0415 - an extra, which few models need

    def dtype(field: Field) -> Any:
        if field.choices and categories:
            return pd.CategoricalDtype(field.choices)
        if field.nullable and field.kind in NUMERIC:
            return "object" if field.kind == "boolean" else "float64"
        return _DTYPES.get(field.kind, "object")

    columns = [(name, column(field), dtype(field)) for name, field in fields.items()]
    return lambda inputs: pd.DataFrame(
        {name: pd.Series([value(each) for each in inputs], dtype=kind) for name, value, kind in columns}
    )


def _arrays(fields: Sequence[Field]) -> Take:
    dtype = float if all(field.kind in NUMERIC for field in fields) else object
    columns = [column(field, missing=math.nan if field.kind in NUMERIC else None) for field in fields]
    return lambda inputs: np.array([[value(each) for value in columns] for each in inputs], dtype=dtype)
