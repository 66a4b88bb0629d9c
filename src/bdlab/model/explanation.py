"""Which terms moved the rating, as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping

from bdlab.events import Term
from bdlab.model.terms import CONTRACTIONS, NEGATED, STOPS

MOST_TERMS = 5

_FUNCTION_WORDS = """
    a about after all also am an and any are as at be because been before but by can could did do does for from
    had has have he her him his how i id if im in into is it its ive just me my of on one only or our out over
    she so some such than that the their them then there these they this those to too up us was we were what
    when which while who will with would you your
"""
_TELL_NOTHING = frozenset(_FUNCTION_WORDS.split())


class Labels(dict[str, str]):
    """Term -> what is shown for it, made when it is first asked for; empty for one that tells nothing.

    Punctuation is left out; a marked token is shown with its `not`; function words alone tell nothing.
    """

    def __missing__(self, term: str) -> str:
        words = [word for word in term.split() if word not in STOPS]
        plain = [word.removeprefix(NEGATED) for word in words]
        if all(word in _TELL_NOTHING for word in plain):
            label = ""
        else:
            shown = [CONTRACTIONS.get(word, word) for word in plain]
            if words[0].startswith(NEGATED):
                shown.insert(0, "not")
            label = " ".join(shown)
        self[term] = label
        return label


def strongest(contributions: Mapping[str, float]) -> tuple[Term, ...]:
    """The labels with the largest contributions, up or down, strongest first.

    `contributions` maps labels to stars. A label that says more or less of what a stronger one says
    (`recommend`, after `highly recommend`) is left out.
    """
    chosen: list[Term] = []
    said: list[set[str]] = []
    for label in sorted(contributions, key=lambda label: -abs(contributions[label])):
        words = set(label.split())
        if not label or any(words <= other or words >= other for other in said):
            continue
        said.append(words)
        chosen.append(Term(label, round(contributions[label], 4)))
        if len(chosen) == MOST_TERMS:
            break
    return tuple(chosen)
