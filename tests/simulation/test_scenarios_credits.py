"""Interleavings with an account that bills in credits, written out by hand: one balance for all features."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from decimal import Decimal

import pytest

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.providers.kit.emulator import FaultPlan
from drawdown.schema.units import MINUTE_MS, WINDOW_MS
from drawdown.worker.engine.context import Context
from drawdown.worker.features.actions import install_defaults
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.push.push import push
from drawdown.worker.tick import tick
from tests.emulators.autumn import TRACK_FAULTS
from tests.emulators.autumn_numbers import ONE_OFF
from tests.integration.verifying import tamper_by
from tests.simulation.accepted import note_compared
from tests.simulation.actions import insert
from tests.simulation.billed import billed
from tests.simulation.faults import Faults
from tests.simulation.invariants import check
from tests.simulation.mutants_credits import BY_SCENARIO
from tests.simulation.mutants_credits import CREDITS as MUTANTS
from tests.simulation.mutants_remote import Patches
from tests.simulation.operators import said
from tests.simulation.oracle import Assignment, Rule, Sample
from tests.simulation.people import settle_told
from tests.simulation.pooled import CREDITS, GRAINS, MONTHLY, Pooled
from tests.simulation.providers import AUTUMN
from tests.simulation.remote import FEATURES, Autumn
from tests.simulation.settled import settled
from tests.simulation.stepping import Task, WorkerClock
from tests.simulation.test_scenarios_remote import comparing, drive, sealed, start
from tests.simulation.world import START, World

SIZES = {1024: "compute_1gb", 4096: "compute_4gb"}
BOTH = 60 * 64 + 60
"""What a minute of each costs, in hundredths of a hundredth of a credit."""
HUGE = Decimal(1_000)


class Fates(FaultPlan):
    """What goes wrong with each charge, one after the other."""

    def __init__(self, *fates: str) -> None:
        super().__init__(rates={"": 0.0})
        self.left = list(fates)

    def draw(self, *kinds: str) -> str | None:
        return (self.left.pop(0) or None) if self.left and TRACK_FAULTS[0] in kinds else None


def in_credits(*grants: Decimal) -> tuple[World, Autumn]:
    """A minute of each of two sizes, sealed and due, of a customer with these parts; the costs are known."""
    world = World(random.Random(1), Faults(random.Random(1), 0.0), billing=(EMBEDDED, AUTUMN))
    world.write(lambda c: install_defaults(c, said(world)))
    autumn = world.remote[AUTUMN]
    assert isinstance(autumn, Autumn)
    pooled = Pooled(autumn.emulator, world.faults, random.Random(1), world.engine, FEATURES)
    pooled.moves = pooled.losing = pooled.owns = False
    autumn.bill_in_credits(pooled, world.network)
    autumn.emulator.account.add_customer("acme", START)
    for amount in grants:
        autumn.emulator.account.grant("acme", CREDITS, amount, START, interval=ONE_OFF)
    for size, feature in SIZES.items():
        world.oracle.rules.append(Rule("exact", size, feature, "s", 0))
    world.write(lambda c: assign(c, ["acme"], AUTUMN, said(world), customer_id="acme", from_ms=START))
    world.oracle.assignments["acme"].append(Assignment(START, AUTUMN, "acme"))
    insert(world, [Sample(f"s{size}", "acme", START + 1, size, 60, good=True) for size in SIZES])
    world.time.advance(2 * WINDOW_MS)
    sealed(world)
    autumn.emulator.faults = Fates("throttled", "throttled")
    drive(world, start(world, "learns", tick))
    autumn.emulator.faults = FaultPlan()
    assert autumn.keys() == {}
    world.time.advance(5 * MINUTE_MS)
    return world, autumn


def states(world: World) -> list[tuple[str, int, str]]:
    return [
        (str(feature), int(sent), str(state))
        for feature, sent, state in world.rows(
            "SELECT feature, sent_qty, state FROM pushes ORDER BY feature, window_ms, revision"
        )
    ]


def sent(world: World, autumn: Autumn, *fates: str) -> None:
    """What is due is sent once, and this comes of each, in the order of features."""
    autumn.emulator.faults = Fates(*fates)
    drive(world, start(world, "first", lambda c: push(c, AUTUMN)))
    autumn.emulator.faults = FaultPlan()


def ticks(world: World, number: int = 2) -> None:
    for _ in range(number):
        world.time.advance(3 * MINUTE_MS)
        drive(world, start(world, "w", tick))


@contextmanager
def planted_here(name: str) -> Iterator[None]:
    patches = Patches()
    with patches.kept():
        (BY_SCENARIO | MUTANTS)[name](patches)
        yield


def one_lost_one_drawn() -> Sequence[tuple[str, int, str]]:
    world, autumn = in_credits(HUGE)
    sent(world, autumn, "queued_charged_no_event", "queued_dropped")
    assert [state for _, _, state in states(world)] == ["queued", "queued"]
    ticks(world, 1)
    world.time.advance(2 * 60 * MINUTE_MS)
    ticks(world)
    assert (check(world), world.breaches) == ([], [])
    return states(world)


def test_balance_in_credits_shows_which_of_two_pushes_was_drawn() -> None:
    """A minute of the one was charged and has no event, one of the other was dropped: by units nobody could tell."""
    assert one_lost_one_drawn() == [
        ("compute_1gb", 60, "voided"),
        ("compute_1gb", 60, "accepted"),
        ("compute_4gb", 60, "accepted"),
    ]


def test_balance_with_equal_cost_per_feature_does_not_resolve_pushes() -> None:
    """The bug `each feature costs one` leaves them to a person."""
    with planted_here("each feature costs one"):
        assert [state for _, _, state in one_lost_one_drawn()] != ["voided", "accepted", "accepted"]


def test_loss_before_first_comparison_is_reported_with_amount() -> None:
    """A part that no read showed, and that was used up, would look the same: it is not sent again by itself."""
    world, autumn = in_credits(HUGE)
    sent(world, autumn)
    assert autumn.drawn("acme", CREDITS) == BOTH * GRAINS // 10_000
    autumn.emulator.lose_balances(world.time.now)
    assert autumn.drawn("acme", CREDITS) == 0
    world.time.advance(2 * 60 * MINUTE_MS)
    drive(world, start(world, "w", comparing(world)))
    ticks(world)
    assert world.rows("SELECT told_qty, scale FROM balance_marks") == [(-BOTH * 1_000, 10**7)]
    assert settle_told(world) == "settles what was told of 1 balances"
    world.time.advance(2 * 60 * MINUTE_MS)
    drive(world, start(world, "w", comparing(world)))
    assert (settle_told(world), world.breaches, settled(world)) == (None, [], [])


@pytest.mark.parametrize("planted", [False, True])
def test_loss_after_first_comparison_of_cycle_is_resent(planted: bool) -> None:
    """Of credits that begin anew no sum of all parts tells, but the difference to the first comparison does."""
    world, autumn = in_credits(HUGE)
    autumn.emulator.account.grant("acme", CREDITS, MONTHLY, START, interval="month")
    sent(world, autumn)
    world.time.advance(2 * 60 * MINUTE_MS)
    drive(world, start(world, "w", comparing(world)))
    note_compared(world)
    assert autumn.pooled is not None and autumn.pooled.shown("acme") is None
    insert(world, [Sample("s3", "acme", world.time.now, 4096, 60, good=True)])
    world.time.advance(2 * WINDOW_MS)
    sealed(world)
    sent(world, autumn)
    autumn.emulator.lose_balances(world.time.now)
    assert autumn.lost_of("acme", CREDITS) == 60 * 64 * GRAINS // 10_000
    world.time.advance(2 * 60 * MINUTE_MS)
    with planted_here("what a balance store lost is neither sent again nor told") if planted else nullcontext():
        drive(world, start(world, "w", comparing(world)))
    ticks(world)
    wrong = [] if planted else settled(world)
    wrong = wrong or list(billed(world, world.oracle.expected()))
    assert (settle_told(world), world.breaches) == (None, [])
    assert [breach.partition(":")[0] for breach in wrong] == ["billed"] * planted


@pytest.mark.parametrize("planted", [False, True])
def test_own_units_used_up_exactly_are_not_resent(planted: bool) -> None:
    """They vanish, and the credits agree without them: to send their push again would charge it twice."""
    world, autumn = in_credits(HUGE)
    sent(world, autumn)
    world.time.advance(2 * 60 * MINUTE_MS)
    drive(world, start(world, "w", comparing(world)))
    autumn.emulator.account.grant("acme", "compute_4gb", 60, world.time.now, interval=ONE_OFF)
    insert(world, [Sample("s3", "acme", world.time.now, 4096, 60, good=True)])
    world.time.advance(2 * WINDOW_MS)
    sealed(world)
    sent(world, autumn)
    autumn.emulator.account.customer("acme", world.time.now)
    assert "compute_4gb" not in autumn.emulator.account.customers["acme"].grants
    world.time.advance(2 * 60 * MINUTE_MS)
    with planted_here("own units that are used up count as given back") if planted else nullcontext():
        drive(world, start(world, "w", comparing(world)))
    ticks(world)
    wrong = [*settled(world), *billed(world, world.oracle.expected()), *world.breaches]
    assert bool(wrong) is planted, wrong
    assert (autumn.drawn("acme", CREDITS) > (BOTH + 60 * 64) * GRAINS // 10_000) is planted, "drawn once, or again"


@pytest.mark.parametrize("planted", [False, True])
@pytest.mark.parametrize("known", [True, False])
def test_balance_part_used_up_exactly_counts_as_drawn(known: bool, planted: bool) -> None:
    """Autumn shows such a part no more, and it is the sum of the pushes that used it up, as a loss would be. `known`:
    whether a read showed the part before."""
    amount = Decimal(BOTH) / 10_000
    world, autumn = in_credits(*[amount] * known)
    if not known:
        autumn.emulator.account.grant("acme", CREDITS, amount, world.time.now, interval=ONE_OFF)
    sent(world, autumn)
    assert [state for _, _, state in states(world)] == ["accepted", "accepted"]
    autumn.emulator.account.customer("acme", world.time.now)
    assert autumn.emulator.account.customers["acme"].grants == {}
    world.time.advance(2 * 60 * MINUTE_MS)
    with planted_here("what is used up counts as given back") if planted else nullcontext():
        drive(world, start(world, "w", comparing(world)))
    ticks(world, 1)
    assert autumn.drawn("acme", CREDITS) == BOTH * GRAINS // 10_000
    told = settle_told(world)
    assert (told is not None) is planted, "a read showed the part, or the answers to its charges did"
    assert (world.breaches, world.by_hand, settled(world)) == ([], {}, [])


@pytest.mark.parametrize("outcome", ["queued", "duplicate"])
def test_hidden_part_used_by_share_of_unanswered_charge_is_not_resent(outcome: str) -> None:
    """A grant after the send, before the charge, paid for a small part of it, and no read showed the grant. What is
    missing equals another push, which must not be sent again. `outcome`: of the send; `duplicate` after a restore."""
    world, autumn = in_credits(Decimal("0.4"), Decimal(0))
    sent(world, autumn)
    world.time.advance(2 * 60 * MINUTE_MS)
    drive(world, start(world, "w", comparing(world)))
    for size, fate in ((1024, ""), (4096, "queued_late")):
        insert(world, [Sample(f"t{size}", "acme", world.time.now, size, 60, good=True)])
        world.time.advance(2 * WINDOW_MS)
        sealed(world)
        sent(world, autumn, fate)
    autumn.emulator.account.grant("acme", CREDITS, Decimal("0.006"), world.time.now, interval=ONE_OFF)
    ticks(world, 3)
    world.write(lambda c: tamper_by(c, f"UPDATE attempts SET outcome = '{outcome}' WHERE outcome = 'queued'"))
    world.time.advance(2 * 60 * MINUTE_MS)
    drive(world, start(world, "w", comparing(world)))
    ticks(world)
    assert autumn.drawn("acme", CREDITS) == 2 * BOTH * GRAINS // 10_000, "each once"
    assert settle_told(world) == "settles what was told of 1 balances"
    assert (world.breaches, settled(world)) == ([], [])


def test_charge_near_cost_change_leaves_pushes_unchanged() -> None:
    """The clock of the process that sent it was ahead of the one that learned the cost: by their moments it came after
    the change, and it drew the cost before. Nothing was lost, though just what two other pushes drew seems so."""
    world, autumn = in_credits(HUGE)
    sent(world, autumn)
    insert(world, [Sample("s3", "acme", START + WINDOW_MS, 4096, 1, good=True)])
    world.time.advance(WINDOW_MS)
    sealed(world)
    clock = WorkerClock(world.time, trusted=True)
    clock.offset_ms = 4 * MINUTE_MS
    drive(world, Task(push(Context("ahead", clock, world.capabilities), AUTUMN)))
    assert autumn.pooled is not None
    autumn.pooled.change("compute_4gb", Decimal("0.0064") + Decimal(BOTH) / 10_000, world.time.now)
    world.time.advance(MINUTE_MS)
    ticks(world, 1)
    world.time.advance(2 * 60 * MINUTE_MS)
    before = states(world)
    drive(world, start(world, "w", comparing(world)))
    wrong = list(billed(world, world.oracle.expected()))
    assert (states(world), settle_told(world), world.breaches, wrong) == (before, None, [], [])


def test_balance_difference_reported_by_half_is_breach() -> None:
    world, autumn = in_credits(HUGE)
    sent(world, autumn)
    autumn.emulator.account.add_to_balance("acme", CREDITS, Decimal("61.000003"))
    world.time.advance(2 * 60 * MINUTE_MS)
    with planted_here("half of what a balance is apart is told"):
        drive(world, start(world, "w", comparing(world)))
    assert settle_told(world) is not None
    assert [breach[:5] for breach in world.breaches] == ["told:"]
