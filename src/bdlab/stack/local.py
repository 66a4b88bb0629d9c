"""The whole pipeline on one machine: servers, set-up, services, in order; watched; stopped in reverse."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from bdlab.certificates import SERVER_TTL_S, CertificateFiles
from bdlab.errors import StackError
from bdlab.settings import SHIPPED_MODEL
from bdlab.stack.brokers import BrokerKind, make_broker
from bdlab.stack.certificates import CertificateKeeper, broker_order, servers_order
from bdlab.stack.folder import DataFolder, Endpoints
from bdlab.stack.kafka import ApacheKafka
from bdlab.stack.losses import OpenLog, lost_events
from bdlab.stack.openbao import OpenBao
from bdlab.stack.ports import PortBook
from bdlab.stack.postgres import Postgres
from bdlab.stack.process import start_mark
from bdlab.stack.service import Outcome, Service, require, run_command, service_environment
from bdlab.stack.supervisor import Child, Event, Report, Supervisor
from bdlab.stack.tls import TlsFolder

_HTTP_PORT = 8000
_START_TIMEOUT_S = 90.0
_COMMAND_TIMEOUT_S = 120.0
_DRAIN_S = 10
_SESSION_TIMEOUT_S = 6.0
_TRIM_EVERY_S = 30.0
_RENEW_EVERY_S = 1.0


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
        http_port: int | None = None,
        broker: BrokerKind = "tansu",
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
        self._consumers = consumers
        self._wants_tls = tls
        self._tls: TlsFolder | None = None
        self._certificate_ttl_s = certificate_ttl_s
        self._model_path = model_path
        self._openbao = OpenBao(self.folder.path)
        self._postgres = Postgres(self.folder.path)
        self._broker_files = CertificateFiles(self.folder.tls / "kafka")
        self._broker = make_broker(broker, self.folder.path, self._broker_files.folder)
        self._supervisor = Supervisor(report)
        self._certificates = CertificateKeeper(self.run, report)
        self._services: list[Service] = []
        self._environment: dict[str, str] = {}
        self._endpoints: Endpoints | None = None
        self._log_open = OpenLog(self.folder.records / "open-log")

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
                self._drain()
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
        if self.folder.keys_lost and self._postgres.untouched:
            self._openbao.discard()
            self.folder.keys_file.unlink()
            detail = (
                "the first start was cut off before its keys were written down; it was empty, and begins anew"
            )
            self._report(Event("notice", self._openbao.name, detail))
        http_port = self._choose_http_port()
        consumers = self._choose_consumer_ports()
        self._start(self._openbao, stop)
        self._start(self._postgres, stop)
        kafka = self._broker if isinstance(self._broker, ApacheKafka) else None
        if kafka:
            # It cannot start without the certificate that Vault makes for it.
            kafka.reserve_port()
        else:
            self._start(self._broker, stop)
        self._environment = service_environment(self.folder, self._openbao.address)
        if self._model_path is not None:
            self._environment["BDLAB_MODEL_PATH"] = self._model_path or SHIPPED_MODEL
        self.folder.write_config(
            {
                "vault": {
                    "address": self._openbao.address,
                    "ca_file": self._openbao.ca_file,
                    "identity_dir": str(self.folder.identity_dir),
                },
                "http": {"host": "127.0.0.1", "port": http_port, **self._api_tls},
                # Also how long a consumer waits for its first partitions: half of it.
                "kafka": {"session_timeout_s": _SESSION_TIMEOUT_S},
                "sink": {"urls": ",".join(f"http://127.0.0.1:{port}" for port in consumers.values())},
            }
        )
        self._step("vault-init", lambda: self._set_up_vault(stop))
        self._certify(kafka, stop)
        if kafka:
            self._start(kafka, stop)
        former = self._note_log()
        self._step("migrate", lambda: self._announce_broker(stop))
        for name, port in consumers.items():
            arguments = ["consume", "--metrics-port", str(port)]
            self._serve(name, arguments, stop, port=port, ready_path="/health/live")
        api = self._serve("serve", ["serve"], stop, port=http_port, ready_path="/health/ready", tls=self._tls)
        if former:
            self._tell_losses(former, stop)
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
            admin_servers=self._admin_servers,
            model=_model_of(api),
            model_path="" if chosen == SHIPPED_MODEL else chosen,
        )
        if self._model_path is not None:
            self.folder.keep_model(self._model_path)
        self.folder.publish(self._endpoints)
        return self._endpoints

    @property
    def _api_tls(self) -> dict[str, str]:
        """The settings of the API, and of those who ask it."""
        if self._tls is None:
            return {}
        server_file = str(self._tls.files("api").server_file)
        ca_file = str(self._tls.ca_file)
        return {"tls_cert_file": server_file, "tls_key_file": server_file, "ca_file": ca_file}

    def _certify(self, kafka: ApacheKafka | None, stop: threading.Event) -> None:
        """Have the servers' certificates made by Vault, and looked after from now on."""
        orders = []
        if self._tls:
            orders.append(servers_order(self._tls, self._openbao, self._postgres, self._certificate_ttl_s))
        if kafka:
            orders.append(broker_order(kafka, self._broker_files, self._certificate_ttl_s))
        for order in orders:
            self._step(order.name, lambda order=order: self._certificates.obtain(order, stop))  # type: ignore[misc]

    def _choose_http_port(self) -> int:
        if self._http_port is not None:
            return self._ports.choose("http", self._http_port)
        first_choice = self._ports.kept("http") or _HTTP_PORT
        port = self._ports.choose("http", preferred=_HTTP_PORT)
        if port != first_choice:
            self._report(Event("notice", "http", f"port {first_choice} is in use; serving on port {port}"))
        return port

    def _choose_consumer_ports(self) -> dict[str, int]:
        names = [f"consume-{number}" for number in range(1, self._consumers + 1)]
        return {name: self._ports.choose(name) for name in names}

    def _start(self, server: Child, stop: threading.Event) -> None:
        after_restart = self._after_broker_restart if server is self._broker else None
        self._supervisor.add(server, after_restart)
        self._step(f"started {server.name}", lambda: server.start(_START_TIMEOUT_S, stop))

    def _serve(
        self,
        name: str,
        arguments: Sequence[str],
        stop: threading.Event,
        *,
        port: int,
        ready_path: str,
        tls: TlsFolder | None = None,
    ) -> Service:
        service = Service(
            name,
            [*self._command, *arguments],
            folder=self.folder,
            environment=self._environment,
            port=port,
            ready_path=ready_path,
            tls=tls,
        )
        self._services.append(service)
        self._start(service, stop)
        return service

    def _set_up_vault(self, stop: threading.Event) -> None:
        """Bring Vault to the finished state. The `.env` exists for as long as that takes, the first time."""
        arguments = ["vault-init", "--keys-file", str(self.folder.keys_file)]
        if isinstance(self._broker, ApacheKafka):
            arguments += ["--authority", "kafka"]
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
        by_vault = {"BDLAB_KAFKA_CA_FILE": "vault"} if isinstance(self._broker, ApacheKafka) else {}
        return {**self._broker.client_environment, **by_vault}

    @property
    def _admin_servers(self) -> str:
        """Where the broker takes its administrator; empty for one that knows none."""
        return self._broker.admin_servers if isinstance(self._broker, ApacheKafka) else ""

    def _announce_broker(self, stop: threading.Event) -> None:
        """Bring schema, topic, users and ACLs up to date, and put the broker's present address into Vault."""
        environment = self._broker_environment
        if self._admin_servers:
            environment["BDLAB_KAFKA_ADMIN_SERVERS"] = self._admin_servers
        self.run("migrate", ["migrate", "--announce-broker"], stop, environment=environment)

    def _after_broker_restart(self, stop: threading.Event) -> None:
        self._announce_broker(stop)
        if self._endpoints:
            self._endpoints = msgspec.structs.replace(
                self._endpoints,
                bootstrap_servers=self._broker.bootstrap_servers,
                admin_servers=self._admin_servers,
            )
            self.folder.publish(self._endpoints)
        if former := self._note_log():
            self._tell_losses(former, stop)

    def _note_log(self) -> str:
        """Note the broker's log where it is only in memory; one before it that was not stored to its end."""
        return "" if self._broker.keeps_log else self._log_open.swap(self._broker.cluster_id)

    def _tell_losses(self, former: str, stop: threading.Event) -> None:
        """Say what the log `former` took with it."""
        outcome = self.attempt("verify", ["verify", "--wait", str(_DRAIN_S), "--json"], stop)
        lost = lost_events(outcome.output, former)
        if lost is None:
            count = "whatever was on it is lost, for no consumer had seen it"
        elif lost:
            count = f"at least {lost:,} events that were not stored yet are lost (`bdlab verify` lists them)"
        else:
            count = "no event is known to be lost; those that no consumer had seen yet are not known"
        detail = f"the log {former} was only in memory and is gone; {count}"
        self._report(Event("notice", self._broker.name, detail))

    def _drain(self) -> None:
        began = time.monotonic()
        try:
            arguments = ["verify", "--wait", str(_DRAIN_S), "--json"]
            outcome = self.attempt("verify", arguments, timeout_s=_DRAIN_S + 20)
        except StackError as error:
            self._report(Event("failed", "drain", error.message, time.monotonic() - began))
            return
        seconds = time.monotonic() - began
        if outcome.code == 0:
            self._log_open.close()
            self._report(Event("done", "stored what was on the broker", seconds=seconds))
        else:
            self._report(Event("failed", "drain", f"not everything was stored:\n{outcome.tail}", seconds))

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
            self._report(Event("failed", name, error.message, time.monotonic() - began))
            raise
        self._report(Event("done", name, seconds=time.monotonic() - began))


def _model_of(api: Service) -> str:
    """The name of the model that it predicts with; empty where it does not say."""
    try:
        return str(msgspec.json.decode(api.ask("/health")[1])["model"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""
