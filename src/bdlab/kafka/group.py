"""A way out of a consumer group that waits for a member which is gone."""

from __future__ import annotations

from concurrent.futures import TimeoutError as FutureTimeout

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from bdlab.credentials import KafkaLogin
from bdlab.kafka.connection import client_config

log = structlog.get_logger()

_TIMEOUT_S = 3.0


def release(login: KafkaLogin, *, client_id: str) -> None:
    """Ask the broker to forget the group, so that its members form it anew.

    Tansu keeps a leader that left while the group was forming, and the others then wait for it without end.
    Kafka does not, and refuses to delete a group with members in it, so that nothing happens there. What is
    lost with the group are its committed offsets, which nothing but lag tools read.
    """
    group = login.server.group
    admin = AdminClient(client_config(login, client_id=client_id))
    answer = admin.delete_consumer_groups([group], request_timeout=_TIMEOUT_S)[group]
    try:
        answer.result(_TIMEOUT_S + 1)
    except (KafkaException, FutureTimeout) as error:
        log.info("the group is still waiting for its members", group=group, broker_says=str(error))
    else:
        log.warning("the group waited for a member that is gone, and forms anew", group=group)
