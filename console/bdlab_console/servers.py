"""Which servers are away, since when, and which are back: said on every page."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from bdlab.errors import BdlabError, VaultError, VaultUnavailable
from bdlab.health.remote import fetch
from bdlab.wiring.checks import own_ca_file
from bdlab_console.parts import Console

EVERY_S, _BACK_S = 3.0, 15.0  # between two questions, for all who look; how long is said that one is back


class Servers:
    """Each is asked something small, which takes at most some 3 s (PostgreSQL 6 s, if it hangs)."""

    def __init__(self, parts: Console) -> None:
        self._parts, self._gone, self._back = parts, dict[str, datetime](), dict[str, tuple[float, int]]()

    def _vault(self) -> None:
        if not (state := self._parts.session.state()).connected:
            raise VaultUnavailable(state.problem)

    def _database(self) -> None:
        self._parts.newest.ask("ends", "live", topic="")

    def _serve(self) -> None:
        url, ca_file = self._parts.api_url, own_ca_file(self._parts.settings.http)
        status, _, problem = fetch(f"{url}/health/live", ca_file, 2.0)
        if status != 200:
            raise BdlabError(f"serve does not answer at {url}: {problem or status}")

    async def state(self, wait_s: float | None = None) -> dict[str, Any]:
        """Return the answers of those that are `away`, and of each that is `back` after how many seconds; of who has
        not answered within `wait_s` what was known before."""
        asks = {
            "Vault": self._vault,
            "Kafka": self._parts.broker.reach,
            "PostgreSQL": self._database,
            "serve": self._serve,
        }
        get, away = self._parts.shared.get, []
        each = (get(("state", name), ask, keep_s=EVERY_S - 0.5, wait_s=wait_s) for name, ask in asks.items())
        for name, answer in zip(asks, await asyncio.gather(*each), strict=True):
            if answer.error and answer.since and (name == "Vault" or not isinstance(answer.error, VaultError)):
                away.append(answer)
                self._gone[name] = answer.since
                self._back.pop(name, None)
            elif since := self._gone.pop(name, None):
                self._back[name] = time.monotonic(), round((datetime.now(UTC) - since).total_seconds())
        back = {name: away_s for name, (at, away_s) in self._back.items() if time.monotonic() - at < _BACK_S}
        return {"away": away, "back": back}
