"""`vault-token`: a short-lived administrator's token for one task, with the name of the person in it."""

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from bdlab.vault.bootstrap.admin_access import AdminAccess, revoke_and_close
from bdlab.vault.bootstrap.keysfile import KeysFile
from bdlab.vault.bootstrap.lock import vault_init_lock
from bdlab.vault.bootstrap.plan import Plan
from bdlab.vault.bootstrap.seal import require_open
from bdlab.vault.client import VaultClient

ROOT_POLICY = "root"


def make_token(plan: Plan, *, ttl: timedelta, policies: tuple[str, ...] = (ROOT_POLICY,)) -> VaultClient:
    """Return a client with a new token that cannot be renewed; the caller revokes it and closes the client.

    It takes what a change by `vault-init` takes: the identity `recovery` and the recovery key, or the key
    shares. Vault's audit log then shows the user of this process with each request. Raises VaultError if no
    token can be had.
    """
    client = VaultClient(plan.vault)
    try:
        require_open(client, plan)
        with vault_init_lock(plan):
            access = AdminAccess(client, plan, KeysFile(plan.keys_file))
            try:
                writer = access.writer()
                # A policy is known in its own namespace, the root policy only in the root namespace.
                token = (writer.in_namespace("") if policies == (ROOT_POLICY,) else writer).make_token(
                    policies=list(policies),
                    no_default_policy=True,
                    ttl=f"{int(ttl.total_seconds())}s",
                    explicit_max_ttl=f"{int(ttl.total_seconds())}s",
                    renewable=False,
                    display_name=f"operator-{_user()}",
                )
            finally:
                access.close()
        return client.with_token(token)
    finally:
        client.close()


@contextmanager
def temporary_token(plan: Plan, *, ttl: timedelta) -> Iterator[VaultClient]:
    """Yield such a client, and revoke its token at the end, whatever happens."""
    client = make_token(plan, ttl=ttl)
    try:
        yield client
    finally:
        revoke_and_close(client)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        return f"user-{os.getuid()}"
