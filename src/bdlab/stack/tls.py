"""The certificates of Vault, PostgreSQL and the API in a data folder, and a first one for each.

Vault issues them all, and needs a certificate itself before it can. So the first ones are signed by a temporary CA in
memory; its key is never on disk."""

import contextlib
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
#: Long enough for a set-up on a slow machine.
_TEMPORARY_S = 3600


class TlsFolder:
    """The folder `path` with a subfolder for each server, and in `ca_file` the CAs that clients trust. Construction
    does no I/O."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ca_file = path / "ca.pem"

    def files(self, server: str) -> CertificateFiles:
        return CertificateFiles(self.path / server)

    def client_context(self) -> ssl.SSLContext:
        """Return a context that verifies these servers."""
        return ssl.create_default_context(cafile=str(self.ca_file))

    def prepare(self, *, ttl_s: float = _TEMPORARY_S) -> bool:
        """Make temporary certificates for all servers if one has none that is valid; return whether it did. Their CA is
        then trusted beside those before. Raises BinaryMissing without `trustme`."""
        for server in SERVERS:
            # A run may have been killed after Vault's certificates came, and before they were trusted.
            if self.files(server).ca_file.exists():
                self.trust(self.files(server).ca_file.read_text("ascii"), keep=True)
        now = time.time()
        if self.ca_file.exists() and all(self.files(server).ends_at > now for server in SERVERS):
            return False
        try:
            # Not every installation has the extra `local`.
            from bdlab.stack.temporary_ca import temporary_certificates  # noqa: PLC0415
        except ImportError as error:
            raise BinaryMissing(
                "TLS for the local servers needs the package trustme", hint="pip install 'bdlab[local]'"
            ) from error
        issued = temporary_certificates(SERVERS, ttl_s=ttl_s)
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.trust(issued[SERVERS[0]].ca_pem, keep=True)
        # Recorded without a host, so that a renewal replaces them at once.
        for server, certificate in issued.items():
            files = self.files(server)
            files.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            files.write(certificate, (), ttl_s=ttl_s)
        return True

    def trust(self, ca_pem: str, *, keep: bool = False) -> None:
        """Have clients trust this CA; with `keep` those of before, too."""
        before = self.ca_file.read_text("ascii").strip() if keep and self.ca_file.exists() else ""
        added = "" if ca_pem.strip() in before else ca_pem.strip()
        replace_file(self.ca_file, (f"{before}\n{added}".strip() + "\n").encode("ascii"))


class TlsServer(Server):
    """A server that speaks TLS only if it has `tls`, and reads its certificate again on SIGHUP."""

    def __init__(self, data_dir: Path, *, tls: TlsFolder | None = None) -> None:
        super().__init__(data_dir)
        self.tls = tls

    def reload(self) -> None:
        """Have it read its certificate again; open connections stay."""
        if self.running and self.pid:
            os.kill(self.pid, signal.SIGHUP)


def connect(host: str, port: int, *, tls: TlsFolder | None, timeout_s: float) -> http.client.HTTPConnection:
    """Return a connection for HTTP requests, not opened yet; with `tls` one that verifies the server."""
    if tls is None:
        return http.client.HTTPConnection(host, port, timeout=timeout_s)
    return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=tls.client_context())


def get(port: int, path: str, *, tls: TlsFolder | None, timeout_s: float) -> tuple[int, bytes]:
    """Return status and body of the response to GET `path` on 127.0.0.1; 0 and nothing if there is none."""
    connection = connect("127.0.0.1", port, tls=tls, timeout_s=timeout_s)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    return 0, b""
