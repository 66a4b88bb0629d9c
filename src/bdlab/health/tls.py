"""Checks the certificate that a server shows to a client that verifies it."""

import socket
import ssl
import struct
import time
from datetime import UTC, datetime

import msgspec

from bdlab.health import HINTS, CheckResult, not_made, unhealthy

#: What a PostgreSQL client sends before its handshake. Source: PostgreSQL's protocol, SSLRequest.
_SSL_REQUEST = struct.pack("!II", 8, 80877103)


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
