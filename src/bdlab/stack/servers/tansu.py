"""Tansu as a local broker: it speaks Kafka's protocol and keeps the log in memory only."""

import secrets
import signal
from collections.abc import Sequence
from typing import ClassVar

from bdlab.probes import MEMORY_ONLY_ID
from bdlab.stack.servers import binaries
from bdlab.stack.servers.server import Broker, is_listening


class Tansu(Broker):
    """Each start is a new incarnation of the log, with a new cluster id on a new port: a client of the old
    log, which is lost, must not mistake the new one for it.
    """

    name = "tansu"
    stop_signal = signal.SIGKILL  # it has nothing to save, and an orderly stop takes it two seconds
    keeps_log: ClassVar[bool] = False
    cluster_id = ""

    def _choose_port(self) -> int:
        return self.ports.choose_new(self._port)

    def _configure(self, port: int) -> Sequence[str]:
        self.cluster_id = f"{MEMORY_ONLY_ID}{secrets.token_hex(8)}"
        url = f"tcp://127.0.0.1:{port}"
        return [
            str(binaries.tansu()),
            "broker",
            "--cluster-id",
            self.cluster_id,
            "--listener-url",
            url,
            "--advertised-listener-url",
            url,
            "--storage-engine",
            "memory://tansu/",
        ]

    def _is_ready(self) -> bool:
        return is_listening(self.port) and self.running
