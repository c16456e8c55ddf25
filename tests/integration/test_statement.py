"""An account's statement adds up, to the micro-credit, whatever happened in the month, on either database."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.cli.main import global_options_first, run
from drawdown.ledger.draws import Cost
from drawdown.schema.database import read
from drawdown.schema.errors import UsageError
from drawdown.schema.units import DAY_MS, MICRO
from drawdown.worker.executions import actions as executions
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets.statement import (
    FINAL_AFTER_MS,
    Span,
    Statement,
    as_object,
    csv_lines,
    of_customer,
    span_of,
)
from tests.integration.books import FEBRUARY, HOUR_MS, JANUARY, MARCH, MIDDLE, Books, by_hand, priced, shown
from tests.integration.monthly import Account
from tests.integration.topping import Purses
from tests.integration.verifying import tamper, verified
from tests.whole import share

JAN, FEB = Span(JANUARY, FEBRUARY), Span(FEBRUARY, MARCH)
MIXED = Span(JANUARY + 10 * DAY_MS + 1, MIDDLE + 7)


@pytest.fixture
def books(engine: sa.Engine) -> Books:
    return Books(engine)


def moved(found: Statement) -> dict[str, int]:
    return {change.section: change.moved_micro for change in found.changes}


def adds_up(found: Statement) -> None:
    """On paper: sections from lines, the closing balance from sections, charges from quantities and rates."""
    assert found.problems == []
    assert found.opening_micro + sum(moved(found).values()) == found.closing_micro
    sections = moved(found)
    assert sections.pop("usage", 0) == -sum(line.charged_micro for line in found.usage)
    assert sections.pop("executions", 0) == -sum(line.charged_micro for line in found.executions)
    for section, micro in sections.items():
        assert micro == sum(line.moved_micro for line in found.credits if line.section == section)
    for usage in found.usage:
        if not usage.more:
            assert None not in (usage.quantity, usage.micro_credits, usage.per_quantity, usage.rounding_micro)
            price = priced(usage.quantity or 0, usage.micro_credits or 0, usage.per_quantity or 1)
            assert usage.charged_micro == price + (usage.rounding_micro or 0)
            assert 2 * abs(usage.rounding_micro or 0) <= usage.charges + 1
    for runs in found.executions:
        parts = runs.drawn_micro + runs.settled_micro + runs.late_micro - runs.written_off_micro
        assert runs.charged_micro == parts
    assert found.reserved_micro == sum(line.held_micro for line in found.held)


@pytest.mark.parametrize("seed", share((4,), whole=(1, 4, 12)))
def test_statement_of_any_month_equals_sum_of_raw_entries(engine: sa.Engine, seed: int) -> None:
    books = Books(engine, seed)
    books.live(130)
    books.pass_time(max(MARCH - books.now, 0) + 2 * HOUR_MS)
    for span in (JAN, FEB, MIXED, Span(0, MARCH)):
        found = books.statement(span)
        adds_up(found)
        assert shown(found) == by_hand(books, span)
        assert found.is_final
        short = books.statement(span, 1)
        adds_up(short)
        assert moved(short) == moved(found), "what is left out is summed up"
        assert max(len(short.usage), len(short.executions), len(short.held)) <= 2
        assert [line.more for line in short.usage] == [0, len(found.usage) - 1][: len(found.usage)]
    assert books.statement(JAN).closing_micro == books.statement(FEB).opening_micro
    for span in (JAN, FEB):
        assert books.statement(span).reserved_micro == books.held[span.to_ms]
    assert {"usage", "executions", "given", "expired", "taken_back"} <= moved(books.statement(Span(0, MARCH))).keys()
    assert [one.text for one in verified(books.fleet).breaches if one.invariant == 10] == []


def test_statement_entry_at_start_of_month_is_in_that_month(books: Books) -> None:
    books.fleet.clock.at_ms = FEBRUARY - 1
    books.use(10, feature="y")
    books.fleet.clock.at_ms = FEBRUARY
    books.use(20, feature="y")
    before, after = books.statement(JAN), books.statement(FEB)
    assert (before.opening_micro, before.closing_micro) == (0, -2_500)
    assert (after.opening_micro, after.closing_micro) == (-2_500, -7_500), "below zero, too"
    assert [line.quantity for line in (*before.usage, *after.usage)] == [10, 20]


def test_statement_late_usage_is_in_month_of_entry_with_own_month(books: Books) -> None:
    books.fleet.clock.at_ms = FEBRUARY + 2 * HOUR_MS
    before = books.statement(JAN)
    assert before.is_final
    books.use(10, FEBRUARY - 1, "y")
    books.use(5, FEBRUARY, "y")
    assert books.statement(JAN) == before
    found = books.statement(FEB)
    lines = [(line.month, line.quantity, line.micro_credits, line.charged_micro) for line in found.usage]
    assert lines == [("2026-01", 10, 250, 2_500), ("2026-02", 5, 250, 1_250)]


def test_statement_is_final_an_hour_after_its_end(books: Books) -> None:
    for at_ms, is_final in ((FEBRUARY - 1, False), (FEBRUARY + FINAL_AFTER_MS - 1, False)):
        books.fleet.clock.at_ms = at_ms
        assert books.statement(JAN).is_final is is_final
    books.fleet.clock.at_ms = FEBRUARY + FINAL_AFTER_MS
    assert books.statement(JAN).is_final


def test_statement_shows_line_for_each_rate_and_ignores_backdated_rate(books: Books) -> None:
    books.fleet.clock.at_ms = MIDDLE - 1
    books.use(100, feature="x")
    books.use(3, feature="x")
    books.fleet.clock.at_ms = MIDDLE
    books.use(100, feature="x")
    before = books.statement(FEB)
    lines = [(line.quantity, line.micro_credits, line.rounding_micro, line.charged_micro) for line in before.usage]
    assert lines == [(103, 3, 0, 44), (100, 5, 0, 71)]
    books.fleet.clock.at_ms = MARCH + DAY_MS
    books.set_rate("x", FEBRUARY, 4, 7)
    after = books.statement(FEB)
    assert (after.usage, after.changes, after.problems) == (before.usage, before.changes, [])


def test_statement_shows_rounding_of_charges(books: Books) -> None:
    for _ in range(5):
        books.use(1, feature="x")  # three sevenths of a micro-credit
    (line,) = books.statement(JAN).usage
    assert (line.charges, line.quantity, line.charged_micro, line.rounding_micro) == (5, 5, 0, -2)
    adds_up(books.statement(JAN))


def test_statement_correction_is_a_line_of_its_own_month(books: Books) -> None:
    books.use(10, feature="y")
    books.fleet.clock.at_ms = FEBRUARY + DAY_MS
    (key,) = books.charged
    books.give_back()
    assert key not in books.charged
    books.use(-4, FEBRUARY, "y")
    (old, new) = books.statement(FEB).usage
    assert [(line.month, line.quantity, line.charged_micro) for line in (old, new)] == [
        ("2026-01", -10, -2_500),
        ("2026-02", -4, -1_000),
    ]
    assert moved(books.statement(FEB)) == {"usage": 3_500}


@pytest.mark.both_databases
def test_statement_shows_lots_that_begin_expire_or_are_taken_back_by_kind(books: Books) -> None:
    books.grant(1_000, kind="included", expires_ms=FEBRUARY + DAY_MS)
    books.grant(500, kind="bonus", begins_ms=FEBRUARY + HOUR_MS)
    bought = books.grant(300, kind="purchased")
    books.use(1, feature="y")
    found = books.statement(JAN)
    assert [(line.section, line.what, line.moved_micro) for line in found.credits] == [
        ("given", "included", 1_000),
        ("given", "purchased", 300),
    ]
    books.fleet.clock.at_ms = FEBRUARY + 2 * DAY_MS
    books.sweep()
    books.write(lambda c: credit.take_back(c, bought, books.fleet.by, whole=False))
    books.take()
    found = books.statement(FEB)
    (taken,) = [line.moved_micro for line in found.credits if line.what == "of no lot"]
    assert [(line.section, line.what, line.moved_micro) for line in found.credits] == [
        ("began", "bonus", 500),
        ("expired", "included", -750),
        ("taken_back", "of no lot", taken),
        ("taken_back", "purchased", -300),
    ]
    adds_up(found)


def test_statement_sums_executions_by_project(books: Books) -> None:
    books.grant(10_000, kind="purchased")
    done = books.accept(100, project="site", overage="cap")
    books.write(lambda c: executions.draw(c, done, 1, Cost(60), books.fleet.by))
    books.settle(done, 70)  # 130 in all, of which 30 are written off
    slow = books.accept(200, project="site", for_ms=HOUR_MS)
    plain = books.accept(50, project=None)
    books.settle(plain, 50)
    books.pass_time(HOUR_MS)
    books.settle(slow, 90)
    found = books.statement(JAN)
    assert [
        (one.project, one.executions, one.drawn_micro, one.settled_micro, one.late_micro, one.written_off_micro)
        for one in found.executions
    ] == [(None, 1, 0, 50, 0, 0), ("site", 2, 60, 70, 90, 30)]
    assert [one.charged_micro for one in found.executions] == [50, 190]
    adds_up(found)


def test_statement_shows_reservations_at_end_with_expiry(books: Books) -> None:
    books.grant(10_000, kind="purchased")
    books.fleet.clock.at_ms = FEBRUARY - HOUR_MS
    key = books.accept(500, project="site", for_ms=3 * HOUR_MS)
    books.accept(40, project=None, for_ms=HOUR_MS)  # over as February begins
    books.write(lambda c: executions.draw(c, key, 1, Cost(100), books.fleet.by))
    going_on = books.statement(JAN)
    assert going_on.reserved_micro == 440 and not going_on.is_final
    books.fleet.clock.at_ms = FEBRUARY + HOUR_MS
    books.write(lambda c: executions.draw(c, key, 2, Cost(50), books.fleet.by))
    books.settle(key, 10)
    found = books.statement(JAN)
    assert found.held == going_on.held
    assert [(one.execution, one.project, one.expires_ms, one.held_micro) for one in found.held] == [
        (key, "site", FEBRUARY + 2 * HOUR_MS, 400),
        ("r-3", None, FEBRUARY, 40),
    ]
    assert books.statement(FEB).held == []


def test_statement_of_topup_shows_amount_paid(engine: sa.Engine) -> None:
    purses = Purses(engine)
    purses.set()
    purses.grant(3)
    purses.fill()
    assert [state for _, state in purses.topups()] == ["credited"]
    found = read(engine, lambda c: of_customer(c, "acme", JAN, purses.clock.at_ms))
    lines = [(one.section, one.what, one.entries, one.money_minor, one.currency) for one in found.credits]
    assert lines == [("given", "purchased", 1, None, None), ("topped_up", "purchased", 1, 2_000, "usd")]
    assert moved(found) == {"given": 3 * MICRO, "topped_up": 20 * MICRO}
    adds_up(found)


@pytest.mark.both_databases
def test_statement_shows_rolled_over_credit_apart_from_new_credit(engine: sa.Engine) -> None:
    """As new credit, and as expired before, it would count as given twice and as never used."""
    account = Account(engine)
    account.plan("team", 100, 10, 40)
    account.join()
    account.use(30)
    account.sweep(FEBRUARY + HOUR_MS)
    account.use(10, FEBRUARY)
    account.use(40, FEBRUARY - DAY_MS)
    account.sweep()
    account.sweep(MARCH + HOUR_MS)
    found = read(engine, lambda c: of_customer(c, "acme", Span(FEBRUARY, MARCH + DAY_MS), account.fleet.clock.at_ms))
    assert [(one.section, one.what, one.moved_micro) for one in found.credits] == [
        ("given", "included", 100 + 100), ("given", "rolled over", 40 + 40), ("expired", "included", 40 - 70 - 100),
        ("expired", "rolled over", -20), ("taken_back", "rolled over", -10),
    ]  # fmt: skip
    adds_up(found)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("UPDATE ledger_entries SET amount_micro = amount_micro + 1 WHERE key = 'u-2'", "charges of y (1, 2501"),
        ("DELETE FROM ledger_entries WHERE key = 'u-3'", "has a balance of 4250, but its entries sum to"),
        ("UPDATE ledger_accounts SET balance_micro = balance_micro - 1", "has a balance of 4249, but"),
        ("UPDATE ledger_entries SET ts = 9000000000000000000 WHERE key = 'u-2'", None),
    ],
    ids=["amount", "gone", "balance", "time"],
)
def test_statement_with_tampered_rows_reports_problem(books: Books, change: str, says: str | None) -> None:
    books.grant(10_000, kind="purchased")
    books.use(10, feature="y")
    books.use(13, feature="y")
    adds_up(books.statement(JAN))
    tamper(books.fleet, change)
    found = books.statement(JAN)
    if says is None:  # a moment that no calendar has is no reason to fail
        assert "" in {line.month for line in found.usage}
    else:
        assert any(says in problem for problem in found.problems), found.problems


def test_statement_span_requires_month_or_both_ends() -> None:
    assert span_of("2026-02", None, None) == FEB
    assert span_of("2025-12", None, None).to_ms == JANUARY
    assert span_of(None, 5, 6) == Span(5, 6)
    wrong: tuple[tuple[Any, Any, Any], ...] = (
        ("2026-13", None, None), ("2026-2", None, None), ("0000-01", None, None), ("9999-12", None, None),
        ("2026-02", 1, None), (None, None, None), (None, 1, None), (None, 6, 6),
    )  # fmt: skip
    for given in wrong:
        with pytest.raises(UsageError):
            span_of(*given)


def test_statement_csv_adds_up_and_escapes_spreadsheet_formulas(books: Books) -> None:
    books.grant(10_000_000, kind="purchased")
    books.use(1_000, feature="y")
    books.settle(books.accept(500, project="=1+1"), 70)
    books.accept(500, project="@shop", for_ms=40 * HOUR_MS)
    books.accept(500, project="\u202egpj.exe", for_ms=50 * HOUR_MS)
    found = books.statement(JAN)
    rows = list(csv.DictReader(io.StringIO("".join(csv_lines(found)))))
    opening, closing = (Decimal(row["balance"]) for row in rows if row["balance"])
    assert opening + sum(Decimal(row["moved"]) for row in rows if row["moved"]) == closing == Decimal("9.74993")
    assert [row["project"] for row in rows if row["project"]] == [
        "'=1+1", "'@shop", "\\u202egpj.exe",
    ]  # fmt: skip
    assert [row["section"] for row in rows] == ["opening", "given", "usage", "executions", "closing", "held", "held"]
    made: Any = as_object(found)
    assert (made["closing"], made["closing_micro"], made["reserved"]) == (9.74993, 9_749_930, 0.001)
    assert made["usage"][0]["charged"] == 0.25 and made["usage"][0]["rounding_micro"] == 0
    assert "rounding" not in made["usage"][0]
    json.dumps(made)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_statement_command_prints_table_json_and_csv(
    books: Books, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    books.grant(10_000_000, kind="included")
    books.use(1_000, feature="y")
    books.accept(500, project="site", for_ms=40 * HOUR_MS)
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", database_url)
    monkeypatch.setenv("DRAWDOWN_STATE_DIR", str(tmp_path / "state"))
    books.fleet.engine.dispose()

    def asked(*words: str, status: int = 0) -> str:
        line = ["--at", str(books.now), "ledger", "statement", "acme", *words]
        assert run(global_options_first(line)) == status
        said = capsys.readouterr()
        return said.out + said.err

    lines = [" ".join(line.split()) for line in asked("--month", "2026-01").splitlines()]
    for line in (
        "acme, booked from 2026-01-01T00:00:00Z to 2026-02-01T00:00:00Z; it may still change",
        "opening balance - 0.00", "given included 1 10.00", "usage below 1 -0.25", "closing balance - 9.75",
        "y 2026-01 1 1,000 250 1 0 0.25", "r-3 acme site 2026-01-02T16:00:00Z 0.0005",
    ):  # fmt: skip
        assert line in lines, lines
    assert json.loads(asked("--month", "2026-01", "--json"))["closing_micro"] == 9_750_000
    assert asked("--from", "2026-01-01", "--to", "2026-02-01", "--csv").count("\n") == 6
    assert "not both" in asked("--month", "2026-01", "--csv", "--json", status=2)
    assert "missing period" in asked(status=2)
    tamper(books.fleet, "UPDATE ledger_accounts SET balance_micro = balance_micro - 1")
    assert "the statement does not add up: the wallet has" in asked("--month", "2026-01", status=1)
