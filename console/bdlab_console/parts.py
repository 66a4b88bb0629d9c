"""What the console works with, opened once in its process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from bdlab.contract import Contract
from bdlab.credentials import FeedbackTopic
from bdlab.kafka.admin import Admin
from bdlab.postgres.deadletters import DeadLetters
from bdlab.postgres.quality import QualityReader
from bdlab.postgres.reader import Reader
from bdlab.postgres.session import ConnectionLimits
from bdlab.settings import Layers
from bdlab.vault.identity import Identity
from bdlab.vault.session import VaultSession
from bdlab.wiring.checks import Checker, chosen, own_url
from bdlab_console.shared import Shared

SERVICE = "console"
CHANGERS = {"replay": "dlq", "promote": "model"}
"""The scopes of what changes something, each with the service whose identity does it."""


class Console:
    """The parts, over real servers: `session` at Vault, a `reader` for short questions, `figures` for long ones and
    `newest` for what is asked every second, the dead `letters` for one thread at a time, the clients `predictions` and
    `feedback` of the two topics, `broker`, which waits a shorter time for one, the `checker` of `bdlab status`, what
    all viewers `shared`, what `figures` are asked one after the other, `counted`, and `stopping`, which is set when the
    console ends."""

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self.stopping = threading.Event()
        self._open = ExitStack()

    def open(self) -> None:
        """Log in to Vault, and wait for it; the other servers may be away. Raises VaultError."""
        before = self.layers.settings()
        role = before.deployment.database_role(SERVICE)
        with ExitStack() as opening:
            session = VaultSession(self.layers, service=SERVICE, database_role=role, daemon=True)
            self.session = opening.enter_context(closing(session))
            self.session.open(before.startup_timeout_s)
            self.settings = self.session.settings()
            self.api_url = (self.settings.console.api_url or own_url(self.settings.http)).rstrip("/")
            self.reader = opening.enter_context(closing(Reader(self.session, application_name="bdlab console")))
            self.letters = opening.enter_context(closing(DeadLetters(self.session)))
            limits = ConnectionLimits(statement_s=600, silence_s=660)
            figures = QualityReader(self.session, application_name="bdlab console figures", limits=limits)
            self.figures = opening.enter_context(closing(figures))
            limits = ConnectionLimits(statement_s=5, lock_s=5, silence_s=6)
            newest = Reader(self.session, application_name="bdlab console newest", limits=limits)
            self.newest = opening.enter_context(closing(newest))
            admin = Admin(self.session, client_id="bdlab-console", timeout_s=5.0)
            self.predictions = opening.enter_context(closing(admin))
            admin = Admin(FeedbackTopic(self.session), client_id="bdlab-console-feedback", timeout_s=5.0)
            self.feedback = opening.enter_context(closing(admin))
            self.broker = opening.enter_context(
                closing(Admin(self.session, client_id="bdlab-console-state", timeout_s=2.5))
            )
            wanted = [check for check in chosen((), self.settings.sink) if check != "model"]  # which is of a terminal
            checker = Checker(self.layers.impatient(), wanted, api_url=self.api_url, service=SERVICE)
            self.checker = opening.enter_context(checker)
            self.shared = opening.enter_context(closing(Shared()))
            self.counted = opening.enter_context(closing(Shared(threads=1)))
            self._open = opening.pop_all()

    def close(self) -> None:
        """Log out, in the reverse order of opening."""
        self.stopping.set()
        self._open.close()

    async def contract(self) -> Contract:
        """Return the contract that the database has. Raises DatabaseError, VaultError."""
        return (await self.shared.get("contract", self.reader.contract, keep_s=60.0)).found()

    def may(self, scope: str) -> bool:
        """Return whether the identity for `replay` or `promote` was given to this process."""
        return Identity.of(self.settings.vault, self.settings.deployment, CHANGERS[scope]).exists

    @contextmanager
    def as_service(self, scope: str) -> Iterator[VaultSession]:
        """Open a session of the identity that `replay` or `promote` needs. Blocks; raises VaultError."""
        service = CHANGERS[scope]
        role = self.settings.deployment.database_role(service)
        kafka: dict[str, Any] = {"kafka": scope == "replay"}
        session = VaultSession(self.layers, service=service, database_role=role, daemon=False, **kafka)
        with closing(session):
            session.open(10.0)
            yield session
