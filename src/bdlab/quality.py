"""How good predictions are: live error beside the card's figures, calibration, labels, slices, and drift. Pure."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from bdlab.contract import Contract, Field
from bdlab.contract.fields import CONFIDENCE, PREDICTION
from bdlab.profile import NULL, Distribution, Profile

MIN_ROWS = 200
"""Of fewer rows, here or in the profile, neither drift nor an error is an alarm."""

SAMPLED = 2000
"""So many inputs are scored to learn how many of their terms the model knows."""

_MIN_SLICE, _WORST = 30, 5
_CARD = ("mse", "mae", "error_rate", "log_loss", "accuracy")
"""Figures of a card's `validation.metrics`, as they are named there, or with the output and "_" before it."""


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

    @property
    def error(self) -> float:
        """The figure that --max-error is about."""
        return self.error_rate or 0.0 if self.mse is None else self.mse


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


class Version(msgspec.Struct, frozen=True):
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


def judge(  # noqa: PLR0917 - what one version is judged by
    contract: Contract,
    found: Mapping[str, Any],
    figures: Iterable[Mapping[str, Any]],
    bins: Sequence[tuple[Field, Distribution]],
    profile: Profile | None,
    metrics: Mapping[str, Any],
    known_terms: Sequence[float],
    sliced: Sequence[Field],
    min_rows: int,
    notes: Sequence[str],
) -> Version:
    """Return the figures of a version: `found` has its rows, labels and delay, `figures` the sums of each bin, as
    `postgres/quality.py` reads them. Without `sliced`, the worst slices of all inputs are returned."""
    groups: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in figures:
        name = next((name for name in row if name[:3] in ("bin", "c") and row[name] is not None), "")
        groups.setdefault(name, {})[row[name] if name else 0] = row
    errors = _errors(contract, groups[""][0], metrics) if groups else {}
    at = next((number for number, field in enumerate(contract.truths) if field.name in errors), None)
    drift, slices = {}, []
    for number, (field, each) in enumerate(bins):
        rows = groups.get(f"bin{number}", {})
        if profile and field.name in profile.fields and rows:
            counts = {place: row["rows"] for place, row in rows.items()}
            drift[field.name] = _drift(each, counts, profile.rows, min_rows)
        if at is not None and field in (sliced or contract.inputs):
            for place, row in rows.items():
                if row[f"n{at}"] >= (1 if sliced else _MIN_SLICE):
                    error = row[f"wrong{at}"] if row[f"mse{at}"] is None else row[f"mse{at}"]
                    slices.append(Slice(field.name, each.label(place), row["rows"], row[f"n{at}"], error))
    if profile and profile.known_terms and known_terms:
        known = _drift(
            profile.known_terms, Counter(map(profile.known_terms.bin_of, known_terms)), profile.rows, min_rows
        )
        drift["known_terms"] = msgspec.structs.replace(known, mean=math.fsum(known_terms) / len(known_terms))
    tenths = [(place, row) for place, row in sorted(groups.get("c", {}).items()) if row["known"]]
    calibration = [Calibrated((place + 1) / 10, row["known"], row["sure"], row["hits"]) for place, row in tenths]
    gaps = [each.rows * abs(each.confidence - each.right) for each in calibration]
    slices.sort(key=lambda one: -one.error)
    most = max((each.rows for each in errors.values()), default=0)
    too_few = {
        "its card has no profile: no drift can be told": profile is None,
        f"its profile has fewer than {min_rows:,} rows: drift is no alarm": profile and profile.rows < min_rows,
        f"it has fewer than {min_rows:,} rows: drift is no alarm": found["rows"] < min_rows,
        f"{most:,} right answers are known, fewer than {min_rows:,}: its error is no alarm": most < min_rows,
    }
    return Version(
        **{name: found[name] for name in ("model", "rows", "labelled")},
        delay_s=found["delay_s"] and tuple(found["delay_s"]),
        errors=errors,
        judged=None if at is None else contract.truths[at].name,
        calibration=calibration,
        calibration_error=math.fsum(gaps) / sum(each.rows for each in calibration) if gaps else None,
        drift=drift,
        slices=slices if sliced else slices[:_WORST],
        notes=[*notes, *(note for note, holds in too_few.items() if holds)],
    )


def _errors(contract: Contract, whole: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Errors]:
    found, doubted = {}, confident(contract)
    for number, field in enumerate(contract.truths):
        prefixes = [f"{field.name}_", *(["", "star_"] if field.name == PREDICTION else [])]
        names = [(name, each + name) for name in _CARD for each in prefixes]
        known = {name: float(metrics[full]) for name, full in names if metrics.get(full) is not None}
        if "accuracy" in known:
            known.setdefault("error_rate", 1 - known.pop("accuracy"))
        if whole[f"n{number}"]:
            found[field.name] = Errors(
                rows=whole[f"n{number}"],
                **{name: whole[f"{name}{number}"] for name in ("mse", "mae", "bias")},
                error_rate=whole[f"wrong{number}"],
                log_loss=whole["log_loss"] if field == doubted else None,
                card={name: round(value, 6) for name, value in known.items()},
            )
    return found


def _drift(bins: Distribution, counts: Mapping[int, int], reference: int, min_rows: int) -> Drift:
    total, then = sum(counts.values()), {NULL: bins.nulls, **dict(enumerate(bins.shares))}
    shares = {bins.label(place): (share, counts.get(place, 0) / total) for place, share in then.items()}
    return Drift(bins.psi(counts), total, min(total, reference) >= min_rows, shares)


def report_of(versions: Sequence[Version], max_psi: float | None, max_error: float | None, min_rows: int) -> Report:
    """Return the report, with what is past the limits."""
    drift = {
        f"{one.model}: PSI of {name}": each.psi for one in versions for name, each in one.drift.items() if each.judged
    }
    errors = {
        f"{one.model}: {'mse' if each.error_rate is None else 'error_rate'} of {name}": each.error
        for one in versions
        for name, each in one.errors.items()
        if name == one.judged and each.rows >= min_rows
    }
    alarms, unknown = [], []
    for option, limit, told, lacking in (
        ("--max-psi", max_psi, drift, "a profile and enough rows"),
        ("--max-error", max_error, errors, "enough feedback"),
    ):
        if limit is not None:
            alarms += [f"{what} is {value:.4g}, above {limit:g}" for what, value in told.items() if value > limit]
            unknown += [] if told else [f"{option}: no version has {lacking}"]
    return Report([*versions], alarms, unknown)
