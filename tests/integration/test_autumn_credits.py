"""Autumn with a credit system, by the emulated server: charged, lost, doubled, clamped, used up, and put right.

Guarantee: the emulator's own books judge. After healing the balance of each customer equals samples times cost to the
last digit, or a person is told exactly the amount that it lacks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.cli.examples import EXAMPLES
from drawdown.cli.nouns import reconcile as reconcile_command
from drawdown.providers.autumn import build
from drawdown.providers.http import Call, HttpResult, NoAnswer
from drawdown.providers.kit.emulator import Direct
from drawdown.providers.protocol import Part, Setup
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import read, write
from drawdown.schema.errors import Refused
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.catalog import balance_parts
from drawdown.worker.catalog.balance_parts import known_parts, note_shown_parts
from drawdown.worker.engine import runner
from drawdown.worker.orgs.actions import override
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.orgs.flips import FlipOptions, Wish, flip
from drawdown.worker.push import actions as pushes
from drawdown.worker.push.backlog import read_providers
from drawdown.worker.push.evidence import read_balances
from drawdown.worker.reconcile import balances
from drawdown.worker.reconcile.reconcile import Reconciled, ReconcileScope, reconcile
from drawdown.worker.status.status import status
from drawdown.worker.usage import withdrawals
from drawdown.worker.verify.verify import verify
from tests.emulators.autumn import SECRET_KEY, AutumnEmulator
from tests.emulators.autumn_numbers import ONE_OFF
from tests.integration.reconciling import void_lost
from tests.world import T0, Fleet

COSTS = {f"compute_{size}gb": Decimal(size) / 10_000 for size in (1, 2, 4, 8, 16, 32, 64)}
GB = 1024
HOUR_MS = 60 * MINUTE_MS


class House:
    """A fleet billed at an emulated Autumn, whose `credits` pay for all sizes."""

    def __init__(self, engine: sa.Engine, credits: Mapping[str, float], **settings: str) -> None:
        clock = FixedClock(T0)
        self.autumn = AutumnEmulator()
        account = self.autumn.account
        for feature in COSTS:
            account.add_feature(feature)
        account.add_feature("credits", kind="credit_system", credit_schema=dict(COSTS))
        for customer, amount in credits.items():
            account.add_customer(customer, T0)
            if amount:
                account.grant(customer, "credits", amount, T0, interval=ONE_OFF)
        setup = Setup("autumn", {"secret_key": SECRET_KEY, **settings}, clock, Direct(self.autumn, clock), engine)
        self.fleet = Fleet(engine, clock=clock, extra={"autumn": build(setup)})
        self.fleet.assign(*credits, provider="autumn")
        self.used: dict[str, Decimal] = dict.fromkeys(credits, Decimal(0))
        self.window = 0

    def use(self, org: str, seconds: int, size: int = 4) -> None:
        """Use a size for some seconds in the window that comes next."""
        self.fleet.sample(org, T0 + self.window * WINDOW_MS + 1, seconds, size * GB)
        self.used[org] += COSTS[f"compute_{size}gb"] * seconds

    def bill(self) -> None:
        """Let the window go by, and all that it takes to bill it."""
        self.window += 1
        self.tick(T0 + (self.window + 1) * WINDOW_MS)

    def tick(self, at_ms: int) -> None:
        self.fleet.tick(at_ms)

    def wait(self, ms: int) -> None:
        self.window = (self.fleet.clock.at_ms + ms - T0) // WINDOW_MS
        self.tick(self.fleet.clock.at_ms + ms)

    def compare(self, *, begun_ms: int | None = None, ends_in_ms: int | None = None, **scope: Any) -> Reconciled:
        """Reconcile, once the provider's lag is over. `begun_ms`: when the command began, if long before. `ends_in_ms`:
        until its time is up."""
        self.fleet.clock.at_ms += HOUR_MS
        self.window = (self.fleet.clock.at_ms - T0) // WINDOW_MS
        world = runner.World(self.fleet.engine, self.fleet.providers, self.fleet.cells, self.fleet.clock)
        given = {"provider": "autumn", **scope}
        by = self.fleet.by if begun_ms is None else replace(self.fleet.by, now_ms=begun_ms)
        context = self.fleet.context()
        if ends_in_ms is not None:
            context = replace(context, deadline_ms=self.fleet.clock.at_ms + ends_in_ms)
        return runner.run(reconcile(context, ReconcileScope(**given), by), world)

    def drawn(self, customer: str) -> Decimal:
        """What the customer's credits were drawn on, by the emulator's books, doubles included."""
        return Decimal(str(self.autumn.account.drawn.get((customer, "credits"), 0)))

    def states(self, org: str) -> list[tuple[object, ...]]:
        rows = self.fleet.rows(
            "SELECT feature, revision, sent_qty, state FROM pushes WHERE org_id = :org ORDER BY window_ms, 1, 2",
            org=org,
        )
        return [tuple(row) for row in rows]

    def is_exact(self) -> None:
        """Everybody paid what was used, and nothing is left to a person."""
        assert {customer: self.drawn(customer) for customer in self.used} == self.used
        assert self.fleet.rows("SELECT told_qty FROM balance_marks WHERE told_qty <> 0") == []
        assert read(self.fleet.engine, verify).breaches == []


def told(found: Reconciled) -> list[tuple[str, str, str, int, int, int]]:
    """What differed: amounts in millionths of a credit."""
    return [
        (line.org_id, line.feature, line.verdict, line.theirs - line.ours, line.corrected, line.scale)
        for line in found.differing
    ]


def test_charges_are_exact_in_credits_and_costs_are_learned(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 10})
    house.use("acme", 1_000, size=4)
    house.use("acme", 100, size=64)
    house.bill()
    assert house.drawn("acme") == Decimal("1.04")
    rates = house.fleet.rows(
        "SELECT feature, micro, per_quantity, balance FROM provider_rates WHERE provider = 'autumn' ORDER BY micro"
    )
    assert rates == [(feature, int(cost * 10**6), 1, "credits") for feature, cost in COSTS.items()]
    assert house.fleet.one("SELECT balance_micro FROM orgs WHERE org_id = 'acme'") == 8_960_000
    assert house.compare(correct=True).exit_status == 0
    house.is_exact()


def test_unknown_balance_feature_does_not_halt_and_needs_person(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 10}, balance_feature="creditz")
    house.use("acme", 60)
    house.bill()
    assert house.fleet.rows("SELECT is_halted, halt_reason FROM orgs") == [(False, None)]
    found = read(engine, lambda connection: status(connection, house.fleet.clock.at_ms))
    assert found.headline.verdict == "person_needed" and found.standing.last_tick is not None
    assert found.headline.reason.startswith("autumn: DRAWDOWN_AUTUMN_BALANCE_FEATURE names creditz, which is not")
    assert found.headline.next.startswith("drawdown provider check autumn")
    assert found.standing.last_tick.exit_status == 1
    house.autumn.account.add_feature("creditz")
    house.wait(HOUR_MS)
    assert house.fleet.rows("SELECT is_halted FROM orgs") == [(True,)], "it is a feature: without a balance of it"


def test_feature_outside_credit_system_needs_person_then_is_billed(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 10})
    system = house.autumn.account.features["credits"].credit_schema
    cost = system.pop("compute_8gb")
    house.use("acme", 60, size=8)
    house.bill()
    house.wait(DAY_MS)
    assert house.states("acme") == [("compute_8gb", 0, 60, "rejected")]
    found = read(engine, lambda connection: status(connection, house.fleet.clock.at_ms)).headline
    assert found.verdict == "person_needed" and "compute_8gb is not in a credit system" in found.reason
    system["compute_8gb"] = cost
    rejected = [str(key) for (key,) in house.fleet.rows("SELECT key FROM pushes WHERE state = 'rejected'")]
    write(engine, lambda connection: pushes.retry(connection, rejected, house.fleet.by))
    house.wait(HOUR_MS)
    assert house.states("acme")[-1] == ("compute_8gb", 1, 60, "accepted")
    house.is_exact()


def test_lost_balance_is_reported_exactly_and_resent(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 100, "globex": 100})
    for org in ("acme", "globex"):
        house.use(org, 500, size=64)
    house.bill()
    assert house.compare(correct=True).exit_status == 0
    house.autumn.sync()
    house.use("acme", 1_000, size=4)
    house.use("acme", 300, size=64)
    house.use("globex", 77, size=8)
    house.bill()
    house.autumn.lose_balances(house.fleet.clock.at_ms)
    assert house.drawn("acme") == Decimal("3.2"), "2.32 credits are lost"
    looked = house.compare()
    assert told(looked) == [
        ("acme", "credits", "short", -2_320_000, 0, 10**6),
        ("globex", "credits", "short", -61_600, 0, 10**6),
    ]
    assert house.drawn("acme") == Decimal("3.2"), "to look changes nothing"
    assert [line[4] for line in told(house.compare(correct=True))] == [2_320_000, 61_600]
    house.bill()
    house.is_exact()
    again = house.compare(correct=True)
    assert (again.differing, again.exit_status) == ([], 0)
    house.is_exact()


def test_loss_unexplained_by_pushes_is_reported_once(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 100})
    house.use("acme", 500, size=64)
    house.bill()
    assert house.compare(correct=True).exit_status == 0
    house.autumn.account.add_to_balance("acme", "credits", 10)
    assert told(house.compare(correct=True)) == [("acme", "credits", "short", -10_000_000, 0, 10**6)]
    assert house.fleet.rows("SELECT feature, told_qty, scale FROM balance_marks") == [("credits", -10_000_000, 10**6)]
    assert house.compare(correct=True).differing == []


def test_stale_balance_read_is_not_reported_as_loss(engine: sa.Engine) -> None:
    """A balance that was read a moment after a push may not show it yet: what it lacks is looked at by the next run."""
    house = House(engine, {"acme": 100})
    house.use("acme", 500, size=64)
    house.bill()
    house.compare(correct=True)
    house.use("acme", 100, size=64)
    house.bill()
    house.autumn.account.add_to_balance("acme", "credits", 0.64)  # as a read before the last push would show it
    house.fleet.clock.at_ms -= HOUR_MS
    found = house.compare(correct=True)
    assert (told(found), found.waiting, found.compared) == ([], 0, 1)
    assert house.fleet.one("SELECT COUNT(*) FROM adoptions") == 0
    assert told(house.compare(correct=True)) == [("acme", "credits", "short", -640_000, 640_000, 10**6)], (
        "an hour later"
    )


def test_push_charged_twice_is_refunded(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 100})
    house.use("acme", 500, size=64)
    house.autumn.faults.rates = {"answer_lost": 1.0}
    house.autumn.list_stands_still = (T0, T0 + DAY_MS)
    house.bill()
    house.autumn.faults.rates = {}
    house.autumn.key_store = "refusing"
    house.wait(5 * MINUTE_MS)
    house.wait(5 * MINUTE_MS)
    house.autumn.key_store = "up"
    house.autumn.list_stands_still = (0, 0)
    assert house.drawn("acme") == Decimal("6.4"), "3.2 credits were drawn twice"
    house.wait(HOUR_MS)
    assert told(house.compare(correct=True)) == [("acme", "credits", "over", 3_200_000, 3_200_000, 10**6)]
    house.wait(HOUR_MS)
    house.is_exact()


def test_charge_without_event_is_accepted_by_balance(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 100})
    house.autumn.faults.rates = {"queued_charged_no_event": 1.0}
    house.use("acme", 500, size=64)
    house.use("acme", 60, size=8)
    house.bill()
    house.autumn.faults.rates = {}
    house.use("acme", 10, size=1)
    house.bill()
    for _ in range(5):
        house.wait(6 * HOUR_MS)
    assert {state for *_, state in house.states("acme")} == {"accepted"}
    house.is_exact()


@pytest.mark.parametrize("is_lost", [False, True])
@pytest.mark.parametrize("shown", [None, 1.6])
def test_event_below_answered_amount_is_resolved_by_balance(
    engine: sa.Engine, shown: float | None, is_lost: bool
) -> None:
    """The answer proved 1.92 credits. If the balance fell by them, the event is wrong: nothing is billed again."""
    house = House(engine, {"acme": 100})
    house.use("acme", 500, size=64)
    house.bill()
    assert house.compare(correct=True).exit_status == 0
    house.autumn.sync()
    house.use("acme", 300, size=64)
    house.bill()
    event = max(house.autumn.account.events)
    event.deductions[:] = [] if shown is None else [{**event.deductions[0], "value": shown}]
    if is_lost:
        house.autumn.account.add_to_balance("acme", "credits", 1.92 - (shown or 0))
        house.autumn.account.drawn[("acme", "credits")] -= Decimal("1.92") - Decimal(str(shown or 0))
    found = house.compare(correct=True)
    house.bill()
    assert [line[4] for line in told(found)] == ([300 - int((shown or 0) / 0.0064)] if is_lost else [])
    uncosted = "SELECT COUNT(*) FROM pushes WHERE state = 'accepted' AND credit_cost IS NULL"
    assert house.fleet.one(uncosted) == 0, "what an event shows of a charge keeps its cost"
    house.is_exact()
    assert house.compare(correct=True).exit_status == 0
    house.is_exact()


def test_uncharged_push_with_known_key_is_voided_and_billed(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 100})
    house.autumn.faults.rates = {"claimed_not_applied": 1.0}
    house.use("acme", 500, size=64)
    house.use("acme", 60, size=8)
    house.bill()
    house.autumn.faults.rates = {}
    for _ in range(5):
        house.wait(6 * HOUR_MS)
    assert sorted(house.states("acme")) == [
        ("compute_64gb", 0, 500, "voided"),
        ("compute_64gb", 1, 500, "accepted"),
        ("compute_8gb", 0, 60, "voided"),
        ("compute_8gb", 1, 60, "accepted"),
    ]
    house.is_exact()


def test_clamped_charge_rest_is_billed_after_grant(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 1})
    house.autumn.account.control(
        "acme",
        {
            "spend_limits": [{"feature_id": "credits", "enabled": True, "overage_limit": 2}],
            "overage_allowed": [{"feature_id": "credits", "enabled": True}],
        },
        T0,
    )
    house.use("acme", 500, size=64)
    house.bill()
    for _ in range(4):
        house.wait(5 * MINUTE_MS)
    assert house.drawn("acme") == 3
    assert house.states("acme") == [
        ("compute_64gb", 0, 500, "voided"),
        ("compute_64gb", 1, 469, "accepted"),
        ("compute_64gb", 2, 31, "rejected"),
    ]
    assert house.fleet.rows("SELECT is_halted, halt_reason FROM orgs") == [(1, "credits_exhausted")]
    house.autumn.account.grant("acme", "credits", 50, house.fleet.clock.at_ms, interval=ONE_OFF)
    for _ in range(6):
        house.wait(HOUR_MS)
    assert house.states("acme")[2:] == [("compute_64gb", 2, 31, "voided"), ("compute_64gb", 3, 31, "accepted")]
    # The unit that was charged in part is not charged again: 0.0016 credits of it were not drawn.
    assert house.used["acme"] - house.drawn("acme") == Decimal("0.0016")
    assert read(house.fleet.engine, verify).breaches == []


@pytest.mark.parametrize("is_compared_before", [False, True])
def test_charge_clamped_within_unit_is_not_reported_as_difference(engine: sa.Engine, is_compared_before: bool) -> None:
    house = House(engine, {"acme": 5})
    enabled = {"feature_id": "credits", "enabled": True}
    limits = {"spend_limits": [{**enabled, "overage_limit": 2}], "overage_allowed": [enabled]}
    house.autumn.account.control("acme", limits, T0)
    house.use("acme", 100, size=64)
    house.bill()
    if is_compared_before:
        assert house.compare(correct=True).exit_status == 0
    house.use("acme", 1_500, size=64)
    house.bill()
    for _ in range(4):
        house.wait(5 * MINUTE_MS)
    assert house.drawn("acme") == 7, "6.36 credits of the last push: 993.75 units"
    found = house.compare(correct=True)
    assert (told(found), found.left_out) == ([], [])
    house.autumn.account.grant("acme", "credits", 50, house.fleet.clock.at_ms, interval=ONE_OFF)
    for _ in range(6):
        house.wait(HOUR_MS)
    assert house.used["acme"] - house.drawn("acme") == Decimal("0.0016"), "the rest of that unit is charged to nobody"
    assert told(house.compare(correct=True)) == []
    house.autumn.account.add_to_balance("acme", "credits", 1)
    assert told(house.compare(correct=True)) == [("acme", "credits", "short", -(10**6), 0, 10**6)]
    assert read(house.fleet.engine, verify).breaches == []


def test_grant_used_up_exactly_halts_and_waiting_usage_is_billed_once(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 3.2})
    house.wait(0)  # a first read shows the grant
    house.use("acme", 500, size=64)
    house.bill()
    assert house.fleet.rows("SELECT is_halted, halt_reason FROM orgs") == [(1, "credits_exhausted")]
    house.use("acme", 100, size=64)
    house.bill()
    assert house.states("acme")[-1] == ("compute_64gb", 0, 100, "rejected")
    for _ in range(3):
        house.wait(HOUR_MS)
    assert house.states("acme")[-1] == ("compute_64gb", 0, 100, "rejected"), "nothing is tried without credit"
    house.autumn.account.grant("acme", "credits", 10, house.fleet.clock.at_ms, interval=ONE_OFF)
    for _ in range(4):
        house.wait(HOUR_MS)
    assert house.states("acme")[-2:] == [("compute_64gb", 0, 100, "voided"), ("compute_64gb", 1, 100, "accepted")]
    assert house.fleet.one("SELECT is_halted FROM orgs") == 0
    assert house.compare(correct=True).exit_status == 0, "what was drawn from the grant that is gone is known"
    house.is_exact()


def test_grant_used_up_by_first_push_is_not_reported_as_loss(engine: sa.Engine) -> None:
    """Only the preflight of the assignment ever saw the grant: taken for a loss, its usage would be billed twice."""
    house = House(engine, {})
    account, fleet = house.autumn.account, house.fleet
    account.add_customer("acme", T0)
    account.grant("acme", "credits", Decimal("0.024"), T0, interval=ONE_OFF)
    house.used["acme"] = Decimal(0)
    house.use("acme", 60)
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    options = FlipOptions("autumn", T0, dry_run=False, allow_halt=False, unchecked=False, each_alone=False)
    runner.run(flip(fleet.context(), [Wish("acme", "acme")], options, fleet.by), world)
    house.bill()
    account.grant("acme", "credits", 10, fleet.clock.at_ms, interval=ONE_OFF)
    found = house.compare(correct=True)
    assert (told(found), found.exit_status) == ([], 0)
    house.bill()
    house.is_exact()


def test_lost_first_push_is_accepted_if_it_used_up_the_grant(engine: sa.Engine) -> None:
    """Nobody had read the customer, and the charge has no answer and no event: only the missing grant shows it."""
    house = House(engine, {"acme": 0.024})
    house.autumn.faults.rates = {"queued_charged_no_event": 1.0}
    house.use("acme", 60)
    house.bill()
    house.autumn.faults.rates = {}
    assert house.drawn("acme") == Decimal("0.024")
    for _ in range(5):
        house.wait(6 * HOUR_MS)
    assert house.states("acme") == [("compute_4gb", 0, 60, "accepted")]
    house.is_exact()


def _unreadable(house: House, broken: set[str]) -> list[str]:
    """Reads of these customers get no answer; the customers of all charges that arrived."""
    right, tracked = house.autumn.handle, list[str]()

    def handle(call: Call, now_ms: int) -> HttpResult:
        customer = json.loads(call.body or b"{}").get("customer_id")
        if call.url.endswith("/customers.get") and customer in broken:
            return NoAnswer("timed out")
        tracked.extend([customer] if call.url.endswith("/track") else [])
        return right(call, now_ms)

    house.autumn.handle = handle  # type: ignore[method-assign]
    return tracked


def test_push_of_unreadable_customer_waits_and_others_are_sent(engine: sa.Engine) -> None:
    """Its push was sent beside those of the claim that could be, and on record as never sent: after a day, twice."""
    house, broken = House(engine, {"acme": 10, "zeta": 10}), {"acme"}
    tracked = _unreadable(house, broken)
    for org in ("acme", "zeta"):
        house.use(org, 60)
    house.bill()
    assert (house.states("acme")[0][3], house.states("zeta")[0][3], tracked) == ("due", "accepted", ["zeta"])
    ((why, first_ms),) = house.fleet.rows("SELECT last_error, first_attempt_ms FROM pushes WHERE org_id = 'acme'")
    assert (why, first_ms) == ("not sent before its customer is read: customers.get: timed out", None)
    broken.clear()
    house.wait(25 * HOUR_MS)
    assert tracked == ["zeta", "acme"]
    house.is_exact()


def test_lost_push_to_unread_former_customer_is_accepted_by_balance(engine: sa.Engine) -> None:
    house, broken = House(engine, {"acme": 0.024}), {"acme"}
    house.autumn.account.add_customer("y", T0)
    house.autumn.account.grant("y", "credits", 10, T0, interval=ONE_OFF)
    tracked = _unreadable(house, broken)
    house.use("acme", 60)
    house.bill()
    write(house.fleet.engine, lambda c: assign(c, ["acme"], "autumn", house.fleet.by, customer_id="y", from_ms=None))
    house.bill()
    broken.clear()
    house.autumn.faults.rates = {"queued_charged_no_event": 1.0}
    house.wait(HOUR_MS)
    house.autumn.faults.rates = {}
    for _ in range(5):
        house.wait(6 * HOUR_MS)
    assert (house.states("acme"), tracked) == ([("compute_4gb", 0, 60, "accepted")], ["acme"])
    house.is_exact()


@pytest.mark.parametrize("is_halted", [True, False])
def test_lost_push_that_used_up_grant_of_org_without_credit_is_accepted(engine: sa.Engine, is_halted: bool) -> None:
    """The grant came after the last read, and before a late push. An override keeps the organisation running."""
    house = House(engine, {"acme": 0})
    if not is_halted:
        write(engine, lambda c: override(c, "acme", house.fleet.by, halted=False))
    house.bill()
    assert house.fleet.one("SELECT is_halted FROM orgs") == is_halted
    house.autumn.account.grant("acme", "credits", Decimal("0.024"), house.fleet.clock.at_ms, interval=ONE_OFF)
    house.use("acme", 60)
    house.autumn.faults.rates = {"queued_charged_no_event": 1.0}
    house.bill()
    house.autumn.faults.rates = {}
    for _ in range(5):
        house.wait(6 * HOUR_MS)
    assert house.states("acme") == [("compute_4gb", 0, 60, "accepted")]
    house.is_exact()


def test_push_of_never_readable_customer_is_sent_after_a_day(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 10})
    tracked = _unreadable(house, {"acme"})
    house.use("acme", 60)
    house.bill()
    house.wait(23 * HOUR_MS)
    assert tracked == []
    house.wait(HOUR_MS)
    assert tracked == ["acme"]
    assert house.states("acme") == [("compute_4gb", 0, 60, "accepted")]


def test_cost_change_between_pushes_does_not_hide_loss(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 100})
    house.use("acme", 500, size=64)
    house.bill()
    house.compare(correct=True)
    house.autumn.account.features["credits"].credit_schema["compute_64gb"] = Decimal("0.01")
    house.use("acme", 100, size=64)
    house.bill()
    assert house.drawn("acme") == Decimal("4.2")
    assert house.states("acme")[-1] == ("compute_64gb", 0, 100, "accepted")
    assert house.compare(correct=True).exit_status == 0
    house.autumn.sync()
    house.use("acme", 10, size=64)
    house.bill()
    house.autumn.lose_balances(house.fleet.clock.at_ms)
    assert told(house.compare(correct=True)) == [("acme", "credits", "short", -100_000, 100_000, 10**6)]
    house.bill()
    assert house.drawn("acme") == Decimal("4.3")
    assert house.compare(correct=True).exit_status == 0


def test_used_up_part_shown_only_by_answers_is_not_reported_as_loss(engine: sa.Engine) -> None:
    """Granted and used up between two reads: taken for a loss, its usage would be billed twice."""
    house = House(engine, {"acme": 1})
    house.use("acme", 60)
    house.bill()
    assert house.compare(correct=True).exit_status == 0
    house.autumn.account.grant("acme", "credits", Decimal("0.048"), house.fleet.clock.at_ms, interval=ONE_OFF)
    for seconds in (2_440, 60, 60):
        house.use("acme", seconds)
        house.window += 1
    house.bill()
    house.autumn.account.grant("acme", "credits", 10, house.fleet.clock.at_ms, interval=ONE_OFF)
    found = house.compare(correct=True)
    assert (told(found), found.exit_status) == ([], 0)
    house.bill()
    house.is_exact()


@pytest.mark.parametrize("is_standing", [False, True])
def test_used_up_part_never_shown_is_reported_and_not_billed_twice(engine: sa.Engine, is_standing: bool) -> None:
    """Charges that were queued while the balance store was away have no answer that shows a balance. Nothing tells such
    a part from a loss: a person is told, and by how much it may be less."""
    house = House(engine, {"acme": 1})
    house.use("acme", 60)
    house.bill()
    assert house.compare(correct=True).exit_status == 0
    house.autumn.account.grant("acme", "credits", Decimal("0.048"), house.fleet.clock.at_ms, interval=ONE_OFF)
    house.autumn.balance_store = "down"
    for seconds in (2_440, 60, 60):
        house.use("acme", seconds)
        house.window += 1
    house.bill()
    house.autumn.balance_store = "up"
    house.wait(2 * MINUTE_MS)
    house.autumn.account.grant("acme", "credits", 10, house.fleet.clock.at_ms, interval=ONE_OFF)
    if is_standing:
        house.autumn.account.events.remove(next(iter(house.autumn.account.events)))
    found = house.compare(correct=True)
    (line,) = [line for line in found.differing if line.balance]
    assert (line.theirs - line.ours, line.corrected, line.standing) == (-48_000, 0, is_standing)
    assert line.unsure == 1_024_000, "all three may have drawn on such parts"
    assert "uncertain by up to 1.024" in str(line.note)
    house.bill()
    assert house.drawn("acme") == house.used["acme"]
    again = [line for line in house.compare(correct=True).differing if line.balance]
    assert [line.unsure for line in again] == [1_024_000] * is_standing, "told each night while the day is open"


@pytest.mark.parametrize(
    ("is_known", "given_back", "apart", "unsure"),
    [
        (True, "0", 0, 0),
        (True, "0.05", -50_000, 0),
        (False, "0.05", -14_000, 396_000),
        (False, "0.02", 16_000, 396_000),
        (False, "0", 0, 360_000),
        (False, "0.036", 0, 396_000),
    ],
)
def test_difference_after_cost_change_is_reported_once(
    engine: sa.Engine, is_known: bool, given_back: str, apart: int, unsure: int
) -> None:
    """Each answer tells the cost of its charge. Without it, the amount nearest to zero is reported, and by how much it
    is uncertain: a loss can look like a smaller gain, like nothing, and like charges that all drew the lower cost. It
    is reported once, until it is acknowledged."""
    house = House(engine, {"acme": 100})
    house.use("acme", 500, size=64)
    house.bill()
    house.compare(correct=True)
    house.use("acme", 100, size=64)
    house.bill()
    house.autumn.account.features["credits"].credit_schema["compute_64gb"] = Decimal("0.01")
    house.use("acme", 10, size=64)
    house.bill()
    assert house.drawn("acme") == Decimal("3.94")
    house.autumn.account.add_to_balance("acme", "credits", Decimal(given_back))
    if not is_known:
        write(engine, lambda c: c.execute(sa.text("UPDATE pushes SET credit_cost = NULL")))
    verdict = "short" if apart < 0 else "over" if apart > 0 else "unsure"
    expected = [("acme", "credits", verdict, apart, 0, 10**6)] if apart or unsure else []
    found = house.compare(correct=True)
    assert (told(found), found.exit_status) == (expected, int(bool(expected)))
    assert [line.unsure for line in found.differing] == [unsure] * len(expected)
    uncertain = f"uncertain by up to {Decimal(unsure) / 10**6:f}"
    assert all((uncertain in str(line.note)) is not is_known for line in found.differing)
    assert house.fleet.rows("SELECT told_qty, unsure_qty FROM balance_marks") == [(apart, unsure)]
    assert [row.customer_id for row in read(engine, pushes.find_unacknowledged)] == ["acme"] * len(expected)
    assert house.compare(correct=True).differing == []
    write(engine, lambda c: pushes.acknowledge(c, "acme", house.fleet.by))
    assert (read(engine, pushes.find_unacknowledged), house.compare(correct=True).differing) == ([], [])


@pytest.mark.parametrize("size", [1, 64])
def test_refund_beyond_grant_is_exact(engine: sa.Engine, size: int) -> None:
    house = House(engine, {"acme": 10})
    house.use("acme", 1_000, size=size)
    house.bill()
    write(engine, lambda c: withdrawals.withdraw(c, ["s1"], house.fleet.by))
    house.used["acme"] = Decimal(0)
    house.bill()
    assert house.compare(correct=True).exit_status == 0
    house.is_exact()


def test_refund_without_grant_is_rejected_until_credit(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 3.2})
    house.use("acme", 500, size=64)
    house.bill()
    write(engine, lambda c: withdrawals.withdraw(c, ["s1"], house.fleet.by))
    house.bill()
    for _ in range(30):
        house.wait(HOUR_MS)
    assert house.states("acme")[1:] == [("compute_64gb", 1, -500, "rejected")], "without a balance nothing is sent"
    (waiting,) = read(engine, lambda c: read_providers(c, house.fleet.clock.at_ms))
    assert (waiting.rejected, waiting.awaiting_credit) == (1, 0), "a person sees it meanwhile"
    house.autumn.account.grant("acme", "credits", 10, house.fleet.clock.at_ms, interval=ONE_OFF)
    for _ in range(3):
        house.wait(HOUR_MS)
    assert house.states("acme")[1:] == [("compute_64gb", 1, -500, "voided"), ("compute_64gb", 2, -500, "accepted")]
    house.used["acme"] = Decimal(0)
    assert house.compare(correct=True).exit_status == 0
    house.is_exact()


def test_feature_removed_from_credit_system_is_not_reported_as_loss(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 100})
    house.use("acme", 500, size=64)
    house.use("acme", 100, size=4)
    house.bill()
    assert house.compare(correct=True).exit_status == 0
    del house.autumn.account.features["credits"].credit_schema["compute_4gb"]
    house.autumn.account.grant("acme", "compute_4gb", 10_000, house.fleet.clock.at_ms, interval=ONE_OFF)
    house.wait(HOUR_MS)
    house.use("acme", 300, size=4)
    house.use("acme", 10, size=64)
    house.bill()
    for _ in range(3):
        found = house.compare(correct=True)
        assert (told(found), found.exit_status) == ([], 0)
        house.wait(DAY_MS)
    assert house.drawn("acme") == Decimal("3.304")
    assert house.autumn.account.drawn["acme", "compute_4gb"] == 300
    assert house.fleet.one("SELECT COUNT(*) FROM adoptions") == 0


def test_loss_after_first_credit_system_is_reported(engine: sa.Engine) -> None:
    """All that was ever used before is in the credits or not: the balance of its own may be gone."""
    house = House(engine, {"acme": 100})
    account = house.autumn.account
    schema = dict(account.features["credits"].credit_schema)
    account.features["credits"].credit_schema.clear()
    account.grant("acme", "compute_4gb", 10_000, T0, interval=ONE_OFF)
    house.use("acme", 250, size=4)
    house.bill()
    house.bill()
    account.features["credits"].credit_schema.update(schema)
    del account.customers["acme"].grants["compute_4gb"]
    house.wait(HOUR_MS)
    found = house.compare(correct=True)
    assert (told(found), house.fleet.one("SELECT COUNT(*) FROM adoptions")) == ([], 0), "it is not billed once more"
    house.wait(HOUR_MS)
    house.autumn.sync()
    house.use("acme", 100, size=4)
    house.bill()
    house.autumn.lose_balances(house.fleet.clock.at_ms)
    assert told(house.compare(correct=True)) == [("acme", "credits", "short", -40_000, 40_000, 10**6)]
    house.bill()
    assert house.drawn("acme") == Decimal("0.04")
    found = house.compare(correct=True)
    assert (told(found), found.exit_status) == ([], 0)


def test_loss_before_used_up_part_expires_is_found(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 100})
    account, ends_ms = house.autumn.account, T0 + 40 * DAY_MS
    account.grant("acme", "credits", 1.6, T0, interval=ONE_OFF, given="promo", expires_at=ends_ms)
    house.wait(0)
    house.use("acme", 500, size=64)
    house.bill()
    assert house.compare(correct=True).exit_status == 0
    assert "promo" not in [one.given for one in account.customers["acme"].grants["credits"]]
    house.autumn.sync()
    house.use("acme", 100, size=4)
    house.bill()
    house.autumn.lose_balances(house.fleet.clock.at_ms)
    assert told(house.compare(correct=True)) == [("acme", "credits", "short", -40_000, 40_000, 10**6)]
    house.bill()
    house.is_exact()


def test_loss_in_run_begun_in_previous_cycle_is_resent_once(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 0})
    house.autumn.account.grant("acme", "credits", 100, T0, interval="month")
    house.use("acme", 500, size=64)
    house.bill()
    assert house.compare(correct=True).exit_status == 0
    house.autumn.sync()
    house.use("acme", 100, size=4)
    house.bill()
    house.autumn.lose_balances(house.fleet.clock.at_ms)
    assert told(house.compare(correct=True, begun_ms=T0 - HOUR_MS))[0][3:5] == (-40_000, 40_000)
    house.bill()
    assert told(house.compare(correct=True)) == []
    house.bill()
    house.is_exact()


def month_with_used_topup(engine: sa.Engine, included: float = 10) -> House:
    """A house whose only customer has a monthly part and a top-up that was drawn on, compared before the month ends."""
    house = House(engine, {"acme": 0})
    account = house.autumn.account
    account.grant("acme", "credits", included, T0, interval="month")
    account.grant("acme", "credits", 50, T0, interval=ONE_OFF, given="top-up")
    house.wait(0)
    for _ in range(3):
        house.use("acme", 500, size=64)
        house.bill()
    house.wait(28 * DAY_MS)
    assert house.compare(correct=True).exit_status == 0
    house.autumn.sync()
    return house


def begin_next_month(house: House) -> None:
    """Go on to a day of the next month, long after its begin."""
    resets_at = house.autumn.account.customers["acme"].grants["credits"][0].resets_at
    assert resets_at is not None
    house.wait(resets_at + HOUR_MS - house.fleet.clock.at_ms)


@pytest.mark.parametrize("used_before", [0, 200, 500])
def test_loss_before_first_comparison_of_next_month_is_resent(engine: sa.Engine, used_before: int) -> None:
    house = month_with_used_topup(engine, included=10 if used_before else 8)
    if used_before:
        house.use("acme", used_before, size=64)
        house.bill()
    begin_next_month(house)
    house.use("acme", 300, size=64)
    house.bill()
    house.autumn.sync()
    house.use("acme", 100, size=4)
    house.bill()
    house.autumn.lose_balances(house.fleet.clock.at_ms)
    assert told(house.compare(correct=True)) == [("acme", "credits", "short", -40_000, 40_000, 10**6)]
    house.bill()
    assert told(house.compare(correct=True)) == []
    house.is_exact()


def test_topup_lost_at_month_end_is_resent_in_next_month(engine: sa.Engine) -> None:
    house = month_with_used_topup(engine, included=5)
    house.use("acme", 100, size=64)
    house.bill()
    house.autumn.lose_balances(house.fleet.clock.at_ms)
    begin_next_month(house)
    house.use("acme", 50, size=4)
    house.bill()
    assert told(house.compare(correct=True)) == [("acme", "credits", "short", -640_000, 640_000, 10**6)]
    house.bill()
    assert told(house.compare(correct=True)) == []
    house.is_exact()


def test_topup_used_at_month_end_is_not_reported_as_difference(engine: sa.Engine) -> None:
    house = month_with_used_topup(engine, included=5)
    account = house.autumn.account
    account.set_remaining("acme", "credits", 1)
    assert house.compare(correct=True).exit_status != 0, "a person set it: told once"
    account.grant("acme", "credits", 30, house.fleet.clock.at_ms, interval=ONE_OFF, given="second")
    house.use("acme", 1_000, size=64)
    house.bill()
    begin_next_month(house)
    house.use("acme", 50, size=4)
    house.bill()
    assert told(house.compare(correct=True)) == []


@pytest.mark.parametrize("lost", [0, 1_500])
def test_loss_after_refund_before_month_end_is_reported_as_range(engine: sa.Engine, lost: int) -> None:
    """Whether it went back to the month or to the top-up is untold. A person is told by how much the first comparison
    of the next month is uncertain, and nothing is billed again on such a guess."""
    house = month_with_used_topup(engine)
    house.use("acme", 500, size=64)
    house.bill()
    write(engine, lambda c: withdrawals.withdraw(c, ["s4"], house.fleet.by))
    house.used["acme"] -= Decimal("3.2")
    house.wait(HOUR_MS)
    begin_next_month(house)
    house.use("acme", 50, size=4)
    house.bill()
    house.autumn.sync()
    if lost:
        house.use("acme", lost, size=64)
        house.bill()
        house.autumn.lose_balances(house.fleet.clock.at_ms)
    (line,) = (found := house.compare(correct=True)).differing
    least = line.theirs - line.ours - line.unsure
    assert least <= -Decimal(lost) * 6_400 <= line.theirs - line.ours + line.unsure
    assert (line.corrected, line.unsure, found.exit_status) == (0, 3_200_000, 1)
    assert line.verdict == ("short" if lost else "unsure")
    assert house.fleet.one("SELECT COUNT(*) FROM adoptions") == 0
    again = house.compare(correct=True)
    assert (told(again), again.left_out) == ([], []), "it is told once"
    house.autumn.sync()
    house.use("acme", 100, size=4)
    house.bill()
    house.autumn.lose_balances(house.fleet.clock.at_ms)
    assert told(house.compare(correct=True)) == [("acme", "credits", "short", -40_000, 40_000, 10**6)]


@pytest.mark.parametrize("has_plan", [True, False])
def test_loss_in_the_first_month_of_a_plan_is_found(engine: sa.Engine, has_plan: bool) -> None:
    """A customer with used credits gets a monthly part, and nothing was reset: the comparison goes on. Where no plan
    tells that it is the first month, what was charged since the last comparison may have been reset with it."""
    house = House(engine, {"acme": 50})
    account = house.autumn.account
    house.wait(0)
    house.use("acme", 3_000, size=64)
    house.bill()
    assert house.compare(correct=True).exit_status == 0
    house.use("acme", 100, size=64)
    house.bill()
    house.wait(HOUR_MS)
    if has_plan:
        account.add_plan("team", {"credits": (Decimal(1_000), "month")}, now_ms=T0)
        account.attach("acme", "team", house.fleet.clock.at_ms)
    else:
        account.grant("acme", "credits", 1_000, house.fleet.clock.at_ms, interval="month")
    house.wait(HOUR_MS)
    house.autumn.sync()
    house.use("acme", 1_500, size=64)
    house.bill()
    house.autumn.lose_balances(house.fleet.clock.at_ms)
    (line,) = house.compare(correct=True).differing
    expected = (-9_600_000, 9_600_000, 0) if has_plan else (-8_960_000, 0, 640_000)
    assert (line.theirs - line.ours, line.corrected, line.unsure) == expected
    house.bill()
    assert told(house.compare(correct=True)) == []
    if has_plan:
        house.is_exact()
    house.autumn.sync()
    house.use("acme", 100, size=4)
    house.bill()
    house.autumn.lose_balances(house.fleet.clock.at_ms)
    assert told(house.compare(correct=True)) == [("acme", "credits", "short", -40_000, 40_000, 10**6)]


def test_first_comparison_in_later_month_lists_uncompared_charges(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 50})
    account = house.autumn.account
    account.grant("acme", "credits", 2, T0, interval="month")
    house.use("acme", 500, size=64)
    house.bill()
    begin_next_month(house)
    house.use("acme", 100, size=64)
    house.bill()
    found = house.compare(correct=True)
    (one,) = found.left_out
    assert "does not compare the charges since then (credits: 0.64)" in one.reason
    again = house.compare(correct=True)
    assert (again.left_out, again.differing, found.differing) == ([], [], [])


@pytest.mark.parametrize("tells", ["plan", "charges", "nothing"])
def test_loss_in_cycle_ending_in_short_month_is_found(engine: sa.Engine, tells: str) -> None:
    """From 28 February alone nobody can tell whether the cycle began on 28, 29, 30 or 31 January. Its plan tells it; so
    do charges that all came later. Else a person is told by how much it is uncertain, and later nights are exact."""
    house = House(engine, {"acme": 0})
    account = house.autumn.account
    house.wait(29 * DAY_MS)
    if tells == "plan":
        account.add_plan("team", {"credits": (Decimal(1000), "month")}, now_ms=T0)
        account.attach("acme", "team", house.fleet.clock.at_ms)
    else:
        account.grant("acme", "credits", 1000, house.fleet.clock.at_ms, interval="month")
    house.wait(HOUR_MS if tells != "charges" else 2 * DAY_MS)
    house.use("acme", 500, size=64)
    house.bill()
    found = house.compare(correct=True)
    unsure = [(line.verdict, line.unsure, line.note) for line in found.differing]
    note = f"{balances.MAY_AGREE}. The difference is uncertain by up to 3.2"
    assert [(verdict, much) for verdict, much, _ in unsure] == ([("unsure", 3_200_000)] if tells == "nothing" else [])
    assert all(str(words).startswith(note) for *_, words in unsure)
    for _ in range(3):
        house.autumn.sync()
        house.use("acme", 1_500, size=64)
        house.bill()
        house.autumn.lose_balances(house.fleet.clock.at_ms)
        found = house.compare(correct=True)
        assert told(found) == [("acme", "credits", "short", -9_600_000, 9_600_000, 10**6)]
        house.wait(DAY_MS)
    assert (told(house.compare(correct=True)), found.left_out) == ([], [])
    assert house.drawn("acme") == house.used["acme"]


def test_balance_that_is_not_compared_is_reported(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 0})
    account = house.autumn.account
    account.grant("acme", "credits", 1000, T0, interval="month")
    account.customers["acme"].grants["credits"][0].interval = "fortnight"
    house.use("acme", 500, size=64)
    house.bill()
    found = house.compare(correct=True)
    assert [(one.customer_id, one.feature, one.reason) for one in found.left_out] == [
        ("acme", "credits", balances.UNTOLD)
    ]
    shown = [str(line) for line in reconcile_command._report(found, 0, 0)]
    assert "1 balance was not compared" in shown[0]
    assert f"acme, credits: balance not compared: {balances.UNTOLD}" in shown


@pytest.mark.parametrize("trouble", ["", "no answer", "given back"])
def test_loss_after_a_part_expired_is_found(engine: sa.Engine, trouble: str) -> None:
    """36.8 of 40 credits are left as they expire: as much as that would hide a loss, if nothing told how much of them
    had been drawn. Charges without an answer leave it uncertain: a person is told the rest."""
    house = House(engine, {"acme": 100})
    account = house.autumn.account
    ends_ms = T0 + 3 * HOUR_MS
    account.grant("acme", "credits", 40, T0, interval=ONE_OFF, given="promo", expires_at=ends_ms)
    house.wait(0)
    house.use("acme", 500, size=64)
    house.bill()
    assert house.compare(correct=True).exit_status == 0
    if trouble == "no answer":
        house.autumn.faults.rates = {"answer_lost": 1.0}
        house.use("acme", 100, size=64)
        house.bill()
        house.autumn.faults.rates = {}
    elif trouble:
        write(engine, lambda c: withdrawals.withdraw(c, ["s1"], house.fleet.by))
        house.used["acme"] = Decimal(0)
        house.bill()
    house.wait(3 * HOUR_MS)
    account.customers["acme"].refresh(house.fleet.clock.at_ms)
    assert [one.given for one in account.customers["acme"].grants["credits"]] == [None]
    house.autumn.sync()
    for _ in range(4):
        house.use("acme", 300, size=64)
        house.window += 1
    house.bill()
    house.autumn.lose_balances(house.fleet.clock.at_ms)
    (line,) = house.compare(correct=True).differing
    apart = line.theirs - line.ours
    assert apart - line.unsure <= -7_680_000 <= apart + line.unsure
    unsure = 1_280_000 if trouble == "no answer" else 0
    assert (line.corrected, line.unsure) == (0 if unsure else 7_680_000, unsure)
    assert bool(line.unsure) == ("uncertain by up to" in str(line.note))
    house.bill()
    again = house.compare(correct=True)
    assert (told(again), again.exit_status) == ([], 0)
    if not trouble:
        house.is_exact()


def test_part_use_is_lowered_only_by_read_after_a_minute(engine: sa.Engine) -> None:
    """Answers come out of order, and reads may be old: for a minute the most that was shown stands."""
    shown = []
    for at_ms, used in ((0, 5), (30_000, 3), (61_000, 3), (62_000, 4), (121_999, 4), (122_000, 4)):
        part = Part("credits", "promo", Decimal(40), T0 + DAY_MS, used=Decimal(used))
        write(engine, partial(note_shown_parts, provider="autumn", shown={"acme": [part]}, now_ms=T0 + at_ms))
        (known,) = read(engine, lambda c: known_parts(c, "autumn", ["acme"]))["acme"]
        shown.append((str(known.used), known.seen_ms - T0))
    assert shown == [("5", 0), ("5", 0), ("3", 61_000), ("4", 62_000), ("4", 62_000), ("4", 122_000)]


def test_part_use_is_not_lowered_by_transaction_that_read_it_before(postgres: sa.Engine) -> None:
    """Two reads of one customer: the later one committed first."""
    part = Part("credits", "promo", Decimal(40), T0 + DAY_MS, used=Decimal(12))
    write(postgres, partial(note_shown_parts, provider="autumn", shown={"acme": [part]}, now_ms=T0 + 2))
    stale = {"acme": [replace(part, used=Decimal(3), seen_ms=T0)]}
    older = {"acme": [replace(part, used=Decimal(5))]}
    write(postgres, lambda c: balance_parts._keep(c, "autumn", older, stale, T0 + 1))
    (known,) = read(postgres, lambda c: known_parts(c, "autumn", ["acme"]))["acme"]
    assert known.used == 12


def test_balance_is_not_compared_after_finer_cost_was_learned(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its figures have another scale than those of the cost that the run began with."""
    house = House(engine, {"acme": 100})
    house.wait(0)
    house.use("acme", 250)
    house.bill()

    def learns(*given: Any) -> Any:
        into = "provider_rates (provider, feature, start_ms, micro, per_quantity, at_ms, actor, reason, balance)"
        finer = f"'autumn', 'compute_1gb', {T0}, 1, 1000, {house.fleet.clock.at_ms}, 'drawdown', 'a test', 'credits'"
        write(engine, lambda c: c.execute(sa.text(f"INSERT INTO {into} VALUES ({finer})")))
        return read_balances(*given)

    monkeypatch.setattr("drawdown.worker.reconcile.balances.read_balances", learns)
    found = house.compare(correct=True)
    assert (told(found), [one.reason for one in found.left_out]) == ([], [balances.FINER])
    monkeypatch.undo()
    assert told(house.compare(correct=True)) == []


def in_debt(engine: sa.Engine, promo_ms: int) -> House:
    """3.7 credits were drawn on a promo of 1 that ends after `promo_ms`, and were compared."""
    house = House(engine, {"acme": 0})
    ends_ms = T0 + promo_ms
    house.autumn.account.grant("acme", "credits", 1, T0, interval=ONE_OFF, given="promo", expires_at=ends_ms)
    house.wait(0)
    house.use("acme", 1_250)
    house.bill()
    house.use("acme", 500, size=64)
    house.bill()
    assert told(house.compare(correct=True)) == []
    return house


def test_debt_on_expired_part_is_not_reported_as_loss(engine: sa.Engine) -> None:
    house = in_debt(engine, 4 * HOUR_MS)
    account = house.autumn.account
    account.grant("acme", "credits", 50, house.fleet.clock.at_ms, interval=ONE_OFF, given="pack")
    house.wait(4 * HOUR_MS)
    house.use("acme", 250)
    house.bill()
    assert told(house.compare(correct=True)) == []
    house.is_exact()


@pytest.mark.parametrize("lost", [False, True])
def test_debt_cleared_by_person_does_not_hide_lost_charge(engine: sa.Engine, lost: bool) -> None:
    house = in_debt(engine, 8 * HOUR_MS)
    account = house.autumn.account
    now_ms = house.fleet.clock.at_ms
    account.set_remaining("acme", "credits", 0, given="promo", now_ms=now_ms)
    account.grant("acme", "credits", 50, now_ms, interval=ONE_OFF, given="pack")
    house.wait(HOUR_MS)
    short = [("acme", "credits", "short", -2_700_000, 0, 1_000_000)]
    assert told(house.compare(correct=True)) == short
    if lost:
        house.use("acme", 500, size=64)
        house.bill()
        account.lose_balances(house.fleet.clock.at_ms)
    house.wait(6 * HOUR_MS)
    found = [("acme", "credits", "short", -3_200_000, 3_200_000, 1_000_000)] if lost else []
    assert told(house.compare(correct=True)) == found


def test_part_expiring_during_charges_is_not_reported_as_difference(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 100})
    ends_ms = T0 + 40 * MINUTE_MS
    house.autumn.account.grant("acme", "credits", 40, T0, interval=ONE_OFF, given="promo", expires_at=ends_ms)
    while house.fleet.clock.at_ms < T0 + HOUR_MS:
        house.use("acme", 300, size=64)
        house.window += 1
        for minute in range(5):
            house.tick(T0 + house.window * WINDOW_MS + minute * MINUTE_MS)
    assert house.fleet.rows("SELECT part, used <> '0' FROM balance_parts WHERE used IS NOT NULL") == [("promo", 1)]
    found = house.compare(correct=True)
    assert (told(found), found.left_out, found.exit_status) == ([], [], 0)
    house.is_exact()


@pytest.mark.parametrize("ends", [False, True])
def test_used_up_or_ended_plan_part_is_not_reported_as_loss(engine: sa.Engine, ends: bool) -> None:
    """A part of a plan disappears as a top-up does; one that ended with its plan may have been drawn on or not."""
    house = House(engine, {"acme": 100})
    account = house.autumn.account
    account.add_plan("starter", {"credits": (Decimal("3.2"), ONE_OFF)}, now_ms=T0)
    account.attach("acme", "starter", T0)
    grants = account.customers["acme"].grants["credits"]
    grants.sort(key=lambda one: one.plan is None)
    house.wait(0)
    house.use("acme", 250, size=64)
    house.bill()
    assert house.compare(correct=True).exit_status == 0
    if ends:
        account.detach("acme", "starter", house.fleet.clock.at_ms)
        house.use("acme", 10, size=4)
    else:
        house.use("acme", 250, size=64)
    house.bill()
    assert told(house.compare(correct=True)) == []
    assert {one.plan for one in account.customers["acme"].grants["credits"]} == {None}
    house.autumn.sync()
    house.use("acme", 100, size=4)
    house.bill()
    house.autumn.lose_balances(house.fleet.clock.at_ms)
    assert told(house.compare(correct=True)) == [("acme", "credits", "short", -40_000, 40_000, 10**6)]
    house.bill()
    house.is_exact()


def test_void_of_corrected_loss_is_refused(engine: sa.Engine) -> None:
    """Void it as well, and its usage is billed twice."""
    house = House(engine, {"acme": 100})
    house.use("acme", 500, size=64)
    house.bill()
    assert house.compare(correct=True).exit_status == 0
    house.autumn.sync()
    house.use("acme", 100, size=4)
    house.bill()
    house.autumn.lose_balances(house.fleet.clock.at_ms)
    key = str(house.fleet.one("SELECT key FROM pushes WHERE feature = 'compute_4gb'"))
    assert told(house.compare(correct=True))[0][4] == 40_000
    with pytest.raises(
        Refused, match=f"cannot void {key}: .* opposite push {key}:r1, .* See `drawdown push show {key}`"
    ):
        void_lost(house.fleet, "their support", key)
    house.bill()
    house.is_exact()


def test_unsent_push_is_priced_by_provider_cost(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 100})
    house.autumn.account.features["credits"].credit_schema["compute_64gb"] = Decimal("0.01")  # the ledger has 0.0064
    house.wait(0)
    house.autumn.faults.rates = {"request_lost": 1.0}
    house.use("acme", 500, size=64)
    house.bill()
    (waiting,) = read(engine, lambda c: read_providers(c, house.fleet.clock.at_ms))
    assert (waiting.due + waiting.queued, waiting.price_micro, waiting.unpriced) == (1, 5_000_000, {})


def test_provider_rate_example_names_feature_without_provider_cost() -> None:
    for example in EXAMPLES["provider rate"]:
        assert example.split()[3] not in COSTS, "Drawdown refuses a rate of a feature whose cost the provider tells"


# Units that a feature has of its own, beside the credits


@pytest.mark.parametrize("first", [0, 40])
def test_own_units_used_up_exactly_are_not_reported_as_loss(engine: sa.Engine, first: int) -> None:
    house = House(engine, {"acme": 10})
    house.wait(0)
    house.use("acme", 10, size=64)
    house.bill()
    assert house.compare(correct=True).exit_status == 0
    house.autumn.account.grant("acme", "compute_8gb", 100, house.fleet.clock.at_ms, interval=ONE_OFF)
    house.wait(0)
    if first:
        house.use("acme", first, size=8)
        house.bill()
        assert house.compare(correct=True).exit_status == 0
    house.use("acme", 100 - first, size=8)
    house.bill()
    for _ in range(2):
        assert told(house.compare(correct=True)) == []
        house.bill()
    assert own_and_credits(house) == (100, Decimal("0.064"))
    # What is lost from the credits is found and sent again, as if there had never been own units.
    house.autumn.sync()
    house.use("acme", 300, size=64)
    house.bill()
    house.autumn.lose_balances(house.fleet.clock.at_ms)
    found = told(house.compare(correct=True))
    assert found == [("acme", "credits", "short", -1_920_000, 1_920_000, 10**6)]
    house.bill()
    assert own_and_credits(house) == (100, Decimal("1.984"))


def test_own_units_used_up_within_charge_are_drawn_before_credits(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 10})
    house.autumn.account.grant("acme", "compute_8gb", 100, T0, interval=ONE_OFF)
    house.wait(0)
    house.use("acme", 250, size=8)
    house.bill()
    assert told(house.compare(correct=True)) == []
    house.use("acme", 50, size=8)
    house.bill()
    write(engine, lambda c: withdrawals.withdraw(c, ["s2"], house.fleet.by))
    house.bill()
    assert told(house.compare(correct=True)) == []
    assert own_and_credits(house) == (100, Decimal("0.12"))


@pytest.mark.parametrize("cost", ["0.00085", "0.0006"])
@pytest.mark.parametrize("used_since", [0, 500])
def test_own_units_cost_change_is_uncertain_only_for_use_since(engine: sa.Engine, cost: str, used_since: int) -> None:
    house = House(engine, {"acme": 10})
    house.autumn.account.grant("acme", "compute_8gb", 1_000, T0)
    house.wait(0)
    house.use("acme", 500, size=8)
    house.bill()
    assert told(house.compare(correct=True)) == []
    # As much as the own units' new cost makes less.
    house.use("acme", 1_000, size=1)
    if used_since:
        house.use("acme", used_since, size=8)
    house.bill()
    house.autumn.account.features["credits"].credit_schema["compute_8gb"] = Decimal(cost)
    house.wait(HOUR_MS)
    found = house.compare(correct=True)
    apart = round(abs(Decimal(cost) - COSTS["compute_8gb"]) * used_since * 10**8)
    assert [(line.verdict, line.theirs - line.ours, line.corrected, line.unsure) for line in found.differing] == (
        [("unsure", 0, 0, apart * found.differing[0].scale // 10**8)] if used_since else []
    )
    for _ in range(2):
        house.bill()
        assert told(house.compare(correct=True)) == [], "told once"
    assert own_and_credits(house) == (500 + used_since, Decimal("0.1"))
    # What is lost after that is known exactly again.
    house.autumn.sync()
    house.use("acme", 300, size=64)
    house.bill()
    house.autumn.lose_balances(house.fleet.clock.at_ms)
    assert [line.corrected * 100 // line.scale for line in house.compare(correct=True).differing] == [192]


def own_and_credits(house: House) -> tuple[int, Decimal]:
    """What was drawn from the own units of 8 GB, and from the credits."""
    return int(house.autumn.account.drawn.get(("acme", "compute_8gb"), 0)), house.drawn("acme")


# A plan that ends


@pytest.mark.parametrize("is_standing", [False, True])
def test_plan_ended_beside_topup_is_reported_as_uncertain(engine: sa.Engine, is_standing: bool) -> None:
    """While events leave a day open, it is told each night, and nothing is remembered."""
    house, account = with_plan(engine)
    house.use("acme", 100, size=4)
    house.bill()
    account.detach("acme", "team", house.fleet.clock.at_ms)
    house.wait(HOUR_MS)
    if is_standing:
        account.events.remove(list(account.events)[-1])
    for night in range(2):
        lines = [line for line in house.compare(correct=True).differing if line.balance]
        assert [(line.verdict, line.theirs - line.ours, line.corrected, line.unsure) for line in lines] == [
            ("unsure", 0, 0, 40_000)
        ] * (is_standing or not night)
    if is_standing:
        return
    house.autumn.sync()
    house.use("acme", 300, size=64)
    house.bill()
    house.autumn.lose_balances(house.fleet.clock.at_ms)
    assert [line.corrected for line in house.compare(correct=True).differing] == [1_920_000]


def test_topup_shortfall_as_plan_ends_is_reported_once(engine: sa.Engine) -> None:
    house, account = with_plan(engine)
    account.detach("acme", "team", house.fleet.clock.at_ms)
    account.add_to_balance("acme", "credits", Decimal(5))
    house.wait(HOUR_MS)
    found = house.compare(correct=True)
    assert [(line.verdict, line.theirs - line.ours, line.corrected, line.unsure) for line in found.differing] == [
        ("short", -5_000_000, 0, 0)
    ]
    assert house.compare(correct=True).differing == [], "told once"


@pytest.mark.parametrize("is_compared", [False, True])
@pytest.mark.parametrize("lost", [0, 300])
def test_plan_between_comparisons_is_reported_as_range(engine: sa.Engine, is_compared: bool, lost: int) -> None:
    """No comparison shows a plan that begins and ends between two, or before the first. A person is told once by how
    much the balance is uncertain, and nothing is billed again on such a guess."""
    house = House(engine, {"acme": 50})
    account = house.autumn.account
    account.add_plan("team", {"credits": (Decimal(1_000), "month")}, now_ms=T0)
    house.wait(0)
    if is_compared:
        house.use("acme", 100, size=4)
        house.bill()
        assert house.compare(correct=True).exit_status == 0
    account.attach("acme", "team", house.fleet.clock.at_ms)
    house.use("acme", 375, size=64)
    house.bill()
    account.detach("acme", "team", house.fleet.clock.at_ms)
    house.wait(HOUR_MS)
    house.autumn.sync()
    if lost:
        house.use("acme", lost, size=64)
        house.bill()
        house.autumn.lose_balances(house.fleet.clock.at_ms)
    (line,) = house.compare(correct=True).differing
    apart = line.theirs - line.ours
    assert apart - line.unsure <= -6_400 * lost <= apart + line.unsure
    assert (line.verdict, line.corrected, line.unsure) == ("unsure", 0, 2_400_000 + 6_400 * lost)
    assert house.compare(correct=True).differing == [], "it is told once"
    house.use("acme", 300, size=64)
    house.bill()
    house.autumn.lose_balances(house.fleet.clock.at_ms)
    assert told(house.compare(correct=True)) == [("acme", "credits", "short", -1_920_000, 1_920_000, 10**6)]


@pytest.mark.parametrize("lost", [False, True])
def test_loss_before_first_plan_is_reported_by_first_comparison(engine: sa.Engine, lost: bool) -> None:
    """Nothing was reset yet, so that all that was ever drawn is compared with all that was ever charged."""
    house = House(engine, {"acme": 50})
    account = house.autumn.account
    account.add_plan("team", {"credits": (Decimal(1_000), "month")}, now_ms=T0)
    house.wait(0)
    house.use("acme", 300, size=64)
    house.bill()
    if lost:
        house.autumn.lose_balances(house.fleet.clock.at_ms)
    account.attach("acme", "team", house.fleet.clock.at_ms)
    house.wait(HOUR_MS)
    house.use("acme", 100, size=64)
    house.bill()
    found = house.compare(correct=True)
    assert told(found) == [("acme", "credits", "short", -1_920_000, 0, 10**6)] * lost
    assert [line.unsure for line in found.differing] == [0] * lost
    again = house.compare(correct=True)
    assert (told(again), again.left_out, found.left_out) == ([], [], [])


@pytest.mark.parametrize("is_read", [False, True])
def test_loss_in_part_ended_before_read_is_reported_as_range(engine: sa.Engine, is_read: bool) -> None:
    """An answer shows the use of a part. The provider may lose the charge after that, and no read may show it: while a
    part ends soon, each charge on it calls for a read, once the charge is safe there."""
    house = House(engine, {"acme": 100})
    ends_ms = T0 + 3 * HOUR_MS
    house.autumn.account.grant("acme", "credits", 40, T0, interval=ONE_OFF, given="promo", expires_at=ends_ms)
    house.wait(0)
    house.use("acme", 500, size=64)
    house.bill()
    assert house.compare(correct=True).exit_status == 0
    house.wait(ends_ms - 12 * MINUTE_MS - house.fleet.clock.at_ms)
    house.use("acme", 100, size=64)
    house.window += 1
    house.tick(ends_ms - 6 * MINUTE_MS)
    if is_read:
        house.tick(ends_ms - MINUTE_MS)
    else:
        house.autumn.lose_balances(house.fleet.clock.at_ms)
    house.wait(HOUR_MS)
    lines = house.compare(correct=True).differing
    assert [(line.verdict, line.theirs - line.ours, line.corrected, line.unsure) for line in lines] == (
        [] if is_read else [("unsure", 0, 0, 640_000)]
    )
    assert house.compare(correct=True).differing == []


@contextmanager
def repeated(
    house: House, monkeypatch: pytest.MonkeyPatch, then: Callable[[int], object] = lambda _: None
) -> Iterator[None]:
    """A proxy repeats each charge while the key store is away."""
    autumn, handle = house.autumn, house.autumn.handle

    def twice(call: Call, now_ms: int) -> HttpResult:
        answer = handle(call, now_ms)
        if call.url.endswith("/track"):
            autumn.key_store = "refusing"
            handle(call, now_ms)
            autumn.key_store = "up"
            then(now_ms)
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(autumn, "handle", twice)
        yield


def test_double_charge_using_up_ending_part_is_reported_as_range(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer shows the use of a part, and a proxy repeats its charge: it uses up the rest, and draws on another."""
    house = House(engine, {"acme": 100})
    account = house.autumn.account
    account.grant("acme", "credits", 4, T0, interval=ONE_OFF, given="promo", expires_at=T0 + 40 * DAY_MS)
    house.wait(0)
    house.use("acme", 500, size=64)
    house.bill()
    assert house.compare(correct=True).exit_status == 0
    house.use("acme", 100, size=64)
    house.window += 1
    with repeated(house, monkeypatch, then=lambda now_ms: account.expire("acme", "promo", now_ms + 1)):
        house.tick(T0 + (house.window + 1) * WINDOW_MS)
    lines = house.compare(correct=True).differing
    assert house.drawn("acme") - house.used["acme"] == Decimal("0.64")
    assert [(line.theirs - line.ours, line.corrected, line.unsure) for line in lines] == [(0, 0, 640_000)]


def test_double_charge_beside_unseen_plan_is_refunded_with_uncertainty(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan came and went between two reads, and paid for a charge without an answer."""
    house = House(engine, {"acme": 100})
    account, autumn = house.autumn.account, house.autumn
    account.add_plan("team", {"credits": (Decimal(1_000), "month")}, now_ms=T0)
    house.wait(0)
    house.use("acme", 500, size=64)
    house.bill()
    assert house.compare(correct=True).exit_status == 0
    account.attach("acme", "team", house.fleet.clock.at_ms)
    account.customers["acme"].grants["credits"].sort(key=lambda one: one.plan is None)
    house.use("acme", 50, size=64)
    autumn.faults.rates = {"answer_lost": 1.0, "reads_fail": 1.0}
    house.bill()
    account.detach("acme", "team", house.fleet.clock.at_ms)
    house.use("acme", 100, size=64)
    house.use("acme", 100, size=32)
    autumn.faults.rates = {"request_lost": 1.0, "reads_fail": 1.0}
    house.bill()
    autumn.faults.rates = {}
    with repeated(house, monkeypatch):
        house.wait(HOUR_MS)
    house.wait(HOUR_MS)
    assert house.drawn("acme") - house.used["acme"] == Decimal("0.96")
    lines = house.compare(correct=True).differing
    assert [(line.theirs - line.ours, line.corrected, line.unsure) for line in lines] == [(640_000, 640_000, 1_280_000)]
    assert house.compare(correct=True).differing == []


def test_part_expired_early_is_not_reported_as_difference(engine: sa.Engine) -> None:
    """The answer to the charge that uses a part up shows it at zero: one that is gone otherwise ended."""
    house = House(engine, {"acme": 100})
    account, ends_ms = house.autumn.account, T0 + 40 * DAY_MS
    account.grant("acme", "credits", 40, T0, interval=ONE_OFF, given="promo", expires_at=ends_ms)
    house.wait(0)
    house.use("acme", 500, size=64)
    house.bill()
    assert house.compare(correct=True).exit_status == 0
    account.expire("acme", "promo", house.fleet.clock.at_ms + 1)
    found = house.compare(correct=True)
    assert (told(found), found.exit_status) == ([], 0)
    house.is_exact()


def with_plan(engine: sa.Engine) -> tuple[House, Any]:
    """57.6 credits drawn from a month's plan, beside a top-up that is untouched; compared."""
    house = House(engine, {"acme": 50})
    account = house.autumn.account
    account.add_plan("team", {"credits": (Decimal(1_000), "month")}, now_ms=T0)
    account.attach("acme", "team", T0)
    account.customers["acme"].grants["credits"].sort(key=lambda one: one.plan is None)
    house.wait(0)
    for _ in range(3):
        house.use("acme", 3_000, size=64)
        house.bill()
    assert told(house.compare(correct=True)) == []
    return house, account
