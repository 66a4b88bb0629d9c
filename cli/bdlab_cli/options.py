"""Options that several commands have, each declared once, and the values that they take.

An option without an `envvar` has the environment twin BDLAB_<COMMAND>_<OPTION> (see `app.load_command`).
Those with one share it with a setting, or with the same option of other commands.
"""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from typer import BadParameter, Option

StartupTimeout = Annotated[
    float | None,
    Option(
        envvar="BDLAB_STARTUP_TIMEOUT",
        metavar="SECONDS",
        show_default="60; 5 at a terminal, except for daemons",
        help="How long to wait at the start for servers that are away, and for a sealed Vault.",
    ),
]

KeysFile = Annotated[
    Path,
    Option(
        envvar="BDLAB_VAULT_KEYS_FILE",
        metavar="FILE",
        show_default="vault-keys.json in ~/.local/state/bdlab",
        help="The keys of this Vault (0600); if it is missing for one set up before, a terminal asks.",
    ),
]
KEYS_FILE = Path("~/.local/state/bdlab/vault-keys.json")

IdentityDir = Annotated[
    str | None,
    Option(
        envvar="BDLAB_VAULT_IDENTITY_DIR",
        metavar="FOLDER",
        show_default="identity in ~/.local/state/bdlab",
        help="Where the services' identities are, a folder each.",
    ),
]

DataDir = Annotated[Path, Option(envvar="BDLAB_STACK_DATA_DIR", help="The data folder of the stack.")]
DATA_DIR = Path("~/.local/share/bdlab")

BrokerName = Literal["auto", "kafka", "tansu"]
Broker = Annotated[
    BrokerName,
    Option(
        envvar="BDLAB_STACK_BROKER",
        metavar="NAME",
        help="kafka is Apache Kafka, secured, fetched once into the user's cache; tansu keeps its log in "
        "memory only; auto is what the folder began with, and for a new one kafka, or tansu if that "
        "cannot be had.",
    ),
]

AdminServers = Annotated[
    str,
    Option(
        envvar="BDLAB_KAFKA_ADMIN_SERVERS",
        metavar="SERVERS",
        show_default="none",
        help="Where a secured broker takes its administrator: host:port, or several with commas.",
    ),
]

ModelPath = Annotated[
    str | None,
    Option(
        "--model",
        envvar="BDLAB_MODEL_PATH",
        metavar="CARD",
        show_default="the shipped one",
        help="Model card or joblib file; `shipped` is bdlab's own.",
    ),
]

DryRun = Annotated[bool, Option("--dry-run", help="Say what would be done, and change nothing.")]


def delimiter(text: str) -> str:
    """Return the character that `text` stands for. Raises BadParameter."""
    found = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(found) != 1 or found in '"\r\n':
        raise BadParameter("give one character, or the word tab")
    return found


Delimiter = Annotated[
    str,
    Option(
        metavar="CHAR",
        parser=delimiter,
        help="What is between the columns of a CSV file: a character such as ; or the word tab.",
    ),
]

_LONGEST = timedelta(days=36_525)


def age(text: str) -> timedelta:
    """Read a number and one of s, m, h, d, w; at most 100 years. Raises BadParameter."""
    from bdlab.settings import duration

    try:
        length = duration(text)
    except ValueError:
        raise BadParameter(
            f"{text!r} is no age: give a number and one of s, m, h, d, w, such as 30d"
        ) from None
    if length > _LONGEST:
        raise BadParameter(f"{text!r} is more than 100 years")
    return length


def moment(text: str) -> datetime:
    """Read an ISO 8601 moment (UTC if it names no zone), or an age. Raises BadParameter."""
    with suppress(ValueError):
        found = datetime.fromisoformat(text)
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    with suppress(BadParameter):
        return datetime.now(UTC) - age(text)
    raise BadParameter(f"{text!r} is no moment: give an ISO 8601 date or time, or an age such as 2h")
