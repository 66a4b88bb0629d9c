"""The feedback event of a contract: what the right answer to a prediction was. Pure."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

import msgspec
from msgspec.structs import replace

from bdlab.contract import Contract, Field
from bdlab.contract.fields import Copier, Kind, feedback_types, shortest
from bdlab.events import SCHEMA_VERSION, Codec, Event

NOUN = "feedback entry"
_EXAMPLE = "01987e5b-1c2d-7000-8000-000000000001"


class _Truths(msgspec.Struct, frozen=True, kw_only=True):
    TRUTHS: ClassVar[tuple[str, ...]] = ()
    """The columns of which the right answer can be known."""

    if TYPE_CHECKING:
        prediction_id: UUID

    def __post_init__(self) -> None:
        if all(getattr(self, name) is None for name in self.TRUTHS):
            raise ValueError(f"it gives none of {', '.join(self.TRUTHS)}")


class Feedback(_Truths, frozen=True, kw_only=True):
    """What somebody says of a prediction: the base of a contract's, which have its truths, each of which may be None.
    `source` and `created_at`, when it was known, are None unless they are given too."""

    if TYPE_CHECKING:
        source: str | None
        created_at: datetime | None

        def __init__(self, **fields: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...


class FeedbackEvent(_Truths, Event, frozen=True, kw_only=True, gc=False):
    """A feedback with its id: the base of a contract's events. `source` says who knows, in one word; of several of a
    prediction the newest by `created_at`, then id, counts."""

    KIND: ClassVar[str] = "feedback"
    KEY: ClassVar[str] = "prediction_id"

    if TYPE_CHECKING:
        source: str


class FeedbackCodec(Codec[FeedbackEvent]):
    """Makes and decodes the feedback of a contract; `form` has its fields as a contract's inputs, for what checks,
    reads and describes them. `given` and `event` are subclasses of Feedback and FeedbackEvent, which cannot be made
    without any truth: msgspec raises ValidationError, and the type itself ValueError."""

    def __init__(self, contract: Contract) -> None:
        self.given, event = feedback_types(contract, Feedback, FeedbackEvent, schema_version=SCHEMA_VERSION)
        super().__init__(contract, event, contract.truths)
        first, *others = (replace(field, name=field.column) for field in contract.truths)
        newest = "When it was known, if not now; the newest of a prediction counts."
        fields = (
            _own("prediction_id", "uuid", "The id of the prediction.", examples=(_EXAMPLE,)),
            replace(first, examples=(shortest(first),)),
            *others,
            _own("source", "word", "Who knows it, in a word.", nullable=True, default=None),
            _own("created_at", "date-time", newest, nullable=True, default=None),
        )
        columns = tuple(field.column for field in fields)
        self.form = Contract(noun=NOUN, inputs=fields, outputs=contract.outputs, columns=columns, document={})
        self._make = Copier(event, self.given, but=("source", "created_at"))

    def make(self, event_id: UUID, given: Feedback, *, source: str) -> FeedbackEvent:
        """Return the event of a feedback; `source`, and the present time (UTC), stand in for what it does not give."""
        now = datetime.now(UTC)
        told = {"source": given.source or source, "created_at": given.created_at or now}
        return self._make(given, id=event_id, timestamp=now, **told)


def _own(name: str, kind: Kind, description: str, **more: Any) -> Field:
    return Field(name=name, column=name, kind=kind, description=description, **more)
