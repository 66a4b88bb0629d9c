"""A way out of a consumer group that waits for a member which is gone."""

from __future__ import annotations

from concurrent.futures import TimeoutError as FutureTimeout

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from bdlab.credentials import KafkaLogin
from bdlab.kafka.connection import client_config
from bdlab.probes import MEMORY_ONLY_ID

log = structlog.get_logger()

_TIMEOUT_S = 3.0


def release(login: KafkaLogin, cluster_id: str, *, client_id: str) -> None:
    """Ask a Tansu broker to forget the group, so that its members form it anew; nothing at any other.

    Tansu keeps a leader that left while the group was forming, and the others then wait for it without end.
    What is lost with the group are its committed offsets, which nothing but lag tools read. Apache Kafka
    needs no such help. And this call must not be made where brokers may be away: librdkafka 2.16 ends the
    whole process if the connection breaks in the middle of an administrative call about a group (its pull
    request 5397).
    """
    if not cluster_id.startswith(MEMORY_ONLY_ID):
        return
    group = login.server.group
    admin = AdminClient(client_config(login, client_id=client_id))
    answer = admin.delete_consumer_groups([group], request_timeout=_TIMEOUT_S)[group]
    try:
        answer.result(_TIMEOUT_S + 1)
    except (KafkaException, FutureTimeout) as error:
        log.info("the group is still waiting for its members", group=group, broker_says=str(error))
    else:
        log.warning("the group waited for a member that is gone, and forms anew", group=group)
