"""`bdlab dlq`: dead letters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from bdlab_cli import terminal
from bdlab_cli.options import StartupTimeout

if TYPE_CHECKING:
    from bdlab.deadletters import DeadLetterFilter, Outcome, StoredDeadLetter
    from bdlab.kafka.producer import Producer
    from bdlab.postgres.deadletters import DeadLetters
    from bdlab.vault.session import VaultSession

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="List, show and replay dead letters.",
)

_COULD_NOT = 1
_SHOWN_BYTES = 2000

_PARTITION = typer.Option(None, "--partition", envvar="BDLAB_DLQ_PARTITION", min=0, help="Of this partition.")
_CLUSTER = typer.Option(
    None, "--cluster", envvar="BDLAB_DLQ_CLUSTER", metavar="ID", help="Of the log with this cluster id."
)
_REASON = typer.Option(
    None,
    "--reason",
    envvar="BDLAB_DLQ_REASON",
    metavar="TEXT",
    help="Whose reason holds this text, in any case.",
)
_SQLSTATE = typer.Option(
    None,
    "--sqlstate",
    envvar="BDLAB_DLQ_SQLSTATE",
    metavar="CODE",
    help="Refused with this SQLSTATE, or its first characters (23 is a class).",
)
_SINCE = typer.Option(
    None,
    "--since",
    envvar="BDLAB_DLQ_SINCE",
    metavar="WHEN",
    help="Recorded since: ISO 8601, or an age such as 2h.",
)
_UNTIL = typer.Option(None, "--until", envvar="BDLAB_DLQ_UNTIL", metavar="WHEN", help="Recorded before.")
_JSON = typer.Option(False, "--json", envvar="BDLAB_DLQ_JSON", help="JSON, an object a line.")


@app.command("list")
def list_(
    partition: int | None = _PARTITION,
    cluster: str | None = _CLUSTER,
    reason: str | None = _REASON,
    sqlstate: str | None = _SQLSTATE,
    since: str | None = _SINCE,
    until: str | None = _UNTIL,
    pending: bool = typer.Option(
        False, "--pending", envvar="BDLAB_DLQ_PENDING", help="Only what was not replayed yet."
    ),
    limit: int = typer.Option(50, "--limit", envvar="BDLAB_DLQ_LIMIT", min=1, help="At most this many."),
    as_json: bool = _JSON,
    startup_timeout: StartupTimeout = None,
) -> None:
    """List dead letters, the oldest first."""
    wanted = _filter(partition, cluster, reason, sqlstate, since, until, pending=pending)
    with _opened(startup_timeout) as (_, letters):
        found, total = letters.find(wanted, limit=limit), letters.count(wanted)
    if as_json:
        for letter in found:
            terminal.echo_json(_summary(letter))
        return
    from rich.table import Table

    from bdlab_cli import wiring

    table = Table(title=f"{len(found)} of {total} dead letters")
    for name in ("recorded", "cluster", "partition", "offset", "sqlstate", "replays", "reason"):
        table.add_column(name, justify="right" if name in {"partition", "offset", "replays"} else "left")
    for letter in found:
        at = letter.record.position
        table.add_row(
            f"{letter.recorded_at:%Y-%m-%d %H:%M:%S}",
            at.cluster_id,
            str(at.partition),
            str(at.offset),
            letter.sqlstate,
            str(letter.replays),
            _escaped(letter.reason),
        )
    wiring.out().print(table)


@app.command()
def show(
    partition: int = typer.Argument(..., min=0),
    offset: int = typer.Argument(..., min=0),
    cluster: str | None = _CLUSTER,
    as_json: bool = _JSON,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Show the dead letter at PARTITION OFFSET, with all that its record held."""
    from bdlab.deadletters import DeadLetterFilter
    from bdlab.errors import InvalidInput

    wanted = DeadLetterFilter(cluster_id=cluster, partition=partition, offset=offset)
    with _opened(startup_timeout) as (_, letters):
        found = letters.find(wanted, limit=2)
    if not found:
        raise InvalidInput(f"there is no dead letter at partition {partition}, offset {offset}")
    if len(found) > 1:
        ids = ", ".join(letter.record.position.cluster_id for letter in found)
        raise InvalidInput(
            f"several logs have a dead letter at partition {partition}, offset {offset}: {ids}",
            hint="Say which with --cluster.",
        )
    letter = found[0]
    if as_json:
        terminal.echo_json(_summary(letter) | _content(letter))
        return
    at = letter.record.position
    terminal.echo(f"position  {at.topic}/{at.partition} offset {at.offset} of {at.cluster_id}")
    terminal.echo(f"recorded  {letter.recorded_at.isoformat()}")
    terminal.echo(f"reason    {_escaped(letter.reason)}")
    terminal.echo(f"sqlstate  {letter.sqlstate or '-'}")
    terminal.echo(f"replays   {letter.replays}")
    terminal.echo(f"key       {_shown(letter.record.key)}")
    for name, value in letter.record.headers:
        terminal.echo(f"header    {_escaped(name)}: {_shown(value)}")
    terminal.echo(f"value     {_shown(letter.record.value)}")


@app.command()
def replay(
    partition: int | None = _PARTITION,
    offset: int | None = typer.Option(
        None, "--offset", envvar="BDLAB_DLQ_OFFSET", min=0, help="At this offset."
    ),
    cluster: str | None = _CLUSTER,
    reason: str | None = _REASON,
    sqlstate: str | None = _SQLSTATE,
    since: str | None = _SINCE,
    until: str | None = _UNTIL,
    everything: bool = typer.Option(
        False, "--all", envvar="BDLAB_DLQ_ALL", help="All of them; without a filter this has to be said."
    ),
    again: bool = typer.Option(
        False, "--again", envvar="BDLAB_DLQ_AGAIN", help="Also what was replayed from its position already."
    ),
    max_replays: int = typer.Option(
        3,
        "--max-replays",
        envvar="BDLAB_DLQ_MAX_REPLAYS",
        min=1,
        help="Leave out what was replayed this often, in all its lives.",
    ),
    limit: int = typer.Option(1000, "--limit", envvar="BDLAB_DLQ_LIMIT", min=1, help="At most this many."),
    dry_run: bool = typer.Option(
        False, "--dry-run", envvar="BDLAB_DLQ_DRY_RUN", help="Only say what would be sent back."
    ),
    as_json: bool = _JSON,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Send dead letters back to the topic, as they came; each is a new event at a new position.

    Exit code 0: all that were chosen were sent back; 1: some were not, and it is said why.
    """
    from bdlab import deadletters
    from bdlab.errors import InvalidInput
    from bdlab.kafka.producer import Producer

    filters = (partition, offset, cluster, reason, sqlstate, since, until)
    if not everything and all(value is None for value in filters):
        raise InvalidInput(
            "no filter says which dead letters to replay",
            hint="Give one (`bdlab dlq replay --help` lists them), or --all.",
        )
    wanted = _filter(partition, cluster, reason, sqlstate, since, until, offset=offset, pending=not again)
    problems = sent = 0
    with _opened(startup_timeout) as (session, letters):
        found = letters.find(wanted, limit=limit)
        more = letters.count(wanted) - len(found) if len(found) == limit else 0
        if dry_run:
            outcomes = iter(_would(found, max_replays))
        else:
            producer = Producer(session, client_id="bdlab-dlq", source="/bdlab/dlq")
            replays = deadletters.replay(found, producer, letters, max_replays=max_replays)
            outcomes = _with_open(producer, replays)
        for outcome in outcomes:
            problems += bool(outcome.problem)
            sent += not outcome.problem
            _report(outcome, as_json=as_json)
    terminal.echo(f"{sent} {'would be ' if dry_run else ''}sent back, {problems} not", err=True)
    if more:
        terminal.echo(f"{more} more were not looked at: --limit {limit} was reached", err=True)
    if problems:
        raise typer.Exit(_COULD_NOT)


def _with_open(producer: Producer, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """The outcomes, with the producer open for as long as they come."""
    with producer:
        yield from outcomes


def _would(letters: list[StoredDeadLetter], max_replays: int) -> list[Outcome]:
    from bdlab.deadletters import Outcome, refusal

    return [Outcome(letter=letter, problem=refusal(letter, max_replays=max_replays)) for letter in letters]


def _report(outcome: Outcome, *, as_json: bool) -> None:
    at, new = outcome.letter.record.position, outcome.replay
    if as_json:
        import msgspec

        terminal.echo_json(
            {
                "position": msgspec.to_builtins(at),
                "replay": msgspec.to_builtins(new),
                "problem": outcome.problem,
            }
        )
        return
    sent = f"sent back, now at partition {new.partition} offset {new.offset}" if new else "to be sent back"
    what = outcome.problem or sent
    terminal.echo(f"{at.cluster_id} partition {at.partition} offset {at.offset}: {what}")


@contextmanager
def _opened(startup_timeout: float | None) -> Iterator[tuple[VaultSession, DeadLetters]]:
    from bdlab_cli import wiring

    layers = wiring.layers({"startup_timeout_s": startup_timeout}, quiet=True)
    from bdlab.postgres.deadletters import DeadLetters

    with (
        wiring.vault_session(layers, service="dlq", database_role="bdlab-writer") as session,
        DeadLetters(session) as letters,
    ):
        yield session, letters


def _filter(
    partition: int | None,
    cluster: str | None,
    reason: str | None,
    sqlstate: str | None,
    since: str | None,
    until: str | None,
    *,
    offset: int | None = None,
    pending: bool = False,
) -> DeadLetterFilter:
    from bdlab.deadletters import DeadLetterFilter
    from bdlab_cli import moments

    return DeadLetterFilter(
        cluster_id=cluster,
        partition=partition,
        offset=offset,
        reason=reason,
        sqlstate=sqlstate,
        since=moments.moment(since) if since else None,
        until=moments.moment(until) if until else None,
        pending_only=pending,
    )


def _summary(letter: StoredDeadLetter) -> dict[str, Any]:
    import msgspec

    return msgspec.to_builtins(letter.record.position) | {  # type: ignore[no-any-return]
        "recorded_at": letter.recorded_at.isoformat(),
        "reason": letter.reason,
        "sqlstate": letter.sqlstate,
        "replays": letter.replays,
    }


def _content(letter: StoredDeadLetter) -> dict[str, Any]:
    import base64

    def packed(raw: bytes | None) -> str | None:
        return None if raw is None else base64.b64encode(raw).decode()

    record = letter.record
    return {
        "key_base64": packed(record.key),
        "value_base64": packed(record.value),
        "headers_base64": [[name, packed(value)] for name, value in record.headers],
    }


def _shown(raw: bytes | None) -> str:
    """Bytes for a person: text where it is text, escapes where it is not, cut where it is long."""
    if raw is None:
        return "(none)"
    text = _escaped(raw[:_SHOWN_BYTES].decode("utf-8", "backslashreplace"))
    return text if len(raw) <= _SHOWN_BYTES else f"{text}... ({len(raw):,} bytes; --json has them all)"


def _escaped(text: str) -> str:
    """On one line, too: a line feed in it must not begin a line that looks like bdlab's own."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
