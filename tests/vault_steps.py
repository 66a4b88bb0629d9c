"""What tests of Vault say about steps, tokens and logins."""

from __future__ import annotations

import contextlib

from bdlab.credentials import DatabaseLogin
from bdlab.errors import VaultError
from bdlab.vault.bootstrap import StepResult
from tests.fix_vault import VaultWorld

STEPS = [
    "initialise",
    "unseal",
    "engines",
    "policies",
    "identities",
    "database connection",
    "database roles",
    "key-value seed",
    "secret ids",
    "root token",
]


def outcomes(steps: list[StepResult]) -> dict[str, str]:
    return {step.name: step.outcome for step in steps}


def unchanged_but(**others: str) -> dict[str, str]:
    return dict.fromkeys(STEPS, "unchanged") | {name.replace("_", " "): what for name, what in others.items()}


def root_tokens(world: VaultWorld) -> list[str]:
    """The display names of all living root tokens but the one that looks."""
    with world.root() as client:
        own = client.read("auth/token/lookup-self")["accessor"]
        found = []
        for accessor in client.request("list", "auth/token/accessors")["data"]["keys"]:
            with contextlib.suppress(VaultError):  # it ran out meanwhile
                token = client.write("auth/token/lookup-accessor", {"accessor": accessor})
                if accessor != own and "root" in token["policies"]:
                    found.append(str(token["display_name"]))
        return found


def works_as_writer(login: DatabaseLogin, world: VaultWorld) -> bool:
    """Whether it logs in, and works as the group of writers."""
    with contextlib.closing(world.connect(login)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT session_user, current_user")
        found = cursor.fetchone()
    return found == (login.user, "bdlab_writer")
