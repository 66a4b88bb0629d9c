"""What a review has to look like, as patterns that the API's document shows too.

They keep to what means the same in Python's regular expressions and in those of JSON Schema (ECMA-262).
"""

from __future__ import annotations

import re

TEXT_FIELDS = ("text", "summary")
COUNT_FIELDS = ("HelpfulnessNumerator", "HelpfulnessDenominator")
FIELDS = (*TEXT_FIELDS, *COUNT_FIELDS)

#: What `str.strip` takes away.
_WHITE = r"\u0009-\u000d\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
STORABLE = r"^[^\u0000]*$"
"""Postgres stores any text but this character."""
NOT_EMPTY = rf"^[^\u0000]*[^\u0000{_WHITE}][^\u0000]*$"

_SHORT = 5


def _near(word: str) -> str:
    """A pattern of `word` in any case, or with one letter more, less or other, or two neighbours exchanged.

    A short word has too many neighbours that are words themselves ("test"): of it, one letter more or less.
    """
    letters = [f"[{letter.upper()}{letter}]" for letter in word]
    ways = ["".join(letters) + "[^ ]?"]
    for index, letter in enumerate(word):
        # Never the letter itself: each way to match is another one, or a near miss of two words takes long.
        other = f"[^{letter.upper()}{letter}]"
        before, same, after = "".join(letters[:index]), letters[index], "".join(letters[index + 1 :])
        if len(word) < _SHORT:
            ways += [before + other + same + after, before + after]
            continue
        ways.append(f"{before}(?:{other}{same}?)?{after}")
        if word[index + 1 : index + 2] not in ("", letter):
            ways.append(before + letters[index + 1] + same + "".join(letters[index + 2 :]))
    return f"(?:{'|'.join(ways)})"


MISSPELT = (
    f"^(?:({_near('text')})|({_near('summary')})"
    f"|{_near('helpfulness')}_?(?:({_near('numerator')})|({_near('denominator')})))$"
)
"""Names that are nearly a field's, or its own. Each group is for one of `FIELDS`, in their order."""

_misspelt = re.compile(MISSPELT)


def misspelt(name: str) -> str:
    """The field that `name`, which is none, was probably meant to be; empty where it resembles none."""
    found = _misspelt.fullmatch(name)
    return FIELDS[found.lastindex - 1] if found and found.lastindex else ""
