"""What people do about providers: pause them, look at their consoles, charge by hand, reconcile.

Guarantee: a person decides by what the service truly holds, and never sooner than it shows.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final, NamedTuple

from drawdown.schema.units import DAY_MS
from drawdown.worker.corrections import resolve_accepted, void
from drawdown.worker.provider_states import pause, paused, resume
from drawdown.worker.reconcile import Line
from tests.simulation.actions import Action
from tests.simulation.operators import attempt, said
from tests.simulation.remote import unit_at
from tests.simulation.webhooks import webhooks
from tests.simulation.world import World

TOO_OLD: Final = "not sent: the provider takes nothing"


def pause_or_resume(world: World) -> str:
    """A provider is paused, or goes on."""
    known = world.read(paused)
    name = world.rng.choice(sorted(known) if known and world.rng.random() < 0.8 else world.billing)
    if name in known:
        world.write(lambda c: resume(c, name, said(world)))
        world.paused.discard(name)
        return f"resumes {name}"
    world.write(lambda c: pause(c, name, said(world)))
    world.paused.add(name)
    world.faults.note("paused")
    return f"pauses {name}"


def decide(world: World) -> str | None:
    """What is in doubt is looked at on the provider's console; what cannot be sent is charged there by hand."""
    rows = world.rows(
        "SELECT key, COALESCE(wire_key, key), state, provider, customer_id, feature, window_ms, sent_qty, "
        "COALESCE(last_error, '') FROM pushes WHERE state IN ('in_doubt', 'rejected') ORDER BY key LIMIT 20"
    )
    told = [one for row in rows if (one := _decide(world, Open(*row))) is not None]
    return f"decides {told}" if told else None


class Open(NamedTuple):
    """A push that waits for a person."""

    key: str
    wire_key: str
    state: str
    provider: str
    customer: str
    feature: str
    window: int
    sent: int
    error: str


def _decide(world: World, one: Open) -> str | None:
    asked: dict[str, Any] = {"keys": [one.key], "said": said(world), "evidence": "looked at the console"}

    def done(work: Any) -> bool:
        return attempt(world, partial(work, **asked)) is not None

    if one.state == "rejected":
        if not one.error.startswith(TOO_OLD):
            return None
        if not done(resolve_accepted):
            return None
        charge_in_window(world, one)
        world.resolved.add(one.key)
        return f"{one.key}: charged by hand"
    found = world.remote[one.provider].keys().get(one.wire_key)
    if found is not None and one.wire_key in world.lost_keys and found * unit_at(one.provider, one.feature) != one.sent:
        return None  # of another history: the daily lookup adopts it
    if found is None:
        if not done(void):
            return None
        world.faults.note("decided_absent")
        return f"{one.key}: absent"
    assert found * unit_at(one.provider, one.feature) % one.sent == 0, f"{one}: {found} was charged"
    if not done(resolve_accepted):
        return None
    world.faults.note("decided_accepted")
    return f"{one.key}: accepted"


def charge_in_window(world: World, one: Open) -> None:
    """But for what the same person charged there before the database was restored."""
    place = (one.provider, one.customer, one.feature, one.window)
    _charge_up_to(world, place, one.sent + _marked(world, place, but=one.key))


def credit_what_is_forgotten(world: World) -> None:
    """Whoever charged by hand goes through their list: after a restore a window may have been sealed in another way,
    and what it was charged by hand then nobody will ask them about again."""
    for place in sorted(world.by_hand_in):
        _charge_up_to(world, place, _marked(world, place))


def _marked(world: World, place: tuple[str, str, str, int], but: str = "") -> int:
    """What a window's pushes say was charged by hand."""
    provider, customer, feature, window = place
    rows = world.rows(
        "SELECT key, sent_qty FROM pushes WHERE provider = :provider AND customer_id = :customer "
        "AND feature = :feature AND window_ms = :window AND state = 'accepted' AND by_hand",
        provider=provider, customer=customer, feature=feature, window=window,
    )  # fmt: skip
    return sum(sent for key, sent in rows if key in world.resolved and key != but)


def _charge_up_to(world: World, place: tuple[str, str, str, int], wanted: int) -> None:
    """So that this is charged by hand in all."""
    provider, customer, feature, window = place
    had = world.by_hand_in.get(place, 0)
    more = wanted - had
    if more < 0 and unit_at(provider, feature) == 1:  # what the provider has lost is not credited
        there = world.remote[provider].billed(world.time.now).get((customer, feature, window), 0)
        more = max(more, -max(there + had, 0))
    if more:
        world.by_hand_in[place] = had + more
        charge_by_hand(world, provider, customer, feature, window - window % DAY_MS, more)


def charge_by_hand(world: World, provider: str, customer: str, feature: str, day_ms: int, quantity: int) -> None:
    """An item on an invoice, beside the meters."""
    place = (provider, customer, feature, day_ms)
    world.by_hand[place] = world.by_hand.get(place, 0) + quantity
    world.faults.note("charged_by_hand")


def missing(world: World, line: Line) -> int:
    """How much less the provider holds than was accepted, and than was made up for by hand. What a push says was
    charged by hand is in no total."""
    day = (line.provider, line.customer_id, line.feature, line.day_ms)
    marked = sum(n for (*whose, at), n in world.by_hand_in.items() if (*whose, at - at % DAY_MS) == day)
    by_hand = world.by_hand.get(day, 0) - marked
    return line.ours - line.theirs - by_hand - _seen_in_the_balance_alone(world, line)


def _seen_in_the_balance_alone(world: World, line: Line) -> int:
    """What a person finds who compares the customer's balance."""
    untraced = world.remote[line.provider].untraced() if line.provider in world.remote else {}
    rows = world.rows(
        "SELECT COALESCE(wire_key, key) FROM pushes WHERE provider = :provider AND customer_id = :customer "
        "AND feature = :feature AND window_ms >= :day AND window_ms < :day + 86400000 AND state = 'accepted'",
        provider=line.provider, customer=line.customer_id, feature=line.feature, day=line.day_ms,
    )  # fmt: skip
    return sum(untraced.get(key, 0) for (key,) in rows)


def make_up_for(world: World, line: Line) -> None:
    """Reconcile found less there than was accepted, and cannot tell of which push."""
    more = missing(world, line)
    charge_by_hand(world, line.provider, line.customer_id, line.feature, line.day_ms, more)
    world.say("world", f"makes up for {more} of {line}")


PEOPLE: Final[tuple[tuple[Action, float], ...]] = (
    (pause_or_resume, 0.4),
    (webhooks, 6.0),
    (decide, 0.8),
)
