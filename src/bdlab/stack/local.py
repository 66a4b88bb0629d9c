"""The whole pipeline on one machine: servers, set-up and services, started, watched and stopped in order."""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path

import msgspec

from bdlab.certificates import SERVER_TTL_S, CertificateFiles
from bdlab.errors import StackError, StartInterrupted
from bdlab.services import BDLAB, Deployment
from bdlab.settings import SHIPPED_MODEL
from bdlab.stack.brokers import Tansu, VolatileLog
from bdlab.stack.certificate_renewal import CertificateRenewer, broker_renewal, servers_renewal
from bdlab.stack.folder import BrokerKind, DataFolder, Endpoints
from bdlab.stack.servers.kafka import ApacheKafka
from bdlab.stack.servers.openbao import OpenBao
from bdlab.stack.servers.postgres import Postgres
from bdlab.stack.servers.process import ManagedProcess, start_mark
from bdlab.stack.servers.server import Broker
from bdlab.stack.service import COMMAND_TIMEOUT_S, CommandResult, Commands, Service, service_environment
from bdlab.stack.supervisor import Event, Report, Supervisor
from bdlab.stack.tls import TlsFolder
from bdlab.tasks import TaskGroup

_PORTS = {"http": 8000, "console": 8001}


@dataclass
class LocalStack:
    """OpenBao, Postgres, a broker, and the `bdlab` services over them, with all of their data in one folder. `command`
    is the command line that runs `bdlab`, without arguments. `report` gets each step. `http_port` None is 8000 or, if
    that is taken, a free port; `console_port` likewise, with 8001. Certificates are valid for `certificate_ttl_s`
    seconds. `tls` secures OpenBao, Postgres and the API, too; None keeps what the folder has, which is off in a new
    one. `model_path` is kept with the folder, "" is what is promoted, or else the shipped model; None takes the
    environment's. A new folder keeps `deployment`."""

    data_dir: Path
    _: KW_ONLY
    command: Sequence[str]
    report: Report
    broker: BrokerKind
    http_port: int | None = None
    with_console: bool = True
    console_port: int | None = None
    consumers: int = 1
    tls: bool | None = None
    certificate_ttl_s: int = SERVER_TTL_S
    model_path: str | None = None
    deployment: Deployment = BDLAB

    def __post_init__(self) -> None:
        self.folder = DataFolder(self.data_dir)
        #: Runs `bdlab` commands in the stack's environment.
        self.commands = Commands(self.command, self.folder)
        self._tls: TlsFolder | None = None
        self._openbao, self._postgres = OpenBao(self.folder.path), Postgres(self.folder.path)
        self._broker_files = CertificateFiles(self.folder.tls / "kafka")
        self._broker: Broker = Tansu(self.folder.path)
        if self.broker == "kafka":
            self._broker = ApacheKafka(self.folder.path, certificates=self._broker_files)
        self._supervisor = Supervisor(self.report)
        self._certificates = CertificateRenewer(self.commands.run, self.report)
        self._services: list[Service] = []
        #: Where the consumers tell their health and metrics, once they are started.
        self.consumer_urls: list[str] = []
        self._endpoints: Endpoints | None = None
        self._console_port = 0  # if there is none
        self._volatile_log = VolatileLog(self.folder.records / "open-log", self._broker.name, self._verify, self.report)
        self._opened, self._drains = ExitStack(), False

    def open(self, stop: threading.Event) -> Endpoints:
        """Bring everything up, or stop it again and raise StackError, StartInterrupted if `stop` was set."""
        with ExitStack() as opened:
            opened.enter_context(self.folder)
            opened.callback(self._supervisor.stop_all)
            self._endpoints = self._open(stop)
            self.folder.publish(self._endpoints)
            self._opened = opened.pop_all()
        return self._endpoints

    def watch(self, stop: threading.Event) -> None:
        """Restart what dies, until `stop` is set."""
        self._supervisor.watch(stop, {30.0: self._trim_logs, 1.0: lambda: self._certificates.renew_due(stop)})

    def close(self, *, drain: bool = True) -> None:
        """Stop everything in reverse order. `drain` lets consumers first store what a memory-only broker has."""
        self._drains = drain and not self._broker.keeps_log
        self._opened.close()

    def log_file(self, name: str) -> Path:
        """Return the log of a server, a service or a command."""
        return self.folder.logs / f"{name}.log"

    def _open(self, stop: threading.Event) -> Endpoints:
        self.folder.check_location()
        self.folder.keep_deployment(self.deployment)
        if self.folder.has_tls(self.tls):
            self._tls = self._openbao.tls = self._postgres.tls = TlsFolder(self.folder.tls)
            self._tls.prepare()
        self.folder.keep_broker(self.broker)
        if self.folder.keys_lost and self._postgres.untouched:
            self._openbao.discard()
            self.folder.keys_file.unlink()
            detail = "the first start was cut off before its keys were written; it was empty, and begins anew"
            self.report(Event("notice", self._openbao.name, detail))
        http_port = self._choose_port("http", self.http_port)
        self._console_port = self._choose_port("console", self.console_port) if self.with_console else 0
        names = (f"consume-{number + 1}" for number in range(self.consumers))
        consumers = {name: self._openbao.ports.choose(name) for name in names}
        self._supervisor.add(self._openbao)
        self._supervisor.add(self._postgres)
        self._supervisor.add(self._broker, self._after_broker_restart)
        self._start_servers(http_port, consumers, stop)
        former = self._volatile_log.opened(self._broker.cluster_id)
        api = self._serve(http_port, consumers, stop)
        if former:
            self._volatile_log.report_loss(former, stop)
        chosen = self.commands.environment.get("BDLAB_MODEL_PATH", "")
        health = msgspec.json.decode(api.get("/health")[1] or b"{}", type=dict[str, object])
        if self.model_path is not None:
            self.folder.keep_model(self.model_path)
        origin = f"{'https' if self._tls else 'http'}://127.0.0.1"
        return Endpoints(
            pid=os.getpid(),
            start_mark=start_mark(os.getpid()),
            http_url=f"{origin}:{http_port}",
            console_url=f"{origin}:{self._console_port}" if self._console_port else "",
            ca_file=self._openbao.ca_file,
            vault_address=self._openbao.address,
            bootstrap_servers=self._broker.bootstrap_servers,
            postgres_host=self._postgres.server.host,
            postgres_port=self._postgres.server.port,
            admin_servers=self._broker.admin_servers,
            model=str(health.get("model", "")),
            model_path="" if chosen == SHIPPED_MODEL else chosen,
        )

    def _choose_port(self, name: str, wanted: int | None) -> int:
        ports = self._openbao.ports
        first_choice = wanted or ports.kept.get(name) or _PORTS[name]
        port = ports.choose(name, wanted, preferred=_PORTS[name])
        if port != first_choice:
            self.report(Event("notice", name, f"port {first_choice} is in use; serving on port {port}"))
        return port

    def _start_servers(self, http_port: int, consumers: Mapping[str, int], stop: threading.Event) -> None:
        """Start the servers and set them up, each as soon as what it needs is there."""
        renewal, ttl_s = None, self.certificate_ttl_s
        if files := self._broker.certificates:
            renewal = broker_renewal(self._broker, files, ttl_s, is_up=lambda: self._endpoints is not None)
            self._certificates.renewals.append(renewal)
        with TaskGroup(stop) as group:
            vault_up = group.create_task(lambda end: self._start(self._openbao, end))
            database_up = group.create_task(lambda end: self._start(self._postgres, end))
            broker_prepared = group.create_task(lambda _end: self._broker.prepare())

            def set_up(end: threading.Event) -> None:
                vault_up.result()
                self._configure_services(http_port, consumers)
                database_up.result()
                broker_prepared.result()
                self._step("vault-init", lambda: self._set_up_vault(end))
                if self._tls:
                    servers = servers_renewal(self._tls, self._openbao, self._postgres, ttl_s)
                    self._step(servers.name, lambda: self._certificates.issue(servers, end))

            def start_broker(end: threading.Event) -> None:
                broker_prepared.result()
                # `vault-init` writes the first certificate early; one of an earlier run is there at once.
                while renewal and renewal.due_at <= time.time() and not (set_up_done.done() or end.wait(0.02)):
                    pass
                if end.is_set() or set_up_done.done():
                    set_up_done.result()
                ends_at = self._broker_files.ends_at
                self._start(self._broker, end)
                set_up_done.result()
                if ends_at != self._broker_files.ends_at:  # replaced meanwhile: by a Vault with another CA
                    self._broker.stop()
                    self._start(self._broker, end)

            def migrate(end: threading.Event) -> None:
                set_up_done.result()
                self._step("migrate", lambda: self._announce_broker(end))

            set_up_done = group.create_task(set_up)
            group.create_task(start_broker)
            group.create_task(migrate)

    def _configure_services(self, http_port: int, consumers: Mapping[str, int]) -> None:
        """Write what the services and the commands read: where Vault is, which tells them the rest."""
        chosen = {} if self.model_path is None else {"BDLAB_MODEL_PATH": self.model_path}
        self.commands.environment = service_environment(self.folder, self._openbao.address) | chosen
        self.consumer_urls = [f"{'https' if self._tls else 'http'}://127.0.0.1:{port}" for port in consumers.values()]
        # The consumers and the console serve the same certificate as the API.
        served, authority = {}, {"ca_file": self._openbao.ca_file}
        if self._tls:
            served = dict.fromkeys(("tls_cert_file", "tls_key_file"), str(self._tls.files("api").server_file))
        sections: dict[str, dict[str, str | int | float]] = {
            "vault": {"address": self._openbao.address, "identity_dir": str(self.folder.identity_dir), **authority},
            "http": {"host": "127.0.0.1", "port": http_port, **served, **(authority if self._tls else {})},
            "console": {"host": "127.0.0.1", "port": self._console_port or _PORTS["console"], **served},
            # A consumer waits half of it for its first partitions.
            "kafka": {"session_timeout_s": 6.0},
            "model": {"registry": str(self.folder.registry), "cache_dir": str(self.folder.model_cache)},
            "sink": {"urls": ",".join(self.consumer_urls), **served},
        }
        self.folder.write_config(sections)

    def _serve(self, http_port: int, consumers: Mapping[str, int], stop: threading.Event) -> Service:
        """Start the consumers, the API and the console at the same time; return the API."""
        make = partial(Service, commands=self.commands, tls=self._tls)
        for name, port in consumers.items():
            service = make(name, ["consume", "--metrics-port", str(port)], port=port, ready_path="/health/live")
            self._services.append(service)
            self._supervisor.add(service, restart_timeout_s=30.0)
        # When the API takes nothing new, and consumers still run.
        self._supervisor.before_stop(lambda: self._volatile_log.drain() if self._drains else None)
        api = make("serve", ["serve"], port=http_port, ready_path="/health/ready")
        self._services.append(api)
        self._supervisor.add(api, restart_timeout_s=30.0)
        with TaskGroup(stop) as group:
            for service in self._services:
                group.create_task(partial(self._start, service))
            if self._console_port:
                console = make("console", ["console"], port=self._console_port, ready_path="/health/live")
                self._services.append(console)
                self._supervisor.add(console, restart_timeout_s=30.0)
                group.create_task(partial(self._start_console, console))
        return api

    def _start_console(self, console: Service, stop: threading.Event) -> None:
        """Start the console. If that fails, the pipeline runs without it."""
        try:
            self._start(console, stop)
        except StartInterrupted:
            raise
        except StackError:
            self._supervisor.forget(console)
            self._console_port = 0
            self.report(Event("notice", console.name, f"the pipeline runs without it; its log is {console.log_file}"))

    def _start(self, child: ManagedProcess, stop: threading.Event) -> None:
        self._step(f"started {child.name}", lambda: child.start(90.0, stop))

    def _set_up_vault(self, stop: threading.Event) -> None:
        """Run `vault-init`. The `.env` is there for as long as that takes, the first time."""
        arguments = ["vault-init", "--keys-file", str(self.folder.keys_file)]
        if self._broker.certificates:
            self._broker_files.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            arguments += ["--authority", "kafka", "--broker-folder", str(self._broker_files.folder)]
            arguments += ["--broker-ttl", str(self.certificate_ttl_s)]
        if self._tls:
            arguments += ["--authority", "servers"]
        if self._postgres.password_file.exists():
            server, password = self._postgres.lasting_server, self._postgres.admin_password
            admin = {"POSTGRES_USER": self._postgres.admin_user, "POSTGRES_PASSWORD": password.reveal()}
            fields = ("host", "port", "dbname", "sslmode")
            address = {f"BDLAB_POSTGRES_{field}".upper(): str(getattr(server, field)) for field in fields}
            authority = {"BDLAB_POSTGRES_CA_FILE": "vault" if self._tls else "", "POSTGRES_CA_FILE": server.ca_file}
            self.folder.write_env({**admin, **address, **authority, **self._broker.client_environment})
            arguments += ["--env-file", str(self.folder.env_file)]
        try:
            self.commands.run("vault-init", arguments, stop)
        finally:
            self.folder.env_file.unlink(missing_ok=True)
        self._postgres.forget_admin_password()
        self.folder.record_location()

    def _announce_broker(self, stop: threading.Event) -> None:
        """Bring schema, topic, users and ACLs up to date, and put the broker's present address into Vault."""
        environment = self._broker.client_environment
        if self._broker.admin_servers:
            environment["BDLAB_KAFKA_ADMIN_SERVERS"] = self._broker.admin_servers
        self.commands.run("migrate", ["migrate", "--announce-broker"], stop, environment=environment)

    def _after_broker_restart(self, stop: threading.Event) -> None:
        self._announce_broker(stop)
        if self._endpoints:
            clients, admin = self._broker.bootstrap_servers, self._broker.admin_servers
            self._endpoints = msgspec.structs.replace(self._endpoints, bootstrap_servers=clients, admin_servers=admin)
            self.folder.publish(self._endpoints)
        if former := self._volatile_log.opened(self._broker.cluster_id):
            self._volatile_log.report_loss(former, stop)

    def _verify(self, wait_s: int, stop: threading.Event | None) -> CommandResult:
        arguments = ["verify", "--wait", str(wait_s), "--json"]
        return self.commands.run("verify", arguments, stop, timeout_s=wait_s + COMMAND_TIMEOUT_S, check=False)

    def _trim_logs(self) -> None:
        self._openbao.rotate_audit_log()
        for service in self._services:
            service.trim_log()

    def _step(self, name: str, work: Callable[[], None]) -> None:
        began = time.monotonic()
        self.report(Event("began", name))
        try:
            work()
        except StackError as error:
            if not isinstance(error, StartInterrupted):  # whoever asked for that reports it
                self.report(Event("failed", name, error.message, time.monotonic() - began))
            raise
        self.report(Event("done", name, seconds=time.monotonic() - began))
