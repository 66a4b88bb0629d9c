"""The terms of a review: one tokeniser for training and for the run-time scorer, and that one's data file.

A text is normalised first, so that all spellings that look the same have the same tokens. A token is a run of letters
and digits in lower case, or one of ``. ! ?``. Apostrophes are dropped (``don't`` is ``dont``), HTML tags end a
sentence, all else separates tokens. A token that follows a negation within its sentence is marked: in ``not very good
.`` they are ``not ~very ~good .``. A term is a token or a pair of neighbours.

The data file is one JSON object of numbers and terms, with gzip. It runs no code."""

import gzip
import html
import re
import tomllib
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args
from unicodedata import normalize

import msgspec
from msgspec.structs import astuple

from bdlab.errors import ModelError

T = TypeVar("T", str, float)
Format = Literal["bdlab-terms/1", "bdlab-terms/2"]
"""A format has its layout and its tokens: for 2 `bdlab.model.terms` normalises a text, for 1 it does not."""
FORMAT: Format = "bdlab-terms/2"
"""The format that is written; both are read."""
_PIECE_BYTES = 1 << 16
STOPS = ".!?"
NEGATED = "~"  # the mark of a negated token, which cannot be part of one
NEGATION_REACH = 3  # the most tokens that a negation marks
WORDS = {
    name: words.split()
    for name, words in tomllib.loads(Path(__file__).with_name("words.toml").read_text("utf-8")).items()
}
CONTRACTIONS = {word.replace("'", ""): word for word in WORDS["contractions"]}
"""Maps tokens without their apostrophe to their spelling."""
NEGATIONS = frozenset(CONTRACTIONS).union(WORDS["other_negations"])
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,500}>")
_TOKEN = re.compile(r"[^\W_]+|[.!?]")
_ASCII = "".join(letter.lower() if letter.isalnum() or letter in STOPS else " " for letter in map(chr, range(128)))
_ENTITY = re.compile(r"&(?:#\w{1,9};?|\w{2,31};)")
# By their numbers, since most of these look the same or are invisible in an editor. U+FFFD stands for a lost
# character; within a word it was an apostrophe or an accent.
_APOSTROPHE = re.compile(
    r"[\x91\x92\xb4\u02b9\u02bb-\u02bd\u02c8\u02ca\u02cb\u055a\u05f3\u2018\u2019\u201b\u2032\u2035\ua78c\uff07"
    r"\uff40\ufffd]"
)
_INVISIBLE = re.compile(
    r"[\xad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
    r"\U000e0000-\U000e0fff]"
)
_BACKSLASHED = re.compile(r"\\{1,4}'")
# UTF-8 that was read as Windows-1252 or Latin-1: general punctuation, and the small letters with accents.
_BYTES = {ord(char): byte for byte in range(0x80, 0xA0) for char in bytes([byte]).decode("cp1252", "ignore")}
_MANGLED = re.compile(f"â[\x80-\xbf{''.join(map(chr, _BYTES))}]{{2}}|[ÂÃ][\xa0-\xbf]")
#: A tag, characters that may make a token together, or any other one.
_WORD = re.compile(
    rf"{_TAG.pattern}|(?:{_ENTITY.pattern}|{_MANGLED.pattern}|{_APOSTROPHE.pattern}|{_INVISIBLE.pattern}"
    r"|['`\\\u0300-\u036f]|[^\W_])+|(?s:.)"
)
# Sorting the accents of a letter takes quadratic time, so a text is composed in pieces, cut between words.
_PIECE = re.compile(r"(?s).{1,250}(?!\S)|.{1,250}")


class Intercepts(msgspec.Struct, frozen=True):
    """The linear sums of the two heads for a review without known terms."""

    rating: float
    sentiment: float


class Field(msgspec.Struct, frozen=True):
    """Parallel lists, one entry a term. A term is a token, or two with a space between. `rating` and `sentiment` are
    weights of the unit-length vector of the inverse document frequencies `idf` of the field's terms; a term counts
    once."""

    terms: list[str]
    idf: list[float]
    rating: list[float]
    sentiment: list[float]


class TermTable(msgspec.Struct, frozen=True):
    format: Format
    intercepts: Intercepts
    summary: Field
    review: Field


#: A TermTable whose lists are not decoded yet.
_LISTS = msgspec.defstruct("Field", [(name, msgspec.Raw) for name in Field.__struct_fields__])
_WHOLE = msgspec.defstruct(
    "TermTable", [("format", Format), ("intercepts", Intercepts), ("summary", _LISTS), ("review", _LISTS)]
)


def encode(table: TermTable) -> bytes:
    """Return the file's content: always the same bytes for the same table."""
    return gzip.compress(msgspec.json.encode(table), 9, mtime=0)


def decode(content: bytes, *, source: str) -> TermTable:
    """Return the table. Raises ModelError with `source`."""
    try:
        whole: Any = msgspec.json.decode(gzip.decompress(content), type=_WHOLE)
        fields = (
            Field(_list(field.terms, str, b'","'), *(_list(each, float, b",") for each in astuple(field)[1:]))
            for field in (whole.summary, whole.review)
        )
        table = TermTable(whole.format, whole.intercepts, *fields)
    except (OSError, EOFError, zlib.error, msgspec.DecodeError, UnicodeDecodeError) as error:
        why = f"{source} is not a term table that this version reads ({', '.join(get_args(Format))}): {error}"
        raise ModelError(why, hint="Train again with `bdlab train`.") from error
    for field in (table.summary, table.review):
        if len({len(field.terms), len(field.idf), len(field.rating), len(field.sentiment)}) != 1:
            raise ModelError(f"{source} is damaged: its lists differ in length")
    return table


def _list(raw: msgspec.Raw, kind: type[T], between: bytes) -> list[T]:
    """Decode a JSON list in pieces, cut at `between`, so that the threads of an API that loads it go on meanwhile."""
    content, decoder, found, at = bytes(raw), msgspec.json.Decoder(list[kind]), list[T](), 1  # type: ignore[valid-type]
    cut = between.index(b",")
    try:
        while (end := content.find(between, at + _PIECE_BYTES)) > 0:
            found += decoder.decode(b"[%b]" % content[at : end + cut])
            at = end + cut + 1
        return found + decoder.decode(b"[" + content[at:])
    except msgspec.DecodeError:  # cut within a text, or not a list of these
        return decoder.decode(content)


def normalise(text: str) -> str:
    """Return `text` in Unicode's NFKC, without HTML escapes, wrong decoding and invisible characters. All characters
    that are used as an apostrophe become one. Takes time linear in the length."""
    if text.isascii() and "&" not in text and "\\" not in text and "`" not in text:
        return text
    text = _composed("NFC", text)
    for _ in range(3):  # as many times in a row it may have been escaped or decoded wrongly
        before = text
        if "&" in text:
            text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
        # A search for a character is many times faster than for the pattern, here and below.
        if "â" in text or "Â" in text or "Ã" in text:
            text = _MANGLED.sub(_decoded, text)
        if text == before:
            break
    if not text.isascii():
        text = _composed("NFKC", _APOSTROPHE.sub("'", _INVISIBLE.sub("", text)))
    text = text.replace("`", "'")
    return _BACKSLASHED.sub("'", text) if "\\" in text else text


def _composed(form: Literal["NFC", "NFKC"], text: str) -> str:
    return text if text.isascii() else "".join(normalize(form, piece) for piece in _PIECE.findall(text))


def _decoded(mangled: re.Match[str]) -> str:
    try:
        return mangled[0].translate(_BYTES).encode("latin-1").decode()
    except UnicodeError:
        return mangled[0]


def tokens(text: str) -> list[str]:
    """Return the tokens of the normalised `text` in order, negated ones marked. Takes linear time."""
    return literal_tokens(normalise(text))


def literal_tokens(text: str) -> list[str]:
    """Return the tokens of `text` without normalising it, for models of the format bdlab-terms/1."""
    text = untagged(text)
    if text.isascii():
        # Three times faster than the pattern, with the same tokens, as a test proves.
        text = text.replace("'", "").translate(_ASCII)
        found = text.replace(".", " . ").replace("!", " ! ").replace("?", " ? ").split()
    else:
        found = _TOKEN.findall(text.lower().replace("'", "").replace("’", ""))
    return _marked(found)


def located_tokens(text: str) -> list[tuple[int, int, str]]:
    """Return the tokens of `tokens`, each with the start and the end of the characters in `text` that it is made of."""
    found = [
        (*piece.span(), token.removeprefix(NEGATED)) for piece in _WORD.finditer(text) for token in tokens(piece[0])
    ]
    marked = _marked([token for *_, token in found])
    return [(start, end, token) for (start, end, _), token in zip(found, marked, strict=True)]


def _marked(found: list[str]) -> list[str]:
    if NEGATIONS.isdisjoint(found):
        return found
    reach = 0
    for index, token in enumerate(found):
        if token in NEGATIONS:
            reach = NEGATION_REACH
        elif token in STOPS:
            reach = 0
        elif reach:
            reach -= 1
            found[index] = NEGATED + token
    return found


def untagged(text: str) -> str:
    """Return `text` with the end of a sentence for each HTML tag."""
    return _TAG.sub(" . ", text) if "<" in text else text


def join(summary: Sequence[str], text: Sequence[str]) -> list[str]:
    """Return the tokens of the whole review: its summary as a first sentence, and its text."""
    return [*summary, ".", *text] if summary else list(text)


def normalised_summary_terms(review: tuple[str, str]) -> list[str]:
    """Return the terms of the summary of (summary, text): an analyzer for TfidfVectorizer."""
    return _terms(tokens(review[0]))


def normalised_review_terms(review: tuple[str, str]) -> list[str]:
    """Return the terms of summary and text of (summary, text): an analyzer for TfidfVectorizer."""
    return _terms(join(tokens(review[0]), tokens(review[1])))


def summary_terms(review: tuple[str, str]) -> list[str]:
    """As `normalised_summary_terms` without normalising: older joblib files name this function."""
    return _terms(literal_tokens(review[0]))


def review_terms(review: tuple[str, str]) -> list[str]:
    """As `normalised_review_terms` without normalising: older joblib files name this function."""
    return _terms(join(literal_tokens(review[0]), literal_tokens(review[1])))


def _terms(found: list[str]) -> list[str]:
    return found + [f"{first} {second}" for first, second in pairwise(found)]
