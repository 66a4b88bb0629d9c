"""The brokers that a local stack can have, and which of them it gets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Protocol

from bdlab.credentials import SUPER_USERS
from bdlab.errors import BinaryMissing, StackError
from bdlab.probes import MEMORY_ONLY
from bdlab.stack.folder import BrokerKind, DataFolder
from bdlab.stack.servers import java
from bdlab.stack.servers.jars import Progress
from bdlab.stack.servers.kafka import ApacheKafka
from bdlab.stack.servers.kafka_config import CertificateFolder
from bdlab.stack.servers.server import Broker
from bdlab.stack.servers.tansu import Tansu
from bdlab.stack.supervisor import Child


class BrokerServer(Child, Broker, Protocol):
    """A broker that can be started and stopped."""

    @property
    def needs_certificate(self) -> bool:
        """Whether it cannot start before Vault has made it a certificate."""
        ...

    @property
    def admin_servers(self) -> str:
        """Where it takes its administrator; empty for one that knows none."""
        ...

    def lay_out(self) -> None:
        """Do ahead of its start what takes time and needs no other server."""
        ...


def make_broker(kind: BrokerKind, data_dir: Path, certificates: Path) -> BrokerServer:
    """The broker of that kind, not started. What it needs and lacks shows at its start.

    Apache Kafka is secured, with what is in the folder `certificates` by then.
    """
    if kind == "kafka":
        secured = CertificateFolder(folder=certificates, super_users=SUPER_USERS)
        return ApacheKafka(data_dir, certificates=secured)
    return Tansu(data_dir)


def choose_broker(
    folder: DataFolder, wanted: BrokerKind | Literal["auto"], progress: Progress
) -> tuple[BrokerKind, BinaryMissing | None]:
    """Which broker the stack of `folder` gets, and why that is not Apache Kafka if it could not be had.

    "auto" is as the folder began; a new one gets Kafka, fetched into the cache unless it is there, and the
    broker in memory only if that fails. Raises StackError for a folder whose log would be left behind, and
    BinaryMissing if it must be Kafka.
    """
    folder.check_place()
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
        if kind or os.environ.get("BDLAB_KAFKA_HOME"):  # what somebody asked for
            raise
        return "tansu", missing
    return "kafka", None


def described(kind: BrokerKind) -> str:
    """What a person has to know of it. Raises BinaryMissing for Kafka if there is none."""
    if kind == "tansu":
        return MEMORY_ONLY
    version = ".".join(map(str, java.kafka().version))
    return f"Apache Kafka {version}, secured, its log on disk"
