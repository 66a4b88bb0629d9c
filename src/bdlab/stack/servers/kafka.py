"""Apache Kafka as a local server: one broker that is its own KRaft controller, its log kept on disk."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import uuid
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from bdlab.errors import ServerNotStarted
from bdlab.files import write_private
from bdlab.stack.servers import java
from bdlab.stack.servers.java import Distribution
from bdlab.stack.servers.kafka_config import (
    CertificateFolder,
    Certificates,
    Listeners,
    Properties,
    Replicas,
    broker_properties,
    kraft_properties,
    listener_properties,
    render,
    security_properties,
    write_certificates,
)
from bdlab.stack.servers.process import tethered
from bdlab.stack.servers.server import Server, base_environment

_KILL_WAIT_S = 5.0
_FORMAT_TIMEOUT_S = 60.0
_HEAP_MB = 256
_SESSION_TIMEOUT_MS = 3000


class KafkaBroker(Server):
    """What a broker is, whoever keeps its metadata: listeners, certificates, a log that outlives it.

    With `certificates` clients log in with SCRAM-SHA-512 over TLS, and administrators with a certificate of
    the same authority at `admin_servers`; nobody else may do anything without an ACL.
    """

    keeps_log: ClassVar[bool] = True
    authorizer: ClassVar[str]
    ready_line: ClassVar[bytes]

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        certificates: Certificates | CertificateFolder | None = None,
        distribution: Distribution | None = None,
    ) -> None:
        super().__init__(data_dir, port=port)
        self._certificates = certificates
        self._distribution = distribution
        self._listeners: Listeners | None = None
        self._log_start = 0

    @property
    def bootstrap_servers(self) -> str:
        """Where clients connect."""
        return f"127.0.0.1:{self.port}"

    @property
    def admin_servers(self) -> str:
        """Where an administrator connects: with a certificate, where the broker is secured."""
        internal = self._listeners.internal if self._listeners else None
        return f"127.0.0.1:{internal}" if internal else self.bootstrap_servers

    @property
    def needs_certificate(self) -> bool:
        """Whether somebody else has to write its certificate before it starts."""
        return isinstance(self._certificates, CertificateFolder)

    def lay_out(self) -> None:
        """Choose its ports and make its data folder ahead of the first start: that takes a JVM of its own."""
        self._make_folders()
        self._port = self._choose_port()
        self._prepare(self._port)

    @property
    def security_protocol(self) -> str:
        return "SASL_SSL" if self._certificates else "PLAINTEXT"

    @property
    def client_environment(self) -> Mapping[str, str]:
        return {
            "BDLAB_KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "BDLAB_KAFKA_SECURITY_PROTOCOL": self.security_protocol,
        }

    @property
    def cluster_id(self) -> str:
        """The log's, the same over restarts; empty before the first start."""
        try:
            lines = (self._data / "meta.properties").read_text("utf-8").splitlines()
        except OSError:
            return ""
        return next((line.partition("=")[2] for line in lines if line.startswith("cluster.id=")), "")

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _config_file(self) -> Path:
        return self.folder / "server.properties"

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL)."""
        if self.running and self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self._process.wait(_KILL_WAIT_S)

    def _refuse_a_second(self) -> None:
        """Kafka takes this lock itself, but a controller only once it has written to its metadata."""
        with contextlib.suppress(FileNotFoundError), (self._data / ".lock").open("r+b") as lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ServerNotStarted(
                    f"{self.name}: another broker works on the log in {self._data}",
                    hint=f"See which (fuser {lock.name}) and end it, then try again.",
                ) from None

    def _prepare(self, port: int) -> Sequence[str]:
        self._refuse_a_second()
        distribution = self._distribution or self._find_distribution()
        self._listeners = self._choose_listeners(port)
        properties = self._metadata_properties(self._listeners) | listener_properties(self._listeners)
        properties |= broker_properties(self._replicas, self._data)
        if certificates := self._certificates:
            if isinstance(certificates, CertificateFolder):
                tls_dir = certificates.folder
            else:
                tls_dir = self.folder / "tls"
                write_certificates(certificates, tls_dir)
            properties |= security_properties(certificates.super_users, tls_dir, self.authorizer)
        write_private(self._config_file, render(properties))
        self._lay_out(distribution, properties)
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        return self._java(distribution, "kafka.Kafka", str(self._config_file))

    def _java(self, distribution: Distribution, main: str, *arguments: str) -> list[str]:
        return distribution.command(main, *arguments, heap_mb=_HEAP_MB)

    def _answers(self) -> bool:
        """The broker's own word. Its ports accept connections long before it serves anyone."""
        return self.ready_line in self._said()

    def _said(self) -> bytes:
        """Its log since the last start."""
        try:
            with self.log_file.open("rb") as file:
                # A log that had grown too long was put aside at the start.
                file.seek(self._log_start if self._log_start <= self.log_file.stat().st_size else 0)
                return file.read()
        except FileNotFoundError:
            return b""

    @property
    def _replicas(self) -> Replicas:
        return Replicas()

    @abstractmethod
    def _find_distribution(self) -> Distribution: ...

    @abstractmethod
    def _choose_listeners(self, port: int) -> Listeners: ...

    @abstractmethod
    def _metadata_properties(self, listeners: Listeners) -> Properties:
        """Who keeps the metadata, and how to reach them."""

    @abstractmethod
    def _lay_out(self, distribution: Distribution, properties: Properties) -> None:
        """Make the data folder, where the server does not do that by itself."""


class ApacheKafka(KafkaBroker):
    """Apache Kafka 4, one broker and controller in one process."""

    name = "kafka"
    authorizer = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
    ready_line = b"Kafka Server started"
    node_id = 1

    def _find_distribution(self) -> Distribution:
        return java.kafka()

    def _choose_listeners(self, port: int) -> Listeners:
        return Listeners(
            client=port,
            controller=self.ports.choose("kafka-controller"),
            internal=self.ports.choose("kafka-internal") if self._certificates else None,
        )

    def _metadata_properties(self, listeners: Listeners) -> Properties:
        return kraft_properties(
            self.node_id,
            self._controllers(listeners),
            session_timeout_ms=_SESSION_TIMEOUT_MS,
            replicas=self._replicas,
        )

    def _controllers(self, listeners: Listeners) -> Mapping[int, int]:
        """The controller port of each node of the quorum."""
        return {self.node_id: listeners.controller or 0}

    def _new_cluster_id(self) -> str:
        return new_cluster_id()

    def _lay_out(self, distribution: Distribution, properties: Properties) -> None:
        """Format the storage beside its place, then move it there: a killed run leaves none by halves."""
        if self._data.exists():
            return
        new = self.folder / "data.new"
        if new.exists():
            shutil.rmtree(new)
        config = self.folder / "format.properties"
        write_private(config, render(properties | {"log.dirs": str(new)}))
        arguments = ("format", "--cluster-id", self._new_cluster_id(), "--config", str(config))
        command = self._java(distribution, "kafka.tools.StorageTool", *arguments)
        try:
            outcome = subprocess.run(
                tethered(command),
                cwd=self.data_dir,
                env=base_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_FORMAT_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ServerNotStarted(
                f"{self.name}: its storage was not formatted within {_FORMAT_TIMEOUT_S:.0f} s"
            ) from error
        finally:
            config.unlink()
        if outcome.returncode != 0:
            said = (outcome.stderr + outcome.stdout).decode("utf-8", "replace").strip()
            raise ServerNotStarted(f"{self.name}: its storage could not be formatted: {said[-2000:]}")
        new.rename(self._data)


def new_cluster_id() -> str:
    """A random id in Kafka's form: a UUID in URL-safe base 64, which no program takes for an option."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text
