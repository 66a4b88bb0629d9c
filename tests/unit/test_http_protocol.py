"""What a client may make the server hold, and how it is told that it was too much."""

from __future__ import annotations

import resource
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bdlab.serving import response_buffer
from bdlab.stack.tls import temporary_certificates
from bdlab_cli.wiring import uvicorn_protocol
from tests.fix_api import MemoryApi, serving
from tests.waiting import until

LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = b'{"text": "good"}'
PATIENCE_S = 30.0


@contextmanager
def connection(client: httpx.Client) -> Iterator[socket.socket]:
    with socket.create_connection((client.base_url.host, client.base_url.port), PATIENCE_S) as made:
        yield made


@contextmanager
def tls_connection(client: httpx.Client, context: ssl.SSLContext) -> Iterator[socket.socket]:
    with connection(client) as made, context.wrap_socket(made, server_hostname=client.base_url.host) as wrapped:
        yield wrapped


def answer(made: socket.socket) -> bytes:
    """Everything that comes until the server closes."""
    found = b""
    while part := made.recv(65536):
        found += part
    return found


def status(made: socket.socket) -> int:
    """Of the answer that comes next, of which nothing is left then."""
    head = body = b""
    while b"\r\n\r\n" not in head:
        head += made.recv(1)
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += made.recv(length - len(body))
    return int(head.split(b" ", 2)[1])


def live(client: httpx.Client) -> int:
    return client.get("/health/live").status_code


@given(
    size=st.one_of(
        st.integers(uvicorn_protocol.MAX_HEAD_BYTES - 3, uvicorn_protocol.MAX_HEAD_BYTES + 3), st.integers(0, 200_000)
    ),
    cut=st.integers(0, 200_000),
    second=st.booleans(),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_head_may_be_of_32_kib_and_no_larger(api: httpx.Client, size: int, cut: int, *, second: bool) -> None:
    """However it arrives, and also where it is not the connection's first."""
    lines = LIVE.removesuffix(b"\r\n")
    counted = len(b"/health/live") + len(b"HostlocalhostX") + 2 * 4
    head = lines + b"X: " + b"x" * max(0, size - counted) + b"\r\n\r\n"
    with connection(api) as made:
        if second:
            made.sendall(LIVE)
            assert status(made) == 200
        made.sendall(head[:cut])
        made.sendall(head[cut:])
        assert status(made) == (200 if max(size, counted) <= uvicorn_protocol.MAX_HEAD_BYTES else 431)


def test_a_head_or_a_trailer_without_an_end_is_refused(api: httpx.Client) -> None:
    chunk = b"x" * 60_000
    starts = [
        LIVE.removesuffix(b"\r\n") + b"X: ",
        POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nX: ",
        POST + b"Transfer-Encoding: chunked\r\n\r\n1;",
    ]
    for start in starts:
        with connection(api) as made:
            made.sendall(start)
            for _ in range(10):
                made.sendall(chunk)
            assert answer(made).startswith(b"HTTP/1.1 431 "), start
    assert live(api) == 200


def test_a_head_that_does_not_end_is_408_and_silence_is_cut_off(
    api: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uvicorn_protocol, "HEAD_S", 0.2)
    with connection(api) as silent, connection(api) as half, connection(api) as second:
        half.sendall(LIVE[:20])
        second.sendall(LIVE + LIVE[:20])
        assert answer(half).startswith(b"HTTP/1.1 408 ")
        assert answer(silent) == b""
        found = answer(second)
        assert found.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 408 " in found


def test_requests_in_a_row_are_answered_in_their_order(api: httpx.Client) -> None:
    post = POST + f"Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY
    last = LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with connection(api) as made:
        made.sendall(post + LIVE + post + last)
        found = answer(made)
    assert found.count(b"HTTP/1.1 200 ") == 4
    assert [b"sentiment" in each for each in found.split(b"HTTP/1.1 ")[1:]] == [True, False, True, False]
    with connection(api) as made:
        made.sendall(LIVE * 1000)
        found = answer(made)
    assert 1 < found.count(b"HTTP/1.1 200 ") <= uvicorn_protocol.MAX_PIPELINED + 2
    assert b"connection: close" in found


def test_what_waits_for_its_client_makes_room_at_the_limit(memory_api: MemoryApi) -> None:
    with memory_api.producer, serving(memory_api.parts, max_connections=4) as client, ExitStack() as stack:
        silent, half, body, *more = (stack.enter_context(connection(client)) for _ in range(6))
        half.sendall(LIVE[:20])
        body.sendall(POST + b"Content-Length: 100\r\n\r\n{")
        for each in more:
            each.sendall(LIVE)
            assert status(each) == 200
        assert live(client) == 200
        assert all(answer(each).startswith(b"HTTP/1.1 503 ") for each in (silent, half, body))
        assert live(client) == 200


def test_above_the_limit_of_requests_in_progress_it_is_503(memory_api: MemoryApi) -> None:
    post = POST + f"Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY
    with memory_api.producer, serving(memory_api.parts, max_connections=2) as client, ExitStack() as stack:
        assert memory_api.publisher is not None
        memory_api.publisher.hold()
        busy = [stack.enter_context(connection(client)) for _ in range(2)]
        for each in busy:
            each.sendall(post)
            assert memory_api.publisher.arrived.acquire(timeout=PATIENCE_S)
        with connection(client) as third:
            found = answer(third)
        assert found.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: " in found
        memory_api.publisher.release()
        assert [status(each) for each in busy] == [200, 200]
        assert live(client) == 200


def test_bodies_are_bounded_together_and_small_requests_go_on(
    api: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uvicorn_protocol, "REQUEST_BYTES", 310_000)
    large = POST + b"Content-Length: 150000\r\n\r\n" + b" " * (150_000 - len(BODY) - 1)
    with ExitStack() as stack:
        made = [stack.enter_context(connection(api)) for _ in range(3)]
        for each in made:
            each.sendall(large)
        refused = made[2]
        assert answer(refused).startswith(b"HTTP/1.1 503 ")
        assert live(api) == 200
        assert api.post("/predict", content=BODY, headers={"Content-Type": "application/json"}).is_success
        for each in made[:2]:
            each.sendall(b" " + BODY)
            assert status(each) == 200
    until(lambda: api.post("/predict", json={"text": "good " * 40_000}).is_success)


@pytest.fixture
def rows(memory_api: MemoryApi, api: httpx.Client) -> httpx.Client:
    """The API with rows of which each answer is of more than 5 MB."""
    for _ in range(6):
        assert api.post("/predict", json={"text": "good " * 200_000}).is_success
    return api


ROWS = b"GET /predictions?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_answers_that_nobody_reads_are_bounded_together(rows: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_buffer, "MAX_BYTES", 10_000_000)
    with ExitStack() as stack:
        made = [stack.enter_context(connection(rows)) for _ in range(4)]
        for each in made:
            each.sendall(ROWS)
        assert sorted(int(each.recv(12)[9:]) for each in made) == [200, 503, 503, 503]
        refused = rows.get("/predictions?limit=1000")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        assert refused.json()["type"] == "urn:bdlab:problem:busy"
        assert live(rows) == 200
        assert rows.post("/predict", json={"text": "good"}).is_success
    until(lambda: rows.get("/predictions?limit=1000").is_success)


def test_a_client_that_does_not_read_is_cut_off(rows: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = len(rows.get("/predictions?limit=1000").content)
    monkeypatch.setattr(uvicorn_protocol, "STALLED_S", 0.3)
    monkeypatch.setattr(response_buffer, "MAX_BYTES", 1_000_000)
    with connection(rows) as made:
        made.sendall(ROWS)
        made.recv(1)
        # There is room for another one once it is given up.
        until(lambda: rows.get("/predictions?limit=1000").is_success)
        assert len(answer(made)) < whole
    with connection(rows) as made:
        made.sendall(ROWS.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert len(answer(made)) > whole, "one that reads has all of it"


def test_a_body_over_the_limit_is_answered_to_who_still_sends(api: httpx.Client) -> None:
    body = b'{"text": "' + b"a" * 12_000_000 + b'"}'
    length = f"Content-Length: {len(body)}\r\n".encode()
    for close in (b"Connection: close\r\n", b""):  # as urllib sends it, and as requests does
        with connection(api) as made:
            made.sendall(POST + close + length + b"\r\n" + body)
            assert status(made) == 413
            if not close:  # and the connection is as good as before
                made.sendall(LIVE)
                assert status(made) == 200
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n" + f"{len(body):x}\r\n".encode() + body
    with connection(api) as made:
        made.sendall(chunked)
        assert status(made) == 413


def test_a_body_that_goes_on_after_its_answer_ends_in_time(api: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_protocol, "DRAIN_S", 0.3)
    monkeypatch.setattr(uvicorn_protocol, "DRAIN_BYTES", 1_000_000)
    head = POST + b"Content-Length: 900000000\r\n"
    for close in (b"Connection: close\r\n", b""):
        with connection(api) as stalled:
            stalled.sendall(head + close + b"\r\n{")
            assert answer(stalled).startswith(b"HTTP/1.1 413 ")
        with connection(api) as made, pytest.raises(OSError, match=r"reset|[Bb]roken"):
            _send_for_ever(made, head + close + b"\r\n")


def _send_for_ever(made: socket.socket, head: bytes) -> None:
    made.sendall(head)
    for _ in range(10_000):
        made.sendall(b"a" * 100_000)


def test_expect_100_continue(api: httpx.Client) -> None:
    with connection(api) as made:
        made.sendall(POST + f"Expect: 100-continue\r\nContent-Length: {len(BODY)}\r\n\r\n".encode())
        assert made.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        made.sendall(BODY)
        assert status(made) == 200
    with connection(api) as made:
        made.sendall(POST + b"Expect: 100-continue\r\nContent-Length: 12000000\r\n\r\n")
        assert status(made) == 413


def test_a_connection_is_kept_for_as_long_as_is_set(memory_api: MemoryApi) -> None:
    with memory_api.producer, serving(memory_api.parts, timeout_keep_alive=0.3) as client, connection(client) as made:
        made.sendall(LIVE)
        assert answer(made).startswith(b"HTTP/1.1 200 ")
        with connection(client) as made_again:
            # The rest of a body that was answered before does not keep it open either.
            made_again.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
            assert status(made_again) == 200
            made_again.sendall(b"cd")
            assert answer(made_again) == b""


def test_an_upgrade_leaves_nobody_without_bounds(api: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_protocol, "HEAD_S", 0.3)
    upgrade = LIVE.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    with connection(api) as made:
        made.sendall(upgrade)
        assert status(made) == 200
        made.sendall(LIVE[:20])
        assert answer(made).startswith(b"HTTP/1.1 408 ")


def test_a_client_stalled_in_its_body_is_told_that_the_server_stops(
    memory_api: MemoryApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(uvicorn_protocol, "LAST_S", 0.3)
    with memory_api.producer, ExitStack() as stack:
        with serving(memory_api.parts) as client:
            stalled = stack.enter_context(connection(client))
            stalled.sendall(POST + b"Content-Length: 100\r\n\r\n{")
            # Its request is inside once one after it was answered.
            assert live(client) == 200
            stopping = time.monotonic()
        assert time.monotonic() - stopping < 8, "it held the end up"
        assert answer(stalled).startswith(b"HTTP/1.1 503 ")
    assert "Traceback" not in caplog.text
    assert "Exception" not in caplog.text


def test_connections_leave_files_to_the_process() -> None:
    """The limit is raised as far as may be, and told where it is too low for what is set."""

    def asked(files: int, wanted: int) -> str:
        code = (
            "import resource\nfrom bdlab_cli.wiring.uvicorn_protocol import max_connections\n"
            f"resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, {files}), {files}))\n"
            f"print(max_connections({wanted}), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
        return done.stdout.strip() or done.stderr.strip().splitlines()[-1]

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert asked(1024, 0) == "896 1024"
    assert asked(1024, 100) == "100 1024"
    assert "http.max_connections 897 is more than the limit of open files allows: 1024" in asked(1024, 897)
    assert "this process may open 128 files" in asked(128, 0)
    if hard >= 4096 or hard == resource.RLIM_INFINITY:
        assert asked(4096, 0) == "2048 4096"


def test_over_tls_the_handshake_is_bounded_too(
    memory_api: MemoryApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(uvicorn_protocol, "HEAD_S", 3.0)
    made = temporary_certificates(["api"], ttl_s=600)["api"]
    files = {"ssl_certfile": tmp_path / "cert.pem", "ssl_keyfile": tmp_path / "key.pem"}
    files["ssl_certfile"].write_text(made.pem)
    files["ssl_keyfile"].write_text(made.key.reveal())
    context = ssl.create_default_context(cadata=made.ca_pem)
    options = {name: str(file) for name, file in files.items()}
    with memory_api.producer, serving(memory_api.parts, max_connections=4, **options) as client, ExitStack() as stack:
        silent = [stack.enter_context(connection(client)) for _ in range(3)]
        silent[2].sendall(b"GET / HTTP/1.1\r\n\r\n")  # no TLS at all
        inside = stack.enter_context(tls_connection(client, context))
        inside.sendall(LIVE)
        assert status(inside) == 200
        inside.sendall(POST + f"Content-Length: {len(BODY)}\r\nConnection: close\r\n\r\n".encode() + BODY)
        assert answer(inside).startswith(b"HTTP/1.1 200 ")
        until(lambda: all(_is_over(each) for each in silent))
        many = [stack.enter_context(connection(client)) for _ in range(20)]
        late = stack.enter_context(tls_connection(client, context))
        late.sendall(LIVE)
        assert status(late) == 200
        assert sum(_is_over(each) for each in many) >= 16


def _is_over(made: socket.socket) -> bool:
    made.settimeout(0.1)
    try:
        while made.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True
