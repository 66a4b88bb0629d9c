"""What is wrong with a model's card, its files, and what it predicts of a sample."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec

from bdlab.contract import Contract
from bdlab.errors import BdlabError, ModelError, ModelNotFound
from bdlab.inputs.files import BadRow, Row
from bdlab.model.draft import read_rows
from bdlab.model.scorer import Scorer, load_contract, load_scorer

MOST_FINDINGS = 20


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
    """Load the model of a card, and predict its example and the rows of `sample`, a file of inputs.

    Raises ModelNotFound if there is no card, InvalidInput if the sample cannot be read.
    """
    contract = None
    try:
        contract = load_contract(path)
        scorer = load_scorer(path)
    except BdlabError as error:
        if contract is None and isinstance(error, ModelNotFound):
            raise
        return Report(contract=contract, findings=(_finding(error),))
    rows, findings = 0, []
    if sample is not None:
        found = read_rows(sample, contract, delimiter)
        findings = list(islice(_problems(scorer, found), MOST_FINDINGS))
        rows = sum(isinstance(row, Row) for row in found)
    return Report(model=scorer.name, contract=contract, rows=rows, findings=tuple(findings))


def _problems(scorer: Scorer, rows: list[Row | BadRow]) -> Iterator[Finding]:
    valid = []
    for row in rows:
        if isinstance(row, BadRow):
            yield Finding(str(row), "Mend the row, or the contract if it is right.")
        else:
            valid.append(row)
    try:
        scorer.score_many([row.given for row in valid])
    except ModelError:
        for row in valid:
            try:
                scorer.score(row.given)
            except ModelError as error:
                yield _finding(error, f"line {row.line}: ")


def _finding(error: BdlabError, where: str = "") -> Finding:
    return Finding(where + error.message, error.hint)
