"""A Vault and a database that an earlier version set up, brought up to date by running `vault-init` again."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg2
import pytest

from bdlab.credentials import DatabaseLogin
from bdlab.errors import PolicyDenied
from bdlab.services import NOT_ROTATED
from bdlab.settings import Secret
from bdlab.vault.rotation.database import drop_left_behind, end_logins
from tests.earlier import unpack
from tests.fix_database import migrate
from tests.fix_rotation import rotation
from tests.fix_vault import VaultWorld
from tests.vault_steps import outcomes, unchanged_but

_MIGRATE = """
from bdlab import settings
from bdlab.postgres.migrations import migrate
from bdlab.vault.session import VaultSession
with VaultSession(settings.load(), service="migrate", database_role="bdlab-owner", daemon=False) as session:
    assert migrate(session) == ("0001_tables",)
"""


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The earlier version's sources."""
    return unpack(tmp_path / "earlier")


def run(earlier: Path, world: VaultWorld, *arguments: str) -> None:
    path = os.pathsep.join(str(earlier / name) for name in ("src", "cli"))
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | world.environment(PYTHONPATH=path, BDLAB_KEYS_FILE=str(world.keys_file)),
        cwd=world.folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_vault_init_brings_everything_up_to_date(new_world: Callable[..., VaultWorld], earlier: Path) -> None:
    world = new_world()
    run(earlier, world, "-m", "bdlab_cli", "vault-init", "--env-file", str(world.env_file()))
    run(earlier, world, "-c", _MIGRATE)
    with world.logged_in("serve") as serve:
        found = serve.read("database/creds/bdlab-reader")
        resisting = DatabaseLogin(
            server=world.server, user=str(found["username"]), password=Secret(str(found["password"]))
        )
        with contextlib.closing(world.connect(resisting)) as connection, connection.cursor() as cursor:
            cursor.execute("SET ROLE NONE")
            cursor.execute("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC")
            connection.commit()

        # As it is run when the administrator's password is gone.
        plan = world.plan(seeds=None, manager=None)
        assert {name for name, outcome in outcomes(world.init(plan)).items() if outcome == "done"} == {
            "policies",
            "identities",
            "key-value seed",
            "secret ids",
            "database connection",
            "database roles",
            "root token",
        }
        assert outcomes(world.init(plan)) == unchanged_but()
        with rotation(world) as go:
            assert {one.outcome for one in end_logins(go)} == {"rotated"}
            assert drop_left_behind(go).outcome == "rotated"
        assert resisting.user not in world.users()

    with world.session("migrate", "bdlab-owner", daemon=False) as session:
        migrate(session)
    with (
        world.session("dlq", "bdlab-dlq", daemon=False) as session,
        contextlib.closing(world.connect(session.database())) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT count(*) FROM dead_letters")
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute("INSERT INTO predictions DEFAULT VALUES")
    with world.logged_in("console") as console:
        assert console.read_kv("kafka/console")[1] == 1
    with world.logged_in("dlq") as dlq, pytest.raises(PolicyDenied):
        dlq.read("database/creds/bdlab-writer")
    with world.logged_in("rotate") as rotate:
        for service in NOT_ROTATED:
            with pytest.raises(PolicyDenied):
                rotate.request("post", f"auth/approle/role/{service}/secret-id", {}, wrap_ttl_s=30)
