"""Write docs/json, a JSON schema of what each command prints with --json: python infra/docs/results.py

A test holds the files against this, and real results against the schemas.
"""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from bdlab import quality, rescoring, verification
from bdlab.deadletters import State
from bdlab.events import Position, Term
from bdlab.export import ExportReport
from bdlab.health import CheckResult
from bdlab.health import State as Health
from bdlab.health.findings import Diagnosis, Finding
from bdlab.hops import Trace
from bdlab.model.draft import Draft
from bdlab.model.draft import Finding as Flaw
from bdlab.model.scorer import Card
from bdlab.stack import Endpoints
from bdlab.vault.bootstrap import StepResult
from bdlab.vault.rotation import Rotation
from bdlab_cli.wiring.bulk_feedback import Given
from bdlab_cli.wiring.rotation_drill import Drill

FOLDER = Path(__file__).parents[2] / "docs" / "json"
_Moment = Annotated[dt.datetime, Meta(tz=True)]
_UUID = Annotated[str, Meta(pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
_Place = Annotated[str, Meta(pattern="^[0-9]+/[0-9]+$", description="PARTITION/OFFSET")]
_Base64 = Annotated[str, Meta(pattern="^[A-Za-z0-9+/]*=*$")]


class Prediction(Struct):
    """One result. Beside these are the model's other outputs by their names: of reviews sentiment and confidence."""

    line: int
    state: str
    model: str
    explanation: list[Term]
    known_terms: float | None
    warning: str | None
    prediction: Any
    id: _UUID | UnsetType = UNSET
    created_at: _Moment | UnsetType = UNSET
    partition: int | UnsetType = UNSET
    offset: int | UnsetType = UNSET


class StoredPrediction(Struct):
    """A row as GET /predictions has it. Beside these are the model's inputs and its other outputs by their columns."""

    id: _UUID
    prediction: Any
    explanation: list[Term]
    model: str
    source: str | None
    created_at: _Moment
    stored_at: _Moment
    position: Position


class Exported(Struct):
    """Where it is, the rows of each table, and the ranges of offsets: log_id, partition, first and the one after."""

    out: str
    counts: dict[str, int]
    ranges: list[tuple[int, int, int, int]]
    files: int


class Status(Struct):
    """The worst of the states, and each check; with --watch the detail has the counts' changes per second."""

    state: Health
    checks: list[CheckResult]


class Change(Struct):
    """What was done to one thing; "" if it stands as it was."""

    what: str
    change: str


class DeadLetter(Position, frozen=True, kw_only=True):
    """A dead letter without its content."""

    recorded_at: _Moment
    state: State
    reason: str
    sqlstate: str | None
    replays: int
    replayed_to: _Place | None
    discarded_because: str | None


class WholeDeadLetter(DeadLetter, frozen=True, kw_only=True):
    """A dead letter with all that its record held."""

    key_base64: _Base64 | None
    value_base64: _Base64 | None
    headers_base64: list[tuple[str, _Base64 | None]]


class Fate(Struct):
    """What became of one dead letter: its replay's position, how that was recorded, or why nothing was done."""

    position: Position
    replay: Position | None
    problem: str | None
    became: Literal["stored", "duplicate", "dead"] | None
    reason: str


class Pruned(Struct):
    """What was deleted of one partition, or would be."""

    log: dict[str, Any]
    pruned_to: int
    stored: int
    duplicates: int
    dead_letters: int


class Fetched(Struct):
    version: str
    folder: str
    outcome: Literal["fetched", "unchanged"]


class Backup(Struct):
    """Where it is, and its part that is to be kept apart."""

    folder: str
    keys: str


class Restored(Struct):
    """The new stack's folder, and the moment that it is as of."""

    folder: str
    made_at: _Moment


class Token(Struct):
    """An administrator's token: a secret."""

    token: str
    ttl_s: float


class Keys(Struct):
    """The new key shares, or recovery keys: how many there are, how many are needed, and where they are."""

    kind: Literal["key shares", "recovery keys"]
    shares: int
    threshold: int
    keys_file: str


class ModelReport(Struct):
    """A model's name and version, what its rows look like, and what is wrong with it."""

    model: str | None
    contract: int | None
    columns: dict[str, str]
    request: str | None
    rows: int
    findings: list[Flaw]


class ModelVersion(Struct):
    """A version in the registry, or another model that served in the last minute, with its share of the predictions
    that were stored in it."""

    model: str
    format: Literal["terms", "onnx", "skops"] | None
    sha256: str | None
    added_at: _Moment | None
    added_by: str | None
    promoted: bool
    share: Annotated[float, Meta(ge=0, le=1)]


class Promotion(Struct):
    model: str
    why: str
    promoted_at: _Moment
    promoted_by: str


class ShownVersion(Struct):
    """A version with its card, and when it was promoted, the oldest first."""

    model: str
    name: str
    version: str
    sha256: str
    card: dict[str, Any]
    added_at: _Moment
    added_by: str
    promotions: list[Promotion]


class ModelLife(Struct):
    """What became of a second version, `model`: the accounting of its scores, both versions on reviews that it has not
    learnt from, and the live error of each."""

    model: str
    rescored: rescoring.RescoredReport
    comparison: quality.Comparison
    quality: quality.Report


class Demo(Struct):
    """The stored rows, as GET /predictions has them, what became of a second version, and the accounting of the topic.
    `model_life` is null with --no-model-life, and with a model of the user's own."""

    rows: list[dict[str, Any]]
    model_life: ModelLife | None
    accounts: verification.Report


class ApiKey(Struct):
    """A key without its hash; of an entry that is none, the problem."""

    name: str
    state: Literal["active", "expired", "invalid", "revoked"]
    problem: str | UnsetType = UNSET
    scopes: list[str] | UnsetType = UNSET
    created_at: _Moment | UnsetType = UNSET
    expires_at: _Moment | UnsetType | None = UNSET
    expires_in_s: int | UnsetType | None = UNSET
    rate: float | UnsetType | None = UNSET
    key: Annotated[str, Meta(description="Only of a new one: a secret.")] | UnsetType = UNSET


class ApiKeys(Struct):
    keys: list[ApiKey]


class Setting(Struct, rename={"from_": "from"}):
    name: str
    value: str | int | float | bool
    from_: str


class ShownSettings(Struct):
    """Each setting with the layer that it is from, and why Vault's layer is not among them."""

    settings: list[Setting]
    vault_not_read: str


class Findings(Struct):
    findings: list[Finding]


class Printed(NamedTuple):
    """What a command prints: one value of this type (of one of these, by an option), or one a line."""

    type: Any
    lines: bool = False
    open: bool = False  # it may have more fields than the type


RESULTS = {
    "up": Printed(Endpoints),
    "demo": Printed(Demo),
    "env": Printed(dict[str, str]),
    "backup": Printed(Backup),
    "restore": Printed(Restored),
    "fetch-kafka": Printed(Fetched),
    "predict": Printed(Prediction, lines=True, open=True),
    "feedback": Printed(Given, lines=True),
    "status": Printed(Status, lines=True),
    "verify": Printed((verification.Report, rescoring.RescoredReport, ExportReport)),
    "export": Printed(Exported),
    "query": Printed(StoredPrediction, lines=True, open=True),
    "dlq list": Printed(DeadLetter, lines=True),
    "dlq show": Printed(WholeDeadLetter),
    "dlq replay": Printed(Fate, lines=True),
    "dlq discard": Printed(Fate, lines=True),
    "doctor": Printed(Diagnosis),
    "trace": Printed(Trace, lines=True),
    "config show": Printed(ShownSettings),
    "config check": Printed(Findings),
    "vault-init": Printed(list[StepResult]),
    "vault-token": Printed(Token),
    "vault-rekey": Printed(Keys),
    "broker-certificate": Printed(Change, lines=True),
    "server-certificate": Printed(Change, lines=True),
    "migrate": Printed(Change, lines=True),
    "rotate": Printed(list[Rotation] | Drill),
    "api-key create": Printed(ApiKey),
    "api-key list": Printed(ApiKeys),
    "api-key revoke": Printed(ApiKey),
    "prune": Printed(list[Pruned]),
    "rescore": Printed(rescoring.Rescored),
    "model init": Printed(Draft),
    "model check": Printed(ModelReport),
    "model add": Printed(Change),
    "model list": Printed(list[ModelVersion]),
    "model show": Printed(ShownVersion),
    "model promote": Printed(Change),
    "model rollback": Printed(Change),
    "train": Printed(Card),
    "compare": Printed(quality.Comparison),
    "quality": Printed(quality.Report),
}


def schema_of(command: str) -> dict[str, Any]:
    """Return the JSON schema of what a command prints, or of a line of it."""
    printed = RESULTS[command]
    types = printed.type if isinstance(printed.type, tuple) else (printed.type,)
    schemas, parts = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    schema = {"anyOf": [*schemas]} if len(schemas) > 1 else schemas[0]
    for part in parts.values():
        if "properties" in part and not printed.open:
            part["additionalProperties"] = False
        for each in part.get("properties", {}).values():
            if "pattern" in each:  # in Python's words; JSON Schema has those of ECMA-262
                each["pattern"] = each["pattern"].replace(r"\Z", "$")
    title = f"bdlab {command} --json" + (", each line" if printed.lines else "")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema, "$defs": parts}


def files() -> dict[str, str]:
    """Return the content of each file of docs/json by its name."""
    return {f"{command.replace(' ', '-')}.json": json.dumps(schema_of(command), indent=2) + "\n" for command in RESULTS}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for stale in set(FOLDER.glob("*.json")) - {FOLDER / name for name in files()}:
        stale.unlink()
    for name, content in files().items():
        (FOLDER / name).write_text(content, "utf-8")
