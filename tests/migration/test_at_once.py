"""Creating and upgrading a PostgreSQL database beside others who do so, or who use it."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from drawdown.schema import migrate
from drawdown.schema.database import connect, read
from drawdown.schema.errors import LockHeld
from drawdown.schema.migrate import REVISIONS, Version, migrate_to, upgrade
from drawdown.schema.units import BUCKETS

TOGETHER = 4


def test_who_creates_it_at_once_finds_it_created(postgres_url: str) -> None:
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


def test_an_upgrade_does_not_wait_long_for_a_table(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a table lets nobody else at it: a report that reads for minutes would stop every tick."""
    monkeypatch.setattr(migrate, "UPGRADE_LOCK_S", 1)
    engine = connect(postgres_url)
    with engine.begin() as connection:
        migrate_to(connection, "0018")  # the next one changes a table that is read
    with engine.connect() as report, report.begin():
        report.execute(sa.text("SELECT COUNT(*) FROM ledger_entries"))
        with pytest.raises(LockHeld, match="try again"):
            upgrade(engine)
    engine.dispose()
