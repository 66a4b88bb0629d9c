"""The running clients of a service, as each says of itself in Vault which credentials it uses.

Whoever replaces a credential reads here who still uses the older one: `clients/<service>/<client>` in the
key-value engine. A client reports before it reads its credentials for the first time, so that none is missed;
then whenever they change, and with each renewal of its token. A report counts until the token of its client
has run out, as nothing that the client holds is good after that. One that ends takes its report away; one
that was killed leaves it. Each holds a lock in its identity folder, under which its name is kept: so whoever
sees that folder knows who was killed, and the next process there takes the place and the name.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import msgspec
import structlog

from bdlab.errors import PolicyDenied, SecretMissing, VaultError
from bdlab.vault.client import VaultClient
from bdlab.vault.leases import Ttl

_FOLDER = "clients"
_MOST_NAMES = 10_000
_NAME_BYTES = 200

_log = structlog.get_logger()


class ClientReport(msgspec.Struct, frozen=True):
    """A running client of `service`. `kafka_version` is that of the Kafka login with which it connects.

    `secret_id` is the accessor of the secret id that it logged in with, empty where that is not known;
    `until` is when its token ends, None for one that never does.
    """

    service: str
    name: str
    kafka_version: int
    secret_id: str
    until: datetime | None

    def __str__(self) -> str:
        until = f", its token ends at {self.until:%H:%M:%S} UTC" if self.until else ""
        return f"{self.service} client {self.name}{until}"


class ClientReporter:
    """Reports one client. `folder` is the identity's, which keeps the names. Construction does no I/O."""

    def __init__(self, client: VaultClient, *, kv_mount: str, service: str, folder: Path) -> None:
        self._client = client
        self._kv_mount = kv_mount
        self._service = service
        self._folder = folder / _FOLDER
        self._name = ""
        self._lock: int | None = None
        self._reported: tuple[int, str, Ttl] | None = None
        self._warned = False

    def report(self, kafka_version: int, secret_id: str, token: Ttl) -> None:
        """Say what is in use, where that is not what was error_text last. Raises VaultError.

        A policy of an older version that does not allow it is logged, and no reason to stop.
        """
        state = kafka_version, secret_id, token
        if state == self._reported:
            return
        if not self._name:
            self._take_name()
        until = (
            ""
            if token.never_expires
            else (datetime.now(UTC) + timedelta(seconds=token.remaining_s)).isoformat()
        )
        values = {"kafka_version": str(kafka_version), "secret_id": secret_id, "until": until}
        try:
            self._client.write_kv(self._kv_mount, f"{_path(self._service)}/{self._name}", values)
        except PolicyDenied as error:
            if not self._warned:
                _log.warning("no rotation can know of this client", problem=error.message, advice=error.hint)
            self._warned = True
            return
        self._warned = False
        self._reported = state

    def withdraw(self, *, timeout_s: float) -> None:
        """Take the report away. One that cannot be taken away counts until the token has run out."""
        if self._reported is not None:
            path = f"{self._kv_mount}/metadata/{_path(self._service)}/{self._name}"
            with contextlib.suppress(VaultError):
                self._client.request("delete", path, timeout_s=timeout_s)
        self._reported = None
        self._name = ""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_name(self) -> None:
        """The first name of the folder that no living process has; where none can be kept, one for once."""
        new = f"{socket.gethostname()}-{uuid4().hex[:8]}"
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for number in range(1, _MOST_NAMES):
                handle = os.open(self._folder / str(number), os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(handle)
                    continue
                self._lock = handle
                self._name = _name_in(handle) or new
                if self._name == new:
                    os.pwrite(handle, new.encode(), 0)
                return
        except OSError as error:
            # A folder that is mounted read-only.
            _log.debug("the name of this client is not kept", problem=str(error))
        self._name = new


def prune_reports(client: VaultClient, *, kv_mount: str, service: str, folder: Path) -> list[ClientReport]:
    """Who reports for `service`, sorted by name.

    Removes the reports that have run out, and those of processes of the identity `folder` that were killed.
    Raises VaultError.
    """
    return sorted(_valid_reports(client, kv_mount, service, folder), key=lambda found: found.name)


def _valid_reports(client: VaultClient, kv_mount: str, service: str, folder: Path) -> Iterator[ClientReport]:
    path = _path(service)
    try:
        names = client.request("list", f"{kv_mount}/metadata/{path}")["data"]["keys"]
    except SecretMissing:
        return
    with _killed(folder / _FOLDER) as killed:
        for name in killed & set(names):
            client.request("delete", f"{kv_mount}/metadata/{path}/{name}")
    for name in sorted(set(names) - killed):
        try:
            values, _ = client.read_kv(kv_mount, f"{path}/{name}")
        except SecretMissing:
            continue  # it ended meanwhile
        until = datetime.fromisoformat(values["until"]) if values.get("until") else None
        if until and until <= datetime.now(UTC):
            client.request("delete", f"{kv_mount}/metadata/{path}/{name}")
            continue
        yield ClientReport(service, name, int(values["kafka_version"]), values["secret_id"], until)


@contextlib.contextmanager
def _killed(folder: Path) -> Iterator[set[str]]:
    """The names of this folder that no process has; none takes one of them meanwhile."""
    names = set()
    with contextlib.ExitStack() as held:
        for file in folder.iterdir() if folder.is_dir() else ():
            try:
                handle = os.open(file, os.O_RDWR)
            except OSError:
                continue
            held.callback(os.close, handle)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                names.add(_name_in(handle))
        yield names - {""}


def _name_in(handle: int) -> str:
    return os.pread(handle, _NAME_BYTES, 0).decode("ascii", "replace")


def _path(service: str) -> str:
    return f"clients/{service}"
