"""Replacing credentials while everything runs: the database manager's password, Kafka users, secret ids.

Each rotation can be killed at any moment and run again: it continues where it was. The new credential is written to
Vault first, then set at the server or handed over; the former one ends last, when no process uses it."""
