"""Fetching jars from Maven repositories, some side by side, each compared with what is pinned.

The resolver jgo says where they are: at Maven Central or what its settings file names, and in which local
repository. Proxies and authorities are named as for any program on the HTTP client `requests`.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import requests
from jgo.config import GlobalSettings
from jgo.constants import MAVEN_CENTRAL_URL

from bdlab.errors import BinaryMissing
from bdlab.files import Replacement
from bdlab.retry import Backoff
from bdlab.stack.servers.jars import Jar, Progress

_WORKERS = 4
_CONNECT_TIMEOUT_S = 4.0
_READ_TIMEOUT_S = 7.0
_STALLED_S = 12.0
_TRIES = 5
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_HINT = (
    "HTTPS_PROXY names a proxy, REQUESTS_CA_BUNDLE a file of authorities, and ~/.config/jgo.conf a mirror "
    "([repositories], then central = https://...). Or run `bdlab fetch-kafka` on a machine with network and "
    "copy the folder that it names to the same place here."
)


class _Refusal(Exception):
    """Why a repository has not given a jar; `passing` if another try may be worth it."""

    def __init__(self, url: str, why: str, *, passing: bool) -> None:
        parts = urlsplit(url)
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # without a password
        super().__init__(f"{shown}: {why}".replace(url, shown))
        self.passing = passing


class Fetching:
    """`jars` on their way into the folder `libs`. Raises configparser.Error for jgo's settings."""

    def __init__(self, jars: Sequence[Jar], libs: Path) -> None:
        settings = GlobalSettings.load()
        named = {"central": MAVEN_CENTRAL_URL} | settings.repositories
        # What somebody named comes before Maven Central, which may be out of reach.
        self._repositories = sorted(named.values(), key=lambda url: url == MAVEN_CENTRAL_URL)
        self._local = settings.repo_cache
        self._libs = libs
        self._waiting = deque(sorted(jars, key=lambda jar: -jar.size))
        self._done = dict.fromkeys(jars, 0)
        self._stop = threading.Event()
        self._failed: list[Exception] = []
        self._why = "no answer"
        self._heard = False
        self._heard_at = time.monotonic()

    def run(self, progress: Progress) -> None:
        """Fetch them all. Raises BinaryMissing, or OSError for what cannot be written."""
        size = sum(jar.size for jar in self._done)
        # Daemons: what waits for a server that never answers must not hold up the end of the process.
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(_WORKERS)]
        try:
            for worker in workers:
                worker.start()
            while not self._failed and (alive := [worker for worker in workers if worker.is_alive()]):
                progress(sum(self._done.values()), size)
                if time.monotonic() - self._heard_at > _STALLED_S:
                    raise _missing(f"nothing came for {_STALLED_S:.0f} s ({self._why})")
                alive[0].join(0.1)
            if self._failed:
                raise self._failed[0]
        finally:
            self._stop.set()
        progress(size, size)

    def _work(self) -> None:
        try:
            while self._waiting and not self._stop.is_set():
                self._bring(self._waiting.popleft())
        except IndexError:
            pass  # another one took the last
        except Exception as error:  # noqa: BLE001 - whoever waits for it raises it
            self._failed.append(error)

    def _bring(self, jar: Jar) -> None:
        target = self._libs / jar.name
        if jar.read(target) is None:
            with Replacement(target, mode=0o644) as new:
                if content := jar.read(self._local / jar.path):
                    new.file.write(content)
                else:
                    self._download(jar, new.file)
                new.commit()
        self._count(jar, jar.size)

    def _download(self, jar: Jar, file: IO[bytes]) -> None:
        backoff = Backoff(0.5, 4.0)
        tries = 0
        while True:
            tries += 1
            refusals = []
            for repository in self._repositories:
                try:
                    return self._get(jar, f"{repository.rstrip('/')}/{jar.path}", file)
                except _Refusal as refusal:
                    refusals.append(refusal)
            self._why = "; ".join(map(str, refusals))
            # Where nobody has ever answered there is no network: that is not worth waiting for.
            if tries >= (_TRIES if self._heard else 2) or not any(one.passing for one in refusals):
                raise _missing(self._why)
            backoff.wait(self._stop)

    def _get(self, jar: Jar, url: str, file: IO[bytes]) -> None:
        """Write what `url` holds into `file`. Raises _Refusal, and BinaryMissing if it is not `jar`."""
        file.seek(0)
        file.truncate()
        digest, size = hashlib.sha256(), 0
        try:
            with requests.get(url, stream=True, timeout=(_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S)) as answer:
                self._heard = True
                if (code := answer.status_code) != HTTPStatus.OK:
                    raise _Refusal(url, f"{code} {answer.reason}", passing=code in _PASSING)
                for chunk in answer.iter_content(1 << 13):  # small, so that a slow line is heard
                    file.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
                    self._count(jar, min(size, jar.size))
                    if self._stop.is_set() or size > jar.size:
                        break
        except OSError as error:
            if error.errno is not None and not isinstance(error, requests.RequestException):
                raise  # about the file, not about the network
            why = f"{type(error).__name__}: {_innermost(error)}"
            final = isinstance(error, (requests.exceptions.SSLError, ValueError))
            raise _Refusal(url, why, passing=not final) from error
        if size < jar.size:
            raise _Refusal(url, f"ended after {size:,} of {jar.size:,} bytes", passing=True)
        if digest.hexdigest() != jar.sha256:
            raise _missing(
                f"{_Refusal(url, 'not what bdlab pins', passing=False)}: expected {jar.size:,} bytes with "
                f"SHA-256 {jar.sha256}, got {size:,} or more with {digest.hexdigest()}"
            )

    def _count(self, jar: Jar, size: int) -> None:
        self._done[jar] = size
        self._heard_at = time.monotonic()


def _missing(why: str) -> BinaryMissing:
    return BinaryMissing(f"Apache Kafka could not be fetched: {why}", hint=_HINT)


def _innermost(error: BaseException) -> BaseException:
    """The reason of an HTTP client's error, which wraps it several times."""
    while further := error.__cause__ or error.__context__:
        error = further
    return error
