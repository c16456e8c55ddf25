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


def test_doctor_reports_tables_without_autovacuum_settings(postgres: sa.Engine) -> None:
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
def test_doctor_fix_restores_autovacuum_settings(postgres: sa.Engine, change: str) -> None:
    _run(postgres, f"ALTER TABLE pushes {change}")
    _, found = _findings(postgres)
    assert not found.ok
    _run(postgres, found.fix.split("`")[1])
    assert [one.ok for one in _findings(postgres)] == [True]


def test_doctor_accepts_custom_autovacuum_settings(postgres: sa.Engine) -> None:
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
def test_doctor_reports_attached_partition_and_fix_detaches(postgres: sa.Engine, made: tuple[str, ...]) -> None:
    for statement in made:
        _run(postgres, statement)
    _, found = _findings(postgres)
    assert not found.ok and "attached" in found.what
    _run(postgres, found.fix.split("`")[1])
    assert [one.ok for one in _findings(postgres)] == [True]


def test_upkeep_without_autovacuum_is_reported(postgres: sa.Engine) -> None:
    with postgres.connect() as connection:
        connection.execute(sa.text("SET track_counts = off"))  # of this session, as of the server
        found = upkeep(connection)
    assert found is not None
    assert not found.works


def test_doctor_on_sqlite_skips_autovacuum() -> None:
    assert _findings(sa.create_engine("sqlite://")) == []


def _run(engine: sa.Engine, text: str) -> None:
    write(engine, lambda connection: connection.execute(sa.text(text)))
