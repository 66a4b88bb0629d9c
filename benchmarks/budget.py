"""Show where the processor time of one acknowledged `POST /predict` goes, function by function.

    python -m benchmarks.budget [--lines 16]

py-spy samples `bdlab serve` under the load of wrk. A sample counts for the innermost function of bdlab that
runs in it; without one, for the package of the innermost function. Threads without Python are librdkafka's.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import threading
from collections import Counter
from pathlib import Path

from benchmarks import common
from benchmarks.api import served
from benchmarks.common import CannotRun, Daemon

#: What runs the event loop; if nothing of bdlab runs in it, the loop itself does.
_LOOP = ("wiring/signals", "wiring/uvicorn_server", "commands/serve")
_FRAME = re.compile(r"(?P<function>.+) \((?P<file>.+?)(?::\d+)?\)$")


def threads_s(pid: int) -> dict[int, float]:
    """Return the processor seconds of each thread of a process."""
    found = {}
    for place in Path(f"/proc/{pid}/task").iterdir():
        fields = (place / "stat").read_text().rpartition(")")[2].split()
        found[int(place.name)] = sum(map(int, fields[11:13])) / common.TICKS
    return found


def serving_process(daemon: Daemon) -> int:
    """Return the process that has used most processor time: the one that serves."""
    return max(common.family(daemon.pid), key=lambda pid: sum(threads_s(pid).values()))


def step(stack: str) -> str:
    """Return what a sample counts for."""
    frames = [found for frame in stack.split(";") if (found := _FRAME.match(frame))]
    for frame in reversed(frames):
        name = re.search(r"(bdlab(?:_cli)?/.+)\.py$", frame["file"])
        if name and name[1].endswith(_LOOP):
            return "the event loop: sockets, timers, uvicorn's protocol"
        if name:
            return f"{name[1].removeprefix('bdlab/')}: {frame['function']}"
    if not frames:
        return "other"
    return frames[-1]["file"].partition("/")[0].removesuffix(".py")


def sample(pid: int, seconds: int) -> Counter[str]:
    program = str(Path(common.peer_python("bench-profile")).with_name("py-spy"))
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        command = [program, "record", "-p", str(pid), "-d", str(seconds), "-r", "250", "-t", "-f", "raw"]
        ended = subprocess.run(
            [*command, "-o", file.name], capture_output=True, text=True, check=False, timeout=seconds + 60
        )
        if ended.returncode:
            raise CannotRun(f"py-spy: {ended.stderr[-500:]}")
        found: Counter[str] = Counter()
        for line in Path(file.name).read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            if "MainThread" in stack.partition(";")[0]:
                found[step(stack)] += int(count)
        return found


def main() -> None:
    parser = common.options(__doc__, baseline=True)
    parser.add_argument("--lines", type=int, default=16, help="functions to show")
    given: argparse.Namespace = parser.parse_args()
    seconds = 5 if given.quick else 15
    print(f"{common.machine()}\n")
    with served(given) as (field, broker, stacks):
        field.serve("bdlab", "bdlab serve", stacks[-1], broker)
        contender = field.contenders["bdlab"]
        common.wrk(contender.url, contender.body, 3)
        pid = serving_process(contender.daemon)
        before = threads_s(pid)
        load = common.wrk(contender.url, contender.body, seconds)
        after = threads_s(pid)
        used = {thread: spent - before.get(thread, 0.0) for thread, spent in after.items()}
        python_us = used[pid] / load.requests * 1e6
        others_us = (sum(used.values()) - used[pid]) / load.requests * 1e6
        # A second load for the sampling, which slows what it samples.
        loading = threading.Thread(target=common.wrk, args=(contender.url, contender.body, seconds + 3))
        loading.start()
        try:
            found = sample(pid, seconds)
        finally:
            loading.join()
    total = sum(found.values())
    rows = [[name, f"{python_us * count / total:.0f}"] for name, count in found.most_common(given.lines)]
    rest = total - sum(count for _, count in found.most_common(given.lines))
    rows += [
        ["all else in the event loop's thread", f"{python_us * rest / total:.0f}"],
        ["other threads: librdkafka's, and pollers", f"{others_us:.0f}"],
        ["**together**", f"**{python_us + others_us:.0f}**"],
    ]
    common.table(["step of one request", "CPU µs"], rows)


if __name__ == "__main__":
    common.run(main)
