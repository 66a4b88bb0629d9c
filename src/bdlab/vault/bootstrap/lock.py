"""The lock by which one `vault-init` at a time works on a folder of identities."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from bdlab.errors import VaultError, VaultUnavailable
from bdlab.retry import wait_for
from bdlab.vault.bootstrap.plan import Plan


@contextmanager
def vault_init_lock(plan: Plan) -> Iterator[None]:
    """Lock the folder; two runs at once would each take the half-done work of the other for broken.

    Waits up to the plan's `timeout_s` for another run, then raises VaultUnavailable. The lock ends with the
    process.
    """
    folder = plan.vault.identities
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(folder / ".vault-init.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise VaultError(
            f"the folder for the services' identities {folder} cannot be used: {error.strerror}",
            hint="Name one that you may write with --identity-dir.",
        ) from error

    def take() -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise VaultUnavailable(f"another vault-init is at work on {folder}") from error

    try:
        wait_for("the other vault-init", take, timeout_s=plan.timeout_s)
        yield
    finally:
        os.close(handle)
