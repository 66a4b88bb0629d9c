"""How to run Postgres, which refuses to be root, for a user who is root."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bdlab.errors import ServerNotStarted

_NOBODY = 65534
_TRIAL_TIMEOUT_S = 10.0

#: The files stay root's; inside a user namespace of its own the server sees itself as user 1000.
_NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")

#: Containers may forbid new namespaces. The user nobody, with the one privilege to pass through folders that
#: are closed to it, needs no folder opened for others. The death signal is lost with the change of user.
_NOBODY_COMMAND = (
    "setpriv",
    f"--reuid={_NOBODY}",
    f"--regid={_NOBODY}",
    "--clear-groups",
    "--inh-caps=-all,+dac_override",
    "--ambient-caps=-all,+dac_override",
    "--bounding-set=-all,+dac_override",
    # Otherwise access(2) would answer without the privilege.
    "--securebits=+no_setuid_fixup",
    "--no-new-privs",
    "--pdeathsig=INT",
    "--",
)


def wrapper(data: Path) -> Sequence[str]:
    """The command to put before Postgres' own; empty for an ordinary user.

    `data` is the server's data folder: where it is there already, it keeps the way it was made.
    Raises ServerNotStarted where this machine offers no way.
    """
    if os.geteuid() != 0:
        return ()
    belongs_to_nobody = data.exists() and data.stat().st_uid == _NOBODY
    if not belongs_to_nobody and _works(_NAMESPACE):
        return _NAMESPACE
    if (belongs_to_nobody or not data.exists()) and _works(_NOBODY_COMMAND):
        return _NOBODY_COMMAND
    raise ServerNotStarted(
        "Postgres refuses to run as root, and this machine allows neither a user namespace (unshare) nor a "
        "change of user (setpriv)",
        hint="Run bdlab as an ordinary user.",
    )


def give(folder: Path, command: Sequence[str]) -> None:
    """Make `folder` belong to the user that `command` runs as."""
    if command and command[0] == _NOBODY_COMMAND[0]:
        os.chown(folder, _NOBODY, _NOBODY)


@functools.cache
def _works(command: tuple[str, ...]) -> bool:
    try:
        outcome = subprocess.run(
            [*command, "true"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TRIAL_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return outcome.returncode == 0
