"""The certificates of Vault, PostgreSQL and the API in a data folder, and a first one for each.

Vault is the authority of them all, and has to run before it can be that. So the first certificates are by a
passing authority, which is made here, signs them and is forgotten: its key is never on disk.
"""

from __future__ import annotations

import http.client
import os
import signal
import ssl
import time
from pathlib import Path

from bdlab.certificates import CertificateFiles
from bdlab.errors import BinaryMissing
from bdlab.files import replace_file
from bdlab.stack.servers.server import Server

SERVERS = ("vault", "postgres", "api")
#: They last for a set-up, however slow the machine, and not for a day's work.
_PASSING_S = 3600


class TlsFolder:
    """`path` has a folder a server, and in `ca_file` what all clients verify them with.

    Construction does no I/O.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def ca_file(self) -> Path:
        return self.path / "ca.pem"

    def files(self, server: str) -> CertificateFiles:
        return CertificateFiles(self.path / server)

    def client_context(self) -> ssl.SSLContext:
        """For a client of these servers, who verifies them."""
        return ssl.create_default_context(cafile=str(self.ca_file))

    def prepare(self, *, ttl_s: float = _PASSING_S) -> bool:
        """Make passing certificates for all servers where any has none that is valid; whether it did.

        Their authority is then trusted beside those before. Raises BinaryMissing without `trustme`.
        """
        for server in SERVERS:
            # Of a run that was killed after Vault's certificates came, and before anybody trusted them.
            if self.files(server).ca_file.exists():
                self.trust(self.files(server).ca_file.read_text("ascii"), keep=True)
        now = time.time()
        if self.ca_file.exists() and all(self.files(server).ends_at > now for server in SERVERS):
            return False
        try:
            # Not every installation has what it needs.
            from bdlab.stack.temporary_ca import temporary_certificates  # noqa: PLC0415
        except ImportError as error:
            raise BinaryMissing(
                "TLS for the local servers needs the package trustme", hint="pip install 'bdlab[local]'"
            ) from error
        issued = temporary_certificates(SERVERS, ttl_s=ttl_s)
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.trust(issued[SERVERS[0]].ca_pem, keep=True)
        # No host of record, so that a renewal replaces them at once.
        for server, certificate in issued.items():
            files = self.files(server)
            files.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            files.write(certificate, (), ttl_s=ttl_s)
        return True

    def trust(self, ca_pem: str, *, keep: bool = False) -> None:
        """Have clients trust this authority; with `keep` those of before, too."""
        before = self.ca_file.read_text("ascii").strip() if keep and self.ca_file.exists() else ""
        added = "" if ca_pem.strip() in before else ca_pem.strip()
        replace_file(self.ca_file, (f"{before}\n{added}".strip() + "\n").encode("ascii"))


class TlsServer(Server):
    """A server that speaks nothing but TLS where it has `tls`, and reads its certificate again on SIGHUP."""

    def __init__(self, data_dir: Path, *, port: int | None = None, tls: TlsFolder | None = None) -> None:
        super().__init__(data_dir, port=port)
        self.tls = tls

    def reload(self) -> None:
        """Have it read its certificate again; open connections go on."""
        if self.running and self.pid:
            os.kill(self.pid, signal.SIGHUP)


def connect(host: str, port: int, *, tls: TlsFolder | None, timeout_s: float) -> http.client.HTTPConnection:
    """A connection for HTTP requests, not opened yet; with `tls` one that verifies the server."""
    if tls is None:
        return http.client.HTTPConnection(host, port, timeout=timeout_s)
    return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=tls.client_context())
