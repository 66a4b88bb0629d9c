"""What the set-up of Vault needs of its administrator: key shares, a token, and log-ins to the database."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from bdlab.credentials import DatabaseLogin
from bdlab.errors import DatabaseError, InvalidInput
from bdlab.postgres import roles
from bdlab.settings import Secret
from bdlab.vault.bootstrap.plan import DatabaseManager, Seeds


def read_token(file: Path | None) -> Secret | None:
    if file is None:
        given = os.environ.get("BDLAB_VAULT_TOKEN", "").strip()
        return Secret(given) if given else None
    try:
        text = file.expanduser().read_text("utf-8").strip()
    except OSError as error:
        raise InvalidInput(f"the token file {file} cannot be read: {error.strerror}") from error
    if not text:
        raise InvalidInput(f"the token file {file} is empty")
    return Secret(text)


def ask_key(number: int) -> Secret | None:
    given = typer.prompt(
        f"Key share {number} (empty: no more)", hide_input=True, default="", err=True, show_default=False
    )
    return Secret(given.strip()) if given.strip() else None


def database_manager(seeds: Seeds, *, shared: bool = False) -> DatabaseManager:
    """`shared`: the server is others' too, so who may enter its maintenance databases stays as it is."""
    admin = _administrator(seeds)

    class Manager:
        """The administrator's log-in, behind what the set-up of Vault needs of it."""

        def exists(self) -> bool:
            return roles.manager_exists(admin)

        def missing(self) -> tuple[str, ...]:
            return roles.prepare(admin, shared=shared, dry_run=True)

        def prepare(self, password: Secret | None) -> str:
            roles.prepare(admin, manager_password=password, shared=shared)
            return roles.MANAGER

    return Manager()


def _administrator(seeds: Seeds) -> DatabaseLogin:
    return DatabaseLogin(server=seeds.postgres, user=seeds.postgres_user, password=seeds.postgres_password)


def open_databases(seeds: Seeds) -> tuple[str, ...]:
    """Where the administrator of an old `.env` does not get in any more, they cannot be told."""
    try:
        return roles.open_databases(_administrator(seeds))
    except DatabaseError:
        return ()
