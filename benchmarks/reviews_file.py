"""Write a CSV of made-up reviews, whose size, words and ratings are like those of the public file.

    python benchmarks/reviews_file.py reviews.csv --reviews 568454

The same number of reviews and seed give the same bytes. What was measured on 5,814 reviews of *Amazon Fine
Food Reviews* in random order, and how the file meets it (`--check` prints both for a file, made or real):

- **Distinct words** grow by Heaps' law: N words have V = K * N^beta different ones. The straight line through
  log V over log N, from 1,000 reviews on, has K = 31.6 and beta = 0.472. Here a rare word of rank r is drawn
  with the probability C * r^(-1 / beta), whose expected growth is that if
  C = (K / gamma(1 - beta))^(1 / beta).
  60,000 made reviews have K = 31.7 and beta = 0.473.
- **Frequent words**, the first 1,500 ranks, have frequencies as 1 / r.
- **Pairs of neighbours**: 41,000 different ones in 1,000 reviews, 139,000 in 5,000. Independent words would
  make more; so most words are one of those that their predecessor prefers. It makes 45,000 and 162,000.
- **Lengths** of texts in words and stops: log-normal, median 59, 5 % over 215; of summaries: mean 4.6.
- **Reviews of a product**: log-normal, median 2, 10 % over 13; a product has words of its own.
- **Stars**: 64 % have five; every sixth pair of words of like frequency are opinions, of which they
  decide.
- 0.3 % of the texts stand under two products.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

K, BETA = 31.6, 0.472
BEND = 1500
HABIT, HABITS, LIKELY = 0.6, 30, 0.25
TOPIC, TOPICS = 0.06, 12
OPINIONS = 6
STARS = np.array([519, 324, 441, 785, 3745]) / 5814
PRAISE = np.array([0.1, 0.22, 0.45, 0.72, 0.9])
_COMMON = """
    the i and a it to of is this in for my not but have they that was you are with these on so as like good
    great very them just be or taste one don't all at love can't never product
"""
HEAD = _COMMON.split()
ENDINGS = ("s", "ing", "ed", "er", "ly")
HEADER = "Id ProductId UserId ProfileName HelpfulnessNumerator HelpfulnessDenominator Score Time Summary Text"

Array = NDArray[Any]


def spelling(rank: int) -> str:
    """Return the word of a rank: its digits in a base of syllables, so that frequent words are short."""
    if rank < len(HEAD):
        return HEAD[rank]
    rest, word = rank - len(HEAD), ""
    while True:
        rest, digit = divmod(rest, 85)
        word += "bcdfghklmnprstvwz"[digit // 5] + "aeiou"[digit % 5]
        if not rest:
            return word + ("n" if rank < 300 else ENDINGS[rank % len(ENDINGS)])
        rest -= 1


def hashed(*numbers: Array | int) -> Array:
    """Return numbers from 0 to 1 that hang on `numbers` alone."""
    state: Array = np.array(0x9E3779B97F4A7C15, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for number in numbers:
            state = (state ^ np.asarray(number, dtype=np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
            state = state ^ (state >> np.uint64(29))
    return np.asarray(state >> np.uint64(11)) / float(1 << 53)


class Words:
    """Draws words by rank."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        # If the word of rank r has the probability C * r^(-1 / beta), then N words have
        # gamma(1 - beta) * (C * N)^beta different ones: Heaps' law. Only some of the words are drawn anew.
        scale = (K / math.gamma(1 - BETA)) ** (1 / BETA) / (1 - HABIT - TOPIC)
        self._power = 1 / BETA - 1
        self._rare = scale / self._power * BEND**-self._power
        sums = np.cumsum(1 / (np.arange(BEND) + 3))
        self._sums = sums / sums[-1]

    def _common(self, uniform: Array) -> Array:
        """Return ranks below BEND, with the frequencies 1 / r, from numbers between 0 and 1."""
        return np.searchsorted(self._sums, uniform)

    def draw(self, first: Array, praised: Array, products: Array) -> Array:
        """Return a word each: `first` of a text or not, of a review with this share of praise and product."""
        count, rng = len(first), self._rng
        kind = rng.random(count)
        follows = (kind < HABIT) & ~first
        [topic] = np.nonzero(kind > 1 - TOPIC)
        words = self._common(rng.random(count))
        rare = rng.random(count) < self._rare
        words[rare] = BEND * rng.random(rare.sum()) ** (-1 / self._power)
        words[topic] = 100 * 50 ** hashed(products[topic], rng.integers(0, TOPICS, len(topic)))
        which = np.minimum(rng.geometric(LIKELY, count), HABITS)
        [places] = np.nonzero(follows)
        depth = places - np.maximum.accumulate(np.where(follows, 0, np.arange(count)))[places]
        for step in range(1, int(depth.max(initial=0)) + 1):
            at = places[depth == step]
            words[at] = self._common(hashed(words[at - 1], which[at]))
        opinion = (words > len(HEAD)) & (words < 4000) & (words // 2 % OPINIONS == 0)
        words[opinion] = words[opinion] // 2 * 2 + (rng.random(count) < praised)[opinion]
        return words


def write(path: Path, reviews: int, seed: int, batch: int = 20_000) -> None:
    rng = np.random.default_rng(seed)
    plain = random.Random(seed)
    sizes = np.maximum(rng.lognormal(math.log(2.3), 1.45, reviews).astype(int), 1)
    products = np.repeat(np.arange(reviews), sizes)[:reviews]
    stars = rng.choice(5, reviews, p=STARS)
    lengths = np.maximum(rng.lognormal(4.03, 0.74, reviews).astype(int), 18)
    summaries = np.clip(rng.lognormal(1.4, 0.56, reviews).astype(int), 1, 28)
    drawn = Words(rng)
    earlier = ""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(HEADER.split())
        for begin in range(0, reviews, batch):
            part = slice(begin, min(begin + batch, reviews))
            both = np.stack([summaries[part], lengths[part]], axis=1).ravel()
            ends = np.cumsum(both)
            first = np.zeros(ends[-1], dtype=bool)
            first[ends[:-1]] = True
            first[0] = True
            of = np.repeat(np.arange(part.start, part.stop).repeat(2), both)
            words = drawn.draw(first, PRAISE[stars[of]], products[of])
            different, which = np.unique(words, return_inverse=True)
            spelled = [spelling(rank) for rank in different.tolist()]
            found = [spelled[index] for index in which.tolist()]
            start = 0
            for number, (few, many) in enumerate(zip(summaries[part], lengths[part], strict=True), begin):
                middle, end = start + few, start + few + many
                text = prose(found[middle:end], plain)
                if plain.random() < 0.003:
                    text = earlier or text
                elif plain.random() < 0.05:
                    earlier = text
                summary = " ".join(found[start:middle]).capitalize() + plain.choice(("", "", "", "!", "."))
                rows.writerow(
                    (
                        number + 1,
                        f"B{products[number]:09d}",
                        f"A{plain.getrandbits(64):016X}"[:14],
                        f"{found[start]} {found[middle]}",
                        0,
                        0,
                        stars[number] + 1,
                        1_300_000_000 + plain.randrange(50_000_000),
                        summary,
                        text,
                    )
                )
                start = end


def prose(words: list[str], plain: random.Random) -> str:
    """Return sentences of about 13 words, with commas, and HTML breaks in some."""
    parts, place = [], 0
    while place < len(words):
        size = plain.randint(6, 20)
        sentence = words[place : place + size]
        if len(sentence) > 10:
            sentence[4] += ","
        parts.append(" ".join(sentence).capitalize() + plain.choice((". ", ". ", ". ", "! ", ". <br />")))
        place += size
    return "".join(parts).strip()


def check(path: Path) -> None:
    """Print how the words, pairs, lengths and products of a file are spread, its reviews in random order."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    random.Random(0).shuffle(rows)
    words: set[str] = set()
    pairs: set[tuple[str, str]] = set()
    curve, lengths, short, count = [], [], [], 0
    for number, row in enumerate(rows, 1):
        found = [re.findall(r"\w+|[.!?]", row[name].lower().replace("'", "")) for name in ("Summary", "Text")]
        short.append(len(found[0]))
        lengths.append(len(found[1]))
        whole = [*found[0], *found[1]]
        plain = [word for word in whole if word not in ".!?"]
        count += len(plain)
        words.update(plain)
        if number <= 6000:
            pairs.update(pairwise(whole))
        if number in {1000, 2000, 3000, 5000}:
            print(f"{number} reviews: {len(pairs)} different pairs")
        curve.append((count, len(words)))
    late = np.log(np.array(curve[1000::10]))
    beta, k = np.polyfit(late[:, 0], late[:, 1], 1)
    print(
        f"{count} words, {len(words)} different; Heaps' law from 1,000 reviews on: K {math.exp(k):.1f} beta {beta:.3f}"
    )
    sizes = np.unique([row["ProductId"] for row in rows], return_counts=True)[1]
    for what, values in (("text", lengths), ("summary", short), ("reviews of a product", sizes)):
        print(
            what,
            "mean",
            round(float(np.mean(values)), 1),
            "at 5, 50, 90, 95, 99 %:",
            np.percentile(values, [5, 50, 90, 95, 99]),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a CSV of made-up reviews.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--reviews", type=int, default=568_454)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true", help="Print what is measured on FILE, and write none.")
    options = parser.parse_args()
    if options.check:
        check(options.file)
    else:
        write(options.file, options.reviews, options.seed)
        print(f"{options.file}: {options.file.stat().st_size / 1e6:.0f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
