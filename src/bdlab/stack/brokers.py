"""The brokers that a local stack can have, and the choice of one. Tansu speaks Kafka's protocol and keeps the log in
memory only; `servers.kafka` has the other."""

import os
import secrets
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from bdlab.certificates import CertificateFiles
from bdlab.errors import BinaryMissing, StackError
from bdlab.probes import MEMORY_ONLY, MEMORY_ONLY_ID
from bdlab.stack.folder import BrokerKind, DataFolder
from bdlab.stack.servers import binaries, java
from bdlab.stack.servers.jars import Progress
from bdlab.stack.servers.kafka import ApacheKafka
from bdlab.stack.servers.server import Broker, is_listening


class Tansu(Broker):
    """Each start is a new incarnation of the log, with a new cluster id on a new port: a client of the old log, which
    is lost, must not mistake the new one for it."""

    name = "tansu"
    stop_signal = signal.SIGKILL  # it has nothing to save, and an orderly stop takes it two seconds
    keeps_log: ClassVar[bool] = False
    cluster_id = ""

    def _choose_port(self) -> int:
        return self.ports.choose_new(self._port)

    def _configure(self, port: int) -> Sequence[str]:
        self.cluster_id = f"{MEMORY_ONLY_ID}{secrets.token_hex(8)}"
        url = f"tcp://127.0.0.1:{port}"
        addresses = [f"--listener-url={url}", f"--advertised-listener-url={url}"]
        log = [f"--cluster-id={self.cluster_id}", "--storage-engine=memory://tansu/"]
        return [str(binaries.tansu()), "broker", *addresses, *log]

    def _is_ready(self) -> bool:
        return is_listening(self.port) and self.running


def make_broker(kind: BrokerKind, data_dir: Path, certificates: CertificateFiles) -> Broker:
    """Return the broker of that kind, not started. Apache Kafka is secured with `certificates`."""
    return ApacheKafka(data_dir, certificates=certificates) if kind == "kafka" else Tansu(data_dir)


def choose_broker(
    folder: DataFolder, wanted: BrokerKind | Literal["auto"], progress: Progress
) -> tuple[BrokerKind, BinaryMissing | None]:
    """Choose the broker for the stack of `folder`; return it, and why Apache Kafka is missing if it is.

    "auto" keeps the broker of the folder; a new folder gets Kafka, fetched into the cache unless it is there, and the
    broker in memory only if that fails. Raises StackError for a folder whose log would be left behind, and
    BinaryMissing if it must be Kafka."""
    folder.check_location()
    kept = folder.broker
    if (kept, wanted) == ("kafka", "tansu"):
        raise StackError(
            f"the data folder {folder.path} has its log on Apache Kafka, and the memory-only broker would "
            "leave behind what is not stored yet",
            hint="Leave --broker tansu out, or name another folder with --data-dir.",
        )
    kind = kept if wanted == "auto" else wanted
    if kind == "tansu":
        return kind, None
    try:
        java.fetch_kafka(progress)
    except BinaryMissing as missing:
        if kept == "kafka":
            what = f"the data folder {folder.path} has its log on Apache Kafka: {missing.message}"
            raise BinaryMissing(what, hint=missing.hint) from missing
        if kind or os.environ.get("BDLAB_KAFKA_HOME"):  # somebody asked for it
            raise
        return "tansu", missing
    return "kafka", None


def described(kind: BrokerKind) -> str:
    """Return a description of the broker for a person. Raises BinaryMissing for Kafka if there is none."""
    if kind == "tansu":
        return MEMORY_ONLY
    version = ".".join(map(str, java.kafka().version))
    return f"Apache Kafka {version}, secured, its log on disk"
