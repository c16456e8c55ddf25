"""Interleavings with providers behind HTTP, written out by hand: what seeds showed, or reach only rarely."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.providers.http import Answer, Call
from drawdown.providers.kit.emulator import FaultPlan
from drawdown.providers.protocol import Absent
from drawdown.schema.audit import By
from drawdown.schema.errors import Refused
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS, horizon
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Effect, LookUp, Push, ReadTotals, Steps, Transaction
from drawdown.worker.engine.shard import Shard
from drawdown.worker.features.actions import install_defaults
from drawdown.worker.orgs.assignments import assign, cancel
from drawdown.worker.push.actions import resolve_accepted
from drawdown.worker.push.confirm import DRAWN, confirm
from drawdown.worker.push.push import push
from drawdown.worker.reconcile.reconcile import ReconcileScope, reconcile
from drawdown.worker.seal.seal import SealRequest, seal
from drawdown.worker.tick import tick
from drawdown.worker.usage.withdrawals import withdraw
from drawdown.worker.verify.verify import verify
from tests.emulators.autumn_losses import Charge
from tests.emulators.stripe_stream import EVENTS
from tests.simulation.actions import insert
from tests.simulation.faults import Faults
from tests.simulation.invariants import check
from tests.simulation.mutants_remote import Patches, adopts_twice
from tests.simulation.operators import said
from tests.simulation.oracle import Assignment, Rule, Sample
from tests.simulation.people import make_up_for, settle_told
from tests.simulation.providers import AUTUMN, STRIPE
from tests.simulation.remote import FEATURES, Autumn, Stripe
from tests.simulation.settled import settled
from tests.simulation.stepping import Task, WorkerClock
from tests.simulation.world import START, World

FEATURE = "compute_4gb"
KEY = f"usage:acme:{START}:{FEATURE}"


def a_world(provider: str) -> World:
    """One push of 60 s, sealed and due, and nothing that goes wrong by itself."""
    made = World(random.Random(1), Faults(random.Random(1), 0.0), billing=(EMBEDDED, provider))
    made.write(lambda c: install_defaults(c, said(made)))
    customer = "cus_acme" if provider == STRIPE else "acme"
    for remote in made.remote.values():
        remote.fix(["acme"], START)
    autumn = made.remote.get(AUTUMN)
    if isinstance(autumn, Autumn):
        for feature in FEATURES:
            autumn.emulator.account.grant("acme", feature, 1_000, START)
    made.oracle.rules.append(Rule("exact", 4096, FEATURE, "s", 0))
    made.write(lambda c: assign(c, ["acme"], provider, said(made), customer_id=customer, from_ms=START))
    made.oracle.assignments["acme"].append(Assignment(START, provider, customer))
    insert(made, [Sample("s1", "acme", START + 1, 4096, 60, good=True)])
    made.time.advance(2 * WINDOW_MS)
    sealed(made)
    return made


def sealed(world: World) -> None:
    now = world.time.now
    world.write(lambda c: seal(c, SealRequest(Shard(), horizon(now), now, world.capabilities)))


def start(world: World, name: str, steps: Callable[[Context], Steps[Any]]) -> Task:
    return Task(steps(Context(name, WorkerClock(world.time, trusted=True), world.capabilities)))


def drive(world: World, task: Task, *, until: Callable[[Effect | None], bool] = lambda effect: False) -> Task:
    """Step a task to its end, or to where it asks for something."""
    while not task.done:
        leaf = next(task.leaves())
        if until(leaf.asked):
            return task
        assert leaf.asked is not None
        try:
            leaf.hold(world.do(leaf.asked), None)
        except Exception as error:
            leaf.hold(None, error)
        leaf.tell()
        task.join()
    assert not isinstance(task.result, Exception), task.result
    return task


def comparing(world: World) -> Callable[[Context], Steps[Any]]:
    return lambda context: reconcile(context, ReconcileScope(correct=True), By(world.time.now, "sim", "reconciles"))


def states(world: World) -> list[str]:
    return [state for (state,) in world.rows("SELECT state FROM pushes ORDER BY window_ms, revision")]


def is_transaction(name: str) -> Callable[[Effect | None], bool]:
    return lambda effect: isinstance(effect, Transaction) and effect.name == name


def left_unanswered(world: World, provider: str, kind: str) -> None:
    """The push is sent once, and this goes wrong with it."""
    emulator = world.remote[provider].emulator
    emulator.faults.rates = {kind: 1.0}
    drive(world, start(world, "first", lambda c: push(c, provider)))
    emulator.faults.rates = {}


def test_push_past_key_life_is_not_resent_by_slow_process() -> None:
    world = a_world(STRIPE)
    left_unanswered(world, STRIPE, "answer_lost")
    world.time.advance(MINUTE_MS)
    slow = drive(world, start(world, "slow", lambda c: push(c, STRIPE)), until=is_transaction("expire"))
    world.time.advance(25 * 60 * MINUTE_MS)  # the time to compare with was taken before
    drive(world, slow, until=lambda effect: isinstance(effect, Push))
    assert slow.done
    assert world.remote[STRIPE].keys() == {KEY: 60}
    for _ in range(2):  # the first finds the key too old to be sent, the second looks it up
        drive(world, start(world, "other", tick))
    assert (states(world), world.breaches, settled(world)) == (["accepted"], [], [])


def test_lookup_absence_from_earlier_time_does_not_void_push() -> None:
    world = a_world(AUTUMN)
    left_unanswered(world, AUTUMN, "request_lost")
    world.time.advance(2 * MINUTE_MS)
    slow = drive(world, start(world, "slow", lambda c: confirm(c, AUTUMN)), until=lambda e: isinstance(e, LookUp))
    leaf = next(slow.leaves())
    assert leaf.asked is not None
    answer = world.do(leaf.asked)
    assert answer == {0: Absent()}
    leaf.hold(answer, None)
    world.time.advance(25 * 60 * MINUTE_MS)  # meanwhile the push may have been applied
    leaf.tell()
    drive(world, slow)
    assert "voided" not in states(world)


def test_reconcile_during_push_does_not_refund_push() -> None:
    world = a_world(AUTUMN)
    drive(world, start(world, "w", tick))
    insert(world, [Sample("s2", "acme", START + 2, 4096, 40, good=True)])
    world.time.advance(60 * MINUTE_MS)
    slow = drive(world, start(world, "slow", comparing(world)), until=lambda e: isinstance(e, ReadTotals))
    sealed(world)
    flying = drive(world, start(world, "w", lambda c: push(c, AUTUMN)), until=is_transaction("settle"))
    world.time.advance(MINUTE_MS)
    drive(world, slow)  # it sees 100, where 60 are accepted and 40 have not been written down yet
    drive(world, flying)
    drive(world, start(world, "w", tick))
    assert (states(world), world.breaches, settled(world)) == (["accepted", "accepted"], [], [])


@pytest.mark.parametrize("planted", [False, True])
def test_two_concurrent_reconciles_adopt_charge_once(planted: bool) -> None:
    patches = Patches()
    with patches.kept():
        if planted:
            adopts_twice(patches)
        adopted = _adopted_by_two()
    assert adopted == (180 if planted else 120)


def _adopted_by_two() -> object:
    """What two reconciles at once leave as charged of a push of 60 that was charged twice."""
    world = a_world(STRIPE)
    drive(world, start(world, "w", tick))
    stripe = world.remote[STRIPE]
    assert isinstance(stripe, Stripe)
    stripe.emulator._taken.clear()  # an identifier forgotten over there: the very same event again
    emulated = next(body for (name, key), body in world.network.sent.items() if key == KEY)
    headers = {"authorization": "Bearer sk_test_emulator", "stripe-version": "2026-08-26.dahlia"}

    stripe.emulator.handle(
        Call("POST", "https://stripe.test/v1/billing/meter_events", headers, emulated), world.time.now
    )
    world.time.advance(2 * 60 * MINUTE_MS)
    one = drive(world, start(world, "one", comparing(world)), until=is_transaction("reconcile_over"))
    two = drive(world, start(world, "two", comparing(world)), until=is_transaction("reconcile_over"))
    drive(world, one)
    drive(world, two)
    ((adopted,),) = world.rows("SELECT SUM(sent_qty) FROM pushes WHERE state = 'accepted'")
    drive(world, start(world, "w", tick))
    assert (sum(stripe.billed(world.time.now).values()) == 60) == (adopted == 120)
    return adopted


def test_push_settled_during_reconcile_is_not_voided() -> None:
    world = a_world(STRIPE)
    left_unanswered(world, STRIPE, "accepted_then_lost")  # this one is missing indeed
    insert(world, [Sample("s2", "acme", START + 2, 4096, 40, good=True)])
    world.time.advance(2 * 60 * MINUTE_MS)
    slow = drive(world, start(world, "slow", comparing(world)), until=is_transaction("reconcile_accepted"))
    sealed(world)
    left_unanswered(world, STRIPE, "reads_lag")  # accepted, charged, and seen an hour later at most
    drive(world, slow)
    assert states(world) == ["voided", "accepted"]


def test_two_orgs_with_empty_customer_id_pass_verify() -> None:
    world = a_world(STRIPE)
    drive(world, start(world, "w", tick))
    for org in ("one", "two"):
        world.write(lambda c, org=org: assign(c, [org], STRIPE, said(world), customer_id="", from_ms=START - DAY_MS))  # type: ignore[misc]
    assert not world.read(verify).breaches


def test_adopted_refund_stays_accepted_after_reconcile() -> None:
    world = a_world(AUTUMN)
    drive(world, start(world, "w", tick))
    autumn = world.remote[AUTUMN]
    assert isinstance(autumn, Autumn)
    autumn.emulator.account.stops_at_grant = True
    autumn.emulator.account.customers["acme"].grants[FEATURE][-1].balance += 20  # so that 40 of 60 can be given back
    world.write(lambda c: withdraw(c, ["s1"], said(world)))
    world.oracle.withdraw("s1")
    for _ in range(3):
        world.time.advance(10 * MINUTE_MS)
        drive(world, start(world, "w", tick))
    (adopted,) = world.rows("SELECT revision, sent_qty FROM pushes WHERE attempts = 0 AND state = 'accepted'")
    assert adopted == (2, -40)
    # Of the same day, and gone: reconcile looks each push of that day up.
    insert(world, [Sample("s2", "acme", START + WINDOW_MS, 4096, 7, good=True)])
    world.time.advance(10 * MINUTE_MS)
    sealed(world)
    left_unanswered(world, AUTUMN, "accepted_then_lost")
    world.time.advance(60 * MINUTE_MS)
    drive(world, start(world, "w", comparing(world)))
    kept = world.rows("SELECT state FROM pushes WHERE revision = 2 AND sent_qty = -40")
    assert kept == [("accepted",)]


def test_refund_lost_at_provider_is_reported_and_credited_by_hand() -> None:
    world = a_world(AUTUMN)
    drive(world, start(world, "w", tick))
    world.write(lambda c: withdraw(c, ["s1"], said(world)))
    world.oracle.withdraw("s1")
    sealed(world)
    left_unanswered(world, AUTUMN, "event_alone")  # the event is there, and the balance is drawn on still
    assert states(world) == ["accepted", "accepted"]
    assert check(world) == [], "no push of ours was billed twice"
    world.time.advance(2 * 60 * MINUTE_MS)
    drive(world, start(world, "w", comparing(world)))
    assert settle_told(world) == "settles what was told of 1 balances"
    drive(world, start(world, "w", tick))
    assert (world.by_hand[(AUTUMN, "acme", FEATURE, 0)], settled(world)) == (-60, [])


def test_balance_difference_reported_twice_is_settled_once() -> None:
    """Something was given back without an event, and a person changed the balance: it tells of nothing, and what was
    lost of it for another push shows in no events."""
    world = a_world(AUTUMN)
    left_unanswered(world, AUTUMN, "event_alone")  # lost
    insert(world, [Sample("s2", "acme", START + WINDOW_MS, 4096, 30, good=True)])
    world.time.advance(WINDOW_MS)
    drive(world, start(world, "w", tick))
    world.write(lambda c: withdraw(c, ["s2"], said(world)))
    world.oracle.withdraw("s2")
    sealed(world)
    left_unanswered(world, AUTUMN, "event_lost")
    autumn = world.remote[AUTUMN]
    assert isinstance(autumn, Autumn)
    autumn.emulator.account.add_to_balance("acme", FEATURE, -70_001)
    assert (states(world), autumn.drawn("acme", FEATURE)) == (["accepted"] * 3, 0)
    world.time.advance(2 * 60 * MINUTE_MS)
    for asked in (True, False):
        (line,) = drive(world, start(world, "w", comparing(world))).result.differing
        assert (line.ours, line.theirs, line.corrected, line.balance) == (60, 90, 0, False)
        assert make_up_for(world, [line]) == asked, "told each time, and made up for once"
    drive(world, start(world, "w", tick))
    assert (sum(world.by_hand.values()), world.breaches, settled(world)) == (60, [], [])


def test_refund_doubled_by_key_store_is_charged_back() -> None:
    """A process died after it had sent, and the key store failed open as the same key was sent again.
    The balance lacks just what pushes drew within minutes, as after a loss over there: they are sent again."""
    world = a_world(AUTUMN)
    insert(world, [Sample("s2", "acme", START + WINDOW_MS, 4096, 60, good=True)])
    world.time.advance(WINDOW_MS)
    drive(world, start(world, "w", tick))
    world.write(lambda c: withdraw(c, ["s1"], said(world)))
    world.oracle.withdraw("s1")
    sealed(world)
    slow = drive(world, start(world, "dies", lambda c: push(c, AUTUMN)), until=lambda e: isinstance(e, Push))
    leaf = next(slow.leaves())
    assert leaf.asked is not None
    world.do(leaf.asked)
    slow.kill()
    world.time.advance(3 * MINUTE_MS)
    left_unanswered(world, AUTUMN, "key_store_refuses")
    autumn = world.remote[AUTUMN]
    assert isinstance(autumn, Autumn)
    assert (states(world), autumn.drawn("acme", FEATURE)) == (["accepted"] * 3, 0)
    world.time.advance(2 * 60 * MINUTE_MS)
    drive(world, start(world, "w", comparing(world)))
    assert (settle_told(world), autumn.drawn("acme", FEATURE)) == (None, 0)
    drive(world, start(world, "w", tick))
    assert autumn.drawn("acme", FEATURE) == 60
    world.time.advance(2 * 60 * MINUTE_MS)
    drive(world, start(world, "w", comparing(world)))
    assert (settle_told(world), world.by_hand, world.breaches, settled(world)) == (None, {}, [], [])


def test_lost_refund_offsets_push_that_was_not_drawn() -> None:
    """No event shows either of them, and the balance only what they come to: the customer pays what was used."""
    world = a_world(AUTUMN)
    drive(world, start(world, "w", tick))
    insert(world, [Sample("s2", "acme", START + WINDOW_MS, 4096, 60, good=True)])
    world.time.advance(WINDOW_MS)
    sealed(world)
    left_unanswered(world, AUTUMN, "claimed_not_applied")
    world.write(lambda c: withdraw(c, ["s1"], said(world)))
    world.oracle.withdraw("s1")
    sealed(world)
    left_unanswered(world, AUTUMN, "accepted_then_lost")
    assert states(world) == ["accepted", "accepted", "queued"]
    for _ in range(2):
        world.time.advance(3 * MINUTE_MS)
        drive(world, start(world, "w", tick))
    assert (states(world), check(world)) == (["accepted"] * 3, [])
    world.time.advance(2 * 60 * MINUTE_MS)
    drive(world, start(world, "w", comparing(world)))
    assert (settle_told(world), world.breaches, settled(world)) == (None, [], [])


def test_lost_refund_below_amount_does_not_offset_uncharged_push() -> None:
    world = a_world(AUTUMN)
    drive(world, start(world, "w", tick))
    autumn = world.remote[AUTUMN]
    assert isinstance(autumn, Autumn)
    ((key, customer, window),) = world.rows("SELECT key, customer_id, window_ms FROM pushes")
    del autumn.emulator.account.by_key[key]  # as if it had never been charged
    world.execute("UPDATE pushes SET last_error = :said", said=DRAWN)
    lost = autumn.emulator.account.lost
    lost.append(Charge(customer, FEATURE, window, -59, f"{key}:r1"))
    assert [breach[:2] for breach in check(world)] == ["2:"]
    lost.append(Charge(customer, FEATURE, window, -1, f"{key}:r2"))
    assert check(world) == []
    world.execute("UPDATE pushes SET last_error = NULL")
    assert [breach[:2] for breach in check(world)] == ["2:"], "what an answer accepted was charged"


def test_balance_lowered_by_hand_is_not_refunded_for_resent_push() -> None:
    world = a_world(AUTUMN)
    left_unanswered(world, AUTUMN, "answer_lost")
    world.time.advance(2 * MINUTE_MS)
    drive(world, start(world, "w", tick))
    assert states(world) == ["accepted"]
    autumn = world.remote[AUTUMN]
    assert isinstance(autumn, Autumn)
    autumn.emulator.account.add_to_balance("acme", FEATURE, -59)
    world.time.advance(2 * 60 * MINUTE_MS)
    drive(world, start(world, "w", comparing(world)))
    drive(world, start(world, "w", tick))
    assert (states(world), autumn.drawn("acme", FEATURE), settled(world)) == (["accepted"], 60, [])


def test_push_resolved_by_hand_is_not_adopted() -> None:
    world = a_world(STRIPE)
    drive(world, start(world, "w", tick))
    world.time.advance(36 * DAY_MS)
    world.write(lambda c: withdraw(c, ["s1"], said(world)))
    drive(world, start(world, "w", tick))
    assert states(world) == ["accepted", "rejected"]  # too old to be given back over there
    world.write(lambda c: resolve_accepted(c, [f"{KEY}:r1"], said(world), "credited on the invoice"))
    world.time.advance(2 * 60 * MINUTE_MS)
    compared = drive(world, start(world, "w", comparing(world)))
    assert compared.result.differing == [], "what stands on an invoice is in no total"
    assert states(world) == ["accepted", "accepted"]


def test_lookup_of_push_sent_by_dead_process_is_accepted() -> None:
    world = a_world(AUTUMN)
    slow = drive(world, start(world, "dies", lambda c: push(c, AUTUMN)), until=lambda e: isinstance(e, Push))
    leaf = next(slow.leaves())
    assert leaf.asked is not None
    world.do(leaf.asked)
    slow.kill()
    for _ in range(2):
        world.time.advance(3 * MINUTE_MS)
        drive(world, start(world, "other", tick))
    assert (states(world), world.breaches, settled(world)) == (["accepted"], [], [])


def test_assignment_sealed_by_fast_clock_is_not_cancelled() -> None:
    world = a_world(STRIPE)
    start_ms = world.time.now - world.time.now % WINDOW_MS + WINDOW_MS
    world.write(lambda c: assign(c, ["acme"], EMBEDDED, said(world), from_ms=start_ms))
    insert(world, [Sample("s2", "acme", start_ms + 1, 4096, 7, good=True)])
    ahead = start_ms + 3 * WINDOW_MS
    world.write(lambda c: seal(c, SealRequest(Shard(), horizon(ahead), ahead, world.capabilities)))
    with pytest.raises(Refused, match="are sealed"):
        world.write(lambda c: cancel(c, "acme", said(world)))


@pytest.mark.parametrize(("status", "arrivals"), [(401, 1), (200, 2)])
def test_proxy_repeats_batch_unless_it_was_refused_as_a_whole(
    status: int, arrivals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a batch that is refused, one event can be charged since an earlier send."""
    world, handled = a_world(STRIPE), list[Call]()

    class Emulator:
        faults = FaultPlan()

        def charged_under(self, key: str) -> int | None:
            return 1 if key == "sent before" else None

        def handle(self, call: Call, _now_ms: int) -> Answer:
            handled.append(call)
            return Answer(status, {}, b"")

    world.network.emulators[STRIPE] = Emulator()  # type: ignore[assignment]
    monkeypatch.setattr(world.faults, "strikes", lambda name: name == "delivered_twice")
    body = json.dumps({"events": [{"identifier": name} for name in ("sent before", "new")]}).encode()
    asyncio.run(world.network.send(Call("POST", f"https://stripe.test{EVENTS}", body=body)))
    assert len(handled) == arrivals
