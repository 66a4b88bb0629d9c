"""The brokers that a local stack can have, and the choice of one."""

import os
from pathlib import Path
from typing import Literal

from bdlab.certificates import CertificateFiles
from bdlab.errors import BinaryMissing, StackError
from bdlab.probes import MEMORY_ONLY
from bdlab.stack.folder import BrokerKind, DataFolder
from bdlab.stack.servers import java
from bdlab.stack.servers.jars import Progress
from bdlab.stack.servers.kafka import ApacheKafka
from bdlab.stack.servers.server import Broker
from bdlab.stack.servers.tansu import Tansu


def make_broker(kind: BrokerKind, data_dir: Path, certificates: CertificateFiles) -> Broker:
    """Return the broker of that kind, not started. Apache Kafka is secured with `certificates`."""
    return ApacheKafka(data_dir, certificates=certificates) if kind == "kafka" else Tansu(data_dir)


def choose_broker(
    folder: DataFolder, wanted: BrokerKind | Literal["auto"], progress: Progress
) -> tuple[BrokerKind, BinaryMissing | None]:
    """Choose the broker for the stack of `folder`; return it, and why Apache Kafka is missing if it is.

    "auto" keeps the broker of the folder; a new folder gets Kafka, fetched into the cache unless it is there,
    and the broker in memory only if that fails. Raises StackError for a folder whose log would be left
    behind, and BinaryMissing if it must be Kafka.
    """
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
