"""A broker's certificate in the files that Apache Kafka reads, for a broker that runs as another user.

    server.pem    private key and certificate        ca.pem    the authority's certificate
    issued.json   for whom and until when; no secret

Files are 0640: Kafka's own user reads them through the folder's group.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bdlab.errors import InvalidInput
from bdlab.vault.files import sync_folder
from bdlab.vault.pki import Issued

_MODE = 0o640


class _Record(msgspec.Struct, frozen=True):
    """Moments are seconds since 1970."""

    hosts: list[str]
    issued_at: float
    ends_at: float


class BrokerFiles:
    """Construction does no I/O."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def good_for(self, hosts: Sequence[str], *, authority: str) -> bool:
        """Whether what is there names those hosts, is that authority's, and has a third of its time left."""
        try:
            record = msgspec.json.decode((self.folder / "issued.json").read_bytes(), type=_Record)
            signed_by = (self.folder / "ca.pem").read_text("ascii")
        except (FileNotFoundError, msgspec.DecodeError):
            return False
        left_s = record.ends_at - time.time()
        return (
            (self.folder / "server.pem").exists()
            and record.hosts == list(hosts)
            and signed_by.strip() == authority.strip()
            and left_s > (record.ends_at - record.issued_at) / 3
        )

    def write(self, issued: Issued, hosts: Sequence[str], *, ttl_s: float) -> None:
        """Put all three in place, the record last. Raises InvalidInput where the folder cannot be written."""
        now = time.time()
        server = issued.certificate
        record = _Record(list(hosts), now, now + ttl_s)
        try:
            self._write("server.pem", f"{server.key.reveal().strip()}\n{server.pem.strip()}\n")
            self._write("ca.pem", f"{issued.ca_pem.strip()}\n")
            self._write("issued.json", msgspec.json.encode(record).decode())
            sync_folder(self.folder)
        except OSError as error:
            raise InvalidInput(
                f"the certificate cannot be written into {self.folder}: {error.strerror}",
                hint="Name a folder that exists and that this user may write with --folder.",
            ) from error

    def _write(self, name: str, text: str) -> None:
        """Whole or not at all."""
        new = self.folder / f".{name}.new"
        new.unlink(missing_ok=True)
        with os.fdopen(
            os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE), "w", encoding="ascii"
        ) as file:
            os.fchmod(file.fileno(), _MODE)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.folder / name)
