"""Which terms moved the rating, as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bdlab.events import Term
from bdlab.model.terms import CONTRACTIONS, NEGATED, NEGATIONS, STOPS

MOST_TERMS = 5

_FUNCTION_WORDS = """
    a about after all also am an and any are as at be because been before but by can could did do does for
    from had has have he her him his how i id if im in into is it its ive just me my no not of on one only or
    our out over she so some such than that the their them then there these they this those to too up us was
    we were what when which while who will with would you your
"""
_NEGATIONS = NEGATIONS.union(CONTRACTIONS.values())
_TELL_NOTHING = frozenset(_FUNCTION_WORDS.split())


class Labels(dict[int, str]):
    """A term's number -> what is shown for it, made when it is first asked for; empty if it tells nothing.

    Punctuation is left out; a marked token is shown with its `not`; function words alone tell nothing.
    """

    def __init__(self, terms: Sequence[str]) -> None:
        super().__init__()
        self._terms = terms

    def __missing__(self, number: int) -> str:
        words = [word for word in self._terms[number].split() if word not in STOPS]
        plain = [word.removeprefix(NEGATED) for word in words]
        if all(word in _TELL_NOTHING for word in plain):
            label = ""
        else:
            shown = [CONTRACTIONS.get(word, word) for word in plain]
            if words[0].startswith(NEGATED):
                shown.insert(0, "not")
            label = " ".join(shown)
        self[number] = label
        return label


class _Words(dict[str, frozenset[str]]):
    """A label -> what it speaks of, words under a negation apart; as many as there are labels."""

    def __missing__(self, label: str) -> frozenset[str]:
        words = label.split()
        first = next((place for place, word in enumerate(words) if word in _NEGATIONS), len(words))
        spoken = frozenset((*words[:first], *(f"not {word}" for word in words[first + 1 :])))
        self[label] = spoken or frozenset(words)
        return self[label]


_words = _Words()


def strongest(contributions: Mapping[str, float]) -> tuple[Term, ...]:
    """The labels with the largest contributions, up or down, strongest first.

    `contributions` maps labels to stars. A label that says more or less of what a stronger one says
    (`recommend`, after `highly recommend`) is left out; `good` and `not good` may both be there.
    """
    chosen: list[Term] = []
    said: list[frozenset[str]] = []
    for label in sorted(contributions, key=lambda label: -abs(contributions[label])):
        words = _words[label]
        for other in said:
            if words <= other or words >= other:
                break
        else:
            if label:
                said.append(words)
                chosen.append(Term(label, round(contributions[label], 4)))
                if len(chosen) == MOST_TERMS:
                    break
    return tuple(chosen)
