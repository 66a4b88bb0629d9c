"""The certificates of a stack's servers: issued by Vault, and renewed in time while everything runs."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from bdlab.certificates import LOCAL_HOSTS, CertificateFiles
from bdlab.errors import StackError, StartInterrupted
from bdlab.health.remote import shown_certificate
from bdlab.retry import tries
from bdlab.stack.servers.openbao import OpenBao
from bdlab.stack.servers.postgres import Postgres
from bdlab.stack.servers.server import Broker
from bdlab.stack.supervisor import Event, Report
from bdlab.stack.tls import SERVERS, TlsFolder

_SHOWN_WITHIN_S = 10.0


class Renewal(msgspec.Struct, frozen=True, kw_only=True):
    """How a `bdlab` command with the arguments that `command` returns renews the certificates in `files`. `reload` has
    the servers read them, maybe once too often. `give_up` is called if a server does not read new ones."""

    name: str
    files: tuple[CertificateFiles, ...]
    command: Callable[[], Sequence[str]]
    reload: Callable[[], None] = lambda: None
    give_up: Callable[[], None] = lambda: None

    @property
    def due_at(self) -> float:
        return min(files.due_at for files in self.files)

    @property
    def good_until(self) -> str:
        ends_at = datetime.fromtimestamp(min(files.ends_at for files in self.files), UTC)
        return f"good until {ends_at:%Y-%m-%d %H:%M:%S} UTC"


@dataclass
class CertificateRenewer:
    """Renews certificates when two thirds of their life are over. `run` runs a `bdlab` command: its name, its
    arguments, and what may interrupt it. `renewals` are those that `renew_due` looks after."""

    run: Callable[[str, Sequence[str], threading.Event | None], object]
    report: Report
    renewals: list[Renewal] = field(default_factory=list)
    _retry_at: dict[str, float] = field(default_factory=dict)

    def issue(self, renewal: Renewal, stop: threading.Event) -> None:
        """Get these certificates for the first time, and have `renew_due` renew them. Raises StackError."""
        self._renew(renewal, stop)
        self.renewals.append(renewal)

    def renew_due(self, stop: threading.Event) -> None:
        """Renew what is due. A renewal that fails is reported, and tried again after some seconds."""
        for renewal in self.renewals:
            retry_at, began = self._retry_at.get(renewal.name), time.monotonic()
            if time.time() < renewal.due_at if retry_at is None else began < retry_at:
                continue
            try:
                self._renew(renewal, stop)
            except StartInterrupted:
                return
            except StackError as error:
                self._failed(renewal, error, time.monotonic() - began)
            else:
                self._retry_at.pop(renewal.name, None)
                self.report(Event("notice", renewal.name, f"renewed, {renewal.good_until}", time.monotonic() - began))

    def _failed(self, renewal: Renewal, error: StackError, seconds: float) -> None:
        if time.time() < renewal.due_at:
            self._retry_at.pop(renewal.name, None)
            detail = f"renewed, and not read by the running server: {error.message}"
            renewal.give_up()
        else:
            told, self._retry_at[renewal.name] = renewal.name in self._retry_at, time.monotonic() + 5.0
            if told:
                return
            detail = f"not renewed, {renewal.good_until}: {error.message}"
        self.report(Event("failed", renewal.name, detail, seconds))

    def _renew(self, renewal: Renewal, stop: threading.Event) -> None:
        for files in renewal.files:
            files.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.run(renewal.name, renewal.command(), stop)
        renewal.reload()


def broker_renewal(broker: Broker, files: CertificateFiles, ttl_s: int, *, is_up: Callable[[], bool]) -> Renewal:
    """Return the renewal of the broker's certificate. The broker reads its files when it starts; if the stack `is_up`,
    the command has it read them again."""

    def command() -> list[str]:
        arguments = ["broker-certificate", "--folder", str(files.folder), "--ttl", str(ttl_s)]
        # The hosts of the certificate that `vault-init` made: one for other hosts would be replaced.
        arguments += [word for host in LOCAL_HOSTS for word in ("--host", host)]
        return [*arguments, "--admin-servers", broker.admin_servers] if is_up() else arguments

    # The supervisor starts it again, and then it reads what is there.
    return Renewal(name="broker-certificate", files=(files,), command=command, give_up=broker.stop)


def servers_renewal(tls: TlsFolder, openbao: OpenBao, postgres: Postgres, ttl_s: int) -> Renewal:
    """Return the renewal of the certificates of OpenBao, Postgres and the API, which rereads its own."""

    def reload_servers() -> None:
        openbao.reload()
        postgres.reload()

    def command() -> list[str]:
        if tls.prepare():
            # They had expired, for example while the machine slept: no client would trust Vault any more.
            reload_servers()
        return ["server-certificate", *SERVERS, "--folder", str(tls.path), "--ttl", str(ttl_s)]

    def reload() -> None:
        ca_pem = tls.files(SERVERS[0]).ca_file.read_text("ascii")
        tls.trust(ca_pem, keep=True)
        reload_servers()
        for server, port in (("vault", openbao.port), ("postgres", postgres.port)):
            _wait_until_shown(server, port, tls)
        tls.trust(ca_pem)

    files = tuple(tls.files(server) for server in SERVERS)
    return Renewal(name="server-certificate", files=files, command=command, reload=reload)


def _wait_until_shown(server: str, port: int, tls: TlsFolder) -> None:
    wanted = tls.files(server).server_file.read_text("ascii")
    why: object = "it shows another one"
    for _ in tries(_SHOWN_WITHIN_S, longest_s=0.05):
        try:
            shown = shown_certificate("127.0.0.1", port, ca_file=str(tls.ca_file), postgres=server == "postgres")
            if shown.pem.strip() in wanted:
                return
        except OSError as error:
            why = error
    raise StackError(f"{server} does not show its new certificate after {_SHOWN_WITHIN_S:g} s: {why}")
