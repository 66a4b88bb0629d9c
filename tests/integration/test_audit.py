"""The table `audit`, through the roles that write it and the one that reads it."""

from __future__ import annotations

from typing import Any

import pytest

from bdlab.errors import DatabaseDenied, DatabaseUnavailable
from bdlab.postgres import audit
from bdlab.postgres.reader import Reader
from bdlab.postgres.session import Session
from tests.fix_database import Database

ALL: dict[str, Any] = {"before": None, "actor": None, "action": None}


def test_a_change_stands_in_the_table_before_it_is_made_and_once_it_ended(database: Database) -> None:
    with (
        Session(database.credentials("dlq"), application_name="test") as dlq,
        Session(database.credentials("model"), application_name="test") as model,
        Reader(database.credentials("reader")) as reader,
    ):
        replay = audit.begin(dlq, "key shop", "replay", "predictions/3/7", {"reason": "a\0b\udc80", "letters": 2})
        promote = audit.begin(model, "\u202eevil\0", "promote", "reviews@2.0.0")
        third = audit.begin(dlq, "nobody", "replay", "all")
        shown = [(row["id"], row["actor"], row["outcome"]) for row in reader.ask("page", "audit", **ALL, limit=9)]
        assert shown == [(third, "nobody", "begun"), (promote, "\u202eevil\\0", "begun"), (replay, "key shop", "begun")]

        audit.end(dlq, replay, "replayed", {"replayed": 2})
        audit.end(model, promote, "failed: no such file")
        newest, ended, first = reader.ask("page", "audit", **ALL, limit=9)
        assert (newest["outcome"], newest["ended_at"], newest["result"]) == ("begun", None, None)
        assert (ended["outcome"], ended["result"]) == ("failed: no such file", {})
        assert (first["detail"], first["result"]) == ({"reason": "a\\0b\\udc80", "letters": 2}, {"replayed": 2})
        assert first["at"] < first["ended_at"]
        assert [row["id"] for row in reader.ask("page", "audit", **ALL | {"before": third}, limit=1)] == [promote]
        of_shop = reader.ask("page", "audit", **ALL | {"actor": "key shop", "action": "replay"}, limit=9)
        assert [row["id"] for row in of_shop] == [replay]
        assert reader.ask("page", "audit", **ALL | {"actor": "key shop", "action": "promote"}, limit=9) == []

        with pytest.raises(DatabaseUnavailable, match="duplicate key"):
            audit.end(dlq, replay, "replayed again")
        with pytest.raises(DatabaseUnavailable, match="check constraint"):
            audit.begin(dlq, "", "replay", "all")
    with (
        Session(database.credentials("rescore"), application_name="test") as other,
        pytest.raises((DatabaseDenied, DatabaseUnavailable), match="permission denied"),
    ):
        audit.begin(other, "somebody", "replay", "all")
