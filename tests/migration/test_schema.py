"""The migrations, the table definitions and the program agree."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from drawdown.schema.database import connect, read
from drawdown.schema.errors import DatabaseNotReady
from drawdown.schema.migrate import MIGRATIONS, REVISIONS, Version, require_ready, upgrade, version
from drawdown.schema.tables.whole import metadata


def test_migrated_schema_equals_table_definitions(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        differences = compare_metadata(context, metadata)
        found = {
            table: {column["name"]: column["nullable"] for column in sa.inspect(connection).get_columns(table)}
            for table in metadata.tables
        }
    structural = [one for one in differences if not {"constraint", "comment"} & set(str(one[0]).split("_"))]
    assert [one for one in structural if not _is_arrival(one)] == []
    for name, table in metadata.tables.items():
        for column in table.columns:
            assert column.name in found[name], f"{name}.{column.name}"


def _is_arrival(difference: object) -> bool:
    """SQLite's arrival is its rowid, and both kinds of index on samples are written by hand."""
    return "usage_samples" in str(difference)


def test_schema_id_columns_compare_by_bytes_on_postgresql(postgres: sa.Engine) -> None:
    text = (
        "SELECT table_name, column_name, collation_name FROM information_schema.columns WHERE table_schema = 'public' "
        "AND data_type = 'text' AND (column_name LIKE '%\\_id' OR column_name IN ('id', 'key', 'feature', 'provider'))"
    )
    with postgres.connect() as connection:
        rows = connection.execute(sa.text(text)).all()
    wrong = [row for row in rows if row[2] != "C" and row[0] != "ledger_lines"]
    assert len(rows) > 30
    assert wrong == []


def test_upgrade_repeated_is_ready(database_url: str) -> None:
    engine = connect(database_url)
    assert upgrade(engine).current is None
    assert upgrade(engine).ready
    read(engine, require_ready)


def test_migration_revisions_equal_declared_revisions(engine: sa.Engine) -> None:
    scripts = [script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()]
    assert sorted(scripts) == REVISIONS
    assert read(engine, version) == Version(scripts[0], scripts[0], True)


def test_upgrade_of_newer_database_is_refused(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    for work in (lambda: upgrade(engine), lambda: read(engine, require_ready)):
        with pytest.raises(DatabaseNotReady, match="newer than this program"):
            work()


def test_database_of_another_program_is_not_taken_for_newer(database_url: str) -> None:
    """Its revision of Alembic seemed to be a later schema, so the error said to upgrade Drawdown."""
    other = sa.create_engine(database_url)
    with other.begin() as connection:
        connection.execute(sa.text("CREATE TABLE alembic_version (version_num TEXT)"))
        connection.execute(sa.text("INSERT INTO alembic_version VALUES ('ae1027a6acf')"))
    with pytest.raises(DatabaseNotReady, match="tables of another program"):
        read(other, require_ready)
    other.dispose()


def test_database_without_tables_names_init_command(database_url: str) -> None:
    engine = connect(database_url)
    if engine.dialect.name == "sqlite":
        with pytest.raises(DatabaseNotReady, match="drawdown init"):
            read(engine, require_ready)
        engine.connect().close()
    with pytest.raises(DatabaseNotReady, match="drawdown init"):
        read(engine, require_ready)
