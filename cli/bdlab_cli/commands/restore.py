"""`bdlab restore`: make a new local stack from a backup."""

import shlex
import signal
from pathlib import Path
from typing import Annotated

from typer import Option

from bdlab_cli.options import DATA_DIR, setting
from bdlab_cli.output import terminal
from bdlab_cli.wiring.session import load_settings


def restore(
    *,
    source: Annotated[Path, Option("--from")],
    data_dir: Annotated[Path, setting("stack.data_dir")] = DATA_DIR,
    rows_only: bool = False,
    trust_backup: bool = False,
    json: bool = False,
) -> None:
    """Make a new local stack from a backup; `bdlab up` then starts it.

    Nothing of a backup is used unless it is as `bdlab backup` wrote it.

    Vault's secrets and the stored rows are back as they were then; the broker begins with an empty log. What
    was revoked or rotated since the backup is as it was before, so rotate again. With --rows-only nothing of
    Vault's comes back: for keys that are lost or known to others."""
    from bdlab import signals
    from bdlab.services import Deployment
    from bdlab.settings import VaultSettings
    from bdlab.stack import OpenBao, Postgres, TlsFolder
    from bdlab.stack.backup import Backup, new_folder
    from bdlab.vault import snapshots
    from bdlab_cli.wiring.database_restore import restore_database

    load_settings(quiet=True)
    console = terminal.stderr()
    backup = Backup(source)
    about = backup.about(rows_only=rows_only)
    backup.authenticate(rows_only=rows_only, trusted=trust_backup)

    def interrupt(_number: int, _frame: object) -> None:
        """Raise as Ctrl-C does, once: what is half restored is taken away however often somebody asks."""
        for number in signals.termination_signals():
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    with signals.handled(interrupt), new_folder(data_dir) as folder:
        folder.keep_deployment(Deployment(about.deployment))
        backup.restore(folder, keys=not rows_only)
        tls = TlsFolder(folder.tls) if about.tls else None
        with OpenBao(folder.path, tls=tls) as openbao, Postgres(folder.path, tls=tls) as postgres:
            place, kv = str(folder.identity_dir), folder.deployment.own("kv")
            vault = VaultSettings(address=openbao.address, ca_file=openbao.ca_file, identity_dir=place, kv_mount=kv)
            if not rows_only:
                snapshots.restore(vault, backup.snapshot.read_bytes())
                console.print("[green]✓[/] Vault's secrets", markup=True)
            restore_database(backup, folder, vault, postgres)
            console.print("[green]✓[/] the database", markup=True)
        postgres.forget_admin_password()
        folder.record_location()
    todo = f"Start it with:\n\n  bdlab up --data-dir {shlex.quote(str(folder.path))}"
    text = f"restored to {about.made_at:%Y-%m-%d %H:%M:%S} UTC. {todo}"
    terminal.echo_result({"folder": str(folder.path), "made_at": about.made_at}, text, as_json=json)
