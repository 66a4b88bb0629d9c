"""The console's pages Dead letters and Audit: what is shown of a record, and who sends back or closes which."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bdlab.events import encode
from tests.fix_console import Console, running_console
from tests.fix_golden import Place
from tests.fix_pipeline import Pipeline
from tests.samples import event
from tests.waiting import until

HOSTILE = b'\xff<script>alert(1)</script>\x1b[31m \xe2\x80\xae {"text": "secret words"}'


def settings(place: Place, **more: str) -> dict[str, Any]:
    return place.environment | {"BDLAB_CONSOLE_REQUIRE_KEY": "read,replay"} | more


class Desk:
    """Topics with dead letters, a consumer that runs, and a console whose client is signed in as `boss`."""

    def __init__(self, pipeline: Pipeline, place: Place, console: Console, keys: dict[str, str]) -> None:
        self.pipeline, self.place, self.console, self.keys = pipeline, place, console, keys

    def audited(self) -> list[tuple[Any, ...]]:
        return self.place.database.execute(
            "SELECT b.actor, b.action, b.subject, e.outcome, b.at <= e.at, b.at > now() - interval '5 minutes'"
            " FROM audit b LEFT JOIN audit e ON e.begun = b.id WHERE b.begun IS NULL ORDER BY b.id"
        )

    def confirmed(self, path: str, **fields: str) -> str:
        """The page of a change, once it has ended, that is confirmed on the dry run at `path`."""
        dry = self.console.get(path).text
        hidden = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', dry[dry.index('class="confirm"') :])
        data = {name: html.unescape(value) for name, value in hidden if name != "_csrf_token"} | fields
        begun = self.console.post(path.partition("?")[0], data, form=path)
        until(lambda: "hx-trigger" not in self.console.get(begun.url.path).text)
        return self.console.get(begun.url.path).text


@pytest.fixture(scope="module")
def desk(_shared_pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    place = Place(_shared_pipeline)
    place.done("migrate")
    place.database.execute("ALTER TABLE predictions ADD CONSTRAINT house_rule CHECK (text <> 'refused')")
    refused = [(1, *encode(event(text="refused")), list[tuple[str, bytes]]()) for _ in range(3)]
    place.produce([(0, b"k", HOSTILE, [("a\x1b", b"\xfe")]), (0, b"k", None, []), *refused])
    place.produce([(0, b"k", b"no feedback", [])], topic=place.feedback_topic)
    scopes = {"boss": "read,replay", "looker": "read"}
    keys = {name: place.done("api-key", "create", name, "--scope", its).strip() for name, its in scopes.items()}
    with (
        place.daemon("consume"),
        running_console(
            _shared_pipeline, tmp_path_factory.mktemp("desk"), key=keys["boss"], **settings(place)
        ) as console,
    ):
        until(lambda: place.database.execute("SELECT count(*) FROM dead_letters") == [(6,)])
        yield Desk(_shared_pipeline, place, console, keys)


def test_letters_are_listed_by_reason_and_one_is_inspected_inert(desk: Desk) -> None:
    shown = desk.console.get("/dead-letters").text
    assert "6 open of 6." in shown
    assert re.search(r"house_rule.*</td><td>23514</td><td class=\"num\">3</td>", shown)
    assert shown.count('<th scope="row">') == 6
    for filtered, count in {"sqlstate=23": 3, "partition=0&since=1h": 3, "reason=HOUSE_RULE": 3, "until=1h": 0}.items():
        assert desk.console.get(f"/dead-letters?{filtered}").text.count('<th scope="row">') == count, filtered
    for wrong in ("state=lost", "partition=x", "since=soon"):
        desk.console.get(f"/dead-letters?{wrong}", code=400)

    place = f"/dead-letters/0/0?topic={desk.place.topic}"
    letter = desk.console.get(place).text
    assert "\\xff&lt;script&gt;alert(1)&lt;/script&gt;␛[31m ⟨U+202E⟩" in letter
    assert "00000000  ff 3c 73 63 72 69 70 74 3e 61 6c 65 72 74 28 31  .&lt;script&gt;alert(1" in letter
    assert "a␛" in letter
    assert "\x1b" not in letter
    assert "Several logs have a dead letter there" in desk.console.get("/dead-letters/0/0").text
    desk.console.get("/dead-letters/5/99", code=404)


def test_a_dry_run_sends_nothing_and_a_confirmed_replay_is_stored_and_audited(desk: Desk) -> None:
    path = "/dead-letters/replay?sqlstate=23&partition=1"
    before = len(desk.audited())
    assert "3 would be sent back, 0 not" in desk.console.get(path).text
    assert desk.place.database.execute("SELECT count(*) FROM replays") == [(0,)]
    assert len(desk.audited()) == before

    desk.place.database.execute("ALTER TABLE predictions DROP CONSTRAINT house_rule")
    done = desk.confirmed(path)
    assert ">3 stored, by <bdi>boss</bdi>" in done
    assert desk.place.database.execute("SELECT count(*) FROM predictions WHERE text = 'refused'") == [(3,)]
    assert desk.audited()[before:] == [("boss", "replay", "dead letters", "3 stored", True, True)]
    assert "Nothing is chosen" in desk.console.get(path).text

    both = desk.confirmed("/dead-letters/replay?partition=0")
    assert ">1 left as it is, 2 dead again, by <bdi>boss</bdi>" in both
    assert "it has no value, which can never be an event" in both
    assert desk.place.database.execute("SELECT count(*) FROM replays") == [(5,)]
    feedback = desk.console.get(f"/dead-letters?topic={desk.place.feedback_topic}").text
    assert "open; came back from 1 replay" in feedback, "feedback goes back to its own topic"


def test_one_is_discarded_with_a_reason(desk: Desk) -> None:
    path = f"/dead-letters/discard?at={desk.place.topic}/0/1"
    desk.console.post("/dead-letters/discard", {"at": f"{desk.place.topic}/0/1"}, form=path, code=400)
    assert "1 discarded, by" in desk.confirmed(path, because="a <b>tombstone</b>")
    letter = desk.console.get(f"/dead-letters/0/1?topic={desk.place.topic}").text
    assert "a &lt;b&gt;tombstone&lt;/b&gt;" in letter
    assert "Nothing is left to do" in letter
    assert desk.audited()[-1] == ("boss", "discard", f"{desk.place.topic}/0/1", "1 discarded", True, True)
    entries = desk.console.get("/audit?actor=boss&action=discard").text
    assert entries.count("<tr id=") == 1
    assert "a &lt;b&gt;tombstone&lt;/b&gt;" in entries
    assert "No such change" in desk.console.get("/audit?actor=nobody").text


def test_who_may_not_gets_no_button_and_is_refused(desk: Desk, tmp_path: Path) -> None:
    before = desk.audited()
    at = {"at": f"{desk.place.topic}/0/0", "again": "1"}
    assert desk.console.client.post("/dead-letters/replay", data=at).status_code == 403  # no token
    wrong = at | {"_csrf_token": "0" * 128}
    assert desk.console.client.post("/dead-letters/replay", data=wrong).status_code == 403
    for name, identities, why in (
        ("looker", ("dlq",), "The key of looker has not the scope replay."),
        ("boss", (), "This console was not given the identity dlq."),
    ):
        folder = tmp_path / name
        folder.mkdir()
        masked = settings(desk.place, BDLAB_CONSOLE_MASK_TEXTS="1")
        with running_console(desk.pipeline, folder, identities=identities, key=desk.keys[name], **masked) as console:
            letter = f"/dead-letters/0/0?topic={desk.place.topic}"
            dry = f"/dead-letters/replay?at={desk.place.topic}/0/0&again=1"
            for path in ("/dead-letters?sqlstate=23", dry):
                assert why in console.get(path).text
                assert not re.search(r"<button[^>]*>(Replay|Discard)", console.get(path).text)
            assert "<code>bdlab dlq replay --sqlstate=23</code>" in console.get("/dead-letters?sqlstate=23").text
            assert "secret words" not in console.get(letter).text
            assert "secret words" in console.get(f"{letter}&texts=shown").text
            refused = console.post("/dead-letters/replay", at, form="/proof", code=403).text
            assert ("scope" if name == "looker" else why) in refused
    assert desk.audited() == before


def test_a_change_that_fails_is_in_the_audit_as_such(desk: Desk) -> None:
    desk.place.database.execute("REVOKE INSERT ON discards FROM bdlab_dlq")
    try:
        failed = desk.confirmed("/dead-letters/discard?state=returned", because="it fails")
    finally:
        desk.place.database.execute("GRANT INSERT ON discards TO bdlab_dlq")
    assert "It failed: " in failed
    actor, action, _, outcome, *_ = desk.audited()[-1]
    assert (actor, action) == ("boss", "discard")
    assert outcome.startswith("failed: ")
    assert desk.place.database.execute("SELECT count(*) FROM discards WHERE reason = 'it fails'") == [(0,)]
