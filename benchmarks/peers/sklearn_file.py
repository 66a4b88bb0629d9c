"""scikit-learn's pipeline of the shipped model over a CSV file, at once; without an explanation.

Run: python -m benchmarks.peers.sklearn_file REVIEWS.csv RESULTS.csv
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from benchmarks.peers.model import load


def main(reviews: Path, results: Path) -> None:
    model = load()
    with reviews.open(newline="", encoding="utf-8") as source:
        pairs = [(row["Summary"], row["Text"]) for row in csv.DictReader(source)]
    stars = model["rating"].predict(pairs)
    positive = model["sentiment"].predict_proba(pairs)[:, 1]
    with results.open("w", newline="", encoding="utf-8") as target:
        writer = csv.writer(target)
        writer.writerow(["prediction", "sentiment", "confidence"])
        for star, share in zip(stars, positive, strict=True):
            sentiment = "positive" if share >= 0.5 else "negative"
            writer.writerow([f"{star:.9f}", sentiment, f"{max(share, 1 - share):.9f}"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
