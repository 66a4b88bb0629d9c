"""How good predictions are: error by feedback, calibration, slices, drift, and one version beside another. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from bdlab.contract import Contract, Field
from bdlab.contract.fields import CONFIDENCE, PREDICTION
from bdlab.profile import NULL, Distribution

MEASURES = ("mse", "mae", "bias", "error_rate", "log_loss")
MIN_PAIRS = 30
"""With fewer right answers there is no interval, and no verdict."""
_BOOTSTRAP = {"paired": True, "vectorized": True, "n_resamples": 2000, "batch": 100, "method": "percentile", "rng": 0}
Bins = Sequence[tuple[Field, Distribution]]
"""Fields, each with the bins that its values are counted in."""
Sums = Sequence[Mapping[str, Any]]
"""What is summed up in each block of rows."""
Cells = Mapping[str, Mapping[Any, Sums]]
"""The sums of all rows, under "" and None, and of each bin of the fields, under bin0, bin1, ... in their order."""


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """Of an output, over `rows` right answers: MSE, MAE and bias (predicted less true) of a number, the error rate of
    all else, with the log loss of what `confidence` is about. `card` has the card's own figures of these names."""

    rows: int
    mse: float | None = None
    mae: float | None = None
    bias: float | None = None
    error_rate: float | None = None
    log_loss: float | None = None
    card: dict[str, float] = {}


class Calibrated(msgspec.Struct, frozen=True):
    """Known answers with a confidence of up to `upto`: how many, the mean of it, and the share that were right."""

    upto: float
    rows: int
    confidence: float
    right: float


class Drift(msgspec.Struct, frozen=True):
    """A field beside the profile: each bin's share there and here. It is `judged` if both have enough rows; `mean` is
    of the known terms alone."""

    psi: float
    rows: int
    judged: bool
    shares: dict[str, tuple[float, float]]
    mean: float | None = None


class Slice(msgspec.Struct, frozen=True):
    """The error over the `labelled` right answers of those `rows` that are in a bin of an input field."""

    field: str
    bin: str
    rows: int
    labelled: int
    error: float


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A version's figures. `delay_s` is the median and the 95th percentile from prediction to feedback. `judged` is the
    output that slices and --max-error are about: the prediction, or what else feedback is of. `notes` say what is not
    known, and why."""

    model: str
    rows: int
    labelled: int
    delay_s: tuple[float, float] | None
    errors: dict[str, Errors]
    judged: str | None
    calibration: list[Calibrated]
    calibration_error: float | None
    drift: dict[str, Drift]
    slices: list[Slice]
    notes: list[str]


class Report(msgspec.Struct, frozen=True):
    """Each version's figures; `alarms` are what is past a limit, `unknown` the limits that nothing can be said of."""

    versions: list[Version]
    alarms: list[str]
    unknown: list[str]


def confident(contract: Contract) -> Field | None:
    """Return the output whose probability is the confidence: the prediction, if it is a class, else the first class."""
    has_it = any(field.name == CONFIDENCE for field in contract.outputs)
    return next((field for field in contract.truths if field.choices), None) if has_it else None


def errors_of(contract: Contract, whole: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Errors]:
    """Return the errors of each output with feedback. In `metrics`, the card's, they have these names, or with the
    output and "_" before it."""
    found = {}
    for number, field in enumerate(contract.truths):
        names = [f"{field.name}_", *(("", "star_") if field.name == PREDICTION else ())]
        told = [(name, metrics.get(each + name)) for name in (*MEASURES, "accuracy") for each in names]
        card = {name: round(float(value), 6) for name, value in told if value is not None}
        if "accuracy" in card:
            card.setdefault("error_rate", round(1 - card.pop("accuracy"), 6))
        if rows := whole[f"n{number}"]:
            live = {name: whole.get(f"{name}{number}") for name in MEASURES}
            found[field.name] = Errors(rows=rows, **live, card=card)
    return found


def parts_of(cells: Cells, bins: Bins) -> Iterator[tuple[Field, str, Sums]]:
    """Yield each bin of each field by its words, with its sums."""
    for number, (field, each) in enumerate(bins):
        for place, sums in sorted(cells.get(f"bin{number}", {}).items()):
            yield field, each.label(place), sums


def calibration_of(contract: Contract, cells: Cells) -> tuple[list[Calibrated], float | None]:
    """Return the tenths of confidence, and the mean gap between it and the share that is right."""
    number = contract.truths.index(doubted) if (doubted := confident(contract)) else 0
    tenths = [
        Calibrated((place + 1) / 10, row[f"n{number}"], row["sure"], 1 - row[f"error_rate{number}"])
        for place, (row,) in sorted(cells.get("c", {}).items())
        if row[f"n{number}"]
    ]
    gaps = [each.rows * abs(each.confidence - each.right) for each in tenths]
    return tenths, math.fsum(gaps) / sum(each.rows for each in tenths) if tenths else None


def drift_of(bins: Distribution, counts: Mapping[int, int], judged: bool, known: Sequence[float] = ()) -> Drift:
    """Return how far the `counts` of rows in each bin are from the profile's shares."""
    total, then = sum(counts.values()), {NULL: bins.nulls, **dict(enumerate(bins.shares))}
    shares = {bins.label(place): (share, counts.get(place, 0) / total) for place, share in then.items()}
    return Drift(bins.psi(counts), total, judged, shares, math.fsum(known) / len(known) if known else None)


def report_of(versions: Sequence[Version], max_psi: float | None, max_error: float | None, min_rows: int) -> Report:
    """Return the report, with what is past the limits."""
    psi = {f"{one.model}: PSI of {each}": of.psi for one in versions for each, of in one.drift.items() if of.judged}
    errors = {
        f"{one.model}: {measure} of {one.judged}": value
        for one in versions
        for measure in ("mse", "error_rate")
        if one.judged and (found := one.errors[one.judged]).rows >= min_rows
        if (value := getattr(found, measure)) is not None
    }
    alarms, unknown = list[str](), list[str]()
    for option, limit, told, lacking in (
        ("--max-psi", max_psi, psi, "a profile and enough rows"),
        ("--max-error", max_error, errors, "enough feedback"),
    ):
        if limit is not None:
            alarms += [f"{what} is {value:.4g}, above {limit:g}" for what, value in told.items() if value > limit]
            unknown += [] if told else [f"{option}: no version has {lacking}"]
    return Report([*versions], alarms, unknown)


class Difference(msgspec.Struct, frozen=True):
    """The errors of A and of B (MSE of a number, error rate of all else) over the same `rows` right answers, B's less
    A's, and the 95 % interval of that; None for fewer than MIN_PAIRS."""

    rows: int
    a: float
    b: float
    difference: float
    low: float | None
    high: float | None


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """An output over `rows` pairs: the share in which both say the same, the errors by feedback; of a number the mean
    difference (B less A), the mean distance and, over all pairs, its quantiles 0.5, 0.9, 0.99 and 1; of classes how
    often A says this and B that (`flips`)."""

    rows: int
    same: float
    mean_difference: float | None
    mean_distance: float | None
    errors: Difference | None
    distances: tuple[float, ...] | None = None
    flips: dict[str, dict[str, int]] | None = None


class PairSlice(Output, frozen=True, kw_only=True, omit_defaults=True):
    """The pairs that are in a bin of an input field, by the output that is judged."""

    field: str
    bin: str


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
    slices: list[PairSlice]
    furthest: list[dict[str, Any]]


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


def _mean(blocks: Sums, name: str, rows: str = "rows") -> float | None:
    return (
        math.fsum(block[name] for block in blocks) / sum(block[rows] for block in blocks) if name in blocks[0] else None
    )


def agreement(blocks: Sums, number: int) -> dict[str, Any]:
    """Return the fields of an Output, the one of this `number`, over some blocks of pairs."""
    known = [block for block in blocks if block[f"n{number}"]]
    errors, counts = None, [block[f"n{number}"] for block in known]
    if known:
        more = [block[f"wrong_b{number}"] - block[f"wrong_a{number}"] for block in known]
        a, b = (_mean(known, f"wrong_{one}{number}", f"n{number}") or 0.0 for one in "ab")
        ends = interval(more, counts) if sum(counts) >= MIN_PAIRS else (None, None)
        errors = Difference(sum(counts), a, b, math.fsum(more) / sum(counts), *ends)
    means = {"same": "same", "mean_difference": "more", "mean_distance": "apart"}
    found = {name: _mean(blocks, f"{each}{number}") for name, each in means.items()}
    return {"rows": sum(block["rows"] for block in blocks), "errors": errors, **found}


def verdict_of(errors: Difference | None, tolerance: float) -> tuple[Verdict, str]:
    """Return whether B is `worse`: its error is above A's by more than `tolerance` in all of the interval; `not worse`:
    in none of it; else `undecided`; and why."""
    if errors is None or errors.low is None or errors.high is None:
        return "undecided", f"{errors.rows if errors else 0} right answers are known, and {MIN_PAIRS} are needed"
    between = f"B's error less A's is between {errors.low:.4g} and {errors.high:.4g} (95 %)"
    if errors.low > tolerance:
        return "worse", f"{between}, above the tolerance {tolerance:g}"
    if errors.high <= tolerance:
        return "not worse", f"{between}, not above the tolerance {tolerance:g}"
    return "undecided", f"{between}, and the tolerance {tolerance:g} is within"
