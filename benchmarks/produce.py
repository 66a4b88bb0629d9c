"""Measure events a second through the producer and the consumer, with a Tansu broker of its own.

Run: python benchmarks/produce.py
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from uuid_utils.compat import uuid7

from bdlab.credentials import KafkaLogin
from bdlab.errors import BrokerError, BrokerUnavailable
from bdlab.events import Position, Review, Score, Term, encode, make_event
from bdlab.kafka.admin import Admin
from bdlab.kafka.consumer import Consumer
from bdlab.kafka.producer import Producer
from bdlab.serving.publisher import AsyncPublisher
from bdlab.settings import KafkaSettings
from bdlab.stack import Tansu
from bdlab.static_credentials import StaticCredentials

EVENTS = 100_000
IN_FLIGHT = 2_000

EVENT = make_event(
    uuid7(),
    Review(text="This is a fine product that I would buy again.", summary="ok"),
    Score(
        prediction=4.2,
        sentiment="positive",
        confidence=0.93,
        explanation=(Term("fine", 1.25), Term("buy", 0.5)),
    ),
    model="reviews@1.0.0",
)


def publish_all(producer: Producer) -> float:
    """Return the seconds until all events are acknowledged."""
    done, left = threading.Event(), EVENTS

    def acknowledged(result: Position | BrokerError) -> None:
        nonlocal left
        assert isinstance(result, Position), result
        left -= 1
        if not left:
            done.set()

    began = time.perf_counter()
    for _ in range(EVENTS):
        event = msgspec.structs.replace(EVENT, id=uuid7())
        while True:
            try:
                producer.publish(event, acknowledged)
                break
            except BrokerUnavailable:
                time.sleep(0.005)
    done.wait()
    return time.perf_counter() - began


async def publish_from_asyncio(producer: Producer) -> tuple[float, list[float]]:
    """Return the seconds for all events with `IN_FLIGHT` tasks, and those of each acknowledgement."""
    publisher, waits = AsyncPublisher(producer), list[float]()

    async def client(count: int) -> None:
        for _ in range(count):
            began = time.perf_counter()
            await publisher.publish(msgspec.structs.replace(EVENT, id=uuid7()))
            waits.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(client(EVENTS // IN_FLIGHT) for _ in range(IN_FLIGHT)))
    return time.perf_counter() - began, waits


async def publish_one_by_one(producer: Producer, count: int = 300) -> list[float]:
    publisher, waits = AsyncPublisher(producer), list[float]()
    for _ in range(count):
        began = time.perf_counter()
        await publisher.publish(msgspec.structs.replace(EVENT, id=uuid7()))
        waits.append(time.perf_counter() - began)
    return waits


def consume_all(credentials: StaticCredentials, count: int) -> float:
    """Return the seconds from the first record to the last."""

    def from_the_start(starts: Sequence[Position]) -> Sequence[Position]:
        return starts

    read, began = 0, 0.0
    with Consumer(credentials, positions=from_the_start) as consumer:
        while read < count:
            records = consumer.poll(2000, 0.25)
            began = began or (time.perf_counter() if records else 0.0)
            read += len(records)
    return time.perf_counter() - began


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, Tansu(Path(folder)) as broker:
        login = KafkaLogin(
            server=KafkaSettings(bootstrap_servers=broker.bootstrap_servers, session_timeout_s=1)
        )
        credentials = StaticCredentials(kafka=login)
        with Admin(credentials) as admin:
            admin.ensure_topic()
            with Producer(credentials, client_id="benchmark", source="/benchmarks") as producer:
                alone = asyncio.run(publish_one_by_one(producer))
                print(f"an event has {len(encode(EVENT)[1])} bytes")
                print(f"one at a time: ack after p50 {percentile(alone, 0.5) * 1e3:.1f} ms")
                print(f"publish: {EVENTS / publish_all(producer):,.0f} events/s")
                took_s, waits = asyncio.run(publish_from_asyncio(producer))
                print(
                    f"publish from asyncio, {IN_FLIGHT} in flight: {EVENTS / took_s:,.0f} events/s, "
                    f"ack after p50 {percentile(waits, 0.5) * 1e3:.0f} ms, "
                    f"p99 {percentile(waits, 0.99) * 1e3:.0f} ms"
                )
            count = sum(found.end - found.start for found in admin.log_ranges())
            print(f"consume: {count / consume_all(credentials, count):,.0f} events/s")
            began = time.perf_counter()
            admin.state()
            print(f"state of the broker with the group's lag: {(time.perf_counter() - began) * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
