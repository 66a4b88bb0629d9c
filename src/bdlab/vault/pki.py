"""The authority for Kafka's certificates: Vault's PKI engine. Its private key never leaves Vault.

Brokers and administrators get their certificates from two roles, each for one subject only, so that a policy
on the path of a role decides who may become what. Every certificate comes with its own private key, which
Vault makes and does not keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from bdlab.credentials import Certificate
from bdlab.errors import SecretMissing, VaultError
from bdlab.settings import Secret
from bdlab.vault.client import VaultClient

MOUNT = "pki-kafka"
ISSUER = "bdlab-kafka"
BROKER_ROLE, ADMIN_ROLE = "broker", "admin"
BROKER_NAME, ADMIN_NAME = "bdlab-broker", "bdlab-admin"

#: The subjects that are all-powerful at the brokers (`super.users`), as Kafka writes them.
SUPER_USERS = (f"CN={BROKER_NAME}", f"CN={ADMIN_NAME}")

_AUTHORITY_TTL_S = 10 * 365 * 86400
BROKER_TTL_S = 365 * 86400
ADMIN_TTL_S = 3600
_LOCAL = ("localhost",)

_ENGINE = f"secrets engine {MOUNT}"
_ROOT = "certificate authority for Kafka"


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """A new certificate with its key, and the authority's own that others check it with."""

    certificate: Certificate
    ca_pem: str


def prepare_authority(client: VaultClient, *, hosts: Iterable[str] = ()) -> list[str]:
    """Bring engine, root certificate and roles to the wanted state; what was done, nothing where all stood.

    `hosts` are the names that brokers are reached under; localhost and addresses are allowed anyway. Names
    that an earlier call allowed stay allowed. Raises VaultError.
    """
    done = missing(client, hosts=hosts)
    if _ENGINE in done:
        client.write(
            f"sys/mounts/{MOUNT}", {"type": "pki", "config": {"max_lease_ttl": f"{_AUTHORITY_TTL_S}s"}}
        )
    if _ROOT in done:
        # The issuer's name makes a second root of a run beside this one fail, instead of adding one.
        client.write(
            f"{MOUNT}/root/generate/internal",
            {
                "common_name": "bdlab Kafka authority",
                "issuer_name": ISSUER,
                "key_type": "ec",
                "key_bits": 256,
                "ttl": f"{_AUTHORITY_TTL_S}s",
            },
        )
    for name, wanted in _roles(client, hosts).items():
        if _role(name) in done:
            client.write(f"{MOUNT}/roles/{name}", wanted)
    return done


def missing(client: VaultClient, *, hosts: Iterable[str] = ()) -> list[str]:
    """What `prepare_authority` would do. Reads only. Raises VaultError."""
    if f"{MOUNT}/" not in client.read("sys/mounts"):
        return [_ENGINE, _ROOT, _role(BROKER_ROLE), _role(ADMIN_ROLE)]
    found = [] if _has_authority(client) else [_ROOT]
    for name, wanted in _roles(client, hosts).items():
        held = client.read_if_present(f"{MOUNT}/roles/{name}") or {}
        if any(held.get(field) != value for field, value in wanted.items()):
            found.append(_role(name))
    return found


def authority_pem(client: VaultClient) -> str:
    """The authority's certificate, with which everybody checks the brokers'. Raises VaultError."""
    return str(client.read(f"{MOUNT}/issuer/{ISSUER}/json")["certificate"])


def _role(name: str) -> str:
    return f"certificate role {name}"


def _has_authority(client: VaultClient) -> bool:
    try:
        listed = client.request("list", f"{MOUNT}/issuers").get("data", {})
    except SecretMissing:
        return False
    return any(issuer.get("issuer_name") == ISSUER for issuer in listed.get("key_info", {}).values())


def _roles(client: VaultClient, hosts: Iterable[str]) -> dict[str, dict[str, Any]]:
    held = client.read_if_present(f"{MOUNT}/roles/{BROKER_ROLE}") or {}
    names = {BROKER_NAME, *_LOCAL, *hosts, *held.get("allowed_domains", ())}
    common = {
        "issuer_ref": ISSUER,
        "allow_bare_domains": True,
        "allow_subdomains": False,
        "allow_localhost": False,
        "allow_any_name": False,
        "allow_glob_domains": False,
        "allow_wildcard_certificates": False,
        "key_type": "ec",
        "key_bits": 256,
        "client_flag": True,
    }
    return {
        # A broker is a client of the other brokers.
        BROKER_ROLE: common
        | {
            "allowed_domains": sorted(names),
            "allow_ip_sans": True,
            "server_flag": True,
            "max_ttl": BROKER_TTL_S,
        },
        ADMIN_ROLE: common
        | {
            "allowed_domains": [ADMIN_NAME],
            "allow_ip_sans": False,
            "server_flag": False,
            "max_ttl": ADMIN_TTL_S,
        },
    }


def issue_broker(
    client: VaultClient,
    *,
    hosts: Sequence[str] = _LOCAL,
    addresses: Sequence[str] = ("127.0.0.1",),
    ttl_s: int = BROKER_TTL_S,
) -> Issued:
    """A broker's certificate, valid for those names and IP addresses for `ttl_s` seconds.

    Raises VaultError.
    """
    return _issue(
        client,
        BROKER_ROLE,
        {"common_name": BROKER_NAME, "alt_names": ",".join(hosts), "ip_sans": ",".join(addresses)},
        ttl_s,
    )


def issue_admin(client: VaultClient, *, ttl_s: int = ADMIN_TTL_S) -> Issued:
    """An administrator's certificate: short-lived, made when needed, stored nowhere. Raises VaultError."""
    return _issue(client, ADMIN_ROLE, {"common_name": ADMIN_NAME}, ttl_s)


def _issue(client: VaultClient, role: str, request: dict[str, str], ttl_s: int) -> Issued:
    path = f"{MOUNT}/issue/{role}"
    # The name is a person's label for the certificate, and no host's.
    body = request | {"ttl": f"{ttl_s}s", "private_key_format": "pkcs8", "exclude_cn_from_sans": True}
    answer = client.write(path, body)
    try:
        return Issued(
            certificate=Certificate(pem=answer["certificate"], key=Secret(answer["private_key"])),
            ca_pem=answer["issuing_ca"],
        )
    except KeyError as error:
        raise VaultError(f"Vault at {client.address} answers {path} without {error}") from error
