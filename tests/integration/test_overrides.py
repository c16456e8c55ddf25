"""What an operator says holds at once, also where no provider can be asked; and so does the end of it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import CustomerState
from drawdown.schema.database import read, write
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.verify.verify import verify
from tests.fake_provider import FakeProvider, capabilities
from tests.world import T0, Fleet


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider(capabilities())


@pytest.fixture
def fleet(engine: sa.Engine, provider: FakeProvider) -> Fleet:
    made = Fleet(engine, extra={"fake": provider})
    made.assign("acme", provider="fake", from_ms=T0)
    return made


def override(fleet: Fleet, *, most: int | None = None, halted: bool | None = None, until_ms: int | None = None) -> None:
    write(
        fleet.engine,
        lambda c: orgs.override(c, "acme", fleet.by, max_concurrent=most, halted=halted, until_ms=until_ms),
    )


def undo(fleet: Fleet) -> None:
    write(fleet.engine, lambda c: orgs.end_override(c, "acme", fleet.by))


def stands(fleet: Fleet) -> tuple[object, ...]:
    return fleet.rows("SELECT is_halted, halt_reason, max_concurrent_sandboxes FROM orgs WHERE org_id = 'acme'")[0]


def history(fleet: Fleet) -> list[tuple[object, ...]]:
    return fleet.rows("SELECT is_halted, reason FROM projections WHERE org_id = 'acme' ORDER BY projection_id")


def later(fleet: Fleet) -> None:
    """A tick, while nobody can ask the provider."""
    fleet.tick(fleet.clock.at_ms + WINDOW_MS, new_orgs=None, dormant={"fake": "FAKE_KEY is not set"})


def test_org_override_applies_without_provider_and_expires(fleet: Fleet, provider: FakeProvider) -> None:
    provider.states["acme"] = CustomerState(-1, None, 5)
    fleet.tick(T0)
    override(fleet, most=9, halted=False, until_ms=T0 + WINDOW_MS)
    assert stands(fleet) == (False, None, 9)
    later(fleet)
    assert stands(fleet) == (True, "credits_exhausted", 9)  # as it was known; its limit is to be read
    assert history(fleet) == [(True, "credits_exhausted"), (False, None), (True, "credits_exhausted")]
    assert read(fleet.engine, verify).breaches == []


def test_cleared_override_does_not_restore_credit_that_is_gone(fleet: Fleet, provider: FakeProvider) -> None:
    provider.states["acme"] = CustomerState(0, None, 5)
    fleet.tick(T0)
    override(fleet, halted=False)
    undo(fleet)
    assert stands(fleet)[:2] == (True, "credits_exhausted")
    provider.states["acme"] = CustomerState(100, None, 5)
    fleet.tick(T0 + WINDOW_MS)
    assert stands(fleet) == (False, None, 5)


def test_halt_by_org_override_ends_after_fresh_balance_read(fleet: Fleet, provider: FakeProvider) -> None:
    provider.states["acme"] = CustomerState(100, None, 5)
    fleet.tick(T0)
    override(fleet, halted=True)
    assert stands(fleet) == (True, "operator", 5)
    undo(fleet)
    later(fleet)
    assert stands(fleet)[0]
    fleet.tick_windows(1)
    assert stands(fleet) == (False, None, 5)


@pytest.mark.parametrize("provider_name", ["none", "legacy"])
def test_unbilled_org_is_halted_and_limited_by_org_override(engine: sa.Engine, provider_name: str) -> None:
    fleet = Fleet(engine)
    fleet.assign("acme", provider=provider_name, from_ms=T0)
    override(fleet, most=0, halted=True, until_ms=T0 + 1)
    assert stands(fleet) == (True, "operator", 0)
    fleet.tick(T0 + 1)
    assert stands(fleet) == (False, None, None)
    assert read(fleet.engine, verify).breaches == []


@pytest.mark.parametrize("at_once", [True, False])
def test_halted_org_moved_to_unbilled_is_resumed(fleet: Fleet, provider: FakeProvider, at_once: bool) -> None:
    reasons = {"acme": "credits_exhausted", "globex": "estimate", "initech": "unreadable"}
    provider.states |= dict.fromkeys(reasons, CustomerState(-1, None, 5))
    fleet.assign("globex", "initech", provider="fake", from_ms=T0)
    fleet.tick(T0)
    for org, why in reasons.items():
        fleet.write(f"UPDATE orgs SET halt_reason = '{why}', unread_since_ms = 1 WHERE org_id = '{org}'")
    fleet.clock.at_ms = T0 + WINDOW_MS if at_once else T0
    fleet.assign(*reasons, provider="none", from_ms=T0 + WINDOW_MS)
    if not at_once:
        assert fleet.rows("SELECT COUNT(*) FROM orgs WHERE is_halted") == [(3,)]
        fleet.tick(T0 + WINDOW_MS)
    of_orgs = "is_halted, halt_reason, max_concurrent_sandboxes, projection_due_ms, unread_since_ms"
    assert fleet.rows(f"SELECT DISTINCT {of_orgs} FROM orgs") == [(False, None, None, None, None)]
    last = "SELECT MAX(projection_id) FROM projections GROUP BY org_id"
    verdicts = fleet.rows(f"SELECT is_halted, reason FROM projections WHERE projection_id IN ({last})")
    assert verdicts == [(False, "exempt")] * 3
    assert read(fleet.engine, verify).breaches == []


def test_operator_halt_remains_after_move_to_unbilled(fleet: Fleet, provider: FakeProvider) -> None:
    provider.states["acme"] = CustomerState(-1, None, 5)
    fleet.tick(T0)
    write(fleet.engine, lambda c: orgs.halt(c, ["acme"], fleet.by))
    fleet.assign("acme", provider="legacy", from_ms=T0 + WINDOW_MS)
    fleet.tick(T0 + WINDOW_MS)
    assert stands(fleet)[:2] == (True, "operator")
    write(fleet.engine, lambda c: orgs.halt(c, ["acme"], fleet.by, undo=True))
    assert stands(fleet)[:2] == (False, None)


def test_org_override_of_limit_before_first_read_keeps_verdict(fleet: Fleet) -> None:
    override(fleet, most=3)
    assert stands(fleet) == (False, None, 3)
    assert fleet.one("SELECT projection_read_ms FROM orgs WHERE org_id = 'acme'") is None
    assert history(fleet) == []
