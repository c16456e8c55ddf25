"""Connections to SQLite that one test leaves to the next: `tests/reused.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.schema.database import connect
from tests import reused, template
from tests.sqlite_databases import named_anew


class Lent:
    """A database that is lent and given back again, with one connection of an engine of its own."""

    def __init__(self) -> None:
        self.path = reused.lend(named_anew(template.content()))
        self.engine = connect(f"sqlite:///{self.path}")

    def run(self, text: str) -> list[tuple[object, ...]]:
        with self.engine.begin() as connection:
            self.driver = connection.connection.driver_connection
            found = connection.exec_driver_sql(text)
            return [tuple(row) for row in found] if found.returns_rows else []

    def end(self) -> None:
        self.engine.dispose()
        reused.give_back(self.path)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of another test is free."""
    monkeypatch.setattr(reused, "_free", [])


def test_reused_connection_is_emptied_with_new_database_id() -> None:
    first = Lent()
    name = first.run("SELECT database_id FROM incarnation")
    first.run("INSERT INTO orgs (org_id) VALUES ('acme')")
    first.end()
    second = Lent()
    assert second.run("SELECT org_id FROM orgs") == []
    assert second.run("SELECT database_id FROM incarnation") != name
    assert (second.path, second.driver) == (first.path, first.driver)
    second.run("INSERT INTO orgs (org_id) VALUES ('bolt')")
    other = connect(f"sqlite:///{second.path}")
    with other.connect() as connection:
        assert connection.exec_driver_sql("SELECT org_id FROM orgs").scalars().all() == ["bolt"]
    other.dispose()
    second.end()


def test_reused_file_is_truncated_to_initial_length() -> None:
    first = Lent()
    pages = first.run("PRAGMA page_count")
    first.run(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 5000) "
        "INSERT INTO orgs (org_id) SELECT 'an-organisation-' || n FROM n"
    )
    assert first.run("PRAGMA page_count") > pages
    first.end()
    second = Lent()
    assert second.path == first.path
    assert second.run("PRAGMA page_count") == pages
    second.run("INSERT INTO orgs (org_id) VALUES ('acme')")
    pooled = second.engine.raw_connection()
    assert pooled.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    pooled.close()
    assert second.run("PRAGMA integrity_check") == [("ok",)]
    second.end()


@pytest.mark.parametrize("change", ["a guard is gone", "the file is another", "a connection is in use"])
def test_reused_file_changed_by_test_is_discarded(change: str) -> None:
    first = Lent()
    first.run("SELECT 1")
    if change == "a guard is gone":
        first.run("DROP TRIGGER samples_immutable")
    elif change == "the file is another":
        content = first.path.read_bytes()
        first.path.unlink()
        first.path.write_bytes(content)
    else:
        held = first.engine.connect()
        held.exec_driver_sql("SELECT 1")
    first.end()
    second = Lent()
    second.run("SELECT 1")
    assert second.path != first.path and second.driver is not first.driver
    second.end()


@pytest.mark.parametrize("pragma", ["query_only = ON", "max_page_count = 9999", "ignore_check_constraints = ON"])
def test_reused_connection_with_changed_pragma_is_discarded(pragma: str) -> None:
    first = Lent()
    first.run("SELECT 1")
    with first.engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA {pragma}")
    first.end()
    second = Lent()
    second.run("INSERT INTO orgs (org_id) VALUES ('acme')")
    assert second.path == first.path and second.driver is not first.driver
    second.end()


def test_reused_file_after_close_of_last_connection_is_complete(tmp_path: Path) -> None:
    first = Lent()
    first.run("INSERT INTO orgs (org_id) VALUES ('acme')")
    first.engine.dispose()
    (tmp_path / "copy.db").write_bytes(first.path.read_bytes())
    copy = connect(f"sqlite:///{tmp_path}/copy.db")
    with copy.connect() as connection:
        assert connection.execute(sa.text("SELECT org_id FROM orgs")).scalars().all() == ["acme"]
    copy.dispose()
    reused.give_back(first.path)
