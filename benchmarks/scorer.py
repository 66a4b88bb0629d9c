"""Measure the scoring of a review: the run-time scorer, and scikit-learn's pipeline of the same model.

    python benchmarks/scorer.py [ROUNDS]

Both score the same reviews in turn, so that a busy machine slows both. The figures are CPU time, medians of
the rounds; loading is measured in a new process each time. The target is 40 µs for a review of 26 tokens,
including the explanation; scikit-learn predicts the two figures without one.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import joblib

from bdlab.model import load_scorer
from bdlab.model.terms import tokens
from bdlab.resources import models_dir
from tests.samples import Review

TARGET_US = 40.0
ROUNDS = 7
REVIEWS = 200
_SENTENCES = """
I bought this coffee for my husband and he says it is the best he has ever had.
The flavor is rich and smooth, not bitter at all!
My dog loves these treats and would eat the whole bag if I let her.
The box arrived late, it was damaged and half of the cookies were broken.
I would not buy this product again, it tasted stale and the price is too high.
Very good quality for the money, and the shipping was fast.
It is okay, but I don't think that it tastes like the real thing.
What a great tea, I drink it every morning with a little honey.
The cats would not touch it, so I gave it to a friend.
I was disappointed, since the picture shows a larger can than the one that I got.
Highly recommend it to anyone who loves chocolate!
The chips are too salty for me, though the kids like them.
"""

#: Prints milliseconds to import and load, milliseconds to the first score, and peak memory in MB.
_LOADING = """
import time
started = time.process_time()
import bdlab.events
{load}
loaded = time.process_time()
{score}
scored = time.process_time()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = int(status["VmHWM"].split()[0]) / 1024
print((loaded - started) * 1000, (scored - started) * 1000, peak)
"""
_COMPILED = _LOADING.format(
    load="from bdlab.model import load_scorer\nscorer = load_scorer()",
    score="scorer.score(scorer.codec.input(text='Great coffee'))",
)
_SKLEARN = _LOADING.format(
    load="import joblib\nfrom bdlab.resources import models_dir\nmodel = joblib.load(models_dir() / 'reviews.joblib')",
    score="model['rating'].predict([('', 'Great coffee')])\nmodel['sentiment'].predict_proba([('', 'Great coffee')])",
)
_NOTHING = _LOADING.format(load="", score="")


def reviews(length: int, seed: int = 1) -> Iterator[Review]:
    """Return reviews of exactly `length` tokens, without a summary."""
    draw = random.Random(seed)
    sentences = [sentence.split() for sentence in _SENTENCES.splitlines() if sentence]
    for _ in range(REVIEWS):
        words: list[str] = []
        while len(tokens(" ".join(words))) < length:
            words += draw.choice(sentences)
        while len(tokens(" ".join(words))) > length:
            words.pop()
        yield Review(text=" ".join(words))


def microseconds(score: Callable[[], object], count: int) -> float:
    started = time.process_time()
    score()
    return (time.process_time() - started) / count * 1e6


def loading(program: str, runs: int) -> list[float]:
    """Return the medians of the figures that `program` prints, each run in a process of its own."""
    shown = [
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
        for _ in range(runs)
    ]
    return [statistics.median(figures) for figures in zip(*(map(float, s.split()) for s in shown), strict=True)]


def main(rounds: int) -> int:
    scorer = load_scorer()
    model = joblib.load(models_dir() / "reviews.joblib")
    figures: dict[int, tuple[float, float, float]] = {}
    for length in (26, 70):
        texts = list(reviews(length))
        pairs = [(review.summary, review.text) for review in texts]

        def one_by_one(pairs: list[tuple[str, str]] = pairs) -> None:
            for pair in pairs:
                model["rating"].predict([pair])
                model["sentiment"].predict_proba([pair])

        def together(pairs: list[tuple[str, str]] = pairs) -> None:
            model["rating"].predict(pairs)
            model["sentiment"].predict_proba(pairs)

        scorer.score_many(texts)
        measured = [
            (
                microseconds(lambda texts=texts: scorer.score_many(texts), REVIEWS),  # type: ignore[misc]
                microseconds(one_by_one, REVIEWS),
                microseconds(together, REVIEWS),
            )
            for _ in range(rounds)
        ]
        ours, single, batched = (statistics.median(column) for column in zip(*measured, strict=True))
        figures[length] = (ours, single, batched)

    print(f"{'µs a review':<26}{'26 tokens':>12}{'70 tokens':>12}")
    for place, name in enumerate(("bdlab", "scikit-learn, one by one", f"scikit-learn, {REVIEWS} at once")):
        print(f"{name:<26}" + "".join(f"{figures[length][place]:12.1f}" for length in (26, 70)))
    ratios = "".join(f"{figures[length][1] / figures[length][0]:11.0f}x" for length in (26, 70))
    print(f"{'one by one / bdlab':<26}{ratios}")
    print(f"\n{'a fresh process':<26}{'loaded':>12}{'first score':>12}{'peak memory':>14}")
    for name, program in (("Python alone", _NOTHING), ("bdlab", _COMPILED), ("scikit-learn", _SKLEARN)):
        loaded, scored, peak = loading(program, rounds)
        print(f"{name:<26}{loaded:9.0f} ms{scored:9.0f} ms{peak:11.0f} MB")
    print(f"\n26 tokens: {figures[26][0]:.1f} µs (target: at most {TARGET_US:.0f} µs)")
    return int(figures[26][0] > TARGET_US)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
