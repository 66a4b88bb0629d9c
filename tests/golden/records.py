"""Records as bytes, of every kind that a consumer may meet. They are made without bdlab's own code."""

from __future__ import annotations

import json
from typing import Any

from tests.fix_golden import Headers, printable

MOMENT = "2026-01-31T12:00:00.123456Z"
FIELDS: dict[str, Any] = {
    "id": "00000000-0000-8000-8000-000000000000",
    "summary": "Product review",
    "text": "This product is terrible!",
    "helpfulness_numerator": 1,
    "helpfulness_denominator": 2,
    "prediction": 1.37,
    "sentiment": "negative",
    "confidence": 0.97,
    "explanation": [{"term": "terrible", "weight": -1.9}],
    "model": "golden@1",
    "created_at": MOMENT,
    "timestamp": MOMENT,
    "schema_version": 1,
}
SERVE: Headers = [
    ("ce_id", b"id"), ("ce_type", b"io.bdlab.prediction.v1"), ("ce_source", b"/bdlab/serve"),
    ("ce_specversion", b"1.0"), ("content-type", b"application/json"), ("ce_time", MOMENT.encode()),
    ("traceparent", b"00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"),
]  # fmt: skip
KINDS: tuple[Any, ...] = (None, True, 5, 1.5, "a", [], {}, [5], {"a": 1})

Record = tuple[str, bytes | None, bytes | None, Headers]


class Records:
    """Records of the same fields, but for what is named; each has an id of its own, by its number."""

    def __init__(self) -> None:
        self.all: list[Record] = []

    def add(self, name: str, key: bytes | None, value: bytes | None, headers: Headers = SERVE) -> None:
        self.all.append((name, key, value, headers))

    def id(self) -> str:
        return f"00000000-0000-8000-8000-{len(self.all):012}"

    def value(self, without: str = "", **fields: Any) -> bytes:
        found = FIELDS | {"id": self.id()} | fields
        found.pop(without, None)
        return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")

    def fields(self, name: str, headers: Headers = SERVE, /, **fields: Any) -> None:
        """Add a record with other fields; `id` is that of the value alone."""
        self.add(name, self.id().encode(), self.value(**fields), headers)

    def raw(self, name: str, old: bytes, new: bytes) -> None:
        """Add a record with other bytes."""
        value = self.value()
        assert old in value
        self.add(name, self.id().encode(), value.replace(old, new))


def judged() -> list[Record]:
    """Records of which each becomes a row, a duplicate or a dead letter."""
    of = Records()
    of.fields("as bdlab writes it")
    # Every field as each kind of JSON, and missing.
    for field in FIELDS:
        for kind in KINDS:
            if (field, kind) != ("schema_version", 5):  # a later version's, which is held
                of.fields(f"{field} is {json.dumps(kind)}", **{field: kind})
        of.add(f"{field} is missing", of.id().encode(), of.value(without=field))
    others: dict[str, list[Any]] = {
        "text": ["", " ", "\n\t\r\\ \" \x01 \x7f ☕ 😀 ' \\N \\.", "a\x00b", "refused"],
        "summary": ["", "\\", "x" * 3000, "a\x00b"],
        "helpfulness_numerator": [0, 2**31 - 1, 2**31, -1, 10**30],
        "helpfulness_denominator": [0, 2**31 - 1, 2**31, -1, 10**30],
        "prediction": [1, 5, 1.0, 0.99, 5.01, 3.0000000000000004, 6],
        "sentiment": ["positive", "neutral", "Positive"],
        "confidence": [0, 1, 0.5000000000000001, -0.1, 1.1],
        "explanation": [
            [], [["a", 1]], [{"term": "a"}], [{"weight": 1}], [{"term": "a", "weight": 1, "of": 2}],
            [{"term": 'a"\\b', "weight": 1e-7}, {"term": "", "weight": -0.0}], [{"term": "a", "weight": "1"}],
            [{"term": "a\x00b", "weight": 1}], [[[[["a"]]]]], [{"term": "a", "weight": 1e300}],
        ],
        "model": ["", "m" * 200, "m" * 201, "a\x00b"],
        "schema_version": [0, -1, 1.0, {"major": 1}],
        "created_at": [
            "2026-01-31T12:00:00Z", "2026-01-31T12:00:00.1Z", "2026-01-31T12:00:00.123456789Z",
            "2026-01-31T14:00:00+02:00", "2026-01-31 12:00:00Z", "2026-01-31t12:00:00z",
            "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00+23:59",
            "9999-12-31T23:59:59-01:00", "10000-01-01T00:00:00Z", "0000-01-01T00:00:00Z",
            "2026-01-32T00:00:00Z",
            "2026-02-29T00:00:00Z", "2026-01-31T24:00:00Z", "2026-01-31T12:00:60Z", "2026-01-31T12:00:00",
            "2026-01-31", "",
        ],
        "timestamp": ["2026-01-31T12:00:00", "9999-12-31T23:59:59-01:00", "2026-01-31T12:00:00+02:00"],
        "id": ["not one", "", "00000000-0000-8000-8000-00000000000g", "FFFFFFFF-0000-8000-8000-000000000001"],
        "unknown": [1],
    }  # fmt: skip
    for field, values in others.items():
        for value in values:
            of.fields(f"{field} is {json.dumps(value)[:80]}", **{field: value})
    # Bytes that json.dumps does not write.
    for name, old, new in (
        ("with spaces", b",", b" , "),
        ("escaped letters", b"terrible!", b"\\u0074errible \\u00e4\\/ \\ud83d\\ude00"),
        ("a number with an exponent", b"1.37", b"0.137e1"),
        ("more digits than a float has", b"1.37", b"1.3700000000000000000001"),
        ("NaN", b"1.37", b"NaN"),
        ("Infinity", b"1.37", b"Infinity"),
        ("a weight beyond a float", b"-1.9", b"1e999"),
        ("a count with a fraction of zero", b'numerator":1', b'numerator":1.0'),
        ("a count with a leading zero", b'numerator":1', b'numerator":01'),
        ("half of a surrogate pair", b"terrible!", b"\\ud83d"),
        ("a surrogate in UTF-8", b"terrible!", b"\xed\xa0\xbd"),
        ("not UTF-8", b"terrible!", b"\xff"),
        ("NUL as it is", b"terrible!", b"\x00"),
        ("a comma too many", b"}]", b"}],"),
        ("a field twice", b'"text":', b'"text":"another","text":'),
        ("a field twice with one value", b'"sentiment":"negative"', b'"sentiment":"negative","sentiment":"negative"'),
        ("a term twice", b'"weight":-1.9', b'"weight":-1.9,"term":"b"'),
        ("a name twice by an escape", b'"text":', b'"\\u0074ext":"another","text":'),
        ("deep", b'[{"term":"terrible","weight":-1.9}]', b"[" * 5000 + b"]" * 5000),
    ):
        of.raw(name, old, new)
    key = of.id().encode()
    moved = json.loads(of.value())
    of.add("fields in another order", key, json.dumps(dict(sorted(moved.items()))).encode())
    for name, value in (
        ("empty", b""), ("blank", b" "), ("null", b"null"), ("a number", b"5"), ("an array", b"[]"),
        ("a string", b'"a"'), ("random bytes", bytes(range(128, 160))), ("no fields", b"{}"),
        ("deep arrays", b"[" * 50_000 + b"]" * 50_000), ("UTF-16", json.dumps(FIELDS).encode("utf-16-le")),
        ("cut", of.value()[:-20]), ("two", of.value() * 2),
        ("a byte order mark", b"\xef\xbb\xbf" + of.value()),
    ):  # fmt: skip
        of.add(name, of.id().encode(), value)
    of.add("a tombstone", of.id().encode(), None)
    of.add("neither key nor value", None, None)
    of.add("no key", None, of.value())
    for name, other in (("an empty key", b""), ("another key", b"another"), ("a key that is no text", b"\xff\x00")):
        of.add(name, other, of.value())
    of.add("the key of another", of.all[0][1], of.value())
    for name, own, written in (
        ("an id in upper case", b"ABCDEF00-0000-8000-8000-000000000001", "ABCDEF00-0000-8000-8000-000000000001"),
        ("the same, its key not", b"abcdef00-0000-8000-8000-000000000001", "ABCDEF00-0000-8000-8000-000000000001"),
        ("an id without hyphens", b"abcdef00000080008000000000000002", "abcdef00000080008000000000000002"),
    ):
        of.add(name, own, of.value(id=written))
    _, key_of_first, first, _ = of.all[0]
    of.add("a duplicate", key_of_first, first)
    of.add("a duplicate with another text", key_of_first, of.value(id=FIELDS["id"], text="another"))
    # Headers.
    of.fields("no headers", [])
    for name, value in (
        ("ce_source", b"/bdlab/predict"), ("ce_source", b"/bdlab/drill"), ("ce_source", b"demo"),
        ("ce_source", b"urn:x:Y"), ("ce_source", b""), ("ce_source", None), ("ce_source", b"\xff"),
        ("ce_source", b"/" * 200 + b"a"), ("ce_source", b"/" + b"a" * 41), ("ce_source", b"/bdlab/serve/"),
        ("bdlab-contract", b"1"), ("bdlab-contract", b"01"), ("bdlab-contract", b"0"),
        ("bdlab-contract", b"x"), ("bdlab-contract", b""), ("bdlab-contract", b"-1"), ("bdlab-contract",
        b"1234567890"),
        ("bdlab-contract", None), ("bdlab-replay-count", b"2"), ("other", b"\xff\x00"),
    ):  # fmt: skip
        of.fields(f"header {name}: {printable(value)}", [(name, value)])
    of.fields("the source twice", [("ce_source", b"/bdlab/predict"), ("ce_source", b"/bdlab/demo")])
    of.add(
        "a dead letter with headers",
        b"k",
        b"x",
        [*SERVE, ("bdlab-replay-count", b"2"), ("none", None), ("bytes", b"\xff\x00")],
    )
    of.add("a dead letter that was replayed too often to count", b"k", b"x", [("bdlab-replay-count", b"1234567")])
    return of.all


def held() -> list[Record]:
    """Records that no dead letter is made of: a later version can read them. Each holds its partition."""
    of = Records()
    of.fields("a newer contract", [*SERVE, ("bdlab-contract", b"2")])
    of.fields("a newer schema", schema_version=2)
    of.fields("a newer schema with other fields", schema_version=2, text=5, unknown=1)
    return of.all
