"""The errors that bdlab raises.

    BdlabError                       exit code 1
    ├── InvalidInput                 a review, a file or an option that cannot be used      (exit code 2)
    │   └── SettingsInvalid          a setting of the wrong type or range; names its source
    ├── InvalidEvent                 bytes on the topic that are not a prediction event
    ├── EventTooNew                  an event of a later version of bdlab, which can read it
    ├── ModelError
    │   ├── ContractInvalid          a contract that cannot be used; names the field
    │   ├── ContractMismatch         two contracts that do not fit together; names the field
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
    │   ├── NotAcknowledged          no acknowledgement came in time: the message may or may not be on the
    │   │                            topic; retry with the same id
    │   ├── BrokerRefused            authentication or authorisation failed at the broker
    │   ├── TopicMissing
    │   ├── EventTooLarge            the broker accepts no message of this size: do not retry
    │   └── OffsetOutOfRange         the position to read from is not in the log
    ├── DatabaseError
    │   ├── DatabaseUnavailable      no connection, or a broken one: retry with fresh credentials
    │   ├── DatabaseDenied           the role lacks a privilege (SQLSTATE 42501)
    │   ├── RowRejected              the database refuses the content of this row (SQLSTATE 22, 23, 54)
    │   ├── FenceLost                another consumer has advanced the partition: drop the batch, seek again
    │   └── SchemaOutdated           migrations are missing, or newer than this version
    ├── StackError
    │   ├── ServerNotStarted         a server of the local stack did not start; names its log file
    │   ├── StartInterrupted         a stop was requested before everything had started
    │   ├── StackInUse               another `bdlab up` holds the data folder
    │   └── BinaryMissing            the package or program with a server is not installed
    └── Unhealthy                    checked, and not healthy or not verified               (exit code 10)

Adapters wrap a foreign exception into one of these and keep it as ``__cause__``.
"""

from importlib.util import find_spec
from typing import ClassVar


class BdlabError(Exception):
    """`message` says what went wrong and why, in one sentence; `hint` says what to do next, or is empty."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidInput(BdlabError):
    exit_code = 2


def require(package: str, *, extra: str, what: str) -> None:
    """Raise InvalidInput if a package of one of bdlab's extras is missing, which `what` needs."""
    if find_spec(package) is None:
        raise InvalidInput(
            f"{what}, and the package {package} is not installed", hint=f"pip install 'bdlab[{extra}]'"
        )


class SettingsInvalid(InvalidInput): ...


class InvalidEvent(BdlabError): ...


class EventTooNew(BdlabError): ...


class ModelError(BdlabError): ...


class ContractInvalid(ModelError): ...


class ContractMismatch(ModelError): ...


class ModelNotFound(ModelError): ...


class ModelTampered(ModelError): ...


class TrainingFailed(ModelError): ...


class VaultError(BdlabError): ...


class VaultUnavailable(VaultError): ...


class IdentityRefused(VaultError): ...


class TokenRefused(IdentityRefused): ...


class PolicyDenied(VaultError): ...


class SecretMissing(VaultError): ...


class BrokerError(BdlabError): ...


class BrokerUnavailable(BrokerError): ...


class NotAcknowledged(BrokerError): ...


class BrokerRefused(BrokerError): ...


class TopicMissing(BrokerError): ...


class EventTooLarge(BrokerError): ...


class OffsetOutOfRange(BrokerError): ...


class DatabaseError(BdlabError): ...


class DatabaseUnavailable(DatabaseError): ...


class DatabaseDenied(DatabaseError): ...


class RowRejected(DatabaseError):
    """`sqlstate` is the five-character code from Postgres."""

    def __init__(self, message: str, *, sqlstate: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.sqlstate = sqlstate


class FenceLost(DatabaseError): ...


class SchemaOutdated(DatabaseError): ...


class StackError(BdlabError): ...


class ServerNotStarted(StackError): ...


class StartInterrupted(StackError): ...


class StackInUse(StackError): ...


class BinaryMissing(StackError): ...


class Unhealthy(BdlabError):
    exit_code = 10
