"""Tansu as a local broker: Kafka's protocol, the log in memory only."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Mapping, Sequence
from typing import ClassVar

from bdlab.probes import MEMORY_ONLY_ID
from bdlab.stack.servers import binaries
from bdlab.stack.servers.ports import answers
from bdlab.stack.servers.server import Server


class Tansu(Server):
    """Each start is a new incarnation with a new cluster id on a new port, unless `port` fixed one:
    a client of the old one, whose log is lost, must not take the new one for it.
    """

    name = "tansu"
    stop_signal = signal.SIGKILL  # there is nothing for it to save, and it takes two seconds for it
    keeps_log: ClassVar[bool] = False
    needs_certificate: ClassVar[bool] = False
    admin_servers: ClassVar[str] = ""

    _cluster_id = ""

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def cluster_id(self) -> str:
        """That of the last start; empty before the first."""
        return self._cluster_id

    @property
    def client_environment(self) -> Mapping[str, str]:
        return {
            "BDLAB_KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "BDLAB_KAFKA_SECURITY_PROTOCOL": "PLAINTEXT",
        }

    def lay_out(self) -> None:
        """Nothing: its log is in memory."""

    def _choose_port(self) -> int:
        before = self._port
        if self._wanted_port is not None:
            return super()._choose_port()
        return self.ports.choose_new(before)

    def _prepare(self, port: int) -> Sequence[str]:
        self._cluster_id = f"{MEMORY_ONLY_ID}{secrets.token_hex(8)}"
        url = f"tcp://127.0.0.1:{port}"
        return [
            str(binaries.tansu()),
            "broker",
            "--cluster-id",
            self._cluster_id,
            "--listener-url",
            url,
            "--advertised-listener-url",
            url,
            "--storage-engine",
            "memory://tansu/",
        ]

    def _answers(self) -> bool:
        return answers(self.port) and self.running
