"""Vault's PKI engine as the certificate authority of the pipeline. Its private keys never leave Vault.

There are two authorities, each in an engine of its own, so that the brokers, which take Kafka's for a log-in, do not
trust a certificate of the API. A role is for one subject only: a policy on the path of a role decides who may get which
certificate. Vault makes the private key of each certificate, and does not keep it."""

import tomllib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bdlab.certificates import LOCAL_HOSTS
from bdlab.credentials import Certificate
from bdlab.errors import VaultError
from bdlab.settings import Secret
from bdlab.vault.client import VaultClient

BROKER_ROLE, ADMIN_ROLE = "broker", "admin"


class PkiRole(msgspec.Struct, frozen=True, kw_only=True):
    """A role of the engine, and the `subject` of its certificates. `max_ttl_s` is in seconds."""

    name: str
    subject: str
    server: bool
    client: bool
    max_ttl_s: int


class CertificateAuthority(msgspec.Struct, frozen=True, kw_only=True):
    """One root certificate in one engine, and its roles. `title` is its name in messages."""

    mount: str
    issuer: str
    title: str
    roles: tuple[PkiRole, ...]


_TABLE: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
CERTIFICATE_AUTHORITIES = msgspec.convert(_TABLE["authorities"], dict[str, CertificateAuthority])
KAFKA, SERVERS = (CERTIFICATE_AUTHORITIES[name] for name in ("kafka", "servers"))


def authority_pem(client: VaultClient, authority: CertificateAuthority = KAFKA) -> str:
    """Return the authority's certificate, by which its servers are verified. Raises VaultError."""
    return str(client.read(f"{authority.mount}/issuer/{authority.issuer}/json")["certificate"])


def missing(
    client: VaultClient, *, hosts: Iterable[str] = (), authority: CertificateAuthority = KAFKA
) -> dict[str, Callable[[VaultClient], object]]:
    """Return what is missing of engine, root certificate and roles, in order, each with the call that makes it. `hosts`
    are the servers' host names; localhost and IP addresses are always allowed. Names that are allowed already stay
    allowed. Reads only. Raises VaultError."""
    mount, ttl = authority.mount, f"{10 * 365 * 86400}s"
    steps: dict[str, Callable[[VaultClient], object]] = {}

    def add(what: str, path: str, values: dict[str, Any]) -> None:
        steps[what] = partial(VaultClient.write, path=path, body=values)

    mounted = f"{mount}/" in client.read("sys/mounts")
    if not mounted:
        engine = {"type": "pki", "config": {"max_lease_ttl": ttl}}
        add(f"secrets engine {mount}", f"sys/mounts/{mount}", engine)
    listed = (client.read_if_present(f"{mount}/issuers?list=true") if mounted else None) or {}
    if not any(issuer.get("issuer_name") == authority.issuer for issuer in listed.get("key_info", {}).values()):
        # If another run made a root meanwhile, the issuer's name makes this call fail.
        root = {"common_name": f"bdlab {authority.title} authority", "issuer_name": authority.issuer, "ttl": ttl}
        key = {"key_type": "ec", "key_bits": 256}
        add(f"certificate authority for {authority.title}", f"{mount}/root/generate/internal", root | key)
    for role in authority.roles:
        path = f"{mount}/roles/{role.name}"
        held = (client.read_if_present(path) if mounted else None) or {}
        names = {role.subject, *((*LOCAL_HOSTS, *hosts, *held.get("allowed_domains", ())) if role.server else ())}
        wanted = _TABLE["every_role"] | {"issuer_ref": authority.issuer, "allowed_domains": sorted(names)}
        wanted |= {"allow_ip_sans": role.server, "server_flag": role.server, "client_flag": role.client}
        wanted["max_ttl"] = role.max_ttl_s
        if any(held.get(field) != value for field, value in wanted.items()):
            add(f"certificate role {role.name}", path, wanted)
    return steps


def issue(
    client: VaultClient, name: str, *, hosts: Sequence[str] = LOCAL_HOSTS, ttl_s: int | None = None
) -> Certificate:
    """Issue a certificate of the role `name`, for `ttl_s` seconds, or for as long as the role allows. A server's is for
    `hosts` and this machine's address; an administrator's is stored nowhere. Raises VaultError."""
    roles = ((authority.mount, role) for authority in CERTIFICATE_AUTHORITIES.values() for role in authority.roles)
    path, role = next((f"{mount}/issue/{name}", role) for mount, role in roles if role.name == name)
    body: dict[str, Any] = {"common_name": role.subject, "ttl": f"{ttl_s or role.max_ttl_s}s"}
    # The common name is a label, not a host.
    body |= {"private_key_format": "pkcs8", "exclude_cn_from_sans": True}
    if role.server:
        body |= {"alt_names": ",".join(hosts), "ip_sans": "127.0.0.1"}
    answer = client.write(path, body)
    try:
        return Certificate(pem=answer["certificate"], key=Secret(answer["private_key"]), ca_pem=answer["issuing_ca"])
    except KeyError as error:
        raise VaultError(f"{client} answers {path} without {error}") from error
