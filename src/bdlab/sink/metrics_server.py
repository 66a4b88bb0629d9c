"""The HTTP server of a consumer: /metrics and /health/live, with TLS if it has a certificate."""

import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app, start_http_server

from bdlab.certificates import ServedCertificate
from bdlab.errors import BdlabError

log = structlog.get_logger()


@dataclass
class MetricsServer:
    """Serves the metrics of `registry`, and 200 or 503 at /health/live, as `alive` returns, in threads. `port` 0 is any
    free port. The certificate and its key are PEM files, read again if they are replaced; without them the server
    speaks plain HTTP. A context manager, which raises BdlabError if it cannot listen."""

    registry: CollectorRegistry
    alive: Callable[[], bool]
    host: str
    port: int
    cert_file: str = ""
    key_file: str = ""

    @property
    def url(self) -> str:
        """The address of the open server."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.cert_file else 'http'}://{host}:{self._server.server_port}"

    def __enter__(self) -> Self:
        try:
            self._server, self._thread = start_http_server(
                self.port, self.host, self.registry, self.cert_file or None, self.key_file or None
            )
        except OSError as error:
            why = f"the metrics port {self.host}:{self.port} cannot be opened: {error.strerror or error}"
            raise BdlabError(why, hint="Choose another one with --metrics-port, or 0 for any free one.") from error
        self._metrics = make_wsgi_app(self.registry)
        self._server.RequestHandlerClass = _Handler
        self._server.set_app(self._respond)
        if isinstance(self._server.socket, ssl.SSLSocket):
            # Done in the thread of the connection, so that a client that sends nothing stops no other.
            self._server.socket.do_handshake_on_connect = False  # type: ignore[attr-defined]
            certificate = ServedCertificate(self._server.socket.context, Path(self.cert_file), Path(self.key_file))
            # Called by the thread that accepts connections, twice a second.
            self._server.service_actions = certificate.reload  # type: ignore[method-assign]
        log.info("metrics are served", url=f"{self.url}/metrics")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _respond(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                return self._metrics(environ, start_response)  # type: ignore[no-any-return]
            case "/health/live" if self.alive():
                status, body = "200 OK", b"alive\n"
            case "/health/live":
                status, body = "503 Service Unavailable", b"the loop makes no progress\n"
            case _:
                status, body = "404 Not Found", b"there are /metrics and /health/live\n"
        start_response(status, [("Content-Type", "text/plain")])
        return [body]


class _Handler(WSGIRequestHandler):
    timeout = 10.0
    """Seconds that a client may be silent."""

    def handle(self) -> None:
        try:
            super().handle()
        except OSError as error:  # no TLS handshake, too slow, or gone
            log.debug("metrics request failed", client=self.client_address[0], problem=str(error))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its base names it so
        log.debug("metrics request", line=format % args)
