"""`bdlab console`: the pipeline, its proof and its model in a browser."""

from typing import Annotated

from bdlab_cli.options import StartupTimeout, setting
from bdlab_cli.wiring.session import load_settings


def console(
    *,
    host: Annotated[str | None, setting("console.host", "127.0.0.1")] = None,
    port: Annotated[int | None, setting("console.port", "8001")] = None,
    allowed_hosts: Annotated[str | None, setting("console.allowed_hosts", "localhost,127.0.0.1,[::1]")] = None,
    api_url: Annotated[str | None, setting("console.api_url", "as the settings http say")] = None,
    startup_timeout: StartupTimeout = None,
    tls_cert: Annotated[str | None, setting("console.tls_cert_file")] = None,
    tls_key: Annotated[str | None, setting("console.tls_key_file")] = None,
) -> None:
    """Show the pipeline, its proof and its model in a browser.

    Prints its URL on standard output when it takes requests. It reads; what changes something is sent through `serve`
    (Try, feedback) or needs the identity of `dlq` (replay) or `model` (promote), if their folders are given to it."""
    from bdlab_cli.wiring.uvicorn_server import run_console

    own = {"host": host, "port": port, "allowed_hosts": allowed_hosts, "api_url": api_url}
    own |= {"tls_cert_file": tls_cert, "tls_key_file": tls_key}
    run_console(load_settings({"startup_timeout_s": startup_timeout, "console": own}, daemon=True))
