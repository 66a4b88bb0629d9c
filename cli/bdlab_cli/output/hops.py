"""What became of a prediction as `bdlab trace` prints it."""

from datetime import UTC

from bdlab.hops import HOPS, Trace
from bdlab_cli.output import terminal
from bdlab_cli.output.dead_letters import escaped, place


def show(one: Trace) -> None:
    """Print what became of it, what is known of it, and each hop, a line each."""
    terminal.echo(f"{one.outcome:<12} {one.id}".rstrip())
    at, of = one.position, one.duplicate_of
    lines = {
        "reason": one.reason,
        "position": f"{place(at)} of {at.topic}, log {at.cluster_id} {at.topic_id}".rstrip() if at else "",
        "ahead": f"{one.ahead} events are to be stored before it" if one.ahead is not None else "",
        "row": f"stored from {place(of)}" if of else "",
        "duplicates": ", ".join(one.duplicates),
        "replayed": one.replayed_to,
        "model": f"{one.model}{f', contract {one.contract}' if one.contract else ''}",
    }
    lines |= {"source": one.source, "key": one.key_name, "trace id": one.trace_id}
    for hop in one.hops:
        when = hop.at.astimezone(UTC).isoformat(timespec="milliseconds")[:23] + "Z" if hop.at else "not known"
        after = f" {hop.ms:+11.1f} ms" if hop.ms is not None else ""
        lines[hop.name] = f"{when}{after}{f': {hop.note}' if hop.note else ''}"
    for name, value in lines.items():
        if value or name in HOPS:
            terminal.echo(f"  {name:<10} {escaped(value)}")
