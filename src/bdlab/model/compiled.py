"""The run-time scorer: look-ups in dictionaries, with the same results as the scikit-learn pipeline.

TF-IDF with a linear head is a weighted sum over the terms, divided by the length of the TF-IDF vector. The
terms of a review are looked up once; both heads and the explanation are sums over the terms found: the explanation has
the terms that moved the rating, as they are shown to people."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from math import exp, sqrt
from operator import attrgetter
from typing import NamedTuple

from bdlab.contract import Contract, review_contract
from bdlab.events import EventCodec, Input, Score, Term
from bdlab.model import terms

MOST_TERMS = 5
FEW_TERMS = 0.5  # if a model knows a smaller share of a review's words, its prediction comes with a warning
_BAD_STARS, _GOOD_STARS = 2.5, 3.5
_NEGATIONS = terms.NEGATIONS.union(terms.CONTRACTIONS.values())
TELL_NOTHING = frozenset(terms.WORDS["function_words"])
_READ = ("summary", "text")
LOWEST, HIGHEST = 1.0, 5.0
_SPAN = HIGHEST - LOWEST


def no_review(contract: Contract) -> str:
    """Return why the score of a review does not fit `contract`; empty if it does. The input needs the summary and the
    text, and the output is the review contract's."""
    found, wanted = _read_and_made(contract), _read_and_made(review_contract())
    odd = next((name for name in found | wanted if found.get(name) != wanted.get(name)), None)
    if odd is None:
        return ""
    if odd not in found:
        return f"it has no field {odd!r}"
    return f"its field {odd!r} is {'another than' if odd in wanted else 'none of'} a review's"


def _read_and_made(contract: Contract) -> dict[str, object]:
    what = attrgetter("kind", "choices", "nullable", "minimum", "maximum")
    return {field.name: what(field) for field in contract if field.name in _READ or field in contract.outputs}


def review_score(
    make: type[Score],
    stars: float,
    positive: float,
    explanation: tuple[Term, ...] = (),
    known_terms: float | None = None,
) -> Score:
    """Return the score of a review whose sentiment is positive with the probability `positive`."""
    sentiment = "positive" if positive >= 0.5 else "negative"
    reasons = []
    if known_terms is not None and known_terms < FEW_TERMS:
        reasons.append(f"the model knows {known_terms:.0%} of the review's words")
    if (stars > _GOOD_STARS and sentiment == "negative") or (stars < _BAD_STARS and sentiment == "positive"):
        reasons.append(f"{stars:.1f} stars and a {sentiment} sentiment contradict each other")
    return make(
        prediction=stars,
        sentiment=sentiment,
        confidence=positive if positive >= 0.5 else 1.0 - positive,
        explanation=explanation,
        known_terms=known_terms,
        warning="; ".join(reasons) or None,
    )


class Labels(dict[int, str]):
    """Maps the number of a term to its label. Labels are made when they are first read."""

    def __init__(self, every: Sequence[str]) -> None:
        super().__init__()
        self._terms = every

    def __missing__(self, number: int) -> str:
        label = self[number] = label_of(self._terms[number].split())
        return label


def label_of(term: Sequence[str]) -> str:
    """Return the label of a term's tokens; empty if they say nothing, as function words alone. It has no punctuation,
    and `not` before a marked token."""
    words = [word for word in term if word not in terms.STOPS]
    plain = [word.removeprefix(terms.NEGATED) for word in words]
    if all(word in TELL_NOTHING for word in plain):
        return ""
    shown = [terms.CONTRACTIONS.get(word, word) for word in plain]
    return " ".join(["not", *shown] if words[0].startswith(terms.NEGATED) else shown)


def weighed(text: str, explanation: Iterable[Term]) -> list[tuple[str, float]]:
    """Return `text` in pieces, each with the stars of the term of an explanation that covers it, 0 if none does; of
    several the strongest."""
    weights, found = {each.term: each.weight for each in explanation}, terms.located_tokens(text)
    places: dict[tuple[int, int], float] = {}
    for first, second in pairwise([*found, (0, 0, terms.STOPS[0])]):
        for term in ([first], [first, second]):
            weight = weights.get(label_of([token for *_, token in term]), 0.0)
            for start, end, token in term:
                if token not in terms.STOPS:
                    places[start, end] = max(weight, places.get((start, end), 0.0), key=abs)
    pieces, done = list[tuple[str, float]](), 0
    for (start, end), weight in sorted(places.items()):
        if weight:
            pieces += [(text[done:start], 0.0), (text[start:end], weight)]
            done = end
    return [*pieces, (text[done:], 0.0)]


@cache
def _words(label: str) -> frozenset[str]:
    """Return the words of a label, those after a negation marked; there are as many labels as terms."""
    words = label.split()
    first = next((place for place, word in enumerate(words) if word in _NEGATIONS), len(words))
    marked = frozenset((*words[:first], *(f"not {word}" for word in words[first + 1 :])))
    return marked or frozenset(words)


def strongest(contributions: Mapping[str, float]) -> tuple[Term, ...]:
    """Return the labels with the largest absolute contributions, strongest first. `contributions` maps labels to
    stars."""
    return select(sorted(contributions.items(), key=lambda each: -abs(each[1])))


def select(contributions: Iterable[tuple[str, float]]) -> tuple[Term, ...]:
    """Return the first of the labels and their stars, which are in order. A label whose words are among those of an
    earlier label, or the reverse, is left out (`recommend` after `highly recommend`); `good` and `not good` may both be
    there."""
    chosen: list[Term] = []
    said: list[frozenset[str]] = []
    for label, stars in contributions:
        words = _words(label)
        for other in said:
            if words <= other or words >= other:
                break
        else:
            if label:
                said.append(words)
                chosen.append(Term(label, round(stars, 4)))
                if len(chosen) == MOST_TERMS:
                    break
    return tuple(chosen)


def logistic(value: float) -> float:
    """Return 1 / (1 + e^-value), for any finite value, without overflow."""
    if value >= 0:
        return 1.0 / (1.0 + exp(-value))
    power = exp(value)
    return power / (1.0 + power)


class _Found(NamedTuple):
    """What a field's terms say: how many are `words`, the reciprocal of the length of their vector, what they
    add to the two heads, and the number of each with its part of the rating, which is not scaled."""

    words: int
    scale: float
    rating: float
    sentiment: float
    numbers: tuple[int, ...]
    parts: tuple[float, ...]


_NOTHING = _Found(0, 0.0, 0.0, 0.0, (), ())
#: What is known of a term is in one place: most of a look-up's time is waiting for memory.
_Record = tuple[int, float, float, float]


class _Weights:
    """A field's terms, each with its number, its square in the length of a vector, and its two weights."""

    def __init__(self, field: terms.Field) -> None:
        singles: dict[str, _Record] = {}
        pairs: dict[tuple[str, str], _Record] = {}
        columns = zip(field.terms, field.idf, field.rating, field.sentiment, strict=True)
        for number, (term, idf, rating, sentiment) in enumerate(columns):
            record = number, idf * idf, idf * rating, idf * sentiment
            first, gap, second = term.partition(" ")
            if gap:
                pairs[first, second] = record
            else:
                singles[first] = record
        self.labels = Labels(field.terms)
        self._single, self._pair = singles.get, pairs.get
        self._stops = frozenset(stop for stop in terms.STOPS if stop in singles)

    def look_up(self, found: list[str]) -> _Found:
        different = dict.fromkeys(found)  # in their order, which decides between terms of the same weight
        records = [*filter(None, map(self._single, different))]
        words = len(records) - len(self._stops & different.keys())
        records += filter(None, map(self._pair, dict.fromkeys(pairwise(found))))
        if not records:
            return _NOTHING
        numbers, squares, parts, sentiments = zip(*records, strict=True)
        scale = 1.0 / sqrt(sum(squares))
        return _Found(words, scale, scale * sum(parts), scale * sum(sentiments), numbers, parts)


class CompiledScorer:
    """Scores a review in some microseconds, in the caller's thread."""

    blocking = False
    forkable = True

    def __init__(self, table: terms.TermTable, codec: EventCodec, *, name: str, sha256: str) -> None:
        self.name, self.codec, self.sha256 = name, codec, sha256
        self._tokens = terms.tokens if table.format == terms.FORMAT else terms.literal_tokens
        self._summary, self._review = _Weights(table.summary), _Weights(table.review)
        self._intercepts = table.intercepts
        self._baseline = logistic(table.intercepts.rating)

    def score(self, review: Input) -> Score:
        """Return the expected rating, the sentiment and the terms that explain the rating. The contributions of all
        terms and the baseline (the rating of a review without known terms) add up to the rating: the difference is
        divided in proportion to the terms' parts of the linear sum."""
        summary = self._tokens(review.summary)
        whole = terms.join(summary, self._tokens(review.text))
        in_summary, in_review = self._summary.look_up(summary), self._review.look_up(whole)
        words = set(whole)
        words.difference_update(terms.STOPS)
        moved = in_summary.rating + in_review.rating
        rating = logistic(self._intercepts.rating + moved)
        positive = logistic(self._intercepts.sentiment + in_summary.sentiment + in_review.sentiment)
        slope = (rating - self._baseline) / moved if abs(moved) > 1e-6 else self._baseline * (1 - self._baseline)
        contributions: dict[str, float] = {}
        for labels, found in ((self._summary.labels, in_summary), (self._review.labels, in_review)):
            stars = found.scale * slope * _SPAN
            for number, part in zip(found.numbers, found.parts, strict=True):
                label = labels[number]
                if label in contributions:
                    contributions[label] += stars * part
                elif label:
                    contributions[label] = stars * part
        known = round(in_review.words / len(words), 3) if words else 0.0
        stars = LOWEST + _SPAN * rating
        return review_score(self.codec.score, stars, positive, strongest(contributions), known)

    def score_many(self, reviews: Sequence[Input]) -> list[Score]:
        return [self.score(review) for review in reviews]
