"""A Vault that `vault-init` has finished, with its own Postgres, and what tests of it need beside."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psycopg2
import pytest

from bdlab import resources, settings
from bdlab.credentials import DatabaseLogin, KafkaLogin
from bdlab.postgres.roles import Administrator
from bdlab.settings import KafkaSettings, Layers, PostgresSettings, Secret, VaultSettings
from bdlab.stack import OpenBao, Postgres
from bdlab.vault.bootstrap import Plan, StepResult, bootstrap, steps
from bdlab.vault.bootstrap.admin_access import AdminAccess
from bdlab.vault.bootstrap.plan import Seeds
from bdlab.vault.client import VaultClient
from bdlab.vault.identity import Identity
from bdlab.vault.session import VaultSession
from tests import tls
from tests.fix_servers import start_or_skip
from tests.tls import new_openbao, new_postgres


class ShamirOpenBao(OpenBao):
    """Without an automatic seal: it stays sealed at each start until its key shares are given."""

    def _configure(self, port: int) -> Sequence[str]:
        arguments = super()._configure(port)
        config = Path(arguments[-1])
        config.write_text(re.sub(r'seal "static" \{.*?\n\}\n', "", config.read_text("utf-8"), flags=re.DOTALL))
        return arguments

    def _is_ready(self) -> bool:
        with contextlib.suppress(Exception):
            VaultClient(VaultSettings(address=self.address, ca_file=self.ca_file, timeout_s=1)).health()
            return True
        return False


class UnauthedOpenBao(OpenBao):
    """Lets anybody who has the keys make a root token or new keys, at the paths that HashiCorp Vault has."""

    def _configure(self, port: int) -> Sequence[str]:
        arguments = super()._configure(port)
        config = Path(arguments[-1])
        opened = (
            'listener "tcp" {\n  disable_unauthed_generate_root_endpoints = false\n'
            "  disable_unauthed_rekey_endpoints = false\n"
        )
        config.write_text(config.read_text("utf-8").replace('listener "tcp" {\n', opened))
        return arguments


class AdminManager(Administrator):
    """The administrator, with the last `password` that was prepared."""

    def __init__(self, admin: DatabaseLogin) -> None:
        super().__init__(admin)
        self.admin = self.login
        self.password = Secret("")

    def prepare(self, password: Secret | None) -> str:
        self.password = password or self.password
        return super().prepare(password)


@dataclass
class VaultWorld:
    """A Vault and the Postgres that it makes users in. `first` is what the first `vault-init` did."""

    openbao: OpenBao
    postgres: Postgres
    folder: Path
    dbname: str = "bdlab"
    namespace: str = ""
    first: list[StepResult] = field(default_factory=list)
    seen_root: Secret = field(default_factory=lambda: Secret(""))

    def __post_init__(self) -> None:
        self.manager = AdminManager(
            DatabaseLogin(server=self.server, user=self.postgres.admin_user, password=self.postgres.admin_password)
        )

    @property
    def server(self) -> PostgresSettings:
        return msgspec.structs.replace(self.postgres.server, dbname=self.dbname)

    @property
    def vault(self) -> VaultSettings:
        return VaultSettings(
            address=self.openbao.address,
            ca_file=self.openbao.ca_file,
            namespace=self.namespace,
            identity_dir=str(self.folder / "identity"),
            timeout_s=5,
            poll_s=0.2,
        )

    @property
    def keys_file(self) -> Path:
        return self.folder / "vault-keys.json"

    def seeds(self, **changes: Any) -> Seeds:
        seeds = Seeds(
            administrator=self.manager.admin,
            kafka=KafkaLogin(server=KafkaSettings(bootstrap_servers="127.0.0.1:1", security_protocol="PLAINTEXT")),
            cidrs=("127.0.0.0/8",),
            token_period_s=60,
            lease_ttl_s=60,
            lease_max_ttl_s=120,
        )
        return msgspec.structs.replace(seeds, **changes)

    def plan(self, **changes: Any) -> Plan:
        plan = Plan(vault=self.vault, keys_file=self.keys_file, seeds=self.seeds(), manager=self.manager, timeout_s=20)
        return msgspec.structs.replace(plan, **changes)

    def init(self, plan: Plan | None = None) -> list[StepResult]:
        def report(step: StepResult) -> None:
            if step.name == "initialise" and step.outcome == "done":
                self.seen_root = Secret(json.loads(self.keys_file.read_text())["root_token"])

        return bootstrap(plan or self.plan(), report)

    def client(self, token: Secret | None = None) -> VaultClient:
        return VaultClient(self.vault, token=token)

    @contextlib.contextmanager
    def root(self) -> Iterator[VaultClient]:
        """A root token made as `vault-init` makes it for a change, revoked afterwards."""
        client = self.client()
        access = AdminAccess(client, self.plan())
        try:
            yield access.writer()
        finally:
            access.close()
            client.close()

    def identity(self, service: str) -> Identity:
        return Identity(self.folder / "identity" / service, service=service)

    @contextlib.contextmanager
    def logged_in(self, service: str) -> Iterator[VaultClient]:
        """A client with the token of that service."""
        client = self.client()
        role_id, secret_id = self.identity(service).obtain(client)
        client.token = client.log_in(role_id, secret_id).token
        try:
            yield client
        finally:
            client.revoke_self()
            client.close()

    def environment(self, **changes: str) -> dict[str, str]:
        return {
            "VAULT_ADDR": self.vault.address,
            "VAULT_CACERT": self.vault.ca_file,
            "VAULT_NAMESPACE": self.namespace,
            "BDLAB_VAULT_IDENTITY_DIR": self.vault.identity_dir,
            "BDLAB_VAULT_POLL_S": "0.2",
            "BDLAB_VAULT_TIMEOUT_S": "5",
            "BDLAB_VAULT_KEYS_FILE": str(self.keys_file),
            **changes,
        }

    def layers(self, **changes: str) -> Layers:
        return settings.load(environ=self.environment(**changes))

    def session(
        self, service: str, role: str | None = None, *, kafka: bool = True, daemon: bool = True, **changes: str
    ) -> VaultSession:
        return VaultSession(self.layers(**changes), service=service, database_role=role, kafka=kafka, daemon=daemon)

    def env_file(self, **changes: str) -> Path:
        """A `.env` that says what `seeds` says."""
        values = {
            "POSTGRES_USER": self.postgres.admin_user,
            "POSTGRES_PASSWORD": self.postgres.admin_password.reveal(),
            "BDLAB_POSTGRES_HOST": self.server.host,
            "BDLAB_POSTGRES_PORT": str(self.server.port),
            "BDLAB_POSTGRES_DBNAME": self.dbname,
            "BDLAB_POSTGRES_SSLMODE": self.server.sslmode,
            "BDLAB_POSTGRES_CA_FILE": self.server.ca_file,
            "BDLAB_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
            "BDLAB_SECRET_ID_CIDRS": "127.0.0.0/8",
            "BDLAB_TOKEN_PERIOD": "60s",
            "BDLAB_LEASE_TTL": "60s",
            "BDLAB_LEASE_MAX_TTL": "2m",
            **changes,
        }
        path = self.folder / ".env"
        path.write_text("".join(f"{name}={value}\n" for name, value in values.items()), "utf-8")
        path.chmod(0o600)
        return path

    def audit(self) -> list[dict[str, Any]]:
        """The requests in Vault's audit log, each as it was answered."""
        lines = (self.openbao.folder / "audit.log").read_text("utf-8").splitlines()
        return [entry for line in lines if (entry := json.loads(line))["type"] == "response"]

    def connect(self, login: DatabaseLogin) -> psycopg2.extensions.connection:
        return connect(login)

    def users(self) -> set[str]:
        """The database users that Vault has made and not dropped yet."""
        with contextlib.closing(self.connect(self.manager.admin)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'v-%%'")
            return {str(name) for (name,) in cursor.fetchall()}


def connect(login: DatabaseLogin) -> psycopg2.extensions.connection:
    return psycopg2.connect(
        host=login.server.host,
        port=login.server.port,
        dbname=login.server.dbname,
        user=login.user,
        password=login.password.reveal(),
        sslmode=login.server.sslmode,
        # By this and not by a variable of libpq, which bdlab takes out of the environment when it connects.
        sslrootcert=login.server.ca_file or (tls.FOLDER.ca_file if tls.FOLDER else None),
        connect_timeout=5,
    )


@contextlib.contextmanager
def _postgres(factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = start_or_skip(new_postgres(factory.mktemp("vault-postgres")))
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def vault_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """The Postgres of `vault_world`. It has one manager role, and so belongs to one Vault."""
    with _postgres(tmp_path_factory) as server:
        yield server


@pytest.fixture(scope="session")
def _postgres_of_new_worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with _postgres(tmp_path_factory) as server:
        yield server


@pytest.fixture(scope="session")
def vault_world(tmp_path_factory: pytest.TempPathFactory, vault_postgres: Postgres) -> Iterator[VaultWorld]:
    """One finished Vault for tests that leave it as they found it."""
    folder = tmp_path_factory.mktemp("vault")
    server = start_or_skip(new_openbao(folder, OpenBao))
    try:
        world = VaultWorld(server, vault_postgres, folder)
        world.first = world.init()
        yield world
    finally:
        server.stop()


@pytest.fixture
def new_world(tmp_path: Path, _postgres_of_new_worlds: Postgres) -> Iterator[Callable[..., VaultWorld]]:
    """Makes a Vault that nobody has initialised, beside a database of its own.

    The newest of them has the manager role of their Postgres; the one before cannot make users any more.
    """
    with contextlib.ExitStack() as started:

        def make(kind: type[OpenBao] = OpenBao) -> VaultWorld:
            folder = tmp_path / f"vault-{len(list(tmp_path.iterdir()))}"
            server = start_or_skip(new_openbao(folder, kind))
            started.callback(server.stop)
            return VaultWorld(server, _postgres_of_new_worlds, folder, dbname=folder.name.replace("-", "_"))

        yield make


@pytest.fixture
def changed_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if a new version of bdlab came with another policy for `serve`."""
    folder = tmp_path / "policies"
    shutil.copytree(resources.policies_dir(), folder)
    with (folder / "serve.hcl").open("a") as file:
        file.write('\npath "kv/data/extra" {\n  capabilities = ["read"]\n}\n')
    with monkeypatch.context() as patch:
        patch.setattr(steps, "policies_dir", lambda: folder)
        yield
