"""A SQLite file whose name another file takes, under a process that goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import CustomerChanged, PushRefused
from drawdown.schema.database import connect, read, write
from drawdown.schema.migrate import upgrade
from drawdown.worker.push.webhooks import apply_notices
from tests.world import T0, Fleet


def test_sqlite_file_replaced_by_backup_is_reopened(tmp_path: Path) -> None:
    file = tmp_path / "drawdown.db"
    engine = connect(f"sqlite:///{file}")
    upgrade(engine)
    fleet = Fleet(engine)
    backup = tmp_path / "backup.db"
    engine.dispose()
    shutil.copy(file, backup)
    fleet.assign("acme")
    assert fleet.rows("SELECT org_id FROM orgs") == [("acme",)]
    backup.replace(file)
    for left in tmp_path.glob("drawdown.db-*"):
        left.unlink()
    assert fleet.rows("SELECT org_id FROM orgs") == [], "the backup knows of nobody"
    fleet.assign("globex")
    again = connect(f"sqlite:///{file}")
    assert read(again, lambda c: c.execute(sa.text("SELECT org_id FROM orgs")).scalar_one()) == "globex"


@pytest.mark.both_databases
def test_notice_with_text_invalid_for_database_is_reported_as_unknown(engine: sa.Engine) -> None:
    Fleet(engine)
    notices: list[CustomerChanged | PushRefused] = [
        CustomerChanged("a\x00b"),
        CustomerChanged("\ud800"),
        PushRefused("usage:\x00", "no\x00"),
    ]
    said = write(engine, lambda c: apply_notices(c, "stripe", notices, T0))
    assert len(said) == 3 and said[2].endswith("a push key that this database cannot store")
