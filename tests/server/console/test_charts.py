"""Charts of credits: no money is lost in them, whatever features are called."""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.ledger import wallet
from drawdown.ledger.entries import Usage
from drawdown.ledger.runs.draws import Cost
from drawdown.schema.database import write
from drawdown.schema.ids import FEATURE_NAME
from drawdown.schema.units import MICRO
from drawdown.server.console.frame import charts
from drawdown.server.console.screens.customers import usage
from drawdown.worker.commands import credit, executions
from drawdown.worker.commands.run_request import Request
from drawdown.worker.views.wallet_days import Use
from tests.server.console.test_elsewhere import shown
from tests.server.console_home import Home


def test_a_run_that_names_no_feature_and_the_feature_runs_are_two(home_engine: sa.Engine) -> None:
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


def test_all_that_was_used_is_in_the_series_whatever_features_are_called() -> None:
    names = ("", "runs", "others", "a", "b", "c")
    found = usage.chart([Use(0, name, (10 - at) * MICRO) for at, name in enumerate(names)], 5, 0)
    called = [name for name, _, _ in found.series]
    assert called == [usage.OTHER, "runs", "others", charts.OTHERS] and len(set(called)) == 4
    assert sum(micro for _, _, micro in found.series) == (10 + 9 + 8 + 7 + 6 + 5) * MICRO
    assert not [name for name in (usage.OTHER, charts.OTHERS) if FEATURE_NAME.fullmatch(name)]
