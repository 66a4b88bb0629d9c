"""Options that several commands have, each declared once, and the values that they take.

An option without an `envvar` has the environment twin BDLAB_<COMMAND>_<OPTION> (see `app.load_command`). That of a
`setting` is the setting's, or that of the same option of other commands. The help of an option that one command has, or
that means another thing to it, is in the docstring of the command.

Options:
    --startup-timeout SECONDS: How long to wait at the start for servers that are away, and for a sealed Vault.
    --keys-file FILE: The keys of this Vault (0600); if it is missing for one set up before, a terminal asks.
    --identity-dir FOLDER: Where the services' identities are, a folder each.
    --data-dir: The data folder of the stack.
    --broker NAME: kafka is Apache Kafka, secured, fetched once into the user's cache; tansu keeps its log in memory
        only; auto is what the folder began with, and for a new one kafka, or tansu if that cannot be had.
    --admin-servers SERVERS: Where a secured broker takes its administrator: host:port, or several with commas.
    --model CARD: Model card or joblib file; `shipped` is bdlab's own.
    --model-version: The model's version. NAME@VERSION stands in every prediction.
    --delimiter CHAR: What is between the columns of a CSV file: a character such as ; or the word tab.
    --tls-cert FILE: PEM file: certificate chain; serves HTTPS. A new one in its place is served without a restart
    --tls-key FILE: PEM file: the certificate's private key
    --json: Print the result as JSON.
    --dry-run: Say what would be done, and change nothing.
"""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import BadParameter, Option

from bdlab_cli.completion import cards


def setting(name: str, default: str | bool = True, **more: Any) -> Any:
    """Return the option that a setting such as `http.port` has.

    `default` says what holds if it is not given, and True that the parameter's own default tells it.
    """
    return Option(envvar=f"BDLAB_{name.replace('.', '_').upper()}", show_default=default, **more)


StartupTimeout = Annotated[float | None, setting("startup_timeout", "60; 5 at a terminal, except for daemons")]
KeysFile = Annotated[Path, setting("vault.keys_file", "vault-keys.json in ~/.local/state/bdlab")]
KEYS_FILE = Path("~/.local/state/bdlab/vault-keys.json")
IdentityDir = Annotated[str | None, setting("vault.identity_dir", "identity in ~/.local/state/bdlab")]
DataDir = Annotated[Path, setting("stack.data_dir")]
DATA_DIR = Path("~/.local/share/bdlab")
BrokerName = Literal["auto", "kafka", "tansu"]
Broker = Annotated[BrokerName, setting("stack.broker")]
AdminServers = Annotated[str, setting("kafka.admin_servers", "none")]
ModelPath = Annotated[str | None, setting("model.path", "the shipped one", autocompletion=cards)]


def delimiter(text: str) -> str:
    """Return the character that `text` stands for. Raises BadParameter."""
    found = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(found) != 1 or found in '"\r\n':
        raise BadParameter("give one character, or the word tab")
    return found


Delimiter = Annotated[str, Option(parser=delimiter)]

_LONGEST = timedelta(days=36_525)


def age(text: str) -> timedelta:
    """Read a number and one of s, m, h, d, w; at most 100 years. Raises BadParameter."""
    from bdlab.settings import duration

    try:
        length = duration(text)
    except ValueError:
        raise BadParameter(f"{text!r} is no age: give a number and one of s, m, h, d, w, such as 30d") from None
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
