"""What `status` says of a certificate, seen from outside as a client sees it."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bdlab.certificates import CertificateFiles, ends_at
from bdlab.health.remote import certificate_check
from bdlab.stack.tls import temporary_certificates


@contextmanager
def server(folder: Path, *, ttl_s: float) -> Iterator[tuple[int, str]]:
    """One that shakes hands; its port, and its authority's certificate."""
    files = CertificateFiles(folder)
    issued = temporary_certificates(["one"], ttl_s=ttl_s)["one"]
    files.write(issued, (), ttl_s=ttl_s)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server_file)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with suppress(OSError), connection:
                        context.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], issued.ca_pem
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


#: A passing certificate begins a minute ago: with 10 s left, little of its life is left.
@pytest.mark.parametrize(("ttl_s", "state"), [(3600, "healthy"), (10, "degraded"), (-1, "unhealthy")])
def test_the_end_of_a_certificate(tmp_path: Path, ttl_s: float, state: str) -> None:
    with server(tmp_path, ttl_s=ttl_s) as (port, ca_pem):
        check = certificate_check("api.certificate", "127.0.0.1", port, ca_pem=ca_pem)
    assert check.state == state, check
    assert check.message.startswith("good until" if ttl_s > 0 else "not accepted")
    assert ("expired" in check.message) is (ttl_s < 0)
    assert bool(check.hint) is (state != "healthy")


def test_another_authority_is_not_accepted(tmp_path: Path) -> None:
    other = temporary_certificates(["other"], ttl_s=60)["other"].ca_pem
    with server(tmp_path, ttl_s=60) as (port, _):
        check = certificate_check("api.certificate", "127.0.0.1", port, ca_pem=other)
    assert (check.state, "not accepted" in check.message) == ("unhealthy", True)


def test_nobody_there_is_unknown() -> None:
    check = certificate_check("api.certificate", "127.0.0.1", 1)
    assert (check.state, "no answer" in check.message) == ("unknown", True)


@pytest.mark.parametrize("ttl_s", [3600, 40 * 365 * 86400])  # the second is written with four digits of the year
def test_the_end_of_a_certificate_is_read_from_its_file(tmp_path: Path, ttl_s: int) -> None:
    files = CertificateFiles(tmp_path)
    files.write(temporary_certificates(["one"], ttl_s=ttl_s)["one"], (), ttl_s=ttl_s)
    found = ends_at(str(files.server_file))
    assert found == {"certificate": pytest.approx(time.time() + ttl_s, abs=60)}
    files.server_file.write_text("half of a")
    assert ends_at(str(files.server_file)) == ends_at(str(tmp_path / "none.pem")) == {"certificate": 0.0}
    assert ends_at("") == {}
