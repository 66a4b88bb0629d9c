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
from typing import Any, Literal, TypeVar
from urllib.parse import urlencode

import msgspec
from litestar import Request, get, post
from litestar.exceptions import HTTPException, NotFoundException
from litestar.response import Redirect, Template

from bdlab import deadletters
from bdlab.deadletters import OPEN, DeadLetterFilter, LetterResult, ReplayOutcome, State, place
from bdlab.errors import InvalidInput
from bdlab.events import Position
from bdlab.postgres import audit
from bdlab.postgres.deadletters import DeadLetters
from bdlab.values import past
from bdlab.vault.session import VaultSession
from bdlab.wiring.letters import chosen, replay
from bdlab_console.parts import Console
from bdlab_console.rendering import page
from bdlab_console.sessions import caller
from bdlab_console.shared import told

T = TypeVar("T")
Action = Literal["replay", "discard"]
_PAGE, _REASONS, _BYTES, _CHANGES = 50, 20, 4096, 100
_AT_ONCE, _MAX_REPLAYS = 1000, 3  # as `bdlab dlq replay`
_WAIT_S, _LOOK_S = 30.0, 600.0  # for a consumer to record the replays: before the audit's entry ends, and on the page
_WORDS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
_FIELDS = ("topic", "partition", "reason", "sqlstate", "since", "until", "cluster_id", "state", "at", "again")


class Asked(msgspec.Struct, frozen=True):
    """Which letters somebody asked for: by a filter, whose `fields` are as a form has them, or `at` a position."""

    fields: dict[str, str]
    wanted: DeadLetterFilter

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Asked:
        """Read a query or a form. Raises InvalidInput."""
        fields = {name: text for name in _FIELDS if (text := str(given.get(name, "")).replace("\0", "").strip())}
        values: dict[str, Any] = {name: fields[name] for name in _FIELDS[:7] if name in fields}
        if (state := fields.get("state", "")) not in _WORDS["states"]:
            raise InvalidInput(f"{state!r} is no state of dead letters")
        try:
            values |= {name: past(values[name]) for name in ("since", "until") if name in values}
            wanted = msgspec.convert(values | {"states": _WORDS["states"][state][1]}, DeadLetterFilter, strict=False)
        except ValueError as error:
            raise InvalidInput(f"this chooses no dead letters: {error}") from error
        return cls(fields, wanted)

    @property
    def at(self) -> str:
        return self.fields.get("at", "")

    def query(self, **more: Any) -> str:
        return urlencode({name: text for name, text in (self.fields | more).items() if text})

    def command(self, action: Action) -> str:
        """Return the command that does the same, as far as it has such options."""
        options = [f"--{name.removesuffix('_id')}={self.fields[name]}" for name in _FIELDS[1:7] if name in self.fields]
        return shlex.join(["bdlab", "dlq", action, *([self.at] if self.at else options or ["--all"])])

    def find(self, letters: DeadLetters, action: Action) -> tuple[list[LetterResult], int]:
        """Return a result for each letter, with the problem if it is not to be sent back or closed; and how many more
        were not looked at. Raises BdlabError."""
        of = self.wanted.states
        again = "again" in self.fields or action == "discard" or "returned" in of or "sent" in of
        allowed: tuple[State, ...] = (*OPEN, "sent") if again else ("open",)
        if not (states := tuple(each for each in allowed if each in (of or allowed))):
            return [], 0
        wanted = msgspec.structs.replace(self.wanted, states=states)
        found, results, more = chosen(letters, [self.at] if self.at else (), wanted, _AT_ONCE, again=again)
        for letter in found:
            why = deadletters.refusal(letter, max_replays=_MAX_REPLAYS) if action == "replay" else ""
            results.append(LetterResult(letter=letter, problem=why))
        return results, more


class Change(msgspec.Struct, kw_only=True):
    """What somebody confirmed, or would. `entry` is its number in the audit, once it is there."""

    action: Action
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
        if outcome := one.outcome or (self.outcomes.get(one.replay) if one.replay else None):
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
    def waiting(self) -> list[Position]:
        """Return the replays of which nothing is known yet."""
        return [at for one in self.results if (at := one.replay) and not one.outcome and at not in self.outcomes]


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
        self.changes[key := secrets.token_urlsafe(9)] = change
        while len(self.changes) > _CHANGES:
            del self.changes[next(iter(self.changes))]
        threading.Thread(target=self._work, args=[change]).start()
        return key

    def _work(self, change: Change) -> None:
        try:  # one after the other: who asks for the same meanwhile finds that it is done
            with self._changing, self.parts.as_service("replay") as session, DeadLetters(session) as letters:
                self._make(change, session, letters)
        except Exception as error:  # noqa: BLE001 - `told` logs it
            change.problem = told(error)
        finally:
            change.ended = True

    def _make(self, change: Change, session: VaultSession, letters: DeadLetters) -> None:
        found, change.more = change.asked.find(letters, change.action)
        to_do = [one.letter for one in found if not one.problem]
        change.results = [one for one in found if one.problem]
        if not to_do:
            return
        detail = change.asked.fields | {"letters": str(len(to_do))}
        detail |= {"because": change.because} if change.because else {}
        change.entry = audit.begin(letters, change.actor, change.action, change.asked.at or "dead letters", detail)
        failed = ""
        try:
            if change.action == "discard":
                letters.discard([one.record.position for one in to_do], because=change.because)
                change.results += [LetterResult(letter=one) for one in to_do]
            else:
                change.results.extend(replay(session, letters, to_do, max_replays=_MAX_REPLAYS))
                ask, stop = letters.replay_outcomes, self.parts.stopping
                change.results = deadletters.await_replays(change.results, ask, wait_s=_WAIT_S, stop=stop)
        except BaseException as error:
            failed = f"failed: {error}; "
            raise
        finally:
            moves = {place(one.letter.record.position): place(one.replay) for one in change.results if one.replay}
            outcome = failed + (change.counts or "nothing was changed")
            audit.end(letters, change.entry, outcome, {"replays": moves} if moves else {})


def routes(parts: Console) -> list[Any]:
    letters = _Letters(parts)
    words: dict[str, Any] = {"place": place, "state_of": deadletters.state, "closed": deadletters.closed}
    words |= {"topic": parts.settings.kafka.topic, "size": _PAGE, "bytes": _BYTES, "most": _MAX_REPLAYS} | _WORDS

    @get("/dead-letters", include_in_schema=False)
    async def several(request: Request[Any, Any, Any], number: int = 1) -> Template:
        asked, number = Asked.of(request.query_params), max(1, min(number, 1 << 20))

        def question(db: DeadLetters) -> Any:
            found = db.find(asked.wanted, limit=_PAGE, newest=True, skip=_PAGE * (number - 1))
            return found, db.reasons(asked.wanted, limit=_REASONS)

        key = ("dead letters", asked.query(), number)
        answer = await parts.shared.get(key, lambda: letters.read(question), keep_s=2.0)
        shown = dict(zip(("found", "reasons"), answer.found(), strict=True)) | {"asked": asked, "number": number}
        return page(request, "letters.html", away=[answer], denied=letters.denied(request), **shown, **words)

    @get("/dead-letters/{partition:int}/{offset:int}", include_in_schema=False)
    async def one(request: Request[Any, Any, Any], partition: int, offset: int, begin: int = 0) -> Template:
        asked = Asked.of(request.query_params)
        wanted = msgspec.structs.replace(asked.wanted, partition=partition, offset=offset)
        find = lambda: letters.read(lambda db: db.find(wanted, limit=20, newest=True))  # noqa: E731
        answer = await parts.shared.get(("dead letter", asked.query(), partition, offset), find, keep_s=1.0)
        if not (found := answer.found()):
            raise NotFoundException(f"There is no dead letter at {partition}/{offset}.")
        at, begin = found[0].record.position, max(0, begin)
        this = Asked.of({"at": f"{at.topic}/{place(at)}", "cluster_id": at.cluster_id})
        shown: dict[str, Any] = {"found": found, "asked": this, "begin": begin, "denied": letters.denied(request)}
        return page(request, "letter.html", away=[answer], **shown, **words)

    @get("/dead-letters/{action:str}", include_in_schema=False)
    async def dry_run(request: Request[Any, Any, Any], action: Action) -> Template:
        change = Change(action=action, asked=Asked.of(request.query_params))
        find = lambda: letters.read(lambda db: change.asked.find(db, action))  # noqa: E731
        change.results, change.more = await parts.shared.run(find)
        fields = dict(change.asked.fields)
        if change.results and not change.asked.at:  # what is recorded later is not sent along
            newest = max(each.letter.recorded_at for each in change.results)
            fields["until"] = (newest + timedelta(microseconds=1)).isoformat()
            fields |= {"since": since.isoformat()} if (since := change.asked.wanted.since) else {}
        shown: dict[str, Any] = {"change": change, "fields": fields, "denied": letters.denied(request), "dry": True}
        return page(request, "letters-change.html", **shown, **words)

    @post("/dead-letters/{action:str}", opt={"scope": "replay"}, include_in_schema=False)
    async def begin(request: Request[Any, Any, Any], action: Action) -> Redirect:
        given = await request.form()
        because = str(given.get("because", "")).replace("\0", "").strip()
        if why := letters.denied(request):
            raise HTTPException(why, status_code=403)
        if action == "discard" and not because:
            raise InvalidInput("no reason is given", hint="Go back and say why nobody has to see to them any more.")
        change = Change(action=action, asked=Asked.of(given), actor=caller(request), because=because)
        return Redirect(f"/dead-letters/changes/{letters.start(change)}", status_code=303)

    @get("/dead-letters/changes/{key:str}", include_in_schema=False)
    async def result(request: Request[Any, Any, Any], key: str) -> Template:
        if (change := letters.changes.get(key)) is None:
            raise NotFoundException("This console no longer knows that change; what became of it is in the audit.")
        age_s = (datetime.now(UTC) - change.at).total_seconds()
        if change.ended and age_s < _LOOK_S and (waiting := change.waiting):
            find = lambda: letters.read(lambda db: db.replay_outcomes(waiting))  # noqa: E731
            answer = await parts.shared.get(("replays", key), find, keep_s=1.0)
            change.outcomes = {**change.outcomes, **(answer.value or {})}
        on = not change.ended or (bool(change.waiting) and age_s < _LOOK_S)
        return page(request, "letters-change.html", change=change, on=on, age_s=age_s, **words)

    return [several, one, dry_run, begin, result]
