"""`bdlab console` as a process over real servers, and a browser without JavaScript in front of it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest

from tests import tls
from tests.fix_pipeline import Daemon, Pipeline

_TOKEN = re.compile(r'name="_csrf_token" value="([^"]+)"')


class Console:
    """A running console (`daemon`, with its log in `lines`), at `url`, and a `client` with the cookies of a browser."""

    def __init__(self, daemon: Daemon, url: str, stack: ExitStack) -> None:
        self.daemon, self.url, self._stack = daemon, url, stack
        self.client = self.browser()

    def browser(self, **options: Any) -> httpx.Client:
        """Another client, with cookies of its own."""
        fixed: dict[str, Any] = {"base_url": self.url, "timeout": 60, "trust_env": False, "verify": tls.VERIFY}
        return self._stack.enter_context(httpx.Client(**fixed, **options))

    def get(self, path: str, code: int = 200, **options: Any) -> httpx.Response:
        """A page, wherever it redirects to."""
        answer = self.client.get(path, follow_redirects=True, **options)
        assert answer.status_code == code, f"{path}: {answer.status_code}\n{answer.text}"
        return answer

    def post(
        self, path: str, data: Mapping[str, Any] | None = None, *, form: str = "", code: int = 200, **options: Any
    ) -> httpx.Response:
        """Send the form to `path` that is on the page `form` (by default on the page of the same path), with its CSRF
        token; what comes after the redirect."""
        shown = self.get(form or path)
        found = _TOKEN.search(shown.text)
        assert found, f"no form on {form or path}:\n{shown.text}"
        fields = {"_csrf_token": html.unescape(found[1]), **(data or {})}
        answer = self.client.post(path, data=fields, follow_redirects=True, **options)
        assert answer.status_code == code, f"{path}: {answer.status_code}\n{answer.text}"
        return answer

    def sign_in(self, credential: str, code: int = 200, then: str = "/sign-in") -> httpx.Response:
        """Sign in by the form; `then` is the page after it."""
        return self.post("/sign-in", {"credential": credential, "then": then}, code=code)


@contextmanager
def running_console(
    pipeline: Pipeline, folder: Path, *, identities: tuple[str, ...] = ("dlq", "model"), key: str = "", **more: str
) -> Iterator[Console]:
    """`bdlab console` on a free port, with the identity `console` and those of `identities` in a `folder` of its own.
    With a `key` its client is signed in; `more` goes into its environment."""
    own = folder / "console-identity"
    own.mkdir()
    for name in ("console", *identities):
        (own / name).symlink_to(pipeline.folder / "identity" / name)
    with ExitStack() as stack:
        settings = {"BDLAB_VAULT_IDENTITY_DIR": str(own), **more}
        daemon = stack.enter_context(pipeline.daemon("console", "--port", "0", **settings))
        console = Console(daemon, daemon.url(), stack)
        if key:
            console.sign_in(key)
        yield console


class StartConsole(Protocol):
    def __call__(self, *, identities: tuple[str, ...] = ..., key: str = "", **more: str) -> Console: ...


@pytest.fixture
def start_console(pipeline: Pipeline, tmp_path: Path) -> Iterator[StartConsole]:
    """Starts consoles with identities, a key and settings of a test's own; see `running_console`."""
    with ExitStack() as stack:

        def start(**options: Any) -> Console:
            folder = tmp_path / f"console-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            return stack.enter_context(running_console(pipeline, folder, **options))

        yield start


@pytest.fixture(scope="module")
def console(_shared_pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A console over the servers of `pipeline`, shared by a module's tests: no sign-in, and it may replay and promote.
    Its registry of models is `registry` beside its pipeline's folder."""
    folder = tmp_path_factory.mktemp("console")
    registry = str(_shared_pipeline.folder / "registry")
    with running_console(_shared_pipeline, folder, BDLAB_MODEL_REGISTRY=registry) as running:
        yield running
