"""Two models over the same inputs: how often they agree, how far they differ, and whose errors are fewer. Pure."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from bdlab.contract import Contract, Field
from bdlab.profile import Distribution

MIN_PAIRS = 30
"""With fewer right answers there is no interval, and no verdict."""

_RESAMPLES, _BATCH, _SEED = 2000, 100, 0
_WHOLE = -1


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The errors of A and of B (MSE of a number, error rate of all else) over the same `rows` right answers, B's less
    A's, and the 95 % interval of that; None for fewer than MIN_PAIRS."""

    rows: int
    a: float
    b: float
    difference: float
    low: float | None
    high: float | None


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """An output over all pairs: the share in which both say the same. Of a number the mean difference (B less A), the
    mean distance and its quantiles 0.5, 0.9, 0.99 and 1; of classes how often A says this and B that (`flips`)."""

    same: float
    mean_difference: float | None = None
    mean_distance: float | None = None
    distances: tuple[float, ...] | None = None
    flips: dict[str, dict[str, int]] | None = None
    errors: Difference | None = None


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """The pairs that are in a bin of a field, by the output that is judged."""

    field: str
    bin: str
    rows: int
    same: float
    mean_distance: float | None
    errors: Difference | None


Verdict = Literal["not worse", "worse", "undecided"]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
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


class _Sums(NamedTuple):
    """What is summed up over some blocks."""

    blocks: list[Mapping[str, Any]]

    def total(self, name: str) -> float:
        return math.fsum(block[name] for block in self.blocks)

    def errors(self, number: int) -> Difference | None:
        known = [block for block in self.blocks if block[f"n{number}"]]
        if not known:
            return None
        counts, a, b = ([block[f"{name}{number}"] for block in known] for name in ("n", "wrong_a", "wrong_b"))
        rows, more = sum(counts), [other - one for one, other in zip(a, b, strict=True)]
        low, high = interval(more, counts) if rows >= MIN_PAIRS else (None, None)
        mean_a, mean_b = math.fsum(a) / rows, math.fsum(b) / rows
        return Difference(rows=rows, a=mean_a, b=mean_b, difference=math.fsum(more) / rows, low=low, high=high)


def interval(sums: Sequence[float], counts: Sequence[int]) -> tuple[float, float]:
    """Return the 95 % interval of a mean by the paired bootstrap; the pairs are summed up in blocks at random, which
    are drawn as a whole. The same numbers give the same interval."""
    from scipy.stats import bootstrap  # noqa: PLC0415 - takes a second, and starts threads

    means = {one / count for one, count in zip(sums, counts, strict=True)}
    if len(means) == 1:
        return means.pop(), (math.fsum(sums) / sum(counts))
    found = bootstrap(
        (sums, counts),
        lambda one, count, axis: one.sum(axis=axis) / count.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=_BATCH,
        method="percentile",
        rng=_SEED,
    ).confidence_interval
    return float(found.low), float(found.high)


def compare(
    contract: Contract,
    models: tuple[str, str],
    pairs: Iterable[Mapping[str, Any]],
    *,
    bins: Sequence[tuple[Field, Distribution]],
    flips: Iterable[Mapping[str, Any]],
    spread: Mapping[str, Any],
    furthest: list[dict[str, Any]],
    tolerance: float,
) -> Comparison:
    """Return the comparison of models A and B from the sums that `postgres/quality.py` reads.

    B is `worse` if its error is above A's by more than `tolerance` in all of the interval, `not worse` if in none of
    it, else `undecided`."""
    groups: dict[tuple[int, int], list[Mapping[str, Any]]] = defaultdict(list)
    for row in pairs:
        at = next((number for number in range(len(bins)) if row[f"bin{number}"] is not None), _WHOLE)
        groups[at, _WHOLE if at == _WHOLE else row[f"bin{at}"]].append(row)
    whole = _Sums(groups.pop((_WHOLE, _WHOLE), []))
    rows = sum(block["rows"] for block in whole.blocks)
    said: dict[int, dict[str, dict[str, int]]] = defaultdict(dict)
    for row in flips:
        for number, _ in enumerate(contract.truths):
            if (a := row.get(f"a{number}")) is not None and (b := row[f"b{number}"]) is not None:
                said[number].setdefault(a, {})[b] = row["rows"]
    outputs = {}
    for number, field in enumerate(contract.truths if rows else ()):
        is_number = field.kind in {"number", "integer"}
        outputs[field.name] = Output(
            same=whole.total(f"same{number}") / rows,
            mean_difference=whole.total(f"more{number}") / rows if is_number else None,
            mean_distance=whole.total(f"apart{number}") / rows if is_number else None,
            distances=tuple(spread[f"far{number}"]) if is_number else None,
            flips=said.get(number),
            errors=whole.errors(number),
        )
    judged = next((name for name, output in outputs.items() if output.errors), None)
    at = next((number for number, field in enumerate(contract.truths) if field.name == judged), 0)
    slices = []
    for (place, number), blocks in sorted(groups.items()):
        field, each = bins[place]
        sums, count = _Sums(blocks), sum(block["rows"] for block in blocks)
        slices.append(
            Slice(
                field=field.name,
                bin=each.label(number),
                rows=count,
                same=sums.total(f"same{at}") / count,
                mean_distance=sums.total(f"apart{at}") / count if f"apart{at}" in blocks[0] else None,
                errors=sums.errors(at),
            )
        )
    verdict, why = _verdict(outputs[judged].errors if judged else None, tolerance)
    return Comparison(
        a=models[0],
        b=models[1],
        rows=rows,
        outputs=outputs,
        judged=judged,
        tolerance=tolerance,
        verdict=verdict,
        why=why,
        slices=slices,
        furthest=furthest,
    )


def _verdict(errors: Difference | None, tolerance: float) -> tuple[Verdict, str]:
    if errors is None or errors.low is None or errors.high is None:
        return "undecided", f"{errors.rows if errors else 0} right answers are known, and {MIN_PAIRS} are needed"
    between = f"B's error less A's is between {errors.low:.4g} and {errors.high:.4g} (95 %)"
    if errors.low > tolerance:
        return "worse", f"{between}, above the tolerance {tolerance:g}"
    if errors.high <= tolerance:
        return "not worse", f"{between}, not above the tolerance {tolerance:g}"
    return "undecided", f"{between}, and the tolerance {tolerance:g} is within"
