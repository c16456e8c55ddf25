"""Queries of databases are asked for each closed period, and what they say is taken as a file is: once."""

from __future__ import annotations

import os
import socket
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run as drawdown
from drawdown.schema.database import read, write
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.batches import file_sums, folders, query_source, sources
from drawdown.worker.batches.files import NotNow, Unreadable
from drawdown.worker.batches.lists import files_left
from drawdown.worker.batches.query_source import Question, brought, closed_periods
from drawdown.worker.engine.stores import Databases
from drawdown.worker.status.ticks import Report
from drawdown.worker.verify.batch_files import verify_files
from drawdown.worker.verify.verify import Verification, verify
from tests.world import T0, Fleet

HOUR: Final = 60 * MINUTE_MS
BEGAN: Final = T0 - T0 % HOUR + HOUR
"""The first hour that is asked for."""
QUERY: Final = """SELECT org_id, ts, memory_mb, interval_s, 'more' AS note FROM used
WHERE ts >= :from_ms AND ts < :until_ms"""
HOURLY: Final = Question(QUERY, "warehouse", HOUR, HOUR)
AGAIN: Final = 3 * HOUR
"""When each period is asked for the second time here. After a day, two dozen hours would have to be read."""


class Asked(Fleet):
    """A fleet whose usage stands in a table that is asked, at first for the hour from `BEGAN`."""

    def __init__(self, engine: sa.Engine, url: str) -> None:
        super().__init__(engine)
        self.databases = Databases({"warehouse": url})
        self.clock.at_ms = BEGAN
        self.assign("acme", "globex", from_ms=T0)
        self.write("CREATE TABLE used (org_id TEXT, ts BIGINT, memory_mb BIGINT, interval_s BIGINT)")

    def use(self, at: int, seconds: int, org: str = "acme") -> None:
        self.write(f"INSERT INTO used VALUES ('{org}', {BEGAN + at}, 1024, {seconds})")

    def add(self, question: Question = HOURLY, from_ms: int | None = None) -> None:
        write(self.engine, lambda c: sources.add_query(c, "usage", question, self.by, from_ms))

    def ask(self, at: int) -> Report:
        """A tick so long after the first hour began."""
        return self.tick(BEGAN + at, databases=self.databases)

    def said(self) -> dict[str, str]:
        """Periods by their last hour, and what became of each last."""
        found = read(self.engine, lambda c: sources.list_batches(c, source="usage"))
        return {one.name[-2:]: one.outcome for one in reversed(found)}

    def billed(self) -> object:
        return self.one("SELECT SUM(sealed_qty) FROM pushes WHERE state <> 'voided'")

    def next_at(self) -> int:
        (found,) = read(self.engine, sources.list_sources)
        assert found.next_ms is not None
        return (found.next_ms - BEGAN) // HOUR

    def proven(self) -> Verification:
        def work(connection: sa.Connection) -> Verification:
            found = verify(connection, now_ms=self.clock.at_ms)
            verify_files(connection, found)
            return found

        return read(self.engine, work)


@pytest.fixture
def fleet(engine: sa.Engine, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Asked:
    monkeypatch.setattr(query_source, "ASKED_AGAIN_MS", AGAIN)
    return Asked(engine, database_url)


def hour(number: int) -> str:
    return query_source.period_name(BEGAN + number * HOUR, HOUR)[-2:]


def test_closed_query_period_is_queried_twice_and_taken_once(fleet: Asked) -> None:
    fleet.add()
    for at, seconds in ((-1, 1_000), (0, 60), (1, 60), (HOUR - 1, 7), (HOUR, 5), (HOUR + 1, 6), (3 * HOUR, 9)):
        fleet.use(at, seconds)
    assert fleet.ask(2 * HOUR - 1).batches_taken == 0, "not closed yet"
    report = fleet.ask(2 * HOUR)
    assert (report.batches_taken, report.problems, report.failures) == (1, [], [])
    assert fleet.ask(3 * HOUR).batches_taken == 1
    assert fleet.ask(3 * HOUR + MINUTE_MS).batches_taken == 0
    assert (fleet.billed(), fleet.said(), fleet.next_at()) == (138, {hour(0): "taken", hour(1): "taken"}, 0)
    fleet.write("DELETE FROM used")  # rows come in another order, and as another type
    for at, seconds in ((HOUR - 1, 7), (1, 60), (0, 60), (HOUR + 1, 6), (HOUR, 5), (3 * HOUR, 9)):
        fleet.use(at, seconds)
    report = fleet.ask(3 * HOUR + AGAIN)
    assert (report.batches_taken, report.problems) == (2, []), "one of nothing, one of the fourth hour"
    assert fleet.next_at() == 0, "what this tick asked for the last time is passed by the next one"
    fleet.ask(3 * HOUR + AGAIN + MINUTE_MS)
    assert fleet.next_at() == 2
    assert fleet.billed() == 147
    found = fleet.proven()
    assert found.breaches == [] and found.open["batches of queries, which ticks query again"] == 4
    assert found.open["batches with a missing or changed file"] == 0


def test_late_rows_conflict_once_and_withdrawal_resolves_the_conflict(fleet: Asked) -> None:
    fleet.add()
    fleet.use(0, 60)
    fleet.ask(2 * HOUR)
    fleet.use(1, 11)
    report = fleet.ask(2 * HOUR + AGAIN)
    assert "conflict" in report.problems[0] and "a tick takes the new result" in report.problems[0]
    assert fleet.ask(3 * HOUR + AGAIN).problems == []
    assert fleet.billed() == 60 and fleet.next_at() == 0
    assert read(fleet.engine, files_left).conflicts == 1
    batch = str(fleet.one("SELECT batch FROM batches WHERE total = 60"))
    assert drawdown(["--database-url", str(fleet.engine.url.render_as_string(False)), "batch", "withdraw", batch]) == 0
    assert fleet.ask(4 * HOUR + AGAIN).problems == []
    fleet.ask(5 * HOUR + AGAIN)
    assert fleet.billed() == 71
    assert read(fleet.engine, files_left).conflicts == 0 and fleet.proven().breaches == []


Plant = tuple[str, str]
"""What a query says instead, and what is said of it."""
REFUSED: Final[dict[str, Plant]] = {
    "no column": ("SELECT org_id, ts, memory_mb FROM used", "missing column interval_s"),
    "ids": ("SELECT org_id, ts, memory_mb, interval_s, org_id AS id FROM used", "its rows have ids"),
    "twice": ("SELECT org_id, ts, memory_mb, interval_s, ts FROM used", "invalid columns of the query"),
    "no text": ("SELECT 1 AS org_id, ts, memory_mb, interval_s FROM used", "org_id has the type int"),
    "no number": ("SELECT org_id, ts, memory_mb, CAST('x' AS {bytes}) AS interval_s FROM used", "has the type bytes"),
    "none fits": ("SELECT org_id, ts, memory_mb, 1.5 AS interval_s FROM used", "all rows are invalid"),
}
FAILED: Final[dict[str, Plant]] = {
    "a write": (
        "INSERT INTO used VALUES ('x', 1, 1, :from_ms + :until_ms) RETURNING org_id",
        "the database warehouse: ",
    ),
    "two statements": (f"{QUERY}; DELETE FROM used", "the database warehouse: "),
    "no query": ("SELECT none FROM nowhere WHERE ts >= :from_ms AND ts < :until_ms", "the database warehouse: "),
}


@pytest.mark.parametrize("name", [*REFUSED, *FAILED])
def test_invalid_query_result_is_refused_or_fails_without_changes(fleet: Asked, name: str) -> None:
    query, said = {**REFUSED, **FAILED}[name]
    if name in REFUSED:
        query += " WHERE ts >= :from_ms AND ts < :until_ms"
    kind = "BYTEA" if fleet.engine.name == "postgresql" else "BLOB"
    fleet.add(replace(HOURLY, query=query.replace("{bytes}", kind)))
    fleet.use(0, 60)
    report = fleet.ask(2 * HOUR)
    assert report.batches_taken == 0 and said in " ".join((*report.problems, *report.failures)), report
    assert bool(report.failures) == (name in FAILED), "only the content has it refused"
    assert fleet.rows("SELECT interval_s FROM used") == [(60,)]
    again = fleet.ask(2 * HOUR + MINUTE_MS)
    assert (bool(again.failures), again.problems) == (name in FAILED, []), "what failed is tried again"
    if name == "none fits":
        fleet.write("UPDATE used SET interval_s = 61")
        fleet.add(replace(HOURLY, query=query), from_ms=BEGAN)
        assert fleet.ask(2 * HOUR + 2 * MINUTE_MS).problems != [], "a person has it asked again"


def test_query_result_beyond_size_or_time_limit_is_not_taken(fleet: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.add()
    fleet.write(
        "INSERT INTO used SELECT 'acme', value, 1024, 1 FROM "
        + (
            f"generate_series({BEGAN}, {BEGAN + 2_999}) AS s(value)"
            if fleet.engine.name == "postgresql"
            else f"(WITH RECURSIVE s(value) AS (SELECT {BEGAN} UNION ALL SELECT value + 1 FROM s LIMIT 3000)"
            " SELECT value FROM s)"
        )
    )
    ((_, _, file),) = closed_periods("usage", HOURLY, BEGAN, BEGAN + 2 * HOUR, 10)
    its = brought(fleet.databases, HOURLY, BEGAN, file)
    for bound, most in (("MAX_RESULT_ROWS", 2_999), ("MAX_RESULT_BYTES", 30_000)):
        with (
            monkeypatch.context() as patch,
            pytest.raises(Refused, match="Export this period to several smaller files"),
        ):
            patch.setattr(query_source, bound, most)
            file_sums.add_up(its, fleet.clock.at_ms)
    slow = "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s) SELECT n AS ts FROM s WHERE n < 0"
    never = replace(HOURLY, query=f"{slow} AND n > :from_ms AND n > :until_ms")
    with pytest.raises(NotNow, match="the time limit ended"):
        file_sums.add_up(brought(fleet.databases, never, BEGAN, file), fleet.clock.at_ms, time_s=0.3)
    with closing(file_sums.add_up(its, fleet.clock.at_ms)) as sums:
        assert (sums.rows, sums.total) == (3_000, 3_000)


def test_refused_query_result_releases_database_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(tmp_path / "warehouse.db", timeout=0)) as its:
        its.execute("CREATE TABLE used (org_id, ts, memory_mb, interval_s)")
        its.executemany("INSERT INTO used VALUES ('acme', ?, 1024, 1)", [(BEGAN + n,) for n in range(100)])
        its.commit()
        ((_, _, file),) = closed_periods("usage", HOURLY, BEGAN, BEGAN + 2 * HOUR, 10)
        monkeypatch.setattr(query_source, "MAX_RESULT_ROWS", 10)
        monkeypatch.setattr(query_source, "ROWS_AT_ONCE", 1)
        databases = Databases({"warehouse": f"sqlite:///{tmp_path}/warehouse.db"})
        with pytest.raises(Refused) as said:
            file_sums.add_up(brought(databases, HOURLY, BEGAN, file), BEGAN + 2 * HOUR)
        its.execute("DELETE FROM used")
        its.commit()  # whoever holds the error holds no lock
        assert "Export this period to several smaller files" in str(said.value)


def test_query_database_down_does_not_stop_file_source(
    fleet: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_source, "DATABASE_CONNECT_S", 1)
    fleet.add()
    fleet.use(0, 60)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "u.csv").write_text(f"org_id,ts,memory_mb,interval_s\nacme,{BEGAN},1024,7\n")
    os.utime(tmp_path / "in" / "u.csv", ns=(BEGAN * 10**6, BEGAN * 10**6))
    write(fleet.engine, lambda c: sources.add_source(c, "zzz", tmp_path / "in", fleet.by))
    right = fleet.databases
    with socket.create_server(("127.0.0.1", 0)) as silent:
        urls = (
            "postgresql://me:hunter2@127.0.0.1:9/x",
            f"postgresql://me:hunter2@127.0.0.1:{silent.getsockname()[1]}/x",
            "sqlite:////nowhere/hunter2.db",
            "mysql://me:hunter2@x/y",
            "hunter2",
            "",
        )
        for url in urls:
            fleet.databases = Databases({"warehouse": url})
            report = fleet.ask(2 * HOUR)
            assert len(report.failures) == 1 and report.failures[0].startswith("usage: "), report
            assert "hunter2" not in str(report) + repr(fleet.databases)
            assert report.exit_status == 75
    assert fleet.one("SELECT COUNT(*) FROM batch_files WHERE source = 'usage'") == 0
    assert fleet.one("SELECT COUNT(*) FROM batches WHERE source = 'zzz'") == 1
    fleet.databases = right
    assert fleet.ask(2 * HOUR).batches_taken == 1


class Killed(BaseException):
    """The process ends."""


def test_query_of_killed_tick_is_retried_by_later_tick(
    fleet: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "own"))  # other tests ask at the same time
    fleet.add()
    fleet.use(0, 60)

    def dying(*_given: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="Killed"):
        patch.setattr(query_source, "_put_in_order", dying)
        fleet.ask(2 * HOUR)
    assert fleet.one("SELECT COUNT(*) FROM batches") == 0 and fleet.said() == {hour(0): "reading"}
    assert fleet.ask(2 * HOUR + MINUTE_MS).batches_wait, "another tick may be at it"
    assert fleet.ask(2 * HOUR + 5 * MINUTE_MS).batches_taken == 1
    assert not list((tmp_path / "own").glob("drawdown-batch-*/asked.csv"))


def test_tick_queries_limited_periods_from_chosen_start(fleet: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_DUE", 2)
    monkeypatch.setattr(folders, "MAX_DUE", 2)
    monkeypatch.setattr(sources, "MAX_LISTED_PERIODS", 3)
    fleet.add()
    for number in range(5):
        fleet.use(number * HOUR, 1 + number)
    for asked in (2, 4, 5):
        fleet.ask(6 * HOUR)
        assert len(fleet.said()) == asked, "the oldest first"
    fleet.use(0, 100)
    fleet.use(4 * HOUR, 100)
    fleet.add(from_ms=BEGAN + 3 * HOUR)
    reports = [fleet.ask(6 * HOUR) for _ in range(3)]
    assert [len(report.problems) for report in reports] == [1, 0, 0], "what lies before is asked for no more"
    assert fleet.next_at() == 3
    fleet.add(from_ms=BEGAN + 5 * HOUR)
    assert read(fleet.engine, files_left).conflicts == 0, "a person passed over it"
    for wrong in (replace(HOURLY, closes_after_ms=0), replace(HOURLY, query=QUERY + " ")):
        with pytest.raises(Refused, match="Use another source name"):
            fleet.add(wrong)
    for query in (QUERY.replace(":until_ms", "9"), f"{QUERY} AND org_id = :org", "x" * 20_001):
        with pytest.raises(UsageError, match=r"^invalid query"):
            fleet.add(replace(HOURLY, query=query))
    with pytest.raises(UsageError, match="35 days"):
        fleet.add(replace(HOURLY, closes_after_ms=36 * DAY_MS))
    with pytest.raises(Refused, match="periods ago"):
        fleet.add(from_ms=BEGAN - 10_001 * HOUR)
    with pytest.raises(Unreadable, match="DRAWDOWN_QUERY_OTHER_URL is not set"):
        query_source.reach(fleet.databases, replace(HOURLY, database="other"))


def test_source_commands_with_query_show_database_name_not_url(
    fleet: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = str(fleet.engine.url.render_as_string(False))
    (tmp_path / "usage.sql").write_text(f"{QUERY}\n")
    add = ["source", "add", "usage", "--query", str(tmp_path / "usage.sql"), "--database", "Warehouse"]

    def said(*words: str) -> tuple[int, str]:
        status = drawdown(["--database-url", url, *words])
        found = capsys.readouterr()
        return status, found.out + found.err

    assert "Pass --database NAME" in said(*add[:-2])[1]
    assert said(*add) == (2, said(*add)[1]) and "set DRAWDOWN_QUERY_WAREHOUSE_URL" in said(*add)[1]
    monkeypatch.setenv("DRAWDOWN_QUERY_WAREHOUSE_URL", "sqlite:////nowhere/hunter2.db")
    status, text = said(*add, "--every", "day", "--closed-after", "3h", "--from", "2d")
    assert status == 0 and "watches query:usage of warehouse, each day from " in text
    assert said(*add[:3])[0] == said(*add, str(tmp_path))[0] == 2, "either a folder or --query"
    assert said("source", "add", "f", str(tmp_path), "--from", "2d")[0] == 2
    listed = said("--json", "source", "list")[1]
    assert '"asked_of": "warehouse"' in listed and "hunter2" not in listed
    assert said("source", "pause", "usage")[0] == 0


def test_query_results_that_differ_in_sandboxes_are_both_taken(fleet: Asked) -> None:
    """Both were empty of labels, so the second was a conflict, and the documented remedy had no effect."""
    for name in ("a", "b"):
        question = replace(HOURLY, query=QUERY.replace("'more' AS note", f"'{name}' AS sandbox_id"))
        write(fleet.engine, partial(sources.add_query, source=name, question=question, by=fleet.by, from_ms=None))
    fleet.use(0, 60)
    report = fleet.ask(2 * HOUR)
    assert (report.batches_taken, report.problems) == (2, [])
    fleet.tick_windows(1)
    assert fleet.billed() == 120
