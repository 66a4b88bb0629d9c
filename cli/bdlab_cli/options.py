"""Options that several commands have, each declared once, and the values that they take.

An option without an `envvar` has the environment twin BDLAB_<COMMAND>_<OPTION> (see `app.load_command`). That of a
`setting` is the setting's, or that of the same option of other commands. The help of an option that one command has, or
that means another thing to it, is under the name of the command in options.json."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import BadParameter, Option

from bdlab_cli.completion import cards


def setting(name: str, default: str | bool = True, **more: Any) -> Any:
    """Return the option that a setting such as `http.port` has. `default` says what holds if it is not given, and True
    that the parameter's own default tells it."""
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
Registry = Annotated[str | None, setting("model.registry", "none")]


def delimiter(text: str) -> str:
    """Return the character that `text` stands for. Raises BadParameter."""
    found = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(found) != 1 or found in '"\r\n':
        raise BadParameter("give one character, or the word tab")
    return found


Delimiter = Annotated[str, Option(parser=delimiter)]
FileFormat = Annotated[
    Literal["csv", "jsonl", "parquet"] | None, Option("--format", show_default="by suffix or content")
]


def age(text: str) -> timedelta:
    """Read a number and one of s, m, h, d, w; at most 100 years. Raises BadParameter."""
    from bdlab.settings import duration

    try:
        length = duration(text)
    except ValueError:
        raise BadParameter(f"{text!r} is no age: give a number and one of s, m, h, d, w, such as 30d") from None
    if length > timedelta(days=36_525):
        raise BadParameter(f"{text!r} is more than 100 years")
    return length


def moment(text: str) -> datetime:
    """Read an ISO 8601 moment (UTC if it names no zone), or an age. Raises BadParameter."""
    from bdlab import values

    try:
        return values.past(text)
    except ValueError as error:
        raise BadParameter(str(error)) from None


Moment = Annotated[datetime | None, Option(parser=moment)]
Since = Annotated[datetime | None, Option("--since", "--last", parser=moment, show_default="all")]
Until = Annotated[datetime | None, Option(parser=moment, show_default="now")]
