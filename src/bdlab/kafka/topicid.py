"""The id of a topic, which another one of the same name does not have (KIP-516)."""

from __future__ import annotations

from concurrent.futures import Future

from confluent_kafka import TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stub does not re-export one of them
    AdminClient,
    TopicDescription,
)

from bdlab.kafka.answers import answers

#: How long one of several brokers may take; another is asked then.
_ANSWER_S = 1.0
#: What a broker without topic ids gives.
_NONE = "A" * 22


def topic_id(admin: AdminClient, topic: str, timeout_s: float) -> str:
    """The id of `topic` in base64, empty if the broker has none. Raises BrokerError."""

    def ask(left: float) -> dict[str, Future[TopicDescription]]:
        futures = admin.describe_topics(TopicCollection([topic]), request_timeout=min(left, _ANSWER_S))
        return {f"asking for the id of topic {topic!r}": futures[topic]}

    (found,) = answers(ask, timeout_s)
    return "" if str(found.topic_id) == _NONE else str(found.topic_id)
