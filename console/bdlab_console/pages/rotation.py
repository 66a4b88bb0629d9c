"""Who uses which credential, until when, and when each was replaced. It changes nothing: that is for a terminal."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from litestar import Request, get
from litestar.response import Template

from bdlab.services import DAEMONS, DATABASE_ROLES, KAFKA_SERVICES, NOT_ROTATED
from bdlab.vault.client import VaultClient
from bdlab.vault.client_reports import ClientReport, read_reports
from bdlab_console.parts import Console
from bdlab_console.rendering import page

_KEEP_S, _WAIT_S = 2.0, 0.8
_COMMANDS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))["commands"]
Use = Literal["current", "former", "unknown"]


class KafkaUsers(NamedTuple):
    """The Kafka users of a service, by the metadata of their secret and the reports of its processes: `username` is in
    use `since` a version, and `former` still works if it is not empty; all three are empty, or 0, if nobody noted it.
    `versions` are numbers and moments, the newest first."""

    service: str
    versions: list[tuple[int, datetime]]
    username: str
    former: str
    since: int
    clients: list[ClientReport]

    def use(self, client: ClientReport) -> Use:
        """Return which of the service's users a process logs in with."""
        if not self.since or not client.kafka_version:
            return "unknown"
        return "current" if client.kafka_version >= self.since else "former"

    def using(self, use: Use) -> int:
        return [self.use(client) for client in self.clients].count(use)


def users_of(client: VaultClient, service: str) -> KafkaUsers:
    """Return what Vault tells `console` of a service's users. Raises VaultError."""
    found = client.read_if_present(f"{client.settings.kv_mount}/metadata/kafka/{service}") or {}
    stored = {int(number): each["created_time"] for number, each in (found.get("versions") or {}).items()}
    versions = [(number, datetime.fromisoformat(at)) for number, at in sorted(stored.items(), reverse=True)]
    noted = found.get("custom_metadata") or {}
    since = int(noted.get("since") or max(stored, default=0) == 1)  # the first has no other before it
    reports = read_reports(client, service) if service in DAEMONS else []
    running = [each for each in reports if not each.ended]
    return KafkaUsers(service, versions, noted.get("username", ""), noted.get("former", ""), since, running)


def _history(services: list[KafkaUsers]) -> Iterator[tuple[datetime, str, int, str]]:
    """Yield moment, service and number of each version, and what is known of it, the newest first."""
    made = ((at, each.service, number, each) for each in services for number, at in each.versions)
    for at, service, number, each in sorted(made, reverse=True, key=lambda one: one[:3]):
        first = f"{each.username or 'its first user'} in use from here on" if number == each.since else ""
        yield at, service, number, first


def routes(parts: Console) -> list[Any]:
    """Return the routes of `/rotation`."""
    groups = [parts.settings.deployment.in_sql(role.group) for role in DATABASE_ROLES]

    def kafka_users() -> list[KafkaUsers]:
        return [parts.session.ask(partial(users_of, service=service)) for service in KAFKA_SERVICES]

    @get("/rotation", include_in_schema=False)
    async def show(request: Request[Any, Any, Any]) -> Template:
        users, leases = await asyncio.gather(
            parts.shared.get("kafka users", kafka_users, keep_s=_KEEP_S, wait_s=_WAIT_S),
            parts.shared.get(
                "leases", lambda: parts.reader.ask("leased", groups=groups), keep_s=_KEEP_S, wait_s=_WAIT_S
            ),
        )
        looks: dict[str, Any] = {"users": users, "leases": leases, "history": [*_history(users.value or [])][:50]}
        looks |= {"now": datetime.now(UTC), "protocol": parts.session.settings().kafka.security_protocol}
        return page(request, "rotation.html", **looks, commands=_COMMANDS, not_rotated=NOT_ROTATED)

    return [show]
