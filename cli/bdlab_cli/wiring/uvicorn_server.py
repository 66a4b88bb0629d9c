"""uvicorn around the API: one process, or several workers under a supervisor; over HTTPS if it is to be."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from math import ceil
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import structlog
import uvicorn
from uvicorn.server import ServerState
from uvicorn.supervisors import Multiprocess

from bdlab import signals
from bdlab.access import required_scopes
from bdlab.certificates import ServedCertificate, check_pair
from bdlab.errors import BdlabError, InvalidInput
from bdlab.hosts import AllowedHosts, is_loopback
from bdlab.settings import HttpSettings, Layers, Settings
from bdlab_cli.output import terminal
from bdlab_cli.output.logs import published_lines
from bdlab_cli.wiring import uvicorn_protocol
from bdlab_cli.wiring.api import SERVICE, Api, Application, make_worker
from bdlab_cli.wiring.session import daemon_session, tell_of_stack
from bdlab_cli.wiring.signals import INTERRUPTED_TWICE, stop_on_signal
from bdlab_cli.wiring.uvicorn_protocol import MAX_CONNECTIONS, BoundedProtocol, Bounds, max_connections

if TYPE_CHECKING:
    from bdlab_console.parts import Console

log = structlog.get_logger()
_OWN_LISTENERS = 8  # a worker's, beside the one that all share, which so gets few of the connections


def run(layers: Layers) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP: then accept no new request, answer those in flight, and close. Raises
    BdlabError if it cannot start."""
    settings = layers.settings()
    settings.http.origins()
    required_scopes(settings.http)
    max_connections(settings.http.max_connections)  # before anything is waited for
    with closing(_bind(settings.http)) as listener:
        if settings.http.workers == 1:
            api = Api(layers)
            _serve_here(api, api.asgi, settings, listener)
        else:
            _serve_in_workers(layers, listener)


def run_console(layers: Layers) -> None:
    """Serve the console as `run` serves the API."""
    from bdlab_console import sessions
    from bdlab_console.app import make_app
    from bdlab_console.parts import Console

    settings = layers.settings().of_console()
    sessions.checked(settings.http)  # before anything is waited for
    if sys.stderr.isatty():
        tell_of_stack(settings.vault)
    with closing(_bind(settings.http, "console")) as listener:
        parts = Console(layers)
        _serve_here(parts, partial(make_app, parts), settings, listener)


def _serve_here(
    parts: Api | Console, app: Callable[[], Application], settings: Settings, listener: socket.socket
) -> None:
    with closing(parts):
        parts.open()
        server = _Server(_config(settings, app=app))
        server.announced_url = _url(settings.http, listener)
        # uvicorn raises the signal again once it has stopped; these handlers then only set an event.
        with stop_on_signal():
            server.run([listener])


def _serve_in_workers(layers: Layers, listener: socket.socket) -> None:
    settings = layers.settings()
    # Log in once before the workers do: it waits for Vault, and unwraps a secret id, which works only once.
    with closing(daemon_session(layers, SERVICE)) as session:
        session.open(settings.startup_timeout_s)
    with tempfile.TemporaryDirectory(prefix="bdlab-metrics-", ignore_cleanup_errors=True) as metrics:
        # Where the workers keep their metrics, to be added up.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = os.environ.get("PROMETHEUS_MULTIPROC_DIR") or metrics
        # The connections to the shared one wait for the next worker if all have died.
        listeners = [listener, *(_OwnListener(listener) for _ in range(_OWN_LISTENERS))]
        supervisor = _Supervisor(_config(settings, app=partial(make_worker, layers)), listeners)
        supervisor.announced_url = _url(settings.http, listener)
        supervisor.run()
    if any(process.exitcode not in (0, None, -15) for process in supervisor.processes):
        raise BdlabError("a worker could not start", hint="The lines above this one say why.")


class _OwnListener:
    """Becomes, in the worker to which it is sent, a socket of the worker's own at the address of `shared`. The system
    chooses one of all sockets for each connection; of a shared one's, the first that wakes up would take nearly all."""

    def __init__(self, shared: socket.socket) -> None:
        self._place = shared.family, shared.getsockname()

    def __reduce__(self) -> tuple[Any, ...]:
        return _bind_beside, self._place


def _bind_beside(family: int, address: Any) -> socket.socket:
    listener = _socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(address)
    return listener


class _Server(uvicorn.Server):
    announced_url = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            _announce(self.announced_url)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals(), signals.handled(self.handle_exit):
            yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; a second signal ends the process at once, unless it is SIGHUP (see `stop_on_signal`)."""
        if self.should_exit and sig != signal.SIGHUP:
            published_lines().flush()
            os._exit(INTERRUPTED_TWICE)
        super().handle_exit(sig, frame)


class _Supervisor(Multiprocess):
    announced_url = ""

    def __init__(self, config: uvicorn.Config, sockets: list[Any]) -> None:
        ignored = signal.SIGHUP not in signals.termination_signals()
        super().__init__(config, sockets)
        if ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def handle_hup(self) -> None:
        """Stop as on SIGTERM; uvicorn would restart its workers."""
        self.handle_term()

    def keep_subprocess_alive(self) -> None:
        super().keep_subprocess_alive()
        if self.announced_url and all(process.is_ready(timeout=1) for process in self.processes):
            _announce(self.announced_url)
            self.announced_url = ""


def _announce(url: str) -> None:
    log.info("serving", url=url)
    terminal.echo(url)


def _config(settings: Settings, *, app: object) -> Config:
    http = settings.http
    none_of: dict[str, Any] = {"access_log": False, "proxy_headers": False, "server_header": False, "log_config": None}
    return Config(
        app,
        factory=True,
        workers=http.workers,
        lifespan="on",
        max_connections=max_connections(http.max_connections),
        timeout_keep_alive=http.keep_alive_s,
        **none_of,
        ssl_certfile=http.tls_cert_file or None,
        ssl_keyfile=http.tls_key_file or None,
        # No prediction in flight takes longer, and a client that reads slowly does not delay the stop.
        timeout_graceful_shutdown=ceil(settings.kafka.delivery_timeout_s) + 1,
    )


def _bind(http: HttpSettings, section: str = "http") -> socket.socket:
    """Return a listening socket, bound before anything else. Raises InvalidInput, BdlabError."""
    check_pair(http.tls_cert_file, http.tls_key_file, options="--tls-cert and --tls-key")
    try:
        how: dict[str, Any] = {"type": socket.SOCK_STREAM, "flags": socket.AI_PASSIVE}
        family, *_, address = socket.getaddrinfo(http.host, http.port, **how)[0]
        if not AllowedHosts(http.allowed_hosts, bound=http.host, section=section).listed and not is_loopback(
            str(address[0])
        ):
            where = f"{http.host}, where other machines reach it, and it may answer to its own names only"
            names = f"--allowed-hosts app.example.org,10.0.0.5 (or BDLAB_{section.upper()}_ALLOWED_HOSTS)"
            any_name = "'*' takes any, also a name that a hostile web page points here"
            hint = f"Name all by which it is called: {names}; {any_name}."
            raise InvalidInput(f"{section}.allowed_hosts has to be set: it is to listen on {where}", hint=hint)
        listener = _socket(family)
        listener.bind(address)
        if http.workers > 1:  # not before it is bound: a server that is there already would share its port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError as error:
        hint = "Choose another with --host and --port; --port 0 takes a free one."
        raise BdlabError(f"cannot listen on {http.host} port {http.port}: {error.strerror}", hint=hint) from error
    return listener


def _socket(family: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit this: the system holds little of what a client does not read.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 256 << 10)
    return made


def _url(http: HttpSettings, listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - shown
    return f"{'https' if http.tls_cert_file else 'http'}://{host}:{port}"


class Config(uvicorn.Config):
    """uvicorn's settings, with bounded connections; each worker process has its own bounds. Its TLS context takes a
    new certificate for new connections; open ones go on. Every worker loads its own, inside its event loop."""

    tls: ssl.SSLContext

    def __init__(self, app: Any, *, max_connections: int = MAX_CONNECTIONS, **options: Any) -> None:
        super().__init__(app, http=BoundedProtocol, ws="none", **options)
        self.bounds = Bounds(max_connections)

    def load(self) -> None:
        super().load()
        if self.ssl is not None and self.ssl_certfile and self.ssl_keyfile:
            _renew(ServedCertificate(self.ssl, Path(self.ssl_certfile), Path(self.ssl_keyfile)))
            # uvicorn's own listener shows a connection only once its handshake is done.
            self.tls, self.ssl, self.http_protocol_class = self.ssl, None, _Handshake


def _renew(certificate: ServedCertificate) -> None:
    certificate.reload()
    asyncio.get_running_loop().call_later(1.0, _renew, certificate)


class _Handshake(asyncio.Protocol):
    """A connection until its TLS handshake is done: it counts as one, and has a bounded time."""

    def __init__(self, config: Config, server_state: ServerState, **more: Any) -> None:
        self._bounds, self._context = config.bounds, config.tls
        self._connections: set[Any] = server_state.connections
        self._make = partial(BoundedProtocol, config, server_state=server_state, **more)

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
                connect = partial(asyncio.get_running_loop().connect_accepted_socket, ssl=self._context)
                first_s, last_s = uvicorn_protocol.HEAD_S, uvicorn_protocol.LAST_S
                await connect(self._make, self._socket, ssl_handshake_timeout=first_s, ssl_shutdown_timeout=last_s)
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
