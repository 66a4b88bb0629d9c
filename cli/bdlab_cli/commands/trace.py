"""`bdlab trace`: what became of a prediction, from its request to its row."""

from datetime import UTC, datetime
from typing import Annotated

from typer import Argument, Exit, Option

from bdlab.deadletters import place
from bdlab.errors import Unhealthy
from bdlab.hops import HOPS, Trace
from bdlab_cli.options import StartupTimeout, moment
from bdlab_cli.output import terminal
from bdlab_cli.output.dead_letters import escaped
from bdlab_cli.output.progress import line
from bdlab_cli.wiring.session import load_settings, open_session
from bdlab_cli.wiring.signals import stop_on_signal


def trace(
    what: Annotated[str, Argument(help="A prediction's id, a trace id, a traceparent, or a position, such as 3/1207.")],
    *,
    since: Annotated[datetime | None, Option(parser=moment, show_default="24h")] = None,
    look: Annotated[float, Option(min=0.1)] = 10.0,
    json: bool = False,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Show what became of a prediction: each hop from its request to its row, with its moment.

    Exit code 0: it is stored, a duplicate, a dead letter, or on the topic; 10: it is none of these."""
    from bdlab.wiring import hops

    layers = load_settings({"startup_timeout_s": startup_timeout}, quiet=True)
    with (
        stop_on_signal() as stop,
        open_session(layers, stop, service="verify", database=True) as session,
        line(lambda: f"Looking on the topic for {look:g} s at most"),
    ):
        found = hops.trace(session, stop, what, since=since or moment("24h"), look_s=look)
    for one in found:
        terminal.echo_json(one) if json else _show(one)
    if found[0].outcome in {"pruned", "never seen"}:
        raise Exit(Unhealthy.exit_code)


def _show(one: Trace) -> None:
    terminal.echo(f"{one.outcome:<12} {one.id}".rstrip())
    at, of = one.position, one.duplicate_of
    lines = {"reason": one.reason}
    lines["position"] = f"{place(at)} of {at.topic}, log {at.cluster_id} {at.topic_id}".rstrip() if at else ""
    lines["ahead"] = f"{one.ahead} events are to be stored before it" if one.ahead is not None else ""
    lines |= {"row": f"stored from {place(of)}" if of else "", "duplicates": ", ".join(one.duplicates)}
    lines |= {"replayed": one.replayed_to, "model": one.model + (f", contract {one.contract}" if one.contract else "")}
    lines |= {"source": one.source, "key": one.key_name, "trace id": one.trace_id}
    for hop in one.hops:
        when = hop.at.astimezone(UTC).isoformat(timespec="milliseconds")[:23] + "Z" if hop.at else "not known"
        after = f" {hop.ms:+11.1f} ms" if hop.ms is not None else ""
        lines[hop.name] = f"{when}{after}{f': {hop.note}' if hop.note else ''}"
    for name, value in lines.items():
        if value or name in HOPS:
            terminal.echo(f"  {name:<10} {escaped(value)}")
