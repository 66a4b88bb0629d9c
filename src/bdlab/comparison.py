"""Two models over the same inputs: how often they agree, how far they differ, and whose errors are fewer. Pure."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from bdlab.contract import Contract, Field
from bdlab.profile import Distribution

MIN_PAIRS = 30
"""With fewer right answers there is no interval, and no verdict."""

_BOOTSTRAP = {"paired": True, "vectorized": True, "n_resamples": 2000, "batch": 100, "method": "percentile", "rng": 0}
_WHOLE = -1


class Difference(msgspec.Struct, frozen=True):
    """The errors of A and of B (MSE of a number, error rate of all else) over the same `rows` right answers, B's less
    A's, and the 95 % interval of that; None for fewer than MIN_PAIRS."""

    rows: int
    a: float
    b: float
    difference: float
    low: float | None
    high: float | None


class Output(msgspec.Struct, frozen=True):
    """An output over all pairs: the share in which both say the same, and the errors by feedback. Of a number the mean
    difference (B less A), the mean distance and its quantiles 0.5, 0.9, 0.99 and 1; of classes how often A says this
    and B that (`flips`)."""

    same: float
    errors: Difference | None
    mean_difference: float | None
    mean_distance: float | None
    distances: tuple[float, ...] | None
    flips: dict[str, dict[str, int]] | None


class Slice(msgspec.Struct, frozen=True):
    """The pairs that are in a bin of an input field, by the output that is judged."""

    field: str
    bin: str
    rows: int
    same: float
    mean_distance: float | None
    errors: Difference | None


Verdict = Literal["not worse", "worse", "undecided"]


class Comparison(msgspec.Struct, frozen=True):
    """Over the `rows` inputs of which both models have said something. `judged` is the output that the verdict is
    about: the prediction, or what else feedback is of; None without any."""

    a: str
    b: str
    rows: int
    outputs: dict[str, Output]
    judged: str | None
    tolerance: float
    verdict: Verdict
    why: str
    slices: list[Slice]
    furthest: list[dict[str, Any]]


Sums = Sequence[Mapping[str, Any]]
"""What is summed up in each block of pairs."""


def interval(sums: Sequence[float], counts: Sequence[int]) -> tuple[float, float]:
    """Return the 95 % interval of a mean by the paired bootstrap; the pairs are summed up in blocks at random, which
    are drawn as a whole. The same numbers give the same interval."""
    from scipy.stats import bootstrap  # noqa: PLC0415 - takes a second, and starts threads

    means = {one / count for one, count in zip(sums, counts, strict=True)}
    if len(means) == 1:
        return min(means), max(means)
    found = bootstrap(
        (sums, counts), lambda one, count, axis: one.sum(axis=axis) / count.sum(axis=axis), **_BOOTSTRAP
    ).confidence_interval
    return float(found.low), float(found.high)


def _total(blocks: Sums, name: str) -> float:
    return math.fsum(block[name] for block in blocks)


def _mean(blocks: Sums, name: str) -> float | None:
    return _total(blocks, name) / _total(blocks, "rows") if name in blocks[0] else None


def _errors(blocks: Sums, number: int) -> Difference | None:
    known = [block for block in blocks if block[f"n{number}"]]
    if not known:
        return None
    counts = [block[f"n{number}"] for block in known]
    more = [block[f"wrong_b{number}"] - block[f"wrong_a{number}"] for block in known]
    low, high = interval(more, counts) if sum(counts) >= MIN_PAIRS else (None, None)
    a, b = (_total(known, f"wrong_{one}{number}") / sum(counts) for one in "ab")
    return Difference(sum(counts), a, b, math.fsum(more) / sum(counts), low, high)


def compare(  # noqa: PLR0917 - what two versions are compared by
    contract: Contract,
    models: tuple[str, str],
    pairs: Iterable[Mapping[str, Any]],
    bins: Sequence[tuple[Field, Distribution]],
    spread: Mapping[str, Any],
    furthest: list[dict[str, Any]],
    tolerance: float,
) -> Comparison:
    """Return the comparison of models A and B from the sums that `postgres/quality.py` reads.

    B is `worse` if its error is above A's by more than `tolerance` in all of the interval, `not worse` if in none of
    it, else `undecided`."""
    groups = defaultdict[tuple[int, int], list[Mapping[str, Any]]](list)
    said = defaultdict[int, dict[str, dict[str, int]]](dict)
    for row in pairs:
        at = next((number for number in range(len(bins)) if row[f"bin{number}"] is not None), _WHOLE)
        if at != _WHOLE or row["block"] is not None:
            groups[at, row[f"bin{at}"] if at != _WHOLE else _WHOLE].append(row)
        for number, _ in enumerate(contract.truths):
            if (a := row.get(f"a{number}")) is not None and (b := row[f"b{number}"]) is not None:
                said[number].setdefault(a, {})[b] = row["rows"]
    whole = groups.pop((_WHOLE, _WHOLE), [])
    outputs = {
        field.name: Output(
            _mean(whole, f"same{number}") or 0.0,
            _errors(whole, number),
            _mean(whole, f"more{number}"),
            _mean(whole, f"apart{number}"),
            spread.get(f"far{number}") and tuple(spread[f"far{number}"]),
            said.get(number),
        )
        for number, field in enumerate(contract.truths if whole else ())
    }
    judged = next((name for name, output in outputs.items() if output.errors), None)
    at = next((number for number, field in enumerate(contract.truths) if field.name == judged), 0)
    slices = [
        Slice(
            bins[place][0].name,
            bins[place][1].label(number),
            int(_total(blocks, "rows")),
            _mean(blocks, f"same{at}") or 0.0,
            _mean(blocks, f"apart{at}"),
            _errors(blocks, at),
        )
        for (place, number), blocks in sorted(groups.items())
    ]
    verdict, why = _verdict(outputs[judged].errors if judged else None, tolerance)
    rows = int(_total(whole, "rows"))
    return Comparison(*models, rows, outputs, judged, tolerance, verdict, why, slices, furthest)


def _verdict(errors: Difference | None, tolerance: float) -> tuple[Verdict, str]:
    if errors is None or errors.low is None or errors.high is None:
        return "undecided", f"{errors.rows if errors else 0} right answers are known, and {MIN_PAIRS} are needed"
    between = f"B's error less A's is between {errors.low:.4g} and {errors.high:.4g} (95 %)"
    if errors.low > tolerance:
        return "worse", f"{between}, above the tolerance {tolerance:g}"
    if errors.high <= tolerance:
        return "not worse", f"{between}, not above the tolerance {tolerance:g}"
    return "undecided", f"{between}, and the tolerance {tolerance:g} is within"
