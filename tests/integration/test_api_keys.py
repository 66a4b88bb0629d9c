"""API keys in a real Vault: the command that makes and revokes them, and the ring of them in a running service."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import pytest
import structlog.testing

from bdlab.access import KEY_FORM, SCOPES, ApiKey, hash_of, new_secret
from bdlab.errors import InvalidInput, SecretMissing, VaultUnavailable
from bdlab.resources import policies_dir
from bdlab.vault import api_keys
from bdlab.vault.api_keys import KeyRing
from bdlab.vault.client import VaultClient
from tests import forked
from tests.chaos.vault_faults import VaultProxy
from tests.fix_vault import VaultWorld
from tests.json_results import as_documented
from tests.waiting import until

#: What is promised; the tests' services look every 0.2 s.
HOLDS_S = 5.0


@pytest.fixture
def world(vault_world: VaultWorld) -> Iterator[VaultWorld]:
    """Without keys before and afterwards."""
    yield vault_world
    with vault_world.root() as root:
        for folder in ("api-keys/folder", "api-keys"):
            with contextlib.suppress(SecretMissing):
                for name in root.request("list", f"kv/metadata/{folder}")["data"]["keys"]:
                    root.request("delete", f"kv/metadata/{folder}/{name}")


@pytest.fixture
def maker(world: VaultWorld) -> Iterator[VaultClient]:
    with world.logged_in("api-key") as client:
        yield client


@pytest.fixture
def ring(world: VaultWorld) -> Iterator[KeyRing]:
    """A service's, which looks when `keep` is called."""
    with world.logged_in("serve") as client:
        yield KeyRing(client)


def a_key(name: str, **changes: Any) -> ApiKey:
    key = ApiKey(
        name=name,
        hash=hash_of(new_secret()),
        scopes=frozenset({"predict", "read"}),
        created_at=datetime.now(UTC),
        expires_at=None,
        rate=None,
    )
    return msgspec.structs.replace(key, **changes)


def api_key(world: VaultWorld, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = forked.run(["api-key", *arguments], os.environ | world.environment(), timeout_s=60)
    assert done.returncode == code, done.stderr
    return done


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.with_tls
def test_a_key_is_printed_once_and_alone_and_vault_has_its_hash(world: VaultWorld, ring: KeyRing) -> None:
    options = ("--scope", "predict, read", "--expires", "90d", "--rate", "2.5/s")
    done = api_key(world, "create", "shop", *options)
    found = KEY_FORM.fullmatch(done.stdout.removesuffix("\n"))
    assert found
    assert found["name"] == "shop"
    assert found["secret"] not in done.stderr
    ring.keep()
    key = ring.keys["shop"]
    assert key.hash == hash_of(found["secret"])
    assert (sorted(key.scopes), key.rate) == (["predict", "read"], 2.5)
    assert key.expires_at == key.created_at + timedelta(days=90)
    with world.root() as root:
        assert found["secret"] not in json.dumps(root.read("kv/data/api-keys/shop"))
    assert found["secret"] not in (world.openbao.folder / "audit.log").read_text("utf-8")

    (shown,) = json.loads(api_key(world, "list", "--json").stdout)["keys"]
    assert shown["scopes"] == ["predict", "read"]
    assert (shown["name"], shown["rate"], shown["state"]) == ("shop", 2.5, "active")
    assert datetime.fromisoformat(shown["expires_at"]) == key.expires_at
    table = api_key(world, "list").stdout
    assert 0 < 90 * 86_400 - shown["expires_in_s"] < 600
    assert all(
        word in table for word in ("shop", "predict", f"{key.created_at:%Y-%m-%d}", "89 days", "2.5/s", "active")
    )
    assert key.hash not in table + json.dumps(shown)


def test_a_key_and_its_revocation_as_json(world: VaultWorld, maker: VaultClient) -> None:
    done = api_key(world, "create", "shop", "--scope", ",".join(SCOPES), "--json")
    made = as_documented("api-key create", done.stdout)
    found = KEY_FORM.fullmatch(made.pop("key"))
    assert found
    stored = api_keys.stored(maker)["shop"]
    assert isinstance(stored, ApiKey)
    assert stored.hash == hash_of(found["secret"])
    listed = as_documented("api-key list", api_key(world, "list", "--json").stdout)
    assert listed == {"keys": [made]}
    assert sorted(made) == ["created_at", "expires_at", "expires_in_s", "name", "rate", "scopes", "state"]
    assert json.loads(api_key(world, "revoke", "shop", "--json").stdout) == {"name": "shop", "state": "revoked"}
    assert json.loads(api_key(world, "list", "--json").stdout) == {"keys": []}
    with world.root() as root:
        assert root.read_if_present("kv/metadata/api-keys/shop") is None


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("create", "Shop", "--scope", "read"), 2, "'Shop' is no name"),
        (("create", "shop/../x", "--scope", "read"), 2, "is no name"),
        (("create", "shop", "--scope", "read,delete"), 2, "'delete' is no scope"),
        (("create", "shop", "--scope", ""), 2, "'' is no scope"),
        (("create", "shop", "--scope", "read", "--rate", "0/s"), 2, "'0/s' is no rate"),
        (("create", "shop", "--scope", "read", "--rate", "many"), 2, "'many' is no rate"),
        (("create", "shop", "--scope", "read", "--expires", "0d"), 2, "'0d' is no time"),
        (("create", "shop", "--scope", "read", "--expires", "soon"), 2, "'soon' is no age"),
        (("revoke", "shop"), 2, "there is no API key 'shop'"),
        (("revoke", "../kafka/serve"), 2, "there is no API key"),
    ],
)
def test_what_is_not_valid_is_refused_by_name(
    world: VaultWorld, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = api_key(world, *arguments, code=code)
    assert said in " ".join(done.stderr.replace("│", "").split())
    assert not done.stdout
    assert not json.loads(api_key(world, "list", "--json").stdout)["keys"]


# -- a name belongs to one key -----------------------------------------------------------------------------------------


def test_a_name_that_is_taken_is_refused_until_its_key_has_ended(maker: VaultClient, ring: KeyRing) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1)
    first = a_key("shop", expires_at=soon)
    api_keys.create(maker, first)
    with pytest.raises(InvalidInput, match="already"):
        api_keys.create(maker, a_key("shop"))
    ring.keep()
    until(lambda: first.expired(datetime.now(UTC)))
    second = a_key("shop")
    api_keys.create(maker, second)
    ring.keep()
    assert ring.keys == {"shop": second}
    api_keys.revoke(maker, "shop")
    api_keys.create(maker, third := a_key("shop"))
    ring.keep()
    assert ring.keys == {"shop": third}


@pytest.mark.parametrize("expired", [False, True], ids=["new", "over an expired one"])
def test_of_two_creations_at_once_one_is_refused_and_none_is_lost(maker: VaultClient, *, expired: bool) -> None:
    if expired:
        api_keys.create(maker, a_key("shop", expires_at=datetime.now(UTC) - timedelta(days=1)))
    tried = [a_key("shop") for _ in range(8)]

    def create(key: ApiKey) -> ApiKey | None:
        try:
            api_keys.create(maker, key)
        except InvalidInput:
            return None
        return key

    with ThreadPoolExecutor(len(tried)) as pool:
        made = [key for key in pool.map(create, tried) if key]
    assert made == [api_keys.stored(maker)["shop"]]


def test_a_name_that_somebody_deleted_in_part_is_taken_until_it_is_revoked(
    world: VaultWorld, maker: VaultClient, ring: KeyRing
) -> None:
    api_keys.create(maker, a_key("shop"))
    with world.root() as root:
        root.request("delete", "kv/data/api-keys/shop")
    ring.keep()
    assert not ring.keys
    with pytest.raises(InvalidInput, match="already"):
        api_keys.create(maker, a_key("shop"))
    api_keys.revoke(maker, "shop")
    api_keys.create(maker, a_key("shop"))


# -- the ring of a running service -------------------------------------------------------------------------------------


def test_a_running_service_learns_of_new_and_revoked_keys(world: VaultWorld, maker: VaultClient) -> None:
    api_keys.create(maker, before := a_key("before"))
    with world.session("serve", "bdlab-reader") as one, world.session("serve", "bdlab-reader") as other:
        assert one.api_keys() == other.api_keys() == {"before": before}
        api_keys.create(maker, shop := a_key("shop"))
        until(lambda: all(each.api_keys().get("shop") == shop for each in (one, other)), HOLDS_S)
        api_keys.revoke(maker, "before")
        until(lambda: all(each.api_keys() == {"shop": shop} for each in (one, other)), HOLDS_S)


def test_a_service_whose_token_was_revoked_learns_of_keys_with_its_next_one(
    world: VaultWorld, maker: VaultClient
) -> None:
    with world.session("serve", "bdlab-reader") as session, world.root() as root:
        accessor = session.ask(VaultClient.own_token)["accessor"]
        root.write("auth/token/revoke-accessor", {"accessor": accessor})
        api_keys.create(maker, shop := a_key("shop"))
        until(lambda: session.api_keys() == {"shop": shop}, HOLDS_S)
        assert session.ask(VaultClient.own_token)["accessor"] != accessor


def test_other_services_read_no_keys(world: VaultWorld, maker: VaultClient) -> None:
    api_keys.create(maker, a_key("shop"))
    with world.session("consume", "bdlab-writer") as session:
        assert session.api_keys() == {}


def test_a_name_that_was_used_again_between_two_looks_means_the_new_key(maker: VaultClient, ring: KeyRing) -> None:
    keys = {name: a_key(name) for name in (f"key-{number:02}" for number in range(20))}
    for key in keys.values():
        api_keys.create(maker, key)
    ring.keep()
    assert ring.keys == keys
    for names in (["key-12"], ["key-03", "key-15", "key-19"], list(keys)):  # the last are more than Vault tells
        for name in names:
            api_keys.revoke(maker, name)
            api_keys.create(maker, a_key(name))
        ring.keep()
        assert ring.keys == api_keys.stored(maker)


def test_a_look_at_many_keys_costs_few_requests(world: VaultWorld, maker: VaultClient, ring: KeyRing) -> None:
    for number in range(25):
        api_keys.create(maker, a_key(f"key-{number}"))
    ring.keep()

    def asked() -> int:
        return sum(
            entry["request"]["path"].startswith(("kv/data/api-keys", "kv/metadata/api-keys")) for entry in world.audit()
        )

    before = asked()
    ring.keep()
    assert asked() - before == 7  # the last change, the names, and 5 of the keys, in turn
    api_keys.create(maker, new := a_key("new"))
    before = asked()
    ring.keep()
    assert ring.keys["new"] == new
    assert asked() - before == 9


def test_what_somebody_changes_by_other_means_is_seen_in_turn(
    world: VaultWorld, maker: VaultClient, ring: KeyRing
) -> None:
    for number in range(12):
        api_keys.create(maker, a_key(f"key-{number}"))
    ring.keep()
    with world.root() as root:
        values = root.read("kv/data/api-keys/key-7")["data"]
        root.write_kv("api-keys/key-7", {**values, "scopes": []})
    for _ in range(3):
        ring.keep()
    assert ring.keys["key-7"].scopes == frozenset()


def test_an_entry_that_is_no_key_lets_nobody_in_and_is_named_once(
    world: VaultWorld, maker: VaultClient, ring: KeyRing
) -> None:
    api_keys.create(maker, good := a_key("good"))
    mistaken = f"bdlab_shop_{new_secret()}"
    values = msgspec.to_builtins(a_key("odd"))
    del values["name"]
    with world.root() as root:
        root.write_kv("api-keys/odd", {**values, "expires_on": "tomorrow"})
        root.write_kv("api-keys/open", {})
        root.write_kv(f"api-keys/{mistaken}", values)
        root.write_kv("api-keys/folder/shop", values)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            ring.keep()
            assert ring.keys == {"good": good}
    assert sorted(entry["name"] for entry in logs) == ["bdlab", "folder/", "odd", "open"]
    (odd,) = (entry for entry in logs if entry["name"] == "odd")
    assert "expires_on" in odd["problem"]
    assert mistaken not in repr(logs)
    listed = json.loads(api_key(world, "list", "--json").stdout)["keys"]
    assert {one["name"] for one in listed if one["state"] == "invalid" and one["problem"]} == {
        "odd",
        "open",
        mistaken,
        "folder/",
    }
    with pytest.raises(InvalidInput, match="already"):
        api_keys.create(maker, a_key("odd"))
    api_keys.revoke(maker, "odd")
    assert "odd" not in api_keys.stored(maker)


@pytest.mark.plaintext("Vault is behind a proxy")
def test_an_engine_that_is_gone_says_nothing_of_its_keys(world: VaultWorld, maker: VaultClient) -> None:
    api_keys.create(maker, a_key("shop"))
    with world.root() as root:
        ring = KeyRing(root)
        ring.keep()
        assert set(ring.keys) == {"shop"}
        root.settings = msgspec.structs.replace(root.settings, kv_mount="nowhere")
        with pytest.raises(VaultUnavailable, match="no handler"):
            ring.keep()
        assert set(ring.keys) == {"shop"}


def test_while_vault_is_away_a_service_goes_on_with_what_it_knows(world: VaultWorld, maker: VaultClient) -> None:
    api_keys.create(maker, shop := a_key("shop"))
    with (
        VaultProxy(world.vault.address) as proxy,
        structlog.testing.capture_logs() as logs,
        world.session("serve", "bdlab-reader", VAULT_ADDR=proxy.address) as session,
    ):
        for fault in (partial(proxy.answer, 503), proxy.drop):
            logs.clear()
            fault()
            until(lambda: any("cannot be renewed" in entry["event"] for entry in logs))
            assert session.api_keys()["shop"] == shop
            proxy.heal()
            until(lambda: any("renewed from Vault again" in entry["event"] for entry in logs))
            assert sum("cannot be renewed" in entry["event"] for entry in logs) == 1
        api_keys.revoke(maker, "shop")
        until(lambda: not session.api_keys(), 2 * HOLDS_S)


def test_a_vault_of_an_earlier_version_gives_no_keys_and_says_what_to_do(world: VaultWorld, maker: VaultClient) -> None:
    api_keys.create(maker, shop := a_key("shop"))
    policy = (policies_dir() / "serve.hcl").read_text("utf-8")
    earlier = policy.replace("api-keys", "other-keys")
    with world.root() as root:
        root.write("sys/policies/acl/serve", {"policy": earlier})
        try:
            with structlog.testing.capture_logs() as logs, world.session("serve", "bdlab-reader") as session:
                assert session.api_keys() == {}
                said = [entry for entry in logs if "API keys cannot be read" in entry["event"]]
                assert "vault-init" in said[0]["event"]
                assert "api-keys" in said[0]["problem"]
                root.write("sys/policies/acl/serve", {"policy": policy})
                until(lambda: session.api_keys() == {"shop": shop})
                assert not [entry for entry in logs if "cannot be renewed" in entry["event"]]
                assert sum("API keys cannot be read" in entry["event"] for entry in logs) == 1
        finally:
            root.write("sys/policies/acl/serve", {"policy": policy})
