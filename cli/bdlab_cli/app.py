"""The command tree and the one error boundary.

Commands are declared here by name only; the module of a command is imported when it is invoked or when its
own help is asked for, so that ``bdlab --help`` stays instant.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import os
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from bdlab_cli.output import terminal

#: name -> (module, one line of help, panel). The module has a Typer application `app` of one command or more.
COMMANDS = {
    "up": ("up", "Run the whole pipeline on this machine, in the foreground.", "Local stack"),
    "demo": ("demo", "Run the whole pipeline once in a throw-away folder and prove it.", "Local stack"),
    "env": ("env", "Print the exports that point this terminal at a running local stack.", "Local stack"),
    "backup": ("backup", "Back up a running local stack: Vault, the database, the keys.", "Local stack"),
    "restore": ("restore", "Make a new local stack from a backup.", "Local stack"),
    "fetch-kafka": ("fetch_kafka", "Fetch Apache Kafka into the user's cache.", "Local stack"),
    "serve": ("serve", "Serve predictions over HTTP.", "Pipeline"),
    "predict": ("predict", "Predict from one review or a file of them, and publish.", "Pipeline"),
    "consume": ("consume", "Store the topic's events in PostgreSQL, each exactly once.", "Pipeline"),
    "status": ("status", "Check Vault, Kafka, PostgreSQL, the model and the API.", "Diagnostics"),
    "verify": ("verify", "Prove with numbers that each offset is stored exactly once.", "Diagnostics"),
    "dlq": ("dlq", "List, show and replay dead letters.", "Diagnostics"),
    "vault-init": ("vault_init", "Take a Vault from any state to the finished set-up.", "Set-up"),
    "vault-token": (
        "vault_token",
        "Run a command with a short-lived administrator's token of Vault.",
        "Set-up",
    ),
    "vault-rekey": ("vault_rekey", "Replace the key shares or the recovery key of Vault.", "Set-up"),
    "broker-certificate": (
        "broker_certificate",
        "Get a secured broker's certificate from Vault, before its first start.",
        "Set-up",
    ),
    "server-certificate": (
        "server_certificate",
        "Get certificates for Vault, PostgreSQL and the API from Vault.",
        "Set-up",
    ),
    "migrate": ("migrate", "Bring the database schema and the topic up to date.", "Set-up"),
    "rotate": ("rotate", "Rotate database, Kafka and AppRole credentials while everything runs.", "Set-up"),
    "prune": ("prune", "Delete old rows, and keep the accounting right.", "Set-up"),
    "train": ("train", "Train the model from a CSV of reviews and write it with its card.", "Model"),
}


class LazyGroup(TyperGroup):
    """A group that knows its commands' names and help lines, and imports a command when it is used."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override] # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> TyperCommand | None:  # type: ignore[override] # noqa: ARG002
        """The command's name and line of help, which is enough for a listing."""
        if cmd_name not in COMMANDS:
            return None
        _, help_line, panel = COMMANDS[cmd_name]
        return TyperCommand(cmd_name, help=help_line, rich_help_panel=panel)

    def invoke(self, ctx: Any) -> Any:
        """Wrong usage is told by Typer, with the words that were typed; those may be names of files."""
        try:
            return super().invoke(ctx)
        except TyperException as error:
            error.message = terminal.visible(error.message)
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        # Where a name is mistyped, Typer suggests the nearest of these.
        self.commands = self.commands or {name: self.get_command(ctx, name) for name in COMMANDS}  # type: ignore[misc]
        name, listed, rest = super().resolve_command(ctx, args)
        if name is None or listed is None:
            return name, listed, rest
        module, help_line, _ = COMMANDS[name]
        if "--help" not in rest:
            _import_structlog_alone()
        command = typer.main.get_command(importlib.import_module(f"bdlab_cli.commands.{module}").app)
        command.name = name
        command.help = command.help or help_line
        _unwrap_help(command)
        return name, command, rest


def _import_structlog_alone() -> None:
    """It imports all of Rich for tracebacks that bdlab never shows: a quarter of each command's start."""
    if "rich" not in sys.modules:
        sys.modules["rich"] = None  # type: ignore[assignment]
        import structlog  # noqa: F401

        del sys.modules["rich"]


def _unwrap_help(command: Any) -> None:
    """Let the terminal break the lines of help texts, not the source; of a group's commands too."""
    command.help = "\n\n".join(
        paragraph.replace("\n", " ") for paragraph in inspect.cleandoc(command.help or "").split("\n\n")
    )
    for child in getattr(command, "commands", {}).values():
        _unwrap_help(child)


app = typer.Typer(cls=LazyGroup, name="bdlab", no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        from bdlab import __version__

        terminal.echo(f"bdlab {__version__}")
        raise typer.Exit


@app.callback()
def root(
    debug: bool = typer.Option(
        False, "--debug", envvar="BDLAB_DEBUG", help="Show the traceback of an error."
    ),
    config: str = typer.Option(
        "",
        "--config",
        envvar="BDLAB_CONFIG",
        metavar="FILE",
        help="Settings file (default: ./bdlab.toml, if nobody else may write it)",
    ),
    version: bool = typer.Option(
        False, "--version", is_eager=True, callback=_print_version, help="Show the version."
    ),
) -> None:
    """A scikit-learn review model as a durable prediction pipeline: HTTP, Kafka, PostgreSQL, Vault."""
    del version
    # Commands and the processes that they start read these two where they need them.
    if debug:
        os.environ["BDLAB_DEBUG"] = "1"
    if config:
        os.environ["BDLAB_CONFIG"] = config


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line and exit with its code: 0 done, 1 could not, 2 wrong usage, 10 not healthy."""
    terminal.prepare()
    # Imports make many objects and next to no garbage: to look for it every 700 takes a tenth of a start.
    gc.set_threshold(50_000)
    try:
        app(args=arguments, prog_name="bdlab", standalone_mode=True)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except Exception as error:  # noqa: BLE001 - the one boundary: each error becomes a message and a code
        code = _report(error)
    sys.exit(terminal.finish(code))


def _report(error: Exception) -> int:
    from bdlab.errors import BdlabError

    if os.environ.get("BDLAB_DEBUG"):
        import traceback

        terminal.echo("".join(traceback.format_exception(error)), err=True)
    if isinstance(error, BdlabError):
        lines = [f"error: {error.message}", error.hint]
        code = error.exit_code
    else:
        lines = [
            f"error: {type(error).__name__}: {error}",
            "This is a defect of bdlab: run `bdlab --debug ...` and report what it shows.",
        ]
        code = 1
    terminal.echo("\n".join(line for line in lines if line), err=True)
    return code
