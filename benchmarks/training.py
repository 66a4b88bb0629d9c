"""Measure `bdlab train` on a file of made-up reviews: time, memory, and its model's files.

    python -m benchmarks.training --reviews 568454

Prints the wall and CPU time, the peak of the proportional set sizes of all processes (memory that they share
counts once), the size of the terms file, and how long `load_scorer` takes for it, sha256 included.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.reviews_file import write

from bdlab.model import load_scorer
from bdlab.model.card import read_card


def tree(pid: int) -> list[int]:
    """Return the process and those that it has started, as far as they still run."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [each for child in task.read_text().split() for each in tree(int(child))]
        except OSError:
            continue
    return found


def proportional_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure `bdlab train` on a file of made-up reviews.")
    parser.add_argument("--reviews", type=int, default=568_454)
    parser.add_argument("--file", type=Path, help="Reviews to train on in place of made-up ones.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = options.file or Path(folder, "reviews.csv")
        if not options.file:
            write(file, options.reviews, 0)
        model = Path(folder, "model")
        begin, peak = time.monotonic(), 0
        command = [sys.executable, "-m", "bdlab_cli", "train", str(file), "--output", str(model)]
        training = subprocess.Popen(command)
        while training.poll() is None:
            peak = max(peak, sum(map(proportional_kb, tree(training.pid))))
            time.sleep(0.5)
        wall = time.monotonic() - begin
        if training.returncode:
            sys.exit(f"bdlab train ended with {training.returncode}")
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        terms = next(
            entry for entry in read_card(model / "reviews.card.json").files.values() if entry.role == "terms"
        )
        begin = time.monotonic()
        load_scorer(str(model))
        loading = time.monotonic() - begin
    print(
        f"{file.name}: {wall:.0f} s ({used.ru_utime + used.ru_stime:.0f} s CPU), "
        f"peak memory {peak / 1e6:.2f} GB; "
        f"terms file {terms.bytes / 1e6:.1f} MB, loads in {loading:.2f} s"
    )


if __name__ == "__main__":
    main()
