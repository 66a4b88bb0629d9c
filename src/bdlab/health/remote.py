"""Asks a service for its health, over HTTP, for the certificate that it shows, or only whether it takes connections."""

import re
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec
import urllib3

from bdlab.errors import BdlabError
from bdlab.health import HINTS, CheckResult, State, healthy, not_made, unhealthy
from bdlab.reachability import wrong_scheme

TIMEOUT_S = 5.0
_FIGURE = re.compile(rb"^bdlab_sink_(rows_total|lag_events|dead_letters_total)(?:{.*})? (\S+)$", re.MULTILINE)
_STOPPED = re.compile(rb'^bdlab_sink_stopped{partition="(\d+)",reason="((?:[^"\\]|\\.)*)"} 1', re.MULTILINE)
#: What a PostgreSQL client sends before its handshake. Source: PostgreSQL's protocol, SSLRequest.
_SSL_REQUEST = struct.pack("!II", 8, 80877103)


def api_check(url: str, *, ca_file: str = "") -> CheckResult:
    """Check the API by what `url`/health says. The CAs of `ca_file` (PEM) are trusted beside the system's."""
    status, body, problem = fetch(f"{url}/health", ca_file)
    if problem:
        return unhealthy("api", f"no answer from {url}: {problem}")
    try:
        found = msgspec.json.decode(body, type=dict[str, str | bool])
        said = str(found["status"])
    except (msgspec.DecodeError, KeyError):
        return unhealthy("api", f"{url}/health answers {status}, and not as bdlab does")
    away = [name for name, value in found.items() if value is False]
    model = f", model {found['model']}" if "model" in found else ""
    message = f"{said} at {url}{model}" + (f"; not so: {', '.join(away)}" if away else "")
    message += f"; {found['model_problem']}" if found.get("model_problem") else ""
    state: State = "healthy" if said == "healthy" else "degraded" if said == "degraded" else "unhealthy"
    return CheckResult("api", state, message, detail={"url": url, **found})


def consumer_check(urls: Sequence[str], *, ca_file: str = "") -> CheckResult:
    """Check that the consumers at `urls` are alive, and have stopped none of their partitions."""
    dead, stopped = dict[str, str | int](), dict[str, dict[str, str]]()
    for url in urls:
        status, _, problem = fetch(f"{url}/health/live", ca_file)
        if problem or status != 200:
            dead[url] = problem or status
        elif found := _STOPPED.findall(fetch(f"{url}/metrics", ca_file)[1]):
            stopped[url] = {number.decode(): reason.decode().replace('\\"', '"') for number, reason in found}
    if dead:
        which = "; ".join(f"no answer from {url}: {why}" for url, why in dead.items())
        away = unhealthy("consumer", which, urls=list(urls), dead=list(dead))
        return msgspec.structs.replace(away, state="degraded") if len(dead) < len(urls) else away
    if stopped:
        each = ((url, *found) for url, reasons in stopped.items() for found in reasons.items())
        which = "; ".join(f"partition {partition} is stopped at {url}: {reason}" for url, partition, reason in each)
        hint = "Nothing of it is stored. `bdlab verify` shows how the log and the database differ."
        return unhealthy("consumer", which, hint, urls=list(urls), stopped_partitions=stopped)
    return healthy("consumer", f"alive at {', '.join(urls)}", urls=list(urls))


def sink_figures(urls: Sequence[str], *, ca_file: str = "") -> dict[str, float]:
    """Return what the consumers at `urls` count together: rows_total and dead_letters_total since each one's start, and
    lag_events. What nobody tells is not there."""
    found: dict[str, float] = {}
    for url in urls:
        for name, value in _FIGURE.findall(fetch(f"{url}/metrics", ca_file, timeout_s=1.0)[1]):
            found[name.decode()] = found.get(name.decode(), 0) + float(value)
    return found


def why_closed(host: str, port: int) -> str:
    """Return why nobody takes connections there; empty if somebody does. `host` may be a socket's folder."""
    try:
        if host.startswith("/"):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(TIMEOUT_S)
                connection.connect(f"{host}/.s.PGSQL.{port}")
        else:
            socket.create_connection((host, port), TIMEOUT_S).close()
    except OSError as error:
        return f"nothing takes connections at {host}:{port}: {error.strerror or error}"
    return ""


def clock_ahead_ms(url: str, *, ca_file: str = "") -> int:
    """Return how far the server's clock is ahead of this one's, give or take half a second. Raises BdlabError."""
    began, told = time.time(), urllib3.HTTPHeaderDict()
    _, _, problem = fetch(url, ca_file, headers=told)
    if problem or "Date" not in told:
        raise BdlabError(f"{url} does not tell the time: {problem or 'its answer has no Date'}")
    return round((parsedate_to_datetime(told["Date"]).timestamp() + 0.5 - (began + time.time()) / 2) * 1000)


def fetch(
    url: str, ca_file: str, timeout_s: float = TIMEOUT_S, *, headers: urllib3.HTTPHeaderDict | None = None
) -> tuple[int, bytes, str]:
    """Return status, body (of at most 64 KiB) and problem; with one the others are empty. `headers` gets those."""
    try:
        context = None
        if url.startswith("https:"):  # reading the system's CAs takes 30 ms
            context = ssl.create_default_context()
            if ca_file:
                context.load_verify_locations(ca_file)
        with (
            urllib3.PoolManager(ssl_context=context, retries=False, timeout=timeout_s) as client,
            client.request("GET", url, preload_content=False) as answer,
        ):
            if headers is not None:
                headers.extend(answer.headers)
            return answer.status, answer.read(1 << 16), ""
    except (urllib3.exceptions.HTTPError, OSError) as error:
        return 0, b"", wrong_scheme(url) or str(error) or type(error).__name__


class ShownCertificate(msgspec.Struct, frozen=True):
    """A server's certificate; `begins_at` and `ends_at` are seconds since 1970."""

    der: bytes
    begins_at: float
    ends_at: float

    @property
    def pem(self) -> str:
        return ssl.DER_cert_to_PEM_cert(self.der)


def shown_certificate(
    host: str, port: int, *, ca_file: str = "", ca_pem: str = "", postgres: bool = False, timeout_s: float = 5.0
) -> ShownCertificate:
    """Connect to a server and return its certificate, which has to be valid for `host`. `ca_file` and `ca_pem` are the
    authorities to trust, by default those of the system. `postgres` asks for TLS as PostgreSQL's clients do. Raises
    OSError; ssl.SSLError if the certificate is not accepted."""
    context = ssl.create_default_context(cafile=ca_file or None, cadata=ca_pem or None)
    with socket.create_connection((host, port), timeout_s) as connection:
        if postgres:
            connection.sendall(_SSL_REQUEST)
            if connection.recv(1) != b"S":
                raise ConnectionRefusedError("the server does not speak TLS")
        with context.wrap_socket(connection, server_hostname=host) as secured:
            found = secured.getpeercert() or {}
            begins_at, ends_at = (ssl.cert_time_to_seconds(str(found[name])) for name in ("notBefore", "notAfter"))
            return ShownCertificate(secured.getpeercert(binary_form=True) or b"", begins_at, ends_at)


def certificate_check(name: str, host: str, port: int, *, ca_file: str = "", ca_pem: str = "") -> CheckResult:
    """Check until when a server's certificate is good; degraded if its renewal is overdue."""
    postgres = name == "postgres.certificate"
    try:
        shown = shown_certificate(host, port, ca_file=ca_file, ca_pem=ca_pem, postgres=postgres)
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or str(error)
        return unhealthy(name, f"not accepted at {host}:{port}: {reason}")
    except OSError as error:
        return not_made(name, f"no answer at {host}:{port}: {error.strerror or error}")
    left_s, end = shown.ends_at - time.time(), datetime.fromtimestamp(shown.ends_at, UTC)
    late = left_s < (shown.ends_at - shown.begins_at) / 4  # it is renewed when a third of its life is left
    left = f"{left_s / 86400:.0f} days" if left_s >= 2 * 86400 else f"{left_s:.0f} s"
    message = f"good until {end:%Y-%m-%d %H:%M:%S} UTC, {left} left"
    figures = {"ends_at": f"{end:%Y-%m-%dT%H:%M:%SZ}", "left_s": round(left_s)}
    return CheckResult(name, "degraded" if late else "healthy", message, HINTS[name] if late else "", figures)
