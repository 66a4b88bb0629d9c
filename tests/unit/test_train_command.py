"""`bdlab train` as a person calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from bdlab.model import load_scorer
from tests.fix_model import SMALL_REVIEWS
from tests.json_results import as_documented


def bdlab(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "bdlab_cli", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "COLUMNS": "120", **environment},
    )


def test_trains_shows_the_figures_and_says_how_to_use_the_model(tmp_path: Path) -> None:
    done = bdlab("train", str(SMALL_REVIEWS), "--output", "model", "--folds", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for shown in ("72 reviews, 12 products, 3 folds", "stars: MSE", "sentiment: AUC", "negative: F1"):
        assert shown in done.stdout
    card = tmp_path / "model" / "reviews.card.json"
    assert f"BDLAB_MODEL_PATH={card} for `serve` and `predict`" in done.stderr
    assert "bdlab up --model model/reviews.card.json" in done.stderr
    assert load_scorer(str(card)).name == "reviews@1.1.0"


def test_json_is_the_card_and_nothing_else(tmp_path: Path) -> None:
    named = ("--name", "mine", "--model-version", "2")
    twins = {"BDLAB_TRAIN_OUTPUT": "model", "BDLAB_TRAIN_FOLDS": "2"}
    done = bdlab("train", str(SMALL_REVIEWS), "--json", *named, cwd=tmp_path, **twins)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert as_documented("train", done.stdout) == json.loads((tmp_path / "model" / "mine.card.json").read_text())
    assert json.loads(done.stdout)["validation"]["folds"] == 2


def test_a_file_without_a_column_is_wrong_usage_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("ProductId,Text\np,t\n")
    done = bdlab("train", "a.csv", "--output", "model", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: a.csv: the columns 'Score' and 'Summary' are missing" in done.stderr
    assert "Traceback" not in done.stderr


def test_reviews_of_one_sentiment_cannot_be_trained_on(tmp_path: Path) -> None:
    rows = "".join(f"p{n},5,s,t{n}\n" for n in range(6))
    (tmp_path / "a.csv").write_text("ProductId,Score,Summary,Text\n" + rows)
    done = bdlab("train", "a.csv", "--output", "model", "--folds", "2", cwd=tmp_path)
    assert done.returncode == 1
    assert "error: no review with 1 or 2 stars to learn the negative sentiment from" in done.stderr


def test_an_output_is_asked_for(tmp_path: Path) -> None:
    done = bdlab("train", str(SMALL_REVIEWS), cwd=tmp_path)
    assert done.returncode == 2
    assert "--output" in done.stderr
