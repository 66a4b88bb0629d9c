"""The whole pipeline as a storm sees it: real servers, `bdlab` processes, a proxy on each pair."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import psycopg2
from confluent_kafka.admin import AdminClient

from bdlab.stack import OpenBao, Postgres, Server
from tests import forked
from tests.chaos.advertised import KINDS, AdvertisedCluster, Member
from tests.chaos.promotions import SHADOW, VERSIONS, write_version
from tests.chaos.proxy import Address, Link, Proxy, kafka_client_id

_PAIRS = (
    "client-serve",
    "serve-vault",
    "consume-vault",
    "serve-postgres",
    "consume-postgres",
    "serve-broker",
    "consume-broker",
)
OF_THE_SHADOW = ("rescore-vault", "rescore-postgres")


class Service:
    """One `bdlab` daemon as a process, its log in `log_file`."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log_file: Path) -> None:
        self._arguments = arguments
        self._environment = dict(environment)
        self.log_file = log_file
        self._process: forked.Process | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        if self.running:
            return
        with Path(os.devnull).open("rb") as nothing, self.log_file.open("ab") as log:
            self._process = forked.Process(self._arguments, self._environment, [nothing, log, log])

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def stop(self, timeout_s: float) -> int:
        """Its exit code after SIGTERM; TimeoutExpired where it does not end."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout_s)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


class System:
    """Starts in `with`, in `folder`, with `consumers` consumers; everything ends with it."""

    session_timeout_s = 6.0

    def __init__(self, folder: Path, *, broker: str, consumers: int = 2) -> None:
        self.folder = folder
        self.vault = OpenBao(folder)
        self.postgres = Postgres(folder)
        self.broker = KINDS[broker](folder)
        self._consumers = consumers
        self._cleanup = ExitStack()
        self.link_names = _PAIRS

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._proxies = {name: Proxy(name) for name in (*_PAIRS, *OF_THE_SHADOW) if not name.endswith("-broker")}
            self._broker_proxies: list[Proxy] = []
            members: Sequence[Member] = self.broker.members
            for member in members:
                proxy = Proxy("serve-broker", "consume-broker", "other-broker", peer_of=_broker_peer)
                member.advertised = proxy.address
                self._broker_proxies.append(proxy)
            for started in (self.vault, self.postgres, self.broker):
                stack.callback(started.stop)
                started.start()
            for name, proxy in self._proxies.items():
                proxy.start(("127.0.0.1", self._port_behind(name)))
                stack.callback(proxy.close)
            for member, proxy in zip(members, self._broker_proxies, strict=True):
                proxy.start(("127.0.0.1", member.port))
                stack.callback(proxy.close)
            self._set_up()
            self.serve = self._service("serve", "--port", str(self._api_port))
            self.consumers = [self._service("consume", name=f"consume-{n}") for n in range(self._consumers)]
            self.shadow = self._service("rescore", "--model", SHADOW, "--follow", "--jobs", "1", "--json")
            for service in (self.serve, *self.consumers, self.shadow):
                stack.callback(service.kill)
                service.start()
            self.wait_for_api(timeout_s=60)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._cleanup.close()

    @property
    def api_address(self) -> Address:
        return self._proxies["client-serve"].address

    def links(self, name: str) -> list[Link]:
        """The connections of a pair: one link, or one to each of a cluster's brokers."""
        proxies = self._broker_proxies if name.endswith("-broker") else [self._proxies[name]]
        return [proxy.links[name] for proxy in proxies]

    def leader(self, partition: int) -> Member | None:
        """The broker of a cluster that leads this partition of the topic; None where none does just now."""
        assert isinstance(self.broker, AdvertisedCluster)
        client = AdminClient({"bootstrap.servers": self.broker.bootstrap_servers, "log_level": 2})
        node = client.list_topics("predictions", timeout=20).topics["predictions"].partitions[partition].leader
        return self.broker.members[node - 1] if node > 0 else None

    def extra_consumer(self) -> Service:
        return self._service("consume", name="consume-extra")

    def wait_for_api(self, timeout_s: float) -> None:
        """Until the API answers; AssertionError with the end of its log where it does not."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", self._api_port, timeout=5)
            with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/health/live")
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.05)
        raise AssertionError(f"the API does not answer:\n{self.serve.log_file.read_text()[-2000:]}")

    def bdlab(self, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run one command to its end, without a proxy on its way."""
        return forked.run(arguments, self._environment(), timeout_s=timeout_s)

    def model_that_serves(self, wanted: str) -> str:
        """The name that the API tells; another one than `wanted` only if it still does after half a minute."""
        found, deadline = "", time.monotonic() + 30
        while found != wanted and time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", self._api_port, timeout=5)
            with contextlib.closing(connection):
                connection.request("GET", "/health")
                found = json.loads(connection.getresponse().read())["model"]
            time.sleep(0.05)
        return found

    def sql(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """Run one statement as the server's administrator, outside a transaction."""
        connection = psycopg2.connect(
            host="127.0.0.1",
            port=self.postgres.port,
            dbname="bdlab",
            user=self.postgres.admin_user,
            password=self.postgres.admin_password.reveal(),
            options="-c default_transaction_read_only=off",
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, values or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def kill_server(self, server: Server) -> None:
        """kill -9 of the process that was started and of all that it started."""
        for pid in reversed(_family(server.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        server.stop()

    @contextlib.contextmanager
    def frozen_server(self, server: Server) -> Iterator[None]:
        """SIGSTOP for it and all that it started, SIGCONT at the end."""
        family = _family(server.pid)
        for number, pids in ((signal.SIGSTOP, family), (signal.SIGCONT, family)):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            if number is signal.SIGSTOP:
                yield

    def _port_behind(self, proxy: str) -> int:
        if proxy == "client-serve":
            self._api_port = self.postgres.ports.choose("api")
            return self._api_port
        return self.vault.port if proxy.endswith("-vault") else self.postgres.port

    def _set_up(self) -> None:
        env_file = self.folder / ".env"
        env_file.touch(0o600)
        servers = ",".join(f"{proxy.host}:{proxy.port}" for proxy in self._broker_proxies)
        env_file.write_text(
            f"POSTGRES_USER={self.postgres.admin_user}\n"
            f"POSTGRES_PASSWORD={self.postgres.admin_password.reveal()}\n"
            "BDLAB_POSTGRES_HOST=127.0.0.1\n"
            f"BDLAB_POSTGRES_PORT={self.postgres.port}\n"
            "BDLAB_POSTGRES_SSLMODE=disable\n"
            f"BDLAB_KAFKA_BOOTSTRAP_SERVERS={servers}\n"
            "BDLAB_SECRET_ID_CIDRS=127.0.0.0/8\n",
            "utf-8",
        )
        for command in (["vault-init", "--env-file", str(env_file)], ["migrate"]):
            done = self.bdlab(*command, timeout_s=120)
            assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
        env_file.unlink()
        for number, version in enumerate(VERSIONS):
            card = write_version(self.folder / version, number)
            added = self.bdlab("model", "add", str(card), timeout_s=60)
            assert added.returncode == 0, added.stderr

    def _service(self, command: str, *arguments: str, name: str = "") -> Service:
        proxies = self._proxies
        environment = self._environment() | {
            "VAULT_ADDR": f"http://127.0.0.1:{proxies[f'{command}-vault'].port}",
            "BDLAB_POSTGRES_PORT": str(proxies[f"{command}-postgres"].port),
        }
        log_file = self.folder / "logs" / f"{name or command}.log"
        return Service([command, *arguments], environment, log_file)

    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("BDLAB_", "VAULT_"))}
        return kept | {
            "VAULT_ADDR": self.vault.address,
            "BDLAB_VAULT_IDENTITY_DIR": str(self.folder / "identity"),
            "BDLAB_KAFKA_SESSION_TIMEOUT_S": str(self.session_timeout_s),
            "BDLAB_KAFKA_DELIVERY_TIMEOUT_S": "5",
            "BDLAB_LOG_FORMAT": "json",
            "BDLAB_MODEL_REGISTRY": str(self.folder / "registry"),
            "BDLAB_MODEL_CACHE_DIR": str(self.folder / "cache"),
            "BDLAB_MODEL_POLL_S": "0.5",
        }


def _broker_peer(first: bytes) -> str:
    client_id = kafka_client_id(first)
    return next((f"{name}-broker" for name in ("serve", "consume") if name in client_id), "other-broker")


def _family(pid: int | None) -> list[int]:
    """`pid` and its descendants, parents first."""
    if pid is None:
        return []
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found
