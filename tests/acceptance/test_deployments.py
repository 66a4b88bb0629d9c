"""Two deployments on one Vault, one secured Kafka and one PostgreSQL: each whole, and closed to the other."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import msgspec
import psycopg2
import pytest

from bdlab import settings
from bdlab.errors import PolicyDenied
from bdlab.services import BDLAB, DATABASE_ROLES, IDENTITIES, INSPECT, KAFKA_SERVICES, TABLE, Deployment
from bdlab.settings import VaultSettings
from bdlab.stack import ApacheKafka
from bdlab.vault.client import Method, VaultClient
from bdlab.vault.identity import Identity
from bdlab.vault.session import VaultSession
from tests.broker_operations import OPERATIONS, Target
from tests.fix_pipeline import SECURED, Pipeline, secured_pipeline
from tests.fix_vault import connect
from tests.waiting import until

# One process has the servers that they share.
pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("deployments")]

SALES = Deployment("sales")
BOTH = (BDLAB, SALES)
PAIRS = [(BDLAB, SALES), (SALES, BDLAB)]
#: How many predictions each has, and how much feedback.
STORED = {BDLAB: 2, SALES: 3}
FEEDBACK = {BDLAB: 1, SALES: 2}
CHECKS = [word for group in ("vault", "kafka", "postgres") for word in ("--check", group)]
REVIEW = {"text": "This product is terrible!"}
#: What a service might do to a topic and a group. The rest is about the whole broker, and refused to all; and
#: records are deleted by a client that asks first for the leaders of a topic, which it does not see.
REACHING_IN = [name for name in OPERATIONS if name.endswith(("topic", "settings", "partitions", "group", "offsets"))]


class Two:
    """The servers, and the two that are set up on them."""

    def __init__(self, pipeline: Pipeline, kafka: ApacheKafka) -> None:
        self.pipeline = pipeline
        self.kafka = kafka
        self.address = SECURED | {"BDLAB_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers}

    def environment(self, deployment: Deployment) -> dict[str, str]:
        named = {} if deployment == BDLAB else {"BDLAB_DEPLOYMENT": str(deployment)}
        return named | {"BDLAB_KAFKA_ADMIN_SERVERS": self.kafka.admin_servers}

    def run(self, deployment: Deployment, *arguments: str) -> str:
        done = self.pipeline.run(*arguments, **self.environment(deployment))
        assert done.returncode == 0, f"{deployment} {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def vault_init(self, deployment: Deployment) -> dict[str, str]:
        """What became of each step."""
        printed = self.pipeline.vault_init(self.address, "--json", **self.environment(deployment))
        return {step["name"]: step["outcome"] for step in json.loads(printed)}

    def session(self, deployment: Deployment, service: str) -> VaultSession:
        layers = settings.load(environ=self.pipeline.environment(**self.environment(deployment)))
        role = deployment.database_role(service)
        kafka = service in KAFKA_SERVICES
        return VaultSession(layers, service=service, database_role=role, kafka=kafka, daemon=False)

    @contextlib.contextmanager
    def logged_in(self, deployment: Deployment, service: str) -> Iterator[VaultClient]:
        vault = self.pipeline.vault
        kv_mount = deployment.own("kv")
        client = VaultClient(VaultSettings(address=vault.address, ca_file=vault.ca_file, kv_mount=kv_mount))
        identity = Identity(self.pipeline.folder / "identity" / deployment.own(service), service=service)
        client.token = client.log_in(*identity.obtain(client)).token
        try:
            yield client
        finally:
            client.revoke_self()
            client.close()

    def versions(self, deployment: Deployment) -> dict[str, int]:
        """The version of each Kafka login in Vault."""
        with self.logged_in(deployment, "migrate") as client:
            return {name: client.read_kv(f"kafka/{name}")[1] for name in KAFKA_SERVICES}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with secured_pipeline(tmp_path_factory.mktemp("deployments"), ApacheKafka) as (pipeline, kafka):
        both = Two(pipeline, kafka)
        assert both.vault_init(SALES)["policies"] == "done"
        both.run(SALES, "migrate")
        for deployment, count in STORED.items():
            ids = [json.loads(both.run(deployment, "predict", "--json", REVIEW["text"]))["id"] for _ in range(count)]
            for one in ids[: FEEDBACK[deployment]]:
                both.run(deployment, "feedback", one, "sentiment=negative", "--source", str(deployment))
            both.run(deployment, "consume", "--until-idle")
        yield both


@pytest.mark.parametrize("deployment", BOTH)
def test_a_second_set_up_changes_nothing(two: Two, deployment: Deployment) -> None:
    assert set(two.vault_init(deployment).values()) == {"unchanged"}
    printed = two.run(deployment, "migrate").splitlines()
    assert {f"topic {deployment.own(topic)}: unchanged" for topic in ("predictions", "feedback")} <= set(printed)
    assert [line for line in printed if not line.endswith(": unchanged")] == []


@pytest.mark.parametrize("deployment", BOTH)
def test_each_is_verified_by_its_own_numbers(two: Two, deployment: Deployment) -> None:
    found = json.loads(two.run(deployment, "verify", "--json"))
    stored = Counter[str]()
    for one in found["partitions"]:
        stored[one["topic"]] += one["stored"]
    its = {"predictions": STORED[deployment], "feedback": FEEDBACK[deployment]}
    assert stored == {deployment.own(topic): count for topic, count in its.items()}
    assert found["unknown_feedback"] == 0
    checks = {one["name"]: one for one in json.loads(two.run(deployment, "status", "--json", *CHECKS))["checks"]}
    assert checks["vault.policies"]["message"] == deployment.own("status")
    assert checks["postgres.rows"]["detail"] == {"rows": STORED[deployment], "feedback": FEEDBACK[deployment]}
    with (
        two.session(deployment, "verify") as session,
        contextlib.closing(connect(session.database())) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT DISTINCT feedback_source FROM quality WHERE feedback_source IS NOT NULL")
        assert cursor.fetchall() == [(str(deployment),)]


@pytest.mark.parametrize(("mine", "other"), PAIRS)
def test_no_identity_reaches_into_the_other_s_vault(two: Two, mine: Deployment, other: Deployment) -> None:
    kv, role = other.own("kv"), f"auth/approle/role/{other.own('serve')}"
    requests: list[tuple[Method, str, dict[str, object]]] = [
        *(("get", f"{kv}/data/kafka/{name}", {}) for name in ("credentials", *KAFKA_SERVICES)),
        ("get", f"{kv}/data/database/credentials", {}),
        ("get", f"{kv}/metadata/kafka/serve", {}),
        ("list", f"{kv}/metadata/clients/serve", {}),
        ("post", f"{kv}/data/clients/serve/probe", {"data": {}}),
        ("list", f"{kv}/metadata/api-keys", {}),
        ("get", f"{kv}/data/api-keys/shop", {}),
        ("post", f"{kv}/data/api-keys/shop", {"data": {}}),
        ("delete", f"{kv}/metadata/api-keys/shop", {}),
        ("post", f"{kv}/data/kafka/serve", {"data": {}, "options": {"cas": 999}}),
        *(("get", f"database/creds/{other.own(role.name)}", {}) for role in DATABASE_ROLES),
        ("get", f"database/creds/{other.own('bdlab-sweep')}", {}),
        ("post", f"database/rotate-root/{other.own('bdlab')}", {}),
        ("post", f"sys/leases/revoke-prefix/database/creds/{other.own('bdlab-writer')}", {"sync": True}),
        ("post", f"{role}/secret-id", {}),
        ("post", f"{role}/secret-id-accessor/destroy", {"secret_id_accessor": "none"}),
        ("post", f"sys/policies/acl/{other.own('serve')}", {"policy": ""}),
    ]
    looks: list[tuple[Method, str, dict[str, object]]] = [
        ("get", f"{role}/role-id", {}),
        ("post", f"{role}/secret-id/lookup", {"secret_id": "none"}),
        ("get", f"sys/policies/acl/{other.own('serve')}", {}),
        ("get", f"database/config/{other.own('bdlab')}", {}),
    ]
    for service in IDENTITIES:
        # `inspect` of bdlab looks at all of the set-up, where no secret is, as before there were others.
        refused = requests if service == INSPECT and mine == BDLAB else requests + looks
        with two.logged_in(mine, service) as client:
            for method, path, body in refused:
                with pytest.raises(PolicyDenied):
                    client.request(method, path, body if method == "post" else None)


@pytest.mark.parametrize(("mine", "other"), PAIRS)
def test_no_service_enters_the_other_s_database(two: Two, mine: Deployment, other: Deployment) -> None:
    for service in (service.name for service in TABLE if service.database):
        with two.session(mine, service) as session:
            login = session.database()
            with contextlib.closing(connect(login)) as own, own.cursor() as cursor:
                for role in DATABASE_ROLES:
                    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                        cursor.execute(f"SET ROLE {other.in_sql(role.group)}")
                    own.rollback()
            server = msgspec.structs.replace(login.server, dbname=other.database)
            with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
                connect(msgspec.structs.replace(login, server=server))


@pytest.mark.parametrize(("mine", "other"), PAIRS)
def test_no_service_reaches_the_other_s_topic_or_group(two: Two, mine: Deployment, other: Deployment) -> None:
    group = other.own("bdlab-db-consumer")
    theirs = ((other.own("predictions"), group), (other.own("feedback"), f"{group}-feedback"))
    with two.session(other, "consume") as session:  # they are there, and can be reached
        for operation, (topic, group) in product(("read topic", "describe group"), theirs):
            assert OPERATIONS[operation](Target(session.kafka(), topic, group))

    def reached(service: str) -> list[str]:
        with two.session(mine, service) as session:
            targets = [Target(session.kafka(), topic, group) for topic, group in theirs]
            return [
                f"{name} of {target.topic}"
                for name, target in product(REACHING_IN, targets)
                if OPERATIONS[name](target)
            ]

    with ThreadPoolExecutor(4) as pool:
        assert dict(zip(KAFKA_SERVICES, pool.map(reached, KAFKA_SERVICES), strict=True)) == {
            service: [] for service in KAFKA_SERVICES
        }


def test_a_rotation_of_one_does_not_disturb_the_other(two: Two) -> None:
    before, quiet = two.versions(BDLAB), {"BDLAB_LOG_LEVEL": "info"}
    with two.pipeline.serve(**quiet) as (serve, client), two.pipeline.daemon("consume", **quiet) as consume:
        consume.wait_for("partitions assigned")
        with two.pipeline.daemon("consume", **two.environment(SALES)) as sold:
            sold.wait_for("partitions assigned")
            two.run(SALES, "rotate", "--leases")
            assert client.post("/predict", json=REVIEW).status_code == 200
            two.run(SALES, "predict", REVIEW["text"])
            two.run(SALES, "verify", "--wait", "60")
        until(lambda: len(client.get("/predictions").json()) == STORED[BDLAB] + 1)
        told = [line for daemon in (serve, consume) for line in daemon.lines]
    assert not [line for line in told if "another Kafka login" in line or "another secret id" in line]
    assert not [line for line in told if '"level": "warning"' in line or '"level": "error"' in line]
    assert two.versions(BDLAB) == before
    assert set(two.versions(SALES)) == set(before)
    assert min(two.versions(SALES).values()) > max(before.values())
    two.run(BDLAB, "verify")
