"""What a review has to look like: the patterns of the check and of the API's document; ids that stay."""

from __future__ import annotations

import difflib
import json
import re
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bdlab.inputs import InputInvalid
from bdlab.inputs.files import InputFile, Row
from bdlab.inputs.schema import NOT_EMPTY, STORABLE, Misspellings
from tests.samples import REVIEW, REVIEWS

FIELDS = [field.name for field in REVIEW.contract.inputs]
misspelt = Misspellings(FIELDS)

#: Ids that were given out; a body that was taken once has the same one for ever.
GOLDEN = {
    "952e099f-bf51-8d07-af1a-fb670d6793e7": (b'{"text": "This product is terrible!", "summary": "Product review"}'),
    "414f566d-4301-89ef-ae36-8c9ca745d8d3": (
        b'{"text":"a","HelpfulnessNumerator":0,"HelpfulnessDenominator":2147483647}'
    ),
    "cf9764d9-83c4-88e5-b974-122d107d3720": b'{"text":"a","HelpfulnessNumerator":5}',
    "0c7624ac-99f2-8184-a442-245fbf7b42f2": b'{"summary":"","text":" a\\n\\u00e9 "}',
    "3ccba8e6-d4b2-8043-a88b-ed79cce9c785": ('{"text":" a\\né ☕ <br/> &#39; \\"q\\" \\\\ / \\u2028"}'.encode()),
    "bf0d9817-ddbb-8b2b-95ed-4cbf39221aa7": (
        b'{"Id":1.0,"ProductId":"B00","Score":5.0,"Time":1e9,"test":0,"text":"good",'
        b'"more":{"text":1,"a":[1,{"b":null}]}}'
    ),
    "f547b4b0-8f38-8e58-a474-5b3c3d61eaa3": b'{"text":"text","summary":"\\"summary\\""}',
}


@pytest.mark.parametrize(("known", "body"), GOLDEN.items())
def test_a_body_keeps_its_id(known: str, body: bytes) -> None:
    assert REVIEWS.idempotent_id("order-17", REVIEW.decode(body)) == UUID(known)
    assert REVIEWS.idempotent_id("order-17", REVIEW.decode_many(b"[" + body + b"]", limit=1)[0]) == UUID(known)


def test_a_review_of_a_batch_keeps_its_id() -> None:
    _, second = REVIEW.decode_many(b'[{"text":"a"},{"text":"b","summary":"c"}]', limit=5)
    assert REVIEWS.idempotent_id("batch-1#1", second) == UUID("faeac582-af57-8091-b34d-c051fae139f6")


# An integer is an integer however it is written.


@pytest.mark.parametrize("five", ["5.0", "5e0", "0.5e1", "50E-1", "5.000"])
def test_five_point_nothing_is_five_before_an_id_is_made_of_it(tmp_path: Any, five: str) -> None:
    body = f'{{"text":"a","HelpfulnessNumerator":{five}}}'.encode()
    known = UUID("cf9764d9-83c4-88e5-b974-122d107d3720")
    assert REVIEWS.idempotent_id("order-17", REVIEW.decode(body)) == known
    assert REVIEWS.idempotent_id("order-17", REVIEW.decode_many(b"[" + body + b"]", limit=1)[0]) == known
    file = tmp_path / "reviews.jsonl"
    file.write_bytes(body)
    with file.open("rb") as stream, InputFile(str(file), stream, REVIEW, kind=None, max_row_bytes=1000) as reviews:
        (row,) = reviews.rows()
        assert isinstance(row, Row)
        assert REVIEWS.idempotent_id("order-17", row.given) == known


@given(st.integers(0, 2**31 - 1))
def test_a_count_that_is_written_with_a_fraction_of_nothing_is_the_same_review(count: int) -> None:
    reviews = [
        REVIEW.decode(f'{{"text":"a","HelpfulnessDenominator":{written}}}'.encode())
        for written in (f"{count}", f"{count}.0", f"{count}e0")
    ]
    assert reviews[0] == reviews[1] == reviews[2]


@pytest.mark.parametrize(
    ("count", "why"),
    [
        ("0.5", "with a fraction"),
        ("-1.0", "is -1"),
        ("1e10", "is 10000000000"),
        ("1e400", "has to be an integer"),
        ("1e300", "301 digits"),
    ],
)
def test_another_number_is_none_of_them(count: str, why: str) -> None:
    with pytest.raises(InputInvalid, match=re.escape(why)):
        REVIEW.decode(f'{{"text":"a","HelpfulnessNumerator":{count}}}'.encode())


# Texts.

WHITE = "".join(chr(code) for code in range(0x110000) if chr(code).isspace())


def refused(body: dict[str, Any]) -> bool:
    try:
        REVIEW.decode(json.dumps(body).encode())
    except InputInvalid:
        return True
    return False


@given(st.text(st.sampled_from(WHITE + "\x00a\u200b\ufeff☕\n"), max_size=5) | st.text(st.characters(codec="utf-8")))
def test_the_patterns_say_which_texts_are_taken(text: str) -> None:
    assert refused({"text": text}) is not bool(re.search(NOT_EMPTY, text))
    assert refused({"text": "a", "summary": text}) is not bool(re.search(STORABLE, text))


# Names.


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Text", "text"), ("TEXT", "text"), ("texts", "text"), ("txt", "text"), ("_text", "text"),
        ("sumary", "summary"), ("summmary", "summary"), ("sumamry", "summary"), ("Summery", "summary"),
        ("helpfulness_numerator", "HelpfulnessNumerator"),
        ("HelpfullnessNumerator", "HelpfulnessNumerator"),
        ("HELPFULNESSDENOMINATOR", "HelpfulnessDenominator"),
        ("helpfulnes_denominater", "HelpfulnessDenominator"),
    ],
)  # fmt: skip
def test_a_misspelt_name_is_told_what_it_means(name: str, meant: str) -> None:
    assert misspelt(name) == meant
    with pytest.raises(InputInvalid, match=f"is no field of a review; is '{meant}' meant"):
        REVIEW.decode(json.dumps({"text": "a", name: 1}).encode())


@pytest.mark.parametrize(
    "name", ["", "test", "next", "textual", "context", "title", "Id", "Score", "summarised", "n" * 999]
)
def test_another_name_is_left_alone(name: str) -> None:
    assert misspelt(name) == ""
    assert not re.search(misspelt.pattern, name)


def _typos(word: str) -> st.SearchStrategy[str]:
    places, letters = st.integers(0, len(word)), st.sampled_from("aehlmnoprstuxy_0é~")
    more = st.builds(lambda at, letter: word[:at] + letter + word[at:], places, letters)
    less = places.map(lambda at: word[:at] + word[at + 1 :])
    other = st.builds(lambda at, letter: word[:at] + letter + word[at + 1 :], places, letters)
    exchanged = places.map(lambda at: word[:at] + word[at : at + 2][::-1] + word[at + 2 :])
    return more | less | other | exchanged


_words = st.sampled_from(FIELDS).flatmap(lambda field: st.sampled_from([field, field.lower(), field.upper()]))


@given(_words.flatmap(_typos))
def test_what_is_taken_for_a_misspelt_name_resembles_one(name: str) -> None:
    """By the measure of difflib, by which it was decided at first: no name is refused that was taken once."""
    plain = {field.lower(): field for field in FIELDS}
    if meant := misspelt(name):
        near = difflib.get_close_matches(name.lower().replace("_", ""), plain, n=1, cutoff=0.8)
        assert [plain[each] for each in near] == [meant]
