"""Feedback from a terminal: the steps of `bdlab predict`, with nothing to score, to the topic of the feedback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from bdlab.contract import Contract
from bdlab.credentials import FeedbackTopic, KafkaCredentials
from bdlab.events import Event, codec_of
from bdlab.feedback import FeedbackCodec
from bdlab.inputs.body import Validator
from bdlab.inputs.bulk import RowResult, ScoredRow
from bdlab.settings import Layers
from bdlab_cli.output import terminal
from bdlab_cli.output.predictions import Results
from bdlab_cli.wiring.bulk_predict import Prediction

if TYPE_CHECKING:
    from bdlab.vault.session import VaultSession


class Given(msgspec.Struct, frozen=True):
    """An acknowledged feedback as `--json` shows it, or the state of one that was not."""

    line: int
    state: str
    id: str
    prediction_id: str
    partition: int | None
    offset: int | None


class _Shown(Results):
    def __init__(self, *, as_json: bool, each: bool) -> None:
        self._as_json, self._each = as_json, each

    def add(self, result: RowResult) -> None:
        event, at = result.event, result.position
        if event is None or not (self._as_json or self._each):
            return
        place = (at.partition, at.offset) if at else (None, None)
        given = Given(result.line, result.status, str(event.id), str(event.prediction_id), *place)
        told = f"{given.state}: feedback {given.id} of {given.prediction_id}, at {given.partition}/{given.offset}"
        terminal.echo_result(given, told, as_json=self._as_json)


class _Unscored:
    """A scorer for what is not to be scored."""

    name = sha256 = ""
    blocking = forkable = False

    def __init__(self, contract: Contract) -> None:
        self.codec = codec_of(contract)

    def score(self, _: Any) -> Any:
        return None

    def score_many(self, inputs: Sequence[Any]) -> list[Any]:
        return [None] * len(inputs)


class FeedbackRun(Prediction):
    """One run of the command; `said_by` is the source of feedback that names none."""

    service: ClassVar[str] = "feedback"

    def __init__(
        self, layers: Layers, contract: Contract, said_by: str, run_id: str | None, *, as_json: bool, each: bool
    ) -> None:
        self._codec, self._model, self._said_by = FeedbackCodec(contract), contract, said_by
        truths = [field.column for field in contract.truths]
        validator = Validator(self._codec.form, self._codec.given, any_of=truths)
        shown = _Shown(as_json=as_json, each=each)
        super().__init__(layers, "", validator, shown, True, None, run_id, "feedback")

    def scorer(self, *, many: bool = False) -> _Unscored:  # noqa: ARG002
        return _Unscored(self._model)

    def topic(self, vault: VaultSession) -> KafkaCredentials:
        return FeedbackTopic(vault)

    def event(self, row: ScoredRow, model: str) -> Event:  # noqa: ARG002
        event_id = self._codec.idempotent_id(f"{self.run_id}:{row.line}", row.given)
        return self._codec.make(event_id, row.given, source=self._said_by)
