"""The JSON Schema of a contract's input, which the OpenAPI document shows, and the names that it refuses.

Its patterns use only what means the same in Python's regular expressions and in those of JSON Schema (ECMA-262)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from bdlab.contract import Contract, Field, example_of
from bdlab.contract.fields import words_of

#: The characters that `str.strip` removes.
_WHITE = r"\u0009-\u000d\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
STORABLE = r"^[^\u0000]*$"
"""Postgres stores any character but U+0000."""
NOT_EMPTY = rf"^[^\u0000]*[^\u0000{_WHITE}][^\u0000]*$"
_LETTERS = range(4, 17)
"""How many a word has of which a misspelling is found; shorter ones resemble too many others."""
_NEAR_WORDS, _NEAR_NAMES = 2, 8
"""How many of a name's words may be misspelt, and how many names may begin with one that may: the time to
match a name grows by a factor with each."""
_NEAR_LENGTH, _MOST_LENGTH = 20_000, 60_000
"""Characters of a pattern. The names after the first take names in another case alone, the rest nothing."""


def input_schema(contract: Contract, any_of: Sequence[str] = ()) -> dict[str, Any]:
    """Return the JSON Schema of a contract's input: what is enforced. One field of `any_of` has to be given."""
    names = [field.name for field in contract.inputs]
    required = [field.name for field in contract.inputs if field.required]
    given = [{"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in any_of]
    return {
        "properties": {field.name: _property(field) for field in contract.inputs},
        "additionalProperties": True,
        "propertyNames": {"anyOf": [{"enum": names}, {"not": {"pattern": Misspellings(names).pattern}}]},
        "type": "object",
        **({"required": required} if required else {}),
        **({"anyOf": given} if any_of else {}),
        "title": contract.noun.capitalize(),
        "description": "Other fields are ignored. A name that is nearly one of these is refused as misspelt.",
        "examples": [example_of(contract)],
    }


def _property(field: Field) -> dict[str, Any]:
    kind = "string" if field.kind in ("date-time", "uuid", "word") else field.kind
    low, high = field.bounds if field.kind == "integer" else (field.minimum, field.maximum)
    text = NOT_EMPTY if field.min_length else STORABLE
    found = {
        "type": [kind, "null"] if field.nullable else kind,
        "enum": [*field.choices, *([None] if field.nullable else [])] if field.choices else None,
        "format": field.kind if field.kind in ("date-time", "uuid") else None,
        "maximum": high,
        "minimum": low,
        "maxLength": field.max_length,
        "minLength": field.min_length or None,
        "pattern": "^[a-z][a-z0-9_-]{0,39}$" if field.kind == "word" else text if field.is_text else None,
        "description": field.description or None,
        "default": None if field.required else msgspec.to_builtins(field.default),
    }
    return {key: value for key, value in found.items() if value is not None}


class Misspellings:
    """Finds which of the `names` was probably meant by one that is nearly it. `pattern` matches these, and those in
    another case. It is short enough for 200 names of 200 characters."""

    def __init__(self, names: Sequence[str]) -> None:
        # Digits tell apart names that are alike otherwise, as those of `feature1` to `feature20`.
        self._but = "0-9" if any(map(re.compile("[0-9]").search, names)) else ""
        self._between = "_?" if all(map(re.compile(r"\w+").fullmatch, names)) else "[^A-Za-z0-9]{0,2}"
        self._meant: list[str] = []
        self._length = 0
        by_words: dict[tuple[str, ...], str] = {}
        for name in names:
            words = (part for word in words_of(name) for part in re.findall(r"\d+|\D+", word))
            by_words.setdefault(tuple(words), name)
        self.pattern = f"^{self._any_of(by_words, _NEAR_WORDS)}$"
        self._found = re.compile(self.pattern).fullmatch

    def __call__(self, name: str) -> str:
        """Return the name that was probably meant by `name`; empty if it resembles none."""
        found = self._found(name)
        return self._meant[found.lastindex - 1] if found and found.lastindex else ""

    def _any_of(self, names: Mapping[tuple[str, ...], str], misspelt: int) -> str:
        """Return the pattern of names by their words, of which as many may be `misspelt`."""
        ways = []
        for word in dict.fromkeys(words[0] for words in names):
            if self._length > _MOST_LENGTH:
                break
            rest = {words[1:]: name for words, name in names.items() if words[0] == word}
            few = len(rest) <= _NEAR_NAMES and self._length < _NEAR_LENGTH
            near = few and misspelt > 0 and len(word) in _LETTERS
            way = _near(word, self._but) if near else "".join(_any_case(word))
            self._length += len(way) + len(self._between)
            if name := rest.pop((), ""):
                self._meant.append(name)
                way = f"({way})"
            if rest:
                after = self._between + self._any_of(rest, misspelt - near)
                way += f"(?:{after})?" if name else after
            ways.append(way)
        return f"(?:{'|'.join(ways) or '(?!)'})"


def _any_case(word: str) -> list[str]:
    return [f"[{letter.upper()}{letter}]" if letter.isalpha() else letter for letter in word]


def _near(word: str, but: str) -> str:
    """Return a pattern of `word` in any case, with at most one letter inserted, removed or replaced, or two
    neighbouring letters exchanged. None of the characters `but` is inserted. A short word resembles too many other
    words ("test"): for it only one letter more or less counts."""
    letters = _any_case(word)
    ways = ["".join(letters) + f"[^ {but}]?"]
    for index, letter in enumerate(word):
        # Never the letter itself: if two alternatives matched the same text, backtracking would take long.
        other = f"[^{letter.upper()}{letter}{but}]"
        before, same, after = "".join(letters[:index]), letters[index], "".join(letters[index + 1 :])
        if len(word) < 5:
            ways += [before + other + same + after, before + after]
            continue
        ways.append(f"{before}(?:{other}{same}?)?{after}")
        if word[index + 1 : index + 2] not in ("", letter):
            ways.append(before + letters[index + 1] + same + "".join(letters[index + 2 :]))
    return f"(?:{'|'.join(ways)})"
