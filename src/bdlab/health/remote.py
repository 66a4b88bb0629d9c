"""Asking a service how it is, over HTTP or by a connection."""

from __future__ import annotations

import re
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException

import msgspec

from bdlab.health.results import CheckResult, State
from bdlab.reachability import wrong_scheme

TIMEOUT_S = 5.0
_MAX_BYTES = 1 << 16
_STOPPED = re.compile(rb'^bdlab_sink_stopped{partition="(\d+)",reason="((?:[^"\\]|\\.)*)"} 1', re.MULTILINE)


def api_check(url: str, *, ca_file: str = "") -> CheckResult:
    """The API's own verdict at `url`/health. `ca_file` (PEM) is trusted beside the system's authorities."""
    status, body, problem = _get(f"{url}/health", ca_file)
    if problem:
        return CheckResult(
            name="api",
            state="unhealthy",
            message=f"no answer from {url}: {problem}",
            hint="Start it with `bdlab serve`, or name its address with --api-url.",
        )
    try:
        found = msgspec.json.decode(body, type=dict[str, str | bool])
        said = str(found["status"])
    except (msgspec.DecodeError, KeyError):
        return CheckResult(
            name="api", state="unhealthy", message=f"{url}/health answers {status}, and not as bdlab does"
        )
    away = [name for name, value in found.items() if value is False]
    model = f", model {found['model']}" if "model" in found else ""
    message = f"{said} at {url}{model}" + (f"; not so: {', '.join(away)}" if away else "")
    states: dict[str, State] = {"healthy": "healthy", "degraded": "degraded"}
    return CheckResult(
        name="api",
        state=states.get(said, "unhealthy"),
        message=message,
        detail={"url": url, **found},
    )


def consumer_check(urls: Sequence[str], *, ca_file: str = "") -> CheckResult:
    """Whether the consumers at `urls` live, and store from each of their partitions."""
    found = {url: _get(f"{url}/health/live", ca_file) for url in urls}
    dead = {url: problem or status for url, (status, _, problem) in found.items() if problem or status != 200}
    if dead:
        return CheckResult(
            name="consumer",
            state="degraded" if len(dead) < len(urls) else "unhealthy",
            message="; ".join(f"no answer from {url}: {why}" for url, why in dead.items()),
            detail={"urls": list(urls), "dead": list(dead)},
            hint="Start it with `bdlab consume --metrics-port PORT`.",
        )
    stopped = {url: reasons for url in urls if (reasons := _stopped_partitions(url, ca_file))}
    if stopped:
        return CheckResult(
            name="consumer",
            state="unhealthy",
            message="; ".join(
                f"partition {partition} is stopped at {url}: {reason}"
                for url, reasons in stopped.items()
                for partition, reason in reasons.items()
            ),
            detail={"urls": list(urls), "stopped_partitions": stopped},
            hint="Nothing of it is stored. `bdlab verify` shows how the log and the database differ.",
        )
    message = f"alive at {', '.join(urls)}"
    return CheckResult(name="consumer", state="healthy", message=message, detail={"urls": list(urls)})


def _stopped_partitions(url: str, ca_file: str) -> dict[str, str]:
    """Why each of its partitions that is stopped is so; empty, too, if it does not say."""
    _, body, _ = _get(f"{url}/metrics", ca_file)
    found = _STOPPED.findall(body)
    return {number.decode(): reason.decode().replace('\\"', '"') for number, reason in found}


def why_closed(host: str, port: int) -> str:
    """Why nobody takes connections there; empty where somebody does. `host` may be a Unix socket's folder."""
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


def _get(url: str, ca_file: str) -> tuple[int, bytes, str]:
    """Status, body and problem; a problem leaves the others empty."""
    context = None
    try:
        if url.startswith("https:"):
            context = ssl.create_default_context()
            if ca_file:
                context.load_verify_locations(ca_file)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(url, timeout=TIMEOUT_S) as answer:
            return answer.status, answer.read(_MAX_BYTES), ""
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(_MAX_BYTES), ""
    except urllib.error.URLError as error:
        return 0, b"", wrong_scheme(url) or str(error.reason)
    except (OSError, HTTPException, ValueError) as error:
        return 0, b"", wrong_scheme(url) or str(error) or type(error).__name__
