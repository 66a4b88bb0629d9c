"""The figures of stored predictions over the real servers: for `bdlab quality`, `bdlab compare`, and a promotion."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import msgspec

from bdlab import comparison, quality
from bdlab.contract import Contract, Field, check_fits
from bdlab.errors import BdlabError, InvalidInput, ModelError, Unhealthy
from bdlab.events import Scorer
from bdlab.model.labelled import Labelled
from bdlab.model.scorer import Card, find, load_contract, load_scorer
from bdlab.postgres.quality import Bins, QualityReader, asked
from bdlab.postgres.session import ConnectionLimits
from bdlab.profile import distribution_of
from bdlab.settings import Layers, Settings
from bdlab_cli.wiring.models import load_version, version_row
from bdlab_cli.wiring.session import open_session


@contextmanager
def reading(layers: Layers, command: str, service: str = "verify") -> Iterator[tuple[QualityReader, Settings]]:
    """Open a reader as the service, for questions that may take long. Raises BdlabError."""
    limits = ConnectionLimits(statement_s=1800, silence_s=3600)
    with (
        open_session(layers, service=service, database=True, kafka=False) as session,
        QualityReader(session, application_name=f"bdlab {command}", limits=limits) as reader,
    ):
        yield reader, session.settings()


@contextmanager
def labelled(layers: Layers, like: str | None, what: Mapping[str, Any]) -> Iterator[Labelled]:
    """Open what `bdlab train` reads of the store. The group is that of the card `like`, or of the database's contract.

    Raises BdlabError."""
    with reading(layers, "train") as (reader, _):
        contract = reader.contract()
        if like:
            check_fits(mine := load_contract(like), contract)
            contract = mine
        yield Labelled(contract, reader.labelled(contract, what))


def judge(
    reader: QualityReader,
    settings: Settings,
    what: Mapping[str, Any],
    *,
    sliced: Sequence[str] = (),
    min_rows: int = quality.MIN_ROWS,
) -> list[quality.Version]:
    """Return the figures of each version, or of one, that `what` asks for. Raises InvalidInput, BdlabError."""
    contract = reader.contract()
    fields = _sliced(contract, sliced)
    versions = []
    for found in reader.select("versions", what):
        one = {**what, "model": found["model"]}
        card, load = _known(reader, settings, found["model"])
        notes = [] if card else ["its card is neither in the registry nor at model.path"]
        profile = card.profile if card else None
        inputs, known = reader.sample(contract, one, quality.SAMPLED), list[float]()
        if load and profile and profile.known_terms:
            try:
                known = _known_terms(load(), inputs)
            except BdlabError as error:
                notes.append(f"the share of known terms cannot be told: {error.message}")
        reference = profile.fields if profile else {}
        bins = [(field, reference[field.name]) for field in contract if field.name in reference]
        bins += _bins([field for field in fields or contract.inputs if field.name not in reference], inputs)
        sums = reader.figures(contract, one, bins)
        metrics = ((card and card.validation) or {}).get("metrics", {})
        versions.append(quality.judge(contract, found, sums, bins, profile, metrics, known, fields, min_rows, notes))
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
) -> comparison.Comparison:
    """Compare what two versions said to those inputs that `what` asks for. Raises InvalidInput, BdlabError if there are
    none."""
    contract, (a, b) = reader.contract(), models
    fields, what = _sliced(contract, sliced), {**what, "model": a, "other": b, "rescored": None}
    bins = _bins(fields, reader.sample(contract, what, quality.SAMPLED)) if fields else []
    pairs, spread = reader.pairs(contract, what, bins), reader.spread(contract, what)
    furthest = _furthest(contract, reader.worst(contract, what, worst)) if worst else []
    found = comparison.compare(contract, models, pairs, bins, spread, furthest, tolerance)
    if not found.rows:
        for model in (a, b):
            if not any(reader.select("versions", what | {"model": model, "rescored": each}) for each in (False, True)):
                raise _nothing(model)
        hint = f"`bdlab rescore --model {b}` makes them."
        raise BdlabError(f"no stored input has an output of both {a} and {b}", hint=hint)
    return found


def refuse_worse(layers: Layers, model: str, tolerance: float) -> None:
    """Raise Unhealthy if a version is worse than the one that serves, BdlabError if that cannot be told."""
    with reading(layers, "model", service="model") as (reader, _):
        promoted = [f"{each['name']}@{each['version']}" for each in reader.ask("promoted", "models")]
        serving = next(iter(promoted), "") or find("").card.title
        if serving == model:
            return
        found = compare(reader, (serving, model), asked(None, None, "real"), tolerance=tolerance)
    if found.verdict != "not worse":
        why = f"{model} (B) is not promoted, since beside {serving} (A) it is {found.verdict}: {found.why}"
        hint = f"`bdlab compare {serving} {model}` shows more; without --if-better nothing is compared."
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


def _bins(fields: Sequence[Field], inputs: Sequence[Mapping[str, Any]]) -> Bins:
    """Return the bins of fields as a sample of inputs has their values."""
    columns = [(field, [row[field.column] for row in inputs]) for field in fields]
    return [(field, distribution_of(field, values)) for field, values in columns if {*values} - {None}]


def _known(reader: QualityReader, settings: Settings, model: str) -> tuple[Card | None, Callable[[], Scorer] | None]:
    """Return a version's card, from the registry, bdlab itself or `model.path`, and what loads its scorer."""
    with suppress(ModelError, InvalidInput):
        row = version_row(reader.ask, model)
        return msgspec.convert(row["card"], Card), partial(load_version, settings, reader, model)
    for path in ("", settings.model.path):
        with suppress(ModelError):
            if (card := find(path).card).title == model:
                return card, partial(load_scorer, path, many=True)
    return None, None


def _known_terms(scorer: Scorer, inputs: Sequence[Mapping[str, Any]]) -> list[float]:
    kind = scorer.codec.input  # of a contract that may have fewer fields
    scores = scorer.score_many([kind(**{name: row[name] for name in kind.__struct_fields__}) for row in inputs])
    return [score.known_terms for score in scores if score.known_terms is not None]


def _furthest(contract: Contract, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the pairs that differ most: the id, what A and B say, the truth, and the input."""

    def said(row: Mapping[str, Any], what: str, fields: Sequence[Field]) -> dict[str, Any]:
        return {field.name: row[f"{what[0]}{number}"] for number, field in enumerate(fields)}

    parts = [*((what, contract.truths) for what in ("a", "b", "truth")), ("input", contract.inputs)]
    return [{"id": str(row["id"]), **{what: said(row, what, fields) for what, fields in parts}} for row in rows]
