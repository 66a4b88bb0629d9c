"""Least privilege: every identity against every path of interest, each allowed or refused as it should be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pytest

from bdlab.errors import PolicyDenied, SecretMissing, VaultError
from bdlab.services import DAEMONS, DATABASE_ROLES, IDENTITIES, KAFKA_SERVICES, NOT_ROTATED, SERVICES, SWEEP
from bdlab.vault.client import Method, VaultClient
from tests.fix_vault import VaultWorld


class Call(NamedTuple):
    """A request, and the identities that may make it."""

    method: Method
    path: str
    allowed: frozenset[str]
    body: dict[str, object] | None = None


EVERYBODY = frozenset(IDENTITIES)
NOBODY: frozenset[str] = frozenset()
READERS = frozenset({"serve", "status", "verify", "console", "backup"})
DATABASE = READERS | {"consume", "dlq", "model", "rescore", "migrate"}
KAFKA_WRITERS = frozenset({"migrate", "rotate"})
SWEEPERS = frozenset({"migrate", "rotate"})
ACCESSOR: dict[str, object] = {"secret_id_accessor": "none"}


def only(*names: str) -> frozenset[str]:
    return frozenset(names)


CALLS = (
    Call("get", "auth/token/lookup-self", EVERYBODY),
    Call("get", "kv/data/database/credentials", DATABASE),
    Call("get", "kv/data/kafka/credentials", frozenset(KAFKA_SERVICES) | KAFKA_WRITERS),
    *(Call("get", f"kv/data/kafka/{name}", only(name) | KAFKA_WRITERS) for name in KAFKA_SERVICES),
    # A version that is never there: whoever may write gets past the policy, and changes nothing.
    *(
        Call("post", f"kv/data/kafka/{name}", KAFKA_WRITERS, {"data": {}, "options": {"cas": 999}})
        for name in KAFKA_SERVICES
    ),
    Call("post", "kv/data/kafka/credentials", only("migrate"), {"data": {}, "options": {"cas": 999}}),
    *(Call("post", f"kv/data/kafka/{name}", only("migrate"), {"data": {}}) for name in ("probe", "probe2")),
    Call("post", "kv/data/database/credentials", NOBODY, {"data": {}}),
    Call("delete", "kv/data/kafka/probe", NOBODY),
    Call("delete", "kv/metadata/kafka/probe", NOBODY),
    Call("get", "kv/metadata/kafka/credentials", only("inspect", "console")),
    Call("list", "kv/metadata/kafka", NOBODY),
    Call("post", "kv/metadata/kafka/serve", only("rotate"), {"custom_metadata": {}}),
    Call("post", "kv/metadata/kafka/serve", NOBODY, {"max_versions": 1}),
    *(Call("list", f"kv/metadata/clients/{name}", only("rotate", "console")) for name in DAEMONS),
    *(Call("get", f"kv/data/clients/{name}/probe", only("rotate", "console")) for name in DAEMONS),
    *(Call("post", f"kv/data/clients/{name}/probe", only(name), {"data": {}}) for name in DAEMONS),
    *(Call("delete", f"kv/metadata/clients/{name}/probe", only(name, "rotate")) for name in DAEMONS),
    Call("list", "kv/metadata/api-keys", only("serve", "console", "api-key")),
    Call("get", "kv/data/api-keys/probe", only("serve", "console", "api-key")),
    Call("get", "kv/data/oidc/console", only("console")),
    Call("post", "kv/data/oidc/console", NOBODY, {"data": {}}),
    Call("post", "kv/data/api-keys/probe", only("api-key"), {"data": {}, "options": {"cas": 999}}),
    Call("delete", "kv/metadata/api-keys/probe", only("api-key")),
    Call("get", "database/creds/bdlab-reader", READERS),
    Call("get", "database/creds/bdlab-writer", only("consume")),
    *(Call("get", f"database/creds/bdlab-{name}", only(name)) for name in ("dlq", "model", "rescore")),
    Call("get", "database/creds/bdlab-owner", only("migrate")),
    Call("get", "database/creds/bdlab-sweep", SWEEPERS),
    Call("get", "database/config/bdlab", only("inspect")),
    Call("get", "database/roles/bdlab-writer", only("inspect")),
    Call("post", "database/rotate-root/bdlab", only("rotate"), {}),
    Call("post", "database/rotate-root/absent", NOBODY, {}),
    Call("post", "database/config/bdlab", NOBODY, {}),
    Call("post", "database/roles/bdlab-writer", NOBODY, {}),
    Call("get", "sys/mounts", only("inspect")),
    Call("get", "sys/auth", only("inspect")),
    Call("get", "sys/audit", only("inspect", "status")),
    Call("get", "sys/policies/acl/serve", only("inspect")),
    Call("post", "pki-kafka/issue/broker", only("migrate"), {}),
    Call("post", "pki-kafka/issue/admin", KAFKA_WRITERS, {}),
    Call("get", "pki-kafka/roles/broker", only("inspect")),
    Call("post", "sys/policies/acl/probe", NOBODY, {"policy": ""}),
    Call("post", "sys/mounts/probe", NOBODY, {"type": "kv"}),
    Call("post", "sys/auth/probe", NOBODY, {"type": "approle"}),
    Call("put", "sys/seal", NOBODY, {}),
    Call("get", "sys/storage/raft/configuration", NOBODY),
    Call("post", "sys/storage/raft/snapshot", NOBODY, {}),
    Call("post", "sys/storage/raft/snapshot-force", NOBODY, {}),
    Call("post", "sys/leases/renew", DATABASE, {"lease_id": "database/creds/bdlab-writer/none"}),
    Call("post", "sys/leases/revoke", NOBODY, {"lease_id": "database/creds/bdlab-writer/none"}),
    *(
        Call("post", f"sys/leases/revoke-prefix/database/creds/{role.name}", only("rotate"), {"sync": True})
        for role in DATABASE_ROLES
    ),
    Call("post", "sys/leases/revoke-prefix/database", NOBODY, {}),
    Call("post", "sys/leases/revoke-prefix/auth", NOBODY, {}),
    Call("post", "sys/leases/revoke-force/database/creds/bdlab-writer", NOBODY, {}),
    Call("get", "sys/generate-root-token/attempt", only("recovery")),
    Call("get", "auth/approle/role/serve", only("inspect")),
    Call("get", "auth/approle/role/serve/role-id", only("inspect", "rotate")),
    Call("post", "auth/approle/role/serve", NOBODY, {"token_policies": ["root"]}),
    Call("post", "auth/approle/role/serve/secret-id", NOBODY, {}),  # `rotate` may, wrapped: see below
    Call("post", "auth/approle/role/serve/secret-id/lookup", only("inspect"), {"secret_id": "none"}),
    Call("list", "auth/approle/role/serve/secret-id", NOBODY),
    *(
        Call("post", f"auth/approle/role/serve/secret-id-accessor/{verb}", only("rotate"), ACCESSOR)
        for verb in ("lookup", "destroy")
    ),
    Call("post", "auth/approle/role/inspect/secret-id-accessor/destroy", NOBODY, ACCESSOR),
    Call("post", "auth/approle/role/recovery/secret-id", NOBODY, {}),
    Call("post", "auth/token/create", NOBODY, {}),
    Call("get", "cubbyhole/probe", NOBODY),
)


_OWN = {"lookup-self": "read", "renew-self": "update", "revoke-self": "update"}
_NONE: dict[str, set[str]] = {}


def each(services: Iterable[str], *verbs: str) -> dict[str, set[str]]:
    return {service: set(verbs) for service in services}


#: What may be done at a path, and by whom; anybody else, and anything else, is refused.
CAPABILITIES: dict[str, dict[str, set[str]]] = {
    **{f"auth/token/{name}": each(IDENTITIES, verb) for name, verb in _OWN.items()},
    **dict.fromkeys(
        (
            "auth/token/create",
            "auth/token/create-orphan",
            "auth/token/accessors",
            "auth/token/lookup",
            "auth/token/lookup-accessor",
            "auth/token/revoke-accessor",
            "auth/token/roles/any",
            "auth/approle/role",
            *(f"auth/approle/role/{name}/secret-id" for name in NOT_ROTATED),
            *(f"auth/approle/role/{name}/secret-id-accessor/destroy" for name in NOT_ROTATED),
            "auth/approle/role/serve/policies",
            "auth/approle/role/serve/custom-secret-id",
            "auth/approle/role/serve/secret-id-num-uses",
            "cubbyhole/any",
            "database/config",
            "database/creds/any",
            "database/reset/bdlab",
            "database/static-creds/any",
            "identity/entity",
            "kv/config",
            "kv/data/any",
            "kv/delete/kafka/serve",
            "kv/destroy/kafka/serve",
            "kv/undelete/kafka/serve",
            "kv/metadata",
            "pki-kafka/config/urls",
            "pki-kafka/issue/any",
            "pki-kafka/root",
            "pki-kafka/root/generate/internal",
            "pki-kafka/sign/broker",
            "pki-kafka/sign-verbatim",
            "sys/audit/any",
            "sys/auth/any",
            "sys/capabilities",
            "sys/config/auditing/request-headers/any",
            "sys/init",
            "sys/internal/counters/activity",
            "sys/leases/lookup",
            "sys/leases/lookup/database",
            "sys/leases/revoke",
            "sys/leases/revoke-prefix/database",
            "sys/leases/revoke-force/database",
            "sys/mounts/any",
            "sys/namespaces",
            "sys/plugins/catalog",
            "sys/policies/acl",
            "sys/policies/password/any",
            "sys/quotas/rate-limit/any",
            "sys/raw/any",
            "sys/rekey/init",
            "sys/remount",
            "sys/rotate",
            "sys/seal",
            "sys/step-down",
            "sys/storage/raft/configuration",
            "sys/storage/raft/snapshot-force",
            "sys/wrapping/wrap",
        ),
        _NONE,
    ),
    "kv/data/database/credentials": each(DATABASE, "read"),
    "kv/metadata/database/credentials": {"inspect": {"read"}},
    "kv/metadata/kafka/serve": each(("inspect", "console"), "read") | {"rotate": {"update"}},
    "kv/data/kafka/credentials": {
        **each(KAFKA_SERVICES, "read"),
        "migrate": {"create", "read", "update"},
        "rotate": {"read"},
    },
    **{
        f"kv/data/kafka/{name}": {name: {"read"}, "rotate": {"read", "update"}, "migrate": {"create", "read", "update"}}
        for name in KAFKA_SERVICES
    },
    "kv/data/kafka/any": {"migrate": {"create", "read", "update"}},
    "kv/metadata/api-keys": each(("serve", "console", "api-key"), "list") | {"inspect": {"read"}},
    "kv/data/api-keys/any": each(("serve", "console"), "read") | {"api-key": {"create", "read", "update"}},
    "kv/data/oidc/console": {"console": {"read"}},
    "kv/metadata/api-keys/any": {"api-key": {"delete"}, "inspect": {"read"}},
    **{f"kv/{verb}/api-keys/any": {} for verb in ("delete", "destroy", "undelete")},
    "kv/data/clients/predict/any": {"console": {"read"}},
    "kv/metadata/clients": {"inspect": {"read"}},
    **{f"kv/metadata/clients/{name}": each(("rotate", "console"), "list") | {"inspect": {"read"}} for name in DAEMONS},
    **{
        f"kv/data/clients/{name}/any": each(("rotate", "console"), "read")
        | {name: {"create", "update", *(["read"] if name == "console" else [])}}
        for name in DAEMONS
    },
    **{
        f"kv/metadata/clients/{name}/any": {name: {"delete"}, "rotate": {"delete"}, "inspect": {"read"}}
        for name in DAEMONS
    },
    **{
        f"sys/leases/revoke-prefix/database/creds/{role.name}": {"rotate": {"update", "sudo"}}
        for role in DATABASE_ROLES
    },
    "auth/approle/role/serve/secret-id": {"rotate": {"update"}},
    "auth/approle/role/serve/secret-id-accessor/lookup": {"rotate": {"update"}},
    "auth/approle/role/serve/secret-id-accessor/destroy": {"rotate": {"update"}},
    "database/creds/bdlab-reader": each(READERS, "read"),
    "sys/storage/raft/snapshot": {"backup": {"read"}},
    "database/creds/bdlab-writer": {"consume": {"read"}},
    **{f"database/creds/bdlab-{name}": {name: {"read"}} for name in ("dlq", "model", "rescore")},
    "database/creds/bdlab-sweep": each(SWEEPERS, "read"),
    "database/creds/bdlab-owner": {"migrate": {"read"}},
    "database/config/bdlab": {"inspect": {"read"}},
    "database/roles/bdlab-owner": {"inspect": {"read"}},
    "database/rotate-root/bdlab": {"rotate": {"update"}},
    "pki-kafka/issue/broker": {"migrate": {"update"}},
    "pki-kafka/issue/admin": each(KAFKA_WRITERS, "update"),
    "pki-kafka/roles/admin": {"inspect": {"read"}},
    "pki-kafka/issuers": {"inspect": {"list"}},
    "sys/leases/renew": each(DATABASE, "update"),
    "sys/audit": each(("inspect", "status"), "read", "sudo"),
    "sys/mounts": {"inspect": {"read"}},
    "sys/auth": {"inspect": {"read"}},
    "sys/policies/acl/recovery": {"inspect": {"read"}},
    "sys/generate-root/attempt": {"recovery": {"create", "read", "update", "delete"}},
    "sys/generate-root-token/attempt": {"recovery": {"create", "read", "update", "delete"}},
    "sys/generate-root-token/update": {"recovery": {"create", "read", "update", "delete"}},
    "auth/approle/role/consume": {"inspect": {"read"}},
    "auth/approle/role/recovery": {"inspect": {"read"}},
    "auth/approle/role/consume/secret-id/lookup": {"inspect": {"update"}},
}


def test_vault_init_makes_what_the_table_of_services_lists(vault_world: VaultWorld) -> None:
    def listed(path: str) -> set[str]:
        return set(root.request("list", path)["data"]["keys"])

    with vault_world.root() as root:
        assert listed("auth/approle/role") == set(IDENTITIES)
        assert listed("sys/policies/acl") - {"default", "root"} == set(IDENTITIES)
        assert listed("database/roles") == {*(role.name for role in DATABASE_ROLES), SWEEP}
        assert listed("kv/metadata/kafka") == {"credentials", *KAFKA_SERVICES}
        for name in KAFKA_SERVICES:
            values, _ = root.read_kv(f"kafka/{name}")
            assert {values["username"], values["idle_username"]} == {f"bdlab-{name}-a", f"bdlab-{name}-b"}


@pytest.mark.parametrize("service", IDENTITIES)
def test_every_identity_every_path_every_verb(vault_world: VaultWorld, service: str) -> None:
    """As Vault itself reckons it, of each verb at once; the requests above are what it then does."""
    with vault_world.root() as root, vault_world.logged_in(service) as client:
        answer = root.write("sys/capabilities", {"token": client.token.reveal(), "paths": sorted(CAPABILITIES)})
    found = {path: set(answer[path]) - {"deny"} for path in CAPABILITIES}
    assert found == {path: by_whom.get(service, set()) for path, by_whom in CAPABILITIES.items()}


def allowed(client: VaultClient, call: Call) -> bool:
    """Whether the policy lets the request through, whatever then becomes of it."""
    try:
        client.request(call.method, call.path, dict(call.body) if call.body is not None else None)
    except PolicyDenied:
        return False
    except VaultError:
        return True  # it got past the policy, to a path or lease that is not there
    return True


@pytest.mark.parametrize("service", IDENTITIES)
def test_every_identity_against_every_path(vault_world: VaultWorld, service: str) -> None:
    with vault_world.logged_in(service) as client:
        found = {f"{call.method} {call.path}": allowed(client, call) for call in CALLS}
    assert found == {f"{call.method} {call.path}": service in call.allowed for call in CALLS}


@pytest.mark.parametrize("service", IDENTITIES)
def test_a_token_carries_its_own_policy_and_no_other(vault_world: VaultWorld, service: str) -> None:
    with vault_world.logged_in(service) as client:
        own = client.read("auth/token/lookup-self")
    assert own["policies"] == [service]
    assert (own.get("period") == 60) is (service in SERVICES)


def test_rotate_gets_secret_ids_wrapped_only_and_only_those_of_services(vault_world: VaultWorld) -> None:
    with vault_world.logged_in("rotate") as client:
        for service in set(SERVICES).difference(NOT_ROTATED):
            path = f"auth/approle/role/{service}/secret-id"
            with pytest.raises(VaultError):
                client.write(path)
            wrapped = client.request("post", path, {}, wrap_ttl_s=30)["wrap_info"]
            client.write(f"{path}-accessor/destroy", {"secret_id_accessor": wrapped["wrapped_accessor"]})
        for service in NOT_ROTATED:
            with pytest.raises(PolicyDenied):
                client.request("post", f"auth/approle/role/{service}/secret-id", {}, wrap_ttl_s=30)


def test_a_refusal_names_the_path_and_what_to_do(vault_world: VaultWorld) -> None:
    with vault_world.logged_in("predict") as client, pytest.raises(PolicyDenied) as refused:
        client.read("kv/data/database/credentials")
    assert "kv/data/database/credentials" in refused.value.message
    assert "(policies: predict)" in refused.value.message
    assert "vault-init" in refused.value.hint


def test_what_is_not_there_is_no_refusal(vault_world: VaultWorld) -> None:
    with vault_world.logged_in("migrate") as client, pytest.raises(SecretMissing):
        client.read_kv("kafka/never-written")
