"""The one way for SQL: pieces, databases, slots, rows, lists; whatever is wrong says where."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.schema.sql import Queries, SqlError, queries, read_together
from drawdown.worker.halts import dispatch

TEXT = """-- A file's head, about :nothing in particular.

-- name: all
-- What there is, {above} and :below.
SELECT id, ':no_value' AS text -- nor :this
FROM t WHERE {only} ORDER BY id

-- name: only
id > :least

-- name: none
1 = 0

-- name: here [sqlite]
SELECT 'sqlite' AS place, '-- it''s :text' AS text

-- name: here [postgresql]
SELECT 'postgresql' AS place, '-- it''s :text'::text AS text

-- name: listed
SELECT id FROM t WHERE id IN :ids ORDER BY id

-- name: not_named
SELECT name FROM t WHERE name NOT IN :names ORDER BY name

-- name: many
SELECT CAST(:texts AS text[]), CAST(:numbers AS bigint[]), CAST(:exact AS numeric[])

-- name: add
INSERT INTO t (id, name) SELECT id, name FROM {rows :more (id bigint, name text)} r WHERE 1 = 1 ON CONFLICT DO NOTHING;
SELECT COUNT(*) FROM t

-- name: put
INSERT INTO t (id, name) VALUES (:id, :name)

-- name: odd
SELECT id, name, id > 1 AS later, id / 2.0 AS half, 9007199254740993 AS large FROM t
WHERE id < :least ORDER BY name DESC

-- name: circle
{ring}

-- name: ring
{circle}

-- name: hole
SELECT {nowhere}
"""


@pytest.fixture
def sql(tmp_path: Path) -> Queries:
    file = tmp_path / "queries.sql"
    file.write_text(TEXT)
    return queries(str(tmp_path / "module.py"))


@pytest.fixture
def table(engine: sa.Engine) -> sa.Engine:
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT)"))
        connection.execute(sa.text("INSERT INTO t VALUES (1, 'a'), (2, 'b')"))
    return engine


def test_query_values_are_bound_outside_strings_and_comments(sql: Queries, table: sa.Engine) -> None:
    with table.connect() as connection:
        assert tuple(sql.run(connection, "all", {"least": 1}).one()) == (2, ":no_value")
        place = sql.run(connection, "here").one()
    assert place == (table.dialect.name, "-- it's :text")


def test_query_slot_accepts_only_fragment_of_same_file(sql: Queries, table: sa.Engine) -> None:
    with table.connect() as connection:
        assert sql.run(connection, "all", {}, only="none").all() == []
        with pytest.raises(SqlError, match=r"\{1 = 1\} does not exist for .* > all|used by all"):
            sql.run(connection, "all", {}, only="1 = 1")
        with pytest.raises(SqlError, match="all does not have the slot where"):
            sql.run(connection, "all", {"least": 1}, where="none")


def test_query_lists_and_rows_are_bound_as_values(sql: Queries, table: sa.Engine) -> None:
    more = [{"id": 2, "name": "again"}, {"id": 3, "name": "'; DROP TABLE t; --"}]
    with table.begin() as connection:
        assert sql.run(connection, "add", {"more": more}).scalar() == 3
        sql.run(connection, "put", [{"id": 4, "name": None}, {"id": 5, "name": "e"}])
        assert sql.run(connection, "listed", {"ids": [5, 1, 9]}).scalars().all() == [1, 5]
        assert sql.run(connection, "not_named", {"names": ["a", "e"]}).scalars().all() == ["'; DROP TABLE t; --", "b"]
        assert len(sql.run(connection, "not_named", {"names": []}).all()) == 5


def test_query_arrays_on_server_are_unchanged(sql: Queries, postgres: sa.Engine) -> None:
    plain = ["", "a,b", "{x}", 'say "x"', "\\n", "\\\\u0041\\", "null", "NULL", " ü\u202e\x7f ", "\U0001f9ea", None]
    numbers = [0, -(2**63), 2**63 - 1, None]
    with postgres.connect() as connection:
        for texts in (plain, [*plain, "\n", "\x01", "\\\t"], []):
            values = {"texts": texts, "numbers": numbers, "exact": ["1.50", None]}
            found = sql.run(connection, "many", values).one()
            assert tuple(found) == (texts, numbers, [Decimal("1.50"), None])


def test_queries_read_together_are_a_single_statement(sql: Queries, table: sa.Engine) -> None:
    with table.begin() as connection:
        names = ('"\\\n\u202e', None, "'; --", "\U0001f9ea")
        sql.run(connection, "put", [{"id": 10 + n, "name": name} for n, name in enumerate(names)])
        asked = {"least": 13}
        parts = {
            "odd": sql.part("odd", asked),
            "same": sql.part("odd", {"least": 12}),
            "empty": sql.part("all", only="none"),
            "listed": sql.part("listed", {"ids": [11, 10]}),
            "rows": sql.part("all", {"least": 1}),
        }
        read_together(connection, **parts)
        seen: list[str] = []
        sa.event.listen(connection, "before_cursor_execute", lambda *given: seen.append(given[2]))
        found = read_together(connection, **parts)
        assert len(seen) == 1
        for name in ("odd", "listed", "rows"):
            part = parts[name]
            alone = [dict(row._mapping) for row in sql.run(connection, part.name, part.values, **dict(part.slots))]
            assert [vars(row) for row in found[name]] == alone and alone
        assert [row.id for row in found["same"]] == [row.id for row in found["odd"] if row.id < 12]
        assert found["empty"] == [] and isinstance(found["odd"][0].half, Decimal)
        with pytest.raises(SqlError, match="add has more than one statement"):
            read_together(connection, add=sql.part("add", {"more": []}))
        with pytest.raises(SqlError, match=r"queries\.sql: odd: missing value for :least"):
            read_together(connection, odd=sql.part("odd"))


def test_query_missing_value_or_fragment_is_named(sql: Queries, table: sa.Engine) -> None:
    with table.connect() as connection:
        with pytest.raises(SqlError, match=r"queries\.sql: all: missing value for :least"):
            sql.run(connection, "all", {"most": 1})
        with pytest.raises(SqlError, match=r"\{circle\} contains itself \(used by circle > ring\)"):
            sql.run(connection, "circle")
        with pytest.raises(SqlError, match=r"\{nowhere\} does not exist for (sqlite|postgresql) \(used by hole\)"):
            sql.run(connection, "hole")
        with pytest.raises(SqlError, match="used by the caller"):
            sql.run(connection, "absent")


def test_query_name_defined_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "queries.sql").write_text("-- name: a\nSELECT 1\n-- name: a\nSELECT 2\n")
    with pytest.raises(SqlError, match="a occurs twice"):
        queries(str(tmp_path / "module.py")).text("a", "sqlite")


def test_query_shared_fragment_redefined_in_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "queries.sql").write_text("-- name: a\nSELECT {unbilled}\n")
    assert queries(str(tmp_path / "module.py")).text("a", "sqlite") == "SELECT ('legacy', 'none')"
    (tmp_path / "own.sql").write_text("-- name: unbilled\n('none')\n")
    with pytest.raises(SqlError, match=r"own\.sql: words\.sql or sql\.py also has unbilled"):
        queries(str(tmp_path / "own.py")).text("unbilled", "sqlite")


def test_query_fragments_include_lists_declared_in_python(tmp_path: Path) -> None:
    (tmp_path / "queries.sql").write_text("-- name: a\nSELECT {open_states}, {mapping_reasons}\n")
    said = "SELECT ('due', 'queued', 'in_doubt', 'rejected'), ('no_mapping')"
    assert queries(str(tmp_path / "module.py")).text("a", "sqlite") == said


def test_sql_files_are_all_readable() -> None:
    """They are read late: what is wrong with one would else be said by the first command that needs it."""
    rooms = ("server", "worker", "providers", "guard", "ledger", "events", "schema")
    files = [file for room in rooms for file in (Path(__file__).parents[2] / room).rglob("*.sql")]
    assert len(files) > 30
    assert all(Queries(file).pieces for file in files if file.name != "words.sql" and "by_hand" not in file.name)


def test_query_source_is_own_file_or_file_of_package(tmp_path: Path) -> None:
    (tmp_path / "queries.sql").write_text("-- name: a\nSELECT 1\n")
    (tmp_path / "own.sql").write_text("-- name: b\nSELECT 1\n")
    assert list(queries(str(tmp_path / "own.py")).pieces) == [("b", "")]
    assert list(queries(str(tmp_path / "other.py")).pieces) == [("a", "")]
    assert dispatch.SQL is dispatch.SQL
