"""What people do about providers: pause them, look at their consoles, charge by hand, reconcile.

Guarantee: a person decides by what the service truly holds, and never sooner than it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any, Final, NamedTuple

from drawdown.schema.units import DAY_MS, MINUTE_MS, OWN_MINUTES
from drawdown.worker.catalog.terms import paused
from drawdown.worker.provider.actions import pause, resume
from drawdown.worker.push.actions import acknowledge, find_unacknowledged, resolve_accepted, void
from drawdown.worker.push.rows import Row, dated
from drawdown.worker.reconcile.comparison import ONLY_THERE
from drawdown.worker.reconcile.reconcile import Line
from tests.emulators.autumn import LOSS_FAULTS
from tests.emulators.autumn_numbers import ONE_OFF
from tests.simulation.accepted import undrawn
from tests.simulation.actions import Action
from tests.simulation.cancelling import cancel_wrong
from tests.simulation.operators import NOTHING_BACK, TOO_OLD, attempt, said
from tests.simulation.pooled import CREDITS, Pooled
from tests.simulation.providers import AUTUMN
from tests.simulation.remote import Autumn, Stripe, unit_at
from tests.simulation.webhooks import webhooks
from tests.simulation.world import World


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


SHARED: Final = "several revisions may share the minute"


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
    asked: dict[str, Any] = {"keys": [one.key], "by": said(world), "evidence": "looked at the console"}

    def done(work: Any) -> bool:
        return attempt(world, partial(work, **asked)) is not None

    if one.state == "rejected":
        if not one.error.startswith((TOO_OLD, NOTHING_BACK)):
            return None
        if not done(resolve_accepted):
            return None
        charge_in_window(world, one)
        world.resolved.add(one.key)
        return f"{one.key}: charged by hand"
    found = world.remote[one.provider].keys().get(one.wire_key)
    if found is not None and one.wire_key in world.lost_keys and found * unit_at(one.provider, one.feature) != one.sent:
        if not one.error.startswith(SHARED) or not done(resolve_accepted):
            return None  # of another history: the daily lookup adopts it
        return _made_whole(world, one, found * unit_at(one.provider, one.feature))
    shared = _in_its_minute(world, one) if found is None and one.error.startswith(SHARED) else 0
    if shared:
        return _made_whole(world, one, shared) if done(resolve_accepted) else None
    if found is None:
        if not done(void):
            return None
        world.faults.note("decided_absent")
        return f"{one.key}: absent"
    charged = found * unit_at(one.provider, one.feature)
    if one.sent < charged < 0:
        return _cut_short(world, one, charged) if _has_no_event(world, one) and done(void) else None
    assert charged % one.sent == 0, f"{one}: {found} was charged"
    if not done(resolve_accepted):
        return None
    world.faults.note("decided_accepted")
    return f"{one.key}: accepted"


def _in_its_minute(world: World, one: Open) -> int:
    """What the console shows in the minute of a push beyond all that we call accepted: of a revision that was lost."""
    remote = world.remote[one.provider]
    assert isinstance(remote, Stripe)
    rows = world.rows(
        "SELECT COALESCE(SUM(CASE WHEN state = 'accepted' THEN sent_qty ELSE 0 END), 0), "
        "MAX(CASE WHEN key = :key THEN revision ELSE 0 END) FROM pushes WHERE provider = :provider "
        "AND feature = :feature AND customer_id = :customer AND window_ms = :window AND revision >= :shared",
        shared=OWN_MINUTES,
        **{name: getattr(one, name) for name in ("key", "provider", "feature", "customer", "window")},
    )
    accepted, revision = map(int, rows[0])
    return remote.in_minute(one.customer, one.feature, dated(one.window, revision)) - accepted


def _made_whole(world: World, one: Open, charged: int) -> str:
    """A sum over there tells how much, and of no push: what is charged less than was to be is charged by hand; once,
    though the database may be restored after that."""
    if one.key not in world.made_whole:
        world.made_whole.add(one.key)
        day_ms = one.window - one.window % DAY_MS
        charge_by_hand(world, one.provider, one.customer, one.feature, day_ms, one.sent - charged)
    world.faults.note("decided_accepted")
    return f"{one.key}: {charged} of {one.sent}, the rest by hand"


def _has_no_event(world: World, one: Open) -> bool:
    """Whether no event will ever show it: else the daily lookup adopts what it shows."""
    autumn = world.remote[one.provider]
    return isinstance(autumn, Autumn) and one.wire_key in autumn.without_event()


def _cut_short(world: World, one: Open, charged: int) -> str:
    """Autumn gave back no more than had been drawn, a part. Voided, all of it is given back anew, and so that part is
    charged by hand; once, though the void may be lost with a database that is restored."""
    if one.key not in world.cut_short:
        world.cut_short.add(one.key)
        charge_by_hand(world, one.provider, one.customer, one.feature, one.window - one.window % DAY_MS, -charged)
    world.faults.note("decided_absent")
    return f"{one.key}: {charged} of {one.sent}"


def charge_in_window(world: World, one: Open) -> None:
    """But for what the same person charged there before the database was restored."""
    place = (one.provider, one.customer, one.feature, one.window)
    refused = one.error.startswith(NOTHING_BACK)  # what was to be given back had been billed, here or by hand
    _charge_up_to(world, place, one.sent + _marked(world, place, but=one.key), although_lost=refused)


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


def _charge_up_to(world: World, place: tuple[str, str, str, int], wanted: int, *, although_lost: bool = False) -> None:
    """So that this is charged by hand in all."""
    provider, customer, feature, window = place
    had = world.by_hand_in.get(place, 0)
    more = wanted - had
    if more < 0 and unit_at(provider, feature) == 1 and not although_lost:  # what the provider has lost is not credited
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
    if line.balance:
        return 0  # `settle_told`
    remote = world.remote.get(line.provider)
    if isinstance(remote, Autumn):
        return _not_drawn(world, remote, (line.provider, *remote.place(line.customer_id, line.feature)))
    return line.ours - line.theirs - by_hand


def make_up_for(world: World, differing: Sequence[Line]) -> bool:
    """Whether anything had to be made up for of what reconcile told, and could not correct."""
    made = False
    for line in differing:
        if _is_to_be_compared(line) and (more := missing(world, line)):
            made = True
            place = world.remote[line.provider].place(line.customer_id, line.feature)
            _was_lost(world, (line.provider, *place), more)
            charge_by_hand(world, line.provider, *place, line.day_ms, more)
            world.say("world", f"makes up for {more} of {line}")
    return made


def _is_to_be_compared(line: Line) -> bool:
    """Reconcile found less there than was accepted, and cannot tell of which push; or more, and says that the balance
    alone tells. Of the latter's feature no balance is told as long as that stands: whoever compares sees what it lacks,
    though it be for pushes of other days."""
    return line.theirs < line.ours or ONLY_THERE in (line.note or "")


def change_balance(world: World) -> str | None:
    """Somebody tops a customer's balance up over there, sets it, or adds a one-off part; nothing tells of it."""
    autumn = _losing(world)
    if autumn is None:
        return None
    account = autumn.emulator.account
    customer = world.rng.choice(sorted(account.customers))
    feature = world.rng.choice(sorted(account.customers[customer].grants) or [""])
    if not feature:
        return None
    if autumn.pooled is not None:
        return _change_credits(world, autumn.pooled, customer)
    # Amounts that no pushes sum up to: a change of just as much as is missing is one that nobody can see.
    how, amount = world.rng.randrange(4), world.rng.choice((-70_001, 61_003, 500_009, 3_600_011))
    if how == 0:
        account.set_remaining(customer, feature, amount)
        world.faults.note("balance_set")
    elif how == 1:
        account.grant(customer, feature, abs(amount), world.time.now, interval=ONE_OFF)
        world.faults.note("topped_up")
    else:
        account.add_to_balance(customer, feature, amount)
        world.faults.note("topped_up")
    return f"changes the balance of {customer}, {feature}: {how}, {amount}"


def _change_credits(world: World, pooled: Pooled, customer: str) -> str:
    """The same, in credits: no two amounts, nor what they differ by, are what pushes sum up to."""
    account, pooled.touched = pooled.account, pooled.touched + 1
    how = world.rng.randrange(4)
    amount = world.rng.choice(CHANGES) + pooled.touched * FINE
    if how == 0:
        account.set_remaining(customer, CREDITS, amount)
        world.faults.note("balance_set")
    elif how == 1:
        account.grant(customer, CREDITS, abs(amount), world.time.now, interval=ONE_OFF)
        world.faults.note("topped_up")
    else:
        account.add_to_balance(customer, CREDITS, amount)
        world.faults.note("topped_up")
    return f"changes the credits of {customer}: {how}, {amount}"


def still_list(world: World) -> str | None:
    """Autumn's list of events shows nothing new, for up to a day."""
    autumn = _losing(world)
    if autumn is None:
        return None
    until = world.time.now + world.rng.choice((10 * MINUTE_MS, 6 * 60 * MINUTE_MS, 25 * 60 * MINUTE_MS))
    autumn.emulator.list_stands_still = (world.time.now, until)
    autumn.stood_still.append((world.time.now, until))
    world.faults.note("list_stands_still")
    return f"the list of events stands still until {until}"


def _losing(world: World) -> Autumn | None:
    """Autumn, where the account is one that loses data."""
    autumn = world.remote.get(AUTUMN)
    loses = isinstance(autumn, Autumn) and any(autumn.emulator.faults.rates.get(kind) for kind in LOSS_FAULTS)
    return autumn if loses and isinstance(autumn, Autumn) else None


CHANGES: Final = (Decimal("-7.01"), Decimal("61.03"), Decimal("500.09"))
FINE: Final = Decimal("0.000001")
"""Finer than what most pushes draw."""


def settle_told(world: World) -> str | None:
    """What was told of a balance: a person looks at their console, makes up for what was lost, and acknowledges it."""
    rows = world.read(find_unacknowledged)
    for row in rows:
        autumn = world.remote[row.provider]
        assert isinstance(autumn, Autumn)
        place = (row.provider, *autumn.place(row.customer_id, row.feature))
        lost = _not_drawn(world, autumn, place)
        _was_lost(world, place, lost)
        _told_right(world, autumn, row)
        if lost:
            charge_by_hand(world, *place, 0, lost)
        world.faults.note("balance_told")
    if rows:
        world.write(partial(acknowledge, org_id="", by=said(world)))
    return f"settles what was told of {len(rows)} balances" if rows else None


def _told_right(world: World, autumn: Autumn, row: Row) -> None:
    """All that was told of a balance is by how much it is apart now, within the uncertainty that was told with it.
    Where a restore, a cycle, a cost or a person's charge moved what it is compared with, nothing tells."""
    place, pooled = (row.provider, row.customer_id, row.feature), autumn.pooled
    sums = world.told_of.setdefault(place, Fraction(0)) + Fraction(int(row.told_qty), int(row.scale))
    world.told_of[place] = sums
    unsure = world.unsure_of.setdefault(place, Fraction(0)) + Fraction(int(row.unsure_qty), int(row.scale))
    world.unsure_of[place] = unsure
    if pooled is None or pooled.moves or world.resolved or world.lost_keys or pooled.shown(row.customer_id) is None:
        return
    ((apart, scale),) = world.rows(_APART, provider=row.provider, customer=row.customer_id, feature=row.feature)
    if abs(sums - Fraction(int(apart), int(scale))) > unsure:
        world.breaches.append(f"told: {place} is apart by {apart} / {scale}, and {sums} were told")


_APART: Final = """
SELECT apart_qty, scale FROM balance_marks WHERE provider = :provider AND customer_id = :customer
    AND feature = :feature
"""


def _was_lost(world: World, place: tuple[str, str, str], quantity: int) -> None:
    """People make up for what a provider lost. Were they to make up for what we counted once too often, the total would
    be right in the end, and nobody would see it."""
    remote = world.remote[place[0]]
    lost = remote.lost_of(*place[1:]) if isinstance(remote, Autumn) else quantity
    if quantity > lost:
        world.breaches.append(f"adopted: {quantity} are made up for by hand at {place}, and {lost} were lost there")


def _not_drawn(world: World, autumn: Autumn, place: tuple[str, str, str]) -> int:
    """What a person finds who goes through a customer's history there, line by line: what counts as accepted, and was
    neither drawn nor charged by hand."""
    least, most = undrawn(world, autumn, *place)
    return max(least, min(0, most))


PEOPLE: Final[tuple[tuple[Action, float], ...]] = (
    (change_balance, 0.5),
    (still_list, 0.1),
    (pause_or_resume, 0.4),
    (webhooks, 6.0),
    (decide, 0.8),
    (cancel_wrong, 0.8),
)
