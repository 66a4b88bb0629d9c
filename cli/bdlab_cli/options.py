"""Options that several commands have, each declared once: the same name, environment twin and words."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bdlab.settings import duration

StartupTimeout = Annotated[
    float | None,
    typer.Option(
        "--startup-timeout",
        envvar="BDLAB_STARTUP_TIMEOUT",
        metavar="SECONDS",
        show_default="60; 5 at a terminal, but for daemons",
        help="How long to wait at the start for servers that are away, and for a sealed Vault.",
    ),
]

KeysFile = Annotated[
    Path,
    typer.Option(
        "--keys-file",
        envvar="BDLAB_KEYS_FILE",
        metavar="FILE",
        show_default="vault-keys.json in ~/.local/state/bdlab",
        help="The keys of this Vault (0600); where it is missing for one set up before, a terminal asks.",
    ),
]
KEYS_FILE = Path("~/.local/state/bdlab/vault-keys.json")

IdentityDir = Annotated[
    str | None,
    typer.Option(
        "--identity-dir",
        envvar="BDLAB_VAULT_IDENTITY_DIR",
        metavar="FOLDER",
        show_default="identity in ~/.local/state/bdlab",
        help="Where the services' identities are, a folder each.",
    ),
]

DataDir = Annotated[
    Path,
    typer.Option("--data-dir", envvar="BDLAB_DATA_DIR", help="The data folder of the stack."),
]
DATA_DIR = Path("~/.local/share/bdlab")

BrokerName = Literal["auto", "kafka", "tansu"]
Broker = Annotated[
    BrokerName,
    typer.Option(
        "--broker",
        envvar="BDLAB_BROKER",
        help="kafka is Apache Kafka, secured, fetched once into the user's cache; tansu keeps its log in "
        "memory only; auto is what the folder began with, and for a new one kafka, or tansu if that "
        "cannot be had.",
    ),
]


def _delimiter(text: str) -> str:
    found = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(found) != 1 or found in '"\r\n':
        raise typer.BadParameter("give one character, or the word tab")
    return found


def delimiter(envvar: str) -> Any:
    """What is between the columns of a CSV file."""
    return typer.Option(
        "--delimiter",
        envvar=envvar,
        metavar="CHAR",
        parser=_delimiter,
        help="What is between the columns of a CSV file: a character such as ; or the word tab.",
    )


AdminServers = Annotated[
    str,
    typer.Option(
        "--admin-servers",
        envvar="BDLAB_KAFKA_ADMIN_SERVERS",
        metavar="SERVERS",
        show_default="none",
        help="Where a secured broker takes its administrator: host:port, or several with commas.",
    ),
]


def key_number(envvar: str, words: str, *, show_default: bool | str = True) -> Any:
    """An option for a number of key shares, as many as Vault takes; its name is its parameter's."""
    return typer.Option(envvar=envvar, min=1, max=255, help=words, show_default=show_default)


_LONGEST = timedelta(days=36_525)


def age(text: str) -> timedelta:
    """A number and one of s, m, h, d, w; at most 100 years. Raises typer.BadParameter."""
    try:
        length = duration(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no age: give a number and one of s, m, h, d, w, such as 30d"
        ) from None
    if length > _LONGEST:
        raise typer.BadParameter(f"{text!r} is more than 100 years")
    return length


def moment(text: str) -> datetime:
    """An ISO 8601 moment (UTC where it names no zone), or how long ago. Raises typer.BadParameter."""
    with suppress(ValueError):
        duration(text)
        return datetime.now(UTC) - age(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no moment: give an ISO 8601 date or time, or an age such as 2h"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
