"""The thread of a running service that renews what it holds, each thing in its own time."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from bdlab.errors import BdlabError, VaultError, VaultUnavailable
from bdlab.retry import Backoff, Outage
from bdlab.vault.leases import now

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
#: What passes sooner is not spoken of: a Vault that refuses now and then would fill the log.
_QUIET_S = 1.0
#: After a refusal (a policy, an identity) asking again helps only once somebody has changed something.
_REFUSED_PAUSE_S = 60.0

_log = structlog.get_logger()


class Task:
    """Something to see to again and again. `run` does it and says when it is due next (see `leases.now`).

    After a refusal it is left for `refused_pause_s` seconds.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[], float],
        *,
        due_at: float,
        refused_pause_s: float = _REFUSED_PAUSE_S,
    ) -> None:
        self.name = name
        self.refused_pause_s = refused_pause_s
        self.run = run
        self.due_at = due_at
        self.backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)


class RenewalThread:
    """Runs its tasks until it is stopped. An outage that outlasts the first tries is logged once, once more
    for each other kind of error that it turns into, and once when it ends.

    `outage` is the error that was met last, None while all is well.
    """

    def __init__(self, name: str, tasks: list[Task]) -> None:
        self._name = name
        self._tasks = {task.name: task for task in tasks}
        self._condition = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._failing: set[str] = set()
        self._lines = Outage(
            "Vault does not give what is due; going on with what is held",
            "Vault gives again what is due",
            quiet_s=_QUIET_S,
        )
        self.outage: BdlabError | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop it; a request to Vault that is under way may outlast `timeout_s` seconds."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                _log.warning("a request to Vault did not end in time", thread=self._name, timeout_s=timeout_s)

    def due(self, name: str, at: float) -> None:
        """Move a task to the moment `at`."""
        with self._condition:
            self._tasks[name].due_at = at
            self._condition.notify()

    def done(self, name: str, *, due_at: float) -> None:
        """What a task is for was done by somebody else; it is due again at `due_at`."""
        self._succeeded(self._tasks[name])
        self.due(name, due_at)

    def _run(self) -> None:
        while True:
            with self._condition:
                task = min(self._tasks.values(), key=lambda task: task.due_at)
                while not self._stopping and task.due_at > now():
                    self._condition.wait(min(task.due_at - now(), threading.TIMEOUT_MAX))
                    task = min(self._tasks.values(), key=lambda task: task.due_at)
                if self._stopping:
                    return
            self._attempt(task)

    def _attempt(self, task: Task) -> None:
        try:
            due_at = task.run()
        except VaultUnavailable as error:
            due_at = now() + task.backoff.next_s()
            self._failed(task, error)
        except BdlabError as error:
            due_at = now() + task.refused_pause_s
            self._failed(task, error)
        except OSError as error:  # a full disk, a folder taken away: what is held has to be kept all the same
            due_at = now() + task.refused_pause_s
            self._failed(task, VaultError(f"a file of the identity cannot be used: {error}"))
        else:
            self._succeeded(task)
        with self._condition:
            task.due_at = due_at

    def _failed(self, task: Task, error: BdlabError) -> None:
        # A refusal waits for somebody to do something; an outage may pass with the next try.
        refused = not isinstance(error, VaultUnavailable)
        with self._condition:
            self._failing.add(task.name)
            self.outage = error
            self._lines.failed(error, at_once=refused, wanted=task.name, advice=error.hint)

    def _succeeded(self, task: Task) -> None:
        with self._condition:
            task.backoff.reset()
            if self._failing == {task.name}:
                self.outage = None
                self._lines.over()
            self._failing.discard(task.name)
