"""What the benchmarks share: servers of bdlab and of its peers, load, processor time, and tables.

Every figure is of processes that run in turn on one machine, in rounds, and is the median of them. Processor
time is that of a process, its threads and its children, by /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "peers"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bdlab-benchmarks"
TICKS = os.sysconf("SC_CLK_TCK")
PARTITIONS = 6

#: A review of 26 tokens.
REVIEW = (
    "I have bought several of these and have found them all to be of good quality, and my dog loves the "
    "taste more than others."
)
BODY = json.dumps({"text": REVIEW})


class CannotRun(Exception):
    """What is missing, and how to get it."""


# The command line.


def options(doc: str | None, *, baseline: bool = False) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have; `doc` is the module's docstring."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds; some 1 minute")
    parser.add_argument("--rounds", type=int, default=0, metavar="N", help="rounds; each runs everything once")
    if baseline:
        parser.add_argument(
            "--baseline",
            default="",
            metavar="REF",
            help="run this commit, or the checkout in this folder, in the same rounds",
        )
    return parser


def run(main: Callable[[], None]) -> None:
    """Run a benchmark: exit code 1, with the reason, only if it could not run."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    began = time.monotonic()
    try:
        main()
    except CannotRun as error:
        sys.exit(f"could not run: {error}")
    print(f"\ntook {time.monotonic() - began:.0f} s")


def say(text: str) -> None:
    """Show how far it is, apart from the results."""
    print(f"  {text}", file=sys.stderr, flush=True)


# Processes.


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()


def family(*roots: int) -> list[int]:
    """Return the processes and all that descend from them."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            children.setdefault(int(_stat(int(place.name))[1]), []).append(int(place.name))
    found, waiting = [], list(roots)
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return sorted(set(found))


def cpu_s(*roots: int) -> float:
    """Return the processor seconds of the processes and all that descend from them, the ended ones too."""
    total = 0
    for pid in family(*roots):
        with contextlib.suppress(OSError, IndexError):
            total += sum(map(int, _stat(pid)[11:15]))
    return total / TICKS


def memory_mb(*roots: int) -> float:
    """Return the resident memory of the processes and all that descend from them; shared pages count once."""
    total = 0
    for pid in family(*roots):
        with contextlib.suppress(OSError, StopIteration):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def peak_mb(pid: int) -> float:
    """Return the most resident memory that one process had so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def settle(*roots: int, share: float = 0.08, timeout_s: float = 60.0) -> None:
    """Wait until the processes use less than `share` of a core, as they do when they have caught up."""
    deadline = time.monotonic() + timeout_s
    quiet = 0
    while quiet < 2 and time.monotonic() < deadline:
        before = cpu_s(*roots)
        time.sleep(0.5)
        quiet = quiet + 1 if cpu_s(*roots) - before < share / 2 else 0


@dataclass
class Finished:
    """A command that has ended: wall and processor seconds, the most resident MB of all its processes."""

    seconds: float
    cpu_s: float
    peak_mb: float
    output: str


def finish(command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Finished:
    """Run a command to its end. Raises CannotRun if it fails."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env, cwd=cwd)
        try:
            with MostMemory(process.pid) as memory:
                _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise CannotRun(f"{shlex.join(command)} ended with {process.returncode}: {err.read()[-2000:]}")
        used = usage.ru_utime + usage.ru_stime
        return Finished(seconds, used, max(memory.mb, usage.ru_maxrss / 1024), out.read())


class MostMemory:
    """The most resident MB that a process and its children had at a time; shared pages count once."""

    def __init__(self, pid: int) -> None:
        self.mb = 0.0
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.25):
            self.mb = max(self.mb, memory_mb(self._pid))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass
class Daemon:
    """A server as a child process in a process group of its own; its output goes to `log`."""

    name: str
    command: Sequence[str]
    log: Path
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.env,
                cwd=self.cwd,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        members = family(self.pid)
        self.process.send_signal(self.stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(40)
        for pid in members:  # what outlived it; a group of its own each may have
            with contextlib.suppress(OSError):
                if os.getsid(pid) == self.pid or self.process.poll() is None:
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def wait_until(self, ready: Callable[[], bool], timeout_s: float = 120.0) -> None:
        """Wait until `ready()`. Raises CannotRun with the end of the log if it ends, or takes too long."""
        assert self.process is not None
        deadline = time.monotonic() + timeout_s
        while not ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                tail = self.log.read_text("utf-8", "replace")[-1500:]
                raise CannotRun(f"{self.name} did not start: {tail}")
            time.sleep(0.02)


# bdlab, of this checkout and of another.

BDLAB = [sys.executable, "-m", "bdlab_cli"]


def bdlab_of(what: str) -> list[str]:
    """Return the command `bdlab` of a commit, or of a checkout in a folder, with this environment's packages.

    Raises CannotRun if there is none.
    """
    checkout = Path(what).absolute() if Path(what).is_dir() else _checkout(what)
    if not (checkout / "cli" / "bdlab_cli").is_dir():
        raise CannotRun(f"{checkout} is no checkout of bdlab")
    python = checkout / ".venv" / "bin" / "python"
    if not python.exists():
        # An environment that looks into the checkout first, and then into the packages of this one.
        python = CACHE / f"python-{checkout.name}" / "bin" / "python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", python.parents[1]], check=True)
        packages = next((python.parents[1] / "lib").glob("python*/site-packages"))
        places = (checkout / "src", checkout / "cli", sysconfig.get_path("purelib"))
        (packages / "bdlab-of-a-checkout.pth").write_text("".join(f"{place}\n" for place in places))
    return [str(python), "-m", "bdlab_cli"]


def _checkout(ref: str) -> Path:
    found = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--verify", f"{ref}^{{commit}}"], capture_output=True, text=True, check=False
    )
    if found.returncode:
        raise CannotRun(f"{ref!r} is neither a commit nor a folder")
    folder = CACHE / f"bdlab-{found.stdout.strip()[:12]}"
    if not folder.is_dir():
        archive = subprocess.run(
            ["git", "-C", ROOT, "archive", found.stdout.strip()], capture_output=True, check=True
        ).stdout
        folder.mkdir(parents=True)
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
    return folder


class Stack(Daemon):
    """`bdlab up` in a folder: `env` points commands at it, and `url` is its API."""

    def __init__(self, name: str, folder: Path, *, bdlab: Sequence[str] = (), broker: str, consumers: int = 1) -> None:
        self.bdlab = list(bdlab or BDLAB)
        self.folder = folder / name
        self.broker = broker
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.exports: dict[str, str] = {}
        self.ready_at = self.ready_cpu_s = 0.0
        arguments = ["--data-dir", str(self.folder), "--broker", broker, "--http-port", str(port)]
        super().__init__(
            name,
            [*self.bdlab, "up", *arguments, "--consumers", str(consumers)],
            folder / f"{name}.log",
            env=_clean_environment(),
            stop_signal=signal.SIGINT,
        )

    def __enter__(self) -> Self:
        say(f"starting {self.name}: bdlab up --broker {self.broker}")
        super().__enter__()
        try:
            self.wait_until(self.ready)
            self.ready_at, self.ready_cpu_s = time.perf_counter(), cpu_s(self.pid)
            # `up` says where it is a moment after it serves.
            self.wait_until((self.folder / "run" / "stack.json").exists)
            shown = finish([*self.bdlab, "env", "--data-dir", str(self.folder)], env=self.env).output
            words = (shlex.split(line)[1].partition("=") for line in shown.splitlines())
            self.exports = _clean_environment() | {name: value for name, _, value in words}
        except BaseException:
            self.__exit__()
            raise
        return self

    def ready(self) -> bool:
        return answers(self.url + "/health")

    def pid_of(self, service: str) -> int:
        """Return the process id of a part: serve, consume-1, kafka, tansu, postgres."""
        return int(json.loads((self.folder / "run" / f"{service}.json").read_bytes())["pid"])


def _clean_environment() -> dict[str, str]:
    """Return this environment without what would configure bdlab or its servers."""
    foreign = ("BDLAB_", "VAULT_", "BAO_", "POSTGRES_", "PG", "KAFKA_")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:
            return bool(answer.status < 500)
    except OSError as error:
        return getattr(error, "code", 500) < 500


# Peers, each in an environment of its own.


def peer_python(group: str) -> str:
    """Return the Python of a dependency group of pyproject.toml, installed on the first call.

    Raises CannotRun if it cannot be installed.
    """
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"][group]
    folder = CACHE / f"{group}-py{sys.version_info.major}{sys.version_info.minor}"
    done = folder / "installed.json"
    # The model is a file of joblib, which these have to read as this environment does.
    same = {"scikit-learn", "numpy", "scipy", "joblib", "confluent-kafka"}
    pins = [f"{name}=={importlib.metadata.version(name)}" for name in sorted(same)]
    state = json.dumps([wanted, pins])
    python = folder / "bin" / "python"
    if not done.exists() or done.read_text() != state:
        say(f"installing {group} into {folder}, once")
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        uv = [sys.executable, "-m", "uv", "--quiet"]
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
            constraints.write("\n".join(pins))
            constraints.flush()
            for command in (
                [*uv, "venv", "--python", sys.executable, str(folder)],
                [*uv, "pip", "install", "--python", str(python), "-c", constraints.name, *wanted],
            ):
                ended = subprocess.run(command, capture_output=True, text=True, check=False)
                if ended.returncode:
                    raise CannotRun(f"{group} cannot be installed: {ended.stderr.strip()[-600:]}")
        done.write_text(state)
    return str(python)


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """A new folder that gets this name once it is complete."""
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    yield new
    new.rename(folder)


# Load.

_WRK_SCRIPT = """
local file = io.open(os.getenv("BENCHMARK_BODY")); wrk.body = file:read("*a"); file:close()
wrk.method = "POST"; wrk.headers["Content-Type"] = "application/json"
local key = os.getenv("BENCHMARK_KEY"); if key ~= "" then wrk.headers["Authorization"] = "Bearer " .. key end
function done(summary, latency, requests)
  io.write(string.format("BENCHMARK %d %d %d %d %d\\n", summary.requests, summary.duration,
    summary.errors.status + summary.errors.read + summary.errors.write + summary.errors.timeout
    + summary.errors.connect, latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass
class Load:
    """What a load generator saw; times in ms."""

    rate: float
    requests: int
    errors: int
    p50_ms: float
    p99_ms: float


def wrk(url: str, body: str, seconds: float, *, connections: int = 64, key: str = "") -> Load:
    """Send requests on so many connections, each the next one after its response."""
    program = shutil.which("wrk")
    if program is None:
        raise CannotRun("wrk makes the load, and is not here: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "load.lua").write_text(_WRK_SCRIPT)
        (Path(folder) / "body").write_text(body)
        command = [
            program,
            "-t1",
            "--timeout",
            "10s",
            f"-c{connections}",
            f"-d{max(1, round(seconds))}s",
            "-s",
            f"{folder}/load.lua",
        ]
        env = os.environ | {"BENCHMARK_BODY": f"{folder}/body", "BENCHMARK_KEY": key}
        shown = finish([*command, url], env=env).output
    line = next(line for line in shown.splitlines() if line.startswith("BENCHMARK"))
    requests, duration_us, errors, p50_us, p99_us = map(int, line.split()[1:])
    good = max(requests - errors, 0)
    return Load(good / duration_us * 1e6, good, errors, p50_us / 1e3, p99_us / 1e3)


def open_loop(url: str, body: str, rate: float, seconds: float) -> Load:
    """Send so many requests a second whatever the server does; each waits from the moment it was due."""
    command = [sys.executable, str(ROOT / "benchmarks" / "open_loop.py"), url, f"{rate}", f"{seconds}", body]
    return Load(**json.loads(finish(command).output))


# Results.


@dataclass
class Measured:
    """The medians of some rounds."""

    rounds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, **figures: float) -> None:
        for name, value in figures.items():
            self.rounds.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> float:
        return statistics.median(self.rounds[name])

    def __contains__(self, name: str) -> bool:
        return name in self.rounds


def machine() -> str:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores ({cpu}), Python {platform.python_version()}, "
        f"load average before {os.getloadavg()[0]:.1f}"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table that is Markdown, too."""
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))]
        return "| " + " | ".join([padded[0], *padded[2:]]) + " |"

    print(line(head))
    print("|" + "|".join([":" + "-" * (widths[0] + 1), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|")
    for row in rows:
        print(line(row))


def target(what: str, value: float, bound: str, limit: float, unit: str = "") -> None:
    """Print whether a figure meets its target; `bound` is `>=` or `<=`."""
    met = value >= limit if bound == ">=" else value <= limit
    wanted = f"{'at least' if bound == '>=' else 'at most'} {limit:,.4g}{unit}"
    print(f"{'met    ' if met else 'NOT MET'}  {what}: {value:,.4g}{unit} (target: {wanted})")


def rounds(given: argparse.Namespace, default: int) -> Iterator[int]:
    count = given.rounds or (1 if given.quick else default)
    for number in range(count):
        say(f"round {number + 1} of {count}")
        yield number
