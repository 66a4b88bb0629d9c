"""HTTPS for uvicorn, with a certificate that may be replaced in its files while it serves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from uvicorn.server import ServerState

from bdlab_cli.wiring import uvicorn_protocol

log = structlog.get_logger()

_LOOK_EVERY_S = 1.0


class Config(uvicorn_protocol.Config):
    """The protocol's, whose TLS context takes a new certificate for new connections; open ones go on.

    Every worker loads its own, inside its event loop, so that each looks after itself.
    """

    tls: ssl.SSLContext

    def load(self) -> None:
        super().load()
        if self.ssl is not None and self.ssl_certfile and self.ssl_keyfile:
            certificate = _Certificate(self.ssl, Path(self.ssl_certfile), Path(self.ssl_keyfile))
            asyncio.get_running_loop().call_later(_LOOK_EVERY_S, certificate.look)
            # uvicorn's own listener shows nobody a connection before its handshake is done.
            self.tls, self.ssl, self.http_protocol_class = self.ssl, None, _Handshake


class _Handshake(asyncio.Protocol):
    """A connection until its TLS handshake is done: counted as any other, and for a bounded time."""

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
        # The loop reads from a transport as soon as this is done; from its socket alone nothing gets lost.
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
            # It closes the socket where it fails.
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


def check_pair(certificate: Path, key: Path) -> None:
    """Raise OSError where the certificate and the key in these PEM files cannot be served together."""
    # With a password OpenSSL asks nobody for one, and refuses a key that is encrypted.
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")


class _Certificate:
    """Looks at its files from the event loop: OpenSSL takes no new certificate while another thread of the
    process begins a handshake.
    """

    def __init__(self, context: ssl.SSLContext, certificate: Path, key: Path) -> None:
        self._context = context
        self._files = (certificate, key)
        self._read = self._state()
        self._told = ""

    def look(self) -> None:
        """Take what is new, and look again later."""
        asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self.look)
        found = self._state()
        if not found or found == self._read:
            return
        try:
            # A pair that does not fit, as in the middle of its replacement, must not spoil the one in use.
            check_pair(*self._files)
            self._context.load_cert_chain(*self._files)
        except OSError as error:
            if str(error) != self._told:
                self._told = str(error)
                log.warning(
                    "the new certificate cannot be used", file=str(self._files[0]), problem=str(error)
                )
            return
        self._read, self._told = found, ""
        log.info("serving with a new certificate", file=str(self._files[0]))

    def _state(self) -> tuple[tuple[int, int, int], ...]:
        """What tells one version of the files from another; empty where one is not there."""
        try:
            stats = [file.stat() for file in self._files]
        except OSError:
            return ()
        return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in stats)
