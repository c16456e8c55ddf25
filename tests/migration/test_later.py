"""How a later version changes a database of this one, shown by an example; and databases that it leaves alone."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from drawdown.schema import migrate
from drawdown.schema.database import connect, read
from drawdown.schema.errors import DatabaseNotReady, LockHeld
from drawdown.schema.migrate import REVISIONS, Version, require_ready, upgrade, version
from drawdown.schema.units import BUCKETS
from tests.integration.verifying import verified
from tests.migration import example
from tests.world import T0, Fleet

TOGETHER = 4


def lived_in(engine: sa.Engine) -> Fleet:
    """An organisation with usage that was billed."""
    made = Fleet(engine)
    made.assign("acme", from_ms=T0)
    made.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://127.0.0.1:1')")
    made.sample("acme", T0 + 1)
    made.tick_windows(2)
    return made


def objects(engine: sa.Engine) -> set[tuple[str, str]]:
    """Each column, index and trigger of the database."""
    inspected = sa.inspect(engine)
    all_of_them: list[Any] = [inspected.get_multi_columns(), inspected.get_multi_indexes()]
    found = {(table, str(one["name"])) for part in all_of_them for (_, table), named in part.items() for one in named}
    triggers = {
        "sqlite": "SELECT tbl_name, name FROM sqlite_master WHERE type = 'trigger'",
        "postgresql": "SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE NOT tgisinternal",
    }
    with engine.connect() as connection:
        found |= {(str(row[0]), str(row[1])) for row in connection.exec_driver_sql(triggers[engine.dialect.name])}
    return found


@pytest.mark.both_databases
def test_migration_adds_column_and_preserves_data(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fleet, before = lived_in(engine), objects(engine)
    pushes = fleet.rows("SELECT * FROM pushes")
    example.bring(monkeypatch, tmp_path)
    assert upgrade(engine) == Version(REVISIONS[0], example.REVISION, True)
    assert objects(engine) - before == {("cells", one) for one in ("region", "cells_by_region", "cells_region_kept")}
    assert fleet.one("SELECT region FROM cells") == "home"
    assert fleet.rows("SELECT * FROM pushes") == pushes
    with pytest.raises(DBAPIError, match="stays in its region"):
        fleet.write("UPDATE cells SET region = 'away'")
    assert verified(fleet).clean
    assert upgrade(engine).ready, "twice changes nothing"
    monkeypatch.setattr(migrate, "REVISIONS", REVISIONS)  # the program of before
    with pytest.raises(DatabaseNotReady, match="newer than this program"):
        read(engine, require_ready)


@pytest.mark.both_databases
def test_migration_that_fails_is_rolled_back(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = objects(engine)
    example.bring(monkeypatch, tmp_path, "raise RuntimeError('power is out')")
    with pytest.raises(RuntimeError):
        upgrade(engine)
    assert objects(engine) == before
    assert read(engine, version).current == REVISIONS[0]


def test_migration_waiting_for_table_lock_times_out(
    postgres: sa.Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Who waits for a table lets no one else at it: a report that reads for minutes would stop every tick."""
    monkeypatch.setattr(migrate, "UPGRADE_LOCK_S", 1)
    example.bring(monkeypatch, tmp_path)
    with postgres.connect() as report, report.begin():
        report.execute(sa.text("SELECT COUNT(*) FROM cells"))
        with pytest.raises(LockHeld, match="Try again"):
            upgrade(postgres)


def test_migration_by_concurrent_programs_creates_database_once(postgres_url: str) -> None:
    start, found = threading.Barrier(TOGETHER), list[Version | Exception]()

    def create() -> None:
        engine = connect(postgres_url)
        start.wait()
        try:
            found.append(upgrade(engine))
        except Exception as error:
            found.append(error)
        engine.dispose()

    threads = [threading.Thread(target=create) for _ in range(TOGETHER)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    before = [one.current if isinstance(one, Version) else one for one in found]
    assert sorted(before, key=str) == sorted([None, *[REVISIONS[-1]] * (TOGETHER - 1)], key=str)
    engine = connect(postgres_url)
    assert read(engine, lambda c: c.execute(sa.text("SELECT COUNT(*) FROM buckets")).scalar_one()) == BUCKETS
    engine.dispose()


def test_migration_of_database_before_first_release_is_refused(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0085'"))
    before = objects(engine)
    for work in (lambda: upgrade(engine), lambda: read(engine, require_ready)):
        with pytest.raises(
            DatabaseNotReady, match=r"before the first release, so it cannot be upgraded\. Keep the database"
        ):
            work()
    assert objects(engine) == before
