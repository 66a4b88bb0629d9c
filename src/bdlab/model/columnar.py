"""The run-time scorer for many reviews at once: the same scores as `CompiledScorer`, in columns of numbers.

A word becomes a number by a hash of its bytes, a pair by the numbers of its words. One sort of all numbers
then finds the different terms of each review, and puts the terms of one label side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from bdlab.events import Review, Score, Term
from bdlab.model.compiled import HIGHEST, LOWEST, CompiledScorer
from bdlab.model.explanation import MOST_TERMS, Labels, select
from bdlab.model.terms import NEGATED, NEGATION_REACH, NEGATIONS, STOPS, literal_tokens, normalise, untagged
from bdlab.model.termtable import FORMAT, TermTable

Numbers = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Floats = NDArray[np.float64]

_PIECE_CHARACTERS = 1 << 17
_PIECE_REVIEWS = 1 << 11
"""The most that is scored at once: little enough for the processor's cache."""

_SPAN = HIGHEST - LOWEST
_CANDIDATES = 0.15
"""The terms of an explanation are looked for among those with this share of the largest contribution."""
_TIE = 1e-9

# The codes of characters; all of words are larger. Bytes that UTF-8 does not have end a summary and a text.
_GAP, _TEXT_END, _STOP, _SUMMARY_END = 0, 1, 2, 5
_ENDS = ("\xfe", "\xff")
_CODES = bytearray(range(256))
for _byte in range(128):
    _CODES[_byte] = ord(chr(_byte).lower()) if chr(_byte).isalnum() else _GAP
for _code, _stop in enumerate(STOPS, _STOP):
    _CODES[ord(_stop)] = _code
_CODES[0xFE], _CODES[0xFF] = _SUMMARY_END, _TEXT_END

_SHIFT = 52
_RANK = (1 << _SHIFT) - 1
_UNKNOWN = 1 << _SHIFT - 1
"""A key has the review above these bits, and below them the rank of a term, or this and a word's hash."""


class _Hash:
    """Numbers the tokens of coded text by a polynomial with secret coefficients, modulo 2**64.

    They are secret so that nobody can make two words of one number.
    """

    def __init__(self) -> None:
        random = np.random.default_rng()
        self._coefficients = random.integers(0, 1 << 64, 256, dtype=np.uint64)
        self._coefficients[:_STOP] = 0
        self._coefficients[_SUMMARY_END] = self._coefficients[_STOP]  # it is a full stop
        self._base = int(random.integers(0, 1 << 61)) * 8 + 5
        self._powers = self._inverses = np.ones(1, np.uint64)

    def __call__(self, codes: NDArray[np.uint8]) -> tuple[Numbers, Hashes]:
        """Return where each token begins, and its number."""
        if len(codes) > len(self._powers):
            self._powers, self._inverses = (
                np.multiply.accumulate(np.r_[np.uint64(1), np.full(len(codes) * 5 // 4, base, np.uint64)])
                for base in (self._base, pow(self._base, -1, 1 << 64))
            )
        word = codes > _SUMMARY_END
        begins = codes >= _STOP
        begins[1:] &= ~(word[1:] & word[:-1])
        starts = np.flatnonzero(begins)
        if not len(starts):
            return starts, np.zeros(0, np.uint64)
        parts = self._coefficients[codes]
        parts *= self._powers[: len(codes)]
        return starts, np.add.reduceat(parts, starts) * self._inverses[starts]


class _Lookup:
    """Maps 64-bit keys, none of them 0, to the numbers 1, 2, ... in their order; others to 0."""

    def __init__(self, keys: Hashes) -> None:
        bits = max(4, (4 * len(keys)).bit_length())
        self._shift = np.uint64(64 - bits)
        self._last = (1 << bits) - 1
        self._keys = np.zeros(1 << bits, np.uint64)
        self._values = np.zeros(1 << bits, np.int32)
        waiting: Numbers = np.arange(len(keys))
        slots = self._slots(keys)
        while len(waiting):
            free = self._keys[slots] == 0
            self._values[slots[free]] = waiting[free] + 1  # the last of those with one slot has it
            won = free & (self._values[slots] == waiting + 1)
            self._keys[slots[won]] = keys[waiting[won]]
            waiting, slots = waiting[~won], (slots[~won] + 1) & self._last

    def _slots(self, keys: Hashes) -> Numbers:
        return (keys * np.uint64(0x9E3779B97F4A7C15) >> self._shift).astype(np.int64)

    def __call__(self, keys: Hashes) -> NDArray[np.int32]:
        slots = self._slots(keys)
        there = self._keys[slots]
        found = np.where(there == keys, self._values[slots], 0)
        waiting = np.flatnonzero((there != keys) & (there != 0))
        slots = slots[waiting]
        while len(waiting):
            slots = (slots + 1) & self._last
            there = self._keys[slots]
            hit = there == keys[waiting]
            found[waiting[hit]] = self._values[slots[hit]]
            on = ~hit & (there != 0)
            waiting, slots = waiting[on], slots[on]
        return found


class _Vocabulary:
    """The terms of both fields: the numbers of words and pairs, and the rank of each term.

    Terms with the same label have neighbouring ranks, from 1. Index 0 stands for what is not known.
    """

    def __init__(self, table: TermTable, hashed: _Hash) -> None:
        fields = (table.summary, table.review)
        terms = [term for field in fields for term in field.terms]
        words = {word: None for term in terms for word in term.split(" ")} | dict.fromkeys([*NEGATIONS, "."])
        plain = list(dict.fromkeys(bare for word in words if _is_token(bare := word.removeprefix(NEGATED))))
        numbers = {word: number for number, word in enumerate(plain, 1)}
        marked = [word for word in words if word.startswith(NEGATED) and word[1:] in numbers]
        numbers |= {word: number for number, word in enumerate(marked, len(plain) + 1)}
        coded = "\0".join(plain).encode().translate(bytes(_CODES))
        self.word = _Lookup(hashed(np.frombuffer(coded, np.uint8))[1])
        self.size = len(numbers) + 1
        self.negation = np.zeros(self.size, bool)
        self.negation[[numbers[word] for word in NEGATIONS]] = True
        self.marked = np.zeros(self.size, np.int32)
        for word in marked:
            self.marked[numbers[word[1:]]] = numbers[word]

        labels = [
            label
            for field in fields
            for label in map(Labels(field.terms).__getitem__, range(len(field.terms)))
        ]
        order = sorted(range(len(terms)), key=labels.__getitem__)
        ranks = np.zeros(len(terms), np.int64)
        ranks[order] = np.arange(1, len(terms) + 1)
        in_order = [labels[place] for place in order]
        self.labels = np.array(list(dict.fromkeys(["", *in_order])), object)
        number_of = {label: number for number, label in enumerate(self.labels.tolist())}
        self.label = np.array([0, *map(number_of.__getitem__, in_order)])
        idf = np.array([*table.summary.idf, *table.review.idf])[order]
        self.square = np.r_[0.0, idf * idf]
        self.rating = np.r_[0.0, idf * np.array([*table.summary.rating, *table.review.rating])[order]]
        self.sentiment = np.r_[
            0.0, idf * np.array([*table.summary.sentiment, *table.review.sentiment])[order]
        ]
        in_review = np.arange(len(terms)) >= len(table.summary.terms)
        self.field = np.r_[0, in_review[order].astype(np.int64)]
        counts = np.array([" " not in term and term not in STOPS for term in terms], bool) & in_review
        self.counts = np.r_[False, counts[order]]

        self.single_rank = [np.zeros(self.size, np.int64) for _ in fields]
        pairs: dict[int, int] = {}
        pair_ranks: list[list[int]] = [[0], [0]]
        for place, term in enumerate(terms):
            found = [numbers.get(word, 0) for word in term.split(" ")]
            field = int(in_review[place])
            if not all(found) or len(found) > 2:
                continue  # no text has this term
            if len(found) == 1:
                self.single_rank[field][found[0]] = ranks[place]
                continue
            number = pairs.setdefault(found[0] * self.size + found[1], len(pairs) + 1)
            if number == len(pair_ranks[0]):
                for each in pair_ranks:
                    each.append(0)
            pair_ranks[field][number] = int(ranks[place])
        self.pair = _Lookup(np.array(list(pairs), np.uint64))
        self.pair_rank = [np.array(each) for each in pair_ranks]


def _is_token(word: str) -> bool:
    return word in STOPS or (word.isalnum() and word == word.lower())


class ColumnarScorer:
    """Scores many reviews many times faster than one by one. `fields` has the names of summary and text."""

    blocking = True

    def __init__(
        self, table: TermTable, *, name: str, sha256: str, fields: tuple[str, str] = ("summary", "text")
    ) -> None:
        self.name = name
        self.sha256 = sha256
        self._exact = CompiledScorer(table, name=name, sha256=sha256)
        self._fields = attrgetter(*fields)
        self._normalises = table.format == FORMAT
        self._hash = _Hash()
        self._vocabulary = _Vocabulary(table, self._hash)
        self._intercepts = table.intercepts
        self._baseline = float(_logistic(np.array([table.intercepts.rating]))[0])

    def score(self, review: Review) -> Score:
        return self._exact.score(review)

    def score_many(self, reviews: Sequence[Review]) -> list[Score]:
        """Return the scores in order, equal to those of `CompiledScorer` within 1e-9."""
        scores: list[Score] = []
        for piece in _pieces([tuple(map(self._plain, self._fields(review))) for review in reviews]):
            scores += self._score(reviews[len(scores) : len(scores) + len(piece)], piece)
        return scores

    def _plain(self, text: str) -> str:
        """Return a text with the same tokens, each character of it one byte of UTF-8."""
        if self._normalises:
            text = normalise(text)
        if not text.isascii():
            return " ".join(literal_tokens(text)).replace(NEGATED, "").encode().decode("latin-1")
        return untagged(text)

    def _score(self, reviews: Sequence[Review], piece: list[tuple[str, ...]]) -> list[Score]:
        known, count = self._vocabulary, len(piece)
        keys = self._keys(piece)
        review = keys >> _SHIFT
        rank = keys & _RANK
        unknown = rank >= _UNKNOWN
        words = np.bincount(review[unknown], minlength=count)
        review, rank = review[~unknown], rank[~unknown]
        known_words = np.bincount(review[known.counts[rank]], minlength=count)
        words += known_words
        place = review * 2 + known.field[rank]
        square, rated, positive = (
            np.bincount(place, weights[rank], minlength=2 * count)
            for weights in (known.square, known.rating, known.sentiment)
        )
        scale = 1.0 / np.sqrt(np.where(square > 0, square, np.inf))
        moved = (scale * rated).reshape(-1, 2).sum(axis=1)
        rating = _logistic(self._intercepts.rating + moved)
        chance = _logistic(self._intercepts.sentiment + (scale * positive).reshape(-1, 2).sum(axis=1))
        small = np.abs(moved) <= 1e-6
        slope = np.where(
            small,
            self._baseline * (1 - self._baseline),
            (rating - self._baseline) / np.where(small, 1.0, moved),
        )
        stars = (scale * (np.repeat(slope, 2) * _SPAN))[place] * known.rating[rank]
        explanations = self._explanations(review, known.label[rank], stars, count)
        return [
            Score(
                prediction=prediction,
                sentiment="positive" if positive >= 0.5 else "negative",
                confidence=positive if positive >= 0.5 else 1.0 - positive,
                explanation=self._exact.score(each).explanation if explanation is None else explanation,
                known_terms=round(known_count / word_count, 3) if word_count else 0.0,
            )
            for each, prediction, positive, explanation, known_count, word_count in zip(
                reviews,
                (LOWEST + _SPAN * rating).tolist(),
                chance.tolist(),
                explanations,
                known_words.tolist(),
                words.tolist(),
                strict=True,
            )
        ]

    def _keys(self, piece: list[tuple[str, ...]]) -> Numbers:
        """Return the sorted keys of the different terms and unknown words of each review."""
        known, count = self._vocabulary, len(piece)
        text = "".join([f"{summary}\xfe{text}\xff" for summary, text in piece])
        codes = np.frombuffer(text.encode("latin-1").translate(bytes(_CODES), b"'"), np.uint8)
        starts, hashes = self._hash(codes)
        kinds = codes[starts]
        ends = np.searchsorted(starts, np.flatnonzero(codes == _TEXT_END))
        begins = np.r_[0, ends[:-1]]
        summary_ends = np.flatnonzero(kinds == _SUMMARY_END)
        empty = summary_ends == begins
        lengths = np.stack([summary_ends - begins, ends - summary_ends - empty], axis=1)
        if empty.any():  # no full stop ends it
            kept = np.ones(len(kinds), bool)
            kept[summary_ends[empty]] = False
            kinds, hashes = kinds[kept], hashes[kept]
        review = np.repeat(np.arange(count), lengths.sum(axis=1))
        in_summary = np.repeat(np.tile([True, False], count), lengths.ravel())
        stop = kinds <= _SUMMARY_END
        numbers = known.word(hashes)
        self._mark_negated(numbers, hashes, stop, review)

        first, second = numbers[:-1], numbers[1:]
        place = np.flatnonzero((first > 0) & (second > 0) & (review[:-1] == review[1:]))
        pairs = known.pair(
            first[place].astype(np.uint64) * np.uint64(known.size) + second[place].astype(np.uint64)
        )
        place, pairs = place[pairs > 0], pairs[pairs > 0]

        rank = known.single_rank[1][numbers]
        hashed = (hashes >> np.uint64(65 - _SHIFT)).astype(np.int64) | _UNKNOWN
        keys = [review << _SHIFT | np.where(rank > 0, rank, hashed)]
        keys[0] = keys[0][(rank > 0) | ~stop]
        for rank, at in (
            (known.pair_rank[1][pairs], review[place]),
            (known.single_rank[0][numbers[in_summary]], review[in_summary]),
            (known.pair_rank[0][pairs[in_summary[place + 1]]], review[place[in_summary[place + 1]]]),
        ):
            keys.append((at << _SHIFT | rank)[rank > 0])
        found = np.concatenate(keys)
        found.sort()
        return found[np.r_[True, found[1:] != found[:-1]]] if len(found) else found

    def _mark_negated(
        self, numbers: NDArray[np.int32], hashes: Hashes, stop: NDArray[np.bool_], review: Numbers
    ) -> None:
        negation = self._vocabulary.negation[numbers]
        place = origin = np.flatnonzero(negation)
        marked = np.zeros(len(numbers), bool)
        for _ in range(NEGATION_REACH):
            inside = place < len(numbers) - 1
            place, origin = place[inside] + 1, origin[inside]
            reached = (review[place] == review[origin]) & ~stop[place] & ~negation[place]
            place, origin = place[reached], origin[reached]
            marked[place] = True
        numbers[marked] = self._vocabulary.marked[numbers[marked]]
        hashes[marked] = ~hashes[marked]

    def _explanations(
        self, review: Numbers, label: Numbers, stars: Floats, count: int
    ) -> list[tuple[Term, ...] | None]:
        """Return the strongest terms of each review; None if their order depends on rounding."""
        said = label > 0
        review, label, stars = review[said], label[said], stars[said]
        explanations: list[tuple[Term, ...] | None] = [()] * count
        if not len(review):
            return explanations
        starts = np.flatnonzero(np.r_[True, (label[1:] != label[:-1]) | (review[1:] != review[:-1])])
        stars, review, label = np.add.reduceat(stars, starts), review[starts], label[starts]
        size = np.abs(stars)
        firsts = np.flatnonzero(np.r_[True, review[1:] != review[:-1]])
        least = np.zeros(count)
        least[review[firsts]] = np.maximum.reduceat(size, firsts) * _CANDIDATES
        total = np.bincount(review, minlength=count)
        left = np.ones(count, bool)
        for _ in range(2):
            chosen = np.flatnonzero(left[review] & (size >= least[review]))
            chosen = chosen[np.lexsort((-size[chosen], review[chosen]))]
            at, how = review[chosen], size[chosen]
            bounds = np.searchsorted(at, np.arange(count + 1))
            tied = (at[1:] == at[:-1]) & (how[:-1] - how[1:] <= _TIE * how[:-1])
            ties = np.full(count, len(at))
            ties[at[1:][tied][::-1]] = np.flatnonzero(tied)[::-1]  # the first of each review
            labels = self._vocabulary.labels[label[chosen]].tolist()
            weights = stars[chosen].tolist()
            again = np.zeros(count, bool)
            complete = (np.diff(bounds) == total).tolist()
            spans = zip(left.tolist(), pairwise(bounds.tolist()), ties.tolist(), strict=True)
            for number, (asked, (begin, end), tie) in enumerate(spans):
                if not asked:
                    continue
                terms = zip(labels[begin:end], weights[begin:end], strict=True)
                found = select(terms)
                if len(found) < MOST_TERMS and not complete[number]:
                    again[number] = True
                elif tie < end and end - sum(1 for _ in terms) > tie:
                    explanations[number] = None
                else:
                    explanations[number] = found
            left = again
            if not again.any():
                break
            least[:] = 0
        return explanations


def _logistic(values: Floats) -> Floats:
    power = np.exp(-np.abs(values))
    return np.where(values >= 0, 1.0, power) / (1.0 + power)


def _pieces(texts: list[tuple[str, ...]]) -> Iterator[list[tuple[str, ...]]]:
    begin = size = 0
    for end, parts in enumerate(texts):
        size += sum(map(len, parts))
        if end > begin and (size > _PIECE_CHARACTERS or end - begin == _PIECE_REVIEWS):
            yield texts[begin:end]
            begin, size = end, sum(map(len, parts))
    if begin < len(texts):
        yield texts[begin:]
