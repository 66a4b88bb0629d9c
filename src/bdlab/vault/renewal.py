"""The thread of a running service that renews its token and logins, each when it is due."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import msgspec
import structlog

from bdlab.errors import BdlabError, VaultError, VaultUnavailable
from bdlab.retry import Backoff, Outage
from bdlab.vault.logins import now

_log = structlog.get_logger()


class Task(msgspec.Struct):
    """Something to do again and again: `run` does it, holding `lock`, and returns when it is due next (see
    `logins.now`). A refusal, which ends only once somebody has changed something, is tried again after
    `refused_pause_s` seconds."""

    name: str
    run: Callable[[], float]
    due_at: float
    lock: AbstractContextManager[object] = nullcontext()
    refused_pause_s: float = 60.0
    backoff: Backoff = msgspec.field(default_factory=lambda: Backoff(0.2, 5.0))


class RenewalThread:
    """Runs its tasks until it is stopped, and logs an outage (see `retry.Outage`) that outlasts the first tries.
    `outage` is the last error of a task that still fails, or None."""

    def __init__(self, name: str, tasks: list[Task]) -> None:
        self._name, self._tasks = name, {task.name: task for task in tasks}
        self._condition, self._stopping = threading.Condition(), False
        self._thread: threading.Thread | None = None
        self._failing: set[str] = set()
        began = "credentials cannot be renewed from Vault; the present ones stay in use"
        # A shorter outage is not logged: a Vault that refuses now and then would fill the log.
        self._log_lines = Outage(began, "credentials are renewed from Vault again", quiet_s=1.0)
        self.outage: BdlabError | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop it and wait for up to `timeout_s` seconds; a request that is under way may take longer."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                _log.warning("a request to Vault did not end in time", thread=self._name, timeout_s=timeout_s)

    def schedule(self, name: str, at: float) -> None:
        """Run a task, if there is one of this name, at `at`, instead of when it was due."""
        with self._condition:
            if name in self._tasks:
                self._tasks[name].due_at = at
                self._condition.notify()

    def completed(self, name: str, *, due_at: float) -> None:
        """Note that another thread did the task, if there is one of this name; it is due again at `due_at`."""
        if name in self._tasks:
            self._succeeded(self._tasks[name])
            self.schedule(name, due_at)

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
            with task.lock:
                due_at = task.run()
        except BdlabError as error:
            due_at = self._failed(task, error)
        except OSError as error:  # a full disk or a missing folder: the other tasks go on
            due_at = self._failed(task, VaultError(f"a file of the identity cannot be used: {error}"))
        else:
            self._succeeded(task)
        with self._condition:
            task.due_at = due_at

    def _failed(self, task: Task, error: BdlabError) -> float:
        """Note the error, and return when to try again."""
        # A refusal needs somebody to act; an outage may end with the next try.
        refused = not isinstance(error, VaultUnavailable)
        with self._condition:
            self._failing.add(task.name)
            self.outage = error
            self._log_lines.failed(error, at_once=refused, wanted=task.name, advice=error.hint)
        return now() + (task.refused_pause_s if refused else task.backoff.next_s())

    def _succeeded(self, task: Task) -> None:
        with self._condition:
            task.backoff.reset()
            if self._failing == {task.name}:
                self.outage = None
                self._log_lines.over()
            self._failing.discard(task.name)
