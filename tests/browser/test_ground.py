"""That the browser's fixtures find what they are there to find."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.fix_browser import Watched, fits, in_each_scheme, no_violations, tab_to

pytestmark = pytest.mark.browser

GOOD = (
    '<form><label>Text <input name=text></label> <button type=button>Send</button></form><img alt="dot" src="data:,">'
)
WRONG = {
    "style": ("<p style='color:red'>red</p>", "Content Security Policy"),
    "inline": ("<script>alert(1)</script>", "Content Security Policy"),
    "host": ("<a id=out href='http://127.0.0.1:1/'>out</a>", "another host is asked"),
    "absent": ("<img alt='' src=/missing>", "404"),
    "exception": ("<script src=/script></script>", "exception"),
}
PAGE = "<!doctype html><html lang=en><title>ground</title><link rel=icon href='data:,'><main><h1>Ground</h1>{}</main>"


class Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.path.strip("/")
        kind, body = "text/html", PAGE.format(WRONG[name][0] if name in WRONG else GOOD)
        if name == "script":
            kind, body = "text/javascript", "nothing.at.all"
        self.send_response(404 if name == "missing" else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", "default-src 'self'; img-src 'self' data:")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_good(site: str, watch: Callable[..., Watched]) -> None:
    page = watch(site).context.new_page()
    page.goto("/")
    for _ in in_each_scheme(page):
        no_violations(page)
    fits(page, 320)
    tab_to(page, "Text")
    tab_to(page, "Send")


@pytest.mark.parametrize("name", WRONG)
def test_wrong(site: str, watch: Callable[..., Watched], name: str) -> None:
    watched = watch(site)
    page = watched.context.new_page()
    page.goto(name)
    if name == "host":
        with pytest.raises(Exception, match="ERR_"):
            page.goto("http://127.0.0.1:1/")
    with pytest.raises(AssertionError, match=WRONG[name][1]):
        watched.close()
    watched.expected.append("")
