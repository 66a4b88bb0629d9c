"""Who may use the console: keys of a real Vault, sessions, and what each request needs."""

from __future__ import annotations

from tests.fix_console import Console, StartConsole
from tests.fix_pipeline import Pipeline


def test_on_loopback_nobody_has_to_sign_in(console: Console) -> None:
    assert console.client.get("/").headers["location"] == "/try"
    assert "Sign in" in console.get("/sign-in").text


def test_elsewhere_a_key_lets_in(pipeline: Pipeline, start_console: StartConsole) -> None:
    key = pipeline.run("api-key", "create", "looker", "--scope", "read").stdout.strip()
    console = start_console(BDLAB_CONSOLE_REQUIRE_KEY="read")
    sent_to = console.client.get("/")
    assert (sent_to.status_code, sent_to.headers["location"]) == (303, "/sign-in?then=/")
    console.sign_in(key[:-1], code=401)
    assert console.client.get("/").status_code == 303
    console.sign_in(key)
    assert console.client.get("/").headers["location"] == "/try"
    assert key not in "".join(console.daemon.lines)
