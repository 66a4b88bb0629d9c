"""A contract with every kind of field, with and without null, and a scorer of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from bdlab.contract import parse_contract
from bdlab.events import Input, Score, codec_of

CONTRACT = parse_contract(
    {
        "input": {
            "type": "object",
            "title": "Garden plant",
            "properties": {
                "Name": {"type": "string", "minLength": 2, "maxLength": 20, "description": "As on its label"},
                "note": {"type": ["string", "null"], "examples": ["in the shade"]},
                "Leaf colour": {"enum": ["green", "dark red", "it's white"]},
                "Fruit colour": {"enum": ["red", "blue", None]},
                "petals": {"type": "integer", "minimum": 0},
                "seeds": {"type": ["integer", "null"], "maximum": 1000},
                "height (cm)": {"type": "number", "minimum": 0, "maximum": 300.5, "examples": [12.5]},
                "weight": {"type": ["number", "null"]},
                "planted_at": {"type": "string", "format": "date-time"},
                "moved_at": {"type": ["string", "null"], "format": "date-time"},
                "isWild": {"type": "boolean", "default": False},
                "edible": {"type": ["boolean", "null"]},
            },
            "required": ["Name", "Leaf colour", "petals", "height (cm)", "planted_at"],
        },
        "output": {
            "type": "object",
            "properties": {
                "prediction": {"enum": ["rose", "tulip"]},
                "confidence": {"type": "number", "minimum": 0, "maximum": 1},
                "probabilities": {"type": "object", "additionalProperties": {"type": "number"}},
                "rank": {"type": ["integer", "null"]},
                "rare": {"type": "boolean"},
                "blooms_at": {"type": ["string", "null"], "format": "date-time"},
            },
        },
    }
)
CODEC = codec_of(CONTRACT)

PLANT: dict[str, Any] = {
    "Name": "Rose",
    "Leaf colour": "it's white",
    "petals": 5,
    "height (cm)": 40,
    "planted_at": "2026-01-31T12:00:00+02:00",
}


class PlantScorer:
    """Scores by the number of petals."""

    name = "plants@1.0.0"
    sha256 = "0" * 64
    blocking = False
    forkable = True
    codec = CODEC

    def score(self, given: Input) -> Score:
        rose = given.petals >= 5
        return CODEC.score(
            prediction="rose" if rose else "tulip",
            confidence=0.75,
            probabilities={"rose": 0.75 if rose else 0.25, "tulip": 0.25 if rose else 0.75},
            rank=None if given.edible is None else given.seeds,
            rare=given.is_wild,
            blooms_at=given.moved_at and datetime(2026, 5, 1, tzinfo=UTC),
        )

    def score_many(self, many: Sequence[Input]) -> list[Score]:
        return [self.score(given) for given in many]
