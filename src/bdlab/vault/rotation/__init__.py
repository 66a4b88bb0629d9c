"""Replacing credentials while everything runs: the database manager's password, Kafka users, secret ids.

Each rotation can be killed at any moment and run again: it goes on where it was. What Vault holds is written
first, and the server or the receiver follows it; the older credential ends last, once nobody uses it.
"""

from bdlab.vault.rotation.database import drop_left_behind, end_logins, rotate_manager, sweep
from bdlab.vault.rotation.identities import rotate_secret_ids
from bdlab.vault.rotation.kafka import BrokerUsers, rotate_kafka_users
from bdlab.vault.rotation.plan import Rotation, Run

__all__ = [
    "BrokerUsers",
    "Rotation",
    "Run",
    "drop_left_behind",
    "end_logins",
    "rotate_kafka_users",
    "rotate_manager",
    "rotate_secret_ids",
    "sweep",
]
