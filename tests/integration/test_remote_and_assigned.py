"""A run at a balance that a provider keeps, beside an assignment that forgets that balance."""

from __future__ import annotations

from functools import partial

import pytest
import sqlalchemy as sa

from drawdown.ledger.reservations import Denied
from drawdown.schema.errors import DatabaseBusy
from drawdown.schema.units import MICRO, WINDOW_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.orgs.assignments import assign
from tests.integration.beside import Work, beside
from tests.integration.remote import SECONDS, Far

TOO_MUCH = 1_000_000
"""In seconds; there are 100."""


@pytest.fixture
def far(engine: sa.Engine) -> Far:
    return Far(engine)


def moves(far: Far, provider: str = "far", customer: str = "acme-2") -> Work:
    """From this window on: what was read is of nobody whom it bills now."""
    window = far.fleet.clock.at_ms - far.fleet.clock.at_ms % WINDOW_MS
    return lambda c: assign(c, ["acme"], provider, far.fleet.by, customer_id=customer, from_ms=window)


def asks(far: Far, seconds: int = TOO_MUCH) -> Work:
    request = Request("acme", quantities={SECONDS: seconds})
    return lambda c: executions.accept(c, "e-1", request, far.fleet.by)


def grows(far: Far, to: int) -> Work:
    return partial(executions.extend, key="e-1", to_micro=to * MICRO, for_ms=None, by=far.fleet.by)


def held(far: Far) -> int:
    return int(str(far.fleet.one("SELECT COALESCE(SUM(amount_micro), 0) FROM reservations")))


@pytest.mark.parametrize("seconds", [60, TOO_MUCH])
def test_execution_at_balance_cleared_by_concurrent_assign_is_denied(far: Far, seconds: int) -> None:
    _, said = beside(far.fleet.engine, moves(far), asks(far, seconds))
    assert isinstance(said, Denied) and said.code == "balance_unknown", said
    assert held(far) == 0


def test_execution_during_concurrent_provider_change_is_busy_or_reserved(far: Far) -> None:
    """It was permitted by the rates and the balance of the first one."""
    _, said = beside(far.fleet.engine, moves(far, "metered"), asks(far))
    if far.fleet.engine.dialect.name == "postgresql":
        assert isinstance(said, DatabaseBusy) and "Try again" in str(said), said
    assert held(far) == (0 if isinstance(said, DatabaseBusy) else TOO_MUCH * MICRO)


def test_execution_at_unread_balance_without_end_is_denied(engine: sa.Engine) -> None:
    far = Far(engine, None)
    _, said = beside(engine, moves(far), asks(far))
    assert isinstance(said, Denied) and said.code == "balance_unknown", said
    assert held(far) == 0


@pytest.mark.parametrize("at_once", [True, False])
def test_execution_extend_at_unread_balance_is_denied(far: Far, at_once: bool) -> None:
    far.accept("e-1", 10)
    if at_once:
        _, said = beside(far.fleet.engine, moves(far), grows(far, 20))
        assert isinstance(said, Denied) and said.code == "balance_unknown", said
    else:
        far.write(moves(far))
        assert far.denied(lambda: far.write(grows(far, 20))) == "balance_unknown"
    assert held(far) == 10 * MICRO
    far.write(grows(far, 10))  # a sign of life asks for nothing more
    far.far.states["acme-2"] = far.far.states["acme"]
    far.fleet.tick_windows(1)
    far.write(grows(far, 20))
    assert held(far) == 20 * MICRO


def test_execution_extend_after_org_becomes_exempt_succeeds(far: Far) -> None:
    far.accept("e-1", 10)
    far.write(moves(far, "none", ""))
    far.write(grows(far, 20))
    assert held(far) == 20 * MICRO
