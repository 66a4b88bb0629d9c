"""`bdlab serve`: the HTTP API."""

from typing import Annotated

from bdlab_cli.options import StartupTimeout, setting
from bdlab_cli.wiring.session import load_settings


def serve(
    *,
    host: Annotated[str | None, setting("http.host", "127.0.0.1")] = None,
    port: Annotated[int | None, setting("http.port", "8000")] = None,
    allowed_hosts: Annotated[str | None, setting("http.allowed_hosts", "localhost,127.0.0.1,[::1]")] = None,
    workers: Annotated[int | None, setting("http.workers", "1")] = None,
    startup_timeout: StartupTimeout = None,
    tls_cert: Annotated[str | None, setting("http.tls_cert_file")] = None,
    tls_key: Annotated[str | None, setting("http.tls_key_file")] = None,
) -> None:
    """Serve predictions over HTTP; each is answered once the broker has acknowledged it.

    Prints its URL on standard output when it takes requests. It also starts if the broker is away, and
    answers 503 until the broker is there."""
    from bdlab_cli.wiring.uvicorn_server import run

    http = {"host": host, "port": port, "allowed_hosts": allowed_hosts, "workers": workers}
    http |= {"tls_cert_file": tls_cert, "tls_key_file": tls_key}
    run(load_settings({"startup_timeout_s": startup_timeout, "http": http}, daemon=True))
