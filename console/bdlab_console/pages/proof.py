"""Proof: the accounting of `bdlab verify`, where in its log an offset is missing, and the runs of before."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
from litestar import Request, get, post
from litestar.exceptions import NotFoundException
from litestar.response import Redirect, Template

from bdlab.errors import InvalidInput
from bdlab.files import write_private
from bdlab.verification import ClosedPartition, PartitionReport, Report
from bdlab.wiring.accounting import account
from bdlab_console.parts import Console
from bdlab_console.rendering import page
from bdlab_console.sessions import caller
from bdlab_console.shared import told

_KEPT = 200
_LISTED = 50  # offsets of a kind and partition
_LEAST = 0.008  # of a strip that a fault takes, so that it is seen
_Wait = Annotated[float, msgspec.Meta(ge=0, le=60)]


class Run(msgspec.Struct, kw_only=True):
    """An accounting: its `report` once it is there, or the `problem` why there is none."""

    number: int
    at: datetime
    by: str
    wait_s: float = 0.0
    took_s: float = 0.0
    report: Report | None = None
    problem: str = ""

    @property
    def verdict(self) -> tuple[str, str]:
        """Return a badge's kind and word."""
        if self.report is None:
            return "unknown", "not checked"
        return ("healthy", "verified") if self.report.verified else ("unhealthy", "not verified")

    def total(self, name: str) -> int:
        return sum(getattr(one, name) or 0 for one in self.report.partitions) if self.report else 0


class Fault(NamedTuple):
    """Offsets from `first` to `last` that are not as they should be."""

    kind: str
    what: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}" if self.first == self.last else f"{self.first} to {self.last}"


def faults(one: PartitionReport | ClosedPartition) -> Iterator[Fault]:
    """Yield what is wrong with a partition's offsets, and what is not known of them."""
    yield from (Fault("unhealthy", "recorded nowhere", gap.first, gap.last) for gap in one.missing)
    yield from (Fault("unhealthy", "recorded twice", each.offset, each.offset) for each in one.twice)
    yield from (Fault("unhealthy", "outside of what is recorded", each.offset, each.offset) for each in one.outside)
    if isinstance(one, ClosedPartition):
        return
    start, end, first, following = one.log_start, one.end, one.first_offset, one.next_offset
    if first is None or following is None:
        first = following = start
    for kind, what, begin, stop in (
        ("unhealthy", "deleted before they were recorded", following, start),
        ("unhealthy", "never read", start, first),
        ("note", "deleted before a consumer first read them", 0, first if start >= first else 0),
        ("degraded", "not recorded yet", max(following, start), end),
    ):
        if begin < stop:
            yield Fault(kind, what, begin, stop - 1)


def strip(one: PartitionReport | ClosedPartition) -> list[tuple[float, str, str]]:
    """Return the segments of a partition's offsets for the macro `strip`: faults where they are, the rest recorded."""
    log = (one.log_start, one.end) if isinstance(one, PartitionReport) else ()
    known = [offset for offset in (one.first_offset, one.next_offset, *log) if offset is not None]
    at, high = min(known, default=0), max(known, default=0)
    least, pieces = _LEAST * (high - at), list[tuple[float, str, str]]()
    for fault in [*sorted(faults(one), key=lambda each: each.first), Fault("", "", high, high)]:
        first, last = max(fault.first, at), min(fault.last, high - 1)
        if at < first <= high:
            pieces.append((first - at, "healthy", f"recorded: {Fault('', '', at, first - 1)}"))
            at = first
        if first <= last:
            pieces.append((max(last + 1 - first, least), fault.kind, f"{fault.what}: {fault}"))
            at = last + 1
    whole = sum(width for width, _, _ in pieces)
    return [(100 * width / whole, kind, what) for width, kind, what in pieces]


class _Runs:
    """The runs of this user's console on this pipeline, the newest last, and the one that is under way, if any."""

    def __init__(self, parts: Console) -> None:
        self._session, self._lock = parts.session, threading.Lock()
        pipeline = hashlib.sha256(os.fsencode(parts.settings.vault.identities.resolve())).hexdigest()[:12]
        folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
        self._path = folder / "bdlab" / "console" / f"proofs-{pipeline}.jsonl"
        self.running: Run | None = None
        self.not_kept = ""
        self.known = self._read()

    def start(self, by: str, wait_s: float) -> None:
        """Begin a run, unless one is under way, which is for all."""
        with self._lock:
            if self.running is None:
                number = max((run.number for run in self.known), default=0) + 1
                self.running = Run(number=number, at=datetime.now(UTC), by=by, wait_s=wait_s)
                threading.Thread(target=self._work, args=[self.running], daemon=True).start()  # a count may take long

    def _work(self, run: Run) -> None:
        began = time.monotonic()
        try:
            run.report = account(self._session, threading.Event(), wait_s=run.wait_s, limit=_LISTED)
        except Exception as error:  # noqa: BLE001 - `told` logs it
            run.problem = told(error)
        run.took_s = time.monotonic() - began
        with self._lock:
            self.known, self.running = [*self._read(), run][-_KEPT:], None
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_private(self._path, "".join(f"{msgspec.json.encode(each).decode()}\n" for each in self.known))
                self.not_kept = ""
            except OSError as error:
                self.not_kept = f"{self._path}: {error.strerror}"

    def _read(self) -> list[Run]:
        found, lines = [], []
        with suppress(OSError):
            lines = self._path.read_bytes().splitlines()[-_KEPT:]
        for line in lines:
            with suppress(msgspec.MsgspecError, UnicodeDecodeError):
                found.append(msgspec.json.decode(line, type=Run))
        return found


def routes(parts: Console) -> list[Any]:
    runs = _Runs(parts)
    words: dict[str, Any] = {"topic": parts.settings.kafka.topic, "kept": _KEPT, "faults": faults, "strip_of": strip}

    @get(["/proof", "/proof/{number:int}"], include_in_schema=False, sync_to_thread=False)
    def show(request: Request[Any, Any, Any], number: int | None = None) -> Template:
        known, running = runs.known[::-1], runs.running if number is None else None
        run = next((each for each in known if number in (None, each.number)), None)
        if run is None and number is not None:
            raise NotFoundException(f"Run {number} is not known here; the newest {_KEPT} are kept.")
        age_s = (datetime.now(UTC) - running.at).total_seconds() if running else 0.0
        shown: dict[str, Any] = {"number": number, "run": run, "running": running, "history": known, "age_s": age_s}
        return page(request, "proof.html", not_kept=runs.not_kept, **shown, **words)

    @post("/proof/run", include_in_schema=False)
    async def begin(request: Request[Any, Any, Any]) -> Redirect:
        try:
            wait_s = msgspec.convert((await request.form()).get("wait") or "0", _Wait, strict=False)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"this is no wait: {error}", hint="Give seconds, from 0 to 60.") from error
        runs.start(caller(request), wait_s)
        return Redirect("/proof", status_code=303)

    return [show, begin]
