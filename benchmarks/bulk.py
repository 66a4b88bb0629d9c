"""Measure `bdlab predict --file`, beside scikit-learn's pipeline of the same model on the same file.

    python -m benchmarks.bulk [--reviews 100000] [--publish]

Both read the same CSV file and write the results into another; they have to be equal within 1e-6. Memory is
measured on the file and on one of four times its length. Last, the same reviews are published to Apache Kafka
in plaintext, and to that of `bdlab up`, with TLS and a consumer.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import random
import re
import sys
import tempfile
from pathlib import Path

from benchmarks import common
from benchmarks.api import make_topic
from benchmarks.common import ROOT, CannotRun, Finished, Measured, Stack

from bdlab.stack import ApacheKafka

TOLERANCE = 1e-6
COLUMNS = ["Summary", "Text", "HelpfulnessNumerator", "HelpfulnessDenominator"]
#: A CSV file with the Kaggle columns; without it, made-up reviews are taken.
REVIEWS = "BDLAB_REVIEWS"


def write_reviews(place: Path, count: int) -> str:
    """Write a CSV of so many reviews, and return what they are made of.

    Texts of a file that BDLAB_REVIEWS names are repeated, each time with another word at the end.
    """
    named = os.environ.get(REVIEWS)
    if named is None:
        command = [sys.executable, str(ROOT / "benchmarks" / "reviews_file.py"), str(place)]
        common.finish([*command, "--reviews", str(count)])
        return "made-up reviews of benchmarks/reviews_file.py"
    with Path(named).open(newline="", encoding="utf-8") as source:
        rows = list(csv.DictReader(source))
    draw = random.Random(1)
    words = sorted(set(re.findall(r"[a-z]{3,}", " ".join(row["Text"].lower() for row in rows[:500]))))
    with place.open("w", newline="", encoding="utf-8") as target:
        writer = csv.writer(target)
        writer.writerow(COLUMNS)
        for number in range(count):
            row = rows[number % len(rows)]
            text = row["Text"] if number < len(rows) else f"{row['Text']} {draw.choice(words)}"
            writer.writerow([row["Summary"], text, row[COLUMNS[2]], row[COLUMNS[3]]])
    return f"reviews of {named}, repeated with another last word"


def predicted(bdlab: list[str], file: Path, output: Path, env: dict[str, str] | None = None) -> Finished:
    """Run `bdlab predict --file`; publishing if `env` says where to."""
    how = ["--publish"] if env else ["--no-publish"]
    return common.finish(
        [*bdlab, "predict", "--file", str(file), *how, "--output", str(output)], env=env or dict(os.environ)
    )


def by_sklearn(file: Path, output: Path) -> Finished:
    command = [sys.executable, "-m", "benchmarks.peers.sklearn_file", str(file), str(output)]
    return common.finish(command, cwd=ROOT)


def difference(ours: Path, theirs: Path) -> float:
    """Return the largest difference of the figures; a sentiment that differs is an error."""
    most, count = 0.0, 0
    with ours.open(newline="") as one, theirs.open(newline="") as other:
        for mine, its in zip(csv.DictReader(one), csv.DictReader(other), strict=True):
            most = max(
                most,
                abs(float(mine["prediction"]) - float(its["prediction"])),
                abs(float(mine["confidence"]) - float(its["confidence"])),
            )
            if mine["sentiment"] != its["sentiment"] and float(its["confidence"]) > 0.5 + TOLERANCE:
                raise CannotRun(f"row {count}: {mine['sentiment']} instead of {its['sentiment']}")
            count += 1
    return most


def main() -> None:
    parser = common.options(__doc__, baseline=True)
    parser.add_argument("--reviews", type=int, default=0, help="of the file")
    parser.add_argument("--only", choices=("score", "publish"), help="one half of it")
    given = parser.parse_args()
    count = given.reviews or (20_000 if given.quick else 100_000)
    print(f"{common.machine()}\n")
    with tempfile.TemporaryDirectory(prefix="bdlab-bench-") as name:
        folder = Path(name)
        file = folder / "reviews.csv"
        what = write_reviews(file, count)
        print(f"{count:,} {what}, {file.stat().st_size / 1e6:.0f} MB\n")
        bdlabs = {"bdlab": common.BDLAB}
        if given.baseline:
            bdlabs[f"bdlab of {given.baseline}"] = common.bdlab_of(given.baseline)
        if given.only != "publish":
            score(given, bdlabs, file, count)
        if given.only != "score":
            publish(given, bdlabs, file, count)


def score(given: argparse.Namespace, bdlabs: dict[str, list[str]], file: Path, count: int) -> None:
    folder = file.parent
    found: dict[str, Measured] = {}
    for _ in common.rounds(given, 2):
        steps = {name: predicted(bdlab, file, folder / "ours.csv") for name, bdlab in bdlabs.items()}
        steps["scikit-learn's pipeline"] = by_sklearn(file, folder / "theirs.csv")
        for name, ended in steps.items():
            found.setdefault(name, Measured()).add(
                seconds=ended.seconds, cpu_us=ended.cpu_s / count * 1e6, memory=ended.peak_mb
            )
    # The last to write was the baseline, if there is one.
    predicted(bdlabs["bdlab"], file, folder / "ours.csv")
    apart = difference(folder / "ours.csv", folder / "theirs.csv")
    common.say("a file of four times the length")
    long = folder / "long.csv"
    write_reviews(long, 4 * count)
    four = predicted(bdlabs["bdlab"], long, folder / "long-results.csv")
    ours, theirs = found["bdlab"], found["scikit-learn's pipeline"]
    common.table(
        ["without publishing", "seconds", "reviews/s", "bdlab is", "CPU µs a review", "peak MB"],
        [
            [
                name,
                f"{one['seconds']:.1f}",
                f"{count / one['seconds']:,.0f}",
                f"{one['seconds'] / ours['seconds']:.2f} x",
                f"{one['cpu_us']:,.0f}",
                f"{one['memory']:.0f}",
            ]
            for name, one in found.items()
        ]
        + [
            [
                f"bdlab, {4 * count:,} reviews",
                f"{four.seconds:.1f}",
                f"{4 * count / four.seconds:,.0f}",
                "",
                f"{four.cpu_s / 4 / count * 1e6:,.0f}",
                f"{four.peak_mb:.0f}",
            ]
        ],
    )
    print()
    common.target("scikit-learn's time / bdlab's", theirs["seconds"] / ours["seconds"], ">=", 5)
    common.target("largest difference of a figure", apart, "<=", TOLERANCE)
    common.target("memory at 4 times the length / at once", four.peak_mb / ours["memory"], "<=", 1.25)


def publish(given: argparse.Namespace, bdlabs: dict[str, list[str]], file: Path, count: int) -> None:
    folder = file.parent
    found: dict[str, Measured] = {}
    with contextlib.ExitStack() as servers:
        broker = servers.enter_context(ApacheKafka(folder / "broker"))
        make_topic(broker.bootstrap_servers)
        stacks = {
            name: servers.enter_context(Stack(f"stack-{number}", folder, bdlab=bdlab, broker="kafka"))
            for number, (name, bdlab) in enumerate(bdlabs.items())
        }
        for _ in common.rounds(given, 1):
            for name, stack in stacks.items():
                plain = stack.exports | {
                    "BDLAB_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
                    "BDLAB_KAFKA_SECURITY_PROTOCOL": "PLAINTEXT",
                }
                for what, env in (
                    ("Apache Kafka, plaintext", plain),
                    ("bdlab up: TLS, SCRAM, consumer", stack.exports),
                ):
                    ended = predicted(stack.bdlab, file, folder / "published.csv", env)
                    common.settle(stack.pid)
                    found.setdefault(f"{name}; {what}", Measured()).add(
                        seconds=ended.seconds, cpu_us=ended.cpu_s / count * 1e6, memory=ended.peak_mb
                    )
    print()
    common.table(
        ["publishing, acknowledged", "seconds", "reviews/s", "CPU µs a review", "peak MB"],
        [
            [
                name,
                f"{one['seconds']:.1f}",
                f"{count / one['seconds']:,.0f}",
                f"{one['cpu_us']:,.0f}",
                f"{one['memory']:.0f}",
            ]
            for name, one in found.items()
        ],
    )
    print()
    rate = count / found["bdlab; Apache Kafka, plaintext"]["seconds"]
    common.target("published to Apache Kafka", rate, ">=", 8000, " reviews/s")


if __name__ == "__main__":
    common.run(main)
