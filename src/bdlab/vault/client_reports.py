"""Reports of the running processes of a service, stored in Vault: which credentials each of them uses.

Whoever replaces a credential reads here which processes still use the former one: `clients/<service>/<process>` in the
key-value engine. A process reports before it first reads its credentials, so that none is missed; then whenever they
change, and with each renewal of its token. A report is valid until the token of its process has run out, as nothing
that the process has is accepted after that. A process that ends deletes its report; one that was killed leaves it. Each
process locks a file of its name in its identity folder. So whoever sees that folder knows which processes were killed,
and the next one takes over a free name."""

import contextlib
import fcntl
import math
import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import msgspec
import structlog

from bdlab.errors import PolicyDenied, SecretMissing, VaultError
from bdlab.vault.client import VaultClient
from bdlab.vault.identity import Identity
from bdlab.vault.logins import Ttl

_FOLDER = "processes"
_log = structlog.get_logger()


class ClientReport(msgspec.Struct, frozen=True):
    """What one process of `service` reports. `kafka_version` is the version of the Kafka login that it uses.
    `secret_id` is the accessor of the secret id that it logged in with, empty if that is not known; `until` is when its
    token ends, None if never."""

    service: str
    name: str
    kafka_version: int
    secret_id: str
    until: datetime | None

    @property
    def ended(self) -> bool:
        """Whether the token of its process has run out."""
        return self.until is not None and self.until <= datetime.now(UTC)

    def __str__(self) -> str:
        until = f", its token ends at {self.until:%H:%M:%S} UTC" if self.until else ""
        return f"{self.service} client {self.name}{until}"


class ClientReporter:
    """Reports for this process, under a name that is kept in its identity folder. Construction does no I/O."""

    def __init__(self, client: VaultClient, identity: Identity) -> None:
        self._client, self._folder = client, identity.folder / _FOLDER
        self._path, self._name = f"clients/{identity.service}", ""
        self._lock: int | None = None
        self._reported: tuple[int, str, Ttl] | None = None
        self._warned = False

    def report(self, kafka_version: int, secret_id: str, token: Ttl) -> None:
        """Write the report if it differs from the last one. Raises VaultError. If the policy, of an older version, does
        not allow it, that is logged once."""
        if (state := (kafka_version, secret_id, token)) == self._reported:
            return
        if not self._name:
            self._take_name()
        values = {"kafka_version": str(kafka_version), "secret_id": secret_id, "until": ""}
        if math.isfinite(token.ttl_s):
            values["until"] = (datetime.now(UTC) + timedelta(seconds=token.remaining_s)).isoformat()
        try:
            self._client.write_kv(f"{self._path}/{self._name}", values)
        except PolicyDenied as error:
            if not self._warned:
                _log.warning("no rotation can know of this client", problem=error.message, advice=error.hint)
            self._warned = True
            return
        self._warned, self._reported = False, state

    def withdraw(self, *, timeout_s: float) -> None:
        """Delete the report. If that fails, it is valid until the token has run out."""
        path = f"{self._client.settings.kv_mount}/metadata/{self._path}/{self._name}"
        with contextlib.suppress(VaultError):
            if self._reported is not None:
                self._client.request("delete", path, timeout_s=timeout_s)
        self._reported, self._name = None, ""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_name(self) -> None:
        self._name = f"{socket.gethostname()}-{uuid4().hex[:8]}"
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for file in (*self._folder.iterdir(), self._folder / self._name):
                if (handle := _locked(file)) is not None:
                    self._lock, self._name = handle, file.name
                    return
        except OSError as error:
            # The folder is mounted read-only.
            _log.debug("the name of this client is not kept", problem=str(error))


def prune_reports(client: VaultClient, identity: Identity) -> list[ClientReport]:
    """Delete the reports that have run out, and those of killed processes of this identity folder. Return the others,
    sorted by name. Raises VaultError."""
    folder, killed = identity.folder / _FOLDER, set()
    listed = f"{client.settings.kv_mount}/metadata/clients/{identity.service}"
    names = (client.read_if_present(f"{listed}?list=true") or {}).get("keys", ())
    with contextlib.ExitStack() as held:  # meanwhile no process takes the name of a killed one
        for file in folder.iterdir() if folder.is_dir() else ():
            with contextlib.suppress(OSError):
                if (handle := _locked(file)) is not None:
                    held.callback(os.close, handle)
                    killed.add(file.name)
        for name in killed.intersection(names):
            client.request("delete", f"{listed}/{name}")
    found = read_reports(client, identity.service)
    for report in (each for each in found if each.ended):
        client.request("delete", f"{listed}/{report.name}")
    return [report for report in found if not report.ended]


def read_reports(client: VaultClient, service: str) -> list[ClientReport]:
    """Return the reports of the processes of `service`, sorted by name, ended ones too. Raises VaultError."""
    listed, found = f"{client.settings.kv_mount}/metadata/clients/{service}?list=true", []
    names = (client.read_if_present(listed) or {}).get("keys", ())
    for name in sorted(names):
        with contextlib.suppress(SecretMissing):  # its process ended meanwhile
            values, _ = client.read_kv(f"clients/{service}/{name}")
            until = datetime.fromisoformat(values["until"]) if values.get("until") else None
            version = int(values["kafka_version"])
            found.append(ClientReport(service, name, version, values["secret_id"], until))
    return found


def _locked(file: Path) -> int | None:
    """Return the descriptor by which this process has locked the file; None if another has."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle
