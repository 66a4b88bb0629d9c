"""OpenBao as a local server: raft storage, a static seal key, a file audit log."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import stat
from collections.abc import Sequence

from bdlab.errors import ServerNotStarted
from bdlab.stack import binaries
from bdlab.stack.server import Server

_KEY_BYTES = 32
_AUDIT_LIMIT_BYTES = 32 << 20
_HTTP_TIMEOUT_S = 5.0

#: JSON strings are valid HCL strings as long as nothing in them starts a template.
_CONFIG = """\
storage "raft" {{
  path                   = {raft}
  node_id                = "local"
  performance_multiplier = 1
}}
seal "static" {{
  current_key_id = "local-1"
  current_key    = {key}
}}
listener "tcp" {{
  address     = "127.0.0.1:{port}"
  tls_disable = true
}}
audit "file" "file" {{
  options {{
    file_path = {audit}
  }}
}}
api_addr     = "http://127.0.0.1:{port}"
cluster_addr = "http://127.0.0.1:{cluster_port}"
ui           = false
"""


class OpenBao(Server):
    """The secrets server. After its first initialisation it unseals itself at each start.

    `start` returns once it answers: initialised and active, or waiting to be initialised.
    """

    name = "openbao"

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def rotate_audit_log(self, limit_bytes: int = _AUDIT_LIMIT_BYTES) -> bool:
        """Move an audit log over `limit_bytes` aside, in place of the one before; whether it was.

        Call it now and then: a full disk would make the server refuse every request.
        """
        file = self.folder / "audit.log"
        if not file.is_file() or file.stat().st_size <= limit_bytes:
            return False
        file.replace(self.folder / "audit.log.1")
        if self.running and self.pid:
            # The server opens a new file of the same name.
            os.kill(self.pid, signal.SIGHUP)
        return True

    def _prepare(self, port: int) -> Sequence[str]:
        program = binaries.openbao()
        raft = self.folder / "raft"
        raft.mkdir(exist_ok=True, mode=0o700)
        self.rotate_audit_log()
        values = {
            "raft": _hcl(str(raft)),
            "key": _hcl(f"file://{self._seal_key()}"),
            "audit": _hcl(str(self.folder / "audit.log")),
        }
        config = self.folder / "openbao.hcl"
        config.write_text(
            _CONFIG.format(port=port, cluster_port=self.ports.choose("openbao-cluster"), **values), "utf-8"
        )
        config.chmod(0o600)
        return [str(program), "server", "-config", str(config)]

    def _seal_key(self) -> str:
        file = self.folder / "seal.key"
        if not file.exists():
            if any((self.folder / "raft").iterdir()):
                raise ServerNotStarted(
                    f"the seal key {file} is missing, and without it the data beside it cannot be read",
                    hint="Put the key back from a backup, or start with another --data-dir.",
                )
            new = file.with_suffix(".new")
            new.unlink(missing_ok=True)
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
                handle.write(secrets.token_bytes(_KEY_BYTES))
                handle.flush()
                os.fsync(handle.fileno())
            new.rename(file)
        # The server itself takes a key file that anybody can read without a word.
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise ServerNotStarted(
                f"the seal key {file} can be read by others (mode {stat.S_IMODE(file.stat().st_mode):04o})",
                hint=f"Run: chmod 600 {file}",
            )
        return str(file)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_HTTP_TIMEOUT_S)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/v1/sys/health")
            status = connection.getresponse().status
            return status in (200, 501)  # active, or not initialised; 429 and 503 pass by themselves
        return False


def _hcl(value: str) -> str:
    return json.dumps(value.replace("${", "$${").replace("%{", "%%{"), ensure_ascii=False)
