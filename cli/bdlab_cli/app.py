"""The command tree, and the one place where an error becomes a message and an exit code.

Commands are declared in `commands.json` by name only. The module of a command is imported when it is run or its own
help is asked for, so that ``bdlab --help`` stays fast."""

import gc
import importlib
import inspect
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.exceptions import TyperException

from bdlab_cli.output import terminal
from bdlab_cli.output.progress import tell_of_wait

#: name -> (one line of help, panel). The command is a function of its name in the module of its name.
COMMANDS = {
    name: (line, panel)
    for panel, lines in json.loads(Path(__file__).with_name("commands.json").read_text("utf-8")).items()
    for name, line in lines.items()
}


class LazyGroup(TyperGroup):
    """A group that knows its commands' names and help lines, and imports a command when it is used."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override] # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> TyperCommand | None:  # type: ignore[override] # noqa: ARG002
        """Return the command's name and line of help, which is enough for a listing."""
        if cmd_name not in COMMANDS:
            return None
        help_line, panel = COMMANDS[cmd_name]
        return TyperCommand(cmd_name, help=help_line, short_help=help_line, rich_help_panel=panel)

    def twins(self) -> set[str]:
        """Return the environment twins of all options of all commands."""
        groups, found = [self, *map(load_command, COMMANDS)], {"BDLAB_DEBUG", "BDLAB_CONFIG"}
        for each in groups:
            found |= {str(one.envvar) for one in each.params if isinstance(one, TyperOption)}
            groups += getattr(each, "commands", {}).values() if each is not self else ()
        return found

    def invoke(self, ctx: Any) -> Any:
        """Run the command; wrong usage is told by Typer, with the words that were typed made visible."""
        try:
            return super().invoke(ctx)
        except TyperException as error:
            error.message = terminal.visible(error.message)
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        # If a name is mistyped, Typer suggests the nearest of these.
        self.commands = self.commands or {name: self.get_command(ctx, name) for name in COMMANDS}  # type: ignore[misc]
        name, listed, rest = super().resolve_command(ctx, args)
        if name is None or listed is None:
            return name, listed, rest
        if "--help" not in rest:
            _import_structlog_alone()
        if name not in {"serve", "consume"}:
            tell_of_wait(f"bdlab {name}")
        return name, load_command(name), rest


def load_command(name: str) -> Any:
    """Import the command `name`, and return it as Typer runs it."""
    module = name.replace("-", "_")
    found = importlib.import_module(f"bdlab_cli.commands.{module}")
    command_app = getattr(found, "app", None) or typer.Typer(add_completion=False)
    if not command_app.registered_commands:
        command_app.command()(getattr(found, module))
    command = typer.main.get_command(command_app)
    command.name = name
    command.help = command.help or COMMANDS[name][0]
    texts = json.loads((Path(__file__).with_name("options.json")).read_text("utf-8"))
    _finish(command, name, texts["shared"], texts)
    return command


def _finish(command: Any, path: str, shared: dict[str, str], texts: dict[str, dict[str, str]]) -> None:
    """Let the terminal break the lines of help texts, and give each option its help and environment twin. `texts` has
    what options.json says of the options of each command, as `--name METAVAR` or, for a flag that can be taken back,
    `--name/--no-name`; `shared` is what the groups that `path` is in say. Those of a group share its prefix:
    BDLAB_DLQ_LIMIT is of `dlq list` and of `dlq replay`."""
    command.help = "\n\n".join(each.replace("\n", " ") for each in inspect.cleandoc(command.help or "").split("\n\n"))
    shared = shared | texts.get(path, {})
    described = {name.partition("/")[0].partition(" ")[0]: name for name in shared}  # a command's own come last
    prefix = f"BDLAB_{path.partition(' ')[0].replace('-', '_').upper()}"
    for option in (one for one in command.params if isinstance(one, TyperOption)):
        name = option.opts[0]
        text = described[name]
        option.metavar, option.help = text.partition(" ")[2] or None, shared[text]
        if "/" not in text:
            option.secondary_opts = []  # Typer makes one for each flag
        if option.envvar is None:
            option.envvar = f"{prefix}_{name.lstrip('-').replace('-', '_').upper()}"
    for name, child in getattr(command, "commands", {}).items():
        _finish(child, f"{path} {name}", shared, texts)


def _convert_seldom() -> None:
    """Let Typer convert only the values that need it: it loads pydantic for that, a fifth of a short start. A default,
    and the text of a parameter that takes any text, are what the command gets already."""
    convert = TyperOption.process_value

    def process(self: Any, ctx: typer.Context, value: Any) -> Any:
        kind = self.type_descriptor.annotation
        if kind == list[str] and isinstance(value, tuple):
            value = list(value) or self.default
        plain = value is self.default or (isinstance(value, str | list) and kind in (str, list[str]))
        if (not plain or self.required) and not ctx.resilient_parsing:  # as a shell's completion is
            return convert(self, ctx, value)
        return value if self.callback is None else self.callback(ctx, self, value)

    TyperOption.process_value = TyperArgument.process_value = process  # type: ignore[assignment]


_convert_seldom()  # once for each process, and not at each call of main()


def _import_structlog_alone() -> None:
    """Import structlog without Rich, which it loads for tracebacks that are never shown: a quarter of each start."""
    if "rich" not in sys.modules:
        sys.modules["rich"] = None  # type: ignore[assignment]
        import structlog  # noqa: F401

        del sys.modules["rich"]


_CONFIG_HELP = "Settings file (default: ./bdlab.toml, if nobody else may write it)"
app = typer.Typer(cls=LazyGroup, name="bdlab", no_args_is_help=True, pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        from bdlab import __version__

        terminal.echo(f"bdlab {__version__}")
        raise typer.Exit


@app.callback()
def root(
    *,
    debug: Annotated[bool, Option("--debug", envvar="BDLAB_DEBUG", help="Show the traceback of an error.")] = False,
    config: Annotated[str, Option(envvar="BDLAB_CONFIG", metavar="FILE", help=_CONFIG_HELP)] = "",
    version: Annotated[bool, Option("--version", is_eager=True, callback=_version, help="Show the version.")] = False,
) -> None:
    """A model as a durable prediction pipeline: HTTP, Kafka, PostgreSQL, Vault."""
    del version
    # Commands, and the processes that they start, read these two from the environment.
    if debug:
        os.environ["BDLAB_DEBUG"] = "1"
    if config:
        os.environ["BDLAB_CONFIG"] = config


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line, and exit with its code: 0 done, 1 could not, 2 wrong usage, 10 not healthy."""
    terminal.prepare()
    if os.environ.get("_BDLAB_COMPLETE", "").startswith("complete"):
        # A shell that completes wants names at once, and nothing of what went wrong: without Rich that takes a third.
        sys.modules["rich"] = None  # type: ignore[assignment]
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    # Imports make many objects and hardly any garbage: looking for it every 700 takes a tenth of a start.
    gc.set_threshold(50_000)
    try:
        app(args=arguments, prog_name="bdlab", standalone_mode=True)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except Exception as error:  # noqa: BLE001 - the one boundary: each error becomes a message and a code
        code = _report(error)
    # The interpreter looks for garbage three times on its way out, which takes a fifth of a short command.
    gc.freeze()
    sys.exit(terminal.finish(code))


def _report(error: Exception) -> int:
    from bdlab.errors import BdlabError

    if os.environ.get("BDLAB_DEBUG"):
        import traceback

        terminal.echo("".join(traceback.format_exception(error)), err=True)
    hint = "This is a defect of bdlab: run `bdlab --debug ...` and report what it shows."
    lines, code = [f"error: {type(error).__name__}: {error}", hint], 1
    if isinstance(error, BdlabError):
        lines, code = [f"error: {error.message}", error.hint], error.exit_code
    terminal.echo("\n".join(filter(None, lines)), err=True)
    return code
