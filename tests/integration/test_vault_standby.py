"""A session with a node of Vault that is not the active one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from bdlab.errors import VaultUnavailable
from bdlab.settings import VaultSettings
from bdlab.stack import OpenBao
from bdlab.vault.client import VaultClient
from bdlab.vault.responses import Health
from tests.fix_servers import start_or_skip
from tests.fix_vault import VaultWorld
from tests.relay import Answer, Relay

pytestmark = pytest.mark.plaintext("a second node would need the authority of the first")


def _health(address: str) -> Health:
    return VaultClient(VaultSettings(address=address, timeout_s=5)).health()


class Node(OpenBao):
    """One that others reach: where it says that it takes them it listens, too."""

    def _configure(self, port: int) -> Sequence[str]:
        arguments = super()._configure(port)
        self._change(Path(arguments[-1]))
        return arguments

    def _change(self, config: Path) -> None:
        text = config.read_text("utf-8")
        _, _, rest = text.partition('cluster_addr = "https://')
        listening = f'tls_disable = true\n  cluster_address = "{rest.partition(chr(34))[0]}"'
        config.write_text(text.replace("tls_disable = true", listening), "utf-8")


class SecondNode(Node):
    """Joins the Vault at `active`, whose seal key it has."""

    active = ""

    def _change(self, config: Path) -> None:
        super()._change(config)
        joining = f'"second"\n  retry_join {{\n    leader_api_addr = "{self.active}"\n  }}\n'
        config.write_text(config.read_text("utf-8").replace('"local"\n', joining), "utf-8")

    def _is_ready(self) -> bool:
        try:
            return _health(self.address).serves
        except VaultUnavailable:
            return False


def test_a_standby_serves_by_forwarding(new_world: Callable[..., VaultWorld], tmp_path: Path) -> None:
    world = new_world(Node)
    world.init()
    second = SecondNode(tmp_path / "second")
    second.active = world.openbao.address
    second.folder.mkdir(parents=True, mode=0o700)
    shutil.copy2(world.openbao.seal_key, second.seal_key)
    start_or_skip(second)
    try:
        assert _health(second.address).standby
        session = world.session("consume", "bdlab-writer", VAULT_ADDR=second.address)
        session.open(30)
        try:
            world.connect(session.database()).close()
            found = session.state()
            assert found.connected
            assert found.authenticated
            assert not found.problem
        finally:
            session.close()
    finally:
        second.stop()


class Answering(Relay):
    """Says `more` of its health, and otherwise passes everything on."""

    more: dict[str, object]

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes, netloc: str = "") -> Answer:
        status, content = super().answer(method, path, headers, body, netloc)
        if path == "/v1/sys/health":
            return status, json.dumps(json.loads(content) | self.more).encode()
        return status, content


@pytest.mark.parametrize(
    ("more", "serves"),
    [
        ({"standby": True}, True),
        ({"standby": True, "performance_standby": True}, True),
        ({"standby": False, "replication_dr_mode": "secondary"}, False),
        ({"standby": True, "replication_dr_mode": "secondary"}, False),
        ({"standby": False, "replication_dr_mode": "primary"}, True),
    ],
)
def test_who_may_serve(vault_world: VaultWorld, more: dict[str, object], serves: bool) -> None:
    with Answering(vault_world.openbao.address.partition("//")[2]) as relay:
        relay.more = more
        session = vault_world.session("verify", kafka=False, daemon=False, VAULT_ADDR=relay.url)
        if serves:
            session.open(0)
            assert session.state().connected
            session.close()
            return
        with pytest.raises(VaultUnavailable, match="in a cluster for disaster recovery") as refused:
            session.open(0)
        assert "active node" in refused.value.hint
        assert not session.state().connected
        session.close()
        vault = msgspec.structs.replace(vault_world.vault, address=relay.url)
        with pytest.raises(VaultUnavailable, match="disaster recovery"):
            vault_world.init(vault_world.plan(vault=vault, timeout_s=0))
