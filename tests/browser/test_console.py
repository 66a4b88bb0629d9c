"""The console as a person uses it: each page in a browser, and what is done there to its row in the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from bdlab.kafka.producer import Producer
from tests.fix_browser import SCHEMES, WIDTHS, Watched, fits, no_violations, tab_to
from tests.fix_console import Console, running_console
from tests.fix_kafka import Acks, kafka_login
from tests.fix_pipeline import Pipeline
from tests.fix_registry import version_card
from tests.static_credentials import StaticCredentials
from tests.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.plaintext("the browser does not know the authority")]

#: A review that would be markup, steer a terminal, turn the direction of what follows, and a wide emoji.
HOSTILE = (
    'terrible <img src=x onerror="alert(1)"><script>alert(2)</script></textarea><b>bold</b> \x1b[31mred\x07'
    " \u202eevil\u202c שלום 👩‍🔬 good"
)
VISIBLE = (
    'terrible <img src=x onerror="alert(1)"><script>alert(2)</script></textarea><b>bold</b> ␛[31mred␇ ⟨U+202E⟩evil'
)
REFUSED = "against the rule of a house"
FIRST, SECOND = "reviews@1.1.0", "reviews@1.2.0"


#: Of each page its address, and what is to be read on it at once. {} are fields of `Site`.
PAGES = {
    "try": ("/try", "Fill with an example"),
    "live": ("/live", "Stale and bitter."),
    "prediction": ("/predictions/{plain}", "The newest counts."),
    "hostile": ("/predictions/{hostile}", "⟨U+202E⟩evil"),
    "unstored": ("/predictions/{letter}", "dead letter"),
    "pipeline": ("/pipeline", "Lag by partition"),
    "proof": ("/proof", "Verified"),
    "run": ("/proof/1", "By partition"),
    "letters": ("/dead-letters", "not UTF-8 JSON"),
    "letter": ("/dead-letters/{letter}", "ff 3c 69 3e 6e 6f"),
    "dry run": ("/dead-letters/replay", "Nothing was changed yet"),
    "audit": ("/audit", "Nobody can change or delete an entry."),
    "models": ("/models", "the first"),
    "model": ("/models/reviews/1.1.0", "star_mse"),
    "promote": ("/models/reviews/1.2.0/promote", "Beside the version that serves"),
    "compare": ("/models/compare?b=reviews@1.2.0", "nothing is stored of reviews@1.2.0"),
    "quality": ("/quality?last=24h&source=all", "calibration error"),
    "rotation": ("/rotation", "bdlab rotate all --drill"),
    "sign-in": ("/sign-in", "API key"),
}


@dataclass
class Site:
    """A console over a running pipeline. `hostile` is the prediction of such a text, `plain` that of another."""

    pipeline: Pipeline
    console: Console
    hostile: str = ""
    plain: str = ""
    letter: str = ""

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with closing(self.pipeline.database()) as connection, connection.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchall()

    def change(self, statement: str, *values: Any) -> None:
        with closing(self.pipeline.database()) as connection, connection.cursor() as cursor:
            cursor.execute(statement, values)

    def stored(self, table: str, column: str, value: str) -> None:
        until(lambda: bool(self.rows(f"SELECT FROM {table} WHERE {column} = %s", value)))


@pytest.fixture(scope="module")
def site(_shared_pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """With two versions in the registry, the first one promoted; a prediction with feedback, and a dead letter."""
    pipeline, folder = _shared_pipeline, tmp_path_factory.mktemp("site")
    registry: dict[str, Any] = {
        "BDLAB_MODEL_REGISTRY": str(folder / "registry"),
        "BDLAB_MODEL_CACHE_DIR": str(folder / "cache"),
        "BDLAB_MODEL_POLL_S": "0.2",
    }
    for model in (FIRST, SECOND):
        card = version_card(folder / model, model.partition("@")[2])
        assert pipeline.run("model", "add", str(card), **registry).returncode == 0
    assert pipeline.run("model", "promote", FIRST, "--why", "the first", **registry).returncode == 0
    with ExitStack() as stack:
        _, api = stack.enter_context(pipeline.serve(**registry))
        stack.enter_context(pipeline.daemon("consume"))
        more = registry | {"BDLAB_CONSOLE_API_URL": str(api.base_url).rstrip("/"), "XDG_STATE_HOME": str(folder)}
        console = stack.enter_context(running_console(pipeline, folder, **more))
        site = Site(pipeline, console)
        site.hostile, site.plain = (_predicted(api, text) for text in (HOSTILE, "Stale and bitter."))
        site.change("ALTER TABLE predictions ADD CONSTRAINT house_rule CHECK (text <> %s)", REFUSED)
        _predicted(api, REFUSED)
        right = {"prediction_id": site.plain, "prediction": 1.0, "sentiment": "negative"}
        given = api.post("/feedback", json=right)
        assert given.status_code == 200, given.text
        kafka = StaticCredentials(kafka=kafka_login(pipeline.broker.bootstrap_servers))
        with Producer(kafka, client_id="test", source="/tests") as producer:
            acks = Acks()
            producer.publish_raw(b"<b>k", b"\xff<i>no event\x1b", [], acks)
            (position,) = acks.positions(1)
        site.letter = f"{position.partition}/{position.offset}"
        site.stored("predictions", "id", site.plain)
        site.stored("feedback", "prediction_id", site.plain)
        until(lambda: len(site.rows("SELECT FROM dead_letters")) == 2)
        console.post("/proof/run", {"wait": "30"}, form="/proof")
        yield site


def _predicted(api: httpx.Client, text: str) -> str:
    answer = api.post("/predict", json={"text": text, "summary": text[:20]})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


@pytest.fixture
def watched(site: Site, watch: Callable[..., Watched]) -> Watched:
    return watch(site.console.url)


def read(page: Page, site: Site, name: str) -> str:
    """Open the page of this name; its text, once figures that are counted in the background are there."""
    address, shown = PAGES[name]
    answer = page.goto(address.format(**vars(site)))
    assert answer
    assert answer.status == 200
    main = page.locator("main")
    until(lambda: shown in main.inner_text() or not page.reload())
    return main.inner_text()


def test_every_page_of_the_navigation_is_tested(watched: Watched) -> None:
    page = watched.context.new_page()
    page.goto("/")
    links = page.locator("nav a").evaluate_all("all => all.map(each => each.getAttribute('href'))")
    assert set(links) <= {address.partition("?")[0] for address, _ in PAGES.values()}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read_by_everybody(watched: Watched, site: Site, name: str) -> None:
    """In light and in dark, in any width, and by who hears it."""
    page = watched.context.new_page()
    read(page, site, name)
    for width, scheme in zip(WIDTHS, SCHEMES, strict=True):
        page.emulate_media(color_scheme=scheme)
        fits(page, width)
        no_violations(page)
    assert page.locator("h1").count() == 1


def test_without_javascript_every_page_has_its_data(site: Site, watch: Callable[..., Watched]) -> None:
    page = watch(site.console.url, java_script_enabled=False).context.new_page()
    for name in PAGES:
        read(page, site, name)


def test_by_the_keyboard_from_a_text_to_its_row(watched: Watched, site: Site) -> None:
    page = watched.context.new_page()
    page.goto("/live")
    tab_to(page, "Skip to the content")
    tab_to(page, "Try")
    page.keyboard.press("Enter")
    page.wait_for_url("**/try")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # skips the navigation
    tab_to(page, "text")
    page.keyboard.type("Typed by a hand that has no mouse: terrible")
    tab_to(page, "Predict")
    page.keyboard.press("Enter")
    way = page.get_by_label("Its way")
    way.get_by_text("verified", exact=True).wait_for()
    tab_to(page, "All that is known of it")
    page.keyboard.press("Enter")
    page.wait_for_url("**/predictions/*")
    asked = page.url.rpartition("/")[2]
    text = "SELECT text FROM predictions WHERE id = %s"
    assert site.rows(text, asked) == [("Typed by a hand that has no mouse: terrible",)]


def test_a_hostile_text_is_shown_and_does_nothing(watched: Watched, site: Site) -> None:
    page = watched.context.new_page()
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.goto("/try")
    before = page.locator("main :is(img, script, b)").count()
    page.get_by_label("text", exact=True).fill(HOSTILE)
    page.get_by_role("button", name="Predict").click()
    page.get_by_label("Its way").get_by_text("verified", exact=True).wait_for()
    for address in (None, f"/predictions/{site.hostile}", "/live"):
        if address:
            page.goto(address)
        shown = page.locator("main")
        assert VISIBLE in shown.inner_text()
        assert "\u202e" not in shown.inner_text().replace(HOSTILE, "")
        assert page.locator("main :is(img, script, b)").count() == before
        direction = "all => all.every(each => getComputedStyle(each).unicodeBidi === 'isolate')"
        assert shown.locator("bdi", has_text="evil").evaluate_all(direction)
        assert shown.locator("bdi", has_text="evil").count() > 0


def test_what_is_stored_appears_on_the_live_page(watched: Watched, site: Site) -> None:
    page = watched.context.new_page()
    page.goto("/live")
    rows = page.locator("#rows tr")
    before = rows.count()
    pause = page.get_by_role("button", name="Pause")
    done = site.pipeline.run("predict", "It came by itself.", "--json")
    page.locator("#rows").get_by_text("It came by itself.").wait_for()
    assert rows.count() == before + 1
    pause.click()
    done = site.pipeline.run("predict", "It waits for the reader.", "--json")
    assert done.returncode == 0
    resume = page.get_by_role("button", name="Resume (1 new)")
    resume.wait_for()
    assert rows.count() == before + 1
    resume.click()
    page.locator("#rows").get_by_text("It waits for the reader.").wait_for()


def test_feedback_to_its_row(watched: Watched, site: Site) -> None:
    page = watched.context.new_page()
    page.goto(f"/predictions/{site.hostile}")
    page.get_by_role("button", name="negative", exact=True).click()
    page.get_by_label("Feedback given").get_by_text("stored", exact=True).wait_for()
    given = "SELECT sentiment FROM feedback WHERE prediction_id = %s"
    assert site.rows(given, site.hostile) == [("negative",)]


def test_a_proof_is_run_and_kept(watched: Watched) -> None:
    page = watched.context.new_page()
    page.goto("/proof")
    page.get_by_role("button", name="Count now").click()
    page.locator("#proof .banner.healthy", has_text="Verified").wait_for()


def test_a_promotion_and_its_way_back_to_their_rows(watched: Watched, site: Site) -> None:
    page = watched.context.new_page()
    page.goto("/models")
    page.get_by_role("row", name=SECOND).get_by_role("link", name="Promote").click()
    page.get_by_label("Why").fill("because it is better")
    page.get_by_role("button", name=f"Promote {SECOND}").click()
    page.wait_for_url("**/models")
    page.get_by_role("button", name=f"Roll back to {FIRST}").click()
    page.get_by_role("button", name=f"Promote {FIRST}").click()
    page.wait_for_url("**/models")
    rows = site.rows("SELECT version, why, promoted_by FROM model_promotions ORDER BY number DESC LIMIT 2")
    assert rows == [("1.1.0", "rollback", "nobody (console)"), ("1.2.0", "because it is better", "nobody (console)")]
    audit = "SELECT actor, action, subject, outcome FROM audit WHERE begun IS NOT NULL ORDER BY id DESC LIMIT 2"
    assert site.rows(audit) == [("nobody", "promote", FIRST, "promoted"), ("nobody", "promote", SECOND, "promoted")]


def test_a_replay_after_its_dry_run_to_its_row(watched: Watched, site: Site) -> None:
    site.change("ALTER TABLE predictions DROP CONSTRAINT house_rule")
    page = watched.context.new_page()
    page.goto("/dead-letters")
    page.get_by_label("SQLSTATE begins with").fill("23")
    page.get_by_role("button", name="Replay these").click()
    page.get_by_text("Nothing was changed yet. 1 would be sent back").wait_for()
    assert site.rows("SELECT FROM replays") == []
    page.get_by_role("button", name="Replay 1").click()
    page.get_by_text("1 stored, by nobody").wait_for()
    assert len(site.rows("SELECT FROM predictions WHERE text = %s", REFUSED)) == 1
    assert len(site.rows("SELECT FROM replays")) == 1
    page.get_by_role("link", name="Its entry in the audit").click()
    page.get_by_role("row", name="1 stored").wait_for()
    audit = "SELECT actor, action, outcome FROM audit WHERE begun IS NOT NULL ORDER BY id DESC LIMIT 1"
    assert site.rows(audit) == [("nobody", "replay", "1 stored")]


def test_what_no_page_may_do_is_blocked_and_noticed(watched: Watched) -> None:
    page = watched.context.new_page()
    page.goto("/try")
    add = "markup => document.body.append(document.createRange().createContextualFragment(markup))"
    for markup in ("<script>window.ran = 1</script>", "<p style='color: red'>", "<img src='http://127.0.0.1:1/x'>"):
        page.evaluate(add, markup)
    page.evaluate("() => fetch('http://127.0.0.1:1/').catch(() => null)")
    assert page.evaluate("() => window.ran") is None
    with pytest.raises(AssertionError) as found:
        watched.close()
    for part in ("inline script", "inline style", "Loading the image", "another host is asked"):
        assert part in str(found.value)
    watched.expected.append("")
