"""Send requests at a fixed rate, whatever the server does, and print the latencies as JSON.

    python benchmarks/open_loop.py URL RATE SECONDS BODY

Request number n is due n / RATE seconds after the start, and its latency counts from then on: it includes the
time that it waited for a connection, so that a server which stalls is charged for all requests that were due
meanwhile. Sockets and select() instead of an event loop, as those wake up on whole milliseconds only.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from collections import deque
from urllib.parse import urlsplit

CONNECTIONS = 64
WARM_UP_S = 1.0
PATIENCE_S = 10.0


def request(url: str, body: str) -> bytes:
    place = urlsplit(url)
    lines = (
        f"POST {place.path or '/'} HTTP/1.1",
        f"Host: {place.netloc}",
        "Content-Type: application/json",
        f"Content-Length: {len(body.encode())}",
    )
    return "\r\n".join((*lines, "", body)).encode()


def complete(received: bytes) -> bool:
    """Whether a whole response is there; its length is in its head."""
    head, found, body = received.partition(b"\r\n\r\n")
    if not found:
        return False
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return len(body) >= int(length)


def main(url: str, rate: float, seconds: float, body: str) -> dict[str, float]:
    place, wire = urlsplit(url), request(url, body)
    free: deque[socket.socket] = deque()
    for _ in range(CONNECTIONS):
        one = socket.create_connection((place.hostname or "", place.port or 80))
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        free.append(one)
    busy: dict[int, tuple[socket.socket, float, list[bytes]]] = {}
    waiting: deque[float] = deque()
    latencies: list[float] = []
    errors, number, count = 0, 0, int(rate * (seconds + WARM_UP_S))
    began = time.perf_counter() + 0.01
    end = began + seconds + WARM_UP_S + PATIENCE_S
    while (number < count or busy or waiting) and (now := time.perf_counter()) < end:
        while number < count and (due := began + number / rate) <= now:
            waiting.append(due)
            number += 1
        while waiting and free:
            connection = free.popleft()
            connection.send(wire)
            busy[connection.fileno()] = connection, waiting.popleft(), []
        pause = max(0.0, began + number / rate - time.perf_counter()) if number < count else 0.1
        for descriptor in select.select(list(busy), [], [], pause)[0]:
            connection, due, parts = busy[descriptor]
            parts.append(connection.recv(65536))
            received = b"".join(parts)
            if parts[-1] and not complete(received):
                continue
            latency = time.perf_counter() - due
            del busy[descriptor]
            if not parts[-1]:
                errors += 1
                connection.close()
                connection = socket.create_connection((place.hostname or "", place.port or 80))
            elif not received.startswith(b"HTTP/1.1 200 "):
                errors += 1
            if due >= began + WARM_UP_S:
                latencies.append(latency)
            free.append(connection)
    errors += len(busy) + len(waiting)
    latencies.sort()
    return {
        "rate": len(latencies) / seconds,
        "requests": len(latencies),
        "errors": errors,
        "p50_ms": latencies[len(latencies) // 2] * 1e3 if latencies else float("nan"),
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3 if latencies else float("nan"),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), sys.argv[4])))
