"""Record batches made by hand, for what no client library writes (Kafka protocol guide: record batch v2)."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence

#: A topic that was just made: UNKNOWN_TOPIC_OR_PARTITION, NOT_LEADER_OR_FOLLOWER.
_NOT_YET = {3, 6}


class Refused(Exception):
    """The broker does not write these records; `code` is of the protocol guide's list of errors."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the broker answers with error {code}")
        self.code = code


def _varint(number: int) -> bytes:
    zigzag = (number << 1) ^ (number >> 63)
    out = bytearray()
    while zigzag > 0x7F:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    return bytes(out) + bytes([zigzag])


def _sized(data: bytes) -> bytes:
    return _varint(len(data)) + data


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def record(key: bytes, value: bytes, headers: Sequence[tuple[bytes, bytes]] = (), *, number: int = 0) -> bytes:
    head = b"".join(_sized(name) + _sized(content) for name, content in headers)
    return _sized(b"\0" + _varint(0) + _varint(number) + _sized(key) + _sized(value) + _varint(len(headers)) + head)


def batch(payload: bytes, *, count: int = 1, attributes: int = 0) -> bytes:
    """`payload` as the records of a batch that claims to hold `count`; `attributes` 3 says it is lz4."""
    now = int(time.time() * 1000)
    checked = struct.pack(">hiqqqhii", attributes, count - 1, now, now, -1, -1, -1, count) + payload
    after = struct.pack(">ibI", -1, 2, _crc32c(checked)) + checked
    return struct.pack(">qi", 0, len(after)) + after


def produce(leader: str, topic: str, partition: int, records: bytes, *, timeout_s: float = 10.0) -> None:
    """Have the partition's leader (host:port) write `records`; Refused where it does not."""
    deadline = time.monotonic() + timeout_s
    while error := _produce(leader, topic, partition, records):
        if error not in _NOT_YET or time.monotonic() > deadline:
            raise Refused(error)
        time.sleep(0.05)


def _produce(leader: str, topic: str, partition: int, records: bytes) -> int:
    """Send one ProduceRequest (v3); the error code of its answer, 0 for none."""
    host, _, port = leader.rpartition(":")
    request = (
        struct.pack(">hhih", 0, 3, 1, -1)
        + struct.pack(">hhii", -1, -1, 10_000, 1)
        + struct.pack(">h", len(topic))
        + topic.encode()
        + struct.pack(">iii", 1, partition, len(records))
        + records
    )
    with socket.create_connection((host, int(port)), timeout=10) as connection, connection.makefile("rb") as answer:
        connection.sendall(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", answer.read(4))
        body = answer.read(size)
    (error,) = struct.unpack_from(">h", body, 4 + 4 + 2 + len(topic) + 4 + 4)
    return int(error)
