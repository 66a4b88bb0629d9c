"""What the set-up of Vault needs of its administrator: key shares and a token."""

import functools
import os
import sys
from pathlib import Path

import typer

from bdlab.errors import InvalidInput
from bdlab.settings import Secret
from bdlab.vault.bootstrap import Plan
from bdlab_cli.output.progress import no_line
from bdlab_cli.wiring.session import load_settings, tell_of_stack


def admin_plan(keys_file: Path, identity_dir: str | None, startup_timeout: float | None, *, quiet: bool = True) -> Plan:
    """Return the plan of a task that needs Vault's keys; a person at the terminal is asked for them."""
    given = {"vault": {"identity_dir": identity_dir}, "startup_timeout_s": startup_timeout}
    settings = load_settings(given, quiet=quiet).settings()
    tell_of_stack(settings.vault)
    return Plan(
        vault=settings.vault,
        deployment=settings.deployment,
        keys_file=keys_file.expanduser(),
        # A key may be needed twice, and is typed once.
        ask_key=functools.cache(ask_key) if sys.stdin.isatty() else None,
        timeout_s=settings.startup_timeout_s,
    )


def ask_key(number: int) -> Secret | None:
    """Ask at the terminal for a key share; None if there is no more."""
    with no_line():
        asked = f"Key share {number} (empty: no more)"
        given = typer.prompt(asked, hide_input=True, default="", err=True, show_default=False).strip()
    return Secret(given) if given else None


def read_token(file: Path | None, variable: str = "BDLAB_VAULT_TOKEN") -> Secret | None:
    """Return the token or key in `file`, or in an environment variable, if there is one. Raises InvalidInput."""
    if file is None:
        given = os.environ.get(variable, "").strip()
        return Secret(given) if given else None
    try:
        if text := file.expanduser().read_text("utf-8").strip():
            return Secret(text)
    except OSError as error:
        raise InvalidInput(f"the file {file} cannot be read: {error.strerror}") from error
    raise InvalidInput(f"the file {file} is empty")
