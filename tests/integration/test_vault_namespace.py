"""bdlab in a namespace of Vault: all of it is there, but for what only the root namespace can hold."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from bdlab import settings
from bdlab.errors import IdentityRefused, SecretMissing, SettingsInvalid, VaultError
from bdlab.settings import Secret
from bdlab.stack import DataFolder, Endpoints, exports
from bdlab.vault.client import VaultClient
from tests.fix_pipeline import Pipeline, running_pipeline
from tests.fix_vault import VaultWorld
from tests.relay import Answer, Relay
from tests.vault_steps import STEPS, outcomes, root_tokens

TEAM = "team/reviews"
BAO = str(Path(sys.executable).with_name("bao"))


class InNamespace(Pipeline):
    """A pipeline whose commands know their namespace from the variable that Vault's own tools read."""

    def environment(self, **more: str) -> dict[str, str]:
        return super().environment(**{"VAULT_NAMESPACE": TEAM, **more})


@pytest.mark.long
def test_the_whole_pipeline_from_the_first_set_up_to_new_keys(tmp_path: Path) -> None:
    with running_pipeline(tmp_path, kind=InNamespace) as pipeline:
        again = pipeline.run("vault-init")
        assert again.returncode == 0, again.stderr
        assert "done" not in again.stdout
        with pipeline.serve() as (_, api), pipeline.daemon("consume") as consumer:
            consumer.wait_for("partitions start")
            body = {"text": "This product is terrible!", "summary": "Product review"}
            assert api.post("/predict", json=body).status_code == 200
            assert api.get("/vault-status").json()["authenticated"]
            rotated = pipeline.run("rotate")
            assert rotated.returncode == 0, rotated.stdout + rotated.stderr
            assert api.post("/predict", json=body).status_code == 200
            for command in (("predict", "Tasty."), ("verify", "--wait", "60"), ("rotate", "database", "--leases")):
                done = pipeline.run(*command)
                assert done.returncode == 0, done.stdout + done.stderr
            rekeyed = pipeline.run("vault-rekey", "--shares", "2", "--threshold", "2")
            assert rekeyed.returncode == 0, rekeyed.stderr
            states = json.loads(pipeline.run("status", "--json").stdout)["checks"]
            assert {check["state"] for check in states if check["name"].startswith("vault.")} == {"healthy"}
        seen = pipeline.run("vault-token", "--", BAO, "kv", "get", "-mount=kv", "database/credentials")
        assert seen.returncode == 0, seen.stderr
        less = pipeline.run("vault-token", "--policy", "predict", "--", BAO, "token", "lookup", "-format=json")
        assert json.loads(less.stdout)["data"]["policies"] == ["predict"]
        in_root = pipeline.run("vault-token", "--", BAO, "list", "-format=json", "-namespace=root", "sys/policies/acl")
        assert set(json.loads(in_root.stdout)) == {"default", "recovery", "root"}


@pytest.fixture
def team(new_world: Callable[..., VaultWorld]) -> VaultWorld:
    """A Vault that nobody has initialised, for a namespace that it does not have."""
    world = new_world()
    world.namespace = TEAM
    return world


def test_a_namespace_is_made_and_a_change_gets_in_by_the_root_one(
    team: VaultWorld, request: pytest.FixtureRequest
) -> None:
    first = team.init()
    assert [step.name for step in first] == [*STEPS[:2], "namespace", *STEPS[2:-1], "root namespace", STEPS[-1]]
    assert {step.outcome for step in first} - {"unchanged"} == {"done"}
    assert set(outcomes(team.init()).values()) == {"unchanged"}
    with team.session("consume", "bdlab-writer", daemon=False) as session:
        team.connect(session.database()).close()
    with team.root() as root:
        nobody = root.in_namespace("")
        assert not {"kv/", "database/"} & set(nobody.request("get", "sys/mounts")["data"])
        assert nobody.request("list", "auth/approle/role")["data"]["keys"] == ["recovery"]
    request.getfixturevalue("changed_policy")
    assert outcomes(team.init())["policies"] == "done"
    assert set(outcomes(team.init()).values()) == {"unchanged"}
    team.namespace = ""
    assert root_tokens(team) == []
    # Its members are of no use elsewhere, and are told where they were refused.
    with pytest.raises(IdentityRefused):
        team.session("consume", daemon=False).open(0)
    team.namespace = "other"
    with pytest.raises(IdentityRefused, match=r"namespace other\).*namespace not found"):
        team.session("consume", daemon=False).open(0)


def test_a_dry_run_says_that_it_would_make_the_namespace(team: VaultWorld) -> None:
    team.init(team.plan(vault=msgspec.structs.replace(team.vault, namespace="")))
    with team.root() as root:
        planned = outcomes(team.init(team.plan(token=root.token, dry_run=True)))
        assert planned["namespace"] == planned["policies"] == planned["root token"] == "would do"
        with pytest.raises(SecretMissing):
            root.in_namespace("").read("sys/namespaces/team")


def test_an_administrator_of_a_namespace_sets_up_what_is_in_it(team: VaultWorld) -> None:
    team.init(team.plan(vault=msgspec.structs.replace(team.vault, namespace="")))
    with team.root() as root:
        root.in_namespace("").write("sys/namespaces/team")
        above = root.in_namespace("team")
        rights = 'path "*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }'
        above.write("sys/policies/acl/admin", {"policy": rights})
        made = above.request("post", "auth/token/create-orphan", {"policies": ["admin"], "ttl": "10m"})
        token = Secret(str(made["auth"]["client_token"]))
    shutil.rmtree(team.folder / "identity")
    given = team.plan(token=token, keys_file=team.folder / "no-keys.json")
    assert outcomes(team.init(given)) == dict.fromkeys((*STEPS[:2], "namespace", *STEPS[2:]), "done") | dict.fromkeys(
        ("initialise", "unseal", "root token"), "unchanged"
    )
    with team.session("consume", "bdlab-writer", daemon=False) as session:
        team.connect(session.database()).close()
    team.namespace = "another"
    with pytest.raises(VaultError, match=r"no namespace 'another' .* may not make it") as refused:
        team.init(team.plan(token=token))
    assert "bao namespace create" in refused.value.hint


def test_a_vault_without_namespaces_is_not_set_up_in_its_root(team: VaultWorld) -> None:
    """As HashiCorp Vault's Community edition takes no notice of the header."""

    class Without(Relay):
        def answer(self, method: str, path: str, headers: dict[str, str], body: bytes, netloc: str = "") -> Answer:
            headers.pop("X-Vault-Namespace", None)
            return super().answer(method, path, headers, body, netloc)

    with Without(team.openbao.address.partition("//")[2]) as relay:
        vault = msgspec.structs.replace(team.vault, address=relay.url)
        with pytest.raises(SettingsInvalid, match="has no namespaces"):
            team.init(team.plan(vault=vault))
    keys = json.loads(team.keys_file.read_bytes())
    with contextlib.closing(team.client(Secret(keys["root_token"]))) as client:
        mounts = client.in_namespace("").request("get", "sys/mounts")["data"]
    assert not {"kv/", "database/"} & set(mounts)


def test_a_terminal_of_another_namespace_is_pointed_at_a_local_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_NAMESPACE", TEAM)
    monkeypatch.setenv("BDLAB_VAULT_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("BDLAB_VAULT_NAMESPACE", raising=False)
    endpoints = Endpoints(
        pid=1,
        start_mark="",
        http_url="http://127.0.0.1:1",
        vault_address="http://127.0.0.1:2",
        bootstrap_servers="127.0.0.1:3",
        postgres_host=str(tmp_path),
        postgres_port=4,
    )
    found = exports(DataFolder(tmp_path), endpoints)
    (tmp_path / "bdlab.toml").touch()
    vault = settings.load(environ=os.environ | found).settings().vault
    assert (vault.address, vault.namespace, vault.proxy.reveal()) == ("http://127.0.0.1:2", "", "")


def test_the_word_root_is_the_root_namespace(team: VaultWorld) -> None:
    assert VaultClient(msgspec.structs.replace(team.vault, namespace="root")).namespace == ""
    assert VaultClient(msgspec.structs.replace(team.vault, namespace="/a/b/")).namespace == "a/b"
