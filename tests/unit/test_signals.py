"""Signals held back over a block: none is lost, none interrupts it, and the first is acted on afterwards."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from bdlab.signals import deferred, termination_signals

#: Sends itself each signal that it is given while it holds them back.
PROGRAM = """
import os, signal, sys
from bdlab.signals import deferred
from bdlab_cli.wiring.signals import stop_on_signal
numbers = [signal.Signals[name] for name in sys.argv[2].split(",") if name]
def work():
    with deferred("this"):
        for number in numbers:
            os.kill(os.getpid(), number)
        print("whole", flush=True)
    print("later", flush=True)
if sys.argv[1] == "listening":
    with stop_on_signal() as stop:
        work()
        stop.wait(30)
        print("asked to stop", stop.is_set(), flush=True)
else:
    work()
"""


def run(how: str, *names: str, prefix: tuple[str, ...] = ()) -> tuple[int, list[str]]:
    done = subprocess.run(
        [*prefix, sys.executable, "-c", PROGRAM, how, ",".join(names)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if "finishing this first" not in line]
    return done.returncode, lines


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_what_ends_a_process_ends_it_after_the_block(name: str) -> None:
    assert run("plain", name, "SIGINT", name) == (-signal.Signals[name], ["whole"])


def test_an_interrupt_comes_after_the_block() -> None:
    code, lines = run("plain", "SIGINT", "SIGINT", "SIGTERM")
    assert lines == ["whole"]
    assert code in (1, -signal.SIGINT)  # a KeyboardInterrupt that nobody catches


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_command_that_listens_hears_it_once(name: str) -> None:
    """A second one would end it at once."""
    assert run("listening", name, name) == (0, ["whole", "later", "asked to stop True"])


def test_nohup_stays_in_force() -> None:
    assert run("plain", "SIGHUP", prefix=("nohup",)) == (0, ["whole", "later"])


def test_it_leaves_handlers_and_other_threads_alone() -> None:
    before = [signal.getsignal(number) for number in termination_signals()]
    with deferred("this"):
        assert [signal.getsignal(number) for number in termination_signals()] != before
    assert [signal.getsignal(number) for number in termination_signals()] == before
    found: list[object] = []

    def elsewhere() -> None:
        with deferred("this"):
            found.extend(signal.getsignal(number) for number in termination_signals())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == before
