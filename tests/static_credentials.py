"""Logins that come from the test instead of Vault."""

from __future__ import annotations

from bdlab.credentials import DatabaseLogin, KafkaLogin
from bdlab.errors import SecretMissing


class StaticCredentials:
    """Returns the logins that were set last. Implements the Protocols of `bdlab.credentials`.

    `kafka_login` and `database_login` may be set from any thread; `next_database` takes the place of a
    refused database login.
    """

    def __init__(self, database: DatabaseLogin | None = None, kafka: KafkaLogin | None = None) -> None:
        self.database_login = database
        self.kafka_login = kafka
        self.next_database: DatabaseLogin | None = None
        self.refreshed = 0
        """How often `refresh_kafka` was called."""
        self.in_use: dict[str, KafkaLogin] = {}
        """The login that each client uses."""

    def database(self) -> DatabaseLogin:
        if self.database_login is None:
            raise SecretMissing("there is no database login")
        return self.database_login

    def replace_database(self, refused: DatabaseLogin) -> DatabaseLogin:
        if self.database_login is refused and self.next_database is not None:
            self.database_login, self.next_database = self.next_database, None
        return self.database()

    def kafka(self) -> KafkaLogin:
        if self.kafka_login is None:
            raise SecretMissing("there is no Kafka login")
        return self.kafka_login

    def refresh_kafka(self) -> KafkaLogin:
        self.refreshed += 1
        return self.kafka()

    def using(self, client: str, login: KafkaLogin | None) -> None:
        if login is None:
            self.in_use.pop(client, None)
        else:
            self.in_use[client] = login
