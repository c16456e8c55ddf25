"""Tables that grow with use are vacuumed early enough, and doctor tells where nobody does any more."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from drawdown.cli.nouns.doctor import Finding, _upkeep
from drawdown.schema.database import read, write
from drawdown.worker.status.tables import upkeep
from tests.integration.test_long_open import _State


def _findings(engine: sa.Engine) -> list[Finding]:
    return list(_upkeep(_State(engine)))  # type: ignore[arg-type]


def test_a_database_that_lost_the_settings_of_its_tables_is_named(postgres: sa.Engine) -> None:
    assert [one.ok for one in _findings(postgres)] == [True]
    for table in ("usage_samples", "pushes"):
        _run(
            postgres,
            f"ALTER TABLE {table} RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_insert_scale_factor)",
        )
    left = read(postgres, upkeep)
    assert left is not None
    assert sorted(left.statements) == ["pushes", "usage_samples"]


@pytest.mark.parametrize(
    "change",
    [
        "RESET (autovacuum_vacuum_scale_factor)",
        "RESET (autovacuum_vacuum_insert_scale_factor), SET (autovacuum_enabled = false)",
        "SET (autovacuum_enabled = off)",
    ],
)
def test_what_is_gone_is_told_with_the_statement_that_mends_it(postgres: sa.Engine, change: str) -> None:
    _run(postgres, f"ALTER TABLE pushes {change}")
    _, found = _findings(postgres)
    assert not found.ok
    _run(postgres, found.fix.split("`")[1])
    assert [one.ok for one in _findings(postgres)] == [True]


def test_values_that_a_person_chose_are_left(postgres: sa.Engine) -> None:
    _run(postgres, "ALTER TABLE pushes SET (autovacuum_vacuum_scale_factor = 0.5, autovacuum_enabled = yes)")
    assert [one.ok for one in _findings(postgres)] == [True]


CHILD = "CREATE TABLE by_hand () INHERITS (usage_samples)"


@pytest.mark.parametrize(
    "made",
    [
        (CHILD,),
        ("CREATE SCHEMA theirs", f"{CHILD.replace('by_hand', 'theirs.by_hand')}"),
        (
            "CREATE TABLE theirs (LIKE pushes) PARTITION BY RANGE (window_ms)",
            "ALTER TABLE theirs ATTACH PARTITION pushes FOR VALUES FROM (0) TO (1)",
        ),
    ],
    ids=["a child", "of another schema", "one of ours"],
)
def test_a_table_that_was_attached_by_hand_is_told_with_what_ends_it(
    postgres: sa.Engine, made: tuple[str, ...]
) -> None:
    for statement in made:
        _run(postgres, statement)
    _, found = _findings(postgres)
    assert not found.ok and "attached" in found.what
    _run(postgres, found.fix.split("`")[1])
    assert [one.ok for one in _findings(postgres)] == [True]


def test_a_server_without_autovacuum_is_told(postgres: sa.Engine) -> None:
    with postgres.connect() as connection:
        connection.execute(sa.text("SET track_counts = off"))  # of this session, as of the server
        found = upkeep(connection)
    assert found is not None
    assert not found.works


def test_on_sqlite_there_is_nothing_to_keep_up() -> None:
    assert _findings(sa.create_engine("sqlite://")) == []


def _run(engine: sa.Engine, text: str) -> None:
    write(engine, lambda connection: connection.execute(sa.text(text)))
