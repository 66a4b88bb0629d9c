"""Brokers that tell their clients to connect to proxies, so that a storm can break the way to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bdlab.files import write_private
from bdlab.stack import Tansu
from bdlab.stack.servers.java import Distribution
from bdlab.stack.servers.kafka import ApacheKafka, Properties, render
from tests.chaos.proxy import Address
from tests.servers.kafka_cluster import ClusterBroker, KafkaCluster
from tests.servers.zookeeper import ZooKeeperBroker, ZooKeeperKafka


class AdvertisedTansu(Tansu):
    advertised: Address

    @property
    def members(self) -> Sequence[AdvertisedTansu]:
        return [self]

    def _configure(self, port: int) -> Sequence[str]:
        option, (host, proxy_port) = "--advertised-listener-url", self.advertised
        command = super()._configure(port)
        (given,) = (each for each in command if each.startswith(f"{option}="))
        return [f"{option}=tcp://{host}:{proxy_port}" if each == given else each for each in command]


class AdvertisedKafka(ApacheKafka):
    """Its log outlives a kill -9."""

    advertised: Address

    @property
    def members(self) -> Sequence[AdvertisedKafka]:
        return [self]

    def _format_storage(self, distribution: Distribution, properties: Properties) -> None:
        host, proxy_port = self.advertised
        through_proxy = properties | {"advertised.listeners": f"CLIENT://{host}:{proxy_port}"}
        write_private(self._config_file, render(through_proxy))
        super()._format_storage(distribution, through_proxy)


class AdvertisedZooKeeperBroker(ZooKeeperBroker):
    advertised: Address

    def _format_storage(self, distribution: Distribution, properties: Properties) -> None:
        host, proxy_port = self.advertised
        through_proxy = properties | {"advertised.listeners": f"CLIENT://{host}:{proxy_port}"}
        write_private(self._config_file, render(through_proxy))
        super()._format_storage(distribution, through_proxy)


class AdvertisedZooKeeperKafka(ZooKeeperKafka):
    """The broker behind a proxy; its ZooKeeper is reached by nobody else."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.members = [AdvertisedZooKeeperBroker(self.data_dir, zookeeper=self.zookeeper)]
        self.broker = self.members[0]


class AdvertisedMember(ClusterBroker):
    """One of a cluster's brokers; among themselves they talk past the proxies."""

    advertised: Address

    def _format_storage(self, distribution: Distribution, properties: Properties) -> None:
        host, proxy_port = self.advertised
        own = f"BROKERS://127.0.0.1:{self.ports.choose('kafka-brokers')}"
        protocols = properties["listener.security.protocol.map"]
        through_proxy = properties | {
            "listeners": f"{properties['listeners']},{own}",
            "advertised.listeners": f"CLIENT://{host}:{proxy_port},{own}",
            "listener.security.protocol.map": f"{protocols},BROKERS:PLAINTEXT",
            "inter.broker.listener.name": "BROKERS",
        }
        write_private(self._config_file, render(through_proxy))
        super()._format_storage(distribution, through_proxy)


class AdvertisedCluster(KafkaCluster):
    """Three brokers, each behind a proxy of its own."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self._members = {node: self._member(node) for node in self.brokers}
        self.brokers = dict(self._members)

    def _member(self, node: int) -> AdvertisedMember:
        folder = self.data_dir / f"broker-{node}"
        return AdvertisedMember(folder, node_id=node, layout=self._layout, certificates=None, distribution=None)

    @property
    def members(self) -> Sequence[AdvertisedMember]:
        return list(self._members.values())


Member = AdvertisedTansu | AdvertisedKafka | AdvertisedMember | AdvertisedZooKeeperBroker
AdvertisedBroker = AdvertisedTansu | AdvertisedKafka | AdvertisedCluster | AdvertisedZooKeeperKafka

#: By kind. `members` are its servers, each to be told before the first start where clients are to find it.
KINDS: Mapping[str, Callable[[Path], AdvertisedBroker]] = {
    "tansu": AdvertisedTansu,
    "kafka": AdvertisedKafka,
    "cluster": AdvertisedCluster,
    "zookeeper": AdvertisedZooKeeperKafka,
}
