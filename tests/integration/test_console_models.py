"""The console's pages *Models* and *Quality*: what they show of real rows, and a promotion to its row."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.fix_console import Console, StartConsole
from tests.fix_pipeline import Pipeline
from tests.fix_registry import version_card
from tests.waiting import until

#: When these tests' predictions were stored, and the day around it, in which no other test of the pipeline has any.
STORED = datetime.now(UTC) - timedelta(days=20)
DAY = "last=custom" + "".join(
    f"&{name}={STORED + timedelta(hours=hours):%Y-%m-%dT%H:%M}" for name, hours in (("since", -20), ("until", 4))
)
REVIEWS = [("Wonderful tea, I love it", 5.0), ("Terrible, it was stale and I threw it away", 1.0)] * 20


def text_of(page: str) -> str:
    """What a person reads: without markup, with single spaces."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


def asked(pipeline: Pipeline, query: str) -> list[tuple[Any, ...]]:
    with closing(pipeline.database()) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()


def counted(console: Console, path: str) -> str:
    """A page once its figures are counted."""
    until(lambda: "being counted" not in console.get(path).text)
    return console.get(path).text


@contextmanager
def tables_locked(pipeline: Pipeline) -> Iterator[None]:
    """Figures wait meanwhile, as they would for a million rows."""
    with closing(pipeline.database()) as connection, connection.cursor() as cursor:
        connection.autocommit = False
        cursor.execute("LOCK TABLE feedback IN ACCESS EXCLUSIVE MODE")
        yield
        connection.rollback()


@pytest.fixture(scope="module")
def answered(_shared_pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two versions in the console's registry, and predictions with feedback that both have made; one of their texts."""
    pipeline, folder = _shared_pipeline, tmp_path_factory.mktemp("models")
    registry = {"BDLAB_MODEL_REGISTRY": str(pipeline.folder / "registry"), "BDLAB_MODEL_CACHE_DIR": str(folder)}

    def run(*arguments: str, stdin: str = "") -> str:
        done = pipeline.run(*arguments, stdin=stdin, **registry)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    for version in ("1.1.0", "1.2.0"):
        run("model", "add", str(version_card(folder / version, version)))
    run("model", "promote", "reviews@1.1.0", "--why", "the first")
    given = "".join(json.dumps({"text": text}) + "\n" for text, _ in REVIEWS)
    made = run("predict", "--file", "-", "--format", "jsonl", "--json", stdin=given)
    ids = [json.loads(line)["id"] for line in made.splitlines()]
    right = [
        {"prediction_id": one, "prediction": stars, "sentiment": "positive" if stars > 3 else "negative"}
        for one, (_, stars) in zip(ids, REVIEWS, strict=True)
    ]
    run("feedback", "--file", "-", "--format", "jsonl", stdin="".join(json.dumps(each) + "\n" for each in right))
    run("consume", "--until-idle")
    with closing(pipeline.database()) as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO rescored (id, model, scored_at, run, prediction, sentiment, confidence) "
            "SELECT id, 'reviews@1.2.0', now(), gen_random_uuid(), least(prediction + 0.5, 5), sentiment, confidence "
            "FROM predictions WHERE id = ANY(%s::uuid[])",
            [ids],
        )
        cursor.execute(
            "UPDATE predictions SET stored_at = %s::timestamptz - CASE sentiment WHEN 'negative' THEN interval '3 h' "
            "ELSE interval '0' END WHERE id = ANY(%s::uuid[])",
            [STORED, ids],
        )
    return str(ids[0])


def test_versions_cards_and_a_comparison_are_shown(console: Console, answered: str) -> None:
    shown = text_of(console.get("/models").text)
    for part in ("serves reviews@1.1.0", "reviews@1.2.0", "the first", "Nothing to roll back to", "Promote…"):
        assert part in shown
    card = text_of(console.get("/models/reviews/1.1.0").text)
    for part in ("star_mse 0.6644", "HelpfulnessNumerator input integer 0 to 2147483647 1", "5,814 rows", "sha256"):
        assert part in card
    compared = counted(console, f"/models/compare?b=reviews@1.2.0&{DAY}&slice=HelpfulnessNumerator")
    for part in ("beside A, reviews@1.1.0", "both said something 40", "95 % interval", "Slices by prediction"):
        assert part in text_of(compared)
    assert 'href="/predictions/' in compared
    assert "nothing is stored of reviews@9.9.9" in counted(console, "/models/compare?b=reviews@9.9.9")
    assert "is not in the registry" in console.get("/models/reviews/9.9.9", code=404).text
    for wrong in ("last=5", "last=custom&since=x", "source=somewhere", "last=custom&since=2026-02-01&until=2026-01-01"):
        assert "This cannot be done" in console.get(f"/models/compare?b=x@1&{wrong}", code=400).text


def test_quality_is_counted_in_the_background_once_and_shown(
    pipeline: Pipeline, console: Console, answered: str
) -> None:
    query = f"/quality?{DAY}&slice=text"
    with tables_locked(pipeline):
        for _ in range(2):
            assert "being counted since" in text_of(console.get(query).text)
        assert 'hx-trigger="load delay:1s"' in console.get(query).text
        active = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND application_name = "
        assert asked(pipeline, active + "'bdlab console figures'") == [(1,)]
    shown = text_of(counted(console, query))
    for figure in ("predictions 40", "with feedback 40", "calibration error", "Drift from the profile", "too few rows"):
        assert figure in shown
    part = console.get(query, headers={"HX-Request": "true", "HX-Target": "figures"}).text
    assert "<h1" not in part
    assert "hx-trigger" not in part
    over_time = console.get(query).text.partition("Over time")[2]
    assert "in steps of 1 h" in over_time
    assert len(re.findall(r"<td><time[^>]+>.*?</tr>", over_time)) == 2
    assert json.loads(html.unescape(re.findall(r"data-chart='(.+?)'", over_time)[0]))["series"][1]["values"] == [20, 20]
    assert "No predictions are stored" in counted(console, f"/quality?{DAY}&source=drill")


def test_a_version_is_promoted_with_a_reason_and_rolled_back(
    pipeline: Pipeline, console: Console, answered: str
) -> None:
    form = "/models/reviews/1.2.0/promote"
    assert "beside A, reviews@1.1.0" in text_of(counted(console, form))
    assert "reason is missing" in console.post(form, {"serving": "reviews@1.1.0", "why": " "}, code=400).text
    assert (
        "Meanwhile reviews@1.1.0 serves" in console.post(form, {"serving": "reviews@1.0.0", "why": "x"}, code=400).text
    )
    assert console.client.post(form, data={"serving": "reviews@1.1.0", "why": "x"}).status_code == 403
    assert asked(pipeline, "SELECT count(*) FROM model_promotions") == [(1,)]
    done = console.post(form, {"serving": "reviews@1.1.0", "why": "better on slang"})
    assert str(done.url).endswith("/models")
    assert "serves reviews@1.2.0" in text_of(done.text)
    last = "SELECT name, version, why, promoted_by FROM model_promotions ORDER BY number DESC LIMIT 1"
    assert asked(pipeline, last) == [("reviews", "1.2.0", "better on slang", "nobody (console)")]
    assert "Roll back to reviews@1.1.0…" in text_of(done.text)
    console.post("/models/reviews/1.1.0/promote", {"serving": "reviews@1.2.0", "why": "rollback"})
    assert asked(pipeline, last)[0][:3] == ("reviews", "1.1.0", "rollback")
    console.post("/models/reviews/9.9.9/promote", {"serving": "reviews@1.1.0", "why": "oh"}, form=form, code=404)
    audit = "SELECT actor, action, subject, outcome FROM audit WHERE begun IS NOT NULL ORDER BY id"
    assert asked(pipeline, audit) == [
        ("nobody", "promote", "reviews@1.2.0", "promoted"),
        ("nobody", "promote", "reviews@1.1.0", "promoted"),
        ("nobody", "promote", "reviews@9.9.9", "failed"),
    ]


def test_without_the_identity_there_is_the_command_and_no_button(
    start_console: StartConsole, pipeline: Pipeline, answered: str
) -> None:
    console = start_console(identities=(), BDLAB_MODEL_REGISTRY=str(pipeline.folder / "registry"))
    shown = text_of(console.get("/models").text)
    assert "Promote…" not in shown
    assert "bdlab model promote NAME@VERSION --why TEXT" in shown
    page = text_of(console.get("/models/reviews/1.2.0/promote").text)
    assert "was not given the identity model" in page
    assert "Why" not in page
