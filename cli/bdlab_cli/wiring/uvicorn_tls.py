"""HTTPS for uvicorn, with a certificate whose files may be replaced while it serves."""

import asyncio
import contextlib
import os
import socket
import ssl
from functools import partial
from pathlib import Path
from typing import Any

from uvicorn.server import ServerState

from bdlab.certificates import ServedCertificate
from bdlab_cli.wiring import uvicorn_protocol

_LOOK_EVERY_S = 1.0


class Config(uvicorn_protocol.Config):
    """uvicorn's settings, whose TLS context takes a new certificate for new connections; open ones go on.

    Every worker loads its own, inside its event loop.
    """

    tls: ssl.SSLContext

    def load(self) -> None:
        super().load()
        if self.ssl is not None and self.ssl_certfile and self.ssl_keyfile:
            _renew(ServedCertificate(self.ssl, Path(self.ssl_certfile), Path(self.ssl_keyfile)))
            # uvicorn's own listener shows a connection only once its handshake is done.
            self.tls, self.ssl, self.http_protocol_class = self.ssl, None, _Handshake


def _renew(certificate: ServedCertificate) -> None:
    certificate.reload()
    asyncio.get_running_loop().call_later(_LOOK_EVERY_S, _renew, certificate)


class _Handshake(asyncio.Protocol):
    """A connection until its TLS handshake is done: it counts as one, and has a bounded time."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._bounds, self._context = config.bounds, config.tls
        self._connections: set[Any] = server_state.connections
        self._make = partial(uvicorn_protocol.BoundedProtocol, config, server_state, app_state, _loop)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # The loop reads from a transport as soon as this returns; a duplicate of its socket loses nothing.
        self._socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        self._socket.setblocking(False)
        transport.abort()
        self._connections.add(self)
        self._task = asyncio.get_running_loop().create_task(self._shake())
        self._bounds.waiting[self] = None
        if not self._bounds.admit(len(self._connections)):
            self.make_room()

    async def _shake(self) -> None:
        try:
            # It closes the socket if it fails.
            with contextlib.suppress(OSError):
                await asyncio.get_running_loop().connect_accepted_socket(
                    self._make,
                    self._socket,
                    ssl=self._context,
                    ssl_handshake_timeout=uvicorn_protocol.HEAD_S,
                    ssl_shutdown_timeout=uvicorn_protocol.LAST_S,
                )
        finally:
            self._leave()

    def make_room(self) -> None:
        self._leave()
        self._task.cancel()
        self._socket.close()

    shutdown = make_room

    def _leave(self) -> None:
        self._connections.discard(self)
        self._bounds.waiting.pop(self, None)
