"""The errors that bdlab raises: each group begins with its base, and each line says what it stands for.

The exit code of a command is 1, that of an InvalidInput 2, that of Unhealthy 10. Adapters wrap a foreign
exception into one of these and keep it as ``__cause__``."""

from importlib.util import find_spec
from typing import ClassVar


class BdlabError(Exception):
    """`message` says what went wrong and why, in one sentence; `hint` says what to do next, or is empty."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Unhealthy(BdlabError):
    """Checked, and not healthy or not verified."""

    exit_code = 10


class InvalidInput(BdlabError):
    """Data, a file or an option that cannot be used."""

    exit_code = 2


# fmt: off
class SettingsInvalid(InvalidInput): ...          # a setting of the wrong type or range; names its source

class InvalidEvent(BdlabError): ...               # bytes on the topic that are not a prediction event
class EventTooNew(BdlabError): ...                # an event of a later version of bdlab, which can read it

class ModelError(BdlabError): ...
class ContractInvalid(ModelError): ...            # a contract that cannot be used; names the field
class ContractMismatch(ModelError): ...           # two contracts that do not fit together; names the field
class ModelNotFound(ModelError): ...
class ModelTampered(ModelError): ...              # a model file differs from the sha256 in its card
class TrainingFailed(ModelError): ...

class VaultError(BdlabError): ...
class VaultUnavailable(VaultError): ...           # unreachable, sealed, not initialised, overloaded: retry
class IdentityRefused(VaultError): ...            # the AppRole's role id or secret id is not accepted
class TokenRefused(IdentityRefused): ...          # a token that ran out or was revoked: log in again
class PolicyDenied(VaultError): ...               # logged in, but the path is not allowed: do not retry
class SecretMissing(VaultError): ...              # the path is allowed and holds nothing

class BrokerError(BdlabError): ...
class BrokerUnavailable(BrokerError): ...         # no broker answered in time: retry
class NotAcknowledged(BrokerError): ...           # the message may be on the topic: retry with the same id
class BrokerRefused(BrokerError): ...             # authentication or authorisation failed at the broker
class TopicMissing(BrokerError): ...
class EventTooLarge(BrokerError): ...             # the broker accepts no message of this size: do not retry
class OffsetOutOfRange(BrokerError): ...          # the position to read from is not in the log

class DatabaseError(BdlabError): ...
class DatabaseUnavailable(DatabaseError): ...     # no connection, or a broken one: retry with another login
class DatabaseDenied(DatabaseError): ...          # the role lacks a privilege (SQLSTATE 42501)
class FenceLost(DatabaseError): ...               # another consumer has advanced the partition: seek again
class SchemaOutdated(DatabaseError): ...          # migrations are missing, or newer than this version

class StackError(BdlabError): ...
class ServerNotStarted(StackError): ...           # a server of the local stack; names its log file
class StartInterrupted(StackError): ...           # a stop was requested before everything had started
class StackInUse(StackError): ...                 # another `bdlab up` holds the data folder
class BinaryMissing(StackError): ...              # the package or program with a server is not installed
# fmt: on


class RowRejected(DatabaseError):
    """The database refuses the content of this row; `sqlstate` (class 22, 23 or 54) is its code."""

    def __init__(self, message: str, *, sqlstate: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.sqlstate = sqlstate


def require(package: str, *, extra: str, what: str) -> None:
    """Raise InvalidInput if a package of one of bdlab's extras is missing, which `what` needs."""
    if find_spec(package) is None:
        raise InvalidInput(f"{what}, and the package {package} is not installed", hint=f"pip install 'bdlab[{extra}]'")
