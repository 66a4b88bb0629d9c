"""The certificates of a stack's servers: had from Vault, and renewed in time while everything runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec

from bdlab.certificates import LOCAL_HOSTS, CertificateFiles
from bdlab.errors import StackError, StartInterrupted
from bdlab.health.tls import shown_certificate
from bdlab.retry import tries
from bdlab.stack.servers.openbao import OpenBao
from bdlab.stack.servers.postgres import Postgres
from bdlab.stack.servers.server import Broker
from bdlab.stack.supervisor import Event, Report
from bdlab.stack.tls import SERVERS, TlsFolder

_RETRY_S = 5.0
_SHOWN_WITHIN_S = 10.0
_POLL_S = 0.05


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Certificates that one `bdlab` command gets into `files`, where they are not good for long enough.

    `command` gives its arguments; `installed` has the servers read the files, and may do so once too often.
    `give_up` is for files that are new and a server that does not read them.
    """

    name: str
    files: tuple[CertificateFiles, ...]
    command: Callable[[], Sequence[str]]
    installed: Callable[[], None] = lambda: None
    give_up: Callable[[], None] = lambda: None

    @property
    def due_at(self) -> float:
        return min(files.due_at for files in self.files)

    @property
    def ends_at(self) -> float:
        return min(files.ends_at for files in self.files)


class CertificateKeeper:
    """Gets what is ordered, and again where two thirds of its life are over.

    `run` runs a `bdlab` command: its name, its arguments, and what may interrupt it.
    """

    def __init__(
        self, run: Callable[[str, Sequence[str], threading.Event | None], object], report: Report
    ) -> None:
        self._run = run
        self._report = report
        self._orders: list[Order] = []
        self._retry_at: dict[str, float] = {}

    def obtain(self, order: Order, stop: threading.Event) -> None:
        """Raises StackError. From then on `look_after` renews it."""
        self._fill(order, stop)
        self.keep(order)

    def keep(self, order: Order) -> None:
        """Renew in time what is there from elsewhere."""
        self._orders.append(order)

    def look_after(self, stop: threading.Event) -> None:
        """Renew what is due. A renewal that fails is tried again soon, and said so."""
        for order in self._orders:
            retry_at = self._retry_at.get(order.name)
            due = time.time() >= order.due_at if retry_at is None else time.monotonic() >= retry_at
            if not due:
                continue
            began = time.monotonic()
            try:
                self._fill(order, stop)
            except StartInterrupted:
                return
            except StackError as error:
                self._failed(order, error, time.monotonic() - began)
                continue
            self._retry_at.pop(order.name, None)
            detail = f"renewed, good until {_moment(order.ends_at)}"
            self._report(Event("notice", order.name, detail, time.monotonic() - began))

    def _failed(self, order: Order, error: StackError, seconds: float) -> None:
        if time.time() < order.due_at:
            self._retry_at.pop(order.name, None)
            detail = f"renewed, and not read by the running server: {error.message}"
            order.give_up()
        else:
            told = order.name in self._retry_at
            self._retry_at[order.name] = time.monotonic() + _RETRY_S
            if told:
                return
            detail = f"not renewed, good until {_moment(order.ends_at)}: {error.message}"
        self._report(Event("failed", order.name, detail, seconds))

    def close(self) -> None:
        self._orders.clear()
        self._retry_at.clear()

    def _fill(self, order: Order, stop: threading.Event) -> None:
        for files in order.files:
            files.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._run(order.name, order.command(), stop)
        order.installed()


def broker_order(broker: Broker, files: CertificateFiles, ttl_s: int, *, is_up: Callable[[], bool]) -> Order:
    """The broker's own. It is told to read a new one if the stack `is_up`; it reads what is there when it
    starts."""

    def command() -> list[str]:
        arguments = ["broker-certificate", "--folder", str(files.folder), "--ttl", str(ttl_s)]
        # As `vault-init` made the first one, which would not be good for other hosts.
        arguments += [word for host in LOCAL_HOSTS for word in ("--host", host)]
        return [*arguments, "--admin-servers", broker.admin_servers] if is_up() else arguments

    # Started again by the supervisor, it reads what is there.
    return Order(name="broker-certificate", files=(files,), command=command, give_up=broker.stop)


def servers_order(tls: TlsFolder, openbao: OpenBao, postgres: Postgres, ttl_s: int) -> Order:
    """Those of OpenBao, Postgres and the API, which all began with passing ones. The API reads its own."""

    def reload() -> None:
        openbao.reload()
        postgres.reload()

    def command() -> list[str]:
        if tls.prepare():
            # They had run out, as where the machine slept: nobody would take Vault's new ones from it.
            reload()
        return ["server-certificate", *SERVERS, "--folder", str(tls.path), "--ttl", str(ttl_s)]

    def installed() -> None:
        authority = tls.files(SERVERS[0]).ca_file.read_text("ascii")
        tls.trust(authority, keep=True)
        reload()
        for server, port in (("vault", openbao.port), ("postgres", postgres.port)):
            _wait_until_shown(server, port, tls)
        tls.trust(authority)

    return Order(
        name="server-certificate",
        files=tuple(tls.files(server) for server in SERVERS),
        command=command,
        installed=installed,
    )


def _wait_until_shown(server: str, port: int, tls: TlsFolder) -> None:
    """Raises StackError where the server does not show what is in its file, within some seconds."""
    wanted = tls.files(server).server_file.read_text("ascii")
    why: object = "it shows another one"
    for _ in tries(_SHOWN_WITHIN_S, longest_s=_POLL_S):
        try:
            shown = shown_certificate(
                "127.0.0.1", port, ca_file=str(tls.ca_file), postgres=server == "postgres"
            )
        except OSError as error:
            why = error
        else:
            if shown.pem.strip() in wanted:
                return
    raise StackError(f"{server} does not show its new certificate after {_SHOWN_WITHIN_S:g} s: {why}")


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
