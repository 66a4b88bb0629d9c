"""The suite with TLS: `BDLAB_TEST_TLS=1` has Vault, Postgres and the API of the fixtures speak nothing else.

Their certificates are by an authority of this run, which the run trusts as a machine trusts those in its
store, through the variables of OpenSSL, requests, curl and libpq. `make test-matrix` runs all of it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from bdlab.stack import OpenBao, Postgres, TlsFolder

ON = os.environ.get("BDLAB_TEST_TLS") == "1"
_LIFE_S = 6 * 3600

#: What a test touches that has one of the servers in it.
_TOUCHING = {
    "openbao", "own_openbao", "postgres_server", "own_postgres", "vault_world", "new_world", "database",
    "new_database", "pipeline", "_shared_pipeline", "start_up",
}  # fmt: skip

B = TypeVar("B", bound=OpenBao)


def _trusted() -> TlsFolder:
    folder = Path(tempfile.mkdtemp(prefix="bdlab-test-tls-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tls = TlsFolder(folder)
    tls.prepare(ttl_s=_LIFE_S)
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PGSSLROOTCERT"):
        os.environ[name] = str(tls.ca_file)
    return tls


FOLDER = _trusted() if ON else None
#: For the clients that look at no variable.
VERIFY: ssl.SSLContext | bool = FOLDER.client_context() if FOLDER else True
#: The settings of an API.
API = (
    {f"BDLAB_HTTP_TLS_{kind}_FILE": str(FOLDER.files("api").server_file) for kind in ("CERT", "KEY")}
    | {"BDLAB_HTTP_CA_FILE": str(FOLDER.ca_file)}
    if FOLDER
    else {}
)


def new_openbao(folder: Path, kind: Callable[..., B]) -> B:
    return kind(folder, tls=FOLDER)


def new_postgres(folder: Path) -> Postgres:
    return Postgres(folder, tls=FOLDER)


def belongs(item: pytest.Item) -> bool:
    """Whether a run with TLS has this test: the others would show the same again."""
    return not ON or bool(_TOUCHING & set(getattr(item, "fixturenames", ())))


def reason_to_skip(item: pytest.Item) -> str:
    """Why a test stays without; empty where it does not."""
    mark = item.get_closest_marker("plaintext")
    return f"stays without TLS: {mark.args[0]}" if mark and ON else ""
