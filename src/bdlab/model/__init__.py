"""The review model: training, its files and card, and its scorers; and `Model`, a model for programs.

Importing this package, and loading the shipped model, imports neither scikit-learn nor numpy."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, overload

import msgspec
from msgspec.structs import replace

from bdlab.events import Scorer
from bdlab.inputs import FieldProblem, InputInvalid, Validator
from bdlab.model.scorer import load_contract, load_scorer

__all__ = ["Model", "Scorer", "load_contract", "load_scorer"]


class Model:
    """A loaded model: its contract, its checks and its predictions, in Python's own types. `name` is NAME@VERSION,
    `sha256` that of its file, `contract` has its fields. Its methods may be called from several threads at once."""

    def __init__(self, path: str | os.PathLike[str] = "") -> None:
        """Load what `path` names, as the setting `model.path` does. Raises ModelError, InvalidInput."""
        self._scorer = load_scorer(os.fspath(path))
        self.name = self._scorer.name
        self.sha256 = self._scorer.sha256
        self.contract = self._scorer.codec.contract
        self._validator = Validator(self.contract)

    def validate(self, row: Mapping[str, Any]) -> list[FieldProblem]:
        """Return what is wrong with a row, a problem a field; an empty list if it is valid."""
        return self._validator.find_problems(_plain(row))

    @overload
    def predict(self, rows: Mapping[str, Any]) -> dict[str, Any]: ...
    @overload
    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]: ...
    def predict(self, rows: Any) -> Any:
        """Return the outputs of a row, a dict of the contract's names, or of each row of a list, in order. Beside the
        contract's outputs are `explanation`, `known_terms` and `warning`. Raises InputInvalid, which names each wrong
        field of the first row that has any, and ModelError if the model fails."""
        one = isinstance(rows, Mapping)
        inputs = []
        for index, row in enumerate([rows] if one else rows):
            try:
                inputs.append(self._validator.given_of(_plain(row)))
            except InputInvalid as error:
                wrong = [replace(each, index=None if one else index) for each in error.problems]
                raise InputInvalid(wrong, self.contract.noun) from None
        scores = [
            msgspec.to_builtins(score) | {"explanation": [*map(msgspec.to_builtins, score.explanation)]}
            for score in self._scorer.score_many(inputs)
        ]
        return scores[0] if one else scores


def _plain(row: Any) -> Any:
    """Return a row in JSON's types: a number of numpy is that, and what is no value of JSON an object."""
    found = {str(name): value for name, value in row.items()} if isinstance(row, Mapping) else row
    return msgspec.to_builtins(found, enc_hook=_value)


def _value(found: Any) -> Any:
    try:
        return found.item()
    except (AttributeError, ValueError):
        return {}
