"""What `bdlab predict --no-publish` prints, writes and refuses, without a server."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import forked
from tests.fix_golden import Golden, ended, normalised

COLUMNS = "Id,ProductId,HelpfulnessNumerator,HelpfulnessDenominator,Score,Time,Summary,Text\n"

#: Files of reviews, good ones first.
FILES: dict[str, bytes] = {
    "amazon.csv": (
        COLUMNS + '1,B1,3,4,5,1700000001,"Yummy, ""really""","Great taste, I love it and will buy it."\n'
        "2,B1,0,1,1,1700000002,Awful,Terrible waste of money; horrible smell.\n"
        '3,B2,,,3,1700000003,=SUM(A1),"+1 two lines:\nthe second one"\n'
        "4,B2, 2 ,2147483647,3,1700000004,,qwrt zxcv\n"
        '5,B3,1,1,5,1700000005,☕ <br />&#34;caf\xe9&#34;,"-best coffee ever, tab\there, 中文 😀"\n'
    ).encode(),
    "semicolon.csv": b'summary ; TEXT;helpfulness_numerator\nA;"Great; taste";2\n;Terrible;\n',
    "good.jsonl": (
        b'{"text":"Great taste","summary":"Yummy","HelpfulnessNumerator":3,"HelpfulnessDenominator":4}\n\n'
        b'{"Text":"Terrible waste","Summary":"Bad","helpfulness_numerator":1.0,"Score":1}\n'
        b'{"text":"\\u00e4 \\"quoted\\" \\ud83d\\ude00\\n","unknown":[1]}\n'
    ),
    "many.csv": b"Text\n" + b"".join(b"Good review number %d\n" % n for n in range(53)),
    "counts.csv": (
        "Text,HelpfulnessNumerator,helpfulness_denominator\n"
        + "".join(
            f'"a","{n}","{d}"\n'
            for n, d in (
                ("1", "2"), ("-1", "1"), ("1.0", "1.5"), ("x", "y"), ("2147483648", "99999999999"),
                ("+1", "1_0"), ("٣", "0x1"), ("1e3", "n" * 50),
            )
        )
    ).encode(),
    "texts.csv": (
        'Summary,Text\nA,""\nB,"   "\nC,a\x00b\nD\x00,a\nE,a,b\nF\n\nG,good\n' + '"H\x00",""\n'
    ).encode(),
    "bad.jsonl": b"\n".join((
        b'{"text":"good"}', b"{}", b'{"summary":"a"}', b'{"text":5,"summary":null}', b'{"text":" "}',
        b'{"text":"a","HelpfulnessNumerator":"5"}', b'{"text":"a","helpfulness_numerator":-1}',
        b'{"text":"a","HelpfulnessDenominator":1.5}', b'{"text":"a","HelpfulnessDenominator":true}',
        b'{"text":"a","HelpfulnessNumerator":2147483648}', b'{"txet":"a"}', b'{"text":"a","sumary":"b"}',
        b'{"text":"a","Text":"b"}', b'{"text":"a","text":"b"}', b'{"text":"a","summary":"b","SUMMARY":"c"}',
        b'{"text":"a","helpfulness_numerator":1,"HelpfulnessNumerator":1}', b'{"text":"a\\u0000"}',
        b'{"text":"\\ud83d"}', b'{"text":"\xff"}', b"[]", b'"text"', b"not JSON",
    )),
    "bad2.jsonl": b"\n".join((
        b"null", b'{"text":"a"', b'{"text":"a"} x', b'{"text":NaN}', b'{"text":"a","unknown":1e999}',
        b"[" * 60_000, b'{"text":"' + b"a" * 3000 + b'"}',
    )),
    "wide.csv": b'Text\n"' + b"a" * 3000 + b'"\n',
    "no-text.csv": b"Id,Summary\n1,a\n",
    "twice.csv": b"Text,text\na,b\n",
    "quote.csv": b'Text\n"a" b\n"open\n',
    "latin1.csv": b"Text\ncaf\xe9\n",
    "empty.csv": b"",
    "header.csv": b"Text\n",
    "array.txt": b'[{"text":"a"}]',
    "packed.csv": b"\x1f\x8b\x08\x00",
    "utf16.csv": "Text\na\n".encode("utf-16-le"),
}  # fmt: skip

#: The arguments of each run, without those that all have; `> NAME` has a file shown that it writes.
RUNS: tuple[tuple[str, ...], ...] = (
    ("Great taste, will buy again.", "--summary", "Yummy"),
    ("Great taste, will buy again.", "--summary", "Yummy", "--json"),
    ("qwrt zxcv",),
    ("qwrt zxcv", "--json"),
    ("Terrible, awful.", "--summary", "love it, best, perfect", "--output", "one.csv"),
    ("  ",),
    ("--summary", "a", "--file", "amazon.csv"),
    (),
    ("--file", "amazon.csv"),
    ("--file", "amazon.csv", "--json"),
    ("--file", "amazon.csv", "--output", "out.csv"),
    ("--file", "amazon.csv", "--output", "raw.csv", "--raw-cells"),
    ("--file", "amazon.csv", "--output", "out.jsonl"),
    ("--file", "amazon.csv", "--output", "out.txt"),
    ("--file", "semicolon.csv", "--delimiter", ";", "--json"),
    ("--file", "semicolon.csv"),
    ("--file", "good.jsonl", "--output", "good.csv"),
    ("--file", "good.jsonl", "--json"),
    ("--file", "many.csv"),
    ("--file", "counts.csv"),
    ("--file", "counts.csv", "--skip-invalid", "--json"),
    ("--file", "texts.csv", "--skip-invalid", "--json"),
    ("--file", "bad.jsonl"),
    ("--file", "bad2.jsonl"),
    *(
        ("--file", name)
        for name in (
            "wide.csv", "no-text.csv", "twice.csv", "quote.csv", "latin1.csv", "empty.csv", "header.csv",
            "array.txt", "packed.csv", "utf16.csv", "absent.csv",
        )
    ),
)  # fmt: skip

Predict = Callable[..., str]


@pytest.fixture
def predict(tmp_path: Path) -> Predict:
    """Runs the command in a folder with FILES; returns its block of a golden file."""
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BDLAB_", "VAULT_"))}
    fixed = {"NO_COLOR": "1", "COLUMNS": "100", "BDLAB_HTTP_MAX_BODY_BYTES": "2000"}

    def run(*arguments: str, stdin: bytes = b"", **more: str) -> str:
        done = forked.run(("predict", "--no-publish", *arguments), kept | fixed | more, stdin=stdin, folder=tmp_path)
        written = {}
        if "--output" in arguments:
            name = arguments[arguments.index("--output") + 1]
            if name.endswith((".csv", ".jsonl")):
                written[name] = (tmp_path / name).read_bytes().decode().replace("\r", "\\r")
        return normalised(ended(" ".join((*map("=".join, more.items()), *arguments)), done, written))

    return run


def test_predict(predict: Predict, golden: Golden) -> None:
    blocks = [predict(*arguments) for arguments in RUNS]
    blocks.append(predict("--file", "amazon.csv", COLUMNS="60"))
    blocks += [
        f"-- standard input {content[:20]!r}\n{predict('-', '--json', stdin=content)}"
        for content in ("Great\n\ncaf\xe9 \r\n".encode(), b"", b" \n", b"caf\xe9", b"a" * 2001)
    ]
    blocks.append(predict("--file", "-", "--json", stdin=FILES["good.jsonl"]))
    blocks.append(predict("--file", "-", stdin=FILES["counts.csv"]))
    golden.holds("predict.txt", "".join(blocks))


def test_parquet(predict: Predict, golden: Golden, tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    blocks = [predict("--file", "amazon.csv", "--output", "out.parquet")]
    written = tmp_path / "out.parquet"
    blocks += [f"{field.name}: {field.type}\n" for field in pq.read_schema(written)]
    blocks += [f"{json.dumps(row, ensure_ascii=False)}\n" for row in pq.read_table(written).to_pylist()]
    given = {
        "TEXT": ["Great taste", "", None, "Terrible"],
        "HelpfulnessNumerator": [1, None, -1, 2],
        "score": [1, 2, 3, 4],
    }
    pq.write_table(pa.table(given), tmp_path / "in.parquet")
    blocks += [predict("--file", "in.parquet"), predict("--file", "in.parquet", "--skip-invalid", "--json")]
    golden.holds("parquet.txt", normalised("".join(blocks)))
