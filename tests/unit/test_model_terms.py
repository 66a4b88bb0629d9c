"""The tokeniser that training and the run-time scorer share."""

from __future__ import annotations

import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bdlab.model.terms import NEGATED, review_terms, summary_terms, tokens

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
    ],
)
def test_tokens(text: str, found: list[str]) -> None:
    assert tokens(text) == found


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
    assert summary_terms(("Not bad!", "unused")) == ["not", "~bad", "!", "not ~bad", "~bad !"]
    assert review_terms(("Nice", "tea")) == ["nice", ".", "tea", "nice .", ". tea"]
    assert review_terms(("", "tea")) == ["tea"]


def test_a_negation_in_the_summary_ends_with_it() -> None:
    assert review_terms(("not", "good"))[:3] == ["not", ".", "good"]


@pytest.mark.parametrize("text", ["<a" * 200_000, "<" + "a" * 400_000, "not " * 100_000, "'" * 400_000])
def test_hostile_text_takes_time_in_proportion_to_its_length(text: str) -> None:
    def seconds(shown: str) -> float:
        start = time.process_time()
        tokens(shown)
        return time.process_time() - start

    whole = seconds(text)
    # Quadratic time would be a hundred times a tenth's; the rest is allowance for a busy machine.
    assert whole < 50 * max(seconds(text[: len(text) // 10]), 0.001)
