"""Draw the pictures of the console in docs/assets/console, from a stack that it runs for them: `make screenshots`.

It needs Debian's chromium. The stack is that of `bdlab demo --keep`, with a dead letter and some load."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

from bdlab.kafka.producer import Producer
from bdlab.load import LoadGenerator
from bdlab.model import load_contract
from bdlab.settings import load
from bdlab.vault.session import VaultSession
from bdlab_cli.wiring.samples import samples_of
from tests.fix_up import BDLAB, ENVIRONMENT, Up

if TYPE_CHECKING:
    from playwright.sync_api import Page

OUT = Path(__file__).parents[2] / "docs/assets/console"
SIZE = {"width": 1280, "height": 800}
REVIEW = (
    "The coffee is wonderful and the price is great. My dog, on the other hand, got sick from the treats: "
    "a terrible disappointment."
)


@contextmanager
def stack() -> Iterator[Up]:
    """A stack that has led a model's life, and runs again."""
    with tempfile.TemporaryDirectory(prefix="bdlab-pictures-") as made:
        env = ENVIRONMENT | {"TMPDIR": made}
        told = subprocess.run([*BDLAB, "demo", "--keep"], env=env, capture_output=True, text=True, check=True)
        folder = re.search(r"bdlab-demo-\w+", told.stderr + told.stdout)
        if not folder:
            raise SystemExit(told.stderr)
        up = Up(Path(made) / folder[0])
        with closing(up):
            up.wait_for("Console")
            yield up


def environment(up: Up) -> dict[str, str]:
    """Return what `bdlab env` exports."""
    env = [*BDLAB, "env", "--data-dir", str(up.folder.path)]
    exported = subprocess.run(env, capture_output=True, text=True, check=True)
    return dict(re.findall(r"export (\w+)='?([^'\n]*)'?", exported.stdout))


def bdlab(up: Up, *arguments: str) -> None:
    subprocess.run([*BDLAB, *arguments], env=ENVIRONMENT | environment(up), check=True)


def spoil(up: Up) -> None:
    """Put records on the topic that are no events."""
    layers = load(environ=environment(up))
    session = VaultSession(layers, service="dlq", database_role=None, daemon=False)
    with closing(session):
        session.open(30)
        with Producer(session, client_id="pictures", source="/pictures") as producer:
            for value in (b'{"text": "half of an ev', b"\x00\x1b[31mno JSON\xff", b'{"id": "not a UUID", "text": "?"}'):
                producer.publish_raw(b"key", value, [], lambda _: None)


def draw(page: Page, name: str, path: str, wait_for: str = "main h1") -> None:
    """Take the picture NAME of the page at PATH."""
    page.goto(path)
    page.wait_for_selector(wait_for)
    page.wait_for_timeout(1500)
    page.screenshot(path=OUT / f"{name}.png")


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    with ExitStack() as opened:
        up = opened.enter_context(stack())
        for line in ("model add models/reviews.card.json", "model promote reviews@1.1.0 --why pictures"):
            bdlab(up, *line.split())
        spoil(up)
        url = up.endpoint.console_url
        bodies = [json.dumps(sample).encode() for sample in samples_of(load_contract(""))]
        opened.enter_context(LoadGenerator(up.endpoint.http_url, bodies, requests_per_second=12.0))
        playwright = opened.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), chromium_sandbox=False)
        opened.callback(browser.close)
        page = browser.new_page(base_url=url, viewport=SIZE, reduced_motion="reduce", color_scheme="light")
        page.goto("/try")
        page.fill("textarea", REVIEW)
        page.click("main form button[type=submit], main form button:not([type])")
        page.wait_for_timeout(4000)
        page.screenshot(path=OUT / "try.png")
        page.click('a[href^="/predictions/"]')
        page.wait_for_timeout(1500)
        page.screenshot(path=OUT / "prediction.png")
        page.goto("/pipeline")
        page.wait_for_timeout(15000)  # a rate needs two looks
        page.screenshot(path=OUT / "pipeline.png")
        page.goto("/proof")
        page.click("main form button")
        page.wait_for_timeout(4000)
        page.screenshot(path=OUT / "proof.png")
        draw(page, "dead-letters", "/dead-letters")
        draw(page, "models", "/models")
        draw(page, "quality", "/quality")
        page.wait_for_timeout(5000)
        draw(page, "quality", "/quality")
        draw(page, "rotation", "/rotation")
        draw(page, "audit", "/audit")
        page.emulate_media(color_scheme="dark")
        page.goto("/live")
        page.wait_for_timeout(20000)
        page.screenshot(path=OUT / "live.png")
    for file in sorted(OUT.glob("*.png")):
        sys.stdout.write(f"{file.name}: {file.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main()
