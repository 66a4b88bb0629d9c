"""A pipeline set up by `bdlab` itself on servers of its own, and the commands run against it as processes."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx
import psycopg2
import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812 - named so by psycopg2

from bdlab.certificates import CertificateFiles
from bdlab.settings import VaultSettings
from bdlab.stack import OpenBao
from bdlab.vault.bootstrap import Plan
from bdlab.vault.bootstrap.admin_access import AdminAccess
from bdlab.vault.client import VaultClient
from tests import forked, tls
from tests.brokers import KIND, LocalBroker, new_broker
from tests.fix_servers import start_or_skip
from tests.tls import new_openbao, new_postgres

BDLAB = (sys.executable, "-m", "bdlab_cli")
STARTED_WITHIN_S = 60
ENDED_WITHIN_S = 60
#: Where a test is about a broker that does not acknowledge; for all others a slow machine has its time.
IMPATIENT_S = 4
IMPATIENT = {"BDLAB_KAFKA_DELIVERY_TIMEOUT_S": str(IMPATIENT_S)}
_LINES_SHOWN = 200
#: What `.env` says of a broker whose certificate Vault signs.
SECURED = {"BDLAB_KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "BDLAB_KAFKA_CA_FILE": "vault"}


class Daemon:
    """A `bdlab` daemon; `lines` gets each line of its standard error."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str], command: Sequence[str] = BDLAB) -> None:
        self._name = " ".join(("bdlab", *arguments))
        self.process: subprocess.Popen[str] | forked.Process
        if command == BDLAB and forked.can(arguments, environment):
            self.process = forked.started(arguments, environment)
        else:
            self.process = subprocess.Popen(
                [*command, *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        self.output: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.lines: list[str] = []
        self._seen = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read_output, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.put(line.strip())

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._seen:
                self.lines.append(line.rstrip())
                self._seen.notify_all()

    def wait_for(self, text: str, timeout_s: float = STARTED_WITHIN_S) -> str:
        """The first line on standard error that has `text`; fails the test where none comes."""

        def found() -> str | None:
            return next((line for line in self.lines if text in line), None)

        with self._seen:
            line = self._seen.wait_for(found, timeout_s)
        assert line, "\n".join([f"no line with {text!r} in:", *self.lines])
        return line

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of its JSON log that tell of this event."""
        with self._seen:
            found = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [line for line in found if line["event"] == name]

    def url(self) -> str:
        """What it prints once it serves."""
        try:
            return self.output.get(timeout=STARTED_WITHIN_S)
        except queue.Empty:
            pytest.fail("\n".join(["it does not serve:", *self.lines]))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code after the signal."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self, *, within_s: float = ENDED_WITHIN_S) -> int:
        """Its exit code; everything that it wrote is here then."""
        try:
            code = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"process {self.process.pid} does not end within {within_s:g} s")
        for reader in self._readers:
            reader.join(ENDED_WITHIN_S)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(ENDED_WITHIN_S)
        for reader in self._readers:
            reader.join(ENDED_WITHIN_S)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()
        told = self.lines[-_LINES_SHOWN:]
        print(f"{self._name}:", *told, sep="\n")  # noqa: T201 - pytest shows it beside a failure


class Pipeline:
    """Running servers with everything that `vault-init` and `migrate` do. Each may be stopped and started."""

    command: Sequence[str] = BDLAB

    def __init__(self, folder: Path, *, vault: type[OpenBao] = OpenBao, broker: LocalBroker | None = None) -> None:
        self.folder = folder
        self.vault = new_openbao(folder, vault)
        self.postgres = new_postgres(folder)
        self.broker = broker or new_broker(folder)

    @property
    def keys_file(self) -> Path:
        return self.folder / "vault-keys.json"

    def environment(self, **more: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("BDLAB_", "VAULT_"))}
        return kept | {
            "VAULT_ADDR": self.vault.address,
            "VAULT_CACERT": self.vault.ca_file,
            **tls.API,
            "BDLAB_VAULT_IDENTITY_DIR": str(self.folder / "identity"),
            "BDLAB_VAULT_KEYS_FILE": str(self.keys_file),
            "BDLAB_KAFKA_DELIVERY_TIMEOUT_S": "20",
            "BDLAB_KAFKA_SESSION_TIMEOUT_S": "4",
            "BDLAB_VAULT_POLL_S": "0.5",
            "BDLAB_LOG_FORMAT": "json",
            "COLUMNS": "200",
            **more,
        }

    def run(self, *arguments: str, stdin: bytes | str = "", **more: str) -> subprocess.CompletedProcess[str]:
        """Run one command to its end; `more` goes into its environment."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        if self.command == BDLAB and forked.can(arguments, self.environment(**more)):
            return forked.run(arguments, self.environment(**more), stdin=data)
        ended = subprocess.run(
            [*self.command, *arguments],
            env=self.environment(**more),
            input=data,
            capture_output=True,
            check=False,
            timeout=240,
        )
        return subprocess.CompletedProcess(ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode())

    @contextmanager
    def daemon(self, *arguments: str, within: Sequence[str] = (), **more: str) -> Iterator[Daemon]:
        """A running daemon; `within` is a command that runs another one in its place."""
        daemon = Daemon(arguments, self.environment(**more), (*within, *self.command))
        try:
            yield daemon
        finally:
            daemon.close()

    @contextmanager
    def serve(self, *arguments: str, within: Sequence[str] = (), **more: str) -> Iterator[tuple[Daemon, httpx.Client]]:
        """A running API on a free port, and a client of it."""
        with (
            self.daemon("serve", "--port", "0", *arguments, within=within, **more) as daemon,
            httpx.Client(base_url=daemon.url(), timeout=30, trust_env=False, verify=tls.VERIFY) as client,
        ):
            yield daemon, client

    def database(self) -> Connection:
        """A connection as the server's administrator, without transactions."""
        server = self.postgres.server
        connection = psycopg2.connect(
            host=server.host,
            port=server.port,
            dbname="bdlab",
            user=self.postgres.admin_user,
            password=self.postgres.admin_password.reveal(),
        )
        connection.autocommit = True
        return connection

    @contextmanager
    def root(self) -> Iterator[VaultClient]:
        """A root token made as `vault-init` makes it for a change, revoked afterwards."""
        vault = VaultSettings(
            address=self.vault.address,
            ca_file=self.vault.ca_file,
            identity_dir=str(self.folder / "identity"),
            timeout_s=5,
        )
        client = VaultClient(vault)
        access = AdminAccess(client, Plan(vault=vault, keys_file=self.keys_file))
        try:
            yield access.writer()
        finally:
            access.close()
            client.close()

    def announce_broker(self) -> None:
        done = self.run("migrate", "--announce-broker", **self.broker.client_environment)
        assert done.returncode == 0, done.stderr

    def set_up(self) -> None:
        self.vault_init(self.broker.client_environment)
        self.migrate()

    def vault_init(self, kafka: Mapping[str, str], *options: str, **more: str) -> str:
        """The first set-up, from a `.env` that says this of Kafka; what it prints."""
        env_file = self.folder / ".env"
        env_file.touch(0o600)
        values = {
            "POSTGRES_USER": self.postgres.admin_user,
            "POSTGRES_PASSWORD": self.postgres.admin_password.reveal(),
            "BDLAB_POSTGRES_HOST": self.postgres.server.host,
            "BDLAB_POSTGRES_PORT": str(self.postgres.server.port),
            "BDLAB_POSTGRES_SSLMODE": self.postgres.server.sslmode,
            "BDLAB_POSTGRES_CA_FILE": self.postgres.server.ca_file,
            **kafka,
        }
        env_file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        output = self._done("vault-init", "--env-file", str(env_file), *options, **more)
        env_file.unlink()
        return output

    def migrate(self, *options: str, **more: str) -> str:
        return self._done("migrate", *options, **more)

    def certify(self, folder: Path) -> None:
        """Have Vault's authority sign a certificate for brokers on this machine."""
        self._done("broker-certificate", "--folder", str(folder), "--host", "127.0.0.1")

    def _done(self, *arguments: str, **more: str) -> str:
        done = self.run(*arguments, **more)
        assert done.returncode == 0, f"{arguments[0]}: {done.stdout}{done.stderr}"
        return done.stdout


@contextmanager
def running_pipeline(
    folder: Path, *, vault: type[OpenBao] = OpenBao, broker: LocalBroker | None = None, kind: type[Pipeline] = Pipeline
) -> Iterator[Pipeline]:
    """A pipeline of its own in `folder`, set up. `broker` may run already, and is stopped all the same."""
    pipeline = kind(folder, vault=vault, broker=broker)
    with ExitStack() as stack:
        for server in (pipeline.vault, pipeline.postgres, pipeline.broker):
            stack.callback(server.stop)
            start_or_skip(server)
        pipeline.set_up()
        yield pipeline


class Secured(LocalBroker, Protocol):
    def __init__(self, data_dir: Path, *, certificates: CertificateFiles) -> None: ...

    @property
    def admin_servers(self) -> str: ...


S = TypeVar("S", bound=Secured)


@contextmanager
def secured_pipeline(folder: Path, kind: type[S]) -> Iterator[tuple[Pipeline, S]]:
    """A pipeline on brokers of this kind that ask for TLS and a login, set up as a person does.

    Vault signs the brokers' certificate before they start; `migrate` makes users and ACLs.
    """
    pipeline = Pipeline(folder)
    with ExitStack() as stack:
        for server in (pipeline.vault, pipeline.postgres):
            stack.callback(server.stop)
            start_or_skip(server)
        # No broker has an address yet: `migrate` writes theirs into Vault.
        pipeline.vault_init(SECURED | {"BDLAB_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"})
        tls = folder / "broker-tls"
        tls.mkdir()
        pipeline.certify(tls)
        cluster = kind(folder, certificates=CertificateFiles(tls))
        stack.callback(cluster.stop)
        pipeline.broker = start_or_skip(cluster)
        servers = ("--bootstrap-servers", cluster.bootstrap_servers, "--admin-servers", cluster.admin_servers)
        pipeline.migrate("--announce-broker", *servers)
        yield pipeline, cluster


@pytest.fixture(scope="session")
def _shared_pipeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    # A second broker of the session would be up to three JVMs more; one that keeps its log can be both.
    broker = None if KIND == "tansu" else request.getfixturevalue("broker")
    with running_pipeline(tmp_path_factory.mktemp("pipeline"), broker=broker) as pipeline:
        yield pipeline


@pytest.fixture
def pipeline(_shared_pipeline: Pipeline) -> Iterator[Pipeline]:
    """A pipeline that is set up, shared by tests; its servers run again after each."""
    yield _shared_pipeline
    for server in (_shared_pipeline.vault, _shared_pipeline.postgres):
        server.start()
    if not _shared_pipeline.broker.running:
        _shared_pipeline.broker.start()
        _shared_pipeline.announce_broker()
