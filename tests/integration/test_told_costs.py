"""Rates that a provider tells itself: estimates use them, and an operator's are refused beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import Cost
from drawdown.schema.database import read, write
from drawdown.schema.errors import Refused
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.features.lists import unestimated_features
from drawdown.worker.provider.actions import set_rate
from drawdown.worker.verdict.costs import AT_ONCE, MOST_CHANGES, learn_costs
from drawdown.worker.verdict.rates import rate_card_of, rate_rows
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.test_first_rate import told
from tests.world import T0, Fleet


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    made = Fleet(engine, extra={"fake": FakeProvider(capabilities())})
    made.assign("acme", provider="fake", from_ms=T0)
    return made


def rate(fleet: Fleet, feature: str, micro: int, *, tells: bool = True, from_ms: int | None = None) -> int:
    return write(
        fleet.engine, lambda c: set_rate(c, "fake", feature, (micro, 1), fleet.by, from_ms=from_ms, tells=tells)
    )


def micro(fleet: Fleet, feature: str, at_ms: int = T0) -> int | None:
    found = read(fleet.engine, lambda c: rate_card_of(c, "fake")).rate(feature, at_ms)
    return None if found is None else found.micro_credits


def test_rate_for_provider_that_reports_costs_is_refused(fleet: Fleet) -> None:
    told(fleet, "compute_4gb", 7)
    with pytest.raises(Refused, match=r"reports its own costs.*`drawdown provider rates fake`"):
        rate(fleet, "compute_8gb", 1)
    assert rate(fleet, "compute_8gb", 1, tells=False) == 0, "it declares no longer that it does"
    assert (micro(fleet, "compute_4gb"), micro(fleet, "compute_8gb")) == (7, 1)


def test_operator_rates_set_in_either_order_end_with_later_rate(fleet: Fleet) -> None:
    """A rate that was set back before the other began counted as a repetition, and the other stayed in force."""
    first, last = T0 + WINDOW_MS, T0 + 2 * WINDOW_MS
    for feature, order in (("compute_1gb", (first, last, first)), ("compute_4gb", (last, first, last))):
        rate(fleet, feature, 100)
        for start in order:
            assert rate(fleet, feature, 50 if start == first else 100, from_ms=start) == start
        assert [micro(fleet, feature, at) for at in (T0, first, last)] == [100, 50, 100]
    assert fleet.one("SELECT COUNT(*) FROM operator_actions WHERE action = 'provider_rate'") == 6


def test_operator_rate_applies_until_provider_reports_cost(fleet: Fleet) -> None:
    rate(fleet, "compute_1gb", 5)
    rate(fleet, "compute_4gb", 5)
    rate(fleet, "compute_4gb", 9, from_ms=T0 + WINDOW_MS)
    told(fleet, "compute_4gb", 7, start_ms=T0)
    assert micro(fleet, "compute_1gb") == 5
    assert [micro(fleet, "compute_4gb", at) for at in (T0 - WINDOW_MS, T0, T0 + 2 * WINDOW_MS)] == [5, 7, 7]
    rows = [
        (row.feature, row.micro, row.balance, row.in_use) for row in read(fleet.engine, lambda c: rate_rows(c, "fake"))
    ]
    assert rows == [
        ("compute_1gb", 5, None, True),
        ("compute_4gb", 5, None, True),
        ("compute_4gb", 7, "credits", True),
        ("compute_4gb", 9, None, False),
    ]


def test_costs_in_two_balances_are_not_estimated(fleet: Fleet) -> None:
    """One of them would be taken off a balance that is told in the other."""
    rate(fleet, "compute_1gb", 5)
    told(fleet, "compute_4gb", 7)
    told(fleet, "compute_8gb", 3, "tokens")
    assert [micro(fleet, f"compute_{size}gb") for size in (1, 4, 8)] == [5, None, None]
    assert "compute_4gb" in read(fleet.engine, unestimated_features)["fake"]
    rate(fleet, "compute_4gb", 6, from_ms=T0)
    assert micro(fleet, "compute_4gb") == 6


def test_feature_with_reported_cost_is_not_listed_as_unestimated(fleet: Fleet) -> None:
    told(fleet, "compute_4gb", 7)
    unrated = read(fleet.engine, unestimated_features)["fake"]
    assert "compute_4gb" not in unrated
    assert "compute_8gb" in unrated


@dataclass
class Telling(FakeProvider):
    """What it says units cost."""

    says: Sequence[Cost] = ()

    async def costs(self, known: Sequence[Cost]) -> Sequence[Cost]:
        return self.says


def learn(fleet: Fleet, *says: Cost) -> None:
    fleet.clock.at_ms += 1_000
    provider = Telling(capabilities(costs=True), says=says)
    providers: Any = {**fleet.providers, "fake": provider}
    fleet.extra = {"fake": provider}
    context = fleet.context()
    cells: Any = fleet.cells
    runner.run(learn_costs(context, "fake"), runner.World(fleet.engine, providers, cells, fleet.clock))


def rows(fleet: Fleet) -> object:
    return fleet.one("SELECT COUNT(*) FROM provider_rates")


def sealed(fleet: Fleet) -> None:
    fleet.sample("acme", T0 + 1, 60)
    fleet.tick(T0 + 4 * WINDOW_MS)


def test_costs_above_portion_size_are_all_stored(fleet: Fleet) -> None:
    sealed(fleet)
    learn(fleet, *(Cost(f"feature-{number}", "credits", Decimal(1)) for number in range(AT_ONCE + 1)))
    assert rows(fleet) == AT_ONCE + 1
    assert fleet.one("SELECT costs_read_ms FROM provider_states WHERE provider = 'fake'") is not None


def test_cost_too_large_to_store_leaves_rates_unchanged(fleet: Fleet) -> None:
    """As of a provider whose answers nobody looked at."""
    sealed(fleet)
    learn(fleet, Cost("compute_1gb", "credits", Decimal(10) ** 18))
    assert rows(fleet) == 0
    assert fleet.one("SELECT costs_read_ms FROM provider_states WHERE provider = 'fake'") is None


def test_cost_that_keeps_changing_is_stored_at_most_most_changes_times(fleet: Fleet) -> None:
    sealed(fleet)
    text = sa.text(
        "INSERT INTO provider_rates (provider, feature, start_ms, micro, per_quantity, at_ms, actor, reason, balance) "
        "VALUES ('fake', 'compute_1gb', :at, :at, 1, :at, 'fake', 'told', 'credits')"
    )
    write(fleet.engine, lambda c: c.execute(text, [{"at": at} for at in range(1, MOST_CHANGES)]))
    for cost in (1, 2, 3):
        learn(fleet, Cost("compute_1gb", "credits", Decimal(cost)))
    assert rows(fleet) == MOST_CHANGES
