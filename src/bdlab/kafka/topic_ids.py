"""The id of a topic, which no other topic of the same name has (KIP-516)."""

from __future__ import annotations

from concurrent.futures import Future

from confluent_kafka import TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stub does not re-export one of them
    AdminClient,
    TopicDescription,
)

from bdlab.credentials import KafkaLogin
from bdlab.kafka.admin_futures import await_results
from bdlab.kafka.connection import client_config

#: How long one of several brokers may take; another is asked then.
_ANSWER_S = 1.0
#: What a broker without topic ids answers.
_NONE = "A" * 22


class TopicIds:
    """Asks for the id of the topic that a login's settings name, with a client that is made when needed."""

    def __init__(self, login: KafkaLogin, *, client_id: str) -> None:
        self._login = login
        self._client_id = client_id
        self._admin: AdminClient | None = None

    def change_user(self, login: KafkaLogin) -> None:
        """Use another user of the same server for new connections."""
        self._login = login
        if self._admin is not None:
            self._admin.set_sasl_credentials(login.username, login.password.reveal())

    def close(self) -> None:
        """End the client."""
        self._admin = None

    def ask(self, timeout_s: float) -> str:
        """Return the id in base64, empty if the broker has none. Raises BrokerError."""
        topic = self._login.server.topic
        asked: list[AdminClient] = []

        def question(left_s: float) -> dict[str, Future[TopicDescription]]:
            # A client without an answer is dropped: a new one may find a broker that answers. (Compare with
            # None: the length of a client is that of its queue, so that an idle one is false.)
            admin, self._admin = self._admin, None
            config = client_config(self._login, client_id=self._client_id)
            asked.append(AdminClient(config) if admin is None else admin)
            futures = asked[-1].describe_topics(
                TopicCollection([topic]), request_timeout=min(left_s, _ANSWER_S)
            )
            return {f"asking for the id of topic {topic!r}": futures[topic]}

        (found,) = await_results(question, timeout_s)
        self._admin = asked[-1]
        return "" if str(found.topic_id) == _NONE else str(found.topic_id)
