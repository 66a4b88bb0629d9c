"""Dropping root's privileges for Postgres, which refuses to run as root."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

from bdlab.errors import ServerNotStarted
from bdlab.stack.servers.process import run_to_end

_NOBODY = 65534
_TRIAL_TIMEOUT_S = 10.0

#: In a user namespace of its own the server sees itself as user 1000; outside, the files stay root's.
_NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")

#: Containers may forbid new namespaces. Then it runs as the user nobody, with one capability: to reach files
#: in folders that are closed to it. A change of user clears the parent-death signal, so it is set again.
_NOBODY_COMMAND = (
    "setpriv",
    f"--reuid={_NOBODY}",
    f"--regid={_NOBODY}",
    "--clear-groups",
    "--inh-caps=-all,+dac_override",
    "--ambient-caps=-all,+dac_override",
    "--bounding-set=-all,+dac_override",
    # Otherwise access(2) would ignore the capability.
    "--securebits=+no_setuid_fixup",
    "--no-new-privs",
    "--pdeathsig=INT",
    "--",
)


def drop_prefix(data: Path) -> Sequence[str]:
    """Return the command to put before Postgres' own; empty for an ordinary user.

    A data folder `data` that exists keeps the owner that it was made for. Raises ServerNotStarted if this
    machine allows neither way.
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


def hand_over(folder: Path, prefix: Sequence[str]) -> None:
    """Give `folder` to the user that `prefix` changes to."""
    if prefix and prefix[0] == _NOBODY_COMMAND[0]:
        os.chown(folder, _NOBODY, _NOBODY)


@functools.cache
def _works(command: tuple[str, ...]) -> bool:
    try:
        trial = run_to_end("a trial", [*command, "true"], os.environ, Path("/"), timeout_s=_TRIAL_TIMEOUT_S)
    except ServerNotStarted:
        return False
    return trial.returncode == 0
