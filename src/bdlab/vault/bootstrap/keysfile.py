"""The file with the keys that Vault gives out only once, when it is initialised. It is always 0600."""

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bdlab.errors import VaultError
from bdlab.files import sync_folder, write_private


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """`unseal_keys` of a shamir seal, `recovery_keys` of any other; `root_token` until all is set up."""

    address: str
    cluster_id: str = ""
    seal: str
    threshold: int
    unseal_keys: tuple[str, ...] = ()
    recovery_keys: tuple[str, ...] = ()
    root_token: str = ""

    @property
    def shares(self) -> tuple[str, ...]:
        """The key shares that unseal Vault, or that allow a root token to be made."""
        return self.unseal_keys or self.recovery_keys


class KeysFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def reserved(self) -> bool:
        """Whether it was created for an initialisation whose answer was never written into it."""
        return self.path.exists() and self.path.stat().st_size == 0

    def read(self) -> Keys | None:
        """Return the keys; None if there is no file or an empty one.

        Raises VaultError if it cannot be used.
        """
        try:
            mode = stat.S_IMODE(self.path.stat().st_mode)
            if mode & 0o077:
                raise VaultError(
                    f"the keys file {self.path} is open to others (mode {mode:04o}): who read it can "
                    "take over this Vault",
                    hint=f"Run: chmod 600 {self.path}; if others use this machine, rekey Vault too.",
                )
            text = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise VaultError(f"the keys file {self.path} cannot be read: {error.strerror}") from error
        if not text:
            return None
        try:
            return msgspec.json.decode(text, type=Keys)
        except msgspec.MsgspecError as error:
            raise VaultError(
                f"the keys file {self.path} is no keys file of bdlab: {error}",
                hint="Name the right one with --keys-file, or put it back from a backup.",
            ) from None

    def reserve(self) -> Path | None:
        """Create the empty file, before Vault is asked for keys that it gives only once.

        Move a file with the keys of an earlier Vault aside, and return its new name. Raises VaultError.
        """
        aside = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self.read() is not None:
                stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
                aside = self.path.with_name(f"{self.path.name}.{stamp}.old")
                self.path.rename(aside)
            if not self.reserved:
                os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                sync_folder(self.path.parent)
        except OSError as error:
            raise VaultError(
                f"the keys file {self.path} cannot be made: {error.strerror}",
                hint="Name a file in a folder that you may write with --keys-file.",
            ) from error
        return aside

    @property
    def candidate(self) -> Path:
        """The file for new keys, until Vault has put them into force."""
        return self.path.with_name(f"{self.path.name}.new")

    def promote(self) -> None:
        """Replace the file by the candidate."""
        self.candidate.replace(self.path)
        sync_folder(self.path.parent)

    def write(self, keys: Keys) -> None:
        write_private(self.path, msgspec.json.format(msgspec.json.encode(keys)).decode() + "\n")
