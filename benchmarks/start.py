"""Measure starts: `bdlab up` to its first acknowledged prediction, and short commands on a running stack.

    python -m benchmarks.start [--rounds 3] [--baseline REF]

For Apache Kafka and the memory-only broker, in each round: a new folder, then the same folder again. Seconds
are from the command to the response 200; processor seconds are those of all processes until then. On the
second stack `bdlab predict "x"` and `bdlab status` run some times. Kafka's jars have to be in the cache.
"""

from __future__ import annotations

import http.client
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import common
from benchmarks.common import BODY, Measured, Stack

TARGET_S = 0.5
COMMANDS = {"predict": ["predict", "x"], "status": ["status"]}


def acknowledged(url: str) -> bool:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
    with closing(connection), suppress(OSError, http.client.HTTPException):
        connection.request("POST", "/predict", BODY, {"Content-Type": "application/json"})
        return connection.getresponse().status == 200
    return False


class Starting(Stack):
    """A stack whose start is over with its first acknowledged prediction."""

    def ready(self) -> bool:
        return acknowledged(self.url)


def start(bdlab: list[str], folder: Path, broker: str, found: Measured, *, runs: int) -> None:
    began = time.perf_counter()
    with Starting("stack", folder, bdlab=bdlab, broker=broker) as stack:
        found.add(
            seconds=stack.ready_at - began, cpu_s=stack.ready_cpu_s, broker_mb=common.memory_mb(stack.pid_of(broker))
        )
        common.settle(stack.pid)
        for _ in range(runs):
            for name, arguments in COMMANDS.items():
                ended = common.finish([*bdlab, *arguments], env=stack.exports)
                found.add(**{name: ended.seconds, f"{name}_cpu": ended.cpu_s})


def main() -> None:
    given = common.options(__doc__, baseline=True).parse_args()
    print(f"{common.machine()}\n")
    bdlabs = {"": common.BDLAB}
    if given.baseline:
        bdlabs[f" of {given.baseline}"] = common.bdlab_of(given.baseline)
    found: dict[tuple[str, str, str], Measured] = {}
    for _ in common.rounds(given, 3):
        for broker in ("kafka", "tansu"):
            for name, bdlab in bdlabs.items():
                with tempfile.TemporaryDirectory(prefix="bdlab-bench-") as folder:
                    for what in ("new folder", "again"):
                        one = found.setdefault((broker, name, what), Measured())
                        runs = 0 if what == "new folder" else 3 if given.quick else 5
                        start(bdlab, Path(folder), broker, one, runs=runs)
    common.table(
        ["bdlab up, to the first acknowledged prediction", "seconds", "CPU s", "broker MB"],
        [
            [f"{broker}, {what}{name}", f"{one['seconds']:.1f}", f"{one['cpu_s']:.1f}", f"{one['broker_mb']:.0f}"]
            for (broker, name, what), one in found.items()
        ],
    )
    print()
    again = {key: one for key, one in found.items() if key[2] == "again"}
    common.table(
        ["on a running stack", "predict s", "CPU s", "status s", "CPU s"],
        [
            [f"{broker}{name}", *(f"{one[each]:.2f}" for each in ("predict", "predict_cpu", "status", "status_cpu"))]
            for (broker, name, _), one in again.items()
        ],
    )
    print()
    for name in COMMANDS:
        common.target(f"bdlab {name}, on Kafka", again["kafka", "", "again"][name], "<=", TARGET_S, " s")


if __name__ == "__main__":
    common.run(main)
