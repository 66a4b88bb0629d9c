"""Versions of the shipped model, for a registry."""

import json
from pathlib import Path
from typing import Any

from bdlab.resources import models_dir

TERMS = "reviews.terms.json.gz"


def version_card(folder: Path, version: str, **changes: Any) -> Path:
    """The shipped model as another version, in a folder of its own; `changes` are of its card."""
    folder.mkdir(parents=True)
    card = json.loads((models_dir() / "reviews.card.json").read_bytes())
    card |= {"version": version, "files": {TERMS: card["files"][TERMS]}, **changes}
    (folder / TERMS).write_bytes((models_dir() / TERMS).read_bytes())
    path = folder / "reviews.card.json"
    path.write_text(json.dumps(card))
    return path
