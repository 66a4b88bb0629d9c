"""The console's pages Try and A prediction: what a form sends becomes a row, and all that is known of it is shown."""

from __future__ import annotations

import html
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from psycopg2 import sql

from bdlab.access import ApiKey, hash_of
from bdlab.settings import HttpSettings, KafkaSettings, Settings
from tests.fix_api import MemoryApi, serving
from tests.fix_console import Console, running_console
from tests.fix_database import migrate
from tests.fix_golden import Place
from tests.fix_pipeline import Daemon, Pipeline
from tests.plants import CONTRACT, PLANT, PlantScorer
from tests.waiting import until

HOSTILE = (
    "terrible <script>alert(1)</script> \x1b[31m \u202eevil שלום 😀 it’s \"quoted\" 'so' $HOME `x` \\n &amp; not good"
)


class Site:
    """A console over a place with a running API and consumer."""

    def __init__(self, pipeline: Pipeline, folder: Path, stack: ExitStack) -> None:
        self.place, self.folder, self._pipeline, self._stack = Place(pipeline), folder, pipeline, stack
        self.place.done("migrate")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.api = self.start_api()
        scheme = "https" if pipeline.environment().get("BDLAB_HTTP_TLS_CERT_FILE") else "http"
        self.more = self.place.environment | {"BDLAB_CONSOLE_API_URL": f"{scheme}://127.0.0.1:{self.port}"}
        self.console = self.open()
        stack.enter_context(self.place.daemon("consume"))

    def start_api(self) -> Daemon:
        api: Daemon = self._stack.enter_context(self.place.daemon("serve", "--port", str(self.port)))
        api.url()
        return api

    def open(self, **more: Any) -> Console:
        folder = self.folder / uuid4().hex
        folder.mkdir()
        return self._stack.enter_context(running_console(self._pipeline, folder, **self.more | more))

    def count(self, table: str, prediction_id: str) -> int:
        column = "prediction_id" if table == "feedback" else "id"
        query = sql.SQL("SELECT count(*) FROM {} WHERE {} = {}")
        values = sql.Identifier(table), sql.Identifier(column), sql.Literal(prediction_id)
        ((found,),) = self.place.database.execute(query.format(*values))
        return int(found)

    def predict(self, **fields: str) -> str:
        """The id of a prediction that was made by the form, once it is verified."""
        found = id_on(self.console.post("/try", named(fields)))
        self.verified(found)
        return found

    def verified(self, prediction_id: str) -> None:
        way = f"/try/way/{prediction_id}?since={datetime.now(UTC).timestamp()}"
        until(lambda: ">verified<" in self.console.get(way, headers={"HX-Request": "true"}).text)


def named(fields: dict[str, str]) -> dict[str, str]:
    return {f"in.{name}": value for name, value in fields.items()}


def id_on(page: httpx.Response) -> str:
    found = re.search(r'<a href="/predictions/([0-9a-f-]{36})">', page.text)
    assert found, page.text
    return found[1]


def field(page: httpx.Response, name: str) -> str:
    """The tag of a form's field."""
    found = re.search(rf'<[^>]* name="in\.{re.escape(name)}"[^>]*>', page.text)
    assert found, page.text
    return found[0]


def shown(page: httpx.Response) -> str:
    """The page's texts, without its marks."""
    return html.unescape(re.sub(r"</?(?:bdi|mark)[^>]*>", "", page.text))


@pytest.fixture(scope="module")
def site(_shared_pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(_shared_pipeline, tmp_path_factory.mktemp("site"), stack)


def test_a_text_becomes_a_row_and_is_shown_with_the_words_that_decided(site: Site) -> None:
    form = site.console.get("/try")
    assert "<textarea" in field(form, "text")
    assert " required" in field(form, "text")
    assert " required" not in field(form, "summary")
    numbers = field(form, "HelpfulnessNumerator")
    assert all(f' {each}"' in numbers for each in ('type="number', 'step="1', 'value="1', 'min="0', 'max="2147483647'))
    assert "This product is terrible!" in site.console.get("/try?example=1").text
    key = str(uuid4())
    fields = named({"text": HOSTILE, "summary": "Product review", "HelpfulnessNumerator": "7"}) | {"key": key}
    answer = site.console.post("/try", fields)
    again = site.console.post("/try", fields)
    asked = id_on(answer)
    assert id_on(again) == asked
    assert re.search(r'<mark class="n5" title="-[\d.]+">terrible</mark> &lt;script&gt;', answer.text)
    assert re.search(r'<mark class="n\d" title="-[\d.]+">good</mark>', answer.text)
    site.verified(asked)
    rows = "SELECT text, summary, helpfulness_numerator FROM predictions WHERE id = %s"
    assert site.place.database.execute(rows, (asked,)) == [(HOSTILE, "Product review", 7)]
    until(lambda: site.count("duplicates", asked) == 1)
    assert site.count("predictions", asked) == 1

    # The lines for a shell and for Python give the same answer.
    lines = [
        html.unescape(each)
        for each in re.findall(r"<pre tabindex=\"0\"><code><bdi>(.*?)</bdi>", answer.text, re.DOTALL)
    ]
    for run, code in zip((["bash", "-c"], [sys.executable, "-c"]), lines, strict=True):
        done = subprocess.run([*run, code], capture_output=True, text=True, check=True, timeout=30)
        said = json.loads(done.stdout) if run[0] == "bash" else eval(done.stdout)  # noqa: S307 - printed by the line above
        assert f"{said['prediction']:.3f}" in shown(answer)

    pages = [site.console.get(f"/predictions/{name}") for name in (asked, asked.upper())]
    page = pages[0].text
    position = re.search(r'href="/predictions/(\d/\d+)"', page)
    trace_id = re.search(r'href="/predictions/([0-9a-f]{32})"', page)
    assert position
    assert trace_id
    for name in (position[1], trace_id[1], f"00-{trace_id[1]}-{'1' * 16}-01"):
        assert asked in site.console.get(f"/predictions?asked=%20{name}").text
    for part in ("<script>alert", "\x1b", "\u202e"):
        assert part not in page
    for part in ("⟨U+202E⟩evil", "\\u001b[31m", "published", "ce_source", "/bdlab/serve", "star_mae", "reviews@"):
        assert part in shown(pages[0]), part
    assert re.search(r"Duplicates</dt><dd><a href=./predictions/\d/\d+", page)
    assert 'href="/models/reviews/' in page


def test_what_is_wrong_is_said_at_its_field_and_what_was_typed_stays(site: Site) -> None:
    wrong = site.console.post("/try", named({"text": " ", "summary": "kept <b>", "HelpfulnessNumerator": "-1x"}))
    assert "kept &lt;b&gt;</textarea>" in wrong.text
    assert 'aria-invalid="true"' in field(wrong, "text")
    assert "It is empty: there is nothing to predict from" in shown(wrong)
    assert "It has to be an integer, and is a string" in shown(wrong)
    assert "HTTP 422" in wrong.text
    assert "Its way" not in wrong.text


def test_an_api_that_is_away_costs_nothing_that_was_typed(site: Site) -> None:
    site.api.stop()
    fields = named({"text": "sent while it was away"}) | {"key": str(uuid4())}
    away = site.console.post("/try", fields)
    assert "does not answer" in away.text
    assert "sent while it was away</textarea>" in away.text
    assert f'name="key" value="{fields["key"]}"' in away.text
    site.api = site.start_api()
    site.verified(id_on(site.console.post("/try", fields)))


def test_feedback_is_sent_and_appears(site: Site) -> None:
    asked = site.predict(text="not what I wanted")
    path, key = f"/predictions/{asked}", str(uuid4())
    assert "Nobody has said" in site.console.get(path).text
    for _ in range(2):
        sent = site.console.post(path, {"in.sentiment": "positive", "in.prediction": "4.5", "key": key})
        assert "acknowledged" in sent.text or "stored" in sent.text
    until(lambda: site.count("feedback", asked) == 1)
    renewed = re.search(r'hx-get="(/feedback/[^"]+)"', sent.text)
    if renewed:
        until(lambda: "4.5" in site.console.get(html.unescape(renewed[1])).text)
    rows = "SELECT prediction, sentiment, source FROM feedback WHERE prediction_id = %s"
    assert site.place.database.execute(rows, (asked,)) == [(4.5, "positive", "serve")]
    wrong = site.console.post(path, {"in.prediction": "9"})
    assert "It has to be between 1 and 5 or null, and is 9" in shown(wrong)
    assert "no right answer" in site.console.post(path, {"in.prediction": ""}, code=400).text
    site.place.database.execute(
        "INSERT INTO rescored (id, model, run, prediction, sentiment, confidence)"
        " VALUES (%s, 'other@2', gen_random_uuid(), 2.25, 'negative', 0.5)",
        (asked,),
    )
    until(lambda: "other@2" in site.console.get(path).text)


def test_texts_are_masked_until_they_are_asked_for(site: Site) -> None:
    asked = site.predict(text="a private matter", summary="secret")
    console = site.open(BDLAB_CONSOLE_MASK_TEXTS="true")
    masked = console.get(f"/predictions/{asked}")
    assert "••• (16 characters)" in masked.text
    assert not re.search("private|secret|7072697661", masked.text)  # nor in hex
    assert "a private matter" in shown(console.get(f"/predictions/{asked}?texts=shown"))


def test_what_is_nowhere_and_what_was_put_aside(site: Site) -> None:
    nowhere = site.console.get(f"/predictions/{uuid4()}", code=404)
    assert "events that are not stored yet" in nowhere.text
    assert "is no prediction&#39;s id" in site.console.get("/predictions/nonsense", code=400).text
    identity = str(uuid4())
    site.place.produce([(1, identity.encode(), b"\xff<i>poison", [("<h>", b"\x1b")])])
    until(lambda: site.place.database.execute("SELECT count(*) FROM dead_letters") == [(1,)])
    page = site.console.get(f"/predictions/{identity}")
    assert "dead letter" in page.text
    assert "ff 3c 69 3e 70" in page.text
    assert not re.search("<i>|\x1b|<h>", page.text)
    # One that is acknowledged and was put aside does not look as if it were on its way.
    way = f"/try/way/{identity}?since={datetime.now(UTC).timestamp() - 5}"
    assert "The consumer has put it aside" in site.console.get(way).text


def test_a_form_of_every_kind_of_field_is_sent_with_the_key_of_who_is_signed_in(
    site: Site, pipeline: Pipeline, tmp_path: Path
) -> None:
    name = f"trier-{uuid4().hex[:8]}"
    key = pipeline.run("api-key", "create", name, "--scope", "read,predict").stdout.strip()
    limits: dict[str, Any] = {
        "http": HttpSettings(require_key="predict"),
        "kafka": KafkaSettings(delivery_timeout_s=5.0),
    }
    api = MemoryApi(Settings(**limits), scorer=PlantScorer())
    secret = key.removeprefix(f"bdlab_{name}_")
    known = ApiKey(
        name=name,
        hash=hash_of(secret),
        scopes=frozenset({"predict"}),
        created_at=datetime.now(UTC),
        expires_at=None,
        rate=None,
    )
    api.keys.known[name] = known
    place = Place(pipeline)
    migrate(place.database.credentials("owner"), CONTRACT)
    fields = {"Name": "Rosé", "Leaf colour": "it's white", "petals": "5", "height (cm)": "40.5", "isWild": "true"}
    fields |= {"planted_at": "2026-01-31T12:00", "moved_at": "", "seeds": "", "edible": "false", "note": "a\r\nb"}
    with api.producer, serving(api.parts) as client:
        more: dict[str, Any] = place.environment | {
            "BDLAB_CONSOLE_API_URL": str(client.base_url),
            "BDLAB_HTTP_REQUIRE_KEY": "predict",
        }
        with running_console(pipeline, tmp_path, **more) as console:
            form = console.get("/try")
            assert 'type="datetime-local"' in field(form, "planted_at")
            assert 'step="any" min="0" max="300.5"' in field(form, "height (cm)")
            assert " required" in field(form, "Leaf colour")
            for part in (
                "<option selected>false</option>", '<option value="">–</option><option>green</option>', "Garden plant",
                "left empty it is null", "in UTC", "As on its label", "at most 20 characters",
            ):  # fmt: skip
                assert part.lower() in form.text.lower(), part
            assert "in the shade" in console.get("/try?example=1").text
            refused = console.post("/try", named(fields))
            assert "HTTP 401" in refused.text
            assert "has the scope predict" in refused.text
            assert "<option selected>it&#39;s white</option>" in refused.text
            console.sign_in(key)
            done = console.post("/try", named(fields))
            for part in (
                "<dd>rose</dd>",
                "<dd>75.0",
                '<th scope="row">tulip</th><td class="num">25.0</td>',
                "<dd>true</dd>",
            ):
                assert part in shown(done), part
            assert 'Authorization: Bearer $BDLAB_KEY"' in html.unescape(done.text)
            assert key not in done.text
            bad = console.post("/try", named(fields | {"Leaf colour": "blue", "planted_at": "then", "petals": ""}))
    for part in ("has to be one of 'green'", "has to be a date and time", "is missing"):
        assert part in shown(bad)
    (record,) = api.records()
    assert dict(record.headers)["bdlab-key-name"] == name.encode()
    said = json.loads(record.value or b"")
    assert (said["planted_at"], said["height_cm"], said["note"]) == ("2026-01-31T12:00:00Z", 40.5, "a\nb")
    assert (said["is_wild"], said["edible"], said["moved_at"], said["seeds"]) == (True, False, None, None)
    assert PLANT["Leaf colour"] == said["leaf_colour"]
