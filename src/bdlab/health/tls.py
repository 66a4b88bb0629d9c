"""The certificate that a server shows, as a client that verifies it sees it."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from datetime import UTC, datetime

import msgspec

from bdlab.health.results import CheckResult

TIMEOUT_S = 5.0
#: Renewed when a third of its life is left; later than this, somebody should look why it was not.
_WARN_BELOW = 0.25
#: What a PostgreSQL client sends before its handshake. Source: PostgreSQL's protocol, SSLRequest.
_SSL_REQUEST = struct.pack("!II", 8, 80877103)


class ShownCertificate(msgspec.Struct, frozen=True):
    """`der` is the certificate itself; moments are seconds since 1970."""

    der: bytes
    begins_at: float
    ends_at: float

    @property
    def pem(self) -> str:
        return ssl.DER_cert_to_PEM_cert(self.der)


def shown_certificate(
    host: str,
    port: int,
    *,
    ca_file: str = "",
    ca_pem: str = "",
    postgres: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> ShownCertificate:
    """Connect, verify, and give the server's certificate; it has to be valid for `host`.

    `ca_file` and `ca_pem` are the authorities to trust; without either it is the system's. `postgres` asks
    for TLS as PostgreSQL's clients do. Raises OSError: ssl.SSLError where the certificate is not accepted.
    """
    context = ssl.create_default_context(cafile=ca_file or None, cadata=ca_pem or None)
    with socket.create_connection((host, port), timeout_s) as connection:
        if postgres:
            connection.sendall(_SSL_REQUEST)
            if connection.recv(1) != b"S":
                raise ConnectionRefusedError("the server does not speak TLS")
        with context.wrap_socket(connection, server_hostname=host) as secured:
            found = secured.getpeercert() or {}
            return ShownCertificate(
                der=secured.getpeercert(binary_form=True) or b"",
                begins_at=ssl.cert_time_to_seconds(str(found["notBefore"])),
                ends_at=ssl.cert_time_to_seconds(str(found["notAfter"])),
            )


def certificate_check(
    name: str, host: str, port: int, *, ca_file: str = "", ca_pem: str = "", postgres: bool = False
) -> CheckResult:
    """Until when the certificate of that server is good; degraded where its renewal is overdue."""
    try:
        shown = shown_certificate(host, port, ca_file=ca_file, ca_pem=ca_pem, postgres=postgres)
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or str(error)
        return CheckResult(
            name=name,
            state="unhealthy",
            message=f"not accepted at {host}:{port}: {reason}",
            hint="Renew it (`bdlab server-certificate`, `bdlab broker-certificate`), or trust its authority.",
        )
    except OSError as error:
        return CheckResult(
            name=name, state="unknown", message=f"no answer at {host}:{port}: {error.strerror or error}"
        )
    left_s = shown.ends_at - time.time()
    late = left_s < (shown.ends_at - shown.begins_at) * _WARN_BELOW
    end = datetime.fromtimestamp(shown.ends_at, UTC)
    return CheckResult(
        name=name,
        state="degraded" if late else "healthy",
        message=f"good until {end:%Y-%m-%d %H:%M:%S} UTC, {_span(left_s)} left",
        hint="Its renewal is overdue: look why (`bdlab server-certificate`, `bdlab broker-certificate`)."
        if late
        else "",
        detail={"ends_at": f"{end:%Y-%m-%dT%H:%M:%SZ}", "left_s": round(left_s)},
    )


def _span(seconds: float) -> str:
    return f"{seconds / 86400:.0f} days" if seconds >= 2 * 86400 else f"{seconds:.0f} s"
