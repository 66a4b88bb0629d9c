"""What goes wrong in a storm. Each fault breaks one thing, holds for a while and mends it again."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack

from tests.chaos.proxy import Link
from tests.chaos.system import OF_THE_SHADOW, Service, System
from tests.servers.zookeeper import ZooKeeperKafka

Fault = Callable[[System, random.Random], None]


def kill_consume(system: System, rng: random.Random) -> None:
    """kill -9 of a consumer, started again after a moment."""
    victim = rng.choice(system.consumers)
    victim.kill()
    time.sleep(rng.uniform(0, 1))
    victim.start()


def kill_serve(system: System, rng: random.Random) -> None:
    """kill -9 of the API with requests in flight."""
    system.serve.kill()
    time.sleep(rng.uniform(0, 0.5))
    system.serve.start()
    system.wait_for_api(timeout_s=60)


def kill_rescore(system: System, rng: random.Random) -> None:
    """kill -9 of who scores again; started again, it goes on with what is left."""
    system.shadow.kill()
    time.sleep(rng.uniform(0, 1))
    system.shadow.start()


def kill_postgres(system: System, rng: random.Random) -> None:
    """kill -9 of Postgres; it recovers from its log."""
    system.kill_server(system.postgres)
    time.sleep(rng.uniform(0, 2))
    system.postgres.start()


def kill_vault(system: System, rng: random.Random) -> None:
    """kill -9 of the Vault server; it unseals itself when it is back."""
    system.kill_server(system.vault)
    time.sleep(rng.uniform(0, 2))
    system.vault.start()


def kill_broker(system: System, rng: random.Random) -> None:
    """kill -9 of a broker that keeps its log, or of one of a cluster's."""
    system.kill_server(rng.choice(system.broker.members))
    time.sleep(rng.uniform(0, 2))
    system.broker.start()


def kill_zookeeper(system: System, rng: random.Random) -> None:
    """kill -9 of ZooKeeper; the broker goes on without it."""
    assert isinstance(system.broker, ZooKeeperKafka)
    system.kill_server(system.broker.zookeeper)
    time.sleep(rng.uniform(0, 4))
    system.broker.zookeeper.start()


def kill_partition_leader(system: System, rng: random.Random) -> None:
    """kill -9 of the broker that leads a partition, until another one leads it."""
    partition = rng.randrange(6)
    victim = system.leader(partition) or rng.choice(system.broker.members)
    system.kill_server(victim)
    deadline = time.monotonic() + 15
    # It stays without one where the others were not in sync, after the fault before this.
    while system.leader(partition) in (None, victim) and time.monotonic() < deadline:
        time.sleep(0.2)
    victim.start()


def lose_majority(system: System, rng: random.Random) -> None:
    """kill -9 of two brokers of three: too few are in sync, and nothing is acknowledged."""
    for victim in rng.sample(list(system.broker.members), 2):
        system.kill_server(victim)
    time.sleep(rng.uniform(1, 8))
    system.broker.start()


def zombie_broker(system: System, rng: random.Random) -> None:
    """A cluster's broker that is frozen until its partitions have other leaders, and then wakes up."""
    with system.frozen_server(rng.choice(system.broker.members)):
        time.sleep(rng.uniform(7, 10))


def zombie_consumer(system: System, rng: random.Random) -> None:
    """A consumer that is frozen until its partitions have moved, and then wakes up in its work."""
    victim = rng.choice(system.consumers)
    with victim.frozen():
        time.sleep(system.session_timeout_s * rng.uniform(1.1, 1.5))


def freeze_serve(system: System, rng: random.Random) -> None:
    """The API frozen for a moment."""
    with system.serve.frozen():
        time.sleep(rng.uniform(0.5, 3))


def freeze_postgres(system: System, rng: random.Random) -> None:
    """Postgres frozen, every backend of it: connections stay open and nothing answers."""
    with system.frozen_server(system.postgres):
        time.sleep(rng.uniform(0.5, 3))


def freeze_broker(system: System, rng: random.Random) -> None:
    """The broker frozen, all of it: no acknowledgement comes."""
    with ExitStack() as frozen:
        for member in system.broker.members:
            frozen.enter_context(system.frozen_server(member))
        time.sleep(rng.uniform(0.5, 3))


def add_consumer(system: System, rng: random.Random) -> None:
    """One more consumer joins the group for a while, and leaves it with SIGTERM."""
    extra = system.extra_consumer()
    extra.start()
    time.sleep(rng.uniform(2, 5))
    extra.stop(timeout_s=90)


def restart_consumer(system: System, rng: random.Random) -> None:
    """A consumer leaves the group with SIGTERM, and joins it again."""
    victim = rng.choice(system.consumers)
    _end_well(victim)
    victim.start()


def restart_serve(system: System, rng: random.Random) -> None:
    """The API is told to stop with requests in flight, and started again."""
    _end_well(system.serve)
    system.serve.start()
    system.wait_for_api(timeout_s=60)


def _end_well(service: Service) -> None:
    code = service.stop(timeout_s=90)
    # The signal itself ends a process whose interpreter is still starting.
    assert code in (0, -signal.SIGTERM), f"exit code {code} after SIGTERM:\n{service.log_file.read_text()[-2000:]}"


def terminate_backends(system: System, rng: random.Random) -> None:
    """Every session of a service is terminated at the Postgres server (57P01)."""
    system.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'v-%'")


def read_only_database(system: System, rng: random.Random) -> None:
    """Postgres takes no writes for a while (25006), as after a fail-over."""
    system.sql("ALTER SYSTEM SET default_transaction_read_only = on")
    system.sql("SELECT pg_reload_conf()")
    time.sleep(rng.uniform(0.5, 3))
    system.sql("BEGIN READ WRITE; COMMIT")
    system.sql("ALTER SYSTEM RESET default_transaction_read_only")
    system.sql("SELECT pg_reload_conf()")


def _some(links: list[Link], rng: random.Random) -> list[Link]:
    """All of them, or one: the way to one broker of a cluster alone."""
    return rng.choice([links, [rng.choice(links)]])


def _cut(links: list[Link], rng: random.Random) -> None:
    for _ in range(rng.randint(1, 3)):
        for link in links:
            link.reset()
        time.sleep(rng.uniform(0, 0.3))


def _hold(links: list[Link], rng: random.Random) -> None:
    for link in links:
        link.stall()
    try:
        time.sleep(rng.uniform(0.5, 4))
    finally:
        for link in links:
            link.flow()


def _reset(name: str) -> Fault:
    def fault(system: System, rng: random.Random) -> None:
        _cut(_some(system.links(name), rng), rng)

    fault.__doc__ = f"Connections {name} are reset."
    return fault


def _stall(name: str) -> Fault:
    def fault(system: System, rng: random.Random) -> None:
        _hold(_some(system.links(name), rng), rng)

    fault.__doc__ = f"Connections {name} stay open and move no byte."
    return fault


def cut_off_rescore(system: System, rng: random.Random) -> None:
    """The connections of who scores again are reset, or move no byte for a while."""
    rng.choice((_cut, _hold))([link for name in OF_THE_SHADOW for link in system.links(name)], rng)


def catalogue(system: System) -> dict[str, Fault]:
    """Every fault that `system` can take, by its name in the report."""
    faults: dict[str, Fault] = {
        fault.__name__.replace("_", " "): fault
        for fault in (
            kill_consume,
            kill_serve,
            kill_rescore,
            cut_off_rescore,
            kill_postgres,
            kill_vault,
            zombie_consumer,
            freeze_serve,
            freeze_postgres,
            freeze_broker,
            add_consumer,
            restart_consumer,
            restart_serve,
            terminate_backends,
            read_only_database,
        )
    }
    if system.broker.keeps_log:
        faults["kill broker"] = kill_broker
    if isinstance(system.broker, ZooKeeperKafka):
        faults["kill zookeeper"] = kill_zookeeper
    if len(system.broker.members) > 1:
        faults["kill partition leader"] = kill_partition_leader
        faults["lose the in-sync majority"] = lose_majority
        faults["zombie broker"] = zombie_broker
    for name in system.link_names:
        faults[f"reset {name}"] = _reset(name)
        faults[f"stall {name}"] = _stall(name)
    return faults
