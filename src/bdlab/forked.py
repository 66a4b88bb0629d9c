"""Processes that are forked from this one, for work on all cores over what is in its memory."""

import ctypes
import multiprocessing
import os
import signal
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Self, cast

from bdlab.errors import BdlabError

#: The results that wait for an earlier one, for each process.
_UNDELIVERED = 4
_HINT = "It may have run out of memory. Run the command again."


class Forked:
    """A context manager of `count` processes that call `work`, by default one for each core to use. Enter it while few
    threads run. The processes end with this one, and leave signals to it. `what` says in a message what one of them
    did, and `hint` what to do if it ended."""

    def __init__(self, work: Callable[[Any], Any], what: str, count: int | None = None, hint: str = _HINT) -> None:
        self._work, self._what, self._hint, self._count = work, what, hint, count or len(os.sched_getaffinity(0))
        self._processes: dict[Connection, BaseProcess] = {}

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("fork")
        with warnings.catch_warnings():
            # Python would warn of the numeric libraries' threads, which stand still at a fork.
            warnings.simplefilter("ignore", DeprecationWarning)
            for _ in range(self._count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(self._work, theirs), daemon=True)
                process.start()
                theirs.close()
                self._processes[ours] = process
        return self

    def __exit__(self, *_: object) -> None:
        for connection, process in self._processes.items():
            connection.close()
            process.kill()  # all that it holds can be made again
            process.join()
        self._processes.clear()

    def results(self, arguments: Iterable[Any], stop: Callable[[], object], *, ahead: int = 1) -> Iterator[Any]:
        """Return what `work` returns for each of the arguments, in their order. `stop` is called several times a
        second, and ends the results if it returns what is true. A process has at most `ahead` arguments at once. Raises
        what `work` raises, and BdlabError if a process ended."""
        remaining = iter(arguments)
        at: dict[Connection, deque[int]] = {connection: deque() for connection in self._processes}
        done: dict[int, tuple[Any, Exception | None]] = {}
        sent = returned = 0
        while not stop():
            try:
                for connection, numbers in at.items():
                    if len(numbers) < ahead and sent - returned < _UNDELIVERED * len(at):
                        for argument in islice(remaining, 1):
                            connection.send(argument)
                            numbers.append(sent)
                            sent += 1
                if sent == returned:
                    return
                busy = [] if returned in done else [each for each, numbers in at.items() if numbers]
                for ready in wait(busy, 0.2) if busy else ():
                    connection = cast("Connection", ready)
                    done[at[connection].popleft()] = connection.recv()
            except (EOFError, OSError) as error:
                self._processes[connection].join(1)
                what = f"a process that {self._what} has ended (exit code {self._processes[connection].exitcode})"
                raise BdlabError(what, hint=self._hint) from error
            if returned in done:
                result, failure = done.pop(returned)
                returned += 1
                if failure is not None:
                    raise failure
                yield result


def end_with_parent(signal_number: int) -> bool:
    """Have the system send the signal to this process when its parent ends, even if that is killed. Returns false if
    the parent has ended before that. For a process that multiprocessing started."""
    ctypes.CDLL(None).prctl(1, signal_number, 0, 0, 0)  # PR_SET_PDEATHSIG
    parent = multiprocessing.parent_process()
    return parent is None or parent.is_alive()


def _serve(work: Callable[[Any], Any], connection: Connection) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if not end_with_parent(signal.SIGKILL):
        return
    while True:
        argument = connection.recv()
        try:
            answer: tuple[Any, Exception | None] = work(argument), None
        except Exception as error:  # noqa: BLE001 - it is raised where the result is taken
            answer = None, error
        connection.send(answer)
