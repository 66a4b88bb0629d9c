"""Making running brokers read their certificate files again."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stub does not re-export all of them
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from bdlab.credentials import KafkaLogin
from bdlab.kafka.admin_futures import answers
from bdlab.kafka.connection import client_config, fetch_metadata

_TIMEOUT_S = 15.0
#: With any change of its own settings, even to the value that they have, a broker looks whether the files of
#: its certificates are others than those that it read. This one says what is so anyway.
_SETTING, _VALUE = "listener.name.internal.ssl.keystore.type", "PEM"


def reload_certificates(admin_login: KafkaLogin) -> list[int]:
    """Have every broker read its certificate files again, where they have changed; the brokers' node ids.

    Open connections go on. A broker takes only a certificate of the same subject that names all the hosts of
    the one before. Raises BrokerRefused where `admin_login` may not do this, and BrokerUnavailable.
    """
    client = AdminClient(client_config(admin_login, client_id="bdlab-certificates"))
    brokers = sorted(fetch_metadata(client, server=admin_login.server, timeout_s=_TIMEOUT_S).brokers)
    entry = ConfigEntry(_SETTING, _VALUE, incremental_operation=AlterConfigOpType.SET)
    resources = [
        ConfigResource(ResourceType.BROKER, str(broker), incremental_configs=[entry]) for broker in brokers
    ]

    def ask(left: float) -> dict[str, Future[Any]]:
        futures = client.incremental_alter_configs(resources, request_timeout=left)
        return {
            f"reloading the certificates of broker {resource.name}": answer
            for resource, answer in futures.items()
        }

    answers(ask, _TIMEOUT_S)
    return brokers
