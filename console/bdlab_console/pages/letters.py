"""Dead letters: which there are and why, what one holds, and sending them back or closing them after a dry run."""

from __future__ import annotations

import secrets
import shlex
import threading
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
import structlog
from litestar import Request, get, post
from litestar.exceptions import HTTPException, NotFoundException
from litestar.response import Redirect, Template

from bdlab import deadletters
from bdlab.deadletters import OPEN, DeadLetterFilter, LetterResult, ReplayOutcome, State, place
from bdlab.errors import BdlabError, InvalidInput
from bdlab.events import Position
from bdlab.postgres import audit
from bdlab.postgres.deadletters import DeadLetters
from bdlab.values import past
from bdlab.wiring.letters import chosen, replay
from bdlab_console.parts import Console
from bdlab_console.rendering import page
from bdlab_console.sessions import caller

T = TypeVar("T")
_PAGE, _REASONS, _BYTES, _JOBS = 50, 20, 4096, 100
_AT_ONCE, _MAX_REPLAYS = 1000, 3  # as `bdlab dlq replay`
_WAIT_S, _LOOK_S = 30.0, 600.0  # for a consumer to record the replays: before the audit's entry ends, and on the page
_WORDS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
log = structlog.get_logger()


def _partition(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 31:
        raise ValueError(f"{text!r} is no partition")
    return int(text)


def _states(text: str) -> tuple[State, ...]:
    if text not in _WORDS["states"]:
        raise ValueError(f"{text!r} is no state")
    return tuple(_WORDS["states"][text][1])


_READ: dict[str, Callable[[str], Any]] = {"partition": _partition, "since": past, "until": past, "state": _states}
_FIELDS = ("topic", "partition", "reason", "sqlstate", "since", "until", "cluster", "state", "at", "again")


class Asked(msgspec.Struct, frozen=True):
    """Which letters somebody asked for: by a filter, whose `fields` are as a form has them, or `at` a position."""

    fields: dict[str, str]
    wanted: DeadLetterFilter
    at: str
    again: bool

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Asked:
        """Read a query or a form. Raises InvalidInput."""
        fields = {name: text for name in _FIELDS if (text := str(given.get(name, "")).replace("\0", "").strip())}
        try:
            values = {name: _READ.get(name, str)(text) for name, text in fields.items()}
        except ValueError as error:
            raise InvalidInput(str(error)) from error
        at, again, states = values.pop("at", ""), bool(values.pop("again", "")), values.pop("state", ())
        return cls(fields, DeadLetterFilter(cluster_id=values.pop("cluster", None), states=states, **values), at, again)

    def query(self, **more: Any) -> str:
        return urlencode({name: text for name, text in (self.fields | more).items() if text})

    def command(self, action: str) -> str:
        """Return the command that does the same, as far as it has such options."""
        options = [(f"--{name}", self.fields[name]) for name in _FIELDS[1:7] if name in self.fields]
        chosen_by = [self.at] * bool(self.at) + [part for pair in options for part in pair]
        return shlex.join(["bdlab", "dlq", action, *(chosen_by or ["--all"])])

    def find(self, letters: DeadLetters, action: str) -> tuple[list[LetterResult], int]:
        """Return a result for each letter, with the problem if it is not to be sent back or closed; and how many more
        were not looked at. Raises BdlabError."""
        again = self.again or action == "discard" or not {"returned", "sent"}.isdisjoint(self.wanted.states)
        allowed: tuple[State, ...] = (*OPEN, "sent") if again else ("open",)
        states = tuple(each for each in allowed if each in (self.wanted.states or allowed))
        if not states:
            return [], 0
        wanted = msgspec.structs.replace(self.wanted, states=states)
        found, results, more = chosen(letters, [self.at] * bool(self.at), wanted, _AT_ONCE, again=again)
        for letter in found:
            why = deadletters.refusal(letter, max_replays=_MAX_REPLAYS) if action == "replay" else ""
            results.append(LetterResult(letter=letter, problem=why))
        return results, more


class Change(msgspec.Struct, kw_only=True):
    """What somebody confirmed, or would. `entry` is its number in the audit, once it is there."""

    action: str
    asked: Asked
    actor: str = ""
    because: str = ""
    at: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))
    results: list[LetterResult] = []
    outcomes: dict[Position, ReplayOutcome] = {}
    more: int = 0
    entry: int = 0
    problem: str = ""
    ended: bool = False

    def became(self, one: LetterResult) -> tuple[str, str, str]:
        """Return a badge's kind and word, and the reason."""
        outcome = one.outcome or (self.outcomes.get(one.replay) if one.replay else None)
        if outcome:
            return _WORDS["kinds"][outcome.became], deadletters.BECAME[outcome.became], outcome.reason
        if one.problem:
            return "unhealthy", "left as it is", one.problem
        if not self.actor:
            return "note", "would be discarded" if self.action == "discard" else "would be sent back", ""
        return ("healthy", "discarded", "") if self.action == "discard" else ("note", "sent back, not recorded yet", "")

    @property
    def counts(self) -> str:
        return ", ".join(f"{n} {word}" for word, n in Counter(self.became(one)[1] for one in self.results).items())

    @property
    def kind(self) -> str:
        """Return the kind of its banner."""
        well = self.results and {self.became(one)[0] for one in self.results} == {"healthy"}
        return "unhealthy" if self.problem else "healthy" if well else "degraded"

    @property
    def waiting(self) -> list[Position]:
        """Return the replays of which nothing is known yet."""
        return [at for one in self.results if (at := one.replay) and not one.outcome and at not in self.outcomes]

    @property
    def age_s(self) -> float:
        return (datetime.now(UTC) - self.at).total_seconds()


class _Letters:
    """The dead letters, read as the console, and changed as the identity `dlq`."""

    def __init__(self, parts: Console) -> None:
        self.parts, self.changes = parts, dict[str, Change]()
        self._reading, self._changing = threading.Lock(), threading.Lock()

    def read(self, question: Callable[[DeadLetters], T]) -> T:
        with self._reading:
            return question(self.parts.letters)

    def denied(self, request: Request[Any, Any, Any]) -> str:
        """Return why who asks may not change anything; empty if they may."""
        if not self.parts.may("replay"):
            return "This console was not given the identity dlq."
        allowed = request.app.state.access.allows(request, "replay")
        return "" if allowed else f"The key of {caller(request)} has not the scope replay."

    def start(self, change: Change) -> str:
        """Begin a change in a thread; return its key."""
        key = secrets.token_urlsafe(9)
        self.changes[key] = change
        while len(self.changes) > _JOBS:
            del self.changes[next(iter(self.changes))]
        threading.Thread(target=self._work, args=[change]).start()
        return key

    def _work(self, change: Change) -> None:
        try:
            with self.parts.as_service("replay") as session, DeadLetters(session) as letters:
                with self._changing:  # who asks for the same meanwhile finds that it is done
                    found, change.more = change.asked.find(letters, change.action)
                    to_do = [one.letter for one in found if not one.problem]
                    change.results = [one for one in found if one.problem]
                    if not to_do:
                        return
                    detail = change.asked.fields | {"letters": str(len(to_do))}
                    detail |= {"because": change.because} if change.because else {}
                    subject = change.asked.at or "dead letters"
                    change.entry = audit.begin(letters, change.actor, change.action, subject, detail)
                    try:
                        if change.action == "discard":
                            letters.discard([one.record.position for one in to_do], because=change.because)
                            change.results += [LetterResult(letter=one) for one in to_do]
                        else:
                            change.results.extend(replay(session, letters, to_do, max_replays=_MAX_REPLAYS))
                    except BaseException as error:
                        audit.end(letters, change.entry, f"failed: {error}; {change.counts or 'nothing was changed'}")
                        raise
                results, ask, stop = change.results, letters.replay_outcomes, self.parts.stopping
                try:
                    change.results = deadletters.await_replays(results, ask, wait_s=_WAIT_S, stop=stop)
                finally:
                    moves = {place(one.letter.record.position): place(one.replay) for one in results if one.replay}
                    audit.end(letters, change.entry, change.counts, {"replays": moves} if moves else {})
        except BdlabError as error:
            change.problem = f"{error.message} {error.hint}".strip()
        except Exception as error:
            log.error("changing dead letters failed", exc_info=error)
            change.problem = "a defect of bdlab; the console's log has the reason"
        finally:
            change.ended = True


def _hex(raw: bytes, begin: int) -> str:
    """Return 16 bytes a line: where they are, in hex, and those that are ASCII."""
    lines = [(at, raw[at : at + 16]) for at in range(0, len(raw), 16)]
    plain = bytes(code if 0x20 <= code < 0x7F else 0x2E for code in range(256))
    return "\n".join(f"{begin + at:08x}  {b.hex(' '):<47}  {b.translate(plain).decode()}" for at, b in lines)


def routes(parts: Console) -> list[Any]:
    letters = _Letters(parts)
    words: dict[str, Any] = {
        "place": place,
        "state_of": deadletters.state,
        "topic": parts.settings.kafka.topic,
    } | _WORDS

    @get("/dead-letters", include_in_schema=False)
    async def several(request: Request[Any, Any, Any]) -> Template:
        asked, text = Asked.of(request.query_params), request.query_params.get("page", "")
        number = max(1, min(int(text), 1 << 20)) if text.isdecimal() else 1

        def question(db: DeadLetters) -> Any:
            found = db.find(asked.wanted, limit=_PAGE, newest=True, skip=_PAGE * (number - 1))
            return found, db.reasons(asked.wanted, limit=_REASONS)

        key = ("dead letters", asked.query(), number)
        answer = await parts.shared.get(key, lambda: letters.read(question), keep_s=2.0)
        found, reasons = answer.found()
        shown = {"asked": asked, "found": found, "reasons": reasons, "number": number, "size": _PAGE}
        return page(request, "letters.html", away=[answer], denied=letters.denied(request), **shown, **words)

    @get("/dead-letters/{partition:int}/{offset:int}", include_in_schema=False)
    async def one(request: Request[Any, Any, Any], partition: int, offset: int, begin: int = 0) -> Template:
        asked, begin = Asked.of(request.query_params), max(0, begin)
        wanted = msgspec.structs.replace(asked.wanted, partition=partition, offset=offset)
        key = ("dead letter", asked.query(), partition, offset)
        answer = await parts.shared.get(
            key, lambda: letters.read(lambda db: db.find(wanted, limit=20, newest=True)), keep_s=1.0
        )
        if not (found := answer.found()):
            raise NotFoundException(f"There is no dead letter at {partition}/{offset}.")
        letter, at = found[0], found[0].record.position
        piece = (letter.record.value or b"")[begin : begin + _BYTES]
        shown: dict[str, Any] = {
            "letter": letter,
            "at": at,
            "logs": sorted({(each.record.position.topic, each.record.position.cluster_id) for each in found}),
            "closed": deadletters.closed(letter, again=True),
            "asked": Asked.of({"at": f"{at.topic}/{place(at)}", "cluster": at.cluster_id}),
            "decoded": lambda raw: raw.decode("utf-8", "backslashreplace"),
            "piece": piece,
            "dump": _hex(piece, begin),
        }
        frame: dict[str, Any] = {"away": [answer], "denied": letters.denied(request), "begin": begin, "size": _BYTES}
        return page(request, "letter.html", **shown, **frame, **words)

    @get("/dead-letters/{action:str}", include_in_schema=False)
    async def dry_run(request: Request[Any, Any, Any], action: str) -> Template:
        change = Change(action=action, asked=Asked.of(request.query_params))
        find = lambda: letters.read(lambda db: change.asked.find(db, _known(action)))  # noqa: E731
        change.results, change.more = await parts.shared.run(find)
        fields = dict(change.asked.fields)
        if change.results and not change.asked.at:  # what is recorded later is not sent along
            newest = max(each.letter.recorded_at for each in change.results)
            fields["until"] = (newest + timedelta(microseconds=1)).isoformat()
            fields |= {"since": since.isoformat()} if (since := change.asked.wanted.since) else {}
        shown: dict[str, Any] = {"change": change, "fields": fields, "denied": letters.denied(request), "dry": True}
        return page(request, "letters-change.html", most=_MAX_REPLAYS, **shown, **words)

    @post("/dead-letters/{action:str}", opt={"scope": "replay"}, include_in_schema=False)
    async def begin(request: Request[Any, Any, Any], action: str) -> Redirect:
        given = await request.form()
        because = str(given.get("because", "")).replace("\0", "").strip()
        if why := letters.denied(request):
            raise HTTPException(why, status_code=403)
        if _known(action) == "discard" and not because:
            raise InvalidInput("no reason is given", hint="Go back and say why nobody has to see to them any more.")
        change = Change(action=action, asked=Asked.of(given), actor=caller(request), because=because)
        return Redirect(f"/dead-letters/changes/{letters.start(change)}", status_code=303)

    @get("/dead-letters/changes/{key:str}", include_in_schema=False)
    async def result(request: Request[Any, Any, Any], key: str) -> Template:
        change = letters.changes.get(key)
        if change is None:
            raise NotFoundException("This console no longer knows that change; what became of it is in the audit.")
        if (waiting := change.waiting) and change.age_s < _LOOK_S:
            find = lambda: letters.read(lambda db: db.replay_outcomes(waiting))  # noqa: E731
            answer = await parts.shared.get(("replays", key), find, keep_s=1.0)
            change.outcomes = {**change.outcomes, **(answer.value or {})}
        on = not change.ended or (bool(change.waiting) and change.age_s < _LOOK_S)
        return page(request, "letters-change.html", change=change, on=on, **words)

    return [several, one, dry_run, begin, result]


def _known(action: str) -> str:
    if action not in ("replay", "discard"):
        raise NotFoundException(f"Dead letters are replayed or discarded; there is no {action!r}.")
    return action
