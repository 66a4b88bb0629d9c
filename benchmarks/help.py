"""Measure the time of `bdlab --help`, relative to a bare Typer program with as many commands.

    python benchmarks/help.py [RUNS]

Each run is a process of its own, in turn, so that a busy machine slows both. The target is 1.2.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bdlab_cli.app import COMMANDS

TARGET = 1.2
RUNS = 25

_BARE = """import typer

app = typer.Typer(add_completion=False)

{commands}
app()
"""
_COMMAND = '''
@app.command("{name}")
def {function}() -> None:
    """{help_line}"""

'''


def bare_program() -> str:
    """Return a Typer program with bdlab's commands and help lines, and empty functions."""
    commands = [
        _COMMAND.format(name=name, function=name.replace("-", "_"), help_line=help_line)
        for name, (help_line, _) in COMMANDS.items()
    ]
    return _BARE.format(commands="".join(commands))


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main(runs: int) -> int:
    bdlab = [str(Path(sys.executable).with_name("bdlab")), "--help"]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "bare.py"
        program.write_text(bare_program())
        bare = [sys.executable, str(program), "--help"]
        for command in (bdlab, bare):  # compiles the modules on the first run
            seconds(command)
        pairs = [(seconds(bdlab), seconds(bare)) for _ in range(runs)]
    ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    print(f"bdlab --help       {ours * 1000:7.1f} ms")
    print(f"bare Typer program {theirs * 1000:7.1f} ms, {len(COMMANDS)} commands")
    print(f"ratio              {ratio:7.2f}    (target: at most {TARGET})")
    return int(ratio > TARGET)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else RUNS))
