"""`bdlab backup`: write what a running local stack holds into a folder."""

import os
from pathlib import Path
from typing import Annotated

from typer import Option

from bdlab import __version__
from bdlab_cli.options import DATA_DIR, DataDir, StartupTimeout
from bdlab_cli.output import terminal
from bdlab_cli.wiring.session import load_settings, open_session
from bdlab_cli.wiring.signals import stop_on_signal


def backup(
    *,
    to: Annotated[Path, Option()],
    data_dir: DataDir = DATA_DIR,
    startup_timeout: StartupTimeout = None,
    json: bool = False,
) -> None:
    """Back up a running local stack: a snapshot of Vault, a dump of the database, and the keys.

    Nothing stops meanwhile. The folder is for its owner only, and holds every secret: keep its `keys` apart
    from the rest. What is on the broker and not stored yet is not in the backup."""
    from bdlab.postgres import dumps
    from bdlab.stack import DataFolder, exports
    from bdlab.stack.backup import Backup
    from bdlab.stack.servers import binaries
    from bdlab.vault import snapshots

    folder = DataFolder(data_dir)
    # From here on this command has the settings that `bdlab env` gives to a terminal.
    os.environ.update(exports(folder, folder.running()))
    layers = load_settings({"startup_timeout_s": startup_timeout}, quiet=True)
    target = Backup(to)
    with (
        target.write(folder, version=__version__) as new,
        stop_on_signal() as stop,
        open_session(layers, stop, service="backup", database=True, kafka=False, renewed=True) as session,
    ):
        new.snapshot.touch(mode=0o600, exist_ok=False)
        new.snapshot.write_bytes(session.ask(snapshots.save))
        dumps.dump(session.database(), new.dump, programs=binaries.postgres() / "bin", stop=stop)
    terminal.echo_result({"folder": str(target.path), "keys": str(target.keys)}, target.path, as_json=json)
    secret = f"Whoever has {target.path} has every secret of this stack. Keep {target.keys} apart from the rest."
    terminal.echo(secret, err=True)
