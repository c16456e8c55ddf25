"""The watch beside runs: what they charge is gone from the wallet at once, and with it from what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import sqlalchemy as sa

from drawdown.ledger.draws import Cost
from drawdown.providers.protocol import CustomerRead
from drawdown.providers.stripe import _wallets
from drawdown.schema.database import read, write
from drawdown.schema.units import MINUTE_MS, SECOND_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.features.actions import DEFAULT_MICRO_CREDITS_PER_GB_S as SECOND
from drawdown.worker.orgs.lists import OrgFilter, list_orgs
from drawdown.worker.status.status import org_status
from drawdown.worker.verdict.refresh_requests import mark_for_projection
from drawdown.worker.wallets import actions as credit
from tests.fake_provider import FakeProvider, capabilities
from tests.prepaid import Moving, look
from tests.world import T0, Fleet


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    """An organisation with 100 credits, read once."""
    made = Fleet(engine, Moving(T0))
    made.assign("acme", from_ms=T0)
    write(engine, lambda c: credit.grant(c, "acme", 100 * SECOND, made.by, key="paid", plan=None))
    made.tick()
    return made


def left(fleet: Fleet) -> int | None:
    return read(fleet.engine, lambda c: list_orgs(c, OrgFilter(), fleet.clock.at_ms)).orgs[0].left_now_micro


def test_credit_charged_by_execution_is_not_available_for_usage(fleet: Fleet) -> None:
    """More is left than the run had held, so that nobody is asked about its wallet at once."""
    write(fleet.engine, lambda c: executions.accept(c, "r", Request("acme", 40 * SECOND), fleet.by))
    assert left(fleet) == 60 * SECOND
    write(fleet.engine, lambda c: executions.settle(c, "r", Cost(40 * SECOND), fleet.by))
    assert fleet.one("SELECT projection_due_ms FROM orgs") is None
    assert left(fleet) == 60 * SECOND
    shown = read(fleet.engine, lambda c: org_status(c, "acme", fleet.clock.at_ms)).credit
    assert shown is not None and (shown.balance_micro, shown.effective_micro) == (60 * SECOND, 60 * SECOND)
    fleet.sample("acme", fleet.clock.at_ms, interval_s=50)
    assert look(fleet).halted == 0
    fleet.sample("acme", fleet.clock.at_ms, interval_s=20)
    assert (left(fleet) or 0) <= -10 * SECOND
    assert look(fleet, 30 * SECOND_MS).halted == 1
    assert fleet.one("SELECT balance_micro FROM orgs") == 60 * SECOND


def test_usage_sealed_and_charged_is_deducted_once(fleet: Fleet) -> None:
    fleet.sample("acme", fleet.clock.at_ms, interval_s=30)
    assert left(fleet) == 70 * SECOND
    write(fleet.engine, lambda c: executions.accept(c, "r", Request("acme", 40 * SECOND), fleet.by))
    fleet.tick_windows(2)
    assert left(fleet) == 30 * SECOND
    write(fleet.engine, lambda c: executions.settle(c, "r", Cost(15 * SECOND), fleet.by))
    assert left(fleet) == 55 * SECOND


class Mirrored(FakeProvider):
    """Bills elsewhere, and answers no push. Its customers' balances are wallets here, as Stripe's are."""

    engine: sa.Engine

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        return read(self.engine, lambda c: _wallets(c, customer_ids=customer_ids, now_ms=T0))


def test_execution_charge_does_not_confirm_unanswered_push(engine: sa.Engine) -> None:
    """While the provider answers nothing, what was sent is in no read of the wallet, however much that fell."""
    provider = Mirrored(capabilities(balance_in_ledger=True))
    provider.engine, provider.fails = engine, ConnectionError("away")
    fleet = Fleet(engine, Moving(T0), extra={"fake": provider})
    fleet.assign("acme", provider="fake", from_ms=T0)
    write(engine, lambda c: credit.grant(c, "acme", 100 * SECOND, fleet.by, key="paid", plan=None))
    fleet.tick()
    for run in ("one", "two"):
        write(engine, lambda c, run=run: executions.accept(c, run, Request("acme", 10 * SECOND), fleet.by))  # type: ignore[misc]
    fleet.sample("acme", T0 + 1, interval_s=50)
    fleet.tick_windows(2)
    look(fleet)
    write(engine, lambda c: mark_for_projection(c, ["acme"], fleet.clock.at_ms))
    look(fleet)
    assert provider.seen and fleet.one("SELECT state FROM pushes") == "due"
    write(engine, lambda c: executions.settle(c, "one", Cost(30 * SECOND), fleet.by))
    fleet.sample("acme", fleet.clock.at_ms, interval_s=1)
    assert look(fleet).halted == 0, "9 are left beside what the other run holds"
    write(engine, lambda c: executions.settle(c, "two", Cost(25 * SECOND), fleet.by))
    fleet.sample("acme", fleet.clock.at_ms, interval_s=1)
    assert look(fleet, 3 * MINUTE_MS).halted == 1
    assert fleet.rows("SELECT balance_micro, unconfirmed_micro FROM orgs") == [(45 * SECOND, 50 * SECOND)]
    provider.fails = None
    fleet.tick_windows(1)
    assert fleet.rows("SELECT balance_micro, unconfirmed_micro FROM orgs") == [(-7 * SECOND, 0)]
