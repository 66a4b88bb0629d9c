"""The patterns of a valid review, which the OpenAPI document shows too.

They use only what means the same in Python's regular expressions and in those of JSON Schema (ECMA-262).
"""

from __future__ import annotations

import re

TEXT_FIELDS = ("text", "summary")
COUNT_FIELDS = ("HelpfulnessNumerator", "HelpfulnessDenominator")
FIELDS = (*TEXT_FIELDS, *COUNT_FIELDS)

#: The characters that `str.strip` removes.
_WHITE = r"\u0009-\u000d\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
STORABLE = r"^[^\u0000]*$"
"""Postgres stores any character but U+0000."""
NOT_EMPTY = rf"^[^\u0000]*[^\u0000{_WHITE}][^\u0000]*$"

_SHORT = 5


def _near(word: str) -> str:
    """Return a pattern of `word` in any case, with at most one letter inserted, removed or replaced, or two
    neighbouring letters exchanged.

    A short word resembles too many other words ("test"): for it only one letter more or less counts.
    """
    letters = [f"[{letter.upper()}{letter}]" for letter in word]
    ways = ["".join(letters) + "[^ ]?"]
    for index, letter in enumerate(word):
        # Never the letter itself: if two alternatives matched the same text, backtracking would take long.
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
"""Matches the name of a field or one that is nearly it. The groups are in the order of `FIELDS`."""

_misspelt = re.compile(MISSPELT)


def misspelt(name: str) -> str:
    """Return the field that was probably meant by `name`; empty if it resembles none."""
    found = _misspelt.fullmatch(name)
    return FIELDS[found.lastindex - 1] if found and found.lastindex else ""
