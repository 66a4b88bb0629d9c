"""Measure the time from `bdlab up` to the first acknowledged prediction, on Kafka and on Tansu.

For each broker and round: a new folder, then the same folder again. Seconds are from the command to the
response 200; processor seconds are those of all processes until then. Kafka's jars have to be in the cache.

Run: python benchmarks/start.py [rounds]
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import msgspec

from bdlab.errors import StackError
from bdlab.stack import DataFolder

BODY = '{"text": "Great taste, will buy again."}'
TICKS = os.sysconf("SC_CLK_TCK")
POLL_S = 0.01


class Start(msgspec.Struct, frozen=True):
    """Wall and processor seconds to the first acknowledged prediction, and the broker's resident MB then."""

    seconds: float
    cpu_s: float
    broker_mb: float


def cpu_of(pid: int, *, children: bool = False) -> float:
    """Return the processor seconds of a process; with `children` also of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if children else 13])) / TICKS


def resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def acknowledged(url: str) -> bool:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
    with closing(connection), suppress(OSError, http.client.HTTPException):
        connection.request("POST", "/predict", BODY, {"Content-Type": "application/json"})
        return connection.getresponse().status == 200
    return False


def start(path: Path, broker: str) -> Start:
    folder = DataFolder(path)
    arguments = ["up", "--data-dir", str(path), "--broker", broker]
    began = time.perf_counter()
    up = subprocess.Popen(
        [sys.executable, "-m", "bdlab_cli", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            assert up.poll() is None, f"bdlab {' '.join(arguments)} ended with {up.returncode}"
            with suppress(StackError):
                if acknowledged(folder.running().http_url):
                    break
            time.sleep(POLL_S)
        seconds = time.perf_counter() - began
        cpu_s = cpu_of(up.pid, children=True)
        for pid in folder.processes():
            with suppress(OSError):
                cpu_s += cpu_of(pid)
        record = msgspec.json.decode((folder.records / f"{broker}.json").read_bytes())
        return Start(seconds, cpu_s, resident_mb(record["pid"]))
    finally:
        up.send_signal(signal.SIGINT)
        up.wait()


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    found: dict[tuple[str, str], list[Start]] = {}
    for _ in range(rounds):
        for broker in ("kafka", "tansu"):
            with tempfile.TemporaryDirectory(prefix="bdlab-start-") as name:
                for what in ("new folder", "again"):
                    found.setdefault((broker, what), []).append(start(Path(name) / "stack", broker))
    for (broker, what), runs in found.items():
        seconds = median(run.seconds for run in runs)
        cpu_s = median(run.cpu_s for run in runs)
        beside = median(run.cpu_s for run in found["tansu", what])
        print(
            f"{broker:5} {what:10}  {seconds:5.1f} s (least {min(run.seconds for run in runs):.1f} s), "
            f"{cpu_s:4.1f} s of processor = {cpu_s / beside:.2f} x the memory-only broker's, "
            f"broker {median(run.broker_mb for run in runs):.0f} MB"
        )


if __name__ == "__main__":
    main()
