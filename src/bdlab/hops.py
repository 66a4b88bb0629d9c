"""What became of an event, hop by hop, as far as its row and its record tell it. Pure."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import msgspec

from bdlab.errors import InvalidInput
from bdlab.events import TRACEPARENT, Position, Record, read_headers

HOPS = ("received", "scored", "published", "appended", "read", "stored")
_MS, _EPOCH = timedelta(milliseconds=1), datetime(1970, 1, 1, tzinfo=UTC)
_Moment = Annotated[datetime, msgspec.Meta(tz=True)] | None


class Hop(msgspec.Struct, frozen=True):
    """When it was (UTC), and the ms since the one before that is known; `note` says why something is not known."""

    name: str
    at: datetime | None
    ms: float | None
    note: str = ""


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an event, and its way there; empty or None is what is not known, or does not apply. `ahead` is how
    many events the consumer has to store before it. `duplicates` are further positions of its id, and `replayed_to` is
    the position of a dead letter's newest replay, each as 3/1207."""

    outcome: Literal["stored", "duplicate", "dead letter", "on the topic", "pruned", "never seen"]
    reason: str = ""
    id: str = ""
    position: Position | None = None
    model: str = ""
    contract: int | None = None
    source: str = ""
    key_name: str = ""
    trace_id: str = ""
    ahead: int | None = None
    duplicate_of: Position | None = None
    duplicates: Sequence[str] = ()
    replayed_to: str = ""
    hops: tuple[Hop, ...] = ()


class Wanted(NamedTuple):
    """What is looked for: an id, a trace id, or a partition and an offset; the others are None."""

    id: str | None = None
    trace_id: str | None = None
    partition: int | None = None
    offset: int = 0


class _Said(msgspec.Struct):
    """What the JSON of an event, which need not be a valid one, says of its way."""

    id: str = ""
    model: str = ""
    created_at: _Moment = None
    timestamp: _Moment = None


def parse(written: str) -> Wanted:
    """Return what `written` names. Raises InvalidInput."""
    if place := re.fullmatch(r"(\d{1,9})/(\d{1,18})", written, re.ASCII):
        return Wanted(partition=int(place[1]), offset=int(place[2]))
    if TRACEPARENT.fullmatch(written.encode()) or re.fullmatch("[0-9a-f]{32}", written):
        return Wanted(trace_id=written[3:35] if "-" in written else written)
    try:
        return Wanted(id=str(UUID(written)))
    except ValueError:
        why = f"{written!r} is no prediction's id, no trace id, no traceparent and no position"
        hint = "A position is PARTITION/OFFSET, such as 3/1207; a trace id has 32 characters of 0-9 and a-f."
        raise InvalidInput(why, hint=hint) from None


def made_at(identity: str | None) -> datetime | None:
    """Return when a UUIDv7 was made; None of anything else (RFC 9562, section 5.7)."""
    found = UUID(identity) if identity else None
    return _EPOCH + (found.int >> 80) * _MS if found and found.version == 7 else None


def trace_of(row: Mapping[str, Any], record: Record | None, unread: str = "", **fields: Any) -> Trace:
    """Return the trace of an event with these `fields`. `row` has the columns that there are; `unread` is why there is
    no record."""
    said, (number, *told) = _Said(), read_headers(record.headers if record else ())
    with suppress(msgspec.DecodeError, UnicodeDecodeError):
        said = msgspec.json.decode((record and record.value) or b"", type=_Said)
    source, key_name, trace_id, received = (text.decode() if text else "" for text in told)
    source, appended = row.get("source") or source, record.appended_ms if record else None
    dead, silent = fields["outcome"] == "dead letter", unread or "its JSON does not tell"
    lost = "a dead letter does not keep it" if dead else "the row is from before this was kept"
    why = {
        "received": "it came through `predict`, not over HTTP" if source == "predict" else "its headers do not tell",
        "scored": silent, "published": silent, "read": lost if row else "",
        "appended": unread or (lost if dead else "the topic keeps the producer's time"),
    }  # fmt: skip
    times = {
        "received": row.get("received_at") or (_EPOCH + int(received) * _MS / 1000 if received else None),
        "scored": row.get("created_at") or said.created_at, "published": said.timestamp,
        "appended": row.get("appended_at") or (_EPOCH + appended * _MS if appended is not None else None),
        "read": row.get("read_at"), "stored": row.get("stored_at"),
    }  # fmt: skip
    return Trace(
        id=str(row.get("id", said.id)), model=row.get("model") or said.model, source=source, hops=hops(times, why),
        contract=int(number) if record and number and re.fullmatch(rb"\d{1,9}", number) else None,
        trace_id=row.get("trace_id") or trace_id, key_name=row.get("key_name") or key_name, **fields,
    )  # fmt: skip


def hops(times: Mapping[str, datetime | None], why: Mapping[str, str]) -> tuple[Hop, ...]:
    """Return all hops in order; `why` has the reason for those whose time is not known."""
    found: list[Hop] = []
    before = None
    for name in HOPS:
        at, ms, note = times.get(name), None, why.get(name) or "not there yet"
        if at is not None:
            ms, note, before = round((at - before) / _MS, 3) if before else None, "", at
        if name == "appended" and -1 < (ms or 0) < 0:  # the broker's time has whole ms
            ms = 0.0
        if ms is not None and ms < 0:
            note = f"before the hop above: the clocks of two machines differ by {-ms:g} ms or more"
        found.append(Hop(name, at, ms, note))
    return tuple(found)
