"""Exports: exact, complete, in a steady order, at one moment, in parts, and safe to open."""

from __future__ import annotations

import csv
import io
import itertools
import json
import tracemalloc
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run as drawdown
from drawdown.cli.nouns import export as commands
from drawdown.ledger.draws import Cost
from drawdown.schema.database import read, write
from drawdown.schema.errors import UnknownId
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS, WINDOW_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import export
from drawdown.worker.wallets.export import COLUMNS, Format, Kind, Span
from drawdown.worker.wallets.statement import FINAL_AFTER_MS
from tests.world import T0, Fleet

ALL = Span("", 0, T0 + 400 * DAY_MS)
BAD = '=HYPERLINK("http://x",1),\n\'\u202e'


def paid(fleet: Fleet, org: str) -> None:
    write(fleet.engine, lambda c: credit.grant(c, org, 10 * MICRO, fleet.by, key=f"paid-{org}", plan=None, new=True))


@pytest.fixture
def billed(engine: sa.Engine) -> Fleet:
    """Two wallets with a grant each, usage, a run, and a reason that a spreadsheet would obey."""
    fleet = Fleet(engine)
    for org in ("acme", "globex"):
        paid(fleet, org)
    fleet.assign("acme", "globex", from_ms=T0)
    for minute in range(3):
        fleet.sample("acme", T0 + minute * WINDOW_MS)
    fleet.sample("globex", T0)
    fleet.tick(T0 + 5 * WINDOW_MS)
    write(engine, lambda c: executions.accept(c, "e-1", Request("acme", MICRO, project="site"), fleet.by))
    write(engine, lambda c: executions.settle(c, "e-1", Cost(1), fleet.by))
    fleet.write("INSERT INTO ledger_accounts (account_id, balance_micro) VALUES ('wallet:-1+1', 0)")
    fleet.write(
        "INSERT INTO ledger_entries (key, kind, from_account, to_account, amount_micro, ts, at_ms, actor, reason) "
        "VALUES ('=1', 'grant', 'grants', 'wallet:-1+1', -5, 1, 1, '@me', :bad)", {"bad": BAD}
    )  # fmt: skip
    return fleet


def told(fleet: Fleet, kind: Kind, span: Span = ALL, form: Format = "csv") -> list[dict[str, Any]]:
    text = "".join(read(fleet.engine, lambda c: list(export.export_lines(c, kind, span, form, fleet.clock.at_ms))))
    if form == "jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_export_ledger_is_complete_and_exact_in_csv_and_jsonl(billed: Fleet) -> None:
    rows, objects = told(billed, "ledger"), told(billed, "ledger", form="jsonl")
    assert [list(row) for row in rows] == [list(COLUMNS["ledger"])] * len(rows)
    kept = billed.rows("SELECT key, amount_micro, from_account, to_account FROM ledger_entries ORDER BY at_ms, key")
    assert [(one["key"], one["amount_micro"], one["from_account"], one["to_account"]) for one in objects] == kept
    assert [int(row["amount_micro"]) for row in rows] == [one[1] for one in kept]
    assert all(Decimal(row["amount"]) * MICRO == int(row["amount_micro"]) for row in rows)
    assert len(rows) == 2 + 4 + 1 + 1
    (run,) = (one for one in objects if one["kind"] == "execution")
    assert (run["execution"], run["amount_micro"], run["amount"], run["ts_ms"]) == (
        "e-1",
        1,
        "0.000001",
        T0 + 5 * WINDOW_MS,
    )


def test_export_ledger_of_org_sums_to_balance(billed: Fleet) -> None:
    rows = told(billed, "ledger", Span("acme", 0, ALL.to_ms))
    balance = billed.one("SELECT balance_micro FROM ledger_accounts WHERE account_id = 'wallet:acme'")
    assert sum(int(row["moved_micro"]) for row in rows) == balance
    assert sum(Decimal(row["moved"]) for row in rows) * MICRO == balance
    assert all("wallet:acme" in (row["from_account"], row["to_account"]) for row in rows) and len(rows) == 5
    with pytest.raises(UnknownId, match="acme"):
        told(billed, "ledger", Span("acmee", 0, ALL.to_ms))
    with pytest.raises(UnknownId), billed.engine.connect() as connection:
        next(
            export.export_lines(connection, "ledger", Span("acmee", 0, ALL.to_ms), "csv", 0)
        )  # nor are columns named first


def test_export_csv_escapes_formulas_and_bidirectional_marks(billed: Fleet) -> None:
    first = told(billed, "ledger")[0]
    assert (first["key"], first["actor"]) == ("'=1", "'@me")
    assert first["to_account"] == "wallet:-1+1" and first["amount_micro"] == "-5", "an amount stays a number"
    assert first["reason"].startswith("'=HYPERLINK") and "\u202e" not in first["reason"] and "\n" not in first["reason"]
    assert told(billed, "ledger", form="jsonl")[0]["reason"] == BAD


def test_export_usage_lists_pushes_by_window(billed: Fleet) -> None:
    rows = told(billed, "usage", form="jsonl")
    assert [(row["key"], row["quantity"], row["state"]) for row in rows] == [
        (f"usage:{org}:{T0 + at * WINDOW_MS}:compute_1gb", 60, "accepted")
        for at, org in ((0, "acme"), (0, "globex"), (1, "acme"), (2, "acme"))
    ]
    assert [row["key"] for row in told(billed, "usage")] == [row["key"] for row in rows]
    acme = told(billed, "usage", Span("acme", T0 + WINDOW_MS, T0 + 2 * WINDOW_MS))
    assert [row["key"] for row in acme] == [rows[2]["key"]]


@pytest.mark.parametrize("kind", ["ledger", "usage"])
def test_export_adjacent_ranges_list_each_row_once(billed: Fleet, kind: Kind) -> None:
    edges = [0, 1, 2, T0, T0 + WINDOW_MS, T0 + 5 * WINDOW_MS, ALL.to_ms]
    parts = [told(billed, kind, Span("", lo, hi)) for lo, hi in itertools.pairwise(edges)]
    assert [row for part in parts for row in part] == told(billed, kind)


@pytest.mark.both_databases
def test_export_is_streamed_in_parts(billed: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    many = 4_000
    billed.write(
        "INSERT INTO ledger_entries (key, kind, from_account, to_account, amount_micro, ts, at_ms, actor, reason) "
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :many) "
        "SELECT 'many:' || i, 'grant', 'grants', 'wallet:acme', 1, 5, 5, 'a', 'a reason of some length' FROM n",
        {"many": many},
    )

    def counted(connection: sa.Connection) -> tuple[int, int]:
        count = open_cursors = 0
        tracemalloc.start()
        for _ in export.export_lines(connection, "ledger", ALL, "jsonl", 0):
            count += 1
            if count == 10 and connection.dialect.name == "postgresql":
                raw: Any = connection.connection.dbapi_connection
                with raw.cursor() as cursor:
                    open_cursors = cursor.execute("SELECT COUNT(*) FROM pg_cursors").fetchone()[0]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert connection.dialect.name == "sqlite" or open_cursors == 1, "the server holds what was not fetched"
        return count, peak

    count, peak = read(billed.engine, counted)
    assert count == many + 8
    assert peak < 1 << 20, "some hundred bytes a row would be more than that for all of them"


def test_export_excludes_entries_booked_meanwhile(billed: Fleet) -> None:
    before = len(told(billed, "ledger"))

    def slowly(connection: sa.Connection) -> int:
        lines = export.export_lines(connection, "ledger", ALL, "jsonl", 0)
        next(lines)
        write(billed.engine, lambda c: credit.grant(c, "acme", MICRO, billed.by, key="meanwhile", plan=None))
        return 1 + len(list(lines))

    assert read(billed.engine, slowly) == before
    assert len(told(billed, "ledger")) == before + 1


@pytest.mark.both_databases
def test_export_near_its_end_lacks_open_transactions_and_is_not_final(billed: Fleet) -> None:
    """A transaction has the time of its begin, and its entries appear when it commits."""
    end_ms = billed.clock.at_ms + 1
    span = Span("", 0, end_ms)
    with billed.engine.begin() as one:
        credit.grant(one, "acme", MICRO, billed.by, key="slow", plan=None)
        billed.clock.at_ms = end_ms + MINUTE_MS
        before = told(billed, "ledger", span)
        assert export.final_before(span, billed.clock.at_ms) == end_ms + MINUTE_MS - FINAL_AFTER_MS
    after = told(billed, "ledger", span)
    assert [row["key"] for row in after if row not in before] == ["grant:slow"]
    billed.clock.at_ms = end_ms + FINAL_AFTER_MS
    assert export.final_before(span, billed.clock.at_ms) == end_ms


def test_export_command_of_range_not_final_says_so(
    billed: Fleet, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = billed.engine.url.render_as_string(hide_password=False)
    line = ["--database-url", url, "--at", "2026-02-01", "export", "ledger", "--from", "2026-01-01"]

    def exported(*words: str) -> tuple[int, int, str]:
        status = drawdown([*line, *words])
        found = capfd.readouterr()
        return status, len(found.out.splitlines()), found.err

    assert exported("--to", "2026-01-31T23:00") == (0, 8, "")
    status, rows, err = exported("--to", "2026-01-31T23:01")
    assert (status, rows) == (75, 8)
    for words in ("2026-01-31T23:00:00Z", "2026-02-01T00:01:00Z"):
        assert words in err
    status, rows, err = exported()
    assert (status, rows) == (0, 8) and "2026-01-31T23:00:00Z" in err
    status, rows, err = exported("--to", "2026-02-09", "--from", "2026-01-31T23:30")
    assert (status, rows) == (75, 1) and "2026-01-31T23:30:00Z" in err
    assert exported("--by", "used") == exported("--by", "used", "--to", "now") == (0, 8, "")
    monkeypatch.setattr(commands, "database_now", lambda _c, now_ms: now_ms - MINUTE_MS)
    status, rows, err = exported("--to", "2026-01-31T23:00")
    assert (status, rows) == (75, 8) and "2026-01-31T22:59:30Z" in err


def test_export_command_prints_rows_and_refuses_invalid_options(
    billed: Fleet, capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    url = billed.engine.url.render_as_string(hide_password=False)
    line = ["--database-url", url, "--at", "2026-02-01"]
    assert drawdown([*line, "export", "ledger", "--from", "2025-12-01", "--format", "jsonl"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 7
    assert drawdown([*line, "export", "usage", "--from", "2026-01-01", "--org", "globex"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 2
    for bad in (["--format", "xlsx"], ["--to", "2025-01-01"], ["--org", "acmee"]):
        assert drawdown([*line, "export", "ledger", "--from", "2026-01-01", *bad]) == 2
    assert drawdown([*line, "--json", "export", "ledger", "--from", "2026-01-01"]) == 2
