"""The tokeniser that training and the run-time scorer share."""

from __future__ import annotations

import html
import string
import time
import unicodedata
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bdlab.model.terms import (
    NEGATED,
    literal_tokens,
    normalise,
    normalised_review_terms,
    normalised_summary_terms,
    tokens,
)

#: How `'` is written in what people paste, export and escape; U+FFFD is one that was lost.
APOSTROPHES = (
    *"’‘‛´`ʼʻˈ＇′‵՚\x91\x92\ufffd",
    *("\\'", "\\\\'", "\\’", "\\&#39;", "&#39;", "&#039;", "&#39", "&#x27;", "&#X27;", "&#146;", "&apos;", "&lsquo;"),
    *("&rsquo;", "&prime;", "&acute;", "&grave;", "&amp;#39;", "&amp;apos;", "&amp;rsquo;", "&amp;amp;#39;"),
    *("â€™", "â€˜", "Â´", "â\x80\x99", "Ã¢â‚¬â„¢", "&acirc;&euro;&trade;"),
)
INVISIBLE = (
    "\xad",
    "\u200b",
    "\u200c",
    "\u200d",
    "\u200e",
    "\u2060",
    "\ufeff",
    "\ufe0f",
    "\u034f",
    "&shy;",
    "&zwnj;",
    "&#8203;",
)

ASCII_PUNCTUATION = string.punctuation + string.whitespace + "\x00\x1c\x1f\x7f"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("  \n\t ", []),
        ("Good coffee, good price", ["good", "coffee", "good", "price"]),
        ("Good!Really?Yes...", ["good", "!", "really", "?", "yes", ".", ".", "."]),
        ("snake_case and 10/10", ["snake", "case", "and", "10", "10"]),
        ("the dog's 'own' bowl", ["the", "dogs", "own", "bowl"]),
        ("the dog’s bowl", ["the", "dogs", "bowl"]),
        ("fine<br /><br>and <a href='x'>here</a>", ["fine", ".", ".", "and", ".", "here", "."]),
        ("I <3 it, 1 < 2 > 0", ["i", "3", "it", "1", "2", "0"]),
        ("ÉCLAIR Straße ΣΊΣΥΦΟΣ", ["éclair", "straße", "σίσυφος"]),
        ("not very good at all", ["not", "~very", "~good", "~at", "all"]),
        ("I don't. Like it", ["i", "dont", ".", "like", "it"]),
        ("never, ever not good", ["never", "~ever", "not", "~good"]),
        ("it wasn’t naïve", ["it", "wasnt", "~naïve"]),
        ("~good", ["good"]),
        ("fine&lt;br /&gt;tea &amp; cake", ["fine", ".", "tea", "cake"]),
        ("fine&amp;lt;br&amp;gt;tea &quot;good&quot;", ["fine", ".", "tea", "good"]),
        ("cafe\u0301 caf&eacute; cafÃ© CAFÉ", ["café"] * 4),
        ("ﬁne ｔｅａ…", ["fine", "tea", ".", ".", "."]),
        ("weiß” sucré’ SUCRÉ” Ãb â", ["weiß", "sucré", "sucré", "ãb", "â"]),
        ("AT&T, salt&pepper, sweet &not good", ["at", "t", "salt", "pepper", "sweet", "not", "~good"]),
        ("good\\bad \\", ["good", "bad"]),
        ("`good` ‘value’ 5′", ["good", "value", "5"]),
    ],
)
def test_tokens(text: str, found: list[str]) -> None:
    assert tokens(text) == found


@pytest.mark.parametrize("apostrophe", APOSTROPHES)
def test_every_spelling_of_an_apostrophe_is_the_same_word(apostrophe: str) -> None:
    assert tokens(f"I don{apostrophe}t like it") == ["i", "dont", "~like", "~it"]


@given(
    word=st.sampled_from(["don't like", "isn't good", "it's great", "rock'n'roll"]),
    apostrophe=st.sampled_from(["'", *APOSTROPHES]),
    before=st.sampled_from(["", *INVISIBLE]),
    after=st.sampled_from(["", *INVISIBLE]),
)
def test_what_cannot_be_seen_beside_an_apostrophe_changes_nothing(
    word: str, apostrophe: str, before: str, after: str
) -> None:
    assert tokens(word.replace("'", before + apostrophe + after)) == tokens(word)


@given(text=st.text(), form=st.sampled_from(["NFC", "NFD"]))
def test_canonically_equal_texts_have_the_same_tokens(text: str, form: Literal["NFC", "NFD"]) -> None:
    assert tokens(unicodedata.normalize(form, text)) == tokens(text)


@given(st.text(alphabet=st.characters(blacklist_characters="&;#", max_codepoint=0x24F)))
def test_an_escaped_text_has_the_tokens_of_the_text(text: str) -> None:
    once = html.escape(text)
    assert tokens(once) == tokens(html.escape(once)) == tokens(text)


@given(st.text(alphabet=string.printable.replace("&", "").replace("\\", "").replace("`", "")))
def test_plain_text_is_left_as_it_is(text: str) -> None:
    assert normalise(text) is text
    assert tokens(text) == literal_tokens(text)


@given(st.text(alphabet=string.ascii_letters + string.digits + ASCII_PUNCTUATION + "'not<>br!.?"))
def test_ascii_text_has_the_same_tokens_on_both_paths(text: str) -> None:
    # A letter that is not ASCII, in a sentence of its own, sends the whole text down the other path.
    assert tokens(text + " . é") == [*tokens(text), ".", "é"]


@given(st.text())
def test_a_token_is_a_word_or_a_stop(text: str) -> None:
    for token in tokens(text):
        word = token.removeprefix(NEGATED)
        assert word.isalnum() or word in {".", "!", "?"}
        assert " " not in token


def test_terms_are_tokens_and_pairs_of_neighbours() -> None:
    assert normalised_summary_terms(("Not bad!", "unused")) == ["not", "~bad", "!", "not ~bad", "~bad !"]
    assert normalised_review_terms(("Nice", "tea")) == ["nice", ".", "tea", "nice .", ". tea"]
    assert normalised_review_terms(("", "tea&apos;s")) == ["teas"]


def test_a_negation_in_the_summary_ends_with_it() -> None:
    assert normalised_review_terms(("not", "good"))[:3] == ["not", ".", "good"]


@pytest.mark.parametrize(
    "text",
    [
        "<a" * 200_000,
        "<" + "a" * 400_000,
        "not " * 100_000,
        "'" * 400_000,
        "\\" * 400_000,
        "&" * 400_000,
        "&amp;" * 80_000,
        "&" + "amp;" * 100_000,
        "a" + "\u0301\u0323" * 50_000,
        "â€" * 100_000,
        "\u200b" * 200_000,
    ],
    ids=lambda text: repr(text[:8]),
)
def test_hostile_text_takes_time_in_proportion_to_its_length(text: str) -> None:
    def seconds(shown: str) -> float:
        start = time.process_time()
        tokens(shown)
        return time.process_time() - start

    whole = seconds(text)
    # Quadratic time would be a hundred times a tenth's; the rest is allowance for a busy machine.
    assert whole < 50 * max(seconds(text[: len(text) // 10]), 0.001)
