"""Stored inputs whose right prediction is known, as training reads them. Pure."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from bdlab.contract import Contract
from bdlab.errors import TrainingFailed

LEAST_A_FOLD = 10
"""With fewer rows for each fold nothing is trained from the store: their figures would be chance."""


@dataclass
class Labelled:
    """The inputs of `rows`, as `QualityReader.labelled` has them, to be read once; afterwards what they were."""

    contract: Contract
    rows: Iterator[tuple[Any, ...]]
    times: list[datetime] = field(default_factory=list)
    sources: Counter[str] = field(default_factory=Counter)

    def read(
        self, progress: Callable[[float], None], columns: tuple[str, ...]
    ) -> Iterator[tuple[str, Any, dict[str, Any]]]:
        """Yield of each input its group, the right prediction, and its fields by their columns. Without a group in the
        contract, or with a null in it, inputs that are the same in `columns` are one."""
        for count, (found, stored_at, source, truth, *values) in enumerate(self.rows, 1):
            given = dict(zip(self.contract.columns, values, strict=True))
            self.times = [*self.times[:1], stored_at]
            self.sources[source] += 1
            same = msgspec.json.encode([given[column] for column in columns])
            group = given[self.contract.group] if self.contract.group else None
            if count % 100 == 0:
                progress(count / found)
            yield hashlib.sha256(same).hexdigest() if group is None else str(group), truth, given

    def check(self, count: int, folds: int) -> None:
        """Raise TrainingFailed if `count` rows, of the store and of a file, are too few."""
        if count < LEAST_A_FOLD * folds:
            stored = f"{self.sources.total()} stored {self.contract.plural} with feedback on the prediction"
            raise TrainingFailed(
                f"{stored} are there for training, {count} rows in all, and it takes {LEAST_A_FOLD * folds}: "
                f"{LEAST_A_FOLD} for each of {folds} folds",
                hint="`bdlab feedback` gives more. --since and --source say which predictions count: drills and "
                "demonstrations do not, unless --source names them. A file of reviews may be given beside the store.",
            )

    def told(self) -> dict[str, Any]:
        """Return what a card says of them."""
        first, last = (moment.isoformat() for moment in (self.times * 2)[:2]) if self.times else (None, None)
        return {
            "rows": self.sources.total(),
            "stored_from": first,
            "stored_to": last,
            "feedback_sources": dict(self.sources.most_common()),
            "group": self.contract.group or None,
        }
