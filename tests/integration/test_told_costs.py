"""Rates that a provider tells itself: estimates use them, and an operator's are refused beside them."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from drawdown.schema.database import read, write
from drawdown.schema.errors import Refused
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.commands.rates import set_rate
from drawdown.worker.verdict.rates import rate_card_of, rate_rows
from drawdown.worker.views.features import unestimated_features
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


def test_no_rate_is_set_where_the_provider_tells_its_costs(fleet: Fleet) -> None:
    told(fleet, "compute_4gb", 7)
    with pytest.raises(Refused, match=r"reports its own costs.*`drawdown provider rate fake`"):
        rate(fleet, "compute_8gb", 1)
    assert rate(fleet, "compute_8gb", 1, tells=False) == 0, "it declares no longer that it does"
    assert (micro(fleet, "compute_4gb"), micro(fleet, "compute_8gb")) == (7, 1)


def test_an_operators_rate_holds_where_the_provider_tells_none(fleet: Fleet) -> None:
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


def test_costs_in_two_units_are_not_added_up(fleet: Fleet) -> None:
    """One of them would be taken off a balance that is told in the other."""
    rate(fleet, "compute_1gb", 5)
    told(fleet, "compute_4gb", 7)
    told(fleet, "compute_8gb", 3, "tokens")
    assert [micro(fleet, f"compute_{size}gb") for size in (1, 4, 8)] == [5, None, None]
    assert "compute_4gb" in read(fleet.engine, unestimated_features)["fake"]
    rate(fleet, "compute_4gb", 6, from_ms=T0)
    assert micro(fleet, "compute_4gb") == 6


def test_features_whose_cost_is_told_are_not_named(fleet: Fleet) -> None:
    told(fleet, "compute_4gb", 7)
    unrated = read(fleet.engine, unestimated_features)["fake"]
    assert "compute_4gb" not in unrated
    assert "compute_8gb" in unrated
