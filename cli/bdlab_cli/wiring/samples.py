"""Reviews that `bdlab demo` and `bdlab rotate --drill` send: `samples.csv`, which was written for them."""

import csv
from pathlib import Path
from typing import NamedTuple


class Sample(NamedTuple):
    summary: str
    text: str
    helpful: int
    votes: int

    def as_request(self) -> dict[str, str | int]:
        """Return the body of POST /predict."""
        return {
            "text": self.text,
            "summary": self.summary,
            "HelpfulnessNumerator": self.helpful,
            "HelpfulnessDenominator": self.votes,
        }


with Path(__file__).with_name("samples.csv").open(encoding="utf-8", newline="") as _file:
    _HEAD, *_ROWS = csv.reader(_file)
_SAMPLES = [Sample(summary, text, int(helpful), int(votes)) for summary, text, helpful, votes in _ROWS]
#: The first is the reference request of the documentation.
OVER_HTTP, FROM_FILE = _SAMPLES[:6], _SAMPLES[6:]
