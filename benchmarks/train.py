"""Measure `bdlab train` on a file of the public one's size: time, peak memory, and the model that comes out.

    python -m benchmarks.train [--reviews 568454]

The file is made by benchmarks/reviews_file.py, whose words grow as in real reviews, and kept in
~/.cache/bdlab-benchmarks. `--quick` takes 30,000 reviews, which says nothing about the targets.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks import common
from benchmarks.common import CACHE, ROOT

PUBLIC = 568_454
_LOADING = """
import sys, time
from bdlab.model import load_scorer
began = time.perf_counter()
load_scorer(sys.argv[1])
print(time.perf_counter() - began)
"""


def reviews_file(count: int) -> Path:
    """Return the made-up file; it is written on the first call."""
    place = CACHE / f"reviews-{count}.csv"
    if not place.exists():
        common.say(f"writing {place}, once")
        CACHE.mkdir(parents=True, exist_ok=True)
        script = ROOT / "benchmarks" / "reviews_file.py"
        new = place.with_suffix(".new")
        common.finish([sys.executable, str(script), str(new), "--reviews", str(count)])
        new.rename(place)
    return place


def main() -> None:
    parser = common.options(__doc__, baseline=True)
    parser.add_argument("--reviews", type=int, default=0)
    given = parser.parse_args()
    count = given.reviews or (30_000 if given.quick else PUBLIC)
    print(f"{common.machine()}\n")
    file = reviews_file(count)
    bdlabs = {"bdlab train": common.BDLAB}
    if given.baseline:
        bdlabs[f"bdlab train of {given.baseline}"] = common.bdlab_of(given.baseline)
    rows, ours = [], None
    with tempfile.TemporaryDirectory(prefix="bdlab-bench-") as name:
        for number, (what, bdlab) in enumerate(bdlabs.items()):
            output = Path(name) / str(number)
            common.say(what)
            ended = common.finish([*bdlab, "train", str(file), "--output", str(output)])
            card = next(output.glob("*.json"))
            terms = max((each for each in output.iterdir() if each.suffix != ".joblib"), key=_size)
            loads = [float(common.finish([bdlab[0], "-c", _LOADING, str(card)]).output) for _ in range(3)]
            rows.append(
                [
                    what,
                    f"{ended.seconds:.0f}",
                    f"{ended.cpu_s:.0f}",
                    f"{ended.peak_mb:.0f}",
                    f"{_size(terms) / 1e6:.1f}",
                    f"{min(loads):.2f}",
                ]
            )
            ours = ours or (ended.seconds, ended.peak_mb, _size(terms) / 1e6, min(loads))
    assert ours is not None
    print(f"{count:,} reviews, {_size(file) / 1e6:.0f} MB\n")
    common.table(["", "seconds", "CPU s", "peak MB", "terms MB", "loads in s"], rows)
    print()
    if count == PUBLIC:
        common.target("time", ours[0] / 60, "<=", 12, " min")
        common.target("memory", ours[1] / 1024, "<=", 3, " GB")
        common.target("terms file", ours[2], "<=", 12, " MB")
        common.target("loading", ours[3], "<=", 0.5, " s")
    else:
        print(f"the targets are for {PUBLIC:,} reviews")


def _size(place: Path) -> int:
    return place.stat().st_size


if __name__ == "__main__":
    common.run(main)
