"""The console's page Live: each row that is stored is shown, or counted, whatever is killed and however many look."""

from __future__ import annotations

import re
import selectors
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bdlab.events import encode
from tests.brokers import KIND
from tests.fix_console import Console, StartConsole, running_console
from tests.fix_golden import Place
from tests.fix_pipeline import Daemon, Pipeline
from tests.relay import Relay
from tests.samples import event
from tests.waiting import until

_ROW = re.compile(r'data-rows="(\d+)"(?: data-at="(\d+)/(\d+)/(\d+)")?')
_COUNTED = re.compile(r"([\d,]+) (duplicates|dead letters)")


class Viewer:
    """A stream that is read by a thread of its own; `events` has (name, id, data) of each event."""

    def __init__(self, client: httpx.Client, path: str, last: str = "") -> None:
        self.events: list[tuple[str, str, str]] = []
        self.ended_at = 0.0
        self._stack = ExitStack()
        headers = {"Last-Event-ID": last} if last else {}
        self.answer = self._stack.enter_context(client.stream("GET", path, headers=headers))
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        fields: dict[str, list[str]] = {}
        try:
            for line in self.answer.iter_lines():
                name, _, value = line.partition(":")
                if line:
                    fields.setdefault(name, []).append(value.removeprefix(" "))
                elif "event" in fields:
                    self.events.append((fields["event"][0], fields.get("id", [""])[0], "\n".join(fields["data"])))
                if not line:
                    fields = {}
        except httpx.HTTPError:
            pass  # the console, or this test, closed it
        self.ended_at = time.monotonic()

    def data(self, name: str) -> list[str]:
        return [data for kind, _, data in self.events if kind == name]

    @property
    def last(self) -> str:
        return next(last for kind, last, _ in reversed(self.events) if kind == "rows")

    @property
    def told(self) -> tuple[list[tuple[int, int, int]], int]:
        """The positions of the rows that were shown, as they came, and how many more were told of."""
        shown, more = [], 0
        for html in self.data("rows"):
            found = [tuple(map(int, place)) for _, *place in _ROW.findall(html) if place[0]]
            shown += found[::-1]
            more += sum(int(rows) for rows, log, _, _ in _ROW.findall(html) if not log)
        return shown, more  # type: ignore[return-value]

    @property
    def rows(self) -> int:
        shown, more = self.told
        return len(shown) + more

    def others(self, what: str) -> int:
        found = [_COUNTED.findall(html) for html in self.data("rows")]
        return sum(int(count.replace(",", "")) for each in found for count, name in each if name == what)

    def close(self) -> None:
        if self.ended_at:
            return
        self.answer.extensions["network_stream"].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._stack.close()


class Live:
    """A console, and the consumer of a topic and database of its own."""

    def __init__(self, place: Place, console: Console) -> None:
        self.place, self.console = place, console

    @contextmanager
    def viewer(self, path: str = "/live", last: str = "") -> Iterator[Viewer]:
        """Who opens a page, and then its stream."""
        found = re.search(r'sse-connect="(/live/events[^"]*)"', self.console.get(path).text)
        assert found
        viewer = Viewer(self.console.client, found[1].replace("&amp;", "&"), last)
        try:
            yield viewer
        finally:
            viewer.close()

    def produce(self, count: int, text: str = "This product is terrible!") -> None:
        self.place.produce([(number % 6, *encode(event(text=text)), []) for number in range(count)])

    def stored(self) -> int:
        return int(self.place.database.execute("SELECT count(*) FROM predictions")[0][0])

    @contextmanager
    def consumer(self) -> Iterator[Daemon]:
        with self.place.daemon("consume", BDLAB_KAFKA_SESSION_TIMEOUT_S="6") as daemon:
            yield daemon


@pytest.fixture(scope="module")
def live(_shared_pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    place = Place(_shared_pipeline)
    place.done("migrate")
    settings: dict[str, Any] = {**place.environment}
    with running_console(_shared_pipeline, tmp_path_factory.mktemp("live"), **settings) as console:
        yield Live(place, console)


def test_each_row_is_shown_or_counted_in_order_at_thousands_a_second(live: Live) -> None:
    with live.consumer(), live.viewer() as viewer, live.viewer("/live?outcome=positive") as other:
        live.produce(10)
        until(lambda: viewer.rows == 10)
        before = live.stored()
        twice: list[Any] = [(0, *encode(event()), [])] * 3
        for _ in range(4):
            began = time.monotonic()
            live.produce(2500)
            live.place.produce([*twice, (1, b"x", b"no event", [])])
            time.sleep(max(0.0, 1 - (time.monotonic() - began)))
        until(lambda: live.stored() >= before + 10_001)
        stored = live.stored()
        until(lambda: viewer.rows == stored and viewer.others("dead letters") == 4)
        assert viewer.others("duplicates") == 11
    shown, more = viewer.told
    assert more > 1000
    assert len(shown) > 500
    for partition in range(6):
        offsets = [offset for _, number, offset in shown if number == partition]
        assert offsets == sorted(set(offsets))
    assert not other.told[0]  # all are negative
    assert other.rows == more
    page = live.console.get("/live").text
    assert page.count("data-at=") == 50
    until(lambda: "<dd>10,011 <small>rows" in live.console.get("/live").text, 10)  # of 5 minutes
    assert live.console.get("/live?model=another").text.count("data-at=") == 0


def test_it_goes_on_after_what_is_killed_and_who_comes_back_gets_what_came(live: Live, pipeline: Pipeline) -> None:
    before = live.stored()
    with live.viewer() as viewer, ExitStack() as stack:
        state = Viewer(live.console.client, "/state/events")
        stack.callback(state.close)
        with live.consumer() as killed:
            live.produce(50)
            until(lambda: viewer.rows == 50)
            killed.process.send_signal(signal.SIGKILL)
            killed.process.wait(30)
        stack.enter_context(live.consumer())
        live.produce(50)
        until(lambda: viewer.rows == 100)
        pipeline.postgres.stop()
        live.produce(50)
        until(lambda: "PostgreSQL" in state.data("state")[-1])
        assert "Since" in live.console.get("/live").text
        assert viewer.answer.is_closed is False
        pipeline.vault.stop()
        until(lambda: "Vault" in state.data("state")[-1] and "PostgreSQL" in state.data("state")[-1])
        pipeline.vault.start()
        pipeline.postgres.start()
        until(lambda: viewer.rows == 150, 90)
        until(lambda: "PostgreSQL answers again" in "".join(state.data("state")))
        assert live.stored() == before + 150
        if KIND != "tansu":  # whose log ends with it
            pipeline.broker.stop()
            until(lambda: "no answer from the broker" in state.data("state")[-1])
            pipeline.broker.start()
            until(lambda: "Kafka answers again" in "".join(state.data("state")))
        live.produce(30)
        until(lambda: viewer.rows == 180, 90)
        last = viewer.last
        viewer.close()
        live.produce(40)
        until(lambda: live.stored() == before + 220)
        with live.viewer(last=last) as again:
            until(lambda: again.rows == 40)
            assert len(again.told[0]) == 40
        # Of a time from which nothing is kept it is told how many came.
        with live.viewer(last=str(int(last) - 30)) as late:
            until(lambda: late.rows >= 70)


@contextmanager
def crowd(url: str, paths: list[str]) -> Iterator[list[bytearray]]:
    """As many viewers as paths, read by one thread; gives what each of them got."""
    address = httpx.URL(url)
    ended, selector, got = threading.Event(), selectors.DefaultSelector(), [bytearray() for _ in paths]
    with ExitStack() as stack:
        for path, buffer in zip(paths, got, strict=True):
            viewer = stack.enter_context(socket.create_connection((str(address.host), int(address.port or 0))))
            viewer.sendall(f"GET {path} HTTP/1.1\r\nHost: {address.host}:{address.port}\r\n\r\n".encode())
            selector.register(viewer, selectors.EVENT_READ, buffer)

        def read() -> None:
            while not ended.is_set():
                for key, _ in selector.select(0.1):
                    if data := key.fileobj.recv(1 << 16):  # type: ignore[union-attr]
                        key.data.extend(data)
                    else:
                        selector.unregister(key.fileobj)

        thread = threading.Thread(target=read)
        thread.start()
        try:
            until(lambda: all(b"retry:" in each for each in got))
            yield got
        finally:
            ended.set()
            thread.join(10)


def test_two_hundred_viewers_ask_no_more_than_one_and_end_with_the_console(
    live: Live, pipeline: Pipeline, start_console: StartConsole
) -> None:
    with pipeline.serve() as (_, api), Relay(api.base_url.netloc.decode()) as serve, live.consumer():
        settings: dict[str, Any] = {"BDLAB_CONSOLE_API_URL": serve.url}
        console = start_console(**live.place.environment | settings)

        def transactions() -> int:
            query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
            return int(live.place.database.execute(query)[0][0])

        counts: dict[int, tuple[float, float]] = {}
        for viewers in (1, 200):
            with crowd(console.url, ["/live/events", "/state/events"] * viewers) as got:
                time.sleep(2)
                before, asked, began = transactions(), len(serve.seen), time.monotonic()
                for _ in range(5):
                    live.produce(20)
                    time.sleep(1)
                lasted = time.monotonic() - began
                counts[viewers] = (transactions() - before) / lasted, (len(serve.seen) - asked) / lasted
                until(lambda: all(each.count(b"data-at=") == 100 for each in got[::2]))
                if viewers > 1:
                    stopped = time.monotonic()
                    assert console.daemon.stop() == 0
                    assert time.monotonic() - stopped < 2
    told = f"transactions and requests a second, by viewers: {counts}"
    assert counts[200][0] < 1.3 * counts[1][0] + 1, told
    assert counts[200][1] < 1.3 * counts[1][1] + 0.3, told
    assert not [line for line in console.daemon.lines if "Traceback" in line or '"error"' in line]


def test_a_stream_ends_when_its_key_is_revoked(
    live: Live, pipeline: Pipeline, start_console: StartConsole, tmp_path: Path
) -> None:
    key = pipeline.run("api-key", "create", "watcher", "--scope", "read").stdout.strip()
    settings: dict[str, Any] = live.place.environment | {"BDLAB_CONSOLE_REQUIRE_KEY": "read"}
    console = start_console(key=key, **settings)
    assert console.browser().get("/live/events").status_code == 303
    viewer = Viewer(console.client, "/live/events")
    try:
        time.sleep(4)
        assert not viewer.ended_at
        assert pipeline.run("api-key", "revoke", "watcher").returncode == 0
        revoked = time.monotonic()
        until(lambda: viewer.ended_at > 0, 10)
        assert viewer.ended_at - revoked < 6
        assert viewer.data("refused") == [""]
    finally:
        viewer.close()
