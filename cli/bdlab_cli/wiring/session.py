"""Load the settings, and open the Vault session of a short command."""

from __future__ import annotations

import shlex
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bdlab_cli.output import terminal
from bdlab_cli.output.progress import line
from bdlab_cli.wiring.signals import stop_on_signal

if TYPE_CHECKING:
    from bdlab.settings import Layers, Values, VaultSettings
    from bdlab.vault.session import VaultSession

_AT_A_TERMINAL_S = 5.0


def load_settings(
    command_line: Mapping[str, Mapping[str, Any] | Any] | None = None, *, quiet: bool = False, daemon: bool = False
) -> Layers:
    """Return the settings' layers, and set up the log as they say. Raises SettingsInvalid. `command_line` maps sections
    to fields; a None is an option that was not given. `quiet` is for a command that prints its results itself: its log
    has warnings and worse only. A person at a terminal waits for a shorter time than a script or a `daemon`."""
    from bdlab import settings
    from bdlab_cli.output import logs

    given = {
        section: {field: each for field, each in value.items() if each is not None}
        if isinstance(value, Mapping)
        else value
        for section, value in (command_line or {}).items()
        if value is not None
    }
    defaults = {"startup_timeout_s": _AT_A_TERMINAL_S} if sys.stderr.isatty() and not daemon else {}
    loaded = settings.load(command_line=given, defaults=defaults)
    logs.configure(loaded.settings().log, quiet=quiet)
    return loaded


@cache
def tell_of_stack(vault: VaultSettings) -> None:
    """If nothing listens at Vault's default address, say how to name the local stack that is up, or start one."""
    from bdlab.health.remote import why_closed

    place = urlsplit(vault.address)
    if vault.address != type(vault)().address or not why_closed(place.hostname or "", place.port or 0):
        return
    from bdlab.stack.folder import running_folders
    from bdlab_cli.output.stack_events import bdlab_as_typed

    bdlab = bdlab_as_typed()
    lines = [f'  eval "$({bdlab} env --data-dir {shlex.quote(str(one.path))})"' for one in running_folders()]
    first = f"No Vault listens at {vault.address}, the default address. "
    todo = "Point this terminal at the local stack that is up:" if lines else f"Start a local stack: {bdlab} up"
    terminal.echo("\n".join((first + todo, *lines)), err=True)


def daemon_session(layers: Layers, service: str) -> VaultSession:
    """Return the session of a daemon, not open yet."""
    from bdlab.vault.session import VaultSession

    if sys.stderr.isatty():  # otherwise its log goes there
        tell_of_stack(layers.settings().vault)
    role = layers.settings().deployment.database_role(service)
    return VaultSession(layers, service=service, database_role=role, daemon=True)


def vault_layer(layers: Layers) -> tuple[Values, str]:
    """Return Vault's layer of the settings; or an empty one and why it cannot be read, within 5 s."""
    from bdlab.health import CachedProbe, at_once
    from bdlab.vault.session import VaultSession

    def read() -> tuple[Values, str]:
        session = VaultSession(layers.impatient(), service="status", database_role=None, kafka=False, daemon=False)
        with closing(session):
            session.open(0)
            return session.layer(), ""

    probe: CachedProbe[tuple[Values, str]] = CachedProbe(read, lambda why: ({}, why), "vault", timeout_s=4.0)
    return at_once([probe])[0]


@contextmanager
def open_session(
    layers: Layers,
    stop: threading.Event | None = None,
    *,
    service: str,
    database: bool = False,
    kafka: bool = True,
    renewed: bool = False,
) -> Iterator[VaultSession]:
    """Open the session of a short command, with its service's database login if `database`. `renewed` is for a command
    that may take hours. Setting `stop` ends the wait for Vault; without one a signal does. The person at the terminal
    is told of the wait. Raises VaultError."""
    from bdlab.vault.session import VaultSession

    settings = layers.settings()
    tell_of_stack(settings.vault)
    role = settings.deployment.database_role(service) if database else None
    session = VaultSession(layers, service=service, database_role=role, kafka=kafka, daemon=renewed)
    with closing(session):
        patience_s = settings.startup_timeout_s
        wait = f"Waiting for Vault at {settings.vault.address}, at most {patience_s:g} s (--startup-timeout)"
        with line(lambda: wait), nullcontext(stop) if stop else stop_on_signal() as ending:
            session.open(patience_s, stop=ending)
        yield session
