"""Which words of a text the terms of an explanation cover."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bdlab.events import Term
from bdlab.model import load_scorer
from bdlab.model.compiled import weighed
from bdlab.model.terms import located_tokens, tokens
from tests.samples import Review

_WORDS = [
    "not",
    "don't",
    "Don’t",
    "good",
    "&amp;",
    "&#39;",
    "<br />",
    "<b>",
    "<",
    "a&amp;b",
    "x_y",
    "café",
    "cafe\u0301",
]
_WORDS += ["\u200b", "so\xadft", "donâ€™t", "\\'", "`", ".", "!", "?", " ", "\n", "\x1b", "\u202e", "שלום", "ﬁne", "😀"]


@given(st.lists(st.sampled_from(_WORDS)).map("".join))
def test_located_tokens_are_the_tokens_where_they_stand(text: str) -> None:
    found = located_tokens(text)
    assert [token for *_, token in found] == tokens(text)
    assert all(0 <= start < end <= len(text) for start, end, _ in found)
    pieces = weighed(text, [Term("good", 0.5), Term("not good", -1.0)])
    assert "".join(piece for piece, _ in pieces) == text


def test_terms_cover_the_words_that_they_are_made_of() -> None:
    text = "I don’t like it: it isn't very Good. <b>Really</b> good!"
    covered = [
        each for each in weighed(text, [Term("not good", -1.0), Term("good", 0.5), Term("don't", -0.2)]) if each[1]
    ]
    assert covered == [("don’t", -0.2), ("Good", -1.0), ("good", 0.5)]


def test_each_term_of_an_explanation_is_found_in_its_review(small_reviews: list[Review]) -> None:
    scorer = load_scorer()
    for review in small_reviews:
        for term in scorer.score(review).explanation:
            assert any(weight for text in (review.summary, review.text) for _, weight in weighed(text, [term])), term
