"""`bdlab serve`: the HTTP API."""

from __future__ import annotations

from pathlib import Path

import typer

from bdlab_cli.options import StartupTimeout
from bdlab_cli.wiring.session import load_settings

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def serve(
    host: str | None = typer.Option(
        None, "--host", envvar="BDLAB_HTTP_HOST", help="Address to listen on", show_default="127.0.0.1"
    ),
    port: int | None = typer.Option(
        None,
        "--port",
        envvar="BDLAB_HTTP_PORT",
        help="Port; 0 takes a free one and says which",
        show_default="8000",
    ),
    allowed_hosts: str | None = typer.Option(
        None,
        "--allowed-hosts",
        envvar="BDLAB_HTTP_ALLOWED_HOSTS",
        help="Names by which it may be called, with commas, with or without port; '*' is any. "
        "Needed for an address that other machines reach",
        show_default="localhost,127.0.0.1,[::1]",
    ),
    workers: int | None = typer.Option(
        None, "--workers", envvar="BDLAB_HTTP_WORKERS", help="Processes that serve", show_default="1"
    ),
    startup_timeout: StartupTimeout = None,
    tls_cert: Path | None = typer.Option(
        None,
        "--tls-cert",
        envvar="BDLAB_HTTP_TLS_CERT_FILE",
        help="PEM file: certificate chain; serves HTTPS. A new one in its place is served without a restart",
    ),
    tls_key: Path | None = typer.Option(
        None, "--tls-key", envvar="BDLAB_HTTP_TLS_KEY_FILE", help="PEM file: the certificate's private key"
    ),
) -> None:
    """Serve predictions over HTTP; each is answered once the broker has acknowledged it.

    Prints its URL on standard output when it takes requests. Starts also where the broker is away, and
    answers 503 until it is there.
    """
    from bdlab_cli.wiring.uvicorn_server import run

    run(
        load_settings(
            {
                "startup_timeout_s": startup_timeout,
                "http": {
                    "host": host,
                    "port": port,
                    "allowed_hosts": allowed_hosts,
                    "workers": workers,
                    "tls_cert_file": str(tls_cert) if tls_cert else None,
                    "tls_key_file": str(tls_key) if tls_key else None,
                },
            },
            daemon=True,
        )
    )
