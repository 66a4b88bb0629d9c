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

MIN_SLICE = 30
"""A slice with fewer right answers is not among the worst."""

SAMPLED = 2000
"""So many inputs are scored to learn how many of their terms the model knows."""

_WORST = 5
_CALIBRATED = 10
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
    def error(self) -> tuple[str, float | None]:
        """The figure that --max-error is about, with its name."""
        return ("error_rate", self.error_rate) if self.mse is None else ("mse", self.mse)


class Calibrated(msgspec.Struct, frozen=True, kw_only=True):
    """Known answers with a confidence of up to `upto`: how many, the mean of it, and the share that were right."""

    upto: float
    rows: int
    confidence: float
    right: float


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """A field beside the profile; `mean` is that of known terms. It is `judged` if both have enough rows."""

    psi: float
    rows: int
    judged: bool
    shares: dict[str, tuple[float, float]]
    mean: float | None = None


class Slice(msgspec.Struct, frozen=True, kw_only=True):
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


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Each version's figures; `alarms` are what is past a limit, `unknown` the limits that nothing can be said of."""

    versions: list[Version]
    alarms: list[str]
    unknown: list[str]


def confident(contract: Contract) -> Field | None:
    """Return the output whose probability is the confidence: the prediction, if it is a class, else the first class."""
    if all(field.name != CONFIDENCE for field in contract.outputs):
        return None
    return next((field for field in contract.truths if field.choices), None)


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
    rows = list(figures)
    places = [f"bin{number}" for number in range(len(bins))]
    whole = next((row for row in rows if row["c"] is None and all(row[place] is None for place in places)), None)
    errors = {} if whole is None else _errors(contract, whole, metrics)
    judged = next((name for name in errors), None)
    drift: dict[str, Drift] = {}
    slices = []
    for place, (field, bin_of) in zip(places, bins, strict=True):
        counted = {row[place]: row for row in rows if row[place] is not None}
        counts = {number: row["rows"] for number, row in counted.items()}
        if profile and field.name in profile.fields and counts:
            drift[field.name] = _drift(bin_of, counts, profile.rows, min_rows)
        if judged and field in contract.inputs and (not sliced or field in sliced):
            at = next(number for number, each in enumerate(contract.truths) if each.name == judged)
            for number, row in counted.items():
                labelled, error = row[f"n{at}"], row[f"mse{at}"] if row[f"mse{at}"] is not None else row[f"wrong{at}"]
                if labelled >= (1 if sliced else MIN_SLICE):
                    slices.append(
                        Slice(
                            field=field.name, bin=bin_of.label(number), rows=row["rows"], labelled=labelled, error=error
                        )
                    )
    if profile and profile.known_terms and known_terms:
        counts = Counter(map(profile.known_terms.bin_of, known_terms))
        known = _drift(profile.known_terms, counts, profile.rows, min_rows)
        drift["known_terms"] = msgspec.structs.replace(known, mean=math.fsum(known_terms) / len(known_terms))
    slices.sort(key=lambda each: -each.error)
    calibration = [
        Calibrated(upto=(row["c"] + 1) / _CALIBRATED, rows=row["known"], confidence=row["sure"], right=row["hits"])
        for row in sorted((row for row in rows if row["c"] is not None and row["known"]), key=lambda row: row["c"])
    ]
    gaps = [each.rows * abs(each.confidence - each.right) for each in calibration]
    return Version(
        model=found["model"],
        rows=found["rows"],
        labelled=found["labelled"],
        delay_s=tuple(found["delay_s"]) if found["delay_s"] else None,
        errors=errors,
        judged=judged,
        calibration=calibration,
        calibration_error=math.fsum(gaps) / sum(each.rows for each in calibration) if gaps else None,
        drift=drift,
        slices=slices if sliced else slices[:_WORST],
        notes=[*notes, *_too_few(found, errors, drift, profile, min_rows)],
    )


def _errors(contract: Contract, whole: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Errors]:
    found = {}
    doubted = confident(contract)
    for number, field in enumerate(contract.truths):
        if not (rows := whole[f"n{number}"]):
            continue
        prefixes = [f"{field.name}_", *(["", "star_"] if field.name == PREDICTION else [])]
        names = [(name, each + name) for name in _CARD for each in prefixes]
        known = {name: float(metrics[full]) for name, full in names if metrics.get(full) is not None}
        if "accuracy" in known:
            known.setdefault("error_rate", 1 - known.pop("accuracy"))
        found[field.name] = Errors(
            rows=rows,
            mse=whole[f"mse{number}"],
            mae=whole[f"mae{number}"],
            bias=whole[f"bias{number}"],
            error_rate=whole[f"wrong{number}"],
            log_loss=whole["log_loss"] if field == doubted else None,
            card={name: round(value, 6) for name, value in known.items()},
        )
    return found


def _drift(bins: Distribution, counts: Mapping[int, int], reference: int, min_rows: int) -> Drift:
    total = sum(counts.values())
    shares = {NULL: bins.nulls, **dict(enumerate(bins.shares))}
    return Drift(
        psi=bins.psi(counts),
        rows=total,
        judged=min(total, reference) >= min_rows,
        shares={
            bins.label(place): (share, counts.get(place, 0) / total)
            for place, share in shares.items()
            if share or counts.get(place)
        },
    )


def _too_few(
    found: Mapping[str, Any],
    errors: Mapping[str, Errors],
    drift: Mapping[str, Drift],
    profile: Profile | None,
    min_rows: int,
) -> list[str]:
    notes = [] if profile else ["its card has no profile: no drift can be told"]
    if profile and profile.rows < min_rows:
        notes.append(f"its profile is of {profile.rows:,} rows, fewer than {min_rows:,}: drift is no alarm")
    if drift and found["rows"] < min_rows:
        notes.append(f"it has {found['rows']:,} rows, fewer than {min_rows:,}: drift is no alarm")
    most = max((each.rows for each in errors.values()), default=0)
    if most < min_rows:
        notes.append(f"{most:,} of its right answers are known, fewer than {min_rows:,}: its error is no alarm")
    return notes


def report_of(versions: Sequence[Version], *, max_psi: float | None, max_error: float | None, min_rows: int) -> Report:
    """Return the report, with what is past the limits."""
    alarms, unknown = [], []
    judged = [(one, name, each) for one in versions for name, each in one.drift.items() if each.judged]
    if max_psi is not None:
        past = [each for each in judged if each[2].psi > max_psi]
        alarms += [f"{one.model}: PSI of {name} is {each.psi:.3f}, above {max_psi:g}" for one, name, each in past]
        unknown += [] if judged else ["--max-psi: no version has a profile and enough rows"]
    if max_error is not None:
        told = [(one, *one.errors[one.judged].error) for one in versions if one.judged]
        enough = [
            (one, name, error)
            for one, name, error in told
            if error is not None and one.judged and one.errors[one.judged].rows >= min_rows
        ]
        past_error = [each for each in enough if each[2] > max_error]
        alarms += [
            f"{one.model}: {name} of {one.judged} is {error:.4g}, above {max_error:g}"
            for one, name, error in past_error
        ]
        unknown += [] if enough else ["--max-error: no version has enough feedback"]
    return Report(versions=list(versions), alarms=alarms, unknown=unknown)
