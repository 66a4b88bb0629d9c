"""The whole pipeline on one machine: servers, set-up, services, in order; watched; stopped in reverse."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from bdlab.certificates import SERVER_TTL_S, CertificateFiles
from bdlab.errors import StackError, StartInterrupted
from bdlab.settings import SHIPPED_MODEL
from bdlab.stack.brokers import make_broker
from bdlab.stack.certificate_renewal import CertificateKeeper, broker_order, servers_order
from bdlab.stack.folder import BrokerKind, DataFolder, Endpoints
from bdlab.stack.losses import MemoryLog
from bdlab.stack.servers.openbao import OpenBao
from bdlab.stack.servers.ports import PortBook
from bdlab.stack.servers.postgres import Postgres
from bdlab.stack.servers.process import start_mark
from bdlab.stack.service import Outcome, Service, require, run_command, service_environment
from bdlab.stack.side_by_side import SideBySide
from bdlab.stack.supervisor import Child, Event, Report, Supervisor
from bdlab.stack.tls import TlsFolder

_HTTP_PORT = 8000
_START_TIMEOUT_S = 90.0
_COMMAND_TIMEOUT_S = 120.0
_SESSION_TIMEOUT_S = 6.0
_TRIM_EVERY_S, _RENEW_EVERY_S, _LOOK_AGAIN_S = 30.0, 1.0, 0.02


class LocalStack:
    """OpenBao, Postgres, a broker, and the `bdlab` services over them, with all of their data in one folder.

    `command` is the command line that runs `bdlab`, without arguments. `http_port` None takes 8000 or, where
    that is taken, a free one. `report` is told of each step. Certificates are good for `certificate_ttl_s`
    seconds, and renewed when two thirds of that are over. `tls` secures OpenBao, Postgres and the API, too;
    None is as the folder was before, and without in a new one. `model_path` is kept with the folder, where
    empty is the shipped model; None is as the environment says.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        command: Sequence[str],
        report: Report,
        broker: BrokerKind,
        http_port: int | None = None,
        consumers: int = 1,
        tls: bool | None = None,
        certificate_ttl_s: int = SERVER_TTL_S,
        model_path: str | None = None,
    ) -> None:
        self.folder = DataFolder(data_dir)
        self._ports = PortBook(self.folder.path / "ports.json")
        self._command = tuple(command)
        self._report = report
        self._http_port = http_port
        self._kind = broker
        self._consumers = consumers
        self._wants_tls = tls
        self._tls: TlsFolder | None = None
        self._certificate_ttl_s = certificate_ttl_s
        self._model_path = model_path
        self._openbao = OpenBao(self.folder.path)
        self._postgres = Postgres(self.folder.path)
        self._broker_files = CertificateFiles(self.folder.tls / "kafka")
        self._broker = make_broker(broker, self.folder.path, self._broker_files)
        self._supervisor = Supervisor(report)
        self._certificates = CertificateKeeper(self.run, report)
        self._services: list[Service] = []
        self._environment: dict[str, str] = {}
        self._endpoints: Endpoints | None = None
        self._memory_log = MemoryLog(
            self.folder.records / "open-log", self._broker.name, self._verify, report
        )

    def open(self, stop: threading.Event) -> Endpoints:
        """Bring everything up.

        Raises StackError, and StartInterrupted where `stop` was set; what was started is then stopped again.
        """
        self.folder.__enter__()
        try:
            return self._open(stop)
        except BaseException:
            self.close(drain=False)
            raise

    def watch(self, stop: threading.Event) -> None:
        """Restart what dies, until `stop` is set."""
        self._supervisor.watch(
            stop,
            {_TRIM_EVERY_S: self._trim_logs, _RENEW_EVERY_S: lambda: self._certificates.look_after(stop)},
        )

    def close(self, *, drain: bool = True) -> None:
        """Stop everything in reverse order.

        With `drain` and a broker that forgets, the consumers first get some seconds to store what is on it.
        """
        try:
            if drain and self._services and not self._broker.keeps_log:
                self._supervisor.stop_last()  # serve: nothing new comes in
                self._memory_log.drain()
        finally:
            self._supervisor.stop_all()
        self._services.clear()
        self._certificates.close()
        self.folder.__exit__()

    def log_file(self, name: str) -> Path:
        """The log of a server, a service or a command."""
        return self.folder.logs / f"{name}.log"

    def attempt(
        self,
        name: str,
        arguments: Sequence[str],
        stop: threading.Event | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        timeout_s: float = _COMMAND_TIMEOUT_S,
    ) -> Outcome:
        """Run a `bdlab` command in the stack's environment, with `environment` on top.

        Raises StackError where it does not end in time, StartInterrupted where `stop` was set.
        """
        return run_command(
            name,
            [*self._command, *arguments],
            folder=self.folder,
            environment={**self._environment, **(environment or {})},
            timeout_s=timeout_s,
            stop=stop,
        )

    def run(
        self,
        name: str,
        arguments: Sequence[str],
        stop: threading.Event | None = None,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> Outcome:
        """The same; a command that fails raises StackError, with the end of its log."""
        outcome = self.attempt(name, arguments, stop, environment=environment)
        require(name, outcome, self.log_file(name))
        return outcome

    def _open(self, stop: threading.Event) -> Endpoints:
        self.folder.check_place()
        if self.folder.has_tls(self._wants_tls):
            self._tls = self._openbao.tls = self._postgres.tls = TlsFolder(self.folder.tls)
            self._tls.prepare()
        self.folder.keep_broker(self._kind)
        if self.folder.keys_lost and self._postgres.untouched:
            self._openbao.discard()
            self.folder.keys_file.unlink()
            detail = "the first start was cut off before its keys were written; it was empty, and begins anew"
            self._report(Event("notice", self._openbao.name, detail))
        http_port = self._choose_http_port()
        consumers = self._choose_consumer_ports()
        self._supervisor.add(self._openbao)
        self._supervisor.add(self._postgres)
        self._supervisor.add(self._broker, self._after_broker_restart)
        self._bring_up(http_port, consumers, stop)
        former = self._memory_log.begin(self._broker.cluster_id)
        api = self._serve(http_port, consumers, stop)
        if former:
            self._memory_log.tell_losses(former, stop)
        chosen = self._environment.get("BDLAB_MODEL_PATH", "")
        self._endpoints = Endpoints(
            pid=os.getpid(),
            start_mark=start_mark(os.getpid()),
            http_url=f"{'https' if self._tls else 'http'}://127.0.0.1:{http_port}",
            ca_file=self._openbao.ca_file,
            vault_address=self._openbao.address,
            bootstrap_servers=self._broker.bootstrap_servers,
            postgres_host=self._postgres.server.host,
            postgres_port=self._postgres.server.port,
            admin_servers=self._broker.admin_servers,
            model=_model_of(api),
            model_path="" if chosen == SHIPPED_MODEL else chosen,
        )
        if self._model_path is not None:
            self.folder.keep_model(self._model_path)
        self.folder.publish(self._endpoints)
        return self._endpoints

    def _bring_up(self, http_port: int, consumers: Mapping[str, int], stop: threading.Event) -> None:
        """Start the servers and set them up, each thing as soon as what it needs is there."""
        order = None
        if self._broker.certificates:
            order = broker_order(
                self._broker,
                self._broker_files,
                self._certificate_ttl_s,
                is_up=lambda: self._endpoints is not None,
            )
            self._certificates.keep(order)
        with SideBySide(stop) as steps:
            vault_up = steps.begin(lambda end: self._start(self._openbao, end))
            database_up = steps.begin(lambda end: self._start(self._postgres, end))
            laid_out = steps.begin(lambda _end: self._broker.prepare())

            def set_up(end: threading.Event) -> None:
                vault_up.result()
                self._tell_services(http_port, consumers)
                database_up.result()
                laid_out.result()
                self._step("vault-init", lambda: self._set_up_vault(end))
                if self._tls:
                    servers = servers_order(self._tls, self._openbao, self._postgres, self._certificate_ttl_s)
                    self._step(servers.name, lambda: self._certificates.obtain(servers, end))

            def start_broker(end: threading.Event) -> None:
                laid_out.result()
                # One that an earlier run has left is enough to begin with; vault-init makes it early.
                while order and order.due_at <= time.time() and not set_up_done.done():
                    if end.wait(_LOOK_AGAIN_S):
                        break
                if end.is_set() or set_up_done.done():
                    set_up_done.result()
                shown = self._broker_files.ends_at
                self._start(self._broker, end)
                set_up_done.result()
                if shown != self._broker_files.ends_at:  # Vault is another authority than it was
                    self._broker.stop()
                    self._start(self._broker, end)

            def migrate(end: threading.Event) -> None:
                set_up_done.result()
                self._step("migrate", lambda: self._announce_broker(end))

            set_up_done = steps.begin(set_up)
            steps.begin(start_broker)
            steps.begin(migrate)

    def _tell_services(self, http_port: int, consumers: Mapping[str, int]) -> None:
        """Write down what the services and the commands read: where Vault is, and the rest by its word."""
        self._environment = service_environment(self.folder, self._openbao.address)
        if self._model_path is not None:
            self._environment["BDLAB_MODEL_PATH"] = self._model_path or SHIPPED_MODEL
        scheme, tls = "https" if self._tls else "http", self._api_tls
        self.folder.write_config(
            {
                "vault": {
                    "address": self._openbao.address,
                    "ca_file": self._openbao.ca_file,
                    "identity_dir": str(self.folder.identity_dir),
                },
                "http": {"host": "127.0.0.1", "port": http_port, **tls},
                # Also how long a consumer waits for its first partitions: half of it.
                "kafka": {"session_timeout_s": _SESSION_TIMEOUT_S},
                "sink": {
                    "urls": ",".join(f"{scheme}://127.0.0.1:{port}" for port in consumers.values()),
                    **{name: file for name, file in tls.items() if name != "ca_file"},
                },
            }
        )

    def _serve(self, http_port: int, consumers: Mapping[str, int], stop: threading.Event) -> Service:
        """Start the consumers and the API, side by side; the API."""
        for name, port in consumers.items():
            self._add_service(name, ["consume", "--metrics-port", str(port)], port, "/health/live")
        api = self._add_service("serve", ["serve"], http_port, "/health/ready")
        with SideBySide(stop) as steps:
            for service in self._services:
                steps.begin(lambda end, service=service: self._start(service, end))  # type: ignore[misc]
        return api

    def _add_service(self, name: str, arguments: Sequence[str], port: int, ready_path: str) -> Service:
        service = Service(
            name,
            [*self._command, *arguments],
            folder=self.folder,
            environment=self._environment,
            port=port,
            ready_path=ready_path,
            tls=self._tls,
        )
        self._services.append(service)
        self._supervisor.add(service, restart_timeout_s=30.0)
        return service

    @property
    def _api_tls(self) -> dict[str, str]:
        """The settings of the API and its clients; the consumers serve the same certificate."""
        if self._tls is None:
            return {}
        server_file = str(self._tls.files("api").server_file)
        ca_file = str(self._tls.ca_file)
        return {"tls_cert_file": server_file, "tls_key_file": server_file, "ca_file": ca_file}

    def _choose_http_port(self) -> int:
        if self._http_port is not None:
            return self._ports.choose("http", self._http_port)
        first_choice = self._ports.kept("http") or _HTTP_PORT
        port = self._ports.choose("http", preferred=_HTTP_PORT)
        if port != first_choice:
            self._report(Event("notice", "http", f"port {first_choice} is in use; serving on port {port}"))
        return port

    def _choose_consumer_ports(self) -> dict[str, int]:
        names = (f"consume-{number + 1}" for number in range(self._consumers))
        return {name: self._ports.choose(name) for name in names}

    def _start(self, child: Child, stop: threading.Event) -> None:
        self._step(f"started {child.name}", lambda: child.start(_START_TIMEOUT_S, stop))

    def _set_up_vault(self, stop: threading.Event) -> None:
        """Bring Vault to the finished state. The `.env` exists for as long as that takes, the first time."""
        arguments = ["vault-init", "--keys-file", str(self.folder.keys_file)]
        if self._broker.certificates:
            self._broker_files.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            arguments += ["--authority", "kafka", "--broker-folder", str(self._broker_files.folder)]
            arguments += ["--broker-ttl", str(self._certificate_ttl_s)]
        if self._tls:
            arguments += ["--authority", "servers"]
        if self._postgres.knows_admin_password:
            server = self._postgres.lasting_server
            self.folder.write_env(
                {
                    "POSTGRES_USER": self._postgres.admin_user,
                    "POSTGRES_PASSWORD": self._postgres.admin_password.reveal(),
                    "BDLAB_POSTGRES_HOST": server.host,
                    "BDLAB_POSTGRES_PORT": str(server.port),
                    "BDLAB_POSTGRES_DBNAME": server.dbname,
                    "BDLAB_POSTGRES_SSLMODE": server.sslmode,
                    "BDLAB_POSTGRES_CA_FILE": "vault" if self._tls else "",
                    "POSTGRES_CA_FILE": server.ca_file,
                    **self._broker_environment,
                }
            )
            arguments += ["--env-file", str(self.folder.env_file)]
        try:
            self.run("vault-init", arguments, stop)
        finally:
            self.folder.env_file.unlink(missing_ok=True)
        self._postgres.forget_admin_password()
        self.folder.settle()

    @property
    def _broker_environment(self) -> dict[str, str]:
        """How clients reach the broker, and by whose certificate they know it."""
        by_vault = {"BDLAB_KAFKA_CA_FILE": "vault"} if self._broker.certificates else {}
        return {**self._broker.client_environment, **by_vault}

    def _announce_broker(self, stop: threading.Event) -> None:
        """Bring schema, topic, users and ACLs up to date, and put the broker's present address into Vault."""
        environment = self._broker_environment
        if self._broker.admin_servers:
            environment["BDLAB_KAFKA_ADMIN_SERVERS"] = self._broker.admin_servers
        self.run("migrate", ["migrate", "--announce-broker"], stop, environment=environment)

    def _after_broker_restart(self, stop: threading.Event) -> None:
        self._announce_broker(stop)
        if self._endpoints:
            self._endpoints = msgspec.structs.replace(
                self._endpoints,
                bootstrap_servers=self._broker.bootstrap_servers,
                admin_servers=self._broker.admin_servers,
            )
            self.folder.publish(self._endpoints)
        if former := self._memory_log.begin(self._broker.cluster_id):
            self._memory_log.tell_losses(former, stop)

    def _verify(self, wait_s: int, stop: threading.Event | None) -> Outcome:
        arguments = ["verify", "--wait", str(wait_s), "--json"]
        return self.attempt("verify", arguments, stop, timeout_s=wait_s + _COMMAND_TIMEOUT_S)

    def _trim_logs(self) -> None:
        self._openbao.rotate_audit_log()
        for service in self._services:
            service.trim_log()

    def _step(self, name: str, work: Callable[[], None]) -> None:
        began = time.monotonic()
        self._report(Event("began", name))
        try:
            work()
        except StackError as error:
            if not isinstance(error, StartInterrupted):  # its reason is told by whoever asked for it
                self._report(Event("failed", name, error.message, time.monotonic() - began))
            raise
        self._report(Event("done", name, seconds=time.monotonic() - began))


def _model_of(api: Service) -> str:
    """The name of the model that it predicts with; empty where it does not say."""
    try:
        return str(msgspec.json.decode(api.ask("/health")[1])["model"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""
