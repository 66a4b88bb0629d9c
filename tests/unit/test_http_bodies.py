"""Bad input over HTTP: each has its status and names its field; none is a 500, and none is published."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bdlab.inputs import InputInvalid
from bdlab.serving.problems import PROBLEM_JSON
from bdlab.settings import HttpSettings, KafkaSettings, Settings
from tests.fix_api import MemoryApi, serving
from tests.samples import REVIEW

JSON = {"Content-Type": "application/json"}
LIMIT = 64 * 1024


@pytest.fixture(scope="module")
def memory() -> MemoryApi:
    return MemoryApi(
        Settings(http=HttpSettings(max_body_bytes=LIMIT, max_batch=20), kafka=KafkaSettings(delivery_timeout_s=5))
    )


@pytest.fixture(scope="module")
def client(memory: MemoryApi) -> Iterator[httpx.Client]:
    with memory.producer, serving(memory.parts) as client:
        yield client


def nested(depth: int) -> bytes:
    return b'{"text": "a", "more": ' + b"[" * depth + b"]" * depth + b"}"


BAD_REVIEWS = [
    (b"", "body", "is empty"),
    (b"{", "body", "not valid JSON"),
    (b'{"text": "a",}', "body", "not valid JSON"),
    (b'{"text": "\xff"}', "body", "not UTF-8: byte 0xff at offset 10"),
    (b'\xef\xbb\xbf{"text": ""}', "text", "is empty"),
    (b'\xef\xbb\xbf\xef\xbb\xbf{"text": "a"}', "body", "not valid JSON"),
    (b'{"text": "a", "HelpfulnessNumerator": NaN}', "body", "NaN is not a JSON number"),
    (b"null", "body", "has to be a JSON object with the field 'text', and is null"),
    (b"[]", "body", "and is an array"),
    (b'"text"', "body", "and is a string"),
    (b"17", "body", "and is a number"),
    (b"true", "body", "and is a boolean"),
    (nested(100_000 // 4), "body", "is nested too deeply"),
    (b"[" * 30_000, "body", ""),
    (b"{}", "text", "is missing"),
    (b'{"summary": "a"}', "text", "is missing"),
    (b'{"text": null}', "text", "has to be a string, and is null"),
    (b'{"text": 1}', "text", "has to be a string, and is a number"),
    (b'{"text": ["a"]}', "text", "has to be a string, and is an array"),
    (b'{"text": ""}', "text", "is empty"),
    (b'{"text": " \\n\\t "}', "text", "is empty"),
    (b'{"text": "a\\u0000b"}', "text", "NUL character (U+0000) at character 1"),
    (b'{"text": "a\\ud800"}', "text", "half of a surrogate pair (U+D800) at character 1"),
    (b'{"text": "a", "summary": "\\udc00b"}', "summary", "half of a surrogate pair (U+DC00)"),
    (b'{"text": "a", "summary": "\\u0000"}', "summary", "NUL"),
    (b'{"text": "a", "summary": null}', "summary", "has to be a string, and is null"),
    (b'{"text": "a", "HelpfulnessNumerator": true}', "HelpfulnessNumerator", "integer, and is a boolean"),
    (b'{"text": "a", "HelpfulnessNumerator": "1"}', "HelpfulnessNumerator", "integer, and is a string"),
    (b'{"text": "a", "HelpfulnessNumerator": 1.5}', "HelpfulnessNumerator", "a number with a fraction"),
    (b'{"text": "a", "HelpfulnessNumerator": 1e400}', "HelpfulnessNumerator", "a number with a fraction"),
    (b'{"text": "a", "HelpfulnessDenominator": -1}', "HelpfulnessDenominator", "between 0 and 2147483647"),
    (b'{"text": "a", "text": "b"}', "text", "stands more than once"),
    (b'{"text": "a", "summary": "b", "n": {}, "summary": "b"}', "summary", "stands more than once"),
    (b'{"Text": "a"}', "Text", "is no field of a review; is 'text' meant?"),
    (b'{"text": "a", "sumary": "b"}', "sumary", "is 'summary' meant?"),
    (
        b'{"text": "a", "helpfulness_numerator": 3}',
        "helpfulness_numerator",
        "is no field of a review; is 'HelpfulnessNumerator' meant?",
    ),
    (
        b'{"text": "a", "HelpfulnessDenominator": 2147483648}',
        "HelpfulnessDenominator",
        "between 0 and 2147483647, and is 2147483648",
    ),
    (b'{"text": "a", "HelpfulnessDenominator": ' + b"9" * 5000 + b"}", "body", ""),
]


@pytest.mark.parametrize(("body", "field", "why"), BAD_REVIEWS)
def test_a_body_that_is_no_review_is_422_and_says_why(
    client: httpx.Client, memory: MemoryApi, body: bytes, field: str, why: str
) -> None:
    before = len(memory.records())
    answer = client.post("/predict", content=body, headers=JSON)

    assert answer.status_code == 422
    assert answer.headers["content-type"] == PROBLEM_JSON
    found = answer.json()
    assert {"type", "title", "status", "detail", "errors"} <= set(found)
    assert found["status"] == 422
    assert found["errors"][0]["field"] == field
    assert why in found["errors"][0]["why"]
    assert why in found["detail"]
    assert len(memory.records()) == before

    through_the_framework = client.post("/predict/", content=body, headers=JSON)
    assert through_the_framework.content == answer.content
    for each in (answer, through_the_framework):
        del each.headers["date"]
    assert through_the_framework.headers == answer.headers


def test_fields_that_resemble_none_of_a_review_are_left_out(client: httpx.Client) -> None:
    plain = client.post("/predict", json={"text": "good", "summary": "text"}).json()
    more = {"Id": 7, "ProductId": "B00", "Score": 5, "Time": 0, "text": "good", "summary": "text"}
    answer = client.post("/predict", json=more)
    assert answer.status_code == 200
    assert answer.json()["explanation"] == plain["explanation"]
    assert client.post("/predict/batch", json=[more, {"text": "summary"}]).status_code == 200


def test_a_batch_names_the_review_that_repeats_a_field(client: httpx.Client) -> None:
    body = b'[{"text": "a"}, {"text": "b", "text": "c"}]'
    (error,) = client.post("/predict/batch", content=body, headers=JSON).json()["errors"]
    assert error == {"field": "text", "why": "stands more than once", "index": 1}


def test_all_wrong_fields_are_named_at_once(client: httpx.Client) -> None:
    body = {"text": 1, "summary": 2, "HelpfulnessNumerator": "3", "HelpfulnessDenominator": 4}
    errors = client.post("/predict", json=body).json()["errors"]
    assert [error["field"] for error in errors] == ["text", "summary", "HelpfulnessNumerator"]


def test_a_batch_names_index_and_field_and_publishes_nothing(client: httpx.Client, memory: MemoryApi) -> None:
    before = len(memory.records())
    body = [{"text": "good"}, {"text": ""}, {"summary": "x"}, 5, {"text": "a", "HelpfulnessNumerator": -1}]
    answer = client.post("/predict/batch", json=body)
    assert answer.status_code == 422
    assert [(error["index"], error["field"]) for error in answer.json()["errors"]] == [
        (1, "text"),
        (2, "text"),
        (3, "body"),
        (4, "HelpfulnessNumerator"),
    ]
    assert len(memory.records()) == before


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"[]", "holds 0 reviews; it takes 1 to 20"),
        (json.dumps([{"text": "a"}] * 21).encode(), "holds 21 reviews; it takes 1 to 20"),
        (b'{"text": "a"}', "has to be a JSON array of reviews, and is an object"),
        (b"[{", "not valid JSON"),
        (b'[{"text": "a", "x": ' + b"[" * 20_000 + b"]" * 20_000 + b"}]", "nested too deeply"),
    ],
)
def test_a_batch_of_the_wrong_shape_is_422(client: httpx.Client, body: bytes, why: str) -> None:
    answer = client.post("/predict/batch", content=body, headers=JSON)
    assert answer.status_code == 422
    assert why in answer.json()["errors"][0]["why"]


def test_a_body_full_of_mistakes_is_answered_shortly(client: httpx.Client) -> None:
    """However many there are: the answer is no way to fill anybody's memory."""
    zeros = json.dumps([0] * 10_000)
    answer = client.post("/predict/batch", content=zeros, headers=JSON)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"field": "body", "why": "holds 10000 reviews; it takes 1 to 20"}]
    misspelt = [f"text{chr(0x100 + number)}" for number in range(2_000)]
    names = json.dumps(dict.fromkeys(misspelt, 0))
    batch = json.dumps([dict.fromkeys(misspelt[:40], 0)] * 20)
    for path, body in (("/predict", names), ("/predict/batch", batch)):
        answer = client.post(path, content=body, headers=JSON)
        assert answer.status_code == 422
        assert 1 < len(answer.json()["errors"]) <= 100
        assert len(answer.content) < 30_000
    assert "and 720 more" in answer.json()["detail"]


def test_the_time_that_names_take_is_bounded() -> None:
    """Those of all reviews in a body are looked at, as the document says of them."""
    names = (f"text{number}a" for number in range(1_000_000))
    near = (f"helpfulnessnumerato_{next(names)}" for _ in range(1_000_000))
    body = json.dumps([{"text": "a", **{next(near): 1 for _ in range(25)}} for _ in range(1000)]).encode()
    before = time.thread_time()
    assert len(REVIEW.decode_many(body, limit=1000)) == 1000
    assert time.thread_time() - before < 3.0, "by comparing letter by letter they took more than that"
    same = json.dumps([{"text": "a", "sumary": ""} for _ in range(1000)]).encode()
    with pytest.raises(InputInvalid, match="and 900 more"):
        REVIEW.decode_many(same, limit=1000)


def test_the_largest_body_goes_and_one_byte_more_is_413(client: httpx.Client) -> None:
    def body(size: int) -> bytes:
        return b'{"text": "' + b"a" * (size - 12) + b'"}'

    assert client.post("/predict", content=body(LIMIT), headers=JSON).status_code == 200
    answer = client.post("/predict", content=body(LIMIT + 1), headers=JSON)
    assert (answer.status_code, answer.headers["content-type"]) == (413, PROBLEM_JSON)
    assert str(LIMIT) in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_10_megabytes_are_413_at_once(client: httpx.Client, path: str) -> None:
    started = time.monotonic()
    assert client.post(path, content=b"x" * 10_000_000, headers=JSON).status_code == 413
    chunks = (b"x" * 100_000 for _ in range(100))
    assert client.post(path, content=chunks, headers=JSON).status_code == 413
    assert time.monotonic() - started < 5


def test_a_body_that_never_ends_is_refused_at_the_limit(client: httpx.Client) -> None:
    host, port = client.base_url.host, client.base_url.port
    with socket.create_connection((host, port or 0), timeout=10) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(2 * LIMIT // 1024):
            connection.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")
        assert connection.recv(1024).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON ;x=y"])
def test_json_is_taken_with_its_parameters(client: httpx.Client, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    assert client.post("/predict", content=b'{"text": "a"}', headers=headers).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, identity", "GZIP", "nonsense"])
def test_an_encoded_body_is_415(client: httpx.Client, encoding: str) -> None:
    headers = JSON | {"Content-Encoding": encoding}
    for path in ("/predict", "/predict/batch"):
        answer = client.post(path, content=gzip.compress(b'{"text": "a"}'), headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (415, PROBLEM_JSON)
        assert encoding.lower() in answer.json()["detail"]
    for same in ("identity", "Identity"):
        answer = client.post("/predict", content=b'{"text": "a"}', headers=JSON | {"Content-Encoding": same})
        assert answer.status_code == 200


def test_a_byte_order_mark_is_taken_as_files_take_it(client: httpx.Client) -> None:
    mark = b"\xef\xbb\xbf"
    key = JSON | {"Idempotency-Key": "marked"}
    body = b'{"text": "good", "HelpfulnessNumerator": 2}'
    with_it, without = (
        client.post("/predict", content=start + body, headers=key).json()["id"] for start in (mark, b"")
    )
    assert with_it == without
    assert client.post("/predict/batch", content=mark + b"[" + body + b"]", headers=JSON).status_code == 200


def test_two_idempotency_keys_are_422(client: httpx.Client) -> None:
    keys = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    answer = client.post("/predict", json={"text": "a"}, headers=keys)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"field": "Idempotency-Key", "why": "stands more than once"}]


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_an_idempotency_key_of_the_wrong_length_is_422(client: httpx.Client, key: str) -> None:
    answer = client.post("/predict", json={"text": "a"}, headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM_JSON)
    assert answer.json()["errors"][0]["field"] == "Idempotency-Key"


def test_a_key_may_hold_any_byte(client: httpx.Client) -> None:
    answer = client.post("/predict", json={"text": "a"}, headers={b"Idempotency-Key": b"\xff\x80 k"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/predict", 405), ("DELETE", "/health", 405), ("POST", "/docs", 405)],
)
def test_other_routes_and_methods_are_problems_too(client: httpx.Client, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM_JSON)
    assert answer.json()["status"] == status


# Whatever is sent.

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_fields = st.sampled_from(["text", "summary", "HelpfulnessNumerator", "HelpfulnessDenominator", "other"])
_reviews = st.dictionaries(_fields, _json | st.text(st.characters(), max_size=30), max_size=5)
_bodies = (
    st.binary(max_size=200)
    | _json.map(lambda value: json.dumps(value).encode())
    | _reviews.map(lambda value: json.dumps(value).encode())
    | st.lists(_reviews, max_size=4).map(lambda value: json.dumps(value).encode())
    | _reviews.map(lambda value: json.dumps(value).encode()[:-2])
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=_bodies, path=st.sampled_from(["/predict", "/predict/batch"]))
def test_no_body_is_a_500_and_a_200_was_published(
    client: httpx.Client, memory: MemoryApi, body: bytes, path: str
) -> None:
    answer = client.post(path, content=body, headers=JSON)
    assert answer.status_code in (200, 422)
    if answer.status_code == 422:
        assert answer.json()["errors"]
        return
    found: Any = answer.json()
    ids = {item["id"] for item in (found if isinstance(found, list) else [found])}
    assert ids <= {(record.key or b"").decode() for record in memory.records()}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=300))
def test_any_text_that_can_be_stored_is_predicted(client: httpx.Client, text: str) -> None:
    answer = client.post("/predict", content=msgspec.json.encode({"text": text}), headers=JSON)
    assert answer.status_code == (200 if text.strip() else 422)
