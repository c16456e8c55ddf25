"""What is said of a check: shadow mode forgives a share, by its number; a provider is asked for what customers use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.cli.nouns import providers, reconcile
from drawdown.schema.database import read
from drawdown.worker.provider.lists import features_used
from drawdown.worker.reconcile.report import Reconciled
from tests.fake_provider import FakeProvider, capabilities
from tests.world import T0, Fleet


def test_reconcile_report_shows_shadow_threshold() -> None:
    (line,) = reconcile._report(Reconciled(compared=12, forgiven=3), 0.0, 15.0)
    assert line == (
        "12 compared (organisation, feature, day), 0 differ by more than 15 % in shadow; 3 by less "
        "(--shadow-threshold 0 lists them)"
    )
    assert reconcile._report(Reconciled(compared=12), 0.0, 15.0) == [
        "12 compared (organisation, feature, day), 0 differ"
    ]


class Asked(FakeProvider):
    """Has no balance of a feature for anybody, as a service that sells it to others only."""

    def __init__(self) -> None:
        super().__init__(capabilities())
        self.asked: list[tuple[Sequence[str], Sequence[str]]] = []

    async def check(self, features: Sequence[str], customer_ids: Sequence[str]) -> Sequence[str]:
        self.asked.append((features, customer_ids))
        return [f"{customer} has no balance of {one}" for customer in customer_ids for one in features
                if one == "compute_4gb" and customer == "acme"]  # fmt: skip


@pytest.mark.both_databases
def test_provider_check_covers_features_each_customer_uses(engine: sa.Engine) -> None:
    provider = Asked()
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", "globex", "idle", provider="fake", from_ms=T0)
    fleet.sample("acme", T0 + 1, memory_mb=1024)
    fleet.sample("globex", T0 + 1, memory_mb=4096)
    fleet.tick_windows(2)
    names = ["acme", "globex", "idle"]
    by_use = read(engine, lambda c: features_used(c, "fake", names, fleet.clock.at_ms))
    assert by_use == {("compute_1gb",): ["acme"], ("compute_4gb",): ["globex"], (): ["idle"]}
    app: Any = type("App", (), {"world": lambda _: _World()})()
    assert providers.check_account(app, provider, ["compute_1gb", "compute_4gb"], by_use) == []
    assert provider.asked == [
        (["compute_1gb", "compute_4gb"], []), (["compute_1gb"], ["acme"]), (["compute_4gb"], ["globex"]),
        ([], ["idle"]),
    ]  # fmt: skip
    assert json.dumps(provider.asked)


class _World:
    http = None
