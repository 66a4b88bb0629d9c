"""The API's answers, its OpenAPI document, and what it and `predict` write to the topic."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fix_golden import Golden, Place, answered, normalised, printable
from tests.fix_pipeline import Pipeline

pytestmark = [pytest.mark.once, pytest.mark.plaintext("the same with TLS")]

GOOD = b'{"text":"Great taste"}'
TEXT = '{"text":"a",'
MOST = 128
BODY_BYTES = 200_000
JSON_TYPE = ("Content-Type", "application/json")
TRACE = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
_POSITION = re.compile(r'"partition":\d+,"offset":\d+')
_TRACE = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01")

#: JSON of values of each kind, for each field in turn.
KINDS = (
    "null", "true", "false", "5", "0", "-0", "1.0", "1.5", "1e3", "-1", "2147483647", "2147483648", "1e400",
    "99999999999999999999", "-99999999999999999999", "1" + "0" * 30, "-1" + "0" * 40, "1E20", '"5"', '""',
    '"a"', '" "', '"\\u00a0\\u2003"', '"a\\u0000b"', '"\\ud83d"', '"a\\ude00b"', '"\\ud83d\\ude00"',
    "[]", '["a"]', "{}", '{"text":"a"}', "NaN", "-Infinity",
)  # fmt: skip
FIELDS = ("summary", "HelpfulnessNumerator", "HelpfulnessDenominator")

#: Objects, each sent alone and as the second of a list.
OBJECTS: tuple[str, ...] = (
    "{}", '{"summary":"a"}', '{"unknown":1}',
    *(f'{{"text":{kind}}}' for kind in KINDS),
    *(f'{TEXT}"{field}":{kind}}}' for field in FIELDS for kind in KINDS),
    # Names that are nearly those of fields, and names that are not.
    *(f'{TEXT}"{name}":"b"}}' for name in (
        "Text", "TEXT", "txt", "txet", "texts", "test", "next", " text", "text ", "Summary", "sumary",
        "sumamry", "summery", "summaries", "helpfulnessNumerator", "helpfulness_numerator",
        "HelpfulnesNumerator", "HelpfullnessDenominator", "Helpfulness_Denominator",
        "helpfulnessdenominators", "Numerator", "title", "id", "prediction", "")),
    '{"txet":"a"}', '{"Text":"a","Summary":"b"}', '{"\\u0074ext":"a"}',
    # Names that stand more than once.
    '{"text":"a","text":"b"}', '{"text":"a","text":"a"}', f'{TEXT}"summary":"a","summary":"b"}}',
    f'{TEXT}"HelpfulnessNumerator":1,"HelpfulnessNumerator":2}}', f'{TEXT}"unknown":1,"unknown":2}}',
    f'{TEXT}"unknown":{{"a":1,"a":2}}}}', '{"text":"a","\\u0074ext":"b"}', '{"text":"\\"text\\" \\"text\\""}',
    '{"text":1,"text":"a","summary":2,"summary":3}',
    # Other fields.
    f'{TEXT}"unknown":"\\ud800"}}', f'{TEXT}"unknown":"\\u0000"}}', f'{TEXT}"\\ud800":1}}',
    f'{TEXT}"unknown":NaN}}', f'{TEXT}"unknown":1e999}}', f'{TEXT}"unknown":{{"deep":[[[]]]}}}}',
    f'{TEXT}"unknown":{"[" * 50_000}{"]" * 50_000}}}',
    # Several at once.
    '{"txet":1,"summary":5,"HelpfulnessNumerator":-1,"HelpfulnessDenominator":"x"}',
    '{"text":" ","summary":"\\u0000","sumary":1,"HelpfulnessNumerator":null,"HelpfulnessDenominator":1.5}',
    ' \\n{"text":"a"}'.replace("\\n", "\n"),
)  # fmt: skip

#: Bodies that are no JSON object, or not JSON.
BODIES: tuple[bytes, ...] = (
    b"", b" \n\t ", codecs.BOM_UTF8, codecs.BOM_UTF8 + GOOD, GOOD.decode().encode("utf-16-le"), b"null", b"5",
    b"1.5", b"true", b'"text"', b"[]", b"[" + GOOD + b"]", b"not JSON", b"{", b'{"text"', b'{"text":',
    b'{"text":"a"',
    b'{"text":"a"} x', b'{"text":"a"}{"text":"b"}', b"{'text':'a'}", b'{"text":"a\nb"}', b'{"text":"a\x00b"}',
    b'{"text":"\\x"}', b'{"text":"\\u12"}', b'{\n"text":\n"a" x}', b'{"text":"\xff"}',
    b'{"text":"\xed\xa0\xbd"}',
    b'{"text":"a\xc3"}', b'{"text":"\xc3\xa4"}', b"[" * 90_000, b"[" * 90_000 + b"]" * 90_000,
    b'{"a":' * 30_000, b'{"text":"a","HelpfulnessNumerator":' + b"1" * 5000 + b"}",
    b'{"text":"' + b"good coffee " * 9000 + b'"}', b'{"text":5,"summary":"' + b"a" * 90_000 + b'\\u0000"}',
    b'{"text":"a","HelpfulnessNumerator":01}', b'{"text":"a","HelpfulnessNumerator":+1}', b"\x00",
)  # fmt: skip

LISTS: tuple[bytes, ...] = (
    *BODIES, b"{}", GOOD, b"[5]", b"[null,true]", b"[[]]", b"[[" + GOOD + b"]]",
    b"[" + b",".join([GOOD] * (MOST + 1)) + b"]", b"[" + b",".join([b"{}"] * (MOST + 1)) + b"]",
    b"[" + b",".join([b"{}"] * MOST) + b"]",
    b"[" + b",".join([b"{}", GOOD, b'{"text":5,"summary":6}', b"7", b'{"text":"a","txet":1}']) + b"]",
    b'[{"text":"a"},{"text":"b","text":"c"}]', b'[{"text":"a","text":"b"},{"summary":"c"}]',
)  # fmt: skip

#: Requests with headers of their own: method, path, headers, body.
REQUESTS: tuple[tuple[str, str, list[tuple[str, str]], bytes], ...] = (
    ("POST", "/predict", [], GOOD),
    ("POST", "/predict", [("Content-Type", "text/plain")], GOOD),
    ("POST", "/predict", [("Content-Type", "application/json; charset=utf-8")], GOOD),
    ("POST", "/predict", [JSON_TYPE, ("Content-Type", "text/html")], GOOD),
    ("POST", "/predict", [JSON_TYPE, ("Content-Encoding", "gzip")], GOOD),
    ("POST", "/predict", [JSON_TYPE, ("Idempotency-Key", "")], GOOD),
    ("POST", "/predict", [JSON_TYPE, ("Idempotency-Key", "k" * 256)], GOOD),
    ("POST", "/predict", [JSON_TYPE, ("Idempotency-Key", "a"), ("Idempotency-Key", "b")], GOOD),
    ("POST", "/predict", [JSON_TYPE, ("Bdlab-Source", "user")], GOOD),
    ("POST", "/predict", [JSON_TYPE, ("Bdlab-Source", "demo"), ("Bdlab-Source", "demo")], GOOD),
    ("POST", "/predict", [JSON_TYPE, ("traceparent", "not one")], GOOD),
    ("POST", "/predict?unknown=1", [JSON_TYPE], GOOD),
    ("POST", "/predict", [JSON_TYPE], b'{"text":"' + b"a" * BODY_BYTES + b'"}'),
    ("POST", "/predict/batch", [JSON_TYPE], b"[" + b" " * BODY_BYTES + b"]"),
    ("POST", "/predict/batch", [JSON_TYPE, ("Idempotency-Key", "k" * 256)], b"[" + GOOD + b"]"),
    ("GET", "/predict", [], b""),
    ("PUT", "/predict/batch", [JSON_TYPE], b"[]"),
    ("GET", "/absent", [], b""),
    ("GET", "/health/live", [], b""),
    ("GET", "/predictions", [], b""),
    ("GET", "/predictions?limit=0", [], b""),
    ("GET", "/predictions?limit=x&source=nobody&unknown=1", [], b""),
    ("GET", "/predictions/no-id", [], b""),
    ("GET", "/predictions/00000000-0000-8000-8000-000000000000", [], b""),
)

#: Keys and bodies whose ids are for ever.
KEPT: tuple[tuple[str, str], ...] = (
    *((key, GOOD.decode()) for key in (
        "a", "A", "a#0", "golden:1", "k" * 255, "inner  blanks", "caf\xe9", '"', "\xff")),
    *(("a", body) for body in (
        '{"text":"a"}', '{"text":"a","summary":""}', '{"summary":"","text":"a"}', f'{TEXT}"unknown":1}}',
        f'{TEXT}"HelpfulnessNumerator":1,"HelpfulnessDenominator":1}}', f'{TEXT}"HelpfulnessNumerator":1.0}}',
        f'{TEXT}"HelpfulnessNumerator":2}}', f'{TEXT}"HelpfulnessDenominator":2}}', f'{TEXT}"summary":"b"}}',
        '{"text":"a "}', '{"text":"\\u0061"}', '{"text":"\xe4\u4e2d\U0001f600"}',
        '{"text":"\\u00e4\\u4e2d\\ud83d\\ude00"}',
        '{"text":"\\t\\n\\r\\b\\f\\u001f\\u007f\\u2028 \\" \\\\ / \\/ <&>"}',
        '{"text":"This product is terrible!","summary":"Product review"}',
        '{"text":"qwrt zxcv"}',
        '{"text":"Terrible, awful, disgusting waste of money.","summary":"love it, best"}',
    )),
)  # fmt: skip


def asked(client: httpx.Client, path: str, body: bytes, **headers: str) -> httpx.Response:
    return client.post(path, content=body, headers=dict([JSON_TYPE]) | headers)


def bodies(client: httpx.Client) -> Iterator[str]:
    for text in OBJECTS:
        body = text.encode()
        for path, sent in (("/predict", body), ("/predict/batch", b"[" + GOOD + b"," + body + b"]")):
            yield answered(path, printable(body), asked(client, path, sent))
    for path, listed in (("/predict", BODIES), ("/predict/batch", LISTS)):
        for body in listed:
            yield answered(path, printable(body), asked(client, path, body))


def others(client: httpx.Client) -> Iterator[str]:
    for method, path, headers, body in REQUESTS:
        request = client.build_request(method, path, headers=headers, content=body)
        sent = "; ".join(f"{name}: {value}" for name, value in headers)
        yield answered(f"{method} {path}", f"{sent} {printable(body)}".strip(), client.send(request))


def kept(client: httpx.Client) -> Iterator[str]:
    for key, body in KEPT:
        answer = asked(client, "/predict", body.encode(), **{"Idempotency-Key": key.encode("latin-1")})  # type: ignore[arg-type]
        yield answered(f"key {key!r}", body, answer)
    listed = b"[" + b",".join([GOOD, b'{"text":"b","summary":"c"}', GOOD]) + b"]"
    for key in ("a", "b"):
        answer = asked(client, "/predict/batch", listed, **{"Idempotency-Key": key})
        yield answered(f"key {key!r}", printable(listed), answer)


def published(client: httpx.Client, place: Place, folder: Path) -> Iterator[str]:
    """Have each way of publishing write to the topic, and return what is printed."""
    head = {"Idempotency-Key": "topic", "traceparent": TRACE}
    for helpful, more in enumerate(({}, {"Bdlab-Source": "demo"}, {"Bdlab-Source": "drill"})):
        review = {"text": 'Good \t "coffee" \\ ☕, will buy again', "summary": "caf\xe9"}
        body = json.dumps(review | {"HelpfulnessNumerator": helpful}).encode()
        assert asked(client, "/predict", body, **head | more).status_code == 200
    assert asked(client, "/predict/batch", b"[" + GOOD + b"," + GOOD + b"]", **head).status_code == 200
    file = folder / "reviews.csv"
    file.write_text(
        "Id,HelpfulnessNumerator,HelpfulnessDenominator,Score,Summary,Text\n"
        '1,2,3,5,Yummy,"Great taste, will ""buy"" again"\n2,,,1,,Terrible waste\n'
    )
    for arguments in (
        ("Great taste", "--run-id", "one"),
        ("Great taste", "--run-id", "one", "--summary", "Yummy", "--source", "demo", "--json"),
        ("--file", str(file), "--run-id", "run", "--json"),
        ("--file", str(file), "--run-id", "run2"),
    ):
        # The producer chooses the partition by chance.
        yield _POSITION.sub('"partition":<n>,"offset":<n>', place.done("predict", *arguments))
    # With a random id and trace.
    assert asked(client, "/predict", GOOD).status_code == 200


def on_topic(place: Place) -> Iterator[str]:
    """Return each record that `published` has written: 6 by the API, 6 by `predict`."""
    for message in place.read(12):
        key = normalised(printable(message.key()))
        head: list[str] = []
        for name, value in message.headers() or ():
            assert isinstance(value, bytes), name
            random = name == "traceparent" and value != TRACE.encode() and _TRACE.fullmatch(value)
            shown = "<µs>" if name == "bdlab-received-us" and value.isdigit() else printable(value)
            head.append(f"  {name}: {'<trace>' if random else shown}")
        yield "\n".join([f"== {key}", *head, printable(message.value(), 5000)]) + "\n\n"


def test_http_and_topic(pipeline: Pipeline, golden: Golden, tmp_path: Path) -> None:
    place = Place(pipeline)
    place.done("migrate")
    limits = {"BDLAB_HTTP_MAX_BATCH": str(MOST), "BDLAB_HTTP_MAX_BODY_BYTES": str(BODY_BYTES)}
    with place.serve(**limits) as (_, client):
        said = list(published(client, place, tmp_path))
        records = sorted(on_topic(place))
        first = asked(client, "/predict", b'{"text":"This product is terrible!","summary":"Product review"}')
        names = sorted(set(first.headers) - {"date", "content-length", "content-type"})
        blocks = [answered("the reference request", "POST /predict", first, names)]
        blocks += [*others(client), *bodies(client), *kept(client)]
        document = json.dumps(client.get("/openapi.json").json(), indent=1, ensure_ascii=False) + "\n"
    golden.holds("topic.txt", normalised("".join([*said, *records]), place.names))
    golden.holds("http.txt", normalised("".join(blocks), place.names))
    golden.holds("openapi.json", normalised(document))
