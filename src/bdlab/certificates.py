"""A server's certificate in the files that the server reads, and what is known of its life.

server.pem    private key and certificate: one file, so that no reader ever sees halves of two
ca.pem        the authority's certificate
issued.json   for whom and until when; no secret
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bdlab.credentials import Issued
from bdlab.errors import InvalidInput
from bdlab.files import replace_file

#: How long a certificate is good for where nobody says otherwise.
BROKER_TTL_S = 365 * 86400
SERVER_TTL_S = 30 * 86400

#: What a server's certificate names that only its own machine reaches; addresses are allowed beside it.
LOCAL_HOSTS = ("localhost",)

OWNER_ONLY = 0o600
#: For a server that runs as another user, and reads them through the folder's group.
GROUP_READS = 0o640


class _Record(msgspec.Struct, frozen=True):
    """Moments are seconds since 1970."""

    hosts: list[str]
    issued_at: float
    ends_at: float


class CertificateFiles:
    """Construction does no I/O. `mode` is that of the files."""

    def __init__(self, folder: Path, *, mode: int = OWNER_ONLY) -> None:
        self.folder = folder
        self._mode = mode

    @property
    def server_file(self) -> Path:
        return self.folder / "server.pem"

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    def good_for(self, hosts: Sequence[str], *, authority: str) -> bool:
        """Whether what is there names those hosts, is that authority's, and has a third of its time left."""
        record = self._record()
        if record is None or time.time() >= self.due_at:
            return False
        try:
            signed_by = self.ca_file.read_text("ascii")
        except FileNotFoundError:
            return False
        return (
            self.server_file.exists()
            and record.hosts == list(hosts)
            and signed_by.strip() == authority.strip()
        )

    @property
    def due_at(self) -> float:
        """When two thirds of its life are over, in seconds since 1970; 0 where there is none."""
        record = self._record()
        return record.ends_at - (record.ends_at - record.issued_at) / 3 if record else 0.0

    @property
    def ends_at(self) -> float:
        """When it runs out, in seconds since 1970; 0 where there is none."""
        record = self._record()
        return record.ends_at if record and self.server_file.exists() else 0.0

    def write(self, issued: Issued, hosts: Sequence[str], *, ttl_s: float) -> None:
        """Put all three in place, the record last. Raises InvalidInput where the folder cannot be written."""
        now = time.time()
        server = issued.certificate
        record = _Record(list(hosts), now, now + ttl_s)
        try:
            # Killed between two of them, there is none, and not one that another authority has signed.
            (self.folder / "issued.json").unlink(missing_ok=True)
            self._write("server.pem", f"{server.key.reveal().strip()}\n{server.pem.strip()}\n")
            self._write("ca.pem", f"{issued.ca_pem.strip()}\n")
            self._write("issued.json", msgspec.json.encode(record).decode())
        except OSError as error:
            raise InvalidInput(
                f"the certificate cannot be written into {self.folder}: {error.strerror}",
                hint="Name a folder that exists and that this user may write.",
            ) from error

    def _record(self) -> _Record | None:
        try:
            return msgspec.json.decode((self.folder / "issued.json").read_bytes(), type=_Record)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def _write(self, name: str, text: str) -> None:
        replace_file(self.folder / name, text.encode("ascii"), mode=self._mode)
