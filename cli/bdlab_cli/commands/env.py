"""`bdlab env`: print the exports that point a terminal at a running local stack."""

import shlex

from bdlab_cli.options import DATA_DIR, DataDir
from bdlab_cli.output import terminal


def env(*, data_dir: DataDir = DATA_DIR, unset: bool = False, json: bool = False) -> None:
    """Print the exports that point this terminal at a running local stack.

    Use it as: eval "$(bdlab env)"
    """
    from bdlab.stack import EXPORTED, DataFolder, exports

    if unset:
        terminal.echo("\n".join(f"unset {name}" for name in EXPORTED))
        return
    folder = DataFolder(data_dir)
    exported = exports(folder, folder.running())
    lines = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in exported.items())
    terminal.echo_result(exported, lines, as_json=json)
