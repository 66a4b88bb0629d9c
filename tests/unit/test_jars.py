"""Apache Kafka's jars: what is pinned, and fetching it from a Maven repository that misbehaves."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from bdlab.errors import BinaryMissing, StartInterrupted
from bdlab.stack.servers import java, maven
from bdlab.stack.servers.java import Assembly, Jar
from tests.fix_servers import installed_or_skip
from tests.servers.zookeeper import pinned
from tests.waiting import until

CONTENTS = {f"org.example:part-{number}:1.{number}": os.urandom(200_000 + number) for number in range(6)}
ASSEMBLY = Assembly(
    "9.9.9", [Jar(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in CONTENTS.items()]
)
FIRST = ASSEMBLY.jars[0]


class Repository:
    """A Maven repository as a real server of HTTP; `answer` replaces how it gives the file at a path."""

    def __init__(self) -> None:
        self.files = {f"/maven/{jar.path}": CONTENTS[jar.coordinate] for jar in ASSEMBLY.jars}
        self.asked: list[str] = []
        self.answer: Callable[[BaseHTTPRequestHandler, bytes], None] = give
        self.ended = threading.Event()
        repository = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                repository.asked.append(self.path)
                content = repository.files.get(self.path)
                if content is None:
                    self.send_error(404)
                else:
                    repository.answer(self, content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/maven"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()


def give(request: BaseHTTPRequestHandler, content: bytes, length: int | None = None) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(content) if length is None else length))
    request.end_headers()
    request.wfile.write(content)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of its own, with neither settings nor a local repository nor a proxy."""
    for name in ("M2_REPO", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("M2_REPO", str(tmp_path / "m2"))
    monkeypatch.setenv("JGO_CONFIG_FILE", str(tmp_path / "jgo.conf"))
    return tmp_path


def name_mirror(home: Path, url: str, name: str = "central") -> None:
    (home / "jgo.conf").write_text(f"[repositories]\n{name} = {url}\n")


@pytest.fixture
def repository(home: Path) -> Iterator[Repository]:
    server = Repository()
    name_mirror(home, server.url)
    yield server
    server.close()


def fetch() -> list[tuple[int, int]]:
    told: list[tuple[int, int]] = []
    java.fetch(ASSEMBLY, lambda done, total: told.append((done, total)))
    return told


def cached() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (ASSEMBLY.home / "libs").iterdir()}


WHOLE = {jar.name: CONTENTS[jar.coordinate] for jar in ASSEMBLY.jars}


def test_the_lock_pins_each_jar_once() -> None:
    for assembly in (java.pinned_kafka(), pinned()):
        names = [jar.name for jar in assembly.jars]
        assert len(set(names)) == len(names)
        assert f"kafka_2.13-{assembly.version}.jar" in names
        assert all(re.fullmatch("[0-9a-f]{64}", jar.sha256) and jar.size > 0 for jar in assembly.jars)


@pytest.mark.kafka
@pytest.mark.parametrize("assembly", [java.pinned_kafka(), pinned()], ids=["4", "3 with ZooKeeper"])
def test_the_cache_of_this_machine_holds_what_is_pinned(assembly: Assembly) -> None:
    with installed_or_skip():
        java.fetch(assembly, lambda *_: None)
    assert not [jar.name for jar in assembly.jars if jar.read(assembly.home / "libs" / jar.name) is None]


def test_each_jar_is_fetched_once_and_told_of(repository: Repository) -> None:
    assert not ASSEMBLY.is_whole()
    told = fetch()
    assert ASSEMBLY.is_whole()
    assert cached() == WHOLE
    assert sorted(repository.asked) == sorted(repository.files)
    assert told == sorted(told)
    assert told[-1] == (ASSEMBLY.size, ASSEMBLY.size)
    assert {total for _, total in told} == {ASSEMBLY.size}
    assert not [file for file in ASSEMBLY.home.rglob("*") if file.stat().st_mode & 0o022]
    assert {file.name for file in ASSEMBLY.home.parent.iterdir()} == {"kafka-9.9.9", ".kafka-9.9.9.lock"}
    assert fetch() == []
    assert len(repository.asked) == len(repository.files)


def test_what_is_not_as_pinned_is_fetched_again(repository: Repository) -> None:
    fetch()
    (ASSEMBLY.home / "libs" / FIRST.name).write_bytes(b"cut")
    (ASSEMBLY.home / "libs" / "stranger.jar").touch()
    assert not ASSEMBLY.is_whole()
    fetch()
    assert cached() == WHOLE


def test_a_jar_that_was_changed_on_the_way_is_named_and_not_kept(repository: Repository) -> None:
    path = f"/maven/{FIRST.path}"
    repository.files[path] = changed = bytes(FIRST.size)
    with pytest.raises(BinaryMissing, match="not what bdlab pins") as caught:
        fetch()
    for part in (FIRST.name, FIRST.sha256, hashlib.sha256(changed).hexdigest()):
        assert part in caught.value.message
    assert not ASSEMBLY.home.exists()
    assert repository.asked.count(path) == 1


def test_a_body_without_an_end_is_not_read_to_it(repository: Repository) -> None:
    repository.files[f"/maven/{FIRST.path}"] = bytes(50 * FIRST.size)
    with pytest.raises(BinaryMissing, match="not what bdlab pins"):
        fetch()


def test_a_jar_that_is_not_there_is_told_at_once(repository: Repository) -> None:
    path = f"/maven/{FIRST.path}"
    del repository.files[path]
    with pytest.raises(BinaryMissing, match=rf"{FIRST.name}: 404 ") as caught:
        fetch()
    assert "jgo.conf" in caught.value.hint
    assert repository.asked.count(path) == 1


@pytest.mark.parametrize(
    "once",
    [
        pytest.param(lambda request, _: request.send_error(503), id="503"),
        pytest.param(lambda request, content: give(request, content[:70_000], len(content)), id="cut off"),
        pytest.param(lambda request, content: give(request, content[:70_000]), id="too short"),
        pytest.param(lambda request, _: request.connection.close(), id="closed"),
    ],
)
def test_what_passes_is_tried_again(
    repository: Repository, once: Callable[[BaseHTTPRequestHandler, bytes], None]
) -> None:
    def answer(request: BaseHTTPRequestHandler, content: bytes) -> None:
        if request.path.endswith(FIRST.name) and repository.asked.count(request.path) == 1:
            once(request, content)
        else:
            give(request, content)

    repository.answer = answer
    fetch()
    assert cached() == WHOLE


def test_a_server_that_never_answers_is_not_waited_for(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maven, "_STALLED_S", 1.0)
    repository.answer = lambda _request, _content: void(repository.ended.wait(30))
    with pytest.raises(BinaryMissing, match="nothing came for 1 s"):
        fetch()


def void(_: object) -> None:
    pass


def test_who_shows_the_progress_can_end_it(repository: Repository) -> None:
    repository.answer = lambda _request, _content: void(repository.ended.wait(30))

    def show(_done: int, _total: int) -> None:
        raise StartInterrupted("asked to stop")

    with pytest.raises(StartInterrupted):
        java.fetch(ASSEMBLY, show)


def test_a_proxy_that_is_dead_is_named(repository: Repository, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://somebody:hidden@127.0.0.1:{free.getsockname()[1]}"
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, dead)
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(BinaryMissing, match=r"ProxyError: .*refused") as caught:
        fetch()
    assert "HTTPS_PROXY" in caught.value.hint
    assert "hidden" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://somebody:hidden@127.0.0.1:1/maven", r"ConnectionError: .*refused"),
        ("http://somebody:hidden@nowhere.invalid/maven", "ConnectionError: "),
        ("ftp://somebody:hidden@127.0.0.1/maven", "InvalidSchema: "),
        ("127.0.0.1/maven", "MissingSchema: "),
    ],
)
def test_a_mirror_that_cannot_be_reached_is_named_without_its_password(
    home: Path, monkeypatch: pytest.MonkeyPatch, url: str, why: str
) -> None:
    name_mirror(home, url)
    with pytest.raises(BinaryMissing, match=why) as caught:
        fetch()
    assert "hidden" not in caught.value.message


def test_a_mirror_of_another_name_is_asked_before_maven_central(repository: Repository, home: Path) -> None:
    name_mirror(home, f"{repository.url}/", name="ours")
    fetch()
    assert cached() == WHOLE


def test_settings_that_cannot_be_read_are_named(home: Path) -> None:
    (home / "jgo.conf").write_text("central = nowhere\n")
    with pytest.raises(BinaryMissing, match=r"jgo\.conf"):
        fetch()


def test_a_jar_of_the_local_repository_is_taken_if_it_is_the_pinned_one(repository: Repository, home: Path) -> None:
    second = ASSEMBLY.jars[1]
    for jar, content in ((FIRST, CONTENTS[FIRST.coordinate]), (second, b"another build")):
        file = home / "m2" / jar.path
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
    before = sorted(file.stat().st_mtime_ns for file in (home / "m2").rglob("*"))
    fetch()
    assert cached() == WHOLE
    assert f"/maven/{FIRST.path}" not in repository.asked
    assert f"/maven/{second.path}" in repository.asked
    assert sorted(file.stat().st_mtime_ns for file in (home / "m2").rglob("*")) == before


@contextlib.contextmanager
def another_process() -> Iterator[subprocess.Popen[bytes]]:
    program = (
        "import sys, msgspec\nfrom bdlab.stack.servers import java\n"
        "java.fetch(msgspec.json.decode(sys.argv[1], type=java.Assembly), lambda *_: None)"
    )
    command = [sys.executable, "-c", program, msgspec.json.encode(ASSEMBLY).decode()]
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def test_one_that_was_killed_is_gone_on_with(repository: Repository) -> None:
    def answer(request: BaseHTTPRequestHandler, content: bytes) -> None:
        if request.path.endswith(FIRST.name):
            give(request, content[:50_000], len(content))
            repository.ended.wait(30)
        else:
            give(request, content)

    repository.answer = answer
    with another_process() as process:
        libs = ASSEMBLY.home.with_name(".kafka-9.9.9.new") / "libs"
        others = {jar.name for jar in ASSEMBLY.jars} - {FIRST.name}
        until(lambda: libs.is_dir() and others <= {file.name for file in libs.iterdir()})
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert not ASSEMBLY.home.exists()
    repository.answer = give
    repository.asked.clear()
    fetch()
    assert cached() == WHOLE
    assert repository.asked == [f"/maven/{FIRST.path}"]


def test_two_at_once_fetch_it_once(repository: Repository) -> None:
    with another_process() as one, another_process() as two:
        assert (one.wait(30), two.wait(30)) == (0, 0)
    assert cached() == WHOLE
    assert sorted(repository.asked) == sorted(repository.files)


def test_a_disk_without_room_is_named_as_that(repository: Repository, home: Path) -> None:
    program = (
        "import resource, signal, sys, msgspec\nfrom bdlab.errors import BinaryMissing\n"
        "from bdlab.stack.servers import java\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: java.fetch(msgspec.json.decode(sys.argv[1], type=java.Assembly), lambda *_: None)\n"
        "except BinaryMissing as error: print(error.message, error.hint)"
    )
    command = [sys.executable, "-c", program, msgspec.json.encode(ASSEMBLY).decode()]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    assert f"could not be fetched into {home / 'cache' / 'bdlab'}: [Errno 27]" in said
    assert "XDG_CACHE_HOME" in said
