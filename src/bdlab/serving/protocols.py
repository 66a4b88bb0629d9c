"""What the API depends on, as Protocols; the `serve` command passes the real objects."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from uuid import UUID

import msgspec

from bdlab.access import ApiKeys
from bdlab.events import UNKNOWN, Event, Origin, Position
from bdlab.probes import BrokerProbe, DatabaseState, VaultProbe
from bdlab.selection import Page, Selection
from bdlab.serving.running import Running
from bdlab.settings import Settings


class Publisher(Protocol):
    def publish(self, event: Event, origin: Origin = UNKNOWN) -> Awaitable[Position]:
        """Publish the event; what is awaited is its position once the broker has acknowledged it. The call or the wait
        raises EventTooLarge, NotAcknowledged (the event may be on the topic), or another BrokerError."""


class StoredPredictions(Protocol):
    """The rows of the table `predictions`, as structs. The queries raise DatabaseError."""

    def state(self, *, count_rows: bool = True) -> DatabaseState:
        """Return the state; without `rows` if they are not to be counted."""

    def page(self, wanted: Selection, limit: int) -> Page: ...

    def get(self, prediction_id: UUID) -> Any | None: ...


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """The open parts that the API works with; the caller closes them. `log_published` logs an acknowledged prediction
    by its id, position and trace id. Its line may be written later, by `flush_log`, which returns how many could not be
    written."""

    settings: Settings
    model: Running
    publisher: Publisher
    feedback: Publisher
    stored: StoredPredictions
    vault: VaultProbe
    broker: BrokerProbe
    feedback_broker: BrokerProbe
    keys: ApiKeys
    log_published: Callable[[str, Position, str], None]
    flush_log: Callable[[], int]
