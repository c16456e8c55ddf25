"""Runs of organisations whose balance a provider keeps, beside all that lives in wallets here: payers, pools,
suppliers, tiers, statements, runs that metering settles."""

from __future__ import annotations

from functools import partial

import pytest
import sqlalchemy as sa

from drawdown.ledger.accounts import read_wallets
from drawdown.ledger.draws import Cost
from drawdown.ledger.reservations import NotTogether
from drawdown.schema.database import read
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS
from drawdown.worker.engine import runner
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.actions import RequestedExecution
from drawdown.worker.executions.request import Request
from drawdown.worker.hooks import actions as hooks
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.verdict.effective_balance import credit_status
from drawdown.worker.verdict.holds import expire_holds, read_held
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import pools, tiers
from drawdown.worker.wallets.accounts import account_of
from drawdown.worker.wallets.statement import Span, of_customer
from tests.integration.remote import SECONDS, Far
from tests.world import T0

END = T0 + 30 * DAY_MS


@pytest.fixture
def far(engine: sa.Engine) -> Far:
    return Far(engine)


def give(far: Far, customer: str, credits: int) -> None:
    far.write(lambda c: credit.grant(c, customer, credits * MICRO, far.fleet.by, key=customer, plan=None))


def course(far: Far, credits: int = 50) -> None:
    """A pool that pays for runs of acme."""
    far.write(lambda c: pools.make(c, "course", far.fleet.by))
    give(far, "course", credits)
    far.write(lambda c: pools.allow(c, "course", "acme", far.fleet.by, limit_micro=20 * MICRO))


def accept(far: Far, key: str, credits: int, org: str = "acme", **more: object) -> executions.Accepted:
    request = Request(org, credits * MICRO, **more)  # type: ignore[arg-type]
    return far.write(lambda c: executions.accept(c, key, request, far.fleet.by))


def purse(far: Far, customer: str) -> tuple[int, int]:
    """What a wallet has, and what of it is held."""
    found = read(far.fleet.engine, lambda c: read_wallets(c, [customer])[customer])
    return found.balance_micro // MICRO, found.held_micro // MICRO


# Who pays.


def test_other_payer_pays_from_wallet_and_provider_bills_zero(far: Far) -> None:
    course(far)
    found = far.preview(Request("acme", 6 * MICRO, payer="course"))
    assert (found.allowed, found.hold, found.available_micro) == (True, "wallet", None)
    made = accept(far, "e-1", 6, payer="course").reservation
    assert (made.hold, made.customer_id) == ("wallet", "course")
    assert (purse(far, "course"), far.available) == ((50, 6), 100)
    far.write(lambda c: executions.settle(c, "e-1", Cost(4 * MICRO), far.fleet.by))
    far.fleet.tick_windows(2)
    assert (purse(far, "course"), far.available, far.billed) == ((46, 0), 100, 0)
    assert far.denied(lambda: accept(far, "e-2", 17, payer="course")) == "payer_limit"
    far.clean()


def test_execution_of_other_payer_with_supplier_and_cap_is_settled(far: Far) -> None:
    course(far)
    far.write(lambda c: settlements.set_supplier(c, "pixel", settlements.Change(500_000), far.fleet.by, new=True))
    accept(far, "e-1", 6, payer="course", supplier="pixel", overage="cap", settled_by="receipt", sandboxes=("sb-1",))
    far.write(lambda c: executions.settle(c, "e-1", Cost(8 * MICRO), far.fleet.by))
    assert far.fleet.rows("SELECT gross_micro, net_micro FROM settlements") == [(6 * MICRO, 3 * MICRO)]
    assert purse(far, "course") == (44, 0)
    far.clean()


def test_execution_with_own_org_as_payer_is_billed_at_provider(far: Far) -> None:
    give(far, "acme", 5)
    assert far.accept("e-1", 60, payer="acme").reservation.hold == "local"
    assert (purse(far, "acme"), far.available) == ((5, 0), 40)


def test_payer_with_remote_balance_pays_from_local_wallet(far: Far) -> None:
    far.fleet.assign("here")
    allow = partial(pools.allow, payer="acme", org_id="here", by=far.fleet.by)
    assert far.denied(lambda: far.write(allow)) == "no_wallet"
    give(far, "acme", 10)
    far.write(allow)
    assert accept(far, "e-1", 6, "here", payer="acme").reservation.hold == "wallet"
    assert (purse(far, "acme"), far.available) == ((10, 6), 100), "one knows nothing of the other"
    assert far.denied(lambda: accept(far, "e-2", 5, "here", payer="acme")) == "no_credit"
    far.write(lambda c: executions.settle(c, "e-1", Cost(7 * MICRO), far.fleet.by))
    far.fleet.tick_windows(2)
    assert (purse(far, "acme"), far.available, far.billed) == ((3, 0), 100, 0)
    far.clean()


def test_postpaid_org_without_wallet_is_not_halted_as_payer(far: Far) -> None:
    """An empty wallet halts; having none does not."""
    far.fleet.assign("post", provider="metered")
    far.fleet.assign("here")
    allow = partial(pools.allow, payer="post", org_id="here", by=far.fleet.by)
    assert far.denied(lambda: far.write(allow)) == "no_wallet"
    far.fleet.tick_windows(1)
    assert far.preview(Request("post", quantities={SECONDS: 1_000_000})).hold == "declared"
    assert far.fleet.rows("SELECT * FROM ledger_accounts") == []


def test_allotment_to_remote_org_is_in_wallet_and_returns_at_end(far: Far) -> None:
    course(far)
    far.write(lambda c: pools.allot(c, "course", "acme", 30 * MICRO, END, far.fleet.by, key="a"))
    assert (purse(far, "acme"), far.available) == ((30, 0), 100)
    assert far.denied(lambda: far.accept("e-1", 101)) == "no_credit"
    far.accept("e-1", 60)
    far.settle("e-1", 60)
    far.fleet.clock.at_ms = END + DAY_MS
    far.fleet.tick()
    assert (purse(far, "acme"), purse(far, "course")) == ((0, 0), (50, 0))
    far.clean()


# What lives in a wallet of the same name.


def metering(far: Far) -> None:
    """acme was billed here, and a run that metering settles goes on in its wallet; now `far` bills it again."""
    far.write(lambda c: assign(c, ["acme"], "embedded", far.fleet.by))
    give(far, "acme", 50)
    far.fleet.tick_windows(2)
    accept(far, "m", 20, settled_by="metering", sandboxes=("sb-1",), for_ms=10 * MINUTE_MS)
    far.write(lambda c: assign(c, ["acme"], "far", far.fleet.by))
    far.fleet.tick_windows(1)


def test_expired_remote_execution_does_not_free_wallet_of_same_name(far: Far) -> None:
    metering(far)
    far.accept("e-1", 15, for_ms=MINUTE_MS)
    far.fleet.clock.at_ms += MINUTE_MS
    assert far.settle("e-1", 7).drawn.charged_micro == 7 * MICRO
    assert purse(far, "acme") == (50, 20), "the hold of the other run"
    far.clean()


def test_wallet_and_remote_executions_expire_independently(far: Far) -> None:
    metering(far)
    far.accept("e-1", 15, for_ms=20 * MINUTE_MS)
    far.fleet.sample("acme", far.fleet.clock.at_ms, 5, 4096, sandbox="sb-1")
    world = runner.World(far.fleet.engine, far.fleet.providers, far.fleet.cells, far.fleet.clock)
    runner.run(expire_holds(far.fleet.context()), world)
    rows = "SELECT reservation, state, drawn_micro FROM reservations ORDER BY 1"
    assert far.fleet.rows(rows) == [("e-1", "held", 0), ("m", "held", 0)], "it is far that charges"
    held = read(far.fleet.engine, lambda c: read_held(c, "far", ["acme"], far.fleet.clock.at_ms))
    assert (held, purse(far, "acme")) == ({"acme": 15 * MICRO}, (50, 20))
    far.fleet.clock.at_ms += 10 * MINUTE_MS
    runner.run(expire_holds(far.fleet.context()), world)
    assert far.fleet.rows(rows) == [("e-1", "held", 0), ("m", "expired", 0)]
    assert purse(far, "acme") == (50, 0)
    far.clean()


def test_remote_execution_extend_does_not_use_wallet_of_same_name(far: Far) -> None:
    metering(far)
    far.accept("e-1", 15)
    grown = far.write(lambda c: executions.extend(c, "e-1", 90 * MICRO, None, far.fleet.by))
    assert (grown.reservation.left_micro, purse(far, "acme")) == (90 * MICRO, (50, 20))
    assert (
        far.denied(lambda: far.write(lambda c: executions.extend(c, "e-1", 101 * MICRO, None, far.fleet.by)))
        == "no_credit"
    )


def test_account_and_statement_exclude_remote_reservations(far: Far) -> None:
    give(far, "acme", 5)
    far.accept("e-1", 60)
    far.accept("e-2", 20)
    far.settle("e-2", 10)
    now = far.fleet.clock.at_ms
    account = read(far.fleet.engine, lambda c: account_of(c, "acme", now))
    assert (account.available_micro, account.reserved_micro) == (5 * MICRO, 0)
    found = read(far.fleet.engine, lambda c: of_customer(c, "acme", Span(T0, now + 1), now))
    assert (found.closing_micro, found.reserved_micro, found.held, found.problems) == (5 * MICRO, 0, [], [])


def test_credit_status_lists_reservations_of_halting_balance(far: Far) -> None:
    give(far, "acme", 50)
    far.fleet.assign("here")
    far.write(lambda c: pools.allow(c, "acme", "here", far.fleet.by))
    accept(far, "paid", 6, "here", payer="acme")
    far.accept("e-1", 60)
    (org,) = read(far.fleet.engine, lambda c: c.execute(sa.text("SELECT * FROM orgs WHERE org_id = 'acme'")).all())
    found = read(far.fleet.engine, lambda c: credit_status(c, org, far.fleet.clock.at_ms))
    assert found is not None
    assert [(one.reservation, one.left_micro) for one in found.holders] == [("e-1", 60 * MICRO)]


def test_tier_purchase_with_remote_balance_is_denied(far: Far) -> None:
    give(far, "acme", 50)
    far.write(lambda c: credit.set_plan_limit(c, "team", 5, far.fleet.by))
    far.write(lambda c: credit.grant(c, "acme", 1, far.fleet.by, key="onto", plan="team"))
    far.write(lambda c: tiers.set_tier(c, "pro", tiers.Change(100, 3 * MICRO), far.fleet.by))
    assert far.denied(lambda: far.write(lambda c: tiers.buy(c, "acme", "pro", far.fleet.by))) == "no_plan"
    assert purse(far, "acme")[0] == 50
    far.fleet.assign("here")
    far.write(lambda c: credit.grant(c, "here", 9 * MICRO, far.fleet.by, key="here", plan="team"))
    assert far.write(lambda c: tiers.buy(c, "here", "pro", far.fleet.by)).charged_micro == 3 * MICRO


# What is decided and told beside it.


def test_remote_executions_in_batch_are_refused(far: Far) -> None:
    asked = [
        RequestedExecution(f"e-{number}", Request("acme", quantities={SECONDS: 1}), "test", "a test")
        for number in range(2)
    ]
    with pytest.raises(NotTogether, match="must be decided alone"):
        far.write(lambda c: executions.accept_together(c, asked, far.fleet.clock.at_ms))
    assert far.fleet.rows("SELECT * FROM reservations") == []


def test_execution_preview_checks_account_before_halt(far: Far) -> None:
    """In the one order of permission: what no such organisation may ask for is named before its halt."""
    far.write(lambda c: orgs.halt(c, ["acme"], far.fleet.by))
    steps = (
        (Request("acme", 6 * MICRO), "needs_quantities"),
        (Request("acme", quantities={SECONDS: 1}, overage="cap"), "needs_wallet"),
        (Request("acme", quantities={"nothing": 1}), "halted"),
    )
    for request, code in steps:
        assert far.preview(request).code == code


def test_expired_remote_reservation_is_reported_once_by_webhook(far: Far) -> None:
    make = partial(hooks.set_endpoint, name="app", url="https://app.example/in", events=(), new=True)
    far.write(lambda c: make(c, by=far.fleet.by))
    far.accept("e-1", 60, for_ms=MINUTE_MS)
    far.accept("e-2", 5, for_ms=MINUTE_MS)
    far.fleet.clock.at_ms += MINUTE_MS
    far.settle("e-2", 1)
    far.fleet.tick_windows(2)
    told = "SELECT fact, org_id, customer_id FROM hook_messages WHERE event = 'reservation.expired' ORDER BY 1"
    assert far.fleet.rows(told) == [(f"reservation.expired:{key}", "acme", "acme") for key in ("e-1", "e-2")]
    far.clean()
