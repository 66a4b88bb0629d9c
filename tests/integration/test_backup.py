"""Backups: what is refused, and a database that is older than its topic's log catches up with it."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from bdlab.credentials import DatabaseLogin
from bdlab.errors import DatabaseError, InvalidInput, VaultError, VaultUnavailable
from bdlab.postgres import dumps
from bdlab.postgres.roles import Administrator
from bdlab.retry import wait_for
from bdlab.settings import Secret, VaultSettings
from bdlab.stack import DataFolder, OpenBao
from bdlab.stack.backup import Backup, new_folder
from bdlab.stack.servers import binaries
from bdlab.vault import snapshots
from bdlab.vault.client import VaultClient
from tests import forked
from tests.fix_database import Database
from tests.fix_pipeline import Pipeline
from tests.fix_up import BDLAB, ENVIRONMENT
from tests.fix_vault import ShamirOpenBao, VaultWorld

SERVICES = ("backup", "serve")
BAO = str(Path(sys.executable).with_name("bao"))


@pytest.fixture
def stack_folder(tmp_path: Path) -> DataFolder:
    """As far as a backup copies it."""
    folder = DataFolder(tmp_path / "stack")
    seal_key = OpenBao(folder.path).seal_key
    seal_key.parent.mkdir(parents=True)
    seal_key.write_bytes(b"s" * 32)
    folder.keys_file.write_text("{}")
    for service in SERVICES:
        (folder.identity_dir / service).mkdir(parents=True)
        (folder.identity_dir / service / "secret_id").write_text(service)
        (folder.identity_dir / service / ".lock").touch()
    return folder


@pytest.fixture
def backup(stack_folder: DataFolder, tmp_path: Path) -> Backup:
    backup = Backup(tmp_path / "backup")
    with backup.write(stack_folder, version="1") as new:
        new.snapshot.touch()
        new.dump.touch()
    return backup


def test_the_keys_come_back_and_are_for_their_owner_only(backup: Backup, tmp_path: Path) -> None:
    with new_folder(tmp_path / "new") as folder:
        backup.restore(folder, keys=True)
        assert OpenBao(folder.path).seal_key.read_bytes() == b"s" * 32
        for service in SERVICES:
            assert [file.name for file in (folder.identity_dir / service).iterdir()] == ["secret_id"]
    for root in (backup.keys, folder.identity_dir):
        assert not [path for path in (root, *root.rglob("*")) if path.stat().st_mode & 0o077]


def test_a_backup_is_whole_or_not_there(backup: Backup, stack_folder: DataFolder, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="exists already"), backup.write(stack_folder, version="1"):
        pass
    other = Backup(tmp_path / "other")
    with pytest.raises(RuntimeError), other.write(stack_folder, version="1"):
        raise RuntimeError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "stack"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda backup: (backup.path / "backup.json").unlink(), "no backup that `bdlab backup` made"),
        (lambda backup: (backup.path / "backup.json").write_text("{}"), "no backup that"),
        (lambda backup: backup.dump.unlink(), "database.dump is missing"),
        (lambda backup: backup.keys.rename(backup.path / "elsewhere"), "keys/vault-keys.json is missing"),
    ],
)
def test_what_is_no_backup_is_refused(backup: Backup, spoil: Callable[[Backup], object], said: str) -> None:
    assert backup.about().bdlab == "1"
    spoil(backup)
    with pytest.raises(InvalidInput, match=said):
        backup.about()


def test_rows_alone_need_neither_snapshot_nor_keys(backup: Backup) -> None:
    backup.snapshot.unlink()
    shutil.rmtree(backup.keys)
    assert backup.about(rows_only=True).bdlab == "1"
    backup.dump.unlink()
    with pytest.raises(InvalidInput, match=r"database\.dump is missing"):
        backup.about(rows_only=True)


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes() or b"\0")
    content[-1] ^= 1
    file.write_bytes(content)


def test_a_backup_is_authentic_as_it_was_written(backup: Backup, tmp_path: Path) -> None:
    backup.authenticate()
    kept_apart = backup.keys.rename(tmp_path / "apart")
    with pytest.raises(InvalidInput, match=r"keys/backup\.key is missing from it"):
        backup.authenticate()
    kept_apart.rename(backup.keys)
    backup.authenticate()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda backup: _flip(backup.dump), "database.dump was changed"),
        (lambda backup: _flip(backup.snapshot), "vault.snapshot was changed"),
        (lambda backup: _flip(backup.path / "backup.json"), "backup.json was changed"),
        (lambda backup: _flip(backup.keys / "seal.key"), "keys/seal.key was changed"),
        (lambda backup: _flip(backup.keys / "backup.key"), "manifest.json was changed, or is not the one of"),
        (lambda backup: backup.dump.rename(backup.path / "old"), "old was added"),
        (lambda backup: backup.snapshot.unlink(), "vault.snapshot is missing"),
        (lambda backup: (backup.keys / "identity" / "serve" / "secret_id").unlink(), "serve/secret_id is mis"),
        (lambda backup: (backup.keys / "identity" / "more").touch(), "keys/identity/more was added"),
        (lambda backup: (backup.path / "link").symlink_to("/etc/hostname"), "link was added"),
    ],
)
def test_a_backup_that_is_not_as_it_was_written_is_refused(
    backup: Backup, spoil: Callable[[Backup], object], said: str
) -> None:
    spoil(backup)
    for trusted in (False, True):
        with pytest.raises(InvalidInput, match=said):
            backup.authenticate(trusted=trusted)


def test_the_command_refuses_it_before_anything_is_made(backup: Backup, tmp_path: Path) -> None:
    _flip(backup.dump)
    new = tmp_path / "new"
    done = subprocess.run(
        [*BDLAB, "restore", "--from", backup.path, "--data-dir", new, "--trust-backup"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "is not as it was made: database.dump was changed" in done.stderr
    assert not new.exists()


def test_a_manifest_that_was_written_anew_is_refused(backup: Backup) -> None:
    _flip(backup.dump)
    file = backup.path / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["files"]["database.dump"] = hashlib.sha256(backup.dump.read_bytes()).hexdigest()
    file.write_text(json.dumps(manifest))
    with pytest.raises(InvalidInput, match=r"manifest\.json was changed"):
        backup.authenticate()


@pytest.mark.parametrize("lost", ["manifest.json", "keys/backup.key"])
def test_without_manifest_or_its_key_somebody_has_to_say_that_it_is_to_be_trusted(backup: Backup, lost: str) -> None:
    (backup.path / lost).unlink()
    with pytest.raises(InvalidInput, match=f"{lost} is missing") as refused:
        backup.authenticate()
    assert "--trust-backup" in refused.value.hint
    backup.authenticate(trusted=True)


def test_rows_alone_are_authentic_without_the_rest(backup: Backup) -> None:
    backup.snapshot.unlink()
    (backup.keys / "seal.key").unlink()
    backup.authenticate(rows_only=True)
    _flip(backup.dump)
    with pytest.raises(InvalidInput, match=r"database\.dump was changed"):
        backup.authenticate(rows_only=True)


@pytest.mark.with_tls
def test_a_reader_dumps_all_and_an_owner_restores_it(new_database: Callable[[], Database], tmp_path: Path) -> None:
    source, target = new_database(), new_database()
    source.execute("INSERT INTO logs (cluster_id, topic) VALUES ('c', 'one'), ('c', 'two')")
    file, programs = tmp_path / "dump", binaries.postgres() / "bin"
    dumps.dump(source.login("reader"), file, programs=programs)
    target.execute("DROP OWNED BY bdlab_owner")
    Administrator(target.admin).prepare(None)
    dumps.restore(target.login("owner"), file, programs=programs)
    target.execute("INSERT INTO logs (cluster_id, topic) VALUES ('c', 'three')")
    assert target.execute("SELECT log_id, topic FROM logs ORDER BY log_id") == [(1, "one"), (2, "two"), (3, "three")]
    owners = "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    assert target.execute(owners) == [("bdlab_owner",)]
    rights = "SELECT relname, relacl::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
    assert target.execute(rights) == source.execute(rights)


def test_a_dump_that_wants_a_superuser_gets_none(new_database: Callable[[], Database], tmp_path: Path) -> None:
    """A view that is filled at the restore runs what its maker wrote, by whoever restores it."""
    source, target = new_database(), new_database()
    owned = Path(f"/tmp/owned-{uuid4().hex}")
    source.execute(
        "CREATE FUNCTION take() RETURNS integer LANGUAGE plpgsql AS $$ BEGIN "
        f"COPY (SELECT 1) TO PROGRAM 'touch {owned}'; RETURN 1; END $$"
    )
    source.execute("CREATE MATERIALIZED VIEW hidden AS SELECT take()")
    assert owned.exists()
    owned.unlink()
    file, programs = tmp_path / "dump", binaries.postgres() / "bin"
    dumps.dump(source.admin, file, programs=programs)
    target.execute("DROP OWNED BY bdlab_owner")
    Administrator(target.admin).prepare(None)
    with pytest.raises(DatabaseError, match="permission denied to COPY to or from an external program"):
        dumps.restore(target.login("owner"), file, programs=programs)
    assert not owned.exists()


def test_a_backup_of_another_format_is_refused(backup: Backup) -> None:
    file = backup.path / "backup.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 2}))
    with pytest.raises(InvalidInput, match="a format that this version does not know"):
        backup.about()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(InvalidInput, match="not empty"), new_folder(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_what_fails_half_way_leaves_an_empty_folder(tmp_path: Path) -> None:
    path = tmp_path / "new"

    def fail(folder: DataFolder) -> None:
        folder.keys_file.touch()
        (folder.identity_dir / "serve").mkdir(parents=True)
        raise RuntimeError

    with pytest.raises(RuntimeError), new_folder(path) as folder:
        fail(folder)
    assert not any(path.iterdir())


def test_the_commands_name_what_is_in_the_way(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        done = forked.run(arguments, os.environ | {"BDLAB_STACK_DATA_DIR": str(tmp_path / "stack")})
        assert done.returncode in {1, 2}
        return done.stderr

    assert "no local stack is up" in run("backup", "--to", str(tmp_path / "backup"))
    assert "is no backup that" in run("restore", "--from", str(tmp_path / "backup"))
    assert not list(tmp_path.iterdir())


@pytest.mark.with_tls
def test_a_snapshot_is_taken_by_backup_alone_and_never_put_over_a_vault_in_use(vault_world: VaultWorld) -> None:
    with vault_world.logged_in("backup") as client:
        snapshot = snapshots.save(client)
    assert b"SHA256SUMS" in gzip.decompress(snapshot)
    with pytest.raises(VaultError, match="is in use"):
        snapshots.restore(vault_world.vault, snapshot)
    with pytest.raises(InvalidInput, match="is damaged"):
        snapshots.restore(vault_world.vault, snapshot[:-100])


def test_an_error_of_pg_dump_is_told(pipeline: Pipeline, tmp_path: Path) -> None:
    login = DatabaseLogin(server=pipeline.postgres.server, user="postgres", password=Secret("wrong"))
    with pytest.raises(DatabaseError, match=r"pg_dump failed.*password authentication failed"):
        dumps.dump(login, tmp_path / "dump", programs=binaries.postgres() / "bin")
    with pytest.raises(DatabaseError, match="cannot be run"):
        dumps.dump(login, tmp_path / "dump2", programs=tmp_path)


def test_an_interrupted_dump_is_none(pipeline: Pipeline, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    admin = pipeline.postgres
    login = DatabaseLogin(server=admin.lasting_server, user=admin.admin_user, password=admin.admin_password)
    with pytest.raises(DatabaseError, match="pg_dump was interrupted"):
        dumps.dump(login, tmp_path / "dump", programs=binaries.postgres() / "bin", stop=stop)


def test_a_restore_that_was_killed_leaves_no_stack_to_start(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from bdlab.stack.backup import new_folder\n"
        "with new_folder(Path(sys.argv[1])) as folder:\n"
        "    folder.keys_file.touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    folder = tmp_path / "stack"
    assert subprocess.run([sys.executable, "-c", script, folder], check=False).returncode == -signal.SIGKILL
    up = [*BDLAB, "up", "--data-dir", str(folder)]
    done = subprocess.run(up, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"a `bdlab restore` into {folder} was cut off" in done.stderr
    assert f"rm -r {folder}" in done.stderr


def test_a_database_that_is_older_than_the_log_catches_up(pipeline: Pipeline, tmp_path: Path) -> None:
    """The log has what was stored after the dump, so that nothing is lost."""

    def predict(text: str) -> None:
        done = pipeline.run("predict", text)
        assert done.returncode == 0, done.stderr

    def verify() -> tuple[int, str]:
        done = pipeline.run("verify")
        return done.returncode, done.stdout

    def store() -> None:
        done = pipeline.run("consume", "--until-idle")
        assert done.returncode == 0, done.stderr

    admin = DatabaseLogin(server=pipeline.postgres.server, user="postgres", password=pipeline.postgres.admin_password)
    predict("Before the backup.")
    store()
    assert verify()[0] == 0
    programs, file = binaries.postgres() / "bin", tmp_path / "database.dump"
    dumps.dump(admin, file, programs=programs)
    assert file.stat().st_mode & 0o077 == 0
    predict("After the backup.")
    store()
    assert verify()[0] == 0

    with pytest.raises(DatabaseError, match="already exists"):
        dumps.restore(admin, file, programs=programs)
    environment = {"PGPASSWORD": admin.password.reveal(), "PGHOST": "127.0.0.1", "PGUSER": "postgres"}
    done = subprocess.run(
        [str(programs / "pg_restore"), "--clean", "--if-exists", "--single-transaction", "-d", "bdlab", str(file)],
        env=environment | {"PGPORT": str(admin.server.port)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    code, said = verify()
    assert code == 10
    assert "1 events are not recorded yet" in said
    store()
    code, said = verify()
    assert code == 0, said


def test_a_snapshot_under_a_shamir_seal_opens_with_the_old_shares(
    new_world: Callable[..., VaultWorld], tmp_path: Path
) -> None:
    """Into another Vault, whose own keys end with that."""
    old = new_world(ShamirOpenBao)
    old.init(old.plan(shares=5, threshold=3))
    with old.logged_in("backup") as client:
        snapshot = tmp_path / "vault.snapshot"
        snapshot.write_bytes(snapshots.save(client))
    new = ShamirOpenBao(tmp_path / "new")
    with new:
        client = VaultClient(VaultSettings(address=new.address))
        keys = client.request("put", "sys/init", {"secret_shares": 1, "secret_threshold": 1}, timeout_s=60)
        client.request("put", "sys/unseal", {"key": keys["keys_base64"][0]})
        wait_for(
            "Vault",
            lambda: client.with_token(Secret(keys["root_token"])).read("sys/storage/raft/configuration"),
            timeout_s=20,
        )
        done = subprocess.run(
            [BAO, "operator", "raft", "snapshot", "restore", "-force", str(snapshot)],
            env=os.environ | {"VAULT_ADDR": new.address, "VAULT_TOKEN": keys["root_token"]},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr

        def sealed() -> None:
            if not client.health().sealed:
                raise VaultUnavailable("not yet")

        wait_for("Vault", sealed, timeout_s=30)
        # Until then it asks for as many shares as it was initialised with itself.
        new.stop()
        new.start()
        old.openbao.stop()
        world = VaultWorld(new, old.postgres, old.folder, dbname=old.dbname)
        steps = {step.name: step.outcome for step in world.init(world.plan(seeds=None, manager=None))}
        assert steps == dict.fromkeys(steps, "unchanged") | {"unseal": "done"}
        with world.logged_in("serve") as serve:
            assert serve.read_kv("database/credentials")[0]["dbname"] == old.dbname


def test_a_vault_that_is_older_than_its_users_password_in_the_database_gets_another(
    new_world: Callable[..., VaultWorld],
) -> None:
    """The database goes on, and the snapshot is from before `bdlab rotate database`."""
    world = new_world()
    world.init()
    world.manager.prepare(Secret("as after a rotation"))
    world.openbao.stop()  # it holds a connection that was made before
    world.openbao.start()
    with world.logged_in("status") as client:
        with pytest.raises(VaultError, match="password authentication failed"):
            client.read("database/creds/bdlab-reader")
        with world.root() as root:
            root.request("delete", "database/config/bdlab")
        steps = {step.name: step.outcome for step in world.init()}
        assert steps["database connection"] == "done"
        assert client.read("database/creds/bdlab-reader")["username"]
