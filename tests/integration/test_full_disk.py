"""A log that cannot be written, as on a full disk, fails no request and ends no daemon."""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx

from tests import tls
from tests.fix_pipeline import BDLAB, ENDED_WITHIN_S, Pipeline

FULL = Path("/dev/full")


def test_the_api_answers_and_the_consumer_stores(pipeline: Pipeline) -> None:
    with FULL.open("w") as full:
        serve = subprocess.Popen(
            [*BDLAB, "serve", "--port", "0"],
            env=pipeline.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
        )
        try:
            assert serve.stdout is not None
            with httpx.Client(
                base_url=serve.stdout.readline().strip(), timeout=30, trust_env=False, verify=tls.VERIFY
            ) as client:
                for number in range(50):
                    answer = client.post("/predict", json={"text": f"Good, the {number}th time."})
                    assert answer.status_code == 200, answer.text
        finally:
            serve.terminate()
            code = serve.wait(ENDED_WITHIN_S)
            if serve.stdout:
                serve.stdout.close()
        assert code == 0
        consume = subprocess.run(
            [*BDLAB, "consume", "--until-idle"],
            env=pipeline.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=full,
            timeout=ENDED_WITHIN_S,
            check=False,
        )
    assert consume.returncode == 0
    done = pipeline.run("verify")
    assert done.returncode == 0, done.stdout
