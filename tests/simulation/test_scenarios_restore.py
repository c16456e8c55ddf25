"""Restores written out by hand: what seeds showed, or reach only rarely."""

from __future__ import annotations

import pytest

from drawdown.providers.protocol import Outcome, PushRefused, PushRequest, RetryAt, Unknown
from drawdown.schema.audit import By
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Push, Steps
from drawdown.worker.history.incarnation import HistoryDoubted
from drawdown.worker.history.recover import Recovered, recover
from drawdown.worker.push.actions import resolve_accepted, void
from drawdown.worker.push.rows import wire_key
from drawdown.worker.push.webhooks import apply_notices
from drawdown.worker.tick import tick
from drawdown.worker.usage.withdrawals import withdraw
from tests.simulation.actions import insert
from tests.simulation.operators import said
from tests.simulation.oracle import Sample
from tests.simulation.providers import AUTUMN, STRIPE
from tests.simulation.restore import deserialise, serialised
from tests.simulation.test_scenarios_remote import FEATURE, KEY, a_world, drive, is_transaction, start, states
from tests.simulation.world import START, World


def recovering(context: Context) -> Steps[Recovered]:
    return recover(context, By(context.clock.now_ms(), "sim", "recovers"), restored=True)


def ticked(world: World, minutes: int = 0) -> None:
    world.time.advance(minutes * MINUTE_MS)
    drive(world, start(world, "w", tick))


def test_tick_during_restore_does_not_seal_or_send() -> None:
    world = a_world(STRIPE)
    image = serialised(world)
    slow = drive(world, start(world, "slow", tick), until=is_transaction("seal"))
    insert(world, [Sample("s2", "acme", START + WINDOW_MS, 4096, 7, good=True)])
    deserialise(world, image)
    while not slow.done:
        leaf = next(slow.leaves())
        assert leaf.asked is not None
        assert not isinstance(leaf.asked, Push)
        try:
            leaf.hold(world.do(leaf.asked), None)
        except HistoryDoubted as error:
            leaf.hold(None, error)
        leaf.tell()
        slow.join()
    assert isinstance(slow.result, HistoryDoubted)
    assert states(world) == ["due"]


def test_push_found_by_lookup_after_recover_has_its_wire_key() -> None:
    world = a_world(STRIPE)
    image = serialised(world)
    ticked(world)
    deserialise(world, image)
    drive(world, start(world, "w", recovering))
    ticked(world)
    assert world.rows("SELECT state, attempts, wire_key FROM pushes") == [("accepted", 0, KEY)]


def test_late_refusal_of_unknown_push_is_reported() -> None:
    world = a_world(STRIPE)
    key = wire_key(f"usage:acme:{START + DAY_MS}:{FEATURE}", world.capabilities[STRIPE])
    told = world.write(lambda c: apply_notices(c, STRIPE, [PushRefused(key, "no such customer")], world.time.now))
    assert told == [f"unknown push {key}: this database does not have it"]


def test_unsent_push_too_old_after_recover_is_rejected() -> None:
    world = a_world(STRIPE)
    drive(world, start(world, "w", recovering))
    # Absent while its key was remembered: due, as if first sent when history ended; then nobody ticked for long.
    world.execute("UPDATE pushes SET state = 'due', first_attempt_ms = :at", at=world.time.now)
    world.time.advance(36 * DAY_MS)
    for _ in range(4):
        ticked(world, 60)
    assert states(world) == ["rejected"]
    world.write(lambda c: resolve_accepted(c, [KEY], said(world), "charged by hand"))
    assert states(world) == ["accepted"]


def test_database_without_tick_is_trusted_after_recover() -> None:
    world = a_world(STRIPE)
    drive(world, start(world, "w", recovering))
    ticked(world)
    assert world.rows("SELECT doubted_reason FROM incarnation") == [(None,)]


def test_push_after_second_operator_void_is_sent_without_lookup() -> None:
    world = a_world(STRIPE)
    drive(world, start(world, "w", recovering))
    for key, then in ((KEY, "queued"), (f"{KEY}:r1", "accepted")):
        world.execute("UPDATE pushes SET state = 'in_doubt' WHERE key = :key", key=key)
        world.write(lambda c, key=key: void(c, [key], said(world), evidence="their console", kind="operator"))  # type: ignore[misc]
        world.time.advance(MINUTE_MS)
        ticked(world)
        assert states(world)[-1] == then


def test_samples_of_lost_window_are_withdrawn_together() -> None:
    world = a_world(STRIPE)
    insert(world, [Sample("s2", "acme", START + 2, 4096, 7, good=True)])
    ticked(world)
    drive(world, start(world, "w", recovering))
    ticked(world)
    done = world.write(lambda c: withdraw(c, ["s1", "s2"], said(world)))
    assert [one.already for one in done] == [False, False]


@pytest.mark.parametrize(("answer", "breaches"), [(RetryAt(0, "429"), 0), (Unknown("cut"), 1)])
def test_key_life_after_recover_counts_from_first_send_that_may_arrive(answer: Outcome, breaches: int) -> None:
    """P2 is judged from the first attempt that may have arrived since."""
    world = a_world(AUTUMN)
    wire, hour = world.wire, 60 * MINUTE_MS
    wire.may_send_ms[AUTUMN], wire.applied_within_ms[AUTUMN] = hour // 2, hour
    request = PushRequest(KEY, "acme", FEATURE, 60, START, 1)
    for at_ms, answered in ((0, Unknown("cut")), (2 * hour, answer), (3 * hour, answer)):
        wire.first(AUTUMN, request, at_ms)
        wire.answered(AUTUMN, request, answered)
        if at_ms == 0:
            wire.lose(set(), set())
            wire.recovered()
    assert len(world.breaches) == breaches


@pytest.mark.parametrize(("quantity", "known"), [(60, {KEY, "unsent"}), (90, {"unsent"})])
def test_quantity_of_backup_of_abandoned_history_may_be_sent(quantity: int, known: set[str]) -> None:
    wire = a_world(AUTUMN).wire
    wire.sent[AUTUMN, KEY] = ("acme", FEATURE, 60, START)
    assert wire.known({KEY: quantity, "unsent": 1}) == known
