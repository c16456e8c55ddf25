"""Many windows of one customer at Autumn, written out by hand: what the longest lives showed."""

from __future__ import annotations

from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.push.confirm import confirm
from drawdown.worker.push.push import push
from tests.simulation.actions import insert
from tests.simulation.billed import billed
from tests.simulation.oracle import Sample
from tests.simulation.people import settle_told
from tests.simulation.providers import AUTUMN
from tests.simulation.remote import Autumn
from tests.simulation.test_scenarios_remote import a_world, comparing, drive, left_unanswered, sealed, start, states
from tests.simulation.world import START, World


def autumn_of(world: World) -> Autumn:
    autumn = world.remote[AUTUMN]
    assert isinstance(autumn, Autumn)
    return autumn


def test_equal_hidden_pushes_matched_wrongly_are_corrected_later() -> None:
    """The first never arrived, the second was drawn; the balance shows one of them, and the list neither."""
    world = a_world(AUTUMN)
    autumn = autumn_of(world)
    autumn.emulator.list_stands_still = (world.time.now, world.time.now + 3 * DAY_MS)
    left_unanswered(world, AUTUMN, "request_lost")
    world.time.advance(DAY_MS)
    insert(world, [Sample("s2", "acme", START + DAY_MS + 1, 4096, 60, good=True)])
    sealed(world)
    left_unanswered(world, AUTUMN, "answer_lost")
    world.time.advance(DAY_MS)
    drive(world, start(world, "second", lambda c: confirm(c, AUTUMN)))
    assert states(world) == ["accepted", "voided"]
    sealed(world)
    drive(world, start(world, "third", lambda c: push(c, AUTUMN)))
    assert states(world) == ["accepted", "voided", "accepted"]
    world.time.advance(2 * DAY_MS)
    found = drive(world, start(world, "fourth", comparing(world))).result
    assert [(one.verdict, one.corrected, one.balance) for one in found.differing] == [
        ("short", 60, False),
        ("over", 60, False),
    ], "nothing is told of the balance, which is right"
    sealed(world)
    drive(world, start(world, "fifth", lambda c: push(c, AUTUMN)))
    world.time.advance(DAY_MS)
    found = drive(world, start(world, "sixth", comparing(world))).result
    assert (found.differing, settle_told(world)) == ([], None)
    assert (world.breaches, list(billed(world, world.oracle.expected()))) == ([], [])


def test_backlog_after_provider_recovers_is_sent_in_single_push_step() -> None:
    world = a_world(AUTUMN)
    autumn = autumn_of(world)
    autumn.emulator.track_per_s = 3
    world.time.advance(40 * WINDOW_MS)
    insert(world, [Sample(f"m{n}", "acme", START + n * WINDOW_MS + 1, 4096, 60, good=True) for n in range(1, 40)])
    sealed(world)
    drive(world, start(world, "first", lambda c: push(c, AUTUMN)))
    assert states(world).count("accepted") == 3
    autumn.fix(["acme"], world.time.now)
    world.time.advance(WINDOW_MS)
    drive(world, start(world, "second", lambda c: push(c, AUTUMN)))
    assert set(states(world)) == {"accepted"}
