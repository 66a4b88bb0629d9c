"""The local stack: OpenBao, Postgres and a broker as child processes, and the pipeline over them. It knows its servers
as programs only: what is inside Vault, Kafka and Postgres is set up by the `bdlab` commands that it runs."""

from bdlab.stack.brokers import Tansu
from bdlab.stack.folder import EXPORTED, BrokerKind, DataFolder, Endpoints, exports
from bdlab.stack.local import LocalStack
from bdlab.stack.servers.kafka import ApacheKafka
from bdlab.stack.servers.openbao import OpenBao
from bdlab.stack.servers.postgres import Postgres
from bdlab.stack.servers.server import Server
from bdlab.stack.supervisor import Event
from bdlab.stack.tls import TlsFolder

__all__ = ["EXPORTED", "ApacheKafka", "BrokerKind", "DataFolder", "Endpoints", "Event", "LocalStack"]
__all__ += ["OpenBao", "Postgres", "Server", "Tansu", "TlsFolder", "exports"]
