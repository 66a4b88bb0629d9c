"""A server's certificate: the files that the server reads, and how it serves a new one.

server.pem    private key and certificate, in one file, so that no reader sees two that do not match ca.pem        the
authority's certificate issued.json   host names and validity; no secret"""

import base64
import contextlib
import os
import re
import ssl
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec
import structlog

from bdlab.credentials import Certificate
from bdlab.errors import InvalidInput
from bdlab.files import replace_file

_log = structlog.get_logger()
#: The default validity of certificates.
BROKER_TTL_S = 365 * 86400
SERVER_TTL_S = 30 * 86400
#: The host names of a server that is used on its own machine only; IP addresses are always allowed.
LOCAL_HOSTS = ("localhost",)
#: For a server that runs as another user, and reads the files through the folder's group.
GROUP_READS = 0o640
#: The second of the two times that stand side by side in a certificate (RFC 5280, section 4.1.2.5).
_VALIDITY = re.compile(rb"(?:\x17\x0d\d{12}|\x18\x0f\d{14})Z(?:\x17\x0d|\x18\x0f)(\d{12}(?:\d\d)?Z)")


class _Record(msgspec.Struct, frozen=True):
    """The content of `issued.json`; times are seconds since 1970."""

    hosts: list[str]
    issued_at: float
    ends_at: float


class CertificateFiles:
    """The files in one folder, with the permissions `mode`. Construction does no I/O."""

    def __init__(self, folder: Path, *, mode: int = 0o600) -> None:
        self.folder = folder
        self.server_file = folder / "server.pem"
        self.ca_file = folder / "ca.pem"
        self._mode = mode

    def good_for(self, hosts: Sequence[str], *, authority: str) -> bool:
        """Return whether the certificate is for `hosts`, of `authority`, and has a third of its time left."""
        record = self._record()
        if not (record and self.server_file.exists() and self.ca_file.exists()) or time.time() >= self.due_at:
            return False
        signed_by = self.ca_file.read_text("ascii")
        return record.hosts == list(hosts) and signed_by.strip() == authority.strip()

    @property
    def due_at(self) -> float:
        """When to renew it: after two thirds of its time, in seconds since 1970; 0 if there is none."""
        record = self._record()
        return record.ends_at - (record.ends_at - record.issued_at) / 3 if record else 0.0

    @property
    def ends_at(self) -> float:
        """When it runs out, in seconds since 1970; 0 if there is none."""
        record = self._record()
        return record.ends_at if record and self.server_file.exists() else 0.0

    def write(self, issued: Certificate, hosts: Sequence[str], *, ttl_s: float) -> None:
        """Write the files, `issued.json` last. Raises InvalidInput if the folder cannot be written."""
        now = time.time()
        record = _Record(list(hosts), now, now + ttl_s)
        try:
            # After a kill in between there is no certificate, instead of one with another authority's ca.pem.
            (self.folder / "issued.json").unlink(missing_ok=True)
            self._write("server.pem", f"{issued.key.reveal().strip()}\n{issued.pem.strip()}\n")
            self._write("ca.pem", f"{issued.ca_pem.strip()}\n")
            self._write("issued.json", msgspec.json.encode(record).decode())
        except OSError as error:
            what = f"the certificate cannot be written into {self.folder}: {error.strerror}"
            raise InvalidInput(what, hint="Name a folder that exists and that this user may write.") from error

    def _record(self) -> _Record | None:
        try:
            return msgspec.json.decode((self.folder / "issued.json").read_bytes(), type=_Record)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def _write(self, name: str, text: str) -> None:
        replace_file(self.folder / name, text.encode("ascii"), mode=self._mode)


def ends_at(cert_file: str) -> dict[str, float]:
    """Return as `certificate` when the first certificate of a PEM file ends, in seconds since 1970, 0 if it cannot be
    read; nothing without a file."""
    if not cert_file:
        return {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        pem = Path(cert_file).read_bytes().partition(b"-----BEGIN CERTIFICATE-----")[2].partition(b"-----END")[0]
        said = _VALIDITY.findall(base64.b64decode(pem))[0].decode()
        return {"certificate": datetime.strptime(f"20{said}"[-15:-1] + "+0000", "%Y%m%d%H%M%S%z").timestamp()}
    return {"certificate": 0.0}


def check_pair(cert_file: str, key_file: str, *, options: str) -> None:
    """Raise InvalidInput unless both are empty, or PEM files with a certificate and its key. `options` names the two
    command-line options."""
    if bool(cert_file) != bool(key_file):
        raise InvalidInput(f"TLS needs both, {options}")
    for file in (cert_file, key_file):
        if file and not os.access(file, os.R_OK):
            raise InvalidInput(f"the TLS file {file} cannot be read")
    if cert_file:
        try:
            _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), Path(cert_file), Path(key_file))
        except OSError as error:
            what = f"the certificate {cert_file} and the key {key_file} do not work: {error}"
            hint = "Both have to be PEM: the certificate chain, and its own key, not encrypted."
            raise InvalidInput(what, hint=hint) from error


def _load(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    # With a password OpenSSL does not ask at the terminal for one, and refuses a key that is encrypted.
    context.load_cert_chain(certificate, key, password="")


class ServedCertificate:
    """The certificate and key that `context` serves, from PEM files that may be replaced."""

    def __init__(self, context: ssl.SSLContext, certificate: Path, key: Path) -> None:
        self._context, self._files, self._problem = context, (certificate, key), ""
        self._read = self._versions()

    def reload(self) -> None:
        """Serve a new certificate to new connections if the files have changed. To be called by the thread that accepts
        connections, since OpenSSL must not load a certificate while another thread makes a connection of it."""
        found = self._versions()
        if not found or found == self._read:
            return
        try:
            # A pair that does not match, as in the middle of a replacement, must not spoil the one in use.
            _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), *self._files)
            _load(self._context, *self._files)
        except OSError as error:
            if str(error) != self._problem:
                self._problem = str(error)
                _log.warning("the new certificate cannot be used", file=str(self._files[0]), problem=str(error))
            return
        self._read, self._problem = found, ""
        _log.info("serving with a new certificate", file=str(self._files[0]))

    def _versions(self) -> tuple[tuple[int, int, int], ...]:
        """Return what differs between two versions of the files; empty if one of the files is missing."""
        try:
            stats = [file.stat() for file in self._files]
        except OSError:
            return ()
        return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in stats)
