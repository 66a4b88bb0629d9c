"""The terms that moved the rating, as they are shown to people."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from operator import attrgetter

from bdlab.contract import Contract, review_contract
from bdlab.events import Score, Term
from bdlab.model.terms import CONTRACTIONS, NEGATED, NEGATIONS, STOPS

MOST_TERMS = 5

FEW_TERMS = 0.5
"""If a model knows a smaller share of a review's words, its prediction comes with a warning."""

_BAD_STARS, _GOOD_STARS = 2.5, 3.5

_FUNCTION_WORDS = """
    a about after all also am an and any are as at be because been before but by can could did do does for
    from had has have he her him his how i id if im in into is it its ive just me my no not of on one only or
    our out over she so some such than that the their them then there these they this those to too up us was
    we were what when which while who will with would you your
"""
_NEGATIONS = NEGATIONS.union(CONTRACTIONS.values())
TELL_NOTHING = frozenset(_FUNCTION_WORDS.split())


_READ = ("summary", "text")


def no_review(contract: Contract) -> str:
    """Return why the score of a review does not fit `contract`; empty if it does.

    The input needs the summary and the text, and the output is the review contract's.
    """
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
    """Maps the number of a term to its label; empty if the term says nothing, as function words alone.

    A label has no punctuation, and `not` before a marked token. Labels are made when they are first read.
    """

    def __init__(self, terms: Sequence[str]) -> None:
        super().__init__()
        self._terms = terms

    def __missing__(self, number: int) -> str:
        words = [word for word in self._terms[number].split() if word not in STOPS]
        plain = [word.removeprefix(NEGATED) for word in words]
        if all(word in TELL_NOTHING for word in plain):
            label = ""
        else:
            shown = [CONTRACTIONS.get(word, word) for word in plain]
            if words[0].startswith(NEGATED):
                shown.insert(0, "not")
            label = " ".join(shown)
        self[number] = label
        return label


@cache
def _words(label: str) -> frozenset[str]:
    """Return the words of a label, those after a negation marked; there are as many labels as terms."""
    words = label.split()
    first = next((place for place, word in enumerate(words) if word in _NEGATIONS), len(words))
    marked = frozenset((*words[:first], *(f"not {word}" for word in words[first + 1 :])))
    return marked or frozenset(words)


def strongest(contributions: Mapping[str, float]) -> tuple[Term, ...]:
    """Return the labels with the largest absolute contributions, strongest first.

    `contributions` maps labels to stars.
    """
    return select(sorted(contributions.items(), key=lambda each: -abs(each[1])))


def select(contributions: Iterable[tuple[str, float]]) -> tuple[Term, ...]:
    """Return the first of the labels and their stars, which are in order.

    A label whose words are among those of an earlier label, or the reverse, is left out (`recommend` after
    `highly recommend`); `good` and `not good` may both be there.
    """
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
