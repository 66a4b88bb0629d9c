"""The local stack: OpenBao, Postgres and a broker as child processes, and the pipeline over them.

It knows its servers as programs only: what is inside Vault, Kafka and Postgres is set up by the `bdlab`
commands that it runs.
"""

from bdlab.stack.folder import EXPORTED, BrokerKind, DataFolder, Endpoints, exports
from bdlab.stack.kafka import ApacheKafka
from bdlab.stack.kafka_cluster import KafkaCluster
from bdlab.stack.kafka_config import Certificates
from bdlab.stack.local import LocalStack
from bdlab.stack.openbao import OpenBao
from bdlab.stack.postgres import Postgres
from bdlab.stack.server import Broker, Server
from bdlab.stack.supervisor import Event
from bdlab.stack.tansu import Tansu
from bdlab.stack.tls import TlsFolder
from bdlab.stack.zookeeper import ZooKeeperKafka

__all__ = [
    "EXPORTED",
    "ApacheKafka",
    "Broker",
    "BrokerKind",
    "Certificates",
    "DataFolder",
    "Endpoints",
    "Event",
    "KafkaCluster",
    "LocalStack",
    "OpenBao",
    "Postgres",
    "Server",
    "Tansu",
    "TlsFolder",
    "ZooKeeperKafka",
    "exports",
]
