"""A real HTTP proxy on loopback that records what passes: in front of one server, or as clients name one."""

from __future__ import annotations

import http.client
import http.server
import socket
import threading
from typing import Self
from urllib.parse import urlsplit

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "proxy-connection"}
_CHUNK = 1 << 16
_TIMEOUT_S = 130

#: Status and body of an answer.
Answer = tuple[int, bytes]


class Relay:
    """Passes requests on: to `target` (host:port) where one is given, else to where each says, CONNECT too.

    `seen` gets the method and the URL or path of each. A subclass may answer some itself.
    """

    def __init__(self, target: str = "") -> None:
        self._target = target
        self.seen: list[tuple[str, str]] = []
        relay = self

        class Handler(_Handler):
            def handle_one(self) -> None:
                relay.handle(self)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def handle(self, request: _Handler) -> None:
        self.seen.append((request.command, request.path))
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if request.command == "CONNECT":
            request.tunnel()
            return
        place = urlsplit(request.path)
        path = place._replace(scheme="", netloc="").geturl()
        try:
            answer = self.answer(request.command, path, dict(request.headers), body, place.netloc)
        except OSError:
            answer = 502, b"the server is away"
        request.answer(*answer)

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes, netloc: str = "") -> Answer:
        """Ask the server and give its answer."""
        connection = http.client.HTTPConnection(self._target or netloc, timeout=_TIMEOUT_S)
        try:
            kept = {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}
            connection.request(method, path, body or None, kept)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_one(self) -> None:
        raise NotImplementedError

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if status != 204:  # which has no body, and says no length
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def tunnel(self) -> None:
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port)), _TIMEOUT_S) as there:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=_copy, args=(there, self.connection), daemon=True)
            back.start()
            _copy(self.connection, there)
            back.join()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass

    do_GET = do_POST = do_PUT = do_DELETE = do_LIST = do_CONNECT = lambda self: self.handle_one()  # noqa: N815


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(_CHUNK):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one of the two has gone
