"""The shipped model as scikit-learn has it, for peers: two figures without an explanation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib

ROOT = Path(__file__).resolve().parents[2]


def load() -> dict[str, Any]:
    sys.path.append(str(ROOT / "src"))  # the file names functions of bdlab
    found: dict[str, Any] = joblib.load(ROOT / "models" / "reviews.joblib")
    return found


def predict(model: dict[str, Any], texts: Sequence[str]) -> list[dict[str, Any]]:
    pairs = [("", text) for text in texts]
    stars = model["rating"].predict(pairs)
    positive = model["sentiment"].predict_proba(pairs)[:, 1]
    return [
        {
            "prediction": float(star),
            "sentiment": "positive" if share >= 0.5 else "negative",
            "confidence": float(max(share, 1 - share)),
        }
        for star, share in zip(stars, positive, strict=True)
    ]
