"""Dead letters as `bdlab dlq` names and shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from bdlab.deadletters import BECAME, LetterResult, StoredDeadLetter, place, state
from bdlab_cli.output import terminal

if TYPE_CHECKING:
    from rich.table import Table

_SHOWN_BYTES = 2000


def table(found: Sequence[StoredDeadLetter], title: str) -> Table:
    """Return a table with a row for each letter; on a narrow terminal words fold, and nothing is cut."""
    from rich.table import Column, Table
    from rich.text import Text

    at = [letter.record.position for letter in found]
    log_of = " of ".join(name for name in ("{0.topic}", "{0.cluster_id}") if len(set(map(name.format, at))) > 1)
    names = ("recorded", "position", *(["log"] if log_of else []), "state", "reason")
    columns = [Column(name, overflow="fold", no_wrap=name in {"recorded", "position"}) for name in names]
    shown = Table(*columns, title=title, title_justify="left")
    for letter in found:
        position = letter.record.position
        log = [log_of.format(position)] if log_of else []
        cells = [f"{letter.recorded_at:%Y-%m-%d %H:%M}", place(position), *log]
        code = f"{letter.sqlstate}: " if letter.sqlstate else ""
        shown.add_row(*map(Text, (*cells, state(letter), code + escaped(letter.reason))))
    return shown


def show(letter: StoredDeadLetter) -> None:
    """Print all that its record held, a line each."""
    at = letter.record.position
    lines = {"position": place(at), "log": f"{at.topic} of {at.cluster_id} {at.topic_id}".rstrip()}
    lines |= {"recorded": letter.recorded_at.isoformat(), "state": state(letter)}
    lines |= {"discarded": escaped(letter.discarded_because)} if letter.discarded_because else {}
    lines |= {"reason": escaped(letter.reason), "sqlstate": letter.sqlstate or "-", "replays": str(letter.replays)}
    lines["key"] = _shown(letter.record.key)
    for name, value in lines.items():
        terminal.echo(f"{name:<9} {value}")
    for name, raw in letter.record.headers:
        terminal.echo(f"header    {escaped(name)}: {_shown(raw)}")
    terminal.echo(f"value     {_shown(letter.record.value)}")


def summary(letter: StoredDeadLetter) -> dict[str, Any]:
    """Return a letter as JSON has it, without its content."""
    at: dict[str, Any] = msgspec.to_builtins(letter.record.position)
    fields = ("state", "reason", "sqlstate", "replays", "replayed_to", "discarded_because")
    at |= {"recorded_at": letter.recorded_at.isoformat(), **{name: getattr(letter, name) for name in fields}}
    return at | {"replayed_to": letter.replayed_to and place(letter.replayed_to)}


def content(letter: StoredDeadLetter) -> dict[str, Any]:
    """Return what its record held, in base64 for JSON."""
    record = letter.record  # its bytes are base64 in JSON
    fields = {"key_base64": record.key, "value_base64": record.value, "headers_base64": record.headers}
    return msgspec.to_builtins(fields)  # type: ignore[no-any-return]


def report(result: LetterResult, done: str, not_done: str, *, as_json: bool) -> str:
    """Print what became of one letter, and return the word for it: `done` if nothing else is known."""
    at, new, outcome = result.letter.record.position, result.replay, result.outcome
    kind = not_done if result.problem else BECAME[outcome.became] if outcome else done
    if as_json:
        fields = {"position": at, "replay": new, "problem": result.problem}
        fields |= {"became": outcome and outcome.became, "reason": outcome.reason if outcome else ""}
        terminal.echo_json(msgspec.to_builtins(fields))
    else:
        why = escaped(result.problem or (outcome.reason if outcome else ""))
        moved = f"now {place(new)}, " if new else ""
        terminal.echo(f"{place(at)}: {moved}{kind}{f': {why}' if why else ''}")
    return kind


def _shown(raw: bytes | None) -> str:
    """Return bytes for a person: what is no text is escaped, and what is long is cut."""
    if raw is None:
        return "(none)"
    text = escaped(raw[:_SHOWN_BYTES].decode("utf-8", "backslashreplace"))
    return text if len(raw) <= _SHOWN_BYTES else f"{text}... ({len(raw):,} bytes; --json has them all)"


def escaped(text: str) -> str:
    """Return text on one line: a line feed in it must not begin a line that looks like bdlab's own."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
