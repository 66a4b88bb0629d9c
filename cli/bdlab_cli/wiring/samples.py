"""Inputs that `bdlab demo` and `bdlab rotate --drill` send: of reviews those of `samples.json` and `slang.json`, which
were written for them, of other contracts values that are made."""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

from bdlab.contract import Contract, Field, example_of, review_contract

COUNT = 12
_SPAN = 100


def samples_of(contract: Contract) -> list[dict[str, Any]]:
    """Return COUNT inputs as JSON, the same each time. The first is the contract's example."""
    if [field.name for field in contract.inputs] == [field.name for field in review_contract().inputs]:
        return list(json.loads(Path(__file__).with_name("samples.json").read_text("utf-8")))
    rng = random.Random(0)  # noqa: S311 - they only have to differ
    made = ({field.name: _value(field, rng) for field in contract.inputs} for _ in range(COUNT - 1))
    return [example_of(contract), *made]


def _value(field: Field, rng: random.Random) -> Any:
    if field.nullable and not rng.randrange(8):
        return None
    values = field.choices or field.examples or ((False, True) if field.kind == "boolean" else ())
    if values:
        return rng.choice(values)
    if field.kind == "date-time":
        return (datetime(2026, 1, 31, 12, tzinfo=UTC) + timedelta(hours=rng.randrange(1000))).isoformat()
    if field.kind == "string":
        known = ["fine", "green", "tea", "small", "old", "blue", "river", "market", "north", "light", "stone", "warm"]
        words = " ".join(rng.choices(known, k=5 + field.min_length))
        return words[: field.max_length].rstrip().ljust(field.min_length, "a")
    low = float("-inf") if field.minimum is None else field.minimum
    high = min(float("inf") if field.maximum is None else field.maximum, max(low, 0) + _SPAN)
    low = max(low, high - _SPAN)
    if field.kind == "integer":
        return rng.randint(int(low), int(high))
    return min(max(round(rng.uniform(low, high), 2), low), high)


def slang_reviews() -> Iterator[tuple[dict[str, Any], int]]:
    """Yield reviews, each another, and the stars that are meant: made up in words that the shipped model misreads."""
    parts = json.loads(Path(__file__).with_name("slang.json").read_text("utf-8"))
    found = [
        ({"text": sentence.format(word=word, thing=thing)}, int(stars))
        for stars in ("1", "5")
        for word, sentence, thing in product(parts[stars]["words"], parts[stars]["sentences"], parts["things"])
    ]
    random.Random(0).shuffle(found)  # noqa: S311 - no secret
    return iter(found)
