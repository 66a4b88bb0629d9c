"""The figures of stored predictions over the real servers: for `bdlab quality`, `bdlab compare`, and a promotion."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from bdlab import quality
from bdlab.contract import Contract, Field
from bdlab.errors import BdlabError, InvalidInput, ModelError, Unhealthy
from bdlab.model.scorer import Card, find, load_scorer
from bdlab.postgres.quality import QualityReader, asked
from bdlab.postgres.reader import Reader
from bdlab.profile import Distribution, distribution_of
from bdlab.settings import Settings
from bdlab.wiring.models import load_version, version_row

_MIN_SLICE, _WORST = 30, 5


def judge(
    reader: QualityReader,
    settings: Settings,
    what: Mapping[str, Any],
    *,
    sliced: Sequence[str] = (),
    min_rows: int = 200,
) -> list[quality.Version]:
    """Return the figures of each version, or of one, that `what` asks for; without `sliced`, the worst slices of all
    inputs. Raises InvalidInput, BdlabError."""
    contract = reader.contract()
    fields = _sliced(contract, sliced)
    versions = []
    for found in reader.select("versions", what):
        one, notes = {**what, "model": found["model"]}, list[str]()
        inputs = reader.sample(contract, one)
        card, known = _card(reader, settings, found["model"], inputs, notes)
        profile = card.profile if card else None
        reference = profile.fields if profile else {}
        profiled = [(field, reference[field.name]) for field in contract if field.name in reference]
        bins = profiled + _bins([field for field in fields or contract.inputs if field.name not in reference], inputs)
        if not (cells := reader.cells(contract, one, bins)):
            continue  # since they were counted, they were pruned
        errors = quality.errors_of(contract, cells[""][None][0], ((card and card.validation) or {}).get("metrics", {}))
        at = next((number for number, field in enumerate(contract.truths) if field.name in errors), 0)
        least = 1 if fields else _MIN_SLICE
        slices = [
            quality.Slice(field.name, words, row["rows"], labelled, row.get(f"mse{at}", row.get(f"error_rate{at}")))
            for field, words, (row,) in quality.parts_of(cells, bins)
            if field in (fields or contract.inputs) and (labelled := row[f"n{at}"]) >= least
        ]
        drift = dict[str, quality.Drift]()
        if profile:
            enough = profile.rows >= min_rows
            for number, (field, each) in enumerate(profiled):
                counts = {place: row["rows"] for place, (row,) in cells.get(f"bin{number}", {}).items()}
                drift[field.name] = quality.drift_of(each, counts, enough and found["rows"] >= min_rows)
            if known and profile.known_terms:
                counts = Counter(map(profile.known_terms.bin_of, known))
                judged = enough and len(known) >= min_rows
                drift["known_terms"] = quality.drift_of(profile.known_terms, counts, judged, known)
        most = max((each.rows for each in errors.values()), default=0)
        few = {
            "its card has no profile: no drift can be told": profile is None,
            f"its profile has fewer than {min_rows:,} rows: drift is no alarm": profile and profile.rows < min_rows,
            f"it has fewer than {min_rows:,} rows: drift is no alarm": found["rows"] < min_rows,
            f"{most:,} right answers are known, fewer than {min_rows:,}: its error is no alarm": most < min_rows,
        }
        calibration, gap = quality.calibration_of(contract, cells)
        versions.append(
            quality.Version(
                **found | {"delay_s": found["delay_s"] and tuple(found["delay_s"])},
                errors=errors,
                judged=contract.truths[at].name if errors else None,
                calibration=calibration,
                calibration_error=gap,
                drift=drift,
                slices=sorted(slices, key=lambda one: -one.error)[: None if fields else _WORST],
                notes=[*notes, *(note for note, holds in few.items() if holds)],
            )
        )
    if what["model"] and not versions:
        raise _nothing(what["model"])
    return versions


def compare(
    reader: QualityReader,
    models: tuple[str, str],
    what: Mapping[str, Any],
    *,
    sliced: Sequence[str] = (),
    tolerance: float = 0.0,
    worst: int = 0,
) -> quality.Comparison:
    """Compare what two versions said to those inputs that `what` asks for. Raises InvalidInput, BdlabError if there are
    none."""
    contract, (a, b) = reader.contract(), models
    fields = _sliced(contract, sliced)
    what = {**what, "model": a, "other": b, "rescored": None, "limit": worst}
    bins = _bins(fields, reader.sample(contract, what) if fields else [])
    cells = reader.cells(contract, what, bins)
    if "" not in cells:
        for model in models:
            if not any(reader.select("versions", what | {"model": model, "rescored": each}) for each in (False, True)):
                raise _nothing(model)
        hint = f"`bdlab rescore --model {b}` makes them."
        raise BdlabError(f"no stored input has an output of both {a} and {b}", hint=hint)
    spread, whole, outputs = reader.spread(contract, what), cells[""][None], dict[str, quality.Output]()
    for number, field in enumerate(contract.truths):
        far, said = spread.get(f"far{number}"), cells.get(f"a{number}", {}).items()
        flips = {word: {row[f"b{number}"]: row["rows"] for row in rows if row[f"b{number}"]} for word, rows in said}
        outputs[field.name] = quality.Output(
            **quality.agreement(whole, number), distances=far and tuple(far), flips=flips or None
        )
    judged = next((name for name, output in outputs.items() if output.errors), None)
    at = [*outputs].index(judged) if judged else 0
    slices = [
        quality.PairSlice(field=field.name, bin=words, **quality.agreement(rows, at))
        for field, words, rows in quality.parts_of(cells, bins)
    ]
    verdict, why = quality.verdict_of(outputs[judged].errors if judged else None, tolerance)
    parts = [*((name, contract.truths) for name in ("a", "b", "truth")), ("input", contract.inputs)]
    furthest = [
        {"id": str(row["id"])}
        | {name: {each.name: row[f"{name[0]}{at}"] for at, each in enumerate(fields)} for name, fields in parts}
        for row in (reader.worst(contract, what) if worst else ())
    ]
    rows = sum(block["rows"] for block in whole)
    return quality.Comparison(a, b, rows, outputs, judged, tolerance, verdict, why, slices, furthest)


def serving(reader: Reader) -> str:
    """Return what was promoted last; if nothing was, the shipped model, which then serves."""
    promoted = [f"{each['name']}@{each['version']}" for each in reader.ask("promoted", "models")]
    return next(iter(promoted), "") or find("").card.title


def refuse_worse(reader: QualityReader, model: str, tolerance: float) -> None:
    """Raise Unhealthy if a version is worse than the one that serves, BdlabError if that cannot be told."""
    if (before := serving(reader)) == model:
        return
    found = compare(reader, (before, model), asked(None, None, "real"), tolerance=tolerance)
    if found.verdict != "not worse":
        why = f"{model} (B) is not promoted, since beside {before} (A) it is {found.verdict}: {found.why}"
        hint = f"`bdlab compare {before} {model}` shows more; without --if-better nothing is compared."
        raise (Unhealthy if found.verdict == "worse" else BdlabError)(why, hint=hint)


def _nothing(model: str) -> BdlabError:
    hint = "A version is NAME@VERSION; --since and --source say which inputs are meant; `bdlab rescore` makes outputs."
    return BdlabError(f"nothing is stored of {model} in this time, from this source", hint=hint)


def _sliced(contract: Contract, names: Sequence[str]) -> list[Field]:
    """Return the input fields of these names, as the contract or the columns have them. Raises InvalidInput."""
    known = {name: field for field in contract.inputs for name in (field.column, field.name)}
    if odd := [name for name in names if name not in known]:
        hint = f"It has {', '.join(field.name for field in contract.inputs)}."
        raise InvalidInput(f"--slice {odd[0]}: the contract has no such input field", hint=hint)
    return [known[name] for name in names]


def _bins(fields: Sequence[Field], inputs: Sequence[Mapping[str, Any]]) -> list[tuple[Field, Distribution]]:
    """Return the bins of fields as a sample of inputs has their values."""
    columns = [(field, [row[field.column] for row in inputs]) for field in fields]
    return [(field, distribution_of(field, values)) for field, values in columns if {*values} - {None}]


def _card(
    reader: QualityReader, settings: Settings, model: str, inputs: Sequence[Mapping[str, Any]], notes: list[str]
) -> tuple[Card | None, list[float]]:
    """Return a version's card, from the registry, bdlab itself or `model.path`, and what share of its terms the model
    knows of each input, if its profile has that."""
    card, load = None, partial(load_version, settings, reader, model)
    with suppress(ModelError, InvalidInput):
        card = msgspec.convert(version_row(reader.ask, model)["card"], Card)
    for path in () if card else ("", settings.model.path):
        with suppress(ModelError):
            if (there := find(path).card).title == model:
                card, load = there, partial(load_scorer, path, many=True)
                break
    if not card:
        notes.append("its card is neither in the registry nor at model.path")
    elif card.profile and card.profile.known_terms:
        try:
            scorer = load()
            kind = scorer.codec.input  # of a contract that may have fewer fields
            given = [kind(**{name: row[name] for name in kind.__struct_fields__}) for row in inputs]
            return card, [score.known_terms for score in scorer.score_many(given) if score.known_terms is not None]
        except BdlabError as error:
            notes.append(f"the share of known terms cannot be told: {error.message}")
    return card, []
