"""The folder of one service, with its role id and secret id; its name is that of the AppRole.

    role_id              names the AppRole; no secret
    wrapped_secret_id    handed over by `vault-init` or `rotate`: a token that can be unwrapped once
    claimed_secret_id    the same, while a process unwraps it
    secret_id            the unwrapped one, 0600; valid until it is rotated
    accessor             Vault's name for it; no secret
    delivery.json        when the wrapped one runs out, its accessor, and those of the secret ids that it
                         replaces; no secret
    processes/           the names of the running processes (see `client_reports`); no secret

A secret id is handed over wrapped, so that whoever unwraps it first takes it from its receiver, who then raises the
alarm. The receiver claims it by renaming the file, unwraps it, and writes the secret id in one step. If it is killed
before the unwrapping, it tries the claimed one again; if it is killed after the writing, it sees the newer secret id.
Only a kill in the few milliseconds between Vault's response and the writing loses the secret id, as an unwrapping
cannot be repeated: by the claim this is told from tampering, and `vault-init` hands over another."""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import msgspec

from bdlab.errors import IdentityRefused, SecretMissing, VaultError, VaultUnavailable
from bdlab.files import sync_folder, write_private
from bdlab.services import Deployment
from bdlab.settings import Secret, VaultSettings
from bdlab.signals import deferred
from bdlab.vault.client import VaultClient
from bdlab.vault.responses import refusal


def _read(path: Path, *, private: bool = True) -> str | None:
    """Return the text, stripped; None if there is no such file. Raises IdentityRefused if it cannot be read, or if it
    is private and others can read or write it."""
    try:
        if (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077 and private:
            raise refusal(IdentityRefused, "open_file", path=path, mode=mode)
        return path.read_text("utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise IdentityRefused(f"the file {path} cannot be read: {reason}") from error


class WrappedSecretId(msgspec.Struct, frozen=True):
    """A secret id that was handed over: its accessor, and until when it can be unwrapped. `replaces` are the accessors
    of secret ids that are to be destroyed once this one is in use."""

    accessor: str
    expires_at: datetime
    replaces: tuple[str, ...] = ()


class Identity:
    """The folder of one service, with the name of its AppRole. Construction does no I/O."""

    def __init__(self, folder: Path, *, service: str) -> None:
        self.folder, self.service = folder, service

    @classmethod
    def of(cls, vault: VaultSettings, deployment: Deployment, service: str) -> Self:
        return cls(vault.identities / deployment.own(service), service=service)

    def role(self, client: VaultClient) -> str:
        """Return the path of its AppRole."""
        return f"auth/{client.settings.approle_mount}/role/{self.folder.name}"

    @property
    def exists(self) -> bool:
        """Whether an identity was ever handed over."""
        return self._file("role_id").exists()

    @property
    def delivered(self) -> bool:
        """Whether a wrapped secret id waits to be unwrapped."""
        return self._file("wrapped_secret_id").exists()

    def role_id(self) -> str:
        """Return the role id. Raises IdentityRefused if there is none."""
        if not (found := _read(self._file("role_id"), private=False)):
            raise refusal(IdentityRefused, "no_identity", identity=self)
        return found

    def secret_id(self) -> Secret | None:
        """Return the unwrapped secret id, or None. Raises IdentityRefused if its file is open to others."""
        text = _read(self._file("secret_id"))
        return Secret(text) if text else None

    def wrapping_token(self) -> Secret | None:
        """Return the wrapping token that was handed over, claimed or not, or None."""
        found = (_read(self._file(name)) for name in ("wrapped_secret_id", "claimed_secret_id"))
        return next((Secret(text) for text in found if text), None)

    def wrapped_secret_id(self) -> WrappedSecretId | None:
        """Return what is known of the secret id that was handed over last, also after its unwrapping."""
        text = _read(self._file("delivery.json"))
        try:
            return msgspec.json.decode(text, type=WrappedSecretId) if text else None
        except msgspec.DecodeError:
            return None

    def hand_over(self, client: VaultClient, *, wrap_ttl_s: int, replaces: tuple[str, ...]) -> WrappedSecretId:
        """Let Vault make another secret id, and write it here, wrapped. Raises VaultError."""
        role_id = str(client.read(f"{self.role(client)}/role-id")["role_id"])
        wrapped = client.request("post", f"{self.role(client)}/secret-id", {}, wrap_ttl_s=wrap_ttl_s)["wrap_info"]
        expires_at = datetime.now(UTC) + timedelta(seconds=int(wrapped["ttl"]))
        wrapped_id = WrappedSecretId(str(wrapped["wrapped_accessor"]), expires_at, replaces)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)
        with self._locked():
            write_private(self._file("delivery.json"), msgspec.json.encode(wrapped_id).decode())
            self._file("claimed_secret_id").unlink(missing_ok=True)
            write_private(self._file("wrapped_secret_id"), str(wrapped["token"]))
            write_private(self._file("role_id"), role_id)  # last, as by it an identity `exists`
        return wrapped_id

    def destroy(self, client: VaultClient, accessors: Iterable[str]) -> None:
        """Destroy those of the service's secret ids that still exist. Raises VaultError."""
        path = f"{self.role(client)}/secret-id-accessor"
        for accessor in accessors:
            with contextlib.suppress(SecretMissing):
                client.write(f"{path}/lookup", {"secret_id_accessor": accessor})
                client.write(f"{path}/destroy", {"secret_id_accessor": accessor})

    @property
    def accessor(self) -> str:
        """The accessor of the unwrapped secret id; empty if it is not known."""
        return _read(self._file("accessor")) or ""

    def spent(self, client: VaultClient) -> bool:
        """Return whether the wrapped secret id can no longer be unwrapped: it is lost, or somebody else has it. Raises
        VaultError."""
        with self._locked():
            wrapped, wrapped_id = self.wrapping_token(), self.wrapped_secret_id()
            if wrapped is None and wrapped_id and self.accessor:
                return self.accessor != wrapped_id.accessor
            if wrapped is None or (not self.delivered and self._newer_secret_id(self._file("claimed_secret_id"))):
                return False
            return client.wrapped_at(wrapped) is None

    def forget_replaced(self) -> None:
        """Note that the secret ids which the last one replaces are destroyed."""
        with self._locked():
            if found := self.wrapped_secret_id():
                text = msgspec.json.encode(msgspec.structs.replace(found, replaces=())).decode()
                write_private(self._file("delivery.json"), text)

    def obtain(self, client: VaultClient) -> tuple[str, Secret]:
        """Return role id and secret id, after unwrapping a secret id if one was handed over. Raises IdentityRefused if
        there is none, if a file is open to others, or if somebody else has unwrapped it; VaultUnavailable if Vault does
        not answer, and then nothing is lost."""
        role_id = self.role_id()
        if self.delivered or self._file("claimed_secret_id").exists():
            with self._locked():
                self._unwrap_handed_over(client)
        if (secret_id := self.secret_id()) is None:
            raise refusal(IdentityRefused, "no_secret_id", identity=self)
        return role_id, secret_id

    def _file(self, name: str) -> Path:
        return self.folder / name

    def _unwrap_handed_over(self, client: VaultClient) -> None:
        delivered, claimed = self._file("wrapped_secret_id"), self._file("claimed_secret_id")
        if not (earlier := not delivered.exists()):
            _read(delivered)  # refused if it is open to others
            delivered.replace(claimed)
            sync_folder(self.folder)
        text = _read(claimed)
        if not text or (earlier and self._newer_secret_id(claimed)):
            claimed.unlink(missing_ok=True)
            return  # it was unwrapped, by another process of this service or by one that was killed
        with deferred("unwrapping a secret id"):
            self._unwrap(client, Secret(text), earlier=earlier)
            claimed.unlink()
        sync_folder(self.folder)

    def _newer_secret_id(self, claimed: Path) -> bool:
        try:
            return self._file("secret_id").stat().st_mtime_ns >= claimed.stat().st_mtime_ns
        except FileNotFoundError:
            return False

    def _unwrap(self, client: VaultClient, wrapping_token: Secret, *, earlier: bool) -> None:
        if (origin := client.wrapped_at(wrapping_token)) is None:
            raise self._spent(earlier=earlier)
        if not origin.endswith(f"/role/{self.folder.name}/secret-id"):
            raise refusal(IdentityRefused, "put_in_place", identity=self, origin=origin)
        try:
            found = client.unwrap(wrapping_token)
        except VaultUnavailable:
            raise
        except VaultError as error:
            raise self._spent(earlier=earlier) from error
        # In this order: after a kill in between, the claim shows that the secret id is lost.
        write_private(self._file("accessor"), found.get("secret_id_accessor", ""))
        write_private(self._file("secret_id"), found["secret_id"])

    def _spent(self, *, earlier: bool) -> IdentityRefused:
        wrapped_id = self.wrapped_secret_id()
        late = wrapped_id and wrapped_id.expires_at <= datetime.now(UTC)
        why = "cut_off" if earlier else "too_old" if late else "taken"
        return refusal(IdentityRefused, why, identity=self, wrapped_id=wrapped_id)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process of this service at a time work here; the others wait for at most two requests."""
        with os.fdopen(os.open(self._file(".lock"), os.O_RDWR | os.O_CREAT, 0o600)) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
