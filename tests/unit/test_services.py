"""The table of services, and all that has to agree with it and needs no server to be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from confluent_kafka.admin import AclOperation
from hypothesis import given
from hypothesis import strategies as st

from bdlab.credentials import KafkaLogin
from bdlab.kafka.broker_admin import grants
from bdlab.postgres.contracts import migrations
from bdlab.postgres.session import queries
from bdlab.resources import policies_dir
from bdlab.services import (
    BDLAB,
    CONNECTION,
    DAEMONS,
    DATABASE_ROLES,
    IDENTITIES,
    INSPECT,
    KAFKA_SERVICES,
    MANAGER,
    SWEEP,
    TABLE,
    Deployment,
    Service,
)
from bdlab.settings import KafkaSettings, VaultSettings
from bdlab.vault.bootstrap import database
from bdlab.vault.bootstrap.steps import policy_text

ROOT = Path(__file__).parents[2]
BY_NAME = pytest.mark.parametrize("service", TABLE, ids=lambda service: service.name)


def paths(service: str) -> set[str]:
    """The paths that the service's policy names."""
    text = (policies_dir() / f"{service}.hcl").read_text("utf-8")
    return set(re.findall(r'^path "([^"]+)"', text, re.MULTILINE))


def wanted(service: Service) -> set[str]:
    """The paths of the engines that the service needs for what the table gives it."""
    found = {f"auth/token/{verb}-self" for verb in ("lookup", "renew", "revoke")}
    if service.kafka is not None:
        found |= {"kv/data/kafka/credentials", f"kv/data/kafka/{service.name}"}
    if service.database:
        found |= {"kv/data/database/credentials", f"database/creds/{service.database.name}", "sys/leases/renew"}
    if service.daemon:
        found |= {f"kv/{kind}/clients/{service.name}/+" for kind in ("data", "metadata")}
    if service.api_keys != "no":
        found |= {"kv/data/api-keys/+", "kv/metadata/api-keys"}
    if service.api_keys == "writes":
        found |= {"kv/metadata/api-keys/+"}
    if service.name == "console":
        found |= {"kv/data/clients/+/+", "kv/metadata/kafka/+", "kv/metadata/clients/+", "kv/metadata/clients/console"}
        found |= {"kv/data/oidc/console"}
    return found


def test_each_service_has_one_policy_and_each_policy_one_service() -> None:
    assert {file.stem for file in policies_dir().glob("*.hcl")} == set(IDENTITIES)


@BY_NAME
def test_a_policy_gives_what_the_table_says_and_no_other_service_s(service: Service) -> None:
    allowed = paths(service.name)
    covered = {path for path in wanted(service) if path in allowed or re.sub("[^/]+$", "*", path) in allowed}
    assert covered == wanted(service)
    if service.name != "rotate":  # it replaces the credentials of all: see below
        engines = {path for path in allowed if re.match("(kv|database)/(data|creds)|kv/metadata/api|sys/leases", path)}
        extra = {"migrate": {"kv/data/kafka/*", f"database/creds/{SWEEP}"}}.get(service.name, set())
        assert engines - extra <= wanted(service)


def test_rotate_reaches_each_credential_that_it_replaces() -> None:
    rotated = [service.name for service in TABLE if service.rotated]
    ids = ("secret-id", "role-id", "secret-id-accessor/lookup", "secret-id-accessor/destroy")
    assert paths("rotate") == {
        *wanted(next(service for service in TABLE if service.name == "rotate")),
        f"database/rotate-root/{CONNECTION}",
        f"database/creds/{SWEEP}",
        *(f"sys/leases/revoke-prefix/database/creds/{role.name}" for role in DATABASE_ROLES),
        "pki-kafka/issue/admin",
        *(f"kv/data/kafka/{name}" for name in ("credentials", *KAFKA_SERVICES)),
        "kv/metadata/kafka/+",
        *(f"kv/metadata/clients/{name}" for name in DAEMONS),
        *(f"kv/{kind}/clients/{name}/+" for name in DAEMONS for kind in ("data", "metadata")),
        *(f"auth/approle/role/{name}/{path}" for name in rotated for path in ids),
    }


@BY_NAME
def test_the_acls_are_the_operations_of_the_table(service: Service) -> None:
    resources = {"predictions": "topic", "bdlab-db-consumer": "group", "kafka-cluster": "cluster"}
    resources |= {"feedback": "feedback", "bdlab-db-consumer-feedback": "feedback-group"}
    made = grants(service.name, KafkaLogin(server=KafkaSettings(), username="somebody"))
    assert {acl.principal for acl in made} <= {"User:somebody"}
    named = {f"{AclOperation(acl.operation).name.lower()} {resources[acl.name]}" for acl in made}
    assert named == set(service.kafka or ())


def test_no_database_role_may_enter_the_servers_own_databases() -> None:
    rules = (ROOT / "infra/postgres/pg_hba.conf").read_text("utf-8")
    refused = [line.split()[2] for line in rules.splitlines() if line.endswith(" reject")]
    assert [set(users.split(",")) for users in refused] == [{f"+{role.group}" for role in DATABASE_ROLES}] * 2


def test_the_table_in_the_documentation_is_this_one() -> None:
    def row(service: Service) -> str:
        role = f"`{service.database.name}`" if service.database else "none"
        kafka = "no user" if service.kafka is None else ", ".join(service.kafka) or "none of its own"
        yes_no = [("no", "yes")[flag] for flag in (service.daemon, service.rotated)]
        return f"| {' | '.join((f'`{service.name}`', role, kafka, *yes_no, service.api_keys))} |"

    head = "| service | database role | Kafka operations |"
    (page,) = (text for file in ROOT.glob("docs/**/*.md") if head in (text := file.read_text("utf-8")))
    written = page.partition(head)[2].partition("\n\n")[0].splitlines()[2:]
    assert written == [row(service) for service in TABLE]


#: Names that mean something at one of the servers, or are near to another one.
ODD = ("a", "ab", "kv", "pki", "root", "default", "postgres", "template1", "bdlab2", "api", "v", "public")
DEPLOYMENTS = st.one_of(st.sampled_from(("bdlab", *ODD)), st.from_regex("[a-z][a-z0-9]{0,20}", fullmatch=True))
DEPLOYMENTS = DEPLOYMENTS.filter(lambda name: name != "pg").map(Deployment)


def names(deployment: Deployment) -> set[tuple[str, str]]:
    """Every name of a deployment, with where it has to be the only one."""
    roles = (MANAGER, *(role.group for role in DATABASE_ROLES))
    users = [f"bdlab-{service}-{which}" for service in KAFKA_SERVICES for which in "ab"]
    made = {
        "policy, AppRole, folder": map(deployment.own, IDENTITIES),
        "role of Vault": map(deployment.own, (SWEEP, *(role.name for role in DATABASE_ROLES))),
        "connection of Vault": [deployment.own(CONNECTION)],
        "mount": map(deployment.own, ("kv",)),
        "user of Kafka": map(deployment.own, users),
        "role of PostgreSQL": map(deployment.in_sql, roles),
        "database": [deployment.database],
        "topic": [deployment.own(name) for name in (KafkaSettings().topic, KafkaSettings().feedback_topic)],
        "group": [deployment.own(name) for name in (KafkaSettings().group, KafkaSettings().feedback_group)],
    }
    taken = {("mount", name) for name in ("database", "pki-kafka", "pki-servers")}
    taken |= {("database", name) for name in ("postgres", "template0", "template1")}
    found = {(where, name) for where, names in made.items() for name in names}
    assert not found & taken
    assert not [name for where, name in found if where == "role of PostgreSQL" and len(name) > 63]
    return found


def policy_paths(service: str, deployment: Deployment) -> list[str]:
    vault = VaultSettings(kv_mount=deployment.own("kv"))
    return re.findall(r'^path "([^"]+)"', policy_text(service, vault, deployment), re.MULTILINE)


def reaches(pattern: str, path: str) -> bool:
    """Whether Vault's `pattern` covers `path`, which may be one itself."""
    parts = (re.escape(part) if part != "+" else "[^/]+" for part in pattern.removesuffix("*").split("/"))
    return bool(re.fullmatch("/".join(parts) + (".*" if pattern.endswith("*") else ""), path))


@given(DEPLOYMENTS, DEPLOYMENTS)
def test_no_two_deployments_have_a_name_in_common(one: Deployment, other: Deployment) -> None:
    assert one == other or not names(one) & names(other)


@pytest.mark.parametrize(("mine", "their"), [("bdlab", "a"), ("a", "bdlab"), ("a", "ab"), ("ab", "a")])
def test_no_policy_reaches_what_is_of_another_deployment(mine: str, their: str) -> None:
    one, other = Deployment(mine), Deployment(their)
    shared = re.compile("auth/token/|sys/(?!policies|leases/revoke)|pki-")
    theirs = {path for name in IDENTITIES for path in policy_paths(name, other) if not shared.match(path)}
    assert len(theirs) > len(IDENTITIES)
    for name in IDENTITIES:
        allowed = policy_paths(name, one)
        reached = [path for path in theirs if any(reaches(pattern, path) for pattern in allowed)]
        # Before there were other deployments, `inspect` looked at all of the set-up, where no secret is.
        looks = [
            path for path in reached if re.match("auth/approle/role/|sys/policies/|database/(config|roles)/", path)
        ]
        assert reached == (looks if one == BDLAB and name == INSPECT else [])


def test_policies_and_sql_of_bdlab_are_the_files() -> None:
    for name in IDENTITIES:
        assert policy_text(name, VaultSettings(), BDLAB) == (policies_dir() / f"{name}.hcl").read_text("utf-8")
    sql = [one.sql for one in migrations()] + list(queries("migrations").values()) + database.sweep()
    for role in DATABASE_ROLES:
        sql += database.creation(role.group) + database.revocation(role.group)
    for text in sql:
        assert BDLAB.in_sql(text) == text
        assert not re.search(
            "bdlab_(owner|writer|dlq|model|rescore|reader)|-bdlab-(..-|ow)", Deployment("a").in_sql(text)
        )


@given(DEPLOYMENTS, st.sampled_from([role.name for role in DATABASE_ROLES]))
def test_the_users_of_a_deployment_are_known_by_their_names(one: Deployment, role: str) -> None:
    def left_behind(deployment: Deployment) -> str:
        (pattern,) = re.findall("rolname ~ '(.+)'\n", deployment.in_sql(database.sweep()[0]))
        return str(pattern)

    cut = f"v-approle-{role[:8]}-AbCdEfGhIjKlMnOpQrSt-1790000000"
    whole = f"{one.own(role).replace('-', '_')}_AbCdEfGhIjKlMnOpQrSt_1790000000"
    user = cut if one == BDLAB else whole
    assert len(user) <= 63
    for other in (one, BDLAB, *map(Deployment, ODD)):
        assert bool(re.search(left_behind(other), user)) is (one == other)
