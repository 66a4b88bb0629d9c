"""Everything bdlab raises on purpose.

    BdlabError                       exit code 1
    ├── InvalidInput                 a review, a file or an option that cannot be used      (exit code 2)
    │   └── SettingsInvalid          a setting of the wrong type or range; names its source
    ├── InvalidEvent                 bytes on the topic that are no prediction event
    ├── EventTooNew                  an event of a later version of bdlab: not to be judged by this one
    ├── ModelError
    │   ├── ModelNotFound
    │   ├── ModelTampered            a model file differs from the sha256 in its card
    │   └── TrainingFailed
    ├── VaultError
    │   ├── VaultUnavailable         unreachable, sealed, not initialised, overloaded: wait and retry
    │   ├── IdentityRefused          the AppRole's role id or secret id is not accepted: do not retry
    │   │   └── TokenRefused         a token that ran out or was revoked: log in again
    │   ├── PolicyDenied             logged in, but the path is not allowed: do not retry
    │   └── SecretMissing            the path is allowed and holds nothing
    ├── BrokerError
    │   ├── BrokerUnavailable        no broker answered in time: retry
    │   ├── NotAcknowledged          a message was handed over and no acknowledgement came in time: it may
    │   │                            or may not be on the topic; retry with the same id
    │   ├── BrokerRefused            authentication or authorisation failed at the broker
    │   ├── TopicMissing
    │   ├── EventTooLarge            the broker takes no message of this size: do not retry
    │   └── OffsetOutOfRange         the position to read from is not in the log
    ├── DatabaseError
    │   ├── DatabaseUnavailable      no connection, or one that broke: retry with fresh credentials
    │   ├── DatabaseDenied           the role lacks a privilege (SQLSTATE 42501)
    │   ├── RowRejected              the database refuses this row for its content (SQLSTATE 22, 23, 54)
    │   ├── FenceLost                another consumer has advanced the partition: drop the batch, seek again
    │   └── SchemaOutdated           migrations are missing, or newer than this version
    ├── StackError
    │   ├── ServerNotStarted         a server of the local stack did not come up; names its log file
    │   ├── StartInterrupted         asked to stop before everything was up
    │   ├── StackInUse               another `bdlab up` holds the data folder
    │   └── BinaryMissing            the package or program that brings a server is not installed
    └── Unhealthy                    checked, and not healthy or not verified               (exit code 10)

Adapters wrap a foreign exception into one of these and keep it as ``__cause__``.
"""

from __future__ import annotations

from typing import ClassVar


class BdlabError(Exception):
    """What went wrong and why, in one sentence, and in `hint` what to do next.

    `hint` is an imperative sentence or two, empty where there is nothing to add.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidInput(BdlabError):
    exit_code = 2


class SettingsInvalid(InvalidInput):
    pass


class InvalidEvent(BdlabError):
    pass


class EventTooNew(BdlabError):
    pass


class ModelError(BdlabError):
    pass


class ModelNotFound(ModelError):
    pass


class ModelTampered(ModelError):
    pass


class TrainingFailed(ModelError):
    pass


class VaultError(BdlabError):
    pass


class VaultUnavailable(VaultError):
    pass


class IdentityRefused(VaultError):
    pass


class TokenRefused(IdentityRefused):
    pass


class PolicyDenied(VaultError):
    pass


class SecretMissing(VaultError):
    pass


class BrokerError(BdlabError):
    pass


class BrokerUnavailable(BrokerError):
    pass


class NotAcknowledged(BrokerError):
    pass


class BrokerRefused(BrokerError):
    pass


class TopicMissing(BrokerError):
    pass


class EventTooLarge(BrokerError):
    pass


class OffsetOutOfRange(BrokerError):
    pass


class DatabaseError(BdlabError):
    pass


class DatabaseUnavailable(DatabaseError):
    pass


class DatabaseDenied(DatabaseError):
    pass


class RowRejected(DatabaseError):
    """`sqlstate` is the five-character code that Postgres gave."""

    def __init__(self, message: str, *, sqlstate: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.sqlstate = sqlstate


class FenceLost(DatabaseError):
    pass


class SchemaOutdated(DatabaseError):
    pass


class StackError(BdlabError):
    pass


class ServerNotStarted(StackError):
    pass


class StartInterrupted(StackError):
    pass


class StackInUse(StackError):
    pass


class BinaryMissing(StackError):
    pass


class Unhealthy(BdlabError):
    exit_code = 10
