"""Snapshots of a Vault with integrated (raft) storage: all of its data, encrypted by its seal."""

import contextlib
import gzip
import zlib

import structlog

from bdlab.errors import InvalidInput, VaultError, VaultUnavailable
from bdlab.retry import wait_for
from bdlab.settings import Secret, VaultSettings
from bdlab.vault.client import VaultClient

_PATH = "sys/storage/raft/snapshot"
_TIMEOUT_S = 120.0
_log = structlog.get_logger()


def save(client: VaultClient) -> bytes:
    """Take a snapshot. Raises VaultError if Vault has another storage, or if the snapshot is not whole."""
    snapshot = client.download(_PATH)
    if not _whole(snapshot):
        raise VaultUnavailable(f"the snapshot that came from {client} is not whole")
    return snapshot


def restore(vault: VaultSettings, snapshot: bytes) -> None:
    """Restore `snapshot` into a new Vault that is not initialised and has the seal key of the old one. Afterwards it is
    unsealed, with the keys, tokens and secrets of the snapshot. Raises InvalidInput if the snapshot is damaged, and
    VaultError if Vault refuses it."""
    if not _whole(snapshot):
        raise InvalidInput("the snapshot of Vault is damaged", hint="Restore from another backup.")
    with contextlib.closing(VaultClient(vault)) as client:
        if wait_for("Vault", client.health, timeout_s=_TIMEOUT_S).initialized:
            raise VaultError(f"{client} is in use: a snapshot would take everything in it away")
        # Only an initialised Vault takes a snapshot, which then replaces these keys.
        numbers = {"recovery_shares": 1, "recovery_threshold": 1}
        answer = client.request("put", "sys/init", numbers, timeout_s=_TIMEOUT_S)
        client.token = Secret(str(answer["root_token"]))
        empty = wait_for("Vault", client.active, timeout_s=_TIMEOUT_S)
        client.upload(_PATH, snapshot, timeout_s=_TIMEOUT_S)
        client.token = Secret("")
        wait_for("Vault", lambda: _restored(client, empty.cluster_id), timeout_s=_TIMEOUT_S)
        _log.info("Vault is restored", address=client.address)


def _restored(client: VaultClient, former_cluster_id: str) -> None:
    """Raise VaultUnavailable while the client's Vault takes the snapshot in."""
    with contextlib.suppress(VaultUnavailable):  # for some seconds it reads the new data with the former key
        if client.active().cluster_id != former_cluster_id:
            return
    raise VaultUnavailable(f"{client} is taking in the snapshot")


def _whole(snapshot: bytes) -> bool:
    """Return whether the snapshot is complete: it is compressed, and ends with a checksum."""
    try:
        return snapshot.startswith(b"\x1f\x8b") and bool(gzip.decompress(snapshot))
    except (OSError, EOFError, zlib.error):
        return False
