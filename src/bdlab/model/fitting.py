"""The fits of both heads, for each fold and for all reviews, by processes that share the features.

A head is a logistic curve over a linear sum, fitted with L-BFGS to labels from 0 to 1, each review once:
for the rating 2 stars are 0.25. The results do not depend on the number of processes."""

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from threadpoolctl import threadpool_limits

from bdlab.forked import Forked
from bdlab.model.features import Block, Booleans, Corpus, Features, Floats, Integers, Parameters, Progress

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
    """A fitted head: of the columns, the inverses of their document frequencies and their weights.

    Both are 0 for a column that the fit does not use."""

    idf: Floats
    weights: Floats
    intercept: float


Result = tuple[Head, list[tuple[Integers, Floats]]]
"""What comes of a job: the head, and of the fold's reviews numbers and values of the head's curve, 0 to 1."""


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

        A product may have several ids, each with the same reviews."""
        unseen = np.zeros(len(self.corpus.texts), dtype=bool)
        unseen[self.corpus.texts[self.fold_of == fold]] = True
        return ~unseen[self.corpus.texts]

    def run(self, job: Job, progress: Progress) -> Result:
        """Return the fitted head, and what it predicts."""
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
        scale = idf * self.features.scales(self.parameters)
        rows = [(_Vectors(block, idf), block.rows(labels), block.rows(weights)) for block in blocks]
        head = Head(idf, *_fit(rows, scale, progress))
        predicted, left_out = [], (block for block in self.features.blocks if block.fold == job.fold)
        for block in left_out:
            sums = _Vectors(block, idf).times(scale * head.weights)[: len(block.reviews)]
            predicted.append((block.reviews, expit(sums + head.intercept)))
        return head, predicted

    def _idf(self, blocks: Sequence[Block], seen: Booleans, fold: int) -> Floats:
        used = self.features.used[fold]
        counts, total = np.zeros(len(used)), 0.0
        for block in blocks:
            rows = block.rows(seen).astype(float)
            total += rows.sum()
            for columns, matrix in block.matrices:
                counts[columns] += matrix.T @ rows[: matrix.shape[0]]
        return np.where(used & (counts > 0), np.round(np.log((1 + total) / (1 + counts)) + 1, DECIMALS), 0.0)


class _Vectors:
    """The TF-IDF vectors of a block's rows, of unit length in each field, but for the factors of the columns."""

    def __init__(self, block: Block, idf: Floats) -> None:
        self._parts = []
        for columns, matrix in block.matrices:
            squares = matrix @ idf[columns] ** 2
            scales = np.divide(1, np.sqrt(squares), where=squares > 0, out=np.zeros(len(squares)))
            self._parts.append((columns, matrix, scales))

    def times(self, columns: Floats) -> Floats:
        """Return the sum of each row over its columns."""
        sums = np.zeros(max(len(scales) for *_, scales in self._parts))
        for place, matrix, scales in self._parts:
            sums[: len(scales)] += scales * (matrix @ columns[place])
        return sums

    def transposed(self, rows: Floats) -> Floats:
        """Return the sum of each column over its rows."""
        return np.concatenate([matrix.T @ (scales * rows[: len(scales)]) for _, matrix, scales in self._parts])

    def squares(self, rows: Floats) -> Floats:
        """Return the sum of each column's squares over its rows."""
        return np.concatenate([matrix.T @ (scales**2 * rows[: len(scales)]) for _, matrix, scales in self._parts])


def _fit(rows: Sequence[tuple[_Vectors, Floats, Floats]], scale: Floats, progress: Progress) -> tuple[Floats, float]:
    """Return the weights of the columns and the intercept with the least regularised cross-entropy.

    `rows` are vectors with the label and the weight of each, and `scale` has the factors of the columns."""
    # The loss is flat along rare terms and steep along frequent ones; alike, they take far fewer steps.
    steep = sum(vectors.squares(weight) for vectors, _, weight in rows) * scale**2
    total = sum(weight.sum() for _, _, weight in rows)
    units = 1 / np.sqrt(1 + np.append(steep, total * INTERCEPT**2) / 4)
    first = share = 0.0

    def loss_of(point: Floats) -> tuple[float, Floats]:
        nonlocal first, share
        weights = point * units
        vector = weights[:-1] * scale
        slopes, loss, whole = np.zeros(len(scale)), float(weights @ weights) / 2, 0.0
        for vectors, label, weight in rows:
            sums = vectors.times(vector) + INTERCEPT * weights[-1]
            loss += float(weight @ (np.logaddexp(0, sums) - label * sums))
            off = weight * (expit(sums) - label)
            slopes += vectors.transposed(off)
            whole += off.sum()
        slope = (weights + np.append(slopes * scale, whole * INTERCEPT)) * units
        steepest = float(np.abs(slope).max())
        first = first or steepest or 1.0
        # The gradient falls by about the same factor in each step.
        left = float(np.log(max(steepest / first, _TOLERANCE)) / np.log(_TOLERANCE))
        share = max(share, min(left, 1.0))
        progress(share)
        return loss, slope

    start = np.zeros(len(units))
    loss_of(start)
    options = {"gtol": _TOLERANCE * first, "ftol": 0.0, "maxiter": 2000, "maxfun": 4000, "maxcor": 20}
    with threadpool_limits(1):
        found = minimize(loss_of, start, jac=True, method="L-BFGS-B", options=options)
    weights = found.x * units
    return weights[:-1], float(INTERCEPT * weights[-1])


def run_all(fits: Fits, jobs: Sequence[Job], progress: Progress) -> Iterator[Result]:
    """Return the result of each job, in their order.

    The jobs are spread over as many processes as there are cores to use, if there is enough to do. Raises
    BdlabError if one of them ended."""
    done = np.frombuffer(mmap.mmap(-1, 8 * len(jobs)), dtype=np.float64)  # shared with the processes

    def work(place: int, told: Callable[[], None] = lambda: None) -> Result:
        def share(value: float) -> None:
            done[place] = value
            told()

        return fits.run(jobs[place], share)

    def tell() -> None:
        progress(float(done.mean()))

    workers = min(len(os.sched_getaffinity(0)), len(jobs))
    if workers == 1 or len(fits.corpus.tokens) < _FEW:
        yield from (work(place, tell) for place in range(len(jobs)))
        return
    hint = "The system ends it if memory runs out: docs/model.md says how much training takes."
    with Forked(work, "fitted the model", workers, hint) as processes:
        yield from processes.results(range(len(jobs)), tell)
