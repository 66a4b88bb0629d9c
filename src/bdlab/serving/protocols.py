"""What the API needs from outside, by Protocol; the `serve` command brings the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol
from uuid import UUID

import msgspec

from bdlab.events import Position, PredictionEvent
from bdlab.model import Scorer
from bdlab.probes import BrokerProbe, DatabaseState, VaultProbe
from bdlab.settings import Settings


class Publisher(Protocol):
    async def publish(self, event: PredictionEvent, *, traceparent: str = "", source: str = "") -> Position:
        """Where the broker put the event, once it acknowledged it.

        Raises EventTooLarge, NotAcknowledged (it may be on the topic), or another BrokerError.
        """
        ...


class StoredPredictions(Protocol):
    """Rows of the `predictions` table, as structs that can be encoded. The queries raise DatabaseError."""

    def state(self, *, count_rows: bool = True) -> DatabaseState:
        """As a DatabaseProbe; `rows` is left out where they are not to be counted."""
        ...

    def newest(self, limit: int, *, source: str) -> Sequence[Any]:
        """Of this source; `all` is any, and `real` any but drills and demonstrations."""
        ...

    def get(self, prediction_id: UUID) -> Any | None: ...


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """The parts are open when the API gets them, and whoever opened them closes them."""

    settings: Settings
    scorer: Scorer
    publisher: Publisher
    stored: StoredPredictions
    vault: VaultProbe
    broker: BrokerProbe
