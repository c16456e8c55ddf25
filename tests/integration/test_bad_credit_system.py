"""A credit system at Autumn that cannot bill: `provider check` and `doctor` report it before anything is billed."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
import typer

from drawdown.cli.nouns import doctor, providers
from drawdown.schema.database import read
from drawdown.worker.engine.runner import World
from tests.integration.test_autumn_credits import COSTS, House
from tests.world import T0


def _costs(house: House, **costs: Decimal | None) -> None:
    """Set costs of the credits; None: the feature is in no credit system."""
    schema = {**COSTS, **costs}
    left = {name: cost for name, cost in schema.items() if cost is not None}
    house.autumn.account.add_feature("credits", kind="credit_system", credit_schema=left)


def _second_system(house: House) -> None:
    house.autumn.account.add_feature("gold", kind="credit_system", credit_schema={"compute_4gb": Decimal(2)})


def _control(house: House) -> None:
    limit = {"feature_id": "credits", "enabled": True, "limit": 5, "interval": "fortnight"}
    house.autumn.account.control("acme", {"usage_limits": [limit]}, T0)


FAULTS: dict[str, tuple[Callable[[House], object], str]] = {
    "a feature in no credit system": (
        lambda house: _costs(house, compute_4gb=None),
        "customer acme does not have a balance of compute_4gb, so Autumn would not charge its usage",
    ),
    "a cost of zero": (
        lambda house: _costs(house, compute_4gb=Decimal(0)),
        "feature compute_4gb costs 0 in credit system credits: its usage is free",
    ),
    "two credit systems": (_second_system, "feature compute_4gb is in 2 credit systems at Autumn (credits, gold)"),
    "twelve decimals": (
        lambda house: _costs(house, compute_4gb=Decimal("0.000000000001")),
        "feature compute_4gb costs 0.000000000001 in credit system credits: Autumn keeps balances to 10 decimals",
    ),
    "seats": (
        lambda house: house.autumn.account.add_feature("compute_4gb", consumable=False),
        "feature compute_4gb is held as seats at Autumn, and credit system credits charges for it",
    ),
    "controls of an unknown kind": (_control, "customer acme has a usage limit of credits"),
}


def checked(house: House, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The faults that `provider check autumn` finds."""
    context: Any = SimpleNamespace(obj=_app(house))
    with pytest.raises(typer.Exit):
        providers.check(context, "autumn", most=50)
    problems: list[str] = json.loads(capsys.readouterr().out)["problems"]
    return problems


def examined(house: House) -> list[str]:
    """The faults that `doctor` finds at Autumn."""
    found = doctor._account(_app(house), "autumn", house.fleet.providers["autumn"])
    return [one.what for one in found if not one.ok]


def _app(house: House) -> Any:
    fleet = house.fleet
    world = World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    return SimpleNamespace(
        read=lambda work: read(fleet.engine, work),
        clock=fleet.clock,
        world=lambda: world,
        registry=SimpleNamespace(providers=fleet.providers),
        require_provider=lambda name: name,
        json=True,
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_credit_system_that_cannot_bill_is_reported_by_both_commands(
    engine: sa.Engine, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    house = House(engine, {"acme": 10})
    assert checked(house, capsys) == examined(house) == []
    cause, words = FAULTS[fault]
    cause(house)
    assert any(words in what for what in checked(house, capsys))
    assert any(words in what for what in examined(house))
    assert house.fleet.rows("SELECT * FROM pushes") == [], "nothing was billed yet"


def test_customer_credit_check_covers_only_used_features(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 10, "globex": 10})
    house.use("acme", 5, size=1)
    house.bill()
    outside = "autumn: credit system credits alone decides about halts, but does not pay for "
    _costs(house, compute_4gb=None)
    (said,) = examined(house)
    assert said.startswith(f"{outside}compute_4gb."), "neither customer uses it"
    _costs(house, compute_1gb=None)
    said, of_customer = examined(house)
    assert said.startswith(f"{outside}compute_1gb.")
    assert of_customer.startswith("autumn: customer acme does not have a balance of compute_1gb, so Autumn")
