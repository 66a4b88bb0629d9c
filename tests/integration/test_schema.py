"""Roles and migrations: each may run again, and at the same time."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
import psycopg2
import pytest

from bdlab.contract import Contract, parse_contract, review_contract
from bdlab.credentials import DatabaseLogin
from bdlab.errors import ContractMismatch, DatabaseUnavailable, InvalidInput, RowRejected, SchemaOutdated
from bdlab.events import EventCodec, PredictionEvent
from bdlab.ledger import Accepted, Stored
from bdlab.postgres.contracts import expected_version, migrations
from bdlab.postgres.reader import Reader
from bdlab.postgres.roles import Administrator
from bdlab.postgres.session import queries
from bdlab.postgres.store import Store
from bdlab.selection import Selection
from bdlab.services import MANAGER, Deployment
from bdlab.settings import Secret
from bdlab.stack import Postgres
from tests.fix_database import Database, Logins, admin_login, adopt, make_bare_database, migrate
from tests.samples import TOPIC, accepted, at, event, later_event, later_reviews, record

NAMES = tuple(f"{one.version:04d}_{one.name}" for one in migrations())


@pytest.fixture
def bare(postgres_server: Postgres) -> Database:
    """A database with the roles and without the schema."""
    return make_bare_database(postgres_server)


def test_preparing_again_changes_nothing(bare: Database) -> None:
    assert Administrator(bare.admin).exists()
    assert Administrator(bare.admin).change() == ()


def test_preparing_mends_what_was_changed(own_postgres: Callable[[], Postgres]) -> None:
    bare = make_bare_database(own_postgres())
    bare.execute("GRANT CREATE ON SCHEMA public TO PUBLIC; REVOKE bdlab_reader FROM bdlab_manager CASCADE")
    bare.execute("ALTER ROLE bdlab_manager NOCREATEROLE")
    changed = Administrator(bare.admin).change()
    assert changed == (
        "role bdlab_manager: attributes restored",
        "role bdlab_manager may grant bdlab_reader",
        f"privileges on database {bare.admin.server.dbname} granted",
    )
    assert Administrator(bare.admin).change() == ()

    bare.execute("CREATE DATABASE neighbour")
    bare.execute("GRANT CONNECT ON DATABASE postgres TO PUBLIC")
    assert Administrator(bare.admin, shared=True).change() == ()
    assert Administrator(bare.admin).open_databases() == ("neighbour", "postgres")
    assert Administrator(bare.admin).missing() == ("database postgres closed to PUBLIC",)
    assert Administrator(bare.admin).open_databases() == ("neighbour", "postgres")
    assert Administrator(bare.admin).change() == ("database postgres closed to PUBLIC",)
    assert Administrator(bare.admin).open_databases() == ("neighbour",)


def test_the_manager_is_no_superuser_and_makes_users_as_vault_does(own_postgres: Callable[[], Postgres]) -> None:
    bare = make_bare_database(own_postgres())
    password = Secret(uuid4().hex)
    assert Administrator(bare.admin).change(password) == ("role bdlab_manager: password set",)
    manager = msgspec.structs.replace(bare.admin, user=MANAGER, password=password)
    as_manager = Database(manager)
    login = as_manager.login("owner")
    assert bare.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", (MANAGER,)) == [(False,)]
    assert migrate(Logins(login)) == NAMES
    # What the user made is the group's, so the user can be dropped.
    as_manager.revoke(login)
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        as_manager.execute("CREATE DATABASE mine")


def test_a_manager_needs_a_password_when_it_is_made(postgres_server: Postgres) -> None:
    admin = admin_login(postgres_server, f"test_{uuid4().hex[:12]}")
    with pytest.raises(InvalidInput, match="no password is given"):
        Administrator(admin, Deployment(f"t{uuid4().hex[:8]}")).change()


def test_an_administrator_that_is_refused(postgres_server: Postgres) -> None:
    admin = admin_login(postgres_server, "postgres")
    wrong = DatabaseLogin(server=admin.server, user=admin.user, password=Secret("wrong"))
    with pytest.raises(DatabaseUnavailable, match="password authentication failed"):
        Administrator(wrong).change()


def test_migrating_twice_at_once_applies_each_migration_once(bare: Database) -> None:
    credentials = [bare.credentials("owner") for _ in range(3)]
    applied: list[tuple[str, ...]] = []
    threads = [threading.Thread(target=lambda mine=mine: applied.append(migrate(mine))) for mine in credentials]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(applied) == [(), (), NAMES]
    assert migrate(credentials[0]) == ()
    with Reader(bare.credentials("reader")) as reader:
        state = reader.state()
    assert (state.connected, state.schema_version, state.rows, state.problem) == (True, expected_version(), 0, "")


def test_a_migration_that_fails_leaves_nothing(bare: Database) -> None:
    bare.execute("CREATE TABLE checkpoints (id int)")  # in the way
    with pytest.raises(DatabaseUnavailable, match="already exists"):
        migrate(bare.credentials("owner"))
    assert bare.execute("SELECT to_regclass('predictions'), to_regclass('schema_migrations')") == [(None, None)]


def test_another_text_of_an_applied_migration_is_refused(database: Database) -> None:
    database.execute("UPDATE schema_migrations SET checksum = 'other'")
    with pytest.raises(SchemaOutdated, match="0001_tables"):
        migrate(database.credentials("owner"))


LATER = "INSERT INTO schema_migrations (version, name, checksum, compatible_from) VALUES (9999, 'later', 'x', %s)"


@pytest.mark.parametrize("compatible_from", [None, expected_version() + 1, 9999])
def test_a_later_schema_is_left_alone(database: Database, compatible_from: int | None) -> None:
    database.execute(LATER, (compatible_from,))
    for use in (lambda: migrate(database.credentials("owner")), Store(database.credentials("writer")).open):
        with pytest.raises(SchemaOutdated, match=r"schema of 127.*version 9999, newer than this bdlab"):
            use()
    with Reader(database.credentials("reader")) as reader:
        assert "bdlab migrate" in reader.state().problem


@pytest.mark.parametrize("compatible_from", [1, expected_version()])
def test_a_later_schema_that_covers_this_version_is_worked_with(database: Database, compatible_from: int) -> None:
    """A consumer goes on, also over a new connection."""
    store = Store(database.credentials("writer"))
    store.open()
    store.start_offsets([at(0)])
    database.execute("ALTER TABLE predictions ADD COLUMN later text")
    database.execute(LATER, (compatible_from,))
    assert store.store([accepted(at(0))]).rows == 1
    store.close()
    store.open()
    assert store.store([accepted(at(1))]).rows == 1
    store.close()
    assert migrate(database.credentials("owner")) == ()
    with Reader(database.credentials("reader")) as reader:
        state = reader.state()
    assert (state.schema_version, state.schema_fits, state.problem) == (9999, True, "")


BEFORE_LOGS = """
INSERT INTO predictions (id, summary, text, helpfulness_numerator, helpfulness_denominator, prediction,
                         sentiment, confidence, explanation, model, created_at,
                         cluster_id, topic, partition, "offset")
SELECT gen_random_uuid(), '', 'x', 1, 1, 2, 'negative', 0.9, '[]', 'm@1', now(), c, t, n % 2, n / 2
FROM generate_series(0, 19) n, (VALUES ('a', 't'), ('a', 'b/c'), ('a/b', 'c'), ('"é', 'ÿ')) l (c, t);
INSERT INTO duplicates (cluster_id, topic, partition, "offset", id)
VALUES ('a', 't', 0, 10, gen_random_uuid());
INSERT INTO dead_letters (cluster_id, topic, partition, "offset", headers, reason, sqlstate)
VALUES ('a', 't', 1, 10, '[]', 'r', '');
INSERT INTO replays VALUES ('a', 't', 1, 10, 'elsewhere', 't', 0, 5), ('a', 't', 1, 10, 'a', 't', 0, 10);
INSERT INTO sink_offsets SELECT cluster_id, topic, partition, 0, 10 FROM predictions GROUP BY 1, 2, 3;
UPDATE sink_offsets SET next_offset = 11 WHERE (cluster_id, topic) = ('a', 't');
INSERT INTO sink_offsets VALUES ('gone', 't', 0, 0, 7);
INSERT INTO checkpoints VALUES ('gone', 't', 0, 7, 4, 2, 1);
"""


def test_what_was_stored_before_logs_had_numbers_is_still_accounted_for(bare: Database) -> None:
    """Names that look alike when put together are told apart; a log that is known by its replays is one."""
    first = migrations()[0]
    bare.execute("SET ROLE bdlab_owner;" + queries("migrations")["create_table"].partition(";")[0])
    bare.execute("SET ROLE bdlab_owner;" + first.sql)
    bare.execute(
        "INSERT INTO schema_migrations (version, name, checksum) VALUES (1, %s, %s)", (first.name, first.checksum)
    )
    bare.execute(BEFORE_LOGS)
    ids = set(bare.execute('SELECT id, cluster_id, topic, partition, "offset" FROM predictions'))
    owner = bare.credentials("owner")
    with pytest.raises(ContractMismatch, match=r"'n'.* of the card's contract is not in"):
        migrate(owner, contract_with({"n": {"type": "integer"}}))
    assert migrate(owner) == NAMES[1:]  # with the contract all of it was refused
    located = 'SELECT id, cluster_id, topic, partition, "offset" FROM located_predictions'
    assert set(bare.execute(located)) == ids
    assert bare.execute("SELECT * FROM missing_offsets") == []
    with Reader(bare.credentials("reader")) as reader:
        accounts = reader.accounts(limit=5)
    assert {(one.log.cluster_id, one.log.topic, one.recorded, one.balanced) for one in accounts} == {
        ("a", "t", 11, True),
        ("a", "b/c", 10, True),
        ("a/b", "c", 10, True),
        ('"é', "ÿ", 10, True),
        ("gone", "t", 7, True),
    }
    assert bare.execute(
        "SELECT o.cluster_id, n.cluster_id FROM replays r JOIN logs o USING (log_id)"
        " JOIN logs n ON n.log_id = r.new_log_id ORDER BY 2"
    ) == [("a", "a"), ("a", "elsewhere")]
    assert bare.execute("SELECT DISTINCT topic_id, first_seen FROM logs") == [("", None)]


def test_a_state_of_a_database_that_is_away_or_bare(bare: Database) -> None:
    with Reader(bare.credentials("reader")) as reader:
        state = reader.state()
    assert (state.connected, state.schema_version) == (True, None)
    assert "bdlab migrate" in state.problem
    nowhere = msgspec.structs.replace(bare.admin, server=msgspec.structs.replace(bare.admin.server, port=1))
    state = Reader(Logins(nowhere)).state()
    assert not state.connected
    assert "Connection refused" in state.problem


OTHER: dict[str, Any] = {
    "order": {"type": ["integer", "null"], "minimum": -5},
    "bytes": {"type": "integer", "minimum": 1, "maximum": 10},
    "first seen": {"type": ["string", "null"], "format": "date-time"},
    "i": {"type": "boolean"},
    "Größe (cm)": {"type": "number", "minimum": 0.1},
    "code": {"type": "string", "minLength": 2, "maxLength": 9},
    "select": {"enum": ["{%}", "it's", "a\\b", "%(id)s"]},
}
VALUES = {
    "order": None,
    "bytes": 10,
    "first_seen": datetime(1, 2, 3, tzinfo=UTC),
    "i": True,
    "grosse_cm": 0.1,
    "code": "\\N",
    "select": "a\\b",
    "probabilities": {"it's \\ {x}": 1e-300},
}


def contract_with(more: Mapping[str, Any], **outputs: Any) -> Contract:
    """The reviews' contract with more fields."""
    found = copy.deepcopy(review_contract().document)
    del found["columns"]
    found["input"]["properties"] |= more
    found["input"]["required"] += [
        name for name, one in more.items() if "default" not in one and "null" not in one.get("type", "")
    ]
    found["output"]["properties"] |= outputs
    return parse_contract(found)


def columns(database: Database) -> dict[str, tuple[str, bool, str | None, str | None]]:
    """Of `predictions`, by name: type, NOT NULL, default, check."""
    rows = database.execute(
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid),"
        " pg_get_constraintdef(c.oid), c.conname FROM pg_attribute a"
        " LEFT JOIN pg_attrdef d ON (adrelid, adnum) = (attrelid, attnum)"
        " LEFT JOIN pg_constraint c ON conrelid = attrelid AND contype = 'c' AND conkey = ARRAY[attnum]"
        " WHERE attrelid = 'predictions'::regclass AND attnum > 0 AND NOT attisdropped"
    )
    assert {row[5] for row in rows} <= {None, *(f"predictions_{row[0]}_check" for row in rows)}
    return {row[0]: row[1:5] for row in rows}


def test_a_database_has_the_review_contract_until_another_is_decided(bare: Database) -> None:
    owner, reader = bare.credentials("owner"), Reader(bare.credentials("reader"))
    migrate(owner)
    before = columns(bare)
    assert reader.contract() == review_contract()
    bare.execute("DELETE FROM contracts")
    assert reader.contract() == review_contract()
    assert adopt(owner, review_contract()) == "number 1"
    assert adopt(owner, review_contract()) == ""
    assert columns(bare) == before
    ((number, document),) = bare.execute("SELECT number, document::text FROM contracts")
    assert (number, list(json.loads(document)["input"]["properties"])) == (
        1,
        [field.name for field in review_contract().inputs],
    )
    reader.close()


def test_the_columns_of_a_contract_have_types_and_checks_as_those_of_the_reviews(database: Database) -> None:
    """Names that are SQL words, or other columns of a query, are quoted or told apart."""
    owner, reviews = database.credentials("owner"), columns(database)
    contract = contract_with(OTHER, probabilities={"type": "object", "additionalProperties": {"type": "number"}})
    assert adopt(owner, contract).startswith("number 1, added text, summary, ")
    assert adopt(owner, contract) == ""
    found = columns(database)
    assert {name: found[name] for name in reviews} == reviews
    assert {name: found[name] for name in found.keys() - reviews.keys()} == {
        "order": ("bigint", False, None, "CHECK ((\"order\" >= '-5'::integer))"),
        "bytes": ("integer", True, None, "CHECK (((bytes >= 1) AND (bytes <= 10)))"),
        "first_seen": ("timestamp with time zone", False, None, None),
        "i": ("boolean", True, None, None),
        "grosse_cm": ("double precision", True, None, "CHECK ((grosse_cm >= (0.1)::double precision))"),
        "code": ("text", True, None, "CHECK (((char_length(code) >= 2) AND (char_length(code) <= 9)))"),
        "select": (
            *("text", True, None),
            """CHECK (("select" = ANY (ARRAY['{%}'::text, 'it''s'::text, 'a\\b'::text, '%(id)s'::text])))""",
        ),
        "probabilities": ("jsonb", True, None, "CHECK ((jsonb_typeof(probabilities) = 'object'::text))"),
    }
    store = Store(database.credentials("writer"))
    store.open()
    store.start_offsets([at(0)])
    sent = later_event(store.codec, **VALUES)
    assert store.store([as_accepted(store.codec, 0, sent)]) == Stored(rows=1)
    with pytest.raises(RowRejected, match="predictions_code_check"):
        store.store([Accepted(record(at(1)), msgspec.structs.replace(sent, id=uuid4(), code="x"))])
    store.close()
    with Reader(database.credentials("reader")) as reader:
        (row,) = reader.page(Selection(), 5).rows
        assert row == reader.get(sent.id)
    names = [field.column for field in contract]
    assert row.__struct_fields__[1 : len(names) + 1] == tuple(names)
    assert {name: getattr(row, name) for name in names} == {name: getattr(sent, name) for name in names}
    newest = "SELECT compatible_from FROM schema_migrations ORDER BY version DESC LIMIT 1"
    assert database.execute(newest) == [(3,)]  # as older releases would read only reviews


def as_accepted(codec: EventCodec, offset: int, sent: PredictionEvent) -> Accepted:
    found = record(at(offset), sent)
    return Accepted(found, *codec.decode(found))


def test_a_newer_contract_adds_columns_while_the_old_one_is_stored_on(database: Database) -> None:
    owner, reader = database.credentials("owner"), Reader(database.credentials("reader"))
    database.execute("CREATE VIEW of_a_user AS SELECT id, topic FROM located_predictions")
    store = Store(database.credentials("writer"))
    store.open()
    store.start_offsets([at(0)])
    old, sent = store.codec, [event() for _ in range(2)]
    store.store([as_accepted(old, 0, sent[0])])
    database.execute("ALTER TABLE predictions ADD stars text")
    with pytest.raises(ContractMismatch, match='"stars" of relation "predictions" already exists'):
        adopt(owner, later_reviews())
    database.execute("ALTER TABLE predictions DROP stars")
    assert adopt(owner, later_reviews()) == "number 2, added stars"
    assert adopt(owner, later_reviews()) == adopt(owner, review_contract()) == ""
    assert columns(database)["stars"] == ("bigint", True, "3", "CHECK ((stars >= 0))")
    store.store([as_accepted(old, 1, sent[1])])
    assert store.read_contract()
    assert not store.read_contract()
    sent.append(later_event(store.codec, stars=7))
    store.store([as_accepted(store.codec, 2, sent[2])])
    store.close()
    assert reader.contract() == later_reviews()
    assert {row.id: row.stars for row in reader.page(Selection(), 5).rows} == {
        one.id: stars for one, stars in zip(sent, (3, 3, 7), strict=True)
    }
    assert database.execute("SELECT stars, topic FROM located_predictions ORDER BY 1 DESC")[0] == (7, TOPIC)
    reader.close()


def test_a_contract_that_is_no_addition_is_refused_by_its_field(database: Database) -> None:
    """And nothing but an addition may change a contract of which a consumer was given a partition."""
    owner = database.credentials("owner")
    store = Store(database.credentials("writer"))
    store.open()
    store.start_offsets([at(0)])
    store.close()
    before = columns(database)
    for contract, why in (
        (contract_with({"n": {"type": "integer"}}), "'n' .integer. of the card's contract is not in the database's"),
        (contract_with({"text": {"type": "string"}}), "'text': minLength is 0 in the card's contract, and 1 in"),
    ):
        with pytest.raises(ContractMismatch, match=why):
            adopt(owner, contract)
    assert adopt(owner, later_reviews()) == "number 2, added stars"
    with pytest.raises(ContractMismatch, match="'stars': default is 4 in the card's contract, and 3 in the database's"):
        adopt(owner, later_reviews(4))
    with pytest.raises(ContractMismatch, match="'text': minLength is 0 in the model's contract, and 1 in"):
        adopt(owner, contract_with({"text": {"type": "string"}}))
    assert {name: found for name, found in columns(database).items() if name != "stars"} == before
    assert database.execute("SELECT number FROM contracts ORDER BY 1") == [(1,), (2,)]
