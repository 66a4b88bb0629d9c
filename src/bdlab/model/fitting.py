"""The fits of both heads, for each fold and for all reviews, by processes that share the features.

A head is a logistic curve over a linear sum, fitted with L-BFGS to labels from 0 to 1, each review once:
for the rating 2 stars are 0.25. The results do not depend on the number of processes.
"""

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from threadpoolctl import threadpool_limits

from bdlab.forked import Forked
from bdlab.model.dataset import Corpus, Integers, Progress
from bdlab.model.features import Block, Booleans, Features, Floats, Parameters

HeadName = Literal["rating", "sentiment"]
HEADS: tuple[HeadName, ...] = get_args(HeadName)

NEUTRAL = 3
"""Reviews with these stars have no sentiment: more is positive, less is negative."""

DECIMALS = 4
"""Of the weights of terms, so that a file of many terms is small: the scores differ by less than 0.0001."""

_TOLERANCE = 1e-5
"""The fit ends when no part of the gradient is larger than this share of the largest at the start."""

INTERCEPT = 10.0
"""The larger, the less the intercept is regularised."""

_FEW = 3_000_000
"""For fewer tokens than these, other processes take longer to start than they save."""


class Head(NamedTuple):
    """A fitted head: by field, the weights of the columns and their document frequencies' inverses.

    Both are 0 for a column that the fit does not use.
    """

    idf: tuple[Floats, Floats]
    weights: tuple[Floats, Floats]
    intercept: float


Predicted = tuple[Integers, Floats]
"""Numbers of reviews, and for each the value of a head's curve, from 0 to 1."""


class Result(NamedTuple):
    """What comes of a job: the head, and its predictions of the fold's reviews."""

    head: Head
    predicted: list[Predicted]


class Job(NamedTuple):
    """One fit: of a head, without the reviews of a fold; the fold after the last leaves none out."""

    head: HeadName
    fold: int


class Fits(NamedTuple):
    """What all fits have in common. `fold_of` has each review's fold, or -1."""

    corpus: Corpus
    features: Features
    fold_of: Integers
    parameters: Parameters

    def seen(self, fold: int) -> Booleans:
        """Return which reviews a fit learns from: those of other folds whose text is in none of the fold's.

        A product may have several ids, each with the same reviews.
        """
        unseen = np.zeros(len(self.corpus.texts), dtype=bool)
        unseen[self.corpus.texts[self.fold_of == fold]] = True
        return ~unseen[self.corpus.texts]

    def run(self, job: Job, progress: Progress) -> Head:
        """Return the fitted head."""
        seen, stars = self.seen(job.fold), self.corpus.stars
        if job.head == "rating":
            labels, weights = np.asarray((stars - 1) / 4, float), seen * self.parameters.rating_c
        else:
            labels, weights = (stars > NEUTRAL).astype(float), seen * self.parameters.sentiment_c
            # Balanced, since five of six reviews are positive: the negative ones' F1 is then best at 0.5.
            learnt = seen * (1.0 + self.corpus.summarised)
            sides = (stars < NEUTRAL, stars > NEUTRAL)
            for side in sides:
                weights[side] *= learnt[sides[0] | sides[1]].sum() / (2 * learnt[side].sum())
            weights[stars == NEUTRAL] = 0
        blocks = [block for block in self.features.blocks if block.fold != job.fold]
        idf = self._idf(blocks, seen, job.fold)
        problem = _Problem(
            blocks,
            [block.rows(labels) for block in blocks],
            [block.rows(weights) for block in blocks],
            idf,
            self.parameters.weights,
        )
        return Head(idf, *problem.solve(progress))

    def _idf(self, blocks: Sequence[Block], seen: Booleans, fold: int) -> tuple[Floats, Floats]:
        used = [self.features.used[field][fold] for field in ("summary", "review")]
        counts = [np.zeros(len(each)) for each in used]
        total = 0.0
        for block in blocks:
            rows = block.rows(seen).astype(float)
            total += rows.sum()
            counts[0] += block.summary.T @ rows[: len(block.reviews)]
            counts[1] += block.review.T @ rows
        summary, review = (
            np.where(mask & (count > 0), np.round(np.log((1 + total) / (1 + count)) + 1, DECIMALS), 0.0)
            for mask, count in zip(used, counts, strict=True)
        )
        return summary, review

    def predict(self, job: Job, head: Head) -> list[Predicted]:
        """Return the values of the head's curve for the reviews of the job's fold, with their numbers."""
        scales = self.parameters.weights
        vectors = tuple(s * i * w for s, i, w in zip(scales, head.idf, head.weights, strict=True))
        found = []
        for block in self.features.blocks:
            if block.fold == job.fold:
                sums = _sums(block, _lengths(block, head.idf), vectors)[: len(block.reviews)]
                found.append((block.reviews, expit(sums + head.intercept)))
        return found


def _lengths(block: Block, idf: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """Return the reciprocals of the lengths of the rows' vectors, 0 for one without terms."""
    summary, review = (
        np.divide(1, np.sqrt(squares), where=squares > 0, out=np.zeros(len(squares)))
        for squares in (block.summary @ idf[0] ** 2, block.review @ idf[1] ** 2)
    )
    return summary, review


def _sums(block: Block, lengths: tuple[Floats, Floats], vectors: Sequence[Floats]) -> Floats:
    sums: Floats = lengths[1] * (block.review @ vectors[1])
    sums[: len(block.reviews)] += lengths[0] * (block.summary @ vectors[0])
    return sums


class _Problem:
    """The regularised cross-entropy of a head, and its minimum."""

    def __init__(
        self,
        blocks: Sequence[Block],
        labels: Sequence[Floats],
        weights: Sequence[Floats],
        idf: tuple[Floats, Floats],
        scales: tuple[float, float],
    ) -> None:
        self._rows = [
            (block, _lengths(block, idf), label, weight)
            for block, label, weight in zip(blocks, labels, weights, strict=True)
        ]
        self._split = len(idf[0])
        self._scale = np.concatenate([scale * each for scale, each in zip(scales, idf, strict=True)])
        # The loss is flat along rare terms and steep along frequent ones; alike, they take far fewer steps.
        steep, total = np.zeros(len(self._scale)), 0.0
        for block, lengths, _, weight in self._rows:
            steep += self._transposed(block, (lengths[0] ** 2, lengths[1] ** 2), weight)
            total += weight.sum()
        steep = np.append(steep * self._scale**2, total * INTERCEPT**2)
        self._units = 1 / np.sqrt(1 + steep / 4)

    def _transposed(self, block: Block, lengths: tuple[Floats, Floats], rows: Floats) -> Floats:
        return np.concatenate(
            [block.summary.T @ (lengths[0] * rows[: len(block.reviews)]), block.review.T @ (lengths[1] * rows)]
        )

    def _loss(self, point: Floats) -> tuple[float, Floats]:
        weights = point * self._units
        vector = weights[:-1] * self._scale
        vectors = vector[: self._split], vector[self._split :]
        slopes, loss, whole = np.zeros(len(vector)), float(weights @ weights) / 2, 0.0
        for block, lengths, label, weight in self._rows:
            sums = _sums(block, lengths, vectors) + INTERCEPT * weights[-1]
            loss += float(weight @ (np.logaddexp(0, sums) - label * sums))
            off = weight * (expit(sums) - label)
            slopes += self._transposed(block, lengths, off)
            whole += off.sum()
        slope = weights + np.append(slopes * self._scale, whole * INTERCEPT)
        return loss, slope * self._units

    def solve(self, progress: Progress) -> tuple[tuple[Floats, Floats], float]:
        """Return the weights by field and the intercept."""
        start = np.zeros(len(self._units))
        first = float(np.abs(self._loss(start)[1]).max()) or 1.0
        share = 0.0

        def told(point: Floats) -> tuple[float, Floats]:
            nonlocal share
            loss, slope = self._loss(point)
            # The gradient falls by about the same factor in each step.
            left = np.log(max(float(np.abs(slope).max()) / first, _TOLERANCE)) / np.log(_TOLERANCE)
            share = max(share, min(float(left), 1.0))
            progress(share)
            return loss, slope

        options = {"gtol": _TOLERANCE * first, "ftol": 0.0, "maxiter": 2000, "maxfun": 4000, "maxcor": 20}
        with threadpool_limits(1):
            found = minimize(told, start, jac=True, method="L-BFGS-B", options=options)
        weights = found.x * self._units
        return (weights[: self._split], weights[self._split : -1]), float(INTERCEPT * weights[-1])


def run_all(fits: Fits, jobs: Sequence[Job], progress: Progress) -> Iterator[Result]:
    """Return the result of each job, in their order.

    The jobs are spread over as many processes as there are cores to use, if there is enough to do. Raises
    BdlabError if one of them ended.
    """
    done = np.frombuffer(mmap.mmap(-1, 8 * len(jobs)), dtype=np.float64)  # shared with the processes

    def work(place: int, told: Callable[[], None] = lambda: None) -> Result:
        def share(value: float) -> None:
            done[place] = value
            told()

        head = fits.run(jobs[place], share)
        return Result(head, fits.predict(jobs[place], head))

    def tell() -> None:
        progress(float(done.mean()))

    workers = min(len(os.sched_getaffinity(0)), len(jobs))
    if workers == 1 or len(fits.corpus.tokens) < _FEW:
        yield from (work(place, tell) for place in range(len(jobs)))
        return
    hint = "The system ends it if memory runs out: docs/model.md says how much training takes."
    with Forked(work, "fitted the model", workers, hint) as processes:
        yield from processes.results(range(len(jobs)), tell)
