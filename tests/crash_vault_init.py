"""Run `vault-init` again and again, each time killed just after it has changed something, until one finishes.

A program of its own, for `test_vault_init_command.py`: it forks, which pytest's threads would not stand.
Reads a JSON object from stdin; prints what was last changed before each kill, a line each.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from bdlab.settings import PostgresSettings, Secret, VaultSettings
from bdlab.vault.bootstrap import Plan, bootstrap
from bdlab.vault.bootstrap.plan import read_env
from bdlab.vault.client import VaultClient
from tests.fix_vault import AdminManager

#: These change nothing that lasts; and after sys/init the keys are lost, as vault-init says when run again.
HARMLESS = ("/login", "/lookup", "sys/init")
RUNS = 200
#: More than the changes of the longest step that has to be done in one go.
MOST_CHANGES = 9


class Deadly:
    """Counts changes, on the server and on disk, and kills its process at the last of them."""

    def __init__(self, changes: int) -> None:
        self._left = changes

    def changed(self, what: str) -> None:
        self._left -= 1
        if self._left == 0:
            print(what, flush=True)  # noqa: T201 - the result of this program
            os.kill(os.getpid(), signal.SIGKILL)

    def arm(self) -> None:
        send, replace, prepare = VaultClient._send, Path.replace, AdminManager.prepare

        def send_and_die(client: VaultClient, method: Any, path: str, *arguments: Any, **named: Any) -> Any:
            response = send(client, method, path, *arguments, **named)
            if response.ok and method not in ("get", "list") and not path.endswith(HARMLESS):
                self.changed(f"{method} {path}")
            return response

        def replace_and_die(path: Path, target: Any) -> Path:
            found = replace(path, target)
            self.changed(f"file {Path(target).name}")
            return found

        def prepare_and_die(manager: AdminManager, password: Secret) -> str:
            name = prepare(manager, password)
            self.changed("manager role")
            return name

        VaultClient._send = send_and_die  # type: ignore[assignment,method-assign]
        Path.replace = replace_and_die  # type: ignore[assignment,method-assign]
        AdminManager.prepare = prepare_and_die  # type: ignore[assignment,method-assign]


def main() -> int:
    given = json.load(sys.stdin)
    chance = random.Random(given["seed"])
    seeds = read_env(Path(given["env_file"]))
    server = msgspec.convert(given["server"], PostgresSettings)
    admin = msgspec.structs.replace(seeds.administrator, server=server)
    plan = Plan(
        vault=VaultSettings(
            address=given["address"], ca_file=given["ca_file"], identity_dir=given["identity_dir"], timeout_s=5
        ),
        keys_file=Path(given["keys_file"]),
        seeds=seeds,
        manager=AdminManager(admin),
        timeout_s=20,
    )
    for _ in range(RUNS):
        changes = chance.randint(1, MOST_CHANGES)
        child = os.fork()
        if child == 0:
            Deadly(changes).arm()
            bootstrap(plan, lambda _: None)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return 0
        if not os.WIFSIGNALED(status):
            return 1
    return 1


if __name__ == "__main__":
    sys.exit(main())
