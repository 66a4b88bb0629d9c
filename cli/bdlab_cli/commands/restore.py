"""`bdlab restore`: a new local stack from a backup."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bdlab_cli.options import DATA_DIR

if TYPE_CHECKING:
    from bdlab.settings import PostgresSettings, VaultSettings
    from bdlab.stack import DataFolder, Postgres
    from bdlab.stack.backup import Backup
    from bdlab.vault.bootstrap import Plan

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def restore(
    source: Annotated[
        Path,
        typer.Option(
            "--from", envvar="BDLAB_RESTORE_FROM", metavar="FOLDER", help="What `bdlab backup` wrote."
        ),
    ],
    data_dir: Annotated[
        Path,
        typer.Option(
            "--data-dir", envvar="BDLAB_DATA_DIR", help="The new stack's folder; empty or not there."
        ),
    ] = DATA_DIR,
    rows_only: Annotated[
        bool,
        typer.Option(
            "--rows-only",
            envvar="BDLAB_RESTORE_ROWS_ONLY",
            help="Take the tables alone; Vault is a new one, and so is every secret and every key.",
        ),
    ] = False,
    trust_backup: Annotated[
        bool,
        typer.Option(
            "--trust-backup",
            envvar="BDLAB_TRUST_BACKUP",
            help="Take a backup without a manifest (made by an earlier version) or whose key is lost: nobody "
            "else could write to where it was kept.",
        ),
    ] = False,
) -> None:
    """Make a new local stack from a backup; `bdlab up` then starts it.

    Nothing of a backup is used unless it is as `bdlab backup` wrote it.

    Vault's secrets and the stored rows are back as they were then; the broker begins with an empty log. What
    was revoked or rotated since the backup is as it was before, so rotate again. With --rows-only nothing of
    Vault's comes back: for keys that are lost or known to others.
    """
    import shlex
    import signal

    from bdlab import signals
    from bdlab.settings import VaultSettings
    from bdlab.stack import OpenBao, Postgres
    from bdlab.stack.backup import Backup, new_folder
    from bdlab.stack.tls import TlsFolder
    from bdlab.vault import snapshots
    from bdlab_cli.wiring import session as wiring

    wiring.layers(quiet=True)
    talk = wiring.talk()
    backup = Backup(source)
    about = backup.about(rows_only=rows_only)
    backup.authenticate(rows_only=rows_only, trusted=trust_backup)

    def interrupt(_number: int, _frame: object) -> None:
        """As Ctrl-C does: what is half restored is taken away again, however often somebody asks."""
        for number in signals.ending():
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in signals.ending():
        signal.signal(number, interrupt)
    with new_folder(data_dir) as folder:
        if not rows_only:
            backup.hand_out_keys(folder)
        tls = TlsFolder(folder.tls) if about.tls else None
        if tls:
            tls.prepare()
        with OpenBao(folder.path, tls=tls) as openbao, Postgres(folder.path, tls=tls) as postgres:
            vault = VaultSettings(
                address=openbao.address, ca_file=openbao.ca_file, identity_dir=str(folder.identity_dir)
            )
            if not rows_only:
                snapshots.restore(vault, backup.snapshot.read_bytes())
                talk.print("[green]✓[/] Vault's secrets", markup=True)
            _restore_database(backup, folder, vault, postgres)
            talk.print("[green]✓[/] the database", markup=True)
        postgres.forget_admin_password()
        folder.settle()
    wiring.out().print(
        f"restored to {about.made_at:%Y-%m-%d %H:%M:%S} UTC. Start it with:\n\n"
        f"  bdlab up --data-dir {shlex.quote(str(folder.path))}",
        soft_wrap=True,
    )


def _restore_database(backup: Backup, folder: DataFolder, vault: VaultSettings, postgres: Postgres) -> None:
    """What Vault lacks, and its users in this new server, as at a first set-up; then what the dump has."""
    import msgspec

    from bdlab.credentials import DatabaseLogin
    from bdlab.postgres import dumps
    from bdlab.settings import KafkaSettings
    from bdlab.stack.servers import binaries
    from bdlab.vault.bootstrap import Plan, bootstrap
    from bdlab.vault.bootstrap.plan import Seeds
    from bdlab_cli.commands.vault_init import manager
    from bdlab_cli.wiring import session as wiring

    admin = DatabaseLogin(
        server=postgres.lasting_server, user=postgres.admin_user, password=postgres.admin_password
    )
    seeds = Seeds(
        postgres_user=admin.user,
        postgres_password=admin.password,
        postgres=admin.server,
        postgres_authority=bool(admin.server.ca_file),
        kafka=KafkaSettings(),  # in Vault already; `bdlab up` writes the new broker's address
    )
    plan = Plan(vault=vault, keys_file=folder.keys_file, seeds=seeds, manager=manager(seeds))
    bootstrap(plan, lambda _step: None)
    _move_database(plan, admin.server)
    here = {"address": vault.address, "ca_file": vault.ca_file, "identity_dir": vault.identity_dir}
    layers = wiring.layers({"vault": {**here, "namespace": ""}}, quiet=True)
    with wiring.vault_session(
        layers, service="migrate", database_role="bdlab-owner", kafka=False, renewed=True
    ) as session:
        # The new server shows a certificate of its own for now, by another authority than Vault names.
        owner = msgspec.structs.replace(session.database(), server=admin.server)
        dumps.restore(owner, backup.dump, programs=binaries.postgres() / "bin")


def _move_database(plan: Plan, server: PostgresSettings) -> None:
    """Tell the services where the database is now: `vault-init` never overwrites what they read."""
    from datetime import timedelta

    from bdlab.vault.bootstrap import admin_token as operator

    mount, path = plan.vault.kv_mount, "database/credentials"
    with operator.task(plan, ttl=timedelta(minutes=5)) as client:
        values, version = client.read_kv(mount, path)
        moved = values | {"host": server.host, "port": str(server.port), "sslmode": server.sslmode}
        if moved != values:
            client.write_kv(mount, path, moved, cas=version)
        # Users of the old server: they do not exist here.
        client.write(f"sys/leases/revoke-prefix/{plan.vault.database_mount}/creds")
