"""Usage that no provider takes: whoever used it is halted, and once it is corrected, what is left is billed once."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.providers.protocol import HOUR_MS, CustomerState, Duplicate, Rejected, Unknown
from drawdown.schema.database import write
from drawdown.schema.errors import Refused
from drawdown.schema.units import MICRO, WINDOW_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.push import actions as pushes
from drawdown.worker.usage.withdrawals import withdraw
from drawdown.worker.verdict.rules import HOLD_MS
from drawdown.worker.wallets.actions import grant
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.telling_events import clean, event, mapped, told, withdrawn
from tests.integration.test_batches import ROWS, taken, written
from tests.integration.test_batches import withdrawn as batch_withdrawn
from tests.prepaid import look, price
from tests.world import T0, Fleet

HUGE = 10**12
RATES = {"more than an entry takes": 2_000, "more than a wallet owes": 10**7, "beyond all bounds": 10**12}


def paid(engine: sa.Engine, credit_micro: int, rate_micro: int = MICRO) -> Fleet:
    """An organisation that was given credit, and is read; a unit of what it uses costs so much."""
    fleet = Fleet(engine)
    fleet.assign("acme", from_ms=T0)
    mapped(fleet)
    fleet.rate("render", rate_micro, T0)
    write(engine, lambda c: grant(c, "acme", credit_micro, fleet.by, key="paid", plan="free"))
    fleet.tick(T0 + 10)
    return fleet


def halted(fleet: Fleet) -> bool:
    return bool(fleet.one("SELECT is_halted FROM orgs WHERE org_id = 'acme'"))


def standing(fleet: Fleet) -> list[tuple[object, ...]]:
    return fleet.rows("SELECT revision, sealed_qty, state FROM pushes WHERE window_ms = :w ORDER BY 1", w=T0)


@pytest.mark.parametrize("watched", [True, False], ids=["watched", "ticks alone"])
@pytest.mark.parametrize("rate", RATES)
def test_org_with_usage_above_wallet_is_halted_until_usage_is_withdrawn(
    engine: sa.Engine, rate: str, watched: bool
) -> None:
    micro = RATES[rate]
    credit = min(10 * micro, MAX_ENTRY_MICRO)
    fleet = paid(engine, credit, micro)
    told(fleet, event("meant", 3), event("slip", HUGE))
    if watched:
        assert look(fleet).halted == 1, "within seconds"
    report = fleet.tick(T0 + 2 * WINDOW_MS)
    assert (report.exit_status, report.left.rejected, halted(fleet)) == (1, 1, True)
    assert fleet.tick_windows(1).exit_status == 1 and halted(fleet), "for as long as it stands"
    assert standing(fleet) == [(0, HUGE + 3, "rejected")] and fleet.one("SELECT COUNT(*) FROM ledger_entries") == 1
    clean(fleet)
    withdrawn(fleet, "slip")
    assert fleet.tick_windows(1).exit_status == 0
    assert standing(fleet) == [(0, HUGE + 3, "voided"), (1, 3, "accepted")]
    assert fleet.one("SELECT balance_micro FROM ledger_accounts") == credit - 3 * micro
    assert not halted(fleet)
    clean(fleet)


@pytest.mark.parametrize("sealed", [True, False], ids=["rejected", "not sealed yet"])
def test_usage_withdrawn_by_operator_is_not_recorded_as_wrong_estimate(engine: sa.Engine, sealed: bool) -> None:
    fleet = paid(engine, 10 * MICRO)
    told(fleet, event("meant", 3), event("slip", HUGE))
    if sealed:
        fleet.tick(T0 + 2 * WINDOW_MS)
    else:
        assert look(fleet).halted == 1
    assert (halted(fleet), fleet.one("SELECT halt_reason FROM orgs")) == (True, "estimate")
    withdrawn(fleet, "slip")
    fleet.tick(T0 + 3 * WINDOW_MS + HOLD_MS)
    reasons = fleet.rows("SELECT is_halted, reason FROM projections ORDER BY projection_id")[1:]
    assert (halted(fleet), reasons) == (False, [(True, "estimate"), (False, None)])
    clean(fleet)


def test_execution_released_after_halt_is_not_recorded_as_wrong_estimate(engine: sa.Engine) -> None:
    fleet = paid(engine, 10 * MICRO)
    write(engine, lambda c: executions.accept(c, "run", Request("acme", 8 * MICRO), fleet.by))
    told(fleet, event("meant", 3))
    assert look(fleet).halted == 1
    assert fleet.one("SELECT halt_reason FROM orgs") == "estimate", "10 less 8 is more than nothing, and less than 3"
    write(engine, lambda c: executions.release(c, "run", None, fleet.by))
    fleet.tick(T0 + 3 * WINDOW_MS + HOLD_MS)
    reasons = fleet.rows("SELECT is_halted, reason FROM projections ORDER BY projection_id")[1:]
    assert (halted(fleet), reasons) == (False, [(True, "estimate"), (False, None)])
    clean(fleet)


def test_withdrawal_of_all_rejected_usage_voids_push_and_resumes_org(engine: sa.Engine) -> None:
    fleet = paid(engine, MICRO)
    told(fleet, event("slip", HUGE))
    fleet.tick(T0 + 2 * WINDOW_MS)
    assert halted(fleet)
    withdrawn(fleet, "slip")
    assert fleet.tick_windows(1).exit_status == 0 and not halted(fleet)
    assert standing(fleet) == [(0, HUGE, "voided")]
    clean(fleet)


def refusing(engine: sa.Engine, **more: object) -> tuple[Fleet, FakeProvider]:
    """A second of 1 GB takes a credit there, acme has a hundred, and uses two minutes."""
    provider = FakeProvider(capabilities(**more))
    fleet = Fleet(engine, extra={"fake": provider})
    price(fleet, MICRO)
    provider.states["acme"] = CustomerState(100 * MICRO, "free", 2)
    fleet.assign("acme", provider="fake", from_ms=T0)
    fleet.tick(T0 + 10)
    for number in range(2):
        fleet.sample("acme", T0 + number, sample_id=f"s{number}")
    return fleet, provider


def test_push_above_max_quantity_halts_org_until_usage_is_withdrawn(engine: sa.Engine) -> None:
    fleet, provider = refusing(engine, max_quantity=100)
    assert fleet.tick(T0 + 2 * WINDOW_MS).left.rejected == 1
    assert halted(fleet) and provider.seen == []
    write(engine, lambda c: withdraw(c, ["s1"], fleet.by))
    assert fleet.tick_windows(1).exit_status == 0
    assert [push.quantity for push in provider.seen] == [60] and not halted(fleet)
    clean(fleet)


def test_org_with_more_balance_than_rejected_usage_is_not_halted(engine: sa.Engine) -> None:
    fleet, provider = refusing(engine, max_quantity=100)
    provider.states["acme"] = CustomerState(121 * MICRO, "free", 2)
    assert fleet.tick(T0 + 2 * WINDOW_MS).left.rejected == 1
    assert not halted(fleet)


def test_org_halted_by_rejected_usage_resumes_after_manual_resolve(engine: sa.Engine) -> None:
    fleet, _provider = refusing(engine, max_quantity=100)
    fleet.tick(T0 + 2 * WINDOW_MS)
    assert halted(fleet)
    (key,) = fleet.rows("SELECT key FROM pushes")[0]
    write(engine, lambda c: pushes.resolve_accepted(c, [str(key)], fleet.by, "an invoice item by hand"))
    assert fleet.tick_windows(1).exit_status == 0 and not halted(fleet)
    clean(fleet)


def test_org_of_manually_accepted_push_is_read_again(engine: sa.Engine) -> None:
    """The person may have charged the customer by hand just now, and no read shows it."""
    fleet, provider = refusing(engine)
    key = f"usage:acme:{T0}:compute_1gb"
    provider.answers[key] = Duplicate()
    fleet.tick(T0 + 2 * WINDOW_MS)
    fleet.write("UPDATE orgs SET projection_due_ms = NULL")
    write(engine, lambda c: pushes.resolve_accepted(c, [key], fleet.by, "the provider's console shows it"))
    assert fleet.one("SELECT state FROM pushes") == "accepted"
    assert fleet.rows("SELECT projection_due_ms FROM orgs") == [(fleet.by.now_ms,)]


def test_rejected_push_that_may_still_arrive_is_not_voided(engine: sa.Engine) -> None:
    """An earlier attempt had no answer: voided now, and charged after all, it would be billed twice."""
    fleet, provider = refusing(engine)
    key = f"usage:acme:{T0}:compute_1gb"
    provider.answers[key] = Unknown("cut")
    fleet.tick(T0 + 2 * WINDOW_MS)
    provider.answers[key] = Rejected("no such meter")
    fleet.tick_windows(1)
    with pytest.raises(Refused, match="may still arrive"):
        write(engine, lambda c: pushes.retry(c, [key], fleet.by))
    write(engine, lambda c: withdraw(c, ["s1"], fleet.by))
    fleet.tick_windows(1)
    assert standing(fleet) == [(0, 120, "rejected")]
    clean(fleet)
    fleet.clock.at_ms += HOUR_MS
    write(engine, lambda c: withdraw(c, ["s0"], fleet.by))
    provider.answers.clear()
    fleet.tick_windows(1)
    assert standing(fleet) == [(0, 120, "voided")]
    clean(fleet)


def test_rejected_batch_withdrawn_is_voided_and_other_usage_billed(engine: sa.Engine, tmp_path: Path) -> None:
    fleet, _provider = refusing(engine, max_quantity=200)
    fleet.clock.at_ms = T0 + 3 * WINDOW_MS
    done = taken(fleet, written(tmp_path / "u.jsonl", ROWS))
    fleet.tick()
    assert standing(fleet) == [(0, 240, "rejected")] and halted(fleet)
    batch_withdrawn(fleet, done.batch)
    fleet.tick_windows(1)
    assert standing(fleet) == [(0, 240, "voided"), (1, 120, "accepted")]
    clean(fleet)
