"""A wallet is drawn on for one organisation at a time, whichever provider bills it."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.ledger.reservations import Denied
from drawdown.schema.database import read, write
from drawdown.schema.errors import Refused
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.shard import NewOrgs
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.use import Wish as UseWish
from drawdown.worker.orgs import assignments
from drawdown.worker.orgs.flips import Flip, FlipOptions, Wish, flip
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import pools
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.verifying import tamper
from tests.world import T0, Fleet

SAYS = "{one} at {there} and {other} at {here} would both draw on the wallet of the customer bob. Give {one} another"


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    """`fake` is billed elsewhere and drawn on here; `apart` keeps balances of its own. Neither was met by a tick."""
    fake = FakeProvider(capabilities(balance_in_ledger=True))
    apart = FakeProvider(capabilities(), "apart")
    return Fleet(engine, extra={"fake": fake, "apart": apart})


def flipped(fleet: Fleet, org: str, provider: str, **terms: Any) -> Flip:
    """`org` is billed by a provider as the customer bob."""
    steps = flip(
        fleet.context(), [Wish(org, "bob")], FlipOptions(provider, allow_halt=True, new=True, **terms), fleet.by
    )
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    done: list[Flip] = runner.run(steps, world)
    return done[0]


@pytest.mark.parametrize(("here", "there"), [("embedded", "fake"), ("fake", "embedded")])
def test_second_org_on_same_wallet_is_refused(fleet: Fleet, here: str, there: str) -> None:
    flipped(fleet, "xorg", here)
    says = SAYS.format(one="yorg", there=there, other="xorg", here=here)
    with pytest.raises(Refused, match=says):
        flipped(fleet, "yorg", there)
    assert says in str(flipped(fleet, "yorg", there, each_alone=True).problem), "of a file, it stops itself alone"
    assert says in str(flipped(fleet, "yorg", there, dry_run=True).problem)
    assert fleet.rows("SELECT org_id FROM assignments") == [("xorg",)]
    assert flipped(fleet, "yorg", "apart").problem is None, "whose balance lies elsewhere has no wallet here"


def test_org_moved_between_providers_keeps_wallet(fleet: Fleet) -> None:
    for number, provider in enumerate(("embedded", "fake", "embedded")):
        assert flipped(fleet, "xorg", provider, from_ms=T0 + number * WINDOW_MS).problem is None
    fleet.tick_windows(2)
    assert read(fleet.engine, verify).clean


@pytest.mark.both_databases
def test_wallet_is_assigned_to_second_org_only_after_first_leaves(fleet: Fleet) -> None:
    fleet.tick(T0)
    flipped(fleet, "xorg", "embedded", from_ms=T0)
    flipped(fleet, "xorg", "apart", from_ms=T0 + WINDOW_MS)
    with pytest.raises(Refused, match="would both draw on the wallet"):
        flipped(fleet, "yorg", "fake", from_ms=T0)
    assert flipped(fleet, "yorg", "fake", from_ms=T0 + WINDOW_MS).problem is None
    with pytest.raises(
        Refused, match=r"cannot cancel .*xorg at embedded and yorg at fake would both draw on the wallet"
    ):
        write(fleet.engine, lambda c: assignments.cancel(c, "xorg", fleet.by))
    assert read(fleet.engine, verify).breaches == []


def test_new_org_with_id_of_existing_customer_is_not_assigned(fleet: Fleet) -> None:
    flipped(fleet, "xorg", "fake", from_ms=T0)
    fleet.sample("bob", T0 + 1)
    fleet.tick(T0 + 2 * WINDOW_MS, new_orgs=NewOrgs("embedded", T0))
    assert fleet.rows("SELECT org_id FROM assignments") == [("xorg",)]
    assert fleet.rows("SELECT org_id FROM pending_usage") == [("bob",)]


def test_shared_wallet_is_found_by_verify_for_both_orgs(fleet: Fleet) -> None:
    flipped(fleet, "xorg", "embedded", from_ms=T0)
    fleet.assign("yorg", provider="fake", from_ms=T0)
    fleet.tick_windows(1)
    tamper(fleet, "UPDATE assignments SET customer_id = 'bob' WHERE org_id = 'yorg'")
    found = [(one.org_id, one.text) for one in read(fleet.engine, verify).breaches if "wallet" in one.text]
    assert sorted(found) == [
        ("xorg", "the organisation uses the wallet of bob at embedded, and yorg uses it at fake in the same windows"),
        ("yorg", "the organisation uses the wallet of bob at fake, and xorg uses it at embedded in the same windows"),
    ]


def owned(fleet: Fleet) -> None:
    """A pool with credit, and a customer of xorg's with credit; a metric that costs."""
    flipped(fleet, "xorg", "embedded", from_ms=T0)

    def work(connection: sa.Connection) -> None:
        pools.make(connection, "course", fleet.by)
        for customer in ("course", "bob"):
            credit.grant(connection, customer, 100, fleet.by, key=customer, plan=None)
        guard_terms.set_metric(connection, "spark", guard_terms.Change(price_micro=5, phase=3), fleet.by)

    write(fleet.engine, work)


def balances(fleet: Fleet) -> list[tuple[object, ...]]:
    rows = "SELECT account_id, balance_micro, held_micro FROM ledger_accounts WHERE balance_micro > 0 ORDER BY 1"
    return fleet.rows(rows)


@pytest.mark.parametrize("org", ["course", "bob"])
def test_use_of_foreign_wallet_by_same_name_is_refused(fleet: Fleet, org: str) -> None:
    """Neither a pool's nor another organisation's customer's: by metering, an execution, the guard or an assignment."""
    owned(fleet)
    had = balances(fleet)
    fleet.sample(org, T0 + 1)
    for windows in (2, 1):
        fleet.tick(fleet.clock.at_ms + windows * WINDOW_MS, new_orgs=NewOrgs("embedded", T0))
    assert fleet.rows("SELECT org_id FROM assignments") == [("xorg",)]
    assert fleet.rows("SELECT org_id FROM pending_usage") == [(org,)], "its usage waits"
    with pytest.raises(Denied, match="does not pay for executions of") as denied:
        write(fleet.engine, lambda c: executions.accept(c, "r", Request(org, 5), fleet.by))
    assert denied.value.code == "payer_not_allowed"
    assert not read(fleet.engine, lambda c: executions.preview(c, Request(org, 5), fleet.clock.at_ms)).allowed
    wish = UseWish(org, "spark", 1)
    asked = read(fleet.engine, lambda c: guard.check(c, wish, fleet.clock.at_ms))
    used = write(fleet.engine, lambda c: guard.consume(c, "use", wish, fleet.by))
    assert (asked.decision, used.decision, used.charged_micro) == ("block", "block", 0)
    with pytest.raises(Refused):
        fleet.assign(org)
    assert (balances(fleet), breaches_of(fleet)) == (had, [])


def test_org_allowed_by_pool_draws_on_pool_wallet(fleet: Fleet) -> None:
    owned(fleet)
    write(fleet.engine, lambda c: pools.allow(c, "course", "xorg", fleet.by))
    write(fleet.engine, lambda c: executions.accept(c, "r", Request("xorg", 5, payer="course"), fleet.by))
    write(fleet.engine, lambda c: executions.accept(c, "own", Request("xorg", 7), fleet.by))
    assert balances(fleet) == [("wallet:bob", 100, 7), ("wallet:course", 100, 5)]
    assert breaches_of(fleet) == []


def test_pool_with_name_of_customer_is_refused(fleet: Fleet) -> None:
    owned(fleet)
    for name in ("xorg", "bob"):
        with pytest.raises(Denied, match="a customer's wallet has the name"):
            write(fleet.engine, lambda c, name=name: pools.make(c, name, fleet.by))  # type: ignore[misc]


def test_foreign_wallet_used_by_same_name_is_found_by_verify(fleet: Fleet) -> None:
    owned(fleet)
    fleet.clock.at_ms += 3 * DAY_MS
    write(fleet.engine, lambda c: executions.accept(c, "r", Request("xorg", 5), fleet.by))
    assert breaches_of(fleet) == []
    moved = "UPDATE ledger_accounts SET held_micro = {} WHERE account_id = 'wallet:{}'"
    renamed = "UPDATE reservations SET org_id = '{0}', customer_id = '{0}'"
    tamper(fleet, moved.format(0, "bob"), moved.format(5, "course"), renamed.format("course"))
    assert any("could not pay for course" in one for one in breaches_of(fleet))
    tamper(fleet, "UPDATE assignments SET customer_id = 'course'")
    assert any("as course, which is a pool" in one for one in breaches_of(fleet))


def breaches_of(fleet: Fleet) -> list[str]:
    return [one.text for one in read(fleet.engine, verify).breaches]
