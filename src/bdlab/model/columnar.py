"""The run-time scorer for many reviews at once: the same scores as `CompiledScorer`, in columns of numbers.

A word becomes a number by a hash of its bytes, a pair by the numbers of its words. One sort of all numbers
then finds the different terms of each review, and puts the terms of one label side by side."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bdlab.events import EventCodec, Input, Score, Term
from bdlab.model import terms
from bdlab.model.compiled import HIGHEST, LOWEST, MOST_TERMS, TELL_NOTHING, CompiledScorer, Labels, review_score, select

Numbers = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Floats = NDArray[np.float64]
_PIECE_CHARACTERS, _PIECE_REVIEWS = 1 << 17, 1 << 11
"""The most that is scored at once: little enough for the processor's cache."""
_SPAN = HIGHEST - LOWEST
_CANDIDATES = 0.06
"""The terms of an explanation are looked for among those with this share of the largest contribution."""
_TIE = 1e-9
# The codes of characters; all of words are larger. Bytes that UTF-8 does not have end a summary and a text.
_GAP, _TEXT_END, _STOP, _SUMMARY_END = 0, 1, 2, 5
_CODES = bytearray(range(256))
for _byte in range(128):
    _CODES[_byte] = ord(chr(_byte).lower()) if chr(_byte).isalnum() else _GAP
for _code, _stop in enumerate(terms.STOPS, _STOP):
    _CODES[ord(_stop)] = _code
_CODES[0xFE], _CODES[0xFF] = _SUMMARY_END, _TEXT_END
_SHIFT = 52
_RANK = (1 << _SHIFT) - 1
_UNKNOWN = 1 << _SHIFT - 1
"""A key has the review above these bits, and below them the rank of a term, or this and a word's hash."""
_TERM = re.compile(r"(?:[.!?]|~?[^\W_]+)(?: (?:[.!?]|~?[^\W_]+))?")


class _Hash:
    """Numbers the tokens of coded text by a polynomial with secret coefficients, modulo 2**64. They are secret so that
    nobody can make two words of one number."""

    def __init__(self) -> None:
        random = np.random.default_rng()
        self._coefficients = random.integers(0, 1 << 64, 256, dtype=np.uint64)
        self._coefficients[:_STOP] = 0
        self._coefficients[_SUMMARY_END] = self._coefficients[_STOP]  # it is a full stop
        self._base = int(random.integers(0, 1 << 61)) * 8 + 5
        self._powers = self._inverses = np.ones(1, np.uint64)
        self._second, self.summary = random.integers(0, 1 << 64, 2, dtype=np.uint64)
        """What is multiplied for the second word of a pair, and added for a term of a summary."""

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

    def pairs(self, first: Hashes, second: Hashes) -> Hashes:
        """Return the numbers of pairs of tokens."""
        numbers: Hashes = first + second * self._second
        return numbers


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


def _coded(every: Iterable[str]) -> NDArray[np.uint8]:
    """Return the codes of terms, with gaps between; the mark of a negation is a gap of another kind."""
    text = "\n".join(every).encode().replace(terms.NEGATED.encode(), b"\xff")
    return np.frombuffer(text.translate(bytes(_CODES)), np.uint8)


class _Vocabulary:
    """The terms of both fields, each with a rank from 1; terms with the same label have neighbouring ranks. Rank 0
    stands for what is not known."""

    def __init__(self, table: terms.TermTable) -> None:
        self.hash = _Hash()
        self.negation = _Lookup(self.hash(_coded(terms.NEGATIONS))[1])
        every = [*table.summary.terms, *table.review.terms]
        # No text has the others.
        known = [place for place, term in enumerate(every) if term == term.lower() and _TERM.fullmatch(term)]
        taken = [every[place] for place in known]
        in_review = np.array(known, np.int64) >= len(table.summary.terms)

        codes = _coded(taken)
        starts, plain = self.hash(codes)
        marked = codes[starts - 1] == _TEXT_END
        hashes = np.where(marked, ~plain, plain)
        gaps = np.array([" " in term for term in taken], bool)
        firsts = np.arange(len(taken)) + np.cumsum(gaps) - gaps
        seconds = firsts + gaps
        keys = hashes[firsts]
        keys[gaps] = self.hash.pairs(keys[gaps], hashes[seconds[gaps]])
        keys[~in_review] += self.hash.summary

        # The same labels have the same numbers, so that few have to be made.
        stop = codes[starts] <= _SUMMARY_END
        silent = stop | (_Lookup(self.hash(_coded(TELL_NOTHING))[1])(plain) > 0)
        heads = np.where(stop[firsts], seconds, firsts)
        said = plain[heads]
        both = gaps & ~stop[firsts] & ~stop[seconds]
        said[both] = self.hash.pairs(said[both], plain[seconds[both]])
        said[marked[heads]] = self.hash.pairs(self.hash(_coded(["not"]))[1], said[marked[heads]])
        _, places, same = np.unique(said, return_index=True, return_inverse=True)
        label = np.where(silent[firsts] & silent[seconds], 0, places[same] + 1)
        self.labels = Labels(["", *taken])
        order = np.argsort(label, kind="stable")
        self.rank = _Lookup(keys[order])

        def column(values: NDArray[Any]) -> NDArray[Any]:
            """Return what is known of each term, by its rank."""
            return np.concatenate([np.zeros(1, values.dtype), values[order]])

        idf, rating, sentiment = (
            np.array(getattr(table.summary, name) + getattr(table.review, name), float)[known]
            for name in ("idf", "rating", "sentiment")
        )
        self.square, self.rating, self.sentiment = map(column, (idf * idf, idf * rating, idf * sentiment))
        self.label, self.field = column(label), column(in_review.astype(np.int64))
        self.counts = column(in_review & ~gaps & ~stop[firsts])


class ColumnarScorer(CompiledScorer):
    """Scores many reviews many times faster than one by one."""

    blocking = True

    def __init__(self, table: terms.TermTable, codec: EventCodec, *, name: str, sha256: str) -> None:
        super().__init__(table, codec, name=name, sha256=sha256)
        self._normalises = table.format == terms.FORMAT
        self._vocabulary = _Vocabulary(table)

    def score_many(self, reviews: Sequence[Input]) -> list[Score]:
        """Return the scores in order, equal to those of `CompiledScorer` within 1e-9."""
        scores: list[Score] = []
        for piece in _pieces([(self._plain(review.summary), self._plain(review.text)) for review in reviews]):
            scores += self._score(reviews[len(scores) : len(scores) + len(piece)], piece)
        return scores

    def _plain(self, text: str) -> str:
        """Return a text with the same tokens, each character of it one byte of UTF-8."""
        if self._normalises:
            text = terms.normalise(text)
        if not text.isascii():
            return " ".join(terms.literal_tokens(text)).replace(terms.NEGATED, "").encode().decode("latin-1")
        return terms.untagged(text)

    def _score(self, reviews: Sequence[Input], piece: list[tuple[str, ...]]) -> list[Score]:
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
        base = self._baseline
        slope = np.where(small, base * (1 - base), (rating - base) / np.where(small, 1.0, moved))
        stars = (scale * (np.repeat(slope, 2) * _SPAN))[place] * known.rating[rank]
        explanations = self._explanations(review, known.label[rank], stars, count)
        counts = zip(known_words.tolist(), words.tolist(), strict=True)
        shares = [round(some / every, 3) if every else 0.0 for some, every in counts]
        rated, make = (LOWEST + _SPAN * rating).tolist(), self.codec.score
        return [
            self.score(each) if found is None else review_score(make, number, positive, found, share)
            for each, number, positive, found, share in zip(
                reviews, rated, chance.tolist(), explanations, shares, strict=True
            )
        ]

    def _keys(self, piece: list[tuple[str, ...]]) -> Numbers:
        """Return the sorted keys of the different terms and unknown words of each review."""
        known = self._vocabulary
        text = "".join([f"{summary}\xfe{text}\xff" for summary, text in piece])
        codes = np.frombuffer(text.encode("latin-1").translate(bytes(_CODES), b"'"), np.uint8)
        starts, hashes = known.hash(codes)
        review = np.cumsum(codes == _TEXT_END)[starts]
        kept = codes[starts] != _SUMMARY_END  # except after a summary, which is then a sentence
        kept[1:] |= review[1:] == review[:-1]
        starts, hashes, review = starts[kept], hashes[kept], review[kept]
        in_summary = starts < np.flatnonzero(codes == _SUMMARY_END)[review]
        stop = codes[starts] <= _SUMMARY_END

        negated = known.negation(hashes) > 0
        ends = stop | negated
        ends[_firsts(review)] = True
        marked = np.zeros(len(stop), bool)
        for _ in range(terms.NEGATION_REACH):
            negated[1:] = negated[:-1] & ~ends[1:]
            negated[:1] = False
            marked |= negated
        hashes[marked] = ~hashes[marked]

        first = np.flatnonzero(review[:-1] == review[1:])
        keys = np.concatenate([hashes, known.hash.pairs(hashes[first], hashes[first + 1])])
        at = np.concatenate([review, review[first]])
        also = np.concatenate([in_summary, in_summary[first + 1]])
        rank = known.rank(np.concatenate([keys, keys[also] + known.hash.summary])).astype(np.int64)
        unknown = np.flatnonzero((rank[: len(stop)] == 0) & ~stop)
        rank[unknown] = (hashes[unknown] >> np.uint64(65 - _SHIFT)).astype(np.int64) | _UNKNOWN
        found = (np.concatenate([at, at[also]]) << _SHIFT | rank)[rank > 0]
        found.sort()
        return found[_firsts(found)]

    def _explanations(
        self, review: Numbers, label: Numbers, stars: Floats, count: int
    ) -> list[tuple[Term, ...] | None]:
        """Return the strongest terms of each review; None if their order hangs on rounding, or not all of
        them are among the candidates."""
        said = label > 0
        review, label, stars = review[said], label[said], stars[said]
        explanations: list[tuple[Term, ...] | None] = [()] * count
        if not len(review):
            return explanations
        starts = _firsts(label, review)
        stars, review, label = np.add.reduceat(stars, starts), review[starts], label[starts]
        size = np.abs(stars)
        firsts = _firsts(review)
        least = np.zeros(count)
        least[review[firsts]] = np.maximum.reduceat(size, firsts) * _CANDIDATES
        total = np.bincount(review, minlength=count)
        chosen = np.flatnonzero(size >= least[review])
        chosen = chosen[np.lexsort((-size[chosen], review[chosen]))]
        at, how = review[chosen], size[chosen]
        bounds = np.searchsorted(at, np.arange(count + 1))
        tied = np.flatnonzero((at[1:] == at[:-1]) & (how[:-1] - how[1:] <= _TIE * how[:-1]))
        ties = np.full(count, len(at))
        ties[at[tied][::-1]] = tied[::-1]  # the first of each review
        labels, weights = ([*map(self._vocabulary.labels.__getitem__, label[chosen].tolist())], stars[chosen].tolist())
        complete = (np.diff(bounds) == total).tolist()
        spans = zip(complete, pairwise(bounds.tolist()), ties.tolist(), strict=True)
        for number, (whole, (begin, end), tie) in enumerate(spans):
            ranked = zip(labels[begin:end], weights[begin:end], strict=True)
            found = select(ranked)
            seen = end - sum(1 for _ in ranked) if tie < end else tie
            explanations[number] = found if seen <= tie and (whole or len(found) == MOST_TERMS) else None
        return explanations


def _firsts(*columns: Numbers) -> Numbers:
    """Return where runs of rows with the same values begin."""
    changed = np.zeros(len(columns[0]), bool)
    changed[:1] = True
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(changed)


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
