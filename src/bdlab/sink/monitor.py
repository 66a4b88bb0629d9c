"""A small HTTP server beside the sink: /metrics and /health/live."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from bdlab.errors import BdlabError

log = structlog.get_logger()


class Monitor:
    """Serves `registry`, and 200 or 503 as `alive` says, in a thread of its own."""

    def __init__(
        self, registry: CollectorRegistry, alive: Callable[[], bool], *, host: str, port: int
    ) -> None:
        """`port` 0 lets the system choose a free one."""
        self._registry = registry
        self._alive = alive
        self._address = (host, port)
        self._server: ThreadingHTTPServer | None = None

    @property
    def port(self) -> int:
        """The port that it listens on; only while it is open."""
        if self._server is None:
            raise BdlabError("the metrics server is not open")
        return int(self._server.server_address[1])

    def __enter__(self) -> Monitor:
        registry, alive = self._registry, self._alive

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                match self.path.partition("?")[0]:
                    case "/metrics":
                        self._answer(HTTPStatus.OK, generate_latest(registry), CONTENT_TYPE_LATEST)
                    case "/health/live" if alive():
                        self._answer(HTTPStatus.OK, b"alive\n")
                    case "/health/live":
                        self._answer(HTTPStatus.SERVICE_UNAVAILABLE, b"the loop makes no progress\n")
                    case _:
                        self._answer(HTTPStatus.NOT_FOUND, b"there are /metrics and /health/live\n")

            def _answer(self, status: HTTPStatus, body: bytes, kind: str = "text/plain") -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its base names it so
                log.debug("metrics request", line=format % args)

        try:
            self._server = ThreadingHTTPServer(self._address, Handler)
        except OSError as error:
            host, port = self._address
            raise BdlabError(
                f"the metrics port {host}:{port} cannot be opened: {error.strerror}",
                hint="Choose another one with --metrics-port, or 0 for any free one.",
            ) from error
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        log.info("metrics are served", url=f"http://{self._address[0]}:{self.port}/metrics")
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
