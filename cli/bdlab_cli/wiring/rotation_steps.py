"""The rotations of `bdlab rotate`: Vault's side of them with the broker's administrator."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from bdlab.credentials import KafkaLogin
from bdlab.errors import InvalidInput
from bdlab.services import KAFKA_SERVICES, NOT_ROTATED, SERVICES
from bdlab.settings import Layers
from bdlab.vault.logins import address_layer
from bdlab.vault.rotation import Rotation, Run
from bdlab.vault.rotation.database import drop_left_behind, end_logins, rotate_manager
from bdlab.vault.rotation.kafka import rotate_kafka_users
from bdlab.vault.rotation.secret_ids import rotate_secret_ids
from bdlab_cli.output.rotations import progress
from bdlab_cli.wiring.broker_admin import Users, administrator
from bdlab_cli.wiring.session import open_session


def rotations(
    layers: Layers,
    stop: threading.Event,
    target: str,
    services: Sequence[str],
    *,
    leases: bool,
    admin_servers: str,
    **how: Any,
) -> Iterator[Rotation]:
    """Rotate `target` (database, kafka, approle or all), and yield each result as it is known; `how` is of the `Run`.
    Secret ids come last, and that of `rotate` itself at the very end. Raises InvalidInput, VaultError, BrokerError."""
    if unknown := [name for name in services if name not in SERVICES]:
        every = f"There are: {', '.join(SERVICES)}."
        raise InvalidInput(f"--service {unknown[0]!r}: there is no such service", hint=every)
    with open_session(layers, stop, service="rotate", kafka=False) as session:
        now = layers.settings()
        run = Run(session=session, vault=now.vault, deployment=now.deployment, progress=progress, stop=stop, **how)
        if target in ("database", "all"):
            yield rotate_manager(run)
            if leases:
                yield from end_logins(run)
            yield drop_left_behind(run)
        if target in ("kafka", "all"):
            chosen = [name for name in KAFKA_SERVICES if name in (services or KAFKA_SERVICES)]
            for name in (name for name in services if name not in KAFKA_SERVICES):
                yield Rotation("kafka", "unchanged", name, "it has no Kafka users")
            if chosen:
                yield from _kafka(layers, run, chosen, admin_servers)
        if target in ("approle", "all"):
            chosen = [name for name in SERVICES if name in (services or SERVICES)]
            for name in (name for name in chosen if name in NOT_ROTATED):
                detail = f"`bdlab vault-init --renew {name}` renews it, with the recovery key"
                yield Rotation("approle", "unchanged", name, detail)
            last = sorted(chosen, key=lambda name: name == "rotate")
            yield from rotate_secret_ids(run, [name for name in last if name not in NOT_ROTATED])


def _kafka(layers: Layers, run: Run, services: Sequence[str], admin_servers: str) -> Iterator[Rotation]:
    values, _ = run.session.read_secret("kafka/credentials")
    server = layers.settings({"kafka": address_layer("kafka", values)}).kafka
    clients = KafkaLogin(server=server, ca_pem=values.get("ca_pem", ""))
    if not server.security_protocol.startswith("SASL"):
        detail = f"nothing to rotate: the broker asks for no user ({server.security_protocol})"
        yield Rotation("kafka", "unchanged", detail=detail)
        return
    if not admin_servers and not run.dry_run:
        hint = "Say it with --admin-servers or BDLAB_KAFKA_ADMIN_SERVERS, as for `bdlab migrate`."
        raise InvalidInput("it is not known where the broker takes its administrator", hint=hint)
    admin = clients if run.dry_run else administrator(run.session, clients, admin_servers)
    yield from rotate_kafka_users(run, Users(admin), clients, services)
