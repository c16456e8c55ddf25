"""Charts of credits: no money is lost in them, whatever features are called."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from drawdown.ledger import wallet
from drawdown.ledger.draws import Cost
from drawdown.ledger.entries import Usage
from drawdown.schema.database import write
from drawdown.schema.ids import FEATURE_NAME
from drawdown.schema.units import DAY_MS, MICRO
from drawdown.server.console.frame import charts
from drawdown.server.console.screens.customers import usage
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets.entries import Use
from tests.server.console.test_elsewhere import shown
from tests.server.console_home import Home


def test_usage_chart_execution_without_feature_is_separate_series(home_engine: sa.Engine) -> None:
    """The page of the organisation; its customers' own page has the same chart."""
    home = Home(home_engine, copied=True)
    home.fleet.assign("soylent")
    write(home.engine, lambda c: credit.grant(c, "soylent", 9 * MICRO, home.fleet.by, key="s", plan=None))
    write(home.engine, lambda c: credit.set_rate(c, "runs", MICRO, 1, home.fleet.by, from_ms=0))
    write(home.engine, lambda c: wallet.charge(c, [Usage("u", "soylent", "runs", 2, home.now)], home.now))
    write(home.engine, lambda c: executions.accept(c, "r", Request("soylent", MICRO), home.fleet.by))
    write(home.engine, lambda c: executions.settle(c, "r", Cost(MICRO), home.fleet.by))
    page = shown(home, "/console/org?id=soylent&tab=usage")
    assert f"runs 2.00 {usage.OTHER} 1.00" in page
    assert "2026-01-01 3.00" in page, "as the table beside it says"


def test_usage_chart_any_feature_names_series_sum_equals_usage() -> None:
    names = ("", "runs", "others", "a", "b", "c")
    found = usage.chart([Use(0, name, (10 - at) * MICRO) for at, name in enumerate(names)], 5, 0)
    called = [name for name, _, _ in found.series]
    assert called == [usage.OTHER, "runs", "others", charts.OTHERS] and len(set(called)) == 4
    assert sum(micro for _, _, micro in found.series) == (10 + 9 + 8 + 7 + 6 + 5) * MICRO
    assert not [name for name in (usage.OTHER, charts.OTHERS) if FEATURE_NAME.fullmatch(name)]


def test_usage_chart_written_off_usage_is_excluded(home_engine: sa.Engine) -> None:
    """Bars, series and the day of the table are what the ledger moved; its customers' own page has the same chart."""
    home = Home(home_engine, copied=True)
    home.fleet.assign("soylent")
    write(home.engine, lambda c: credit.grant(c, "soylent", 99 * MICRO, home.fleet.by, key="s", plan=None))
    write(home.engine, lambda c: credit.set_rate(c, "gpu_s", MICRO, 1, home.fleet.by, from_ms=0))
    write(home.engine, lambda c: wallet.charge(c, [Usage("u", "soylent", "gpu_s", 1, home.now)], home.now))
    capped = Request("soylent", 10 * MICRO, overage="cap")
    write(home.engine, lambda c: executions.accept(c, "r", capped, home.fleet.by))
    write(home.engine, lambda c: executions.settle(c, "r", Cost(quantities={"gpu_s": 40}), home.fleet.by))
    page = shown(home, "/console/org?id=soylent&tab=usage")
    assert "Used in 30 days 11.00" in page and "gpu_s 11.00" in page and "2026-01-01 11.00" in page
    assert "gpu_s 41.00" not in page


@pytest.mark.parametrize(
    ("days", "series", "high"),
    [
        ([{"a": 40, "": -30}], {"a": 10}, "100.000%"),
        ([{"a": 40, "b": 15, "": -30}], {"b": 15, "a": 10}, "30.000%"),
        ([{"a": 40, "b": 35, "": -70}], {"b": 5}, "100.000%"),
        ([{"a": 4, "": -9}, {"a": 4, "": 9}], {"a": 4, usage.OTHER: 4}, "45.000%"),
        ([{"a": 4}, {"a": -4}], {"a": 0}, "80.000%"),
    ],
)
def test_usage_chart_refund_is_subtracted_from_its_day(
    days: list[dict[str, int]], series: dict[str, int], high: str
) -> None:
    """As a whole: series add up to all days, and no bar is higher than its day."""
    uses = [Use(at * DAY_MS, name, amount * MICRO) for at, day in enumerate(days) for name, amount in day.items()]
    found = usage.chart(uses, len(days) * DAY_MS - 1, 0)
    assert {name: micro // MICRO for name, _, micro in found.series} == series
    assert sum(micro for _, _, micro in found.series) == sum(use.micro for use in uses)
    assert f'height="{high}"' in found.picture
