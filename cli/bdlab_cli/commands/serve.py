"""`bdlab serve`: the HTTP API."""

from typing import Annotated

from typer import Option

from bdlab_cli.options import StartupTimeout
from bdlab_cli.wiring.session import load_settings


def serve(
    *,
    host: Annotated[
        str | None, Option(envvar="BDLAB_HTTP_HOST", help="Address to listen on", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None,
        Option(envvar="BDLAB_HTTP_PORT", help="Port; 0 takes a free one and says which", show_default="8000"),
    ] = None,
    allowed_hosts: Annotated[
        str | None,
        Option(
            envvar="BDLAB_HTTP_ALLOWED_HOSTS",
            help="Names by which it may be called, with commas, with or without port; '*' is any. "
            "Needed for an address that other machines reach",
            show_default="localhost,127.0.0.1,[::1]",
        ),
    ] = None,
    workers: Annotated[
        int | None, Option(envvar="BDLAB_HTTP_WORKERS", help="Processes that serve", show_default="1")
    ] = None,
    startup_timeout: StartupTimeout = None,
    tls_cert: Annotated[
        str | None,
        Option(
            metavar="FILE",
            envvar="BDLAB_HTTP_TLS_CERT_FILE",
            help="PEM file: certificate chain; serves HTTPS. A new one in its place is served without a "
            "restart",
        ),
    ] = None,
    tls_key: Annotated[
        str | None,
        Option(
            metavar="FILE", envvar="BDLAB_HTTP_TLS_KEY_FILE", help="PEM file: the certificate's private key"
        ),
    ] = None,
) -> None:
    """Serve predictions over HTTP; each is answered once the broker has acknowledged it.

    Prints its URL on standard output when it takes requests. It also starts if the broker is away, and
    answers 503 until the broker is there.
    """
    from bdlab_cli.wiring.uvicorn_server import run

    http = {
        "host": host,
        "port": port,
        "allowed_hosts": allowed_hosts,
        "workers": workers,
        "tls_cert_file": tls_cert,
        "tls_key_file": tls_key,
    }
    run(load_settings({"startup_timeout_s": startup_timeout, "http": http}, daemon=True))
