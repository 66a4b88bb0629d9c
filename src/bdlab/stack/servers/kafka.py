"""Apache Kafka as a local server: one broker that is its own KRaft controller, and its configuration."""

import base64
import contextlib
import fcntl
import shutil
import struct
import tempfile
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import msgspec

from bdlab.certificates import CertificateFiles
from bdlab.credentials import SUPER_USERS
from bdlab.errors import ServerNotStarted
from bdlab.files import write_private
from bdlab.stack.servers import binaries, java
from bdlab.stack.servers.java import Distribution
from bdlab.stack.servers.process import run_to_end
from bdlab.stack.servers.server import Broker
from bdlab.stack.tls import temporary_certificates

_FORMAT_TIMEOUT_S, _AOT_TIMEOUT_S = 60.0, 120.0
CLIENT, INTERNAL, CONTROLLER = "CLIENT", "INTERNAL", "CONTROLLER"
Properties = dict[str, str]


class Listeners(msgspec.Struct, frozen=True, kw_only=True):
    """Ports on 127.0.0.1. `internal` is for brokers and administrators, who show a certificate; an unsecured broker has
    none, and they use `client`. `controller` is KRaft's."""

    client: int
    controller: int | None = None
    internal: int | None = None


class ApacheKafka(Broker):
    """Apache Kafka 4, broker and controller in one process. With `certificates`, files that must be there before each
    start, clients log in with SCRAM-SHA-512 over TLS, and `super_users` with a certificate of the same authority at
    `admin_servers`; nobody else may do anything without an ACL."""

    name = "kafka"
    keeps_log: ClassVar[bool] = True
    authorizer: ClassVar[str] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
    ready_line: ClassVar[bytes] = b"Kafka Server started"
    super_users: Sequence[str] = SUPER_USERS
    node_id = 1
    _find_distribution = staticmethod(java.kafka)

    def __init__(
        self, data_dir: Path, *, certificates: CertificateFiles | None = None, distribution: Distribution | None = None
    ) -> None:
        super().__init__(data_dir)
        self.certificates, self._distribution = certificates, distribution
        self._data, self._config_file = self.folder / "data", self.folder / "server.properties"
        self._listeners: Listeners | None = None
        #: The id of a new log; empty for a random one.
        self.first_cluster_id = ""

    @property
    def admin_servers(self) -> str:
        """The address for administrators, who show a certificate there if the broker is secured."""
        internal = self._listeners.internal if self._listeners else None
        return f"127.0.0.1:{internal}" if internal else self.bootstrap_servers

    @property
    def cluster_id(self) -> str:
        """The log's cluster id, the same after a restart; empty before the first start."""
        try:
            lines = (self._data / "meta.properties").read_text("utf-8").splitlines()
        except OSError:
            return ""
        return next((line.partition("=")[2] for line in lines if line.startswith("cluster.id=")), "")

    def prepare(self) -> None:
        """Choose the ports and format the storage before the first start, which takes a JVM of its own."""
        self._prepare()

    def _configure(self, port: int) -> Sequence[str]:
        # Kafka takes the same lock, but a controller only after it has written to its metadata.
        with contextlib.suppress(FileNotFoundError), (self._data / ".lock").open("r+b") as lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                why = f"{self.name}: another broker works on the log in {self._data}"
                raise ServerNotStarted(why, hint=f"See which (fuser {lock.name}) and end it, then try again.") from None
        distribution = self._distribution or self._find_distribution()
        self._listeners = self._choose_listeners(port)
        properties = self._properties(self._listeners)
        if self.certificates:
            properties |= {
                "ssl.keystore.location": str(self.certificates.server_file),
                "ssl.truststore.location": str(self.certificates.ca_file),
                "authorizer.class.name": self.authorizer,
                "super.users": ";".join(f"User:{subject}" for subject in self.super_users),
            }
        write_private(self._config_file, render(properties))
        self._format_storage(distribution, properties)
        return self._java(distribution, "kafka.Kafka", str(self._config_file))

    def _java(self, distribution: Distribution, main: str, *arguments: str) -> list[str]:
        return distribution.command(main, *arguments, heap_mb=256)

    def _is_ready(self) -> bool:
        return self.ready_line in self._log_since_start()  # its ports accept connections long before that

    def _log_since_start(self) -> bytes:
        with contextlib.suppress(FileNotFoundError), self.log_file.open("rb") as file:
            file.seek(self._log_begins)
            return file.read()
        return b""

    def _choose_listeners(self, port: int) -> Listeners:
        internal = self.ports.choose("kafka-internal") if self.certificates else None
        return Listeners(client=port, controller=self.ports.choose("kafka-controller"), internal=internal)

    def _properties(self, listeners: Listeners) -> Properties:
        """Return the broker's properties without those that secure it."""
        quorum = {self.node_id: listeners.controller or 0}
        kraft = kraft_properties(self.node_id, quorum, session_timeout_ms=3000)
        return broker_properties(self._data) | listener_properties(listeners) | kraft

    def _format_storage(self, distribution: Distribution, properties: Properties) -> None:
        """Format the storage under another name and rename it: a killed run leaves nothing incomplete."""
        if self._data.exists():
            return
        new, config = self.folder / "data.new", self.folder / "format.properties"
        if new.exists():
            shutil.rmtree(new)
        write_private(config, render(properties | {"log.dirs": str(new)}))
        arguments = ("--cluster-id", self.first_cluster_id or new_cluster_id(), "--config", str(config))
        command = self._java(distribution, "kafka.tools.StorageTool", "format", *arguments)
        what = f"formatting the storage of {self.name}"
        try:
            outcome = run_to_end(what, command, self._environment(), self.data_dir, timeout_s=_FORMAT_TIMEOUT_S)
        finally:
            config.unlink()
        if outcome.returncode != 0:
            said = (outcome.stderr + outcome.stdout).decode("utf-8", "replace").strip()
            raise ServerNotStarted(f"{what} failed: {said[-2000:]}")
        new.rename(self._data)


class _RecordedKafka(ApacheKafka):
    """A broker whose run is recorded; Java writes `output` when it ends."""

    super_users = ("CN=bdlab-broker,OU=temporary,O=bdlab",)

    @property
    def output(self) -> Path:
        return self.data_dir / "kafka.aot"

    def _java(self, distribution: Distribution, main: str, *arguments: str) -> list[str]:
        program, *others = super()._java(distribution, main, *arguments)
        # What the C2 compiler would record keeps it busy at each start, when the CPU is needed most.
        recording = [f"-XX:AOTCacheOutput={self.output}", "-XX:TieredStopAtLevel=1"]
        return [program, *(recording if main == "kafka.Kafka" else []), *others]


def make_aot_cache(distribution: Distribution, stop: threading.Event | None = None) -> None:
    """Make Java's ahead-of-time cache for `distribution` unless it is there, with which a start takes half the time.
    That takes some 15 s: Java writes it at the end of a recorded run, of a secured broker in a temporary folder, and
    ignores one that does not fit the jars (JEP 483, JEP 514). Concurrent first uses wait for each other. Raises
    StackError, and StartInterrupted if `stop` was set. Without the cache all works."""
    target, prefix = distribution.aot_cache, ".aot-cache-"
    try:
        with binaries.locked(target.with_name("aot-cache")):
            if target.exists():
                return
            for left in target.parent.glob(f"{prefix}*"):  # by a run that was killed
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as folder:
                certificates = CertificateFiles(Path(folder))
                certificates.write(temporary_certificates(["broker"], ttl_s=3600)["broker"], (), ttl_s=3600)
                broker = _RecordedKafka(Path(folder), certificates=certificates, distribution=distribution)
                broker.start(_AOT_TIMEOUT_S, stop)
                broker.stop(_AOT_TIMEOUT_S)
                if not broker.output.exists():
                    raise ServerNotStarted(f"Java wrote no ahead-of-time cache:\n{broker.tail()}")
                broker.output.rename(target)
            # Each version of the jars or of Java has its own, of 77 MB: two are kept.
            for old in sorted(target.parent.glob(f"*{target.suffix}"), key=lambda file: file.stat().st_mtime)[:-2]:
                old.unlink(missing_ok=True)
    except OSError as error:
        raise ServerNotStarted(f"no ahead-of-time cache in {target.parent}: {error}") from error


def new_cluster_id() -> str:
    """Return a random id in Kafka's form: a UUID in URL-safe base 64 that does not begin with "-"."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def listener_properties(listeners: Listeners) -> Properties:
    """Return the listeners. The clients' one requires SCRAM over TLS if the broker is secured."""
    secured = listeners.internal is not None
    ports = {CLIENT: listeners.client, INTERNAL: listeners.internal, CONTROLLER: listeners.controller}
    urls = {name: f"{name}://127.0.0.1:{port}" for name, port in ports.items() if port is not None}
    client, controller = ("SASL_SSL", "SSL") if secured else ("PLAINTEXT", "PLAINTEXT")
    protocols = {CLIENT: client, INTERNAL: "SSL", CONTROLLER: controller}
    values = {
        "listeners": ",".join(urls.values()),
        "advertised.listeners": ",".join(url for name, url in urls.items() if name != CONTROLLER),
        "listener.security.protocol.map": ",".join(f"{name}:{protocols[name]}" for name in urls),
        "inter.broker.listener.name": INTERNAL if secured else CLIENT,
    }
    return values | _fixed("kafka-secured") if secured else values


def broker_properties(data: Path) -> Properties:
    """Return what every broker is told, with its log in `data`."""
    return _fixed("kafka") | {"log.dirs": str(data)}


def _fixed(name: str) -> Properties:
    return dict(line.split("=", 1) for line in binaries.options(f"{name}.properties"))


def kraft_properties(node_id: int, controllers: Mapping[int, int], *, session_timeout_ms: int) -> Properties:
    """Return what makes a broker its own controller. `controllers` has each node's controller port.
    `session_timeout_ms` is how long the controller believes that a silent broker lives. A broker that was killed cannot
    register again before that."""
    return {
        "process.roles": "broker,controller",
        "node.id": str(node_id),
        "controller.quorum.voters": ",".join(f"{node}@127.0.0.1:{port}" for node, port in sorted(controllers.items())),
        "controller.listener.names": CONTROLLER,
        "broker.session.timeout.ms": str(session_timeout_ms),
        "broker.heartbeat.interval.ms": str(min(1000, session_timeout_ms // 6)),
    }


def render(properties: Mapping[str, str]) -> str:
    """Return `properties` in Java's properties format, which is ASCII. Source: java.util.Properties.load."""
    special, lines = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}, []
    for name, value in properties.items():
        units = (chr(unit) for (unit,) in struct.iter_unpack(">H", value.encode("utf-16-be")))
        escaped = "".join(special.get(char, char if char.isascii() else f"\\u{ord(char):04x}") for char in units)
        lines.append(f"{name}=\\{escaped}\n" if escaped.startswith(" ") else f"{name}={escaped}\n")
    return "".join(lines)
