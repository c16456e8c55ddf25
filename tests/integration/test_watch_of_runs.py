"""The watch beside runs: what they charge is gone from the wallet at once, and with it from what is left."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from drawdown.ledger.runs.draws import Cost
from drawdown.schema.database import read, write
from drawdown.schema.units import SECOND_MS
from drawdown.worker.commands import credit, executions
from drawdown.worker.commands.features import DEFAULT_MICRO_CREDITS_PER_GB_S as SECOND
from drawdown.worker.commands.run_request import Request
from drawdown.worker.views.orgs import OrgFilter, list_orgs
from drawdown.worker.views.status import org_status
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


def test_credit_that_a_run_has_charged_is_not_there_for_usage(fleet: Fleet) -> None:
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


def test_what_is_sealed_and_charged_is_taken_off_once(fleet: Fleet) -> None:
    fleet.sample("acme", fleet.clock.at_ms, interval_s=30)
    assert left(fleet) == 70 * SECOND
    write(fleet.engine, lambda c: executions.accept(c, "r", Request("acme", 40 * SECOND), fleet.by))
    fleet.tick_windows(2)
    assert left(fleet) == 30 * SECOND
    write(fleet.engine, lambda c: executions.settle(c, "r", Cost(15 * SECOND), fleet.by))
    assert left(fleet) == 55 * SECOND
