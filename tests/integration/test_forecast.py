"""When the credit ends: known answers, by whole numbers; nothing is made up below three full days of use."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, MICRO
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets.entries import FURTHEST_MS, Forecast, forecast_of
from tests.world import T0, Fleet

TODAY = T0 + 20 * DAY_MS
NOW = TODAY + 12_345


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    made = Fleet(engine)
    write(engine, lambda c: credit.grant(c, "acme", 100 * MICRO, made.by, key="paid", plan=None, new=True))
    return made


def used(fleet: Fleet, ts: int, micro: int, kind: str = "usage", account: str = "wallet:acme") -> None:
    count = fleet.one("SELECT COUNT(*) FROM ledger_entries")
    fleet.write(
        "INSERT INTO ledger_accounts (account_id, balance_micro) VALUES ('reservations', 0) ON CONFLICT DO NOTHING"
    )
    columns, values = ("feature, quantity", "'compute_1gb', 1") if kind == "usage" else ("reservation", "'e-1'")
    fleet.write(
        f"INSERT INTO ledger_entries (key, kind, from_account, to_account, amount_micro, {columns}, ts, at_ms, actor, "
        f"reason) VALUES ('{kind}:{count}', '{kind}', '{account}', 'revenue', {micro}, {values}, {ts}, {NOW}, 't', 't')"
    )


def told(fleet: Fleet, available: int, now: int = NOW) -> Forecast:
    return read(fleet.engine, lambda c: forecast_of(c, "acme", available, now))


@pytest.mark.both_databases
def test_forecast_from_seven_days_returns_end_of_credit(fleet: Fleet) -> None:
    for day in range(1, 8):
        used(fleet, TODAY - day * DAY_MS, 10 * MICRO)
    used(fleet, TODAY - 8 * DAY_MS, 10**12)
    used(fleet, TODAY, 10**12)
    used(fleet, TODAY - 2 * DAY_MS, 10**12, account="wallet:globex")
    week = TODAY - 7 * DAY_MS
    assert told(fleet, 100 * MICRO) == Forecast("ends", NOW + 10 * DAY_MS, 7, week, 70 * MICRO)
    assert told(fleet, 1) == Forecast("ends", NOW + 8, 7, week, 70 * MICRO), "rounded down, to a millisecond"
    assert told(fleet, 0) == told(fleet, -5) == Forecast("spent", None, 7, week, 70 * MICRO)


def test_forecast_counts_executions_and_subtracts_refunds(fleet: Fleet) -> None:
    used(fleet, TODAY - 3 * DAY_MS, 9 * MICRO)
    used(fleet, TODAY - DAY_MS, 4 * MICRO, "execution")
    used(fleet, TODAY - 1, -MICRO)
    assert told(fleet, 8 * MICRO) == Forecast("ends", NOW + 2 * DAY_MS, 3, TODAY - 3 * DAY_MS, 12 * MICRO)


@pytest.mark.parametrize(
    ("first_ms", "days"),
    [(-3 * DAY_MS, 3), (-3 * DAY_MS + 1, 2), (-3 * DAY_MS - 1, 3), (-4 * DAY_MS, 4), (-1, 0), (0, 0), (10_000, 0),
     (-40 * DAY_MS, 7)],
)  # fmt: skip
def test_forecast_needs_three_full_days_since_first_use(fleet: Fleet, first_ms: int, days: int) -> None:
    used(fleet, TODAY + first_ms, MICRO)
    found = told(fleet, MICRO)
    assert found.days == days
    assert (found.state == "unknown") is (days < 3)
    assert (found.used_micro is None) is (days < 3)


def test_forecast_without_use_is_unknown_and_without_recent_use_lasts(fleet: Fleet) -> None:
    assert told(fleet, MICRO) == Forecast("unknown", None, 0, None, None)
    assert told(fleet, 0) == Forecast("spent", None, 0, None, None)
    used(fleet, TODAY - 9 * DAY_MS, MICRO)
    assert told(fleet, MICRO) == Forecast("lasts", None, 7, TODAY - 7 * DAY_MS, 0)
    used(fleet, TODAY - DAY_MS, -MICRO)
    assert told(fleet, MICRO).state == "lasts"


def test_forecast_end_beyond_calendar_is_shown_as_lasting(fleet: Fleet) -> None:
    used(fleet, TODAY - 7 * DAY_MS, 1)
    assert told(fleet, 10**15).state == "lasts"
    last = (FURTHEST_MS - NOW) // (7 * DAY_MS)
    assert (told(fleet, last).state, told(fleet, last + 1).state) == ("ends", "lasts")
