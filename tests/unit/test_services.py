"""The table of services, and all that has to agree with it and needs no server to be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from confluent_kafka.admin import AclOperation  # type: ignore[attr-defined] # its stub does not re-export it

from bdlab.credentials import KafkaLogin
from bdlab.kafka.broker_admin import grants
from bdlab.resources import policies_dir
from bdlab.services import (
    CONNECTION,
    DAEMONS,
    DATABASE_ROLES,
    IDENTITIES,
    KAFKA_SERVICES,
    SWEEP,
    TABLE,
    Service,
)
from bdlab.settings import KafkaSettings

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
        found |= {
            "kv/data/database/credentials",
            f"database/creds/{service.database.name}",
            "sys/leases/renew",
        }
    if service.daemon:
        found |= {f"kv/{kind}/clients/{service.name}/+" for kind in ("data", "metadata")}
    return found


def test_each_service_has_one_policy_and_each_policy_one_service() -> None:
    assert {file.stem for file in policies_dir().glob("*.hcl")} == set(IDENTITIES)


@BY_NAME
def test_a_policy_gives_what_the_table_says_and_no_other_service_s(service: Service) -> None:
    allowed = paths(service.name)
    covered = {path for path in wanted(service) if path in allowed or re.sub("[^/]+$", "*", path) in allowed}
    assert covered == wanted(service)
    if service.name != "rotate":  # it replaces the credentials of all: see below
        engines = {path for path in allowed if re.match("(kv|database)/(data|creds)|sys/leases", path)}
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
        *(f"kv/metadata/clients/{name}" for name in DAEMONS),
        *(f"kv/{kind}/clients/{name}/+" for name in DAEMONS for kind in ("data", "metadata")),
        *(f"auth/approle/role/{name}/{path}" for name in rotated for path in ids),
    }


@BY_NAME
def test_the_acls_are_the_operations_of_the_table(service: Service) -> None:
    resources = {"predictions": "topic", "bdlab-db-consumer": "group", "kafka-cluster": "cluster"}
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
        return f"| {' | '.join((f'`{service.name}`', role, kafka, *yes_no))} |"

    head = "| service | database role | Kafka operations |"
    (page,) = (text for file in ROOT.glob("docs/**/*.md") if head in (text := file.read_text("utf-8")))
    written = page.partition(head)[2].partition("\n\n")[0].splitlines()[2:]
    assert written == [row(service) for service in TABLE]
