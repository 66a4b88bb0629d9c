"""Fetching jars from Maven repositories, some at the same time, each compared with the pinned SHA-256. The settings of
the resolver jgo name the repositories, else Maven Central, and the local repository. Proxies and CAs are configured as
for any program that uses the HTTP client `requests`."""

import contextlib
import hashlib
import multiprocessing
import time
from collections.abc import Sequence
from http import HTTPStatus
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import requests
from jgo.config import GlobalSettings
from jgo.constants import MAVEN_CENTRAL_URL

from bdlab.errors import BinaryMissing
from bdlab.files import Replacement
from bdlab.reachability import root_cause
from bdlab.retry import Backoff
from bdlab.stack.servers.java import Jar, Progress

_STALLED_S = 12.0
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_HINT = (
    "HTTPS_PROXY names a proxy, REQUESTS_CA_BUNDLE a file of authorities, and ~/.config/jgo.conf a mirror "
    "([repositories], then central = https://...). Or run `bdlab fetch-kafka` on a machine with network and "
    "copy the folder that it names to the same place here."
)


class _DownloadError(Exception):
    """Why a repository did not give a jar; `transient` if another try may succeed."""

    def __init__(self, url: str, why: str, *, transient: bool) -> None:
        parts = urlsplit(url)
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # without a password
        super().__init__(f"{shown}: {why}".replace(url, shown))
        self.transient = transient


class Fetching:
    """Fetches `jars` into the folder `libs`. Raises configparser.Error for jgo's settings."""

    def __init__(self, jars: Sequence[Jar], libs: Path) -> None:
        settings = GlobalSettings.load()
        named = {"central": MAVEN_CENTRAL_URL} | settings.repositories
        # Configured repositories come before Maven Central, which may be unreachable.
        self._repositories = sorted(named.values(), key=lambda url: url == MAVEN_CENTRAL_URL)
        self._local, self._libs, self._why, self._answered = settings.repo_cache, libs, "no response", False
        self._done = dict.fromkeys(sorted(jars, key=lambda jar: -jar.size), 0)
        self._heard_at = time.monotonic()

    def run(self, progress: Progress) -> None:
        """Fetch them all. Raises BinaryMissing, or OSError for what cannot be written."""
        size = sum(jar.size for jar in self._done)
        # Its threads are daemons, and not waited for: a download that hangs must not delay the end.
        with ThreadPool(4) as pool, contextlib.suppress(StopIteration):
            fetched = pool.imap_unordered(self._fetch, self._done)
            while True:
                progress(sum(self._done.values()), size)
                try:
                    fetched.next(0.1)
                except multiprocessing.TimeoutError:
                    if time.monotonic() - self._heard_at > _STALLED_S:
                        raise _missing(f"nothing came for {_STALLED_S:.0f} s ({self._why})") from None
        progress(size, size)

    def _fetch(self, jar: Jar) -> None:
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
        backoff, tries = Backoff(0.5, 4.0), 0
        while True:
            tries += 1
            errors = []
            for repository in self._repositories:
                try:
                    return self._get(jar, f"{repository.rstrip('/')}/{jar.path}", file)
                except _DownloadError as error:
                    errors.append(error)
            self._why = "; ".join(map(str, errors))
            # Without any response so far there is no network: do not wait for it.
            if tries >= (5 if self._answered else 2) or not any(one.transient for one in errors):
                raise _missing(self._why)
            time.sleep(backoff.next_s())

    def _get(self, jar: Jar, url: str, file: IO[bytes]) -> None:
        """Download `url` into `file`. Raises _DownloadError, and BinaryMissing if it is not `jar`."""
        file.seek(0)
        file.truncate()
        digest, size = hashlib.sha256(), 0
        try:
            with requests.get(url, stream=True, timeout=(4.0, 7.0)) as response:  # to connect, and to hear more
                self._answered = True
                if (code := response.status_code) != HTTPStatus.OK:
                    raise _DownloadError(url, f"{code} {response.reason}", transient=code in _TRANSIENT)
                for chunk in response.iter_content(1 << 13):  # small: slow is not stalled
                    file.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
                    self._count(jar, min(size, jar.size))
                    if size > jar.size:
                        break
        except OSError as error:
            if error.errno is not None and not isinstance(error, requests.RequestException):
                raise  # about the file, not the network
            why = f"{type(error).__name__}: {root_cause(error)}"
            final = isinstance(error, (requests.exceptions.SSLError, ValueError))
            raise _DownloadError(url, why, transient=not final) from error
        if size < jar.size:
            raise _DownloadError(url, f"ended after {size:,} of {jar.size:,} bytes", transient=True)
        if digest.hexdigest() != jar.sha256:
            raise _missing(
                f"{_DownloadError(url, 'not what bdlab pins', transient=False)}: expected {jar.size:,} bytes "
                f"with SHA-256 {jar.sha256}, got {size:,} or more with {digest.hexdigest()}"
            )

    def _count(self, jar: Jar, size: int) -> None:
        self._done[jar] = size
        self._heard_at = time.monotonic()


def _missing(why: str) -> BinaryMissing:
    return BinaryMissing(f"Apache Kafka could not be fetched: {why}", hint=_HINT)
