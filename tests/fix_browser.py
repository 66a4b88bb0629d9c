"""Debian's Chromium, and what holds for each page that a test opens in it: Playwright without a browser of its own.

Playwright's synchronous API keeps an event loop running in the thread of the tests from `chromium` on, until its module
ends: no test of such a module calls `asyncio.run`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import pytest

from bdlab.errors import BinaryMissing
from tests.fix_servers import installed_or_skip

if TYPE_CHECKING:  # which takes half a second to import, in each process of the suite
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

#: The narrowest and the widest window that a page has to fit into, in CSS pixels.
WIDTHS = 320, 1600
HEIGHT = 900
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
#: A page without what moves, so that colours and places are those that stay.
_CALM: Any = {"reduced_motion": "reduce", "locale": "en-GB", "timezone_id": "UTC"}
_MOST_TABS = 200

_STICKING_OUT = """() => {
  const width = document.documentElement.clientWidth
  if (document.documentElement.scrollWidth <= width) return []
  const scrolls = e => e && (/auto|scroll|hidden/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement))
  const out = [...document.body.querySelectorAll('*')].filter(e =>
    e.getBoundingClientRect().right > width + 0.5 && !scrolls(e.parentElement))
  return [`${document.documentElement.scrollWidth} px in ${width} px`, ...out.map(e => e.outerHTML.slice(0, 150))]
}"""
_FOCUSED = """() => {
  const e = document.activeElement, style = getComputedStyle(e)
  const label = e.labels?.length ? e.labels[0].innerText : ''
  return {name: (e.ariaLabel || label || e.innerText || e.value || e.title || e.name || '').trim(),
          seen: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0 || style.boxShadow !== 'none',
          html: e.outerHTML.slice(0, 150)}
}"""


class Watched:
    """A context of the browser, and what its pages did that no page of bdlab does."""

    def __init__(self, context: BrowserContext, base_url: str) -> None:
        self.context = context
        self._host = urlsplit(base_url).netloc
        self._wrong: list[str] = []
        #: Parts of messages in the browser's console that this test means to cause.
        self.expected: list[str] = []
        context.on("request", self._asked)
        context.on("console", self._told)
        context.on("weberror", lambda error: self._wrong.append(f"exception: {error.error}"))

    def _asked(self, request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme not in {"data", "blob"} and url.netloc != self._host:
            self._wrong.append(f"another host is asked: {request.url}")

    def _told(self, message: ConsoleMessage) -> None:
        """Errors, of which a breach of the content security policy is one, and warnings."""
        if message.type in {"error", "warning"}:
            self._wrong.append(f"{message.type} in the console: {message.text} ({message.location})")

    def close(self) -> None:
        self.context.close()
        wrong = [each for each in self._wrong if not any(part in each for part in self.expected)]
        assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser, for a module's tests: no other can be had in this process meanwhile."""
    with installed_or_skip():
        program = shutil.which("chromium")
        if program is None:
            raise BinaryMissing("there is no chromium", hint="Run `make browser`: it is Debian's package chromium.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, chromium_sandbox=os.geteuid() != 0)
        yield browser
        browser.close()


@pytest.fixture
def watch(chromium: Browser) -> Iterator[Callable[..., Watched]]:
    """Makes a context for pages below an address; `options` are those of `Browser.new_context`.

    At the end the test fails if a page asked another host, logged an error or broke its content security policy.
    """
    with ExitStack() as opened:

        def make(base_url: str, **options: Any) -> Watched:
            watched = Watched(chromium.new_context(base_url=base_url, **_CALM | options), base_url)
            opened.callback(watched.close)
            return watched

        yield make


def no_violations(page: Page) -> None:
    """Axe finds nothing on the page as it is now."""
    from axe_playwright_python.sync_playwright import Axe

    results = Axe().run(page)
    assert not results.violations_count, f"{page.url}: {results.generate_report()}"


def fits(page: Page, width: int) -> None:
    """Nothing of the page is to be scrolled to from left to right in a window of this width."""
    page.set_viewport_size({"width": width, "height": HEIGHT})
    out = page.evaluate(_STICKING_OUT)
    assert not out, "\n".join([f"{page.url} is too wide:", *out])


def tab_to(page: Page, name: str) -> None:
    """Press Tab until what is called so has the focus, which can be seen on all that has it."""
    passed = []
    for _ in range(_MOST_TABS):
        page.keyboard.press("Tab")
        focused = page.evaluate(_FOCUSED)
        assert focused["seen"], f"no focus is to be seen: {focused['html']}"
        if name in focused["name"]:
            return
        passed.append(focused["name"])
    pytest.fail(f"Tab does not reach {name!r}, but {passed}")
