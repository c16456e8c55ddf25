"""Reconcile where no event shows a push: a customer's balance tells, or a person does."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import Drawn, PushRequest, Rejected, RetryAt, Unknown
from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, WINDOW_MS, window_of
from drawdown.worker.engine.effects import CLOCKS_APART_MS
from drawdown.worker.push import actions as pushes
from drawdown.worker.push.evidence import MOST_UNSURE
from drawdown.worker.reconcile.balances import FAR
from drawdown.worker.reconcile.comparison import ONLY_THERE, UNTOLD
from drawdown.worker.usage import withdrawals
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.reconciling import (
    FEATURE,
    KEY,
    SHOWN,
    TOTALS,
    billed,
    charged,
    clean,
    compare,
    credit_by_hand,
    drawn,
    everything,
    settle,
    states,
    told,
    void_lost,
)
from tests.integration.test_reconcile import DrawnFails
from tests.prepaid import tell_cost
from tests.world import T0, Fleet


def sent_twice(engine: sa.Engine) -> Any:
    """A push whose first answer was lost, at a provider whose balances are read: (fleet, provider)."""
    provider = FakeProvider(capabilities(**{**TOTALS, "drawn": True, "duplicate_proves_delivery": True}))
    provider.answers[KEY] = Unknown("cut")
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake")
    fleet.sample("acme", T0 + 1, 60)
    fleet.sample("acme", T0 + WINDOW_MS, 7)
    fleet.tick(T0 + 4 * WINDOW_MS)
    provider.answers.clear()
    fleet.tick_windows(1)
    assert fleet.one("SELECT attempts FROM pushes WHERE key = :key", key=KEY) == 2
    fleet.clock.at_ms += SHOWN
    return fleet, provider


def test_balance_drawn_twice_is_refunded_once(engine: sa.Engine) -> None:
    fleet, provider = sent_twice(engine)
    drawn(provider, 67 + 60)
    before = everything(fleet)
    found = compare(fleet)
    assert (told(found), found.exit_status) == ([("over", 67, 127, 0)], 1)
    assert "Pass `--correct` to give the second charges back" in str(found.differing[0].note)
    assert everything(fleet) == before
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 67, 127, 60)], 75)
    assert fleet.rows("SELECT kind, window_ms FROM adoptions") == [("drawn", T0)]
    before = everything(fleet)
    assert compare(fleet, correct=True).exit_status == 0, "a second run finds nothing"
    assert everything(fleet) == before
    settle(fleet)
    assert states(fleet)[1:] == [(1, 60, 60, "accepted"), (2, -60, -60, "accepted")]
    drawn(provider, 67)
    found = compare(fleet, correct=True)
    assert (found.differing, found.exit_status) == ([], 0), "events and balance agree with what we say"
    clean(fleet)


@pytest.mark.parametrize("before", [False, True])
def test_balance_beyond_64_bits_is_reported_and_other_customer_compared(engine: sa.Engine, before: bool) -> None:
    """In parts of a credit it does not fit into 64 bits."""
    fleet, provider = billed(engine, drawn=True)
    fleet.assign("globex", provider="fake")
    fleet.sample("globex", window_of(fleet.clock.at_ms) + 2 * WINDOW_MS, 60)
    fleet.tick_windows(5)
    fleet.clock.at_ms += SHOWN
    tell_cost(fleet, "fake", FEATURE, 100)
    if before:
        fleet.write(
            "INSERT INTO balance_marks (provider, customer_id, feature, since_ms, apart_qty, org_id, told_qty, at_ms) "
            "VALUES ('fake', 'globex', 'credits', 0, 0, 'globex', 9000000000000000000, 1)"
        )
    provider.drawn_says = {
        "acme": {"credits": Drawn(Decimal(9 * 10**18), None)},
        "globex": {"credits": Drawn(Decimal("0.012"), None)},
    }
    found = compare(fleet, correct=True, from_ms=T0, to_ms=T0 + DAY_MS)
    assert [(one.customer_id, one.note) for one in found.differing if one.note == FAR] == [("acme", FAR)]
    (told_now,) = fleet.rows("SELECT customer_id, told_qty FROM balance_marks")
    assert tuple(told_now) == ("globex", 6_000)


@pytest.mark.parametrize("more", [0, 500])
def test_push_without_event_but_drawn_is_not_voided(engine: sa.Engine, more: int) -> None:
    """It died before the event was stored: to void it would charge it again. Others may have drawn besides."""
    fleet, provider = billed(engine, drawn=True)
    provider.charged.clear()
    drawn(provider, 60 + more)
    before = everything(fleet)
    for expected in (1 if more else 0, 0):
        found = compare(fleet, correct=True)
        assert (found.covered, found.exit_status) == (1, expected), "more than that is told once"
        assert everything(fleet) == before
    assert fleet.rows("SELECT verdict FROM reconciliations") == [("equal",)]
    settle(fleet)
    assert states(fleet) == [(0, 60, 60, "accepted")]
    clean(fleet)


def test_push_without_event_and_not_drawn_is_voided(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, drawn=True)
    provider.charged.clear()
    drawn(provider, 0)
    assert told(compare(fleet, correct=True)) == [("short", 60, 0, 60)]
    assert "The customer's balance agrees" in str(fleet.one("SELECT evidence FROM voids"))
    settle(fleet)
    assert states(fleet) == [(0, 60, 60, "voided"), (1, 60, 60, "accepted")]
    drawn(provider, 60)
    assert compare(fleet, correct=True).exit_status == 0
    clean(fleet)


def given_back_unseen(engine: sa.Engine) -> Any:
    """A minute was charged, withdrawn and given back, and no event shows that it was given back: (fleet, provider)."""
    fleet, provider = billed(engine, 30, drawn=True)
    write(engine, lambda c: withdrawals.withdraw(c, ["s1"], fleet.by))
    settle(fleet)
    assert states(fleet) == [(0, 60, 60, "accepted"), (1, -60, -60, "accepted")]
    del provider.charged[f"{KEY}:r1"]
    return fleet, provider


def test_refund_without_event_shown_by_balance_is_not_repeated(engine: sa.Engine) -> None:
    """Events show more than is accepted, and the balance shows that it is none."""
    fleet, provider = given_back_unseen(engine)
    drawn(provider, 30)
    before = everything(fleet)
    for _ in range(2):
        found = compare(fleet, correct=True)
        assert (told(found), found.covered, found.exit_status) == ([], 1, 0)
        assert everything(fleet) == before
    provider.over["acme", FEATURE, T0 + WINDOW_MS + 9] = 40
    drawn(provider, 70)
    assert told(compare(fleet, correct=True)) == [("over", 30, 130, 40)], "what is too much beside it is given back"
    assert fleet.rows("SELECT kind, window_ms FROM adoptions") == [("excess", T0 + WINDOW_MS)]
    clean(fleet)


def test_refund_without_event_missing_in_balance_is_repeated(engine: sa.Engine) -> None:
    fleet, provider = given_back_unseen(engine)
    drawn(provider, 90)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 30, 90, 60)], 75)
    settle(fleet)
    assert states(fleet)[1:] == [(1, -60, -60, "voided"), (2, -60, -60, "accepted")]
    drawn(provider, 30)
    assert compare(fleet, correct=True).exit_status == 0
    clean(fleet)


def test_refund_that_balance_does_not_show_is_reported(engine: sa.Engine) -> None:
    fleet, provider = given_back_unseen(engine)
    drawn(provider, 55)
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 30, 90, 0)], 1)
    assert "customer's balance can show. Compare them. Until then" in str(found.differing[0].note)
    assert (everything(fleet), fleet.rows("SELECT * FROM balance_marks")) == (before, [])


def test_pushes_without_event_that_balance_shows_as_drawn_are_not_voided(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, 30, 7, drawn=True)
    provider.charged.clear()
    drawn(provider, 67)
    assert told(compare(fleet, correct=True)) == [("short", 97, 0, 97)]
    settle(fleet)
    kept = fleet.rows("SELECT sent_qty, state FROM pushes ORDER BY window_ms, revision")
    assert kept == [(60, "accepted"), (30, "voided"), (30, "accepted"), (7, "accepted")]
    clean(fleet)


@pytest.mark.parametrize("quantity", [59, 20, -40])
def test_push_without_event_at_unclear_balance_is_not_voided(engine: sa.Engine, quantity: int) -> None:
    """Somebody topped it up by `add_to_balance`, which looks like giving back."""
    fleet, provider = billed(engine, drawn=True)
    provider.charged.clear()
    drawn(provider, quantity)
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 60, 0, 0)], 1)
    assert "does not prove a charge" in str(found.differing[0].note)
    assert (everything(fleet), fleet.rows("SELECT * FROM balance_marks")) == (before, [])


@pytest.mark.parametrize("gone", ["unread", "no such balance", "parts of other cycles"])
def test_push_without_event_at_unreadable_balance_is_not_voided(engine: sa.Engine, gone: str) -> None:
    provider = (DrawnFails if gone == "unread" else FakeProvider)(capabilities(**TOTALS, drawn=True))
    fleet, _ = billed(engine, provider=provider)
    provider.charged.clear()
    if gone == "parts of other cycles":
        provider.drawn_says = {"acme": {FEATURE: Drawn(0, None, whole=False)}}
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert told(found) == [("short", 60, 0, 0)]
    assert everything(fleet) == before


def test_balance_topup_is_reported_once_and_later_loss_is_found(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, 30, drawn=True)
    drawn(provider, 90 - 50)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 90, 40, 0)], 1)
    assert "a top-up, a balance set by hand, or a loss" in str(found.differing[0].note)
    assert compare(fleet, correct=True).exit_status == 0
    assert fleet.rows("SELECT apart_qty, told_qty FROM balance_marks") == [(-50, -50)]
    del provider.charged[KEY]  # drawn all the same: an event that was lost
    found = compare(fleet, correct=True)
    assert (found.covered, found.exit_status) == (1, 0)
    drawn(provider, 90 - 50 - 60)  # not drawn either: a push that was lost
    assert told(compare(fleet, correct=True)) == [("short", 90, 30, 60)]
    settle(fleet)
    drawn(provider, 90 - 50)
    assert compare(fleet, correct=True).exit_status == 0
    clean(fleet)


def test_push_voided_as_lost_and_resealed_is_not_refunded(engine: sa.Engine) -> None:
    """No event shows it, and the balance, which was topped up as well, does not tell; a person finds it lost."""
    fleet, provider = billed(engine, 30, drawn=True)
    del provider.charged[KEY]
    drawn(provider, 30 - 500)
    assert told(compare(fleet, correct=True)) == [("short", 90, 30, 0)]
    provider.charged[KEY] = provider.charged[f"usage:acme:{T0 + WINDOW_MS}:{FEATURE}"]  # its day is compared no more
    provider.over["acme", FEATURE, T0] = 30
    assert told(compare(fleet, correct=True)) == [("short", 90, 30 - 500, 0)]
    del provider.charged[KEY], provider.over["acme", FEATURE, T0]
    fleet.clock.at_ms += DAY_MS
    void_lost(fleet, "their console")
    settle(fleet)
    assert states(fleet) == [(0, 60, 60, "voided"), (1, 60, 60, "accepted")]
    drawn(provider, 90 - 500)
    found = compare(fleet, correct=True)
    assert (told(found), fleet.rows("SELECT apart_qty FROM balance_marks")) == ([], [(-500,)])
    drawn(provider, 90 + 60 - 500)  # now it arrives after all, or somebody draws as much: it is given back
    assert told(compare(fleet, correct=True)) == [("over", 90, 150, 60)]
    clean(fleet)


def test_push_declared_lost_but_shown_in_balance_is_refunded(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, drawn=True)
    drawn(provider, 60 - 59)
    assert told(compare(fleet, correct=True)) == [("short", 60, 1, 0)]
    del provider.charged[KEY]
    fleet.clock.at_ms += DAY_MS
    void_lost(fleet, "a guess")
    settle(fleet)
    drawn(provider, 120 - 59)
    assert told(compare(fleet, correct=True)) == [("over", 60, 120, 60)]


def test_balance_drawn_twice_beside_reported_topup_is_refunded(engine: sa.Engine) -> None:
    fleet, provider = sent_twice(engine)
    drawn(provider, 67 - 500)
    assert compare(fleet, correct=True).exit_status == 1
    drawn(provider, 67 - 500 + 60)
    assert [one.corrected for one in compare(fleet, correct=True).differing] == [60]
    settle(fleet)
    drawn(provider, 67 - 500)
    assert compare(fleet, correct=True).exit_status == 0
    clean(fleet)


@pytest.mark.parametrize("credited", [0, 60])
def test_credit_by_hand_is_not_taken_for_push_drawn_twice(engine: sa.Engine, credited: int) -> None:
    """On an invoice, beside the balance, or on it; and from the next comparison on a second drawing shows again. As
    much as was credited beside it may be drawn twice, too: the person is told once by how much it may differ."""
    fleet, provider = sent_twice(engine)
    drawn(provider, 67 - 500)
    assert compare(fleet, correct=True).exit_status == 1, "a top-up, told once: from here on it is compared"
    write(engine, lambda c: pushes.acknowledge(c, "", fleet.by))
    credit_by_hand(fleet, provider, "the balance is already as high as it was granted")
    drawn(provider, 67 - 500 - credited)
    assert compare(fleet, correct=True).differing == [], "an event may still show it"
    fleet.clock.at_ms += SHOWN
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == (([], 0) if credited else ([("unsure", 7, 7, 0)], 1))
    seen = read(engine, pushes.find_unacknowledged)
    assert [(row.told_qty, row.unsure_qty) for row in seen] == ([] if credited else [(0, 60)])
    fleet.clock.at_ms += SHOWN
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([], 0)
    write(engine, lambda c: pushes.acknowledge(c, "acme", fleet.by))
    assert read(engine, pushes.find_unacknowledged) == []
    fleet.clock.at_ms += SHOWN
    drawn(provider, 67 - 500 - credited + 60)
    assert told(compare(fleet, correct=True)) == [("over", 7, 67, 60)]


def test_balance_with_parts_of_other_cycles_is_compared_from_first_reading(engine: sa.Engine) -> None:
    """A one-off top-up beside a monthly plan: what had been drawn from it before the month cannot be told."""
    fleet, provider = sent_twice(engine)
    first_ms = int(str(fleet.one("SELECT MIN(first_attempt_ms) FROM pushes")))
    provider.drawn_says = {"acme": {FEATURE: Drawn(1_000, first_ms + 1, whole=False)}}
    assert compare(fleet, correct=True).exit_status == 0
    provider.drawn_says = {"acme": {FEATURE: Drawn(1_060, first_ms + 1, whole=False)}}
    assert [one.corrected for one in compare(fleet, correct=True).differing] == [60]


@pytest.mark.parametrize(("shown", "apart"), [(20, -47), (1_000, 933), (67, 0)])
def test_balance_of_customer_in_first_cycle_is_compared_at_once(engine: sa.Engine, shown: int, apart: int) -> None:
    """A new customer's plan and top-up: what is missing at the first look was lost."""
    fleet, provider = sent_twice(engine)
    provider.drawn_says = {"acme": {FEATURE: Drawn(shown, T0 - DAY_MS, whole=False)}}
    found = compare(fleet, correct=True)
    assert [(one.ours, one.theirs) for one in found.differing] == ([(67, shown)] if apart else [])
    marks = fleet.rows("SELECT apart_qty, told_qty FROM balance_marks")
    assert marks == ([(apart, apart)] if apart else []), "a balance that agrees needs no mark"
    assert compare(fleet, correct=True).exit_status == 0


def test_balance_new_cycle_clears_earlier_mark(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, drawn=True)
    drawn(provider, 10)
    assert compare(fleet, correct=True).exit_status == 1
    drawn(provider, 0, since_ms=fleet.clock.at_ms)
    assert compare(fleet, correct=True).exit_status == 0


def test_push_sent_at_cycle_start_matches_either_cycle(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, drawn=True)
    begun = int(str(fleet.one("SELECT first_attempt_ms FROM pushes")))
    for quantity in (0, 60):
        drawn(provider, quantity, since_ms=begun - 1_000)
        assert compare(fleet, correct=True).exit_status == 0
        fleet.write("DELETE FROM balance_marks")


def test_balance_of_earlier_cycle_is_not_compared_in_new_cycle(engine: sa.Engine) -> None:
    fleet, provider = sent_twice(engine)
    drawn(provider, 0, since_ms=fleet.clock.at_ms)
    assert compare(fleet, correct=True).exit_status == 0
    drawn(provider, 67 + 60, since_ms=T0)
    assert told(compare(fleet, correct=True)) == [("over", 67, 127, 60)]


@pytest.mark.parametrize("quantity", [67 + 59, 67 + 61, 10**6])
def test_balance_drawn_by_other_system_is_reported(engine: sa.Engine, quantity: int) -> None:
    fleet, provider = sent_twice(engine)
    drawn(provider, quantity)
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 67, quantity, 0)], 1)
    assert "Another system may use the balance" in str(found.differing[0].note)
    assert everything(fleet) == before


def test_balance_drawn_less_than_pushed_is_reported_once(engine: sa.Engine) -> None:
    """Their store was lost before it was written: what was drawn is given back, and the events stay."""
    fleet, provider = sent_twice(engine)
    drawn(provider, 5)
    assert told(compare(fleet)) == told(compare(fleet)) == [("short", 67, 5, 0)], "comparing alone remembers nothing"
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 67, 5, 0)], 1)
    assert (compare(fleet).exit_status, compare(fleet, correct=True).exit_status) == (0, 0)


def test_push_sent_once_is_not_taken_for_drawn_twice(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, drawn=True)
    drawn(provider, 120)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 60, 120, 0)], 1)


def test_attempts_that_never_arrived_are_not_taken_for_drawn_twice(engine: sa.Engine) -> None:
    provider = FakeProvider(capabilities(**{**TOTALS, "drawn": True}))
    provider.answers[KEY] = RetryAt(0, "refused")
    fleet, _ = billed(engine, provider=provider)
    provider.answers.clear()
    fleet.tick_windows(1)
    assert fleet.one("SELECT attempts FROM pushes WHERE key = :key", key=KEY) == 2
    fleet.clock.at_ms += SHOWN
    drawn(provider, 120)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 60, 120, 0)], 1)


def test_balance_is_compared_only_after_all_events_are_read(engine: sa.Engine) -> None:
    """An event that was charged twice shows in both: corrected from both it would be given back twice."""
    fleet, provider = sent_twice(engine)
    provider.over[("acme", FEATURE, T0 + WINDOW_MS)] = 7
    drawn(provider, 67 + 7)
    provider.totals_fail = True
    found = compare(fleet, correct=True)
    assert (told(found), found.unread) == ([], 1)
    provider.totals_fail = False
    found = compare(fleet, correct=True)
    assert told(found) == [("over", 67, 74, 7)]
    assert fleet.rows("SELECT kind, window_ms FROM adoptions") == [("excess", T0 + WINDOW_MS)]
    settle(fleet)
    drawn(provider, 67)
    assert compare(fleet, correct=True).exit_status == 0


@pytest.mark.parametrize("was_drawn", [True, False])
def test_push_of_earlier_cycle_without_event_is_reported(engine: sa.Engine, was_drawn: bool) -> None:
    """The balance of the new cycle is the same, whether it was drawn or not."""
    fleet, provider = billed(engine, 7, drawn=True)
    del provider.charged[KEY]
    fleet.clock.at_ms += DAY_MS
    drawn(provider, 0, since_ms=fleet.clock.at_ms - DAY_MS // 2)
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 67, 7, 0)], 1)
    assert UNTOLD in str(found.differing[0].note)
    assert everything(fleet) == before
    drawn(provider, 67 if was_drawn else 7, since_ms=T0)
    assert [one.corrected for one in compare(fleet, correct=True).differing] == ([] if was_drawn else [60])
    clean(fleet)


def test_excess_reported_by_balance_before_event_is_reported_by_event(engine: sa.Engine) -> None:
    """A person may have taken it for somebody else's, and settled nothing with the customer."""
    fleet, provider = billed(engine, drawn=True)
    drawn(provider, 120)
    assert compare(fleet, correct=True).exit_status == 1
    assert compare(fleet, correct=True).exit_status == 0
    provider.over["acme", FEATURE, T0 + 9] = 60
    fleet.clock.at_ms += SHOWN
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 60, 120, 0)], 1)
    assert ONLY_THERE in str(found.differing[0].note)
    assert everything(fleet) == before
    clean(fleet)


@pytest.mark.parametrize("with_balance", [True, False])
def test_push_billed_by_hand_does_not_hide_equal_loss(engine: sa.Engine, with_balance: bool) -> None:
    """The person's own event, and a push that the service lost on that day, come to the same total."""
    by_hand = KEY.replace(str(T0), str(T0 + WINDOW_MS))
    provider = FakeProvider(capabilities(**TOTALS, drawn=with_balance))
    provider.answers[by_hand] = Rejected("no")
    fleet, provider = billed(engine, 60, provider=provider)
    write(engine, lambda c: pushes.resolve_accepted(c, [by_hand], fleet.by, "charged in their console"))
    provider.over["acme", FEATURE, T0 + WINDOW_MS + 5] = 60
    drawn(provider, 120)
    fleet.clock.at_ms += SHOWN
    assert compare(fleet, correct=True).exit_status == 0
    del provider.charged[KEY]
    drawn(provider, 60)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 120, 60, 60)], 75)
    settle(fleet)
    drawn(provider, 120)
    assert charged(provider) == 120
    assert compare(fleet, correct=True).exit_status == 0
    clean(fleet)


def test_lost_push_smaller_than_push_billed_by_hand_is_voided(engine: sa.Engine) -> None:
    """Events show the 60 billed by hand, and lack a push of 20. Without the 60, this looks like an excess."""
    by_hand = KEY.replace(str(T0), str(T0 + WINDOW_MS))
    provider = FakeProvider(capabilities(**TOTALS))
    provider.answers[by_hand] = Rejected("no")
    fleet, provider = billed(engine, 60, 20, provider=provider)
    write(engine, lambda c: pushes.resolve_accepted(c, [by_hand], fleet.by, "charged in their console"))
    provider.over["acme", FEATURE, T0 + WINDOW_MS + 5] = 60
    fleet.clock.at_ms += SHOWN
    del provider.charged[KEY.replace(str(T0), str(T0 + 2 * WINDOW_MS))]
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 140, 120, 20)], 75)
    assert fleet.rows("SELECT ours_qty, theirs_qty, verdict FROM reconciliations") == [(140, 120, "short")]
    settle(fleet)
    assert charged(provider) == 140
    assert compare(fleet, correct=True).exit_status == 0
    clean(fleet)


def test_excess_smaller_than_push_billed_by_hand_is_given_back(engine: sa.Engine) -> None:
    """Events lack the 60 billed by hand, and each push of ours is found: the 20 more are an excess."""
    by_hand = KEY.replace(str(T0), str(T0 + WINDOW_MS))
    provider = FakeProvider(capabilities(**TOTALS))
    provider.answers[by_hand] = Rejected("no")
    fleet, provider = billed(engine, 60, provider=provider)
    write(engine, lambda c: pushes.resolve_accepted(c, [by_hand], fleet.by, "invoice item ii_1"))
    provider.over["acme", FEATURE, T0 + 5] = 20
    fleet.clock.at_ms += SHOWN
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 60, 80, 20)], 75)
    settle(fleet)
    assert charged(provider) == 60
    assert compare(fleet, correct=True).exit_status == 0
    clean(fleet)


@pytest.mark.parametrize(("shown", "voided"), [(60, 0), (30, 1), (70, 1)])
def test_uncertain_amount_between_bounds_does_not_void_push(engine: sa.Engine, shown: int, voided: int) -> None:
    """A push of 60 has no event, one of 30 has, and 40 billed by hand may be in the balance.

    If the balance shows 60, its distance from the push of 30 has the bounds -10 and 30, which include 0. But no choice
    leaves exactly 0: the push of 60 was drawn, and the push of 30 was not. If it shows 30 or 70, one choice does.
    """
    by_hand = KEY.replace(str(T0), str(T0 + WINDOW_MS))
    provider = FakeProvider(capabilities(**TOTALS, drawn=True))
    provider.answers[by_hand] = Rejected("no")
    fleet, provider = billed(engine, 40, 30, provider=provider)
    write(engine, lambda c: pushes.resolve_accepted(c, [by_hand], fleet.by, "invoice item ii_1"))
    del provider.charged[KEY]
    drawn(provider, shown)
    fleet.clock.at_ms += SHOWN
    compare(fleet, correct=True)
    assert fleet.one("SELECT COUNT(*) FROM voids") == voided
    clean(fleet)


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("credited", [0, 60])
def test_credit_by_hand_does_not_hide_balance_shortfall(engine: sa.Engine, credited: int, marked: bool) -> None:
    """The credit is in the balance or beside it, all of it: neither explains a difference of another amount."""
    fleet, provider = sent_twice(engine)
    drawn(provider, 67 - 500 * marked)
    assert compare(fleet, correct=True).exit_status == (1 if marked else 0)
    credit_by_hand(fleet, provider, "the balance is already as high as it was granted")
    fleet.clock.at_ms += SHOWN
    drawn(provider, 67 - 500 * marked - credited - 7)
    found = compare(fleet, correct=True)
    assert ([one.theirs - one.ours for one in found.differing], found.exit_status) == ([-7], 1)
    assert "Reported once" in str(found.differing[0].note)
    assert compare(fleet, correct=True).exit_status == 0
    clean(fleet)


def test_short_day_beside_invoice_by_hand_is_corrected(engine: sa.Engine) -> None:
    """The person billed on an invoice, so no event shows that; the provider lost what it had."""
    by_hand = KEY.replace(str(T0), str(T0 + WINDOW_MS))
    provider = FakeProvider(capabilities(**TOTALS))
    provider.answers[by_hand] = Rejected("no")
    fleet, provider = billed(engine, 60, provider=provider)
    write(engine, lambda c: pushes.resolve_accepted(c, [by_hand], fleet.by, "invoice item ii_1"))
    fleet.clock.at_ms += SHOWN
    del provider.charged[KEY]
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 60, 0, 60)], 75)
    clean(fleet)


def test_balance_after_push_voided_by_hand_is_reported_and_not_corrected(engine: sa.Engine) -> None:
    """Autumn gives back no more than was drawn, here with no event. The balance is not taken for exact after that."""
    fleet, provider = billed(engine, 40, 100, drawn=True, key_retention_ms=DAY_MS, duplicate_proves_delivery=False)
    short, back = (f"usage:acme:{T0 + n * WINDOW_MS}:{FEATURE}" for n in (1, 2))
    provider.answers[f"{back}:r1"] = Unknown("cut")
    write(engine, lambda c: withdrawals.withdraw(c, ["s3"], fleet.by))
    drawn(provider, 200 - 60)
    fleet.tick_windows(1)
    for _ in range(4):
        fleet.clock.at_ms += DAY_MS
        fleet.tick_windows(1)
    assert fleet.rows("SELECT state FROM pushes WHERE key = :key", key=f"{back}:r1") == [("in_doubt",)]
    write(engine, lambda c: pushes.void(c, [f"{back}:r1"], fleet.by, evidence="their console"))
    settle(fleet)
    assert provider.seen[-1].key == f"{back}:r2"
    del provider.charged[KEY], provider.charged[short]
    drawn(provider, 140 - 100 - 40)  # one left no event, the other is lost
    before = states(fleet)
    assert before == [(0, 60, 60, "accepted")]
    found = compare(fleet, correct=True)
    assert (told(found), states(fleet)) == ([("short", 100, 0, 0)], before)
    clean(fleet)


def test_credit_system_shortfall_beside_open_days_is_reported(engine: sa.Engine) -> None:
    """No event shows 60 s, and the balance lacks less than they cost."""
    fleet, provider = billed(engine, 30, drawn=True)
    tell_cost(fleet, "fake", FEATURE, 7)
    del provider.charged[KEY]
    provider.drawn_says = {"acme": {"credits": Drawn(Decimal("0.00053"), None)}}
    for _ in range(2):
        found = compare(fleet, correct=True)
        assert (told(found), found.exit_status) == ([("short", 90, 30, 0), ("short", 630, 530, 0)], 1)
        assert [one.standing for one in found.differing] == [False, True]
        assert "those without an event" in str(found.differing[1].note)
    assert fleet.rows("SELECT * FROM balance_marks") == [], "what their console shows is not known yet"
    assert told(compare(fleet)) == [("short", 90, 30, 0)], "what is proven of events is not told twice"
    provider.drawn_says = {"acme": {"credits": Drawn(Decimal("0.00063"), None)}}
    found = compare(fleet, correct=True)  # a person charged it by hand
    assert (found.covered, found.exit_status) == (1, 0)
    clean(fleet)


def test_adopted_push_counts_from_first_attempt_of_original(engine: sa.Engine) -> None:
    """A cycle began after its window, and before it was sent: the balance tells of it for sure, at the first look."""
    provider = FakeProvider(capabilities(**{**TOTALS, "drawn": True, "duplicate_proves_delivery": False}))
    provider.answers[KEY] = Unknown("a limit over there left 15 of it")
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake")
    fleet.sample("acme", T0 + 1, 60)
    fleet.tick(T0 + 4 * WINDOW_MS)
    provider.charged[KEY] = PushRequest(KEY, "acme", FEATURE, 45, T0, 1)
    fleet.clock.at_ms += SHOWN
    for _ in range(3):
        settle(fleet)
        provider.answers.clear()
    assert states(fleet) == [(0, 60, 60, "voided"), (1, 45, 45, "accepted"), (2, 15, 15, "accepted")]
    first_ms = int(str(fleet.one("SELECT MIN(first_attempt_ms) FROM pushes")))
    drawn(provider, 60 - 50, since_ms=first_ms - CLOCKS_APART_MS)
    assert told(compare(fleet, correct=True)) == [("short", 60, 10, 0)]


def test_shortfall_with_many_decided_pushes_is_reported(engine: sa.Engine) -> None:
    """More pushes than can be tried one by one, each charged as the person found it: some of them come to any loss."""
    fleet, provider = billed(engine, drawn=True)
    drawn(provider, 60)
    fleet.clock.at_ms += SHOWN
    assert compare(fleet, correct=True).exit_status == 0
    keys = []
    for number in range(MOST_UNSURE + 2):
        window = T0 + (20 + number) * WINDOW_MS
        keys.append(KEY.replace(str(T0), str(window)))
        fleet.sample("acme", window + 1, 1 + number)
        provider.answers[keys[-1]] = Rejected("no")
    fleet.tick(T0 + (30 + len(keys)) * WINDOW_MS)
    write(engine, lambda c: pushes.resolve_accepted(c, keys, fleet.by, "the console shows it"))
    used = sum(1 + number for number in range(len(keys)))
    for number in range(len(keys)):
        provider.over["acme", FEATURE, T0 + (20 + number) * WINDOW_MS + 5] = 1 + number
    fleet.clock.at_ms += SHOWN
    drawn(provider, 60 + used)
    assert compare(fleet).differing == []
    drawn(provider, 60 + used - 17)
    found = compare(fleet, correct=True)
    assert [(one.verdict, one.theirs - one.ours, one.unsure) for one in found.differing] == [("short", -17, used)]
    clean(fleet)
