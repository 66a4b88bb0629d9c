"""OpenBao as a local server: raft storage, a static seal key, a file audit log."""

import json
import os
import secrets
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from bdlab.errors import ServerNotStarted
from bdlab.files import replace_file, write_private
from bdlab.stack.servers import binaries
from bdlab.stack.tls import TlsServer, get


class OpenBao(TlsServer):
    """The secrets server. After its first initialisation it unseals itself at each start. It is ready if it is active,
    or waits to be initialised. With `tls` it speaks nothing else, and verifies the database with the same CA."""

    name = "openbao"

    @property
    def address(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def ca_file(self) -> str:
        """The file of CAs that its clients trust; "" without TLS."""
        return str(self.tls.ca_file) if self.tls else ""

    @property
    def seal_key(self) -> Path:
        """The file with the key that encrypts everything else."""
        return self.folder / "seal.key"

    def discard(self) -> None:
        """Delete its data. Only for a server that is stopped and whose keys nobody has."""
        self.end_leftover()
        shutil.rmtree(self.folder / "raft", ignore_errors=True)

    def rotate_audit_log(self, limit_bytes: int = 32 << 20) -> bool:
        """Move an audit log over `limit_bytes` aside, and return whether it was moved. The server refuses every request
        when it cannot write its audit log, as on a full disk."""
        file = self.folder / "audit.log"
        if not file.is_file() or file.stat().st_size <= limit_bytes:
            return False
        file.replace(self.folder / "audit.log.1")
        # On SIGHUP the server opens a new file of the same name.
        self.reload()
        return True

    def _configure(self, port: int) -> Sequence[str]:
        command = [str(binaries.openbao()), "server", "-config", str(self.folder / "openbao.hcl")]
        (self.folder / "raft").mkdir(exist_ok=True, mode=0o700)
        self._check_seal_key()
        self.rotate_audit_log()
        cluster_port = self.ports.choose("openbao-cluster")
        tls, scheme = "tls_disable = true", "http"
        if self.tls:
            self.tls.prepare()
            server_file = json.dumps(os.path.relpath(self.tls.files("vault").server_file, self.data_dir))
            tls, scheme = f"tls_cert_file = {server_file}\n  tls_key_file = {server_file}", "https"
        template = Template(Path(__file__).with_name("openbao.hcl").read_text("ascii"))
        text = template.substitute(port=port, cluster_port=cluster_port, scheme=scheme, tls=tls)
        write_private(self.folder / "openbao.hcl", text)
        return command

    def _environment(self) -> Mapping[str, str]:
        # The only way to tell the database engine which CA to trust.
        return {**super()._environment(), **({"PGSSLROOTCERT": self.ca_file} if self.tls else {})}

    def _check_seal_key(self) -> None:
        file = self.seal_key
        if not file.exists():
            if any((self.folder / "raft").iterdir()):
                what = f"the seal key {file} is missing, and without it the data beside it cannot be read"
                raise ServerNotStarted(what, hint="Put the key back from a backup, or start with another --data-dir.")
            replace_file(file, secrets.token_bytes(32), mode=0o600)
        # The server itself accepts a key file that anybody can read.
        if (mode := stat.S_IMODE(file.stat().st_mode)) & 0o077:
            what = f"the seal key {file} can be read by others (mode {mode:04o})"
            raise ServerNotStarted(what, hint=f"Run: chmod 600 {file}")

    def _is_ready(self) -> bool:
        status, _ = get(self.port, "/v1/sys/health", tls=self.tls, timeout_s=5.0)
        return status in (200, 501)  # active, or not initialised; 429 and 503 become one of them
