"""What may become of a request to Vault on its way: a proxy before the real server."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_TIMEOUT_S = 30.0
_OWN_HEADERS = {"host", "connection", "content-length", "transfer-encoding"}


class VaultProxy:
    """Passes HTTP requests on to the Vault at `target`, unless a fault is set.

    Faults: `answer(status)` in Vault's form for every path, `drop()` ends connections with a RST, `stall()`
    takes requests and never answers. `heal()` ends each. `answers` has what Vault answered, in order.
    """

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._fault: Callable[[_Handler], None] | None = None
        self._healed = threading.Event()
        self._healed.set()
        self.answers: list[bytes] = []
        proxy = self

        class Handler(_Handler):
            def handle_request(self) -> None:
                (proxy._fault or proxy._pass_on)(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, status: int, body: bytes = b'{"errors": ["made by the proxy"]}') -> None:
        self._fault = lambda request: request.reply(status, body)

    def drop(self) -> None:
        self._fault = _Handler.reset

    def stall(self) -> None:
        def hold(request: _Handler) -> None:
            self._healed.wait(_TIMEOUT_S)
            request.reset()

        self._healed.clear()
        self._fault = hold

    def heal(self) -> None:
        self._fault = None
        self._healed.set()

    def __enter__(self) -> VaultProxy:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.heal()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _pass_on(self, request: _Handler) -> None:
        connection = http.client.HTTPConnection(self._target.netloc, timeout=_TIMEOUT_S)
        with contextlib.closing(connection):
            body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _OWN_HEADERS}
            try:
                connection.request(request.command, request.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                self.answers.append(content)
                request.reply(answer.status, content)
            except (OSError, http.client.HTTPException):
                request.reset()


class _Handler(BaseHTTPRequestHandler):
    def handle_request(self) -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        self.handle_request()

    do_POST = do_PUT = do_DELETE = do_LIST = do_GET  # noqa: N815 - named so by the base class

    def reply(self, status: int, body: bytes) -> None:
        with contextlib.suppress(OSError):  # whoever asked may have gone
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def reset(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, *_: object) -> None:
        pass
