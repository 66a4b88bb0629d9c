"""The steps of `vault-init`, but those of the database engine.

They set up a policy, an AppRole and a secret id for each identity; the namespace, and what has to be in the root
namespace nevertheless; the engines (key-value store, database engine, AppRole log-in); the first version of every
secret in the key-value engine, and never another one; and Vault as the authority of the servers' certificates, with a
broker's first one."""

import contextlib
import re
import secrets
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import msgspec

from bdlab.certificates import BROKER_TTL_S, GROUP_READS, LOCAL_HOSTS, CertificateFiles
from bdlab.errors import InvalidInput, PolicyDenied, SecretMissing, SettingsInvalid, VaultError, VaultUnavailable
from bdlab.resources import policies_dir
from bdlab.retry import wait_for
from bdlab.services import BDLAB, IDENTITIES, INSPECT, KAFKA_SERVICES, RECOVERY, Deployment
from bdlab.settings import KafkaSettings, PostgresSettings, VaultSettings
from bdlab.vault import pki
from bdlab.vault.bootstrap.plan import Change, Entry, Plan, Step, entries
from bdlab.vault.client import VaultClient
from bdlab.vault.identity import Identity
from bdlab.vault.logins import ADDRESS_FIELDS
from bdlab.vault.responses import refusal

_LOOKUP_SELF = "auth/token/lookup-self"
_DATABASE, _BROKER = "database/credentials", "kafka/credentials"
NAMESPACE = "namespace"


def policy_text(service: str, vault: VaultSettings, deployment: Deployment) -> str:
    """Return a service's policy, with the engines' paths and the deployment's names. Raises VaultError."""
    file = policies_dir() / f"{service}.hcl"
    try:
        text = file.read_text("utf-8")
    except OSError as error:
        raise VaultError(f"the policy file {file} cannot be read: {error.strerror}") from error
    mounts = {"kv": vault.kv_mount, "database": vault.database_mount, "auth/approle": f"auth/{vault.approle_mount}"}

    def renamed(match: re.Match[str]) -> str:
        before, engine, kind, name = match.groups()
        name = name if engine == "kv" else deployment.own(name)
        return f"{before}{mounts.get(engine, engine)}/{kind}{name}"

    if deployment != BDLAB:  # `+` would be the AppRoles of all deployments
        each_role = r'(?ms)^path "auth/approle/role/\+.+?^}\n'
        text = re.sub(each_role, lambda block: "".join(block[0].replace("+", one) for one in IDENTITIES), text)
    engines = "kv|database|auth/approle|sys/policies"
    return re.sub(rf'(?m)^(path "(?:sys/leases/revoke-prefix/)?)({engines})/([^/]+/)([^/"]+)', renamed, text)


def policy_entries(plan: Plan, services: Sequence[str]) -> Step:
    """Return the step that sets up the policies."""
    texts = {plan.deployment.own(name): policy_text(name, plan.vault, plan.deployment) for name in services}
    wanted = {name: Entry(path=f"sys/policies/acl/{name}", wanted={"policy": text}) for name, text in texts.items()}
    return entries("policies", wanted)


def approle_entries(plan: Plan, services: Sequence[str]) -> Step:
    """Return the step that sets up the AppRoles. If `.env` names networks, secret ids and tokens work only from there.
    A secret id can be used again, as a restart needs it; `rotate` replaces it."""
    seeds, found = plan.seeds, {}
    for service in services:
        name, defaults = plan.deployment.own(service), {}
        wanted: dict[str, Any] = {"token_policies": [name], "token_no_default_policy": True, "token_type": "service"}
        wanted |= {"bind_secret_id": True, "secret_id_num_uses": 0, "secret_id_ttl": 0}
        if seeds and seeds.cidrs is not None:
            wanted |= {"secret_id_bound_cidrs": list(seeds.cidrs), "token_bound_cidrs": list(seeds.cidrs)}
        if service in {INSPECT, RECOVERY}:
            wanted |= {"token_ttl": 300, "token_max_ttl": 900}
        elif seeds and seeds.token_period_s is not None:
            wanted["token_period"] = seeds.token_period_s
        else:
            defaults["token_period"] = 3600
        found[service] = Entry(path=f"auth/{plan.vault.approle_mount}/role/{name}", wanted=wanted, defaults=defaults)
    return entries("identities", found)


def secret_ids(plan: Plan, anonymous: VaultClient, services: Sequence[str]) -> Step:
    """Return the step that gives each folder its role id, and a wrapped secret id if it has no valid one."""
    identities = {service: Identity.of(plan.vault, plan.deployment, service) for service in services}

    def missing(reader: VaultClient) -> dict[str, Change]:
        due = [name for name in services if name in plan.renew or not _is_valid(identities[name], reader, anonymous)]
        return {service: partial(hand_over, service) for service in due}

    def hand_over(service: str, writer: VaultClient) -> None:
        identity = identities[service]
        before = identity.wrapped_secret_id()
        replaces = before.replaces if before else ()
        # A secret id handed over earlier ends: it was lost, or somebody else has it, or another is asked for.
        ended = [before.accessor] if before else []
        if service in plan.renew:
            ended, replaces = [*ended, identity.accessor, *replaces], ()
        identity.destroy(writer, filter(None, ended))
        identity.hand_over(writer, wrap_ttl_s=plan.wrap_ttl_s, replaces=replaces)

    def obtain(handed_over: Collection[str]) -> None:
        # Unwrapped here: vault-init itself is the receiver, and a command may not be run in time.
        renewed = set(plan.renew).intersection(handed_over)
        for service in {INSPECT, RECOVERY, *renewed}.intersection(services):
            identities[service].obtain(anonymous)

    return Step(name="secret ids", missing=missing, at_once=True, finish=obtain)


def _is_valid(identity: Identity, reader: VaultClient, anonymous: VaultClient) -> bool:
    role = identity.role(reader)
    if not identity.exists or (reader.read_if_present(f"{role}/role-id") or {}).get("role_id") != identity.role_id():
        return False
    wrapped = identity.wrapping_token()
    if wrapped and anonymous.wrapped_at(wrapped):
        return True
    secret_id = identity.secret_id()
    # If a spent one lies there, the service refuses the older one, and somebody else may have the new one.
    if secret_id is None or identity.spent(anonymous):
        return False
    # Vault answers 204 without a body if it does not know the id.
    return bool(reader.write(f"{role}/secret-id/lookup", {"secret_id": secret_id.reveal()}))


def namespace_step(path: str) -> Step:
    """Return the step that makes the namespace, and those above it, if they are missing. To look raises SettingsInvalid
    if Vault has no namespaces."""

    def missing(reader: VaultClient) -> dict[str, Change]:
        if not _there(reader):
            return {path: partial(_make, path)}
        try:
            reader.in_namespace(f"{path}/bdlab-asks-whether-this-is-refused").read(_LOOKUP_SELF)
        except VaultUnavailable:
            raise
        except VaultError:
            return {}
        raise refusal(SettingsInvalid, "no_namespaces", client=reader, path=path)

    return Step(name=NAMESPACE, missing=missing)


def _make(path: str, writer: VaultClient) -> None:
    parts = path.split("/")
    for depth, name in enumerate(parts):
        if _there(writer.in_namespace("/".join(parts[: depth + 1]))):
            continue
        try:
            writer.in_namespace("/".join(parts[:depth])).write(f"sys/namespaces/{name}")
        except PolicyDenied as error:
            raise refusal(VaultError, "no_namespace", client=writer, path=path) from error


def root_namespace_step(*steps: Step) -> Step:
    """Return the step that sets up the identity `recovery` in the root namespace by these steps. Only that one can make
    a root token."""

    def missing(reader: VaultClient) -> dict[str, Change]:
        if reader.own_token().get("namespace_path"):
            return {}  # a token of a namespace, as that of `inspect`, sees nothing of those above
        found = [(step, each) for step in steps for each in step.missing(reader.in_namespace("")).items()]
        return {f"{step.name} of {each[0]}": partial(apply, step, dict([each])) for step, each in found}

    def apply(step: Step, changes: dict[str, Change], writer: VaultClient) -> None:
        step.apply(writer.in_namespace(""), changes)

    return Step(name="root namespace", missing=missing)


def _there(client: VaultClient) -> bool:
    with contextlib.suppress(PolicyDenied):
        return client.read_if_present(_LOOKUP_SELF) is not None
    return True


class _Mount(msgspec.Struct, frozen=True):
    """`listing` is the path where such mounts are listed, and under which one is made."""

    path: str
    listing: str
    kind: str
    options: dict[str, str] = {}

    def is_in(self, listed: dict[str, Any]) -> bool:
        """Return whether it is mounted. Raises SettingsInvalid if something else is there."""
        if not isinstance(found := listed.get(f"{self.path}/"), dict):
            return False
        options, needed = found.get("options") or {}, self.options or ""
        if found.get("type") == self.kind and {**options, **self.options} == options:
            return True
        raise refusal(SettingsInvalid, "taken_path", mount=self, found=found, options=options, needed=needed)

    def make(self, writer: VaultClient) -> None:
        options = {"options": self.options} if self.options else {}
        writer.write(f"{self.listing}/{self.path}", {"type": self.kind, **options})
        if self.kind == "kv":
            # HashiCorp Vault answers 400 for a moment at a new KV v2 engine.
            ready = partial(writer.read, f"{self.path}/config")
            wait_for("Vault", ready, timeout_s=15.0, errors=lambda error: type(error) in {VaultError, VaultUnavailable})


def mounts(plan: Plan, *, log_in_only: bool = False) -> Step:
    """Return the step that mounts the engines, or only the log-in."""
    vault = plan.vault
    wanted = (
        _Mount(vault.kv_mount, "sys/mounts", "kv", {"version": "2"}),
        _Mount(vault.database_mount, "sys/mounts", "database"),
        _Mount(vault.approle_mount, "sys/auth", "approle"),
    )[-1 if log_in_only else 0 :]

    def missing(reader: VaultClient) -> dict[str, Change]:
        listed = {path: reader.request("get", path) for path in ("sys/mounts", "sys/auth")}
        return {mount.path: mount.make for mount in wanted if not mount.is_in(listed[mount.listing])}

    return Step(name="engines", missing=missing)


def key_values(plan: Plan) -> Step:
    """Return the step. It writes strings only: Vault's audit log masks strings, but no numbers."""
    mount = plan.vault.kv_mount

    def missing(reader: VaultClient) -> dict[str, Change]:
        paths = (_DATABASE, _BROKER, *(f"kafka/{service}" for service in KAFKA_SERVICES))
        found = {path: reader.read_if_present(f"{mount}/metadata/{path}") or {} for path in paths}
        return {path: partial(write, path) for path in paths if not found[path].get("current_version")}

    def write(path: str, writer: VaultClient) -> None:
        try:
            writer.write_kv(path, _values(plan, path, writer), cas=0)
        except VaultError as error:
            # With cas=0 Vault refuses if somebody else wrote it meanwhile: theirs stays.
            if "check-and-set" not in error.message:
                raise

    return Step(name="key-value seed", missing=missing, at_once=True)


def _values(plan: Plan, path: str, writer: VaultClient) -> dict[str, str]:
    seeds, service = plan.seeds, path.rpartition("/")[2]
    if seeds is None:
        # A service that is newer than the set-up gets what the others have.
        other = f"{plan.vault.kv_mount}/data/kafka/{KAFKA_SERVICES[0]}"
        known = None if path in (_DATABASE, _BROKER) else writer.read_if_present(other)
        if known is None:
            raise refusal(InvalidInput, "no_seed", path=path)
        shared = {} if "idle_username" in known["data"] else known["data"]
    elif path == _DATABASE:
        ca_pem = pki.authority_pem(writer, pki.SERVERS) if seeds.postgres_authority else seeds.postgres_ca_pem
        return _address("postgres", seeds.administrator.server) | ({"ca_pem": ca_pem} if ca_pem else {})
    elif path == _BROKER:
        ca_pem = pki.authority_pem(writer) if seeds.kafka_authority else seeds.kafka.ca_pem
        return _address("kafka", seeds.kafka.server) | {"ca_pem": ca_pem}
    else:
        user, password = seeds.kafka.username, seeds.kafka.password.reveal()
        shared = {"username": user, "password": password} if user else {}
    if shared:
        return shared
    # The active user, and the idle one, which the next rotation makes the active one.
    active, idle = (plan.deployment.own(f"bdlab-{service}-{letter}") for letter in "ab")
    passwords = {name: secrets.token_urlsafe(24) for name in ("password", "idle_password")}
    return {"username": active, "idle_username": idle, **passwords}


def _address(section: str, server: PostgresSettings | KafkaSettings) -> dict[str, str]:
    return {field: str(getattr(server, field)) for field in ADDRESS_FIELDS[section]}


def broker_certificate(files: CertificateFiles, ttl_s: int) -> Step:
    """Issue the certificate of a broker on this machine, which can start while the rest is set up."""

    def missing(reader: VaultClient) -> dict[str, Change]:
        with contextlib.suppress(SecretMissing):
            if files.good_for(LOCAL_HOSTS, authority=pki.authority_pem(reader)):
                return {}
        return dict.fromkeys(LOCAL_HOSTS, issue)

    def issue(writer: VaultClient) -> None:
        files.write(pki.issue(writer, pki.BROKER_ROLE, ttl_s=ttl_s), LOCAL_HOSTS, ttl_s=ttl_s)

    return Step(name="broker certificate", missing=missing)


def certification(plan: Plan) -> list[list[Step]]:
    """Return one chain of steps for each authority that the plan or its `.env` asks for."""
    seeds, chains = plan.seeds, []
    asked = {"kafka": seeds.kafka_authority, "servers": seeds.postgres_authority} if seeds else {}
    brokers = seeds.kafka.server.servers() if seeds else ()
    # Before Kafka 4 the metadata is in ZooKeeper, which needs a certificate of the same authority.
    hosts = {"kafka": (*(host for host, _ in brokers), "zookeeper")}
    for name, authority in pki.CERTIFICATE_AUTHORITIES.items():
        if name in plan.certificate_authorities or asked.get(name):
            missing = partial(pki.missing, hosts=hosts.get(name, ()), authority=authority)
            chain = [Step(name=f"{authority.title} authority", missing=missing)]
            if plan.broker_folder and name == "kafka":
                files = CertificateFiles(plan.broker_folder, mode=GROUP_READS)
                chain.append(broker_certificate(files, plan.broker_ttl_s or BROKER_TTL_S))
            chains.append(chain)
    return chains
