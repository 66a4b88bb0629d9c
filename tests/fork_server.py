"""Forks `bdlab` commands from a process that has imported them all: `tests.forked` starts and asks it.

Each request is a message on the socket whose descriptor is the first argument: arguments, environment and
folder as JSON, with four descriptors: where the process id and the exit status go, and the three standard
streams. The process is a child of a small one that waits for it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import socket
import struct
import sys
from contextlib import suppress

import bdlab
import bdlab_cli
from bdlab_cli import app

MOST_BYTES = 1 << 20
NUMBER = struct.Struct("=i")


def import_everything() -> None:
    """Import what commands import, but for scikit-learn: it starts threads, which a fork does not have."""
    app._import_structlog_alone()
    importlib.import_module("typer._adapters")  # with pydantic, which Typer imports at a command's first option
    for package in (bdlab, bdlab_cli):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.startswith("bdlab.model.") and not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    assert len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208
    # So that no collection in what is forked copies all of it.
    gc.collect()
    gc.freeze()


def forked_for_a_request(requests: socket.socket) -> list[str]:
    """Fork for each request, and return its arguments in the process that is its own; elsewhere never."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, MOST_BYTES, 4)
        if not message:  # the tests have ended
            os._exit(0)
        if os.fork() == 0:
            break
        for descriptor in descriptors:
            os.close(descriptor)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    requests.close()
    waiting, *streams = descriptors
    if pid := os.fork():
        for descriptor in streams:
            os.close(descriptor)
        os.write(waiting, NUMBER.pack(pid))
        os.write(waiting, NUMBER.pack(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
        os._exit(0)
    os.close(waiting)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    request = json.loads(message)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    arguments: list[str] = request["arguments"]
    return arguments


if __name__ == "__main__":
    import_everything()
    sys.argv = ["bdlab", *forked_for_a_request(socket.socket(fileno=int(sys.argv[1])))]
    app.main()
