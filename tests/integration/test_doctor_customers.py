"""What `drawdown doctor` says of a provider's customers: limits that Drawdown does not understand, within a bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa

from drawdown.cli.nouns import doctor
from drawdown.providers.protocol import Provider
from drawdown.schema.database import read
from drawdown.worker.engine.runner import World
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.test_autumn_credits import House
from tests.world import T0, Fleet


def said(fleet: Fleet, name: str, provider: Provider) -> list[tuple[str, str]]:
    """What it says of the account of a provider."""
    world = World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    app: Any = SimpleNamespace(read=lambda work: read(fleet.engine, work), clock=fleet.clock, world=lambda: world)
    return [(one.mark, one.what) for one in doctor._account(app, name, provider)]


def test_doctor_unknown_autumn_limit_is_reported(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 10, "globex": 10})
    house.tick(T0)
    provider = house.fleet.providers["autumn"]
    assert said(house.fleet, "autumn", provider) == []
    unknown = {"feature_id": "credits", "enabled": True, "limit": 5, "interval": "month", "filter": {"plan": "x"}}
    house.autumn.account.control("globex", {"usage_limits": [unknown]}, T0)
    ((mark, what),) = said(house.fleet, "autumn", provider)
    assert mark == "WRONG" and "customer globex has a usage limit of credits" in what


@dataclass
class Asked(FakeProvider):
    """Remembers which customers it was asked about."""

    customers_asked: list[str] = field(default_factory=list)

    async def check(self, features: Sequence[str], customer_ids: Sequence[str]) -> Sequence[str]:
        self.customers_asked += customer_ids
        return ["the key is refused"]


def test_doctor_customers_beyond_limit_are_reported_as_unchecked(engine: sa.Engine) -> None:
    provider = Asked(capabilities(), name="fake")
    fleet = Fleet(engine, extra={"fake": provider})
    names = [f"org-{number:02d}" for number in range(doctor.MOST_CUSTOMERS)]
    fleet.assign(*names, provider="fake", from_ms=T0)
    wrong = ("WRONG", "fake: the key is refused")
    assert said(fleet, "fake", provider) == [wrong], "said once, however often it is answered"
    assert provider.customers_asked == names
    fleet.assign("org-99", provider="fake", from_ms=T0)
    found = said(fleet, "fake", provider)
    assert found[0] == wrong and found[1][0] == "off" and "doctor checked 20 customers" in found[1][1]
    assert provider.customers_asked == 2 * names
