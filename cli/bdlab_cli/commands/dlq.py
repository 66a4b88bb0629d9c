"""`bdlab dlq`: dead letters."""

from __future__ import annotations

import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial, wraps
from typing import TYPE_CHECKING, Annotated, Any

from msgspec.structs import replace
from typer import Argument, Exit, Option, Typer

from bdlab import deadletters
from bdlab.deadletters import OPEN, DeadLetterFilter, LetterResult, State, place, state
from bdlab.errors import BdlabError, InvalidInput
from bdlab_cli.options import Moment, StartupTimeout
from bdlab_cli.output import dead_letters, terminal
from bdlab_cli.output.dead_letters import report, summary, table
from bdlab_cli.wiring.session import load_settings, open_session
from bdlab_cli.wiring.signals import stop_on_signal

if TYPE_CHECKING:
    from bdlab.postgres.deadletters import DeadLetters
    from bdlab.vault.session import VaultSession

app = Typer(
    add_completion=False, no_args_is_help=True, help="""List and show dead letters, send them back, and close them."""
)


def _typed(incomplete: str) -> list[tuple[str, str]]:
    """Return what the position that a person types may become, the open letters first; nothing if it takes too long."""
    import bdlab.postgres.deadletters
    import bdlab.vault.session  # noqa: F401 - what takes long on a busy machine is no fault of the servers

    partition, typed, _ = incomplete.partition("/")
    wanted = DeadLetterFilter(partition=int(partition) if typed and partition.isdecimal() else None)
    found: list[tuple[str, str]] = []
    stop = threading.Event()

    def read() -> None:
        with suppress(BdlabError), _opened(0, stop) as (_, letters):
            for letter in letters.find(wanted, limit=100):
                where = place(letter.record.position)
                found.append((where, f"{state(letter)}: {dead_letters.escaped(letter.reason)}"))

    reader = threading.Thread(target=read, daemon=True)  # a server that hangs ends with the process
    reader.start()
    reader.join(1.5)
    stop.set()
    return [(where, remark) for where, remark in tuple(found) if where.startswith(incomplete)]


_place = partial(Argument, metavar="PARTITION/OFFSET", autocompletion=_typed)
_Position = Annotated[str, _place(help="Where it is, such as 3/1207.")]
_Positions = Annotated[list[str] | None, _place(help="Where they are; without any the options choose.")]
_Place = Annotated[int | None, Option(min=0)]
_All = Annotated[bool, Option("--all")]
_Limit = Annotated[int, Option(min=1)]
_Cluster = Annotated[str | None, Option("--cluster")]
#: Fields of a filter, and the options that give them.
_CHOOSING: dict[str, Any] = {"partition": _Place, "cluster_id": _Cluster, "reason": str | None, "sqlstate": str | None}
_CHOOSING |= {"since": Moment, "until": Moment}


def _filtering(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that choose dead letters, in the place of `wanted`, in which it gets them."""
    signature = inspect.signature(command, eval_str=True)

    @wraps(command)
    def filtered(**given: Any) -> None:
        command(wanted=DeadLetterFilter(**{name: given.pop(name) for name in _CHOOSING}), **given)

    parameters = list(signature.parameters.values())
    at = [one.name for one in parameters].index("wanted")
    option = partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY, default=None)
    options = [option(name, annotation=of) for name, of in _CHOOSING.items()]
    filtered.__signature__ = signature.replace(parameters=[*parameters[:at], *options, *parameters[at + 1 :]])  # type: ignore[attr-defined]
    return filtered


@app.command("list")
@_filtering
def list_(
    *,
    wanted: DeadLetterFilter,
    only_open: Annotated[bool, Option("--open", "--pending")] = False,
    limit: _Limit = 50,
    json: bool = False,
    startup_timeout: StartupTimeout = None,
) -> None:
    """List dead letters: first those that are open, the oldest first.

    One that was sent back and came back dead is open at its new position only."""
    wanted = replace(wanted, states=OPEN if only_open else ())
    with _opened(startup_timeout) as (_, letters):
        found, total = letters.find(wanted, limit=limit), letters.count(wanted)
        pending = letters.count(replace(wanted, states=OPEN))
    if json:
        for letter in found:
            terminal.echo_json(summary(letter))
        return
    terminal.stdout().print(table(found, f"{pending} open of {total} dead letters"))
    _tell_of_more(total - len(found), limit)


@app.command()
def show(
    position: _Position,
    offset: Annotated[int | None, Argument(metavar="OFFSET", hidden=True, min=0)] = None,
    *,
    cluster: str | None = None,
    json: bool = False,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Show one dead letter, with all that its record held."""
    from bdlab.wiring.letters import at_place

    with _opened(startup_timeout) as (_, letters):
        written = position if offset is None else place((position, offset))
        letter = at_place(letters, written, cluster)
    terminal.echo_json(summary(letter) | dead_letters.content(letter)) if json else dead_letters.show(letter)


@app.command()
@_filtering
def replay(
    positions: _Positions = None,
    *,
    wanted: DeadLetterFilter,
    offset: _Place = None,
    everything: _All = False,
    again: bool = False,
    max_replays: Annotated[int, Option(min=1)] = 3,
    limit: _Limit = 1000,
    wait: Annotated[float, Option(min=0)] = 30.0,
    dry_run: bool = False,
    json: bool = False,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Send dead letters back to their topic, as they came, and say what became of each.

    Each is a new event at a new position. Exit code 0: all that were chosen are stored (or, with --wait 0,
    sent back); 1: some are not, and it is said why."""
    from bdlab.wiring.letters import chosen
    from bdlab.wiring.letters import replay as send_back

    states: tuple[State, ...] = ("open", "returned", "sent") if again else ("open",)
    wanted = replace(wanted, states=states, offset=offset)
    _require_choice(positions, wanted, everything=everything)
    with stop_on_signal() as stop, _opened(startup_timeout, stop) as (session, letters):
        found, results, more = chosen(letters, positions or (), wanted, limit, again=again)
        returned = 0 if again or positions else letters.count(replace(wanted, states=("returned",)))
        if stop.is_set():
            raise BdlabError("interrupted; nothing was sent back")
        try:
            if dry_run:
                refusal = partial(deadletters.refusal, max_replays=max_replays)
                results += [LetterResult(letter=letter, problem=refusal(letter)) for letter in found]
            elif found:
                results.extend(send_back(session, letters, found, max_replays=max_replays))
                results = deadletters.await_replays(results, letters.replay_outcomes, wait_s=wait, stop=stop)
        finally:  # what was sent is said in any case
            done = f"sent back{f', not recorded within {wait:g} s' if wait else ''}"
            _report(results, "to be sent back" if dry_run else done, "not sent back", as_json=json)
    if returned:
        terminal.echo(f"{returned} came back dead from a replay before: --again sends them again", err=True)
    _tell_of_more(more, limit)
    unsettled = wait > 0 and not dry_run
    if any(one.problem or (unsettled and not (one.outcome and one.outcome.became != "dead")) for one in results):
        raise Exit(BdlabError.exit_code)


@app.command()
@_filtering
def discard(
    positions: _Positions = None,
    *,
    because: str = "",
    wanted: DeadLetterFilter,
    everything: _All = False,
    limit: _Limit = 1000,
    dry_run: bool = False,
    json: bool = False,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Close dead letters that nobody has to see to any more, and keep why.

    They stay dead letters to `verify`, and are no longer open to `list`, `replay` and `status`. Exit code 1:
    some were closed already, and it is said how."""
    from bdlab.wiring.letters import chosen

    if not because.strip():
        raise InvalidInput("no reason is given", hint='Say why with --because, such as --because "a test".')
    wanted = replace(wanted, states=(*OPEN, "sent"))
    _require_choice(positions, wanted, everything=everything)
    with _opened(startup_timeout) as (_, letters):
        found, results, more = chosen(letters, positions or (), wanted, limit, again=True)
        if not dry_run:
            letters.discard([letter.record.position for letter in found], because=because)
    results += [LetterResult(letter=letter) for letter in found]
    _report(results, "to be discarded" if dry_run else "discarded", "not discarded", as_json=json)
    _tell_of_more(more, limit)
    if any(one.problem for one in results):
        raise Exit(BdlabError.exit_code)


def _report(results: list[LetterResult], done: str, not_done: str, *, as_json: bool) -> None:
    """Print what became of each, and how many of each kind; `done` is said of what went well."""
    kinds = Counter(report(result, done, not_done, as_json=as_json) for result in results)
    terminal.echo(", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "nothing to do", err=True)


def _tell_of_more(more: int, limit: int) -> None:
    if more:
        terminal.echo(f"{more} more were not looked at: --limit {limit} was reached", err=True)


def _require_choice(positions: list[str] | None, wanted: DeadLetterFilter, *, everything: bool) -> None:
    """Raise InvalidInput if nothing chooses, or both positions and filters do; a cluster goes with either."""
    filters = (wanted.partition, wanted.offset, wanted.reason, wanted.sqlstate, wanted.since, wanted.until)
    chosen = everything or any(value is not None for value in filters)
    if positions and chosen:
        raise InvalidInput("positions are given, and so are options that choose", hint="Give one of the two.")
    if not positions and not chosen and wanted.cluster_id is None:
        hint = "Name positions (3/1207), give a filter (--help lists them), or --all."
        raise InvalidInput("nothing says which dead letters", hint=hint)


@contextmanager
def _opened(
    startup_timeout: float | None, stop: threading.Event | None = None
) -> Iterator[tuple[VaultSession, DeadLetters]]:
    from bdlab.postgres.deadletters import DeadLetters

    layers = load_settings({"startup_timeout_s": startup_timeout}, quiet=True)
    with open_session(layers, stop, service="dlq", database=True) as session, DeadLetters(session) as letters:
        yield session, letters
