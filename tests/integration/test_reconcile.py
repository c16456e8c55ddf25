"""What we call accepted beside what a provider says: compared, corrected where it is proven, said where it is not."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import (
    CannotTell,
    Drawn,
    Found,
    PushRefused,
    Queued,
    ReadFailed,
    Rejected,
    RetryAt,
    Unknown,
)
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import connect, read, write
from drawdown.schema.errors import Refused
from drawdown.schema.migrate import upgrade
from drawdown.schema.units import DAY_MS, MINUTE_MS, SECOND_MS, WINDOW_MS
from drawdown.worker.commands import pushes, withdrawals
from drawdown.worker.commands.assignments import assign
from drawdown.worker.commands.prune import prune
from drawdown.worker.commands.pushes import resolve_accepted
from drawdown.worker.engine import runner
from drawdown.worker.engine.waiting import CLOCKS_APART_MS
from drawdown.worker.push.balances import acknowledge
from drawdown.worker.push.balances import told as told_balances
from drawdown.worker.push.notices import apply_notices
from drawdown.worker.reconcile.reconcile import Reconciled, ReconcileScope, reconcile
from drawdown.worker.reconcile.short import BY_HAND
from drawdown.worker.verify.verify import verify
from tests.acceptance.commands import drawdown, one_clear_line
from tests.emulators.autumn import AutumnEmulator
from tests.emulators.serve import autumn_lines, serving_in_thread
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.test_interleavings import wait_until_blocked
from tests.interleave.walk import Walk
from tests.world import T0, Fleet

FEATURE = "compute_1gb"
KEY = f"usage:acme:{T0}:{FEATURE}"
LAG = MINUTE_MS
SHOWN = LAG + CLOCKS_APART_MS
"""After so long, whatever was settled is to be seen."""
TOTALS: dict[str, object] = {"lookup_lag_ms": LAG, "totals_lag_ms": LAG, "applied_within_ms": LAG}


def billed(engine: sa.Engine, *more: int, provider: FakeProvider | None = None, **changes: object) -> Any:
    """A minute used in the first window, and `more` seconds in each of the next: billed at a provider with totals, and
    its lag is over. Returns (fleet, provider)."""
    made = provider or FakeProvider(capabilities(**{**TOTALS, **changes}))
    fleet = Fleet(engine, extra={"fake": made})
    fleet.assign("acme", provider="fake")
    for number, seconds in enumerate((60, *more)):
        fleet.sample("acme", T0 + number * WINDOW_MS + 1, seconds)
    fleet.tick(T0 + (len(more) + 3) * WINDOW_MS)
    fleet.clock.at_ms += SHOWN
    return fleet, made


def compare(fleet: Fleet, **scope: Any) -> Reconciled:
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    given = {"provider": "fake", **scope}
    return runner.run(reconcile(fleet.context(), ReconcileScope(**given), fleet.said), world)


def states(fleet: Fleet) -> list[tuple[object, ...]]:
    return fleet.rows(
        "SELECT revision, sealed_qty, sent_qty, state FROM pushes WHERE window_ms = :t ORDER BY revision", t=T0
    )


def told(found: Reconciled) -> list[tuple[object, ...]]:
    return [(one.verdict, one.ours, one.theirs, one.corrected) for one in found.differing]


def everything(fleet: Fleet) -> list[Any]:
    """What a run may change, but for the comparison it keeps."""
    tables = ("pushes", "voids", "adoptions", "dirty_windows", "operator_actions", "carries")
    return [sorted(map(repr, fleet.rows(f"SELECT * FROM {table}"))) for table in tables]


def settle(fleet: Fleet) -> None:
    """A tick, and the provider's lag goes by."""
    fleet.tick_windows(1)
    fleet.clock.at_ms += SHOWN


def clean(fleet: Fleet) -> None:
    assert read(fleet.engine, verify).breaches == []


def charged(provider: FakeProvider) -> int:
    return sum(one.quantity for one in provider.charged.values()) + sum(provider.over.values())


def test_equal_says_nothing_and_is_kept(engine: sa.Engine) -> None:
    fleet, _ = billed(engine, 30)
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (found.compared, found.differing, found.exit_status) == (1, [], 0)
    assert everything(fleet) == before
    kept = fleet.rows("SELECT day_ms, org_id, provider, feature, ours_qty, theirs_qty, verdict FROM reconciliations")
    assert kept == [(T0, "acme", "fake", FEATURE, 90, 90, "equal")]


def test_comparing_alone_changes_nothing_and_asks_for_a_person(engine: sa.Engine) -> None:
    fleet, provider = billed(engine)
    del provider.charged[KEY]
    before = everything(fleet)
    found = compare(fleet)
    # Without --correct a shortfall is looked into by nobody: it is said, and all stays as it is.
    assert (told(found), found.exit_status) == ([("short", 60, 0, 0)], 1)
    assert everything(fleet) == before


def test_what_is_missing_is_voided_and_sealed_anew(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, 30)
    del provider.charged[KEY]
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 90, 30, 60)], 75)
    assert found.differing[0].note is None
    assert fleet.rows("SELECT evidence_kind, actor FROM voids") == [("absent", "test")]
    before = everything(fleet)
    assert compare(fleet, correct=True).exit_status == 0, "a second run finds nothing more to do"
    assert everything(fleet) == before
    settle(fleet)
    assert states(fleet) == [(0, 60, 60, "voided"), (1, 60, 60, "accepted")]
    assert charged(provider) == 90
    assert compare(fleet, correct=True).exit_status == 0
    clean(fleet)


def test_what_is_there_at_another_quantity_is_adopted(engine: sa.Engine) -> None:
    fleet, provider = billed(engine)
    provider.charged[KEY] = replace(provider.charged[KEY], quantity=50)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 60, 50, 10)], 75)
    settle(fleet)
    assert states(fleet) == [(0, 60, 60, "voided"), (1, 50, 50, "accepted"), (2, 10, 10, "accepted")]
    assert charged(provider) == 60
    assert compare(fleet, correct=True).exit_status == 0
    clean(fleet)


def test_what_is_on_record_there_and_charged_nothing_is_voided(engine: sa.Engine) -> None:
    """Seen with Autumn emulated: a killed worker's send had left an event that charged nothing, under the same key."""
    fleet, provider = billed(engine)
    provider.charged[KEY] = replace(provider.charged[KEY], quantity=0)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 60, 0, 60)], 75)
    clean(fleet)
    settle(fleet)
    assert states(fleet) == [(0, 60, 60, "voided"), (1, 60, 60, "accepted")]
    assert compare(fleet, correct=True).exit_status == 0
    clean(fleet)


def on_record_as_nothing(engine: sa.Engine, *, back: bool) -> tuple[Fleet, FakeProvider, str]:
    """A push, or one that gives back, whose first send had no answer, and whose second one was accepted, while the
    one event of its key says that nothing was charged: a key store that fails open lets the second one charge."""
    fleet, provider = billed(engine, 30)
    key = KEY
    if back:
        write(engine, lambda c: withdrawals.withdraw(c, ["s1"], fleet.said))
        key = f"{KEY}:r1"
    else:
        key = f"usage:acme:{T0 + 4 * WINDOW_MS}:{FEATURE}"
        fleet.sample("acme", T0 + 4 * WINDOW_MS + 1, 7)
    provider.answers[key] = Unknown("no answer")
    fleet.tick_windows(2)
    del provider.answers[key]
    fleet.tick_windows(1)
    fleet.clock.at_ms += SHOWN
    provider.charged[key] = replace(provider.charged[key], quantity=0)
    return fleet, provider, key


@pytest.mark.parametrize("back", [False, True])
def test_what_only_the_balance_can_tell_is_left_to_a_person(engine: sa.Engine, back: bool) -> None:
    """Voided, and sealed anew, it would be billed twice; given back, it would be given back twice."""
    fleet, _, key = on_record_as_nothing(engine, back=back)
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 30, 90, 0) if back else ("short", 97, 90, 0)], 1)
    assert "balance" in str(found.differing[0].note) and (back or key in str(found.differing[0].note))
    assert everything(fleet) == before
    clean(fleet)


@pytest.mark.parametrize("event", [False, True])
def test_what_a_person_billed_by_hand_is_left_alone_though_it_was_sent_once(engine: sa.Engine, event: bool) -> None:
    """An item of an invoice beside the meters, or an event over there: both are right, and neither is voided."""
    provider = FakeProvider(capabilities(**TOTALS))
    provider.answers[KEY] = Rejected("dated more than 35 days back")
    fleet, _ = billed(engine, provider=provider)
    assert fleet.one("SELECT attempts FROM pushes") == 1
    write(engine, lambda c: pushes.resolve_accepted(c, [KEY], fleet.said, "invoice item ii_1"))
    if event:
        provider.over["acme", FEATURE, T0 + 1] = 60
    fleet.clock.at_ms += SHOWN
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([], 0)
    assert fleet.rows("SELECT state, by_hand FROM pushes") == [("accepted", True)]


def test_what_a_person_charged_by_hand_is_never_given_back(engine: sa.Engine) -> None:
    """Too old to be sent, put into an invoice by hand, and resolved so: what is over in its window may be that."""
    provider = FakeProvider(capabilities(**TOTALS, max_quantity=59))
    fleet, _ = billed(engine, provider=provider)
    said = "invoice item ii_1"
    write(engine, lambda c: pushes.resolve_accepted(c, [KEY], fleet.said, said))
    fleet.clock.at_ms += SHOWN
    provider.over["acme", FEATURE, T0 + 1] = 100
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 60, 100, 0)], 1)
    assert found.differing[0].note is not None
    assert everything(fleet) == before


@pytest.mark.parametrize("said", [Found(60), CannotTell("shared minute"), ReadFailed("503")])
def test_a_shortfall_that_no_push_explains_is_a_note(engine: sa.Engine, said: Found | CannotTell | ReadFailed) -> None:
    fleet, provider = billed(engine)
    del provider.charged[KEY]
    provider.lookups[KEY] = said
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 60, 0, 0)], 1)
    why = "no push of that day is" if isinstance(said, Found) else "1 pushes of that day could not be looked up"
    then = f" ({KEY}: shared minute): {BY_HAND}" if isinstance(said, CannotTell) else ""
    assert found.differing[0].note == f"60 more are missing, and {why}{then}"
    assert everything(fleet) == before
    clean(fleet)


def test_a_correction_that_counted_twice_is_said_with_what_a_person_does(engine: sa.Engine) -> None:
    """Where a minute's sum is all there is, another figure than was sent tells of no push."""
    fleet, provider = billed(engine, 30)
    write(engine, lambda c: withdrawals.withdraw(c, ["s1"], fleet.said))
    settle(fleet)
    key = f"{KEY}:r1"
    provider.charged[key] = replace(provider.charged[key], quantity=-120)
    provider.lookups[key] = CannotTell("another figure than was sent: -120, not -60")
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 30, -30, 0)], 1)
    note = str(found.differing[0].note)
    assert f"({key}: another figure than was sent: -120, not -60)" in note
    assert "`push void KEY --although-accepted` what they lost, and charge on an invoice what they gave back" in note
    assert everything(fleet) == before


def test_a_shortfall_where_nothing_can_be_looked_up_is_a_note(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, lookup_lag_ms=None)
    del provider.charged[KEY]
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 60, 0, 0)], 1)
    assert "cannot be looked up there" in str(found.differing[0].note)
    assert "push void" in str(found.differing[0].note)
    assert everything(fleet) == before


def test_what_is_too_much_in_one_window_is_adopted_and_given_back(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, 30)
    provider.over["acme", FEATURE, T0 + WINDOW_MS - 1] = 40
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 90, 130, 40)], 75)
    assert states(fleet) == [(0, 60, 60, "accepted"), (1, 40, 40, "accepted")]
    assert fleet.rows("SELECT kind, revision, window_ms FROM adoptions") == [("excess", 1, T0)]
    before = everything(fleet)
    assert compare(fleet, correct=True).exit_status == 0, "adopted once"
    assert everything(fleet) == before
    settle(fleet)
    assert states(fleet)[2:] == [(2, -40, -40, "accepted")]
    assert charged(provider) == 90
    assert compare(fleet, correct=True).exit_status == 0
    clean(fleet)


def test_where_negatives_are_not_taken_what_was_too_much_is_carried(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, negatives=False)
    provider.over["acme", FEATURE, T0] = 40
    assert compare(fleet, correct=True).exit_status == 75
    settle(fleet)
    assert states(fleet)[2:] == [(2, -40, 0, "carried")]
    assert fleet.one("SELECT carry_qty FROM carries") == -40
    assert compare(fleet, correct=True).exit_status == 0
    fleet.sample("acme", fleet.clock.at_ms, 100)
    fleet.tick_windows(2)
    assert fleet.one("SELECT carry_qty FROM carries") == 0
    assert charged(provider) == 160, "what was charged too much pays for what came next"
    clean(fleet)


def test_what_is_too_much_outside_our_windows_is_somebody_elses(engine: sa.Engine) -> None:
    fleet, provider = billed(engine)
    provider.over["acme", FEATURE, T0 + 7 * WINDOW_MS] = 40
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 60, 100, 0)], 1)
    assert found.differing[0].note == "40 lie in no window of ours: somebody else charges this customer"
    assert everything(fleet) == before


def test_partly_in_our_windows_only_that_part_is_adopted(engine: sa.Engine) -> None:
    fleet, provider = billed(engine)
    provider.over["acme", FEATURE, T0 + 2] = 25
    provider.over["acme", FEATURE, T0 + 7 * WINDOW_MS] = 40
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 60, 125, 25)], 1)
    assert "40 lie in no window of ours" in str(found.differing[0].note)
    settle(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 60, 100, 0)], 1), "the foreign part stays and is said again"
    assert charged(provider) - 40 == 60
    clean(fleet)


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


def drawn(provider: FakeProvider, quantity: int, since_ms: int | None = None) -> None:
    provider.drawn_says = {"acme": {FEATURE: Drawn(quantity, since_ms), "of_others": Drawn(9, None)}}


def test_what_was_drawn_twice_is_given_back_once(engine: sa.Engine) -> None:
    fleet, provider = sent_twice(engine)
    drawn(provider, 67 + 60)
    before = everything(fleet)
    found = compare(fleet)
    assert (told(found), found.exit_status) == ([("over", 67, 127, 0)], 1)
    assert "--correct gives it back" in str(found.differing[0].note)
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


@pytest.mark.parametrize("more", [0, 500])
def test_what_left_no_event_and_was_drawn_stands(engine: sa.Engine, more: int) -> None:
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


def test_what_left_no_event_and_was_not_drawn_is_voided(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, drawn=True)
    provider.charged.clear()
    drawn(provider, 0)
    assert told(compare(fleet, correct=True)) == [("short", 60, 0, 60)]
    assert "the customer's balance agrees" in str(fleet.one("SELECT evidence FROM voids"))
    settle(fleet)
    assert states(fleet) == [(0, 60, 60, "voided"), (1, 60, 60, "accepted")]
    drawn(provider, 60)
    assert compare(fleet, correct=True).exit_status == 0
    clean(fleet)


def given_back_unseen(engine: sa.Engine) -> Any:
    """A minute was charged, withdrawn and given back, and no event shows that it was given back: (fleet, provider)."""
    fleet, provider = billed(engine, 30, drawn=True)
    write(engine, lambda c: withdrawals.withdraw(c, ["s1"], fleet.said))
    settle(fleet)
    assert states(fleet) == [(0, 60, 60, "accepted"), (1, -60, -60, "accepted")]
    del provider.charged[f"{KEY}:r1"]
    return fleet, provider


def test_what_was_given_back_without_an_event_is_not_given_back_again(engine: sa.Engine) -> None:
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


def test_what_was_never_given_back_is_given_back_anew(engine: sa.Engine) -> None:
    fleet, provider = given_back_unseen(engine)
    drawn(provider, 90)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 30, 90, 60)], 75)
    settle(fleet)
    assert states(fleet)[1:] == [(1, -60, -60, "voided"), (2, -60, -60, "accepted")]
    drawn(provider, 30)
    assert compare(fleet, correct=True).exit_status == 0
    clean(fleet)


def test_where_the_balance_does_not_tell_whether_it_was_given_back_a_person_does(engine: sa.Engine) -> None:
    fleet, provider = given_back_unseen(engine)
    drawn(provider, 55)
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 30, 90, 0)], 1)
    assert "balance tells: compare" in str(found.differing[0].note)
    assert everything(fleet) == before


def test_of_several_without_an_event_those_stand_that_were_drawn(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, 30, 7, drawn=True)
    provider.charged.clear()
    drawn(provider, 67)
    assert told(compare(fleet, correct=True)) == [("short", 97, 0, 97)]
    settle(fleet)
    kept = fleet.rows("SELECT sent_qty, state FROM pushes ORDER BY window_ms, revision")
    assert kept == [(60, "accepted"), (30, "voided"), (30, "accepted"), (7, "accepted")]
    clean(fleet)


@pytest.mark.parametrize("quantity", [59, 20, -40])
def test_where_the_balance_does_not_tell_nothing_is_voided(engine: sa.Engine, quantity: int) -> None:
    """Somebody topped it up by `add_to_balance`, which looks like giving back."""
    fleet, provider = billed(engine, drawn=True)
    provider.charged.clear()
    drawn(provider, quantity)
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 60, 0, 0)], 1)
    assert "does not tell" in str(found.differing[0].note)
    assert everything(fleet) == before


@pytest.mark.parametrize("gone", ["unread", "no such balance", "parts of other cycles"])
def test_without_a_balance_to_ask_nothing_is_voided(engine: sa.Engine, gone: str) -> None:
    provider = (DrawnFails if gone == "unread" else FakeProvider)(capabilities(**TOTALS, drawn=True))
    fleet, _ = billed(engine, provider=provider)
    provider.charged.clear()
    if gone == "parts of other cycles":
        provider.drawn_says = {"acme": {FEATURE: Drawn(0, None, whole=False)}}
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert told(found) == [("short", 60, 0, 0)]
    assert everything(fleet) == before


def test_a_top_up_is_told_once_and_the_next_loss_is_seen_all_the_same(engine: sa.Engine) -> None:
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


def test_what_is_drawn_twice_is_given_back_beside_a_top_up_that_was_told(engine: sa.Engine) -> None:
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
def test_what_was_credited_by_hand_is_not_taken_for_drawn_twice(engine: sa.Engine, credited: int) -> None:
    """On an invoice, beside the balance, or on it; and from the next comparison on a second drawing shows again."""
    fleet, provider = sent_twice(engine)
    drawn(provider, 67 - 500)
    assert compare(fleet, correct=True).exit_status == 1, "a top-up, told once: from here on it is compared"
    again = f"{KEY}:r1"
    provider.answers[again] = Rejected("the balance is as full as it was granted")
    write(engine, lambda c: withdrawals.withdraw(c, ["s1"], fleet.said))
    settle(fleet)
    write(engine, lambda c: pushes.resolve_accepted(c, [again], fleet.said, "credited"))
    drawn(provider, 67 - 500 - credited)
    for _ in range(2):
        found = compare(fleet, correct=True)
        assert (told(found), found.exit_status) == ([], 0)
        fleet.clock.at_ms += SHOWN
    drawn(provider, 67 - 500 - credited + 60)
    assert told(compare(fleet, correct=True)) == [("over", 7, 67, 60)]


def test_parts_of_other_cycles_are_compared_from_the_first_look_on(engine: sa.Engine) -> None:
    """A one-off top-up beside a monthly plan: what had been drawn from it before the month cannot be told."""
    fleet, provider = sent_twice(engine)
    provider.drawn_says = {"acme": {FEATURE: Drawn(1_000, T0 - DAY_MS, whole=False)}}
    assert compare(fleet, correct=True).exit_status == 0
    provider.drawn_says = {"acme": {FEATURE: Drawn(1_060, T0 - DAY_MS, whole=False)}}
    assert [one.corrected for one in compare(fleet, correct=True).differing] == [60]


def test_a_new_cycle_forgets_what_was_told_of_the_one_before(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, drawn=True)
    drawn(provider, 10)
    assert compare(fleet, correct=True).exit_status == 1
    drawn(provider, 0, since_ms=fleet.clock.at_ms)
    assert compare(fleet, correct=True).exit_status == 0


def test_what_was_sent_as_a_cycle_began_is_of_either(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, drawn=True)
    begun = int(str(fleet.one("SELECT first_attempt_ms FROM pushes")))
    for quantity in (0, 60):
        drawn(provider, quantity, since_ms=begun - 1_000)
        assert compare(fleet, correct=True).exit_status == 0
        fleet.write("DELETE FROM balance_marks")


def test_what_was_drawn_in_a_cycle_before_is_not_asked_for_again(engine: sa.Engine) -> None:
    fleet, provider = sent_twice(engine)
    drawn(provider, 0, since_ms=fleet.clock.at_ms)
    assert compare(fleet, correct=True).exit_status == 0
    drawn(provider, 67 + 60, since_ms=T0)
    assert told(compare(fleet, correct=True)) == [("over", 67, 127, 60)]


@pytest.mark.parametrize("quantity", [67 + 59, 67 + 61, 10**6])
def test_what_was_drawn_by_others_is_a_note(engine: sa.Engine, quantity: int) -> None:
    fleet, provider = sent_twice(engine)
    drawn(provider, quantity)
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 67, quantity, 0)], 1)
    assert "somebody else uses it too" in str(found.differing[0].note)
    assert everything(fleet) == before


def test_less_drawn_than_pushed_is_told_a_person_once_with_the_amount(engine: sa.Engine) -> None:
    """Their store was lost before it was written: what was drawn is given back, and the events stay."""
    fleet, provider = sent_twice(engine)
    drawn(provider, 5)
    assert told(compare(fleet)) == told(compare(fleet)) == [("short", 67, 5, 0)], "comparing alone remembers nothing"
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 67, 5, 0)], 1)
    assert (compare(fleet).exit_status, compare(fleet, correct=True).exit_status) == (0, 0)


def test_sent_once_a_push_is_not_taken_for_one_that_was_drawn_twice(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, drawn=True)
    drawn(provider, 120)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 60, 120, 0)], 1)


def test_attempts_that_never_arrived_draw_on_nothing(engine: sa.Engine) -> None:
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


def test_a_balance_is_believed_only_once_all_events_were_read(engine: sa.Engine) -> None:
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


def test_before_the_providers_lag_is_over_nothing_is_compared(engine: sa.Engine) -> None:
    fleet, provider = billed(engine)
    provider.charged.clear()
    fleet.clock.at_ms -= 1
    found = compare(fleet, correct=True)
    assert (found.compared, found.waiting, found.exit_status) == (0, 1, 0)
    fleet.clock.at_ms += 1
    assert compare(fleet).compared == 1


@pytest.mark.parametrize("answer", [Unknown("cut"), RetryAt(T0 + DAY_MS, "later")])
def test_a_day_with_something_unsettled_waits(engine: sa.Engine, answer: Unknown | RetryAt) -> None:
    provider = FakeProvider(capabilities(**{**TOTALS, "duplicate_proves_delivery": False}))
    provider.answers[KEY] = answer
    fleet, _ = billed(engine, 30, provider=provider)
    provider.charged.clear()
    found = compare(fleet, correct=True)
    assert (found.compared, found.waiting, found.exit_status) == (0, 1, 0)
    assert states(fleet)[0][3] != "voided"


def test_of_a_day_that_goes_on_what_is_old_enough_is_compared(engine: sa.Engine) -> None:
    """Whoever uses something at every moment would else never be compared before midnight."""
    provider = FakeProvider(capabilities(**{**TOTALS, "duplicate_proves_delivery": False}))
    fresh = f"usage:acme:{T0 + WINDOW_MS}:{FEATURE}"
    provider.answers[fresh] = Unknown("cut")
    fleet, _ = billed(engine, 30, provider=provider)
    provider.charged.clear()
    found = compare(fleet, correct=True)
    assert (told(found), found.waiting) == ([("short", 60, 0, 60)], 0)
    assert fleet.rows("SELECT key, state FROM pushes ORDER BY key") == [(KEY, "voided"), (fresh, "queued")]


def test_what_is_rejected_is_not_ours_and_holds_nothing_up(engine: sa.Engine) -> None:
    provider = FakeProvider(capabilities(**TOTALS))
    provider.answers[f"usage:acme:{T0 + WINDOW_MS}:{FEATURE}"] = Rejected("no")
    fleet, _ = billed(engine, 30, provider=provider)
    found = compare(fleet, correct=True)
    assert (found.compared, found.waiting, found.exit_status) == (1, 0, 0)


def test_totals_that_cannot_be_read_are_left_for_the_next_run(engine: sa.Engine) -> None:
    fleet, provider = billed(engine)
    provider.totals_fail = True
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (found.compared, found.unread, found.differing, found.exit_status) == (0, 1, [], 75)
    assert everything(fleet) == before and fleet.rows("SELECT * FROM reconciliations") == []


class FailsByWindow(FakeProvider):
    """Tells a day's totals, and not a window's."""

    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> Mapping[str, int] | ReadFailed:
        if to_ms - from_ms < DAY_MS:
            return ReadFailed("503")
        return await super().totals(customer_id, from_ms, to_ms)


class DrawnFails(FakeProvider):
    async def drawn(self, customer_id: str) -> Any:
        return ReadFailed("503")


class Raises(FakeProvider):
    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> Mapping[str, int]:
        raise RuntimeError("a bug of theirs")


def test_windows_that_cannot_be_read_are_a_note_and_change_nothing(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, provider=FailsByWindow(capabilities(**TOTALS)))
    provider.over["acme", FEATURE, T0] = 40
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 60, 100, 0)], 1)
    assert found.differing[0].note == "could not be read by window: 503"
    assert everything(fleet) == before


def test_balances_that_cannot_be_read_are_left_for_the_next_run(engine: sa.Engine) -> None:
    fleet, _ = billed(engine, provider=DrawnFails(capabilities(**TOTALS, drawn=True)))
    found = compare(fleet, correct=True)
    assert (found.compared, found.unread, found.exit_status) == (1, 1, 75)


def test_a_provider_that_breaks_its_contract_has_told_nothing(engine: sa.Engine) -> None:
    fleet, _ = billed(engine, provider=Raises(capabilities(**TOTALS)))
    found = compare(fleet, correct=True)
    assert (found.compared, found.unread, found.exit_status) == (0, 1, 75)


@pytest.mark.parametrize(("theirs", "threshold", "is_told"), [(57, 0.05, False), (57, 0.049, True), (60, 0.0, False)])
def test_below_the_threshold_a_difference_is_kept_and_not_told(
    engine: sa.Engine, theirs: int, threshold: float, is_told: bool
) -> None:
    fleet, provider = billed(engine)
    provider.charged[KEY] = replace(provider.charged[KEY], quantity=theirs)
    found = compare(fleet, threshold=threshold)
    assert (bool(found.differing), found.exit_status) == (is_told, 1 if is_told else 0)
    verdict = "equal" if theirs == 60 else "short"
    assert fleet.rows("SELECT ours_qty, theirs_qty, verdict FROM reconciliations") == [(60, theirs, verdict)]


@pytest.mark.parametrize(("theirs", "is_told"), [(69, False), (70, True), (51, False), (50, True)])
def test_in_shadow_both_are_compared_and_nothing_is_ever_corrected(
    engine: sa.Engine, theirs: int, is_told: bool
) -> None:
    """Another system bills there meanwhile: its figures may differ by a share, and are its own."""
    fleet, provider = billed(engine, live_from_ms=T0 + DAY_MS)
    provider.over["acme", FEATURE, T0 + 1] = theirs
    before = everything(fleet)
    found = compare(fleet, correct=True)
    expected = [("shadow", 60, theirs, 0)] if is_told else []
    assert (told(found), found.exit_status) == (expected, 1 if is_told else 0)
    assert everything(fleet) == before and provider.seen == []
    assert fleet.one("SELECT verdict FROM reconciliations") == "shadow"


def test_only_what_is_asked_for_is_compared(engine: sa.Engine) -> None:
    provider = FakeProvider(capabilities(**TOTALS))
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", "bolt", provider="fake")
    for org in ("acme", "bolt"):
        for day in range(3):
            fleet.sample(org, T0 + day * DAY_MS + 1)
    fleet.tick(T0 + 3 * DAY_MS)
    fleet.clock.at_ms += SHOWN
    assert compare(fleet).compared == 6
    assert compare(fleet, org_id="bolt").compared == 3
    assert compare(fleet, from_ms=T0 + DAY_MS, to_ms=T0 + 2 * DAY_MS).compared == 2
    assert compare(fleet, provider="embedded").compared == 0
    fleet.clock.at_ms += 3 * DAY_MS
    assert compare(fleet, recent=True).compared == 0, "nothing was settled in the last two days"
    fleet.sample("bolt", T0 + 2, 5)
    settle(fleet)
    assert compare(fleet, recent=True).compared == 1, "a late revision makes its old day recent"


def test_who_cannot_be_compared_is_named(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, totals_lag_ms=None)
    assert compare(fleet).skipped == {"fake": "it has no totals"}
    provider.capabilities = capabilities(**TOTALS)
    world = runner.World(engine, fleet.providers, fleet.cells, fleet.clock)
    context = fleet.context(dormant=("fake",))
    assert runner.run(reconcile(context, ReconcileScope(), fleet.said), world).skipped["fake"] == "it has no key"


def test_of_several_days_and_organisations_each_is_mended_by_itself(engine: sa.Engine) -> None:
    provider = FakeProvider(capabilities(**TOTALS))
    fleet = Fleet(engine, extra={"fake": provider})
    orgs = [f"org-{number}" for number in range(12)]
    fleet.assign(*orgs, provider="fake")
    for org in orgs:
        for day in range(20):
            fleet.sample(org, T0 + day * DAY_MS + 1)
    fleet.tick(T0 + 20 * DAY_MS)
    fleet.clock.at_ms += SHOWN
    gone = [key for number, key in enumerate(sorted(provider.charged)) if number % 7 == 0]
    for key in gone:
        del provider.charged[key]
    provider.over["org-3", FEATURE, T0 + DAY_MS + 9] = 11
    found = compare(fleet, correct=True)
    assert found.compared == 240, "more than one chunk"
    assert (len(found.differing), found.exit_status) in ((len(gone) + 1, 75), (len(gone), 75))
    settle(fleet)
    compare(fleet, correct=True)
    settle(fleet)
    assert compare(fleet, correct=True).exit_status == 0
    assert charged(provider) == 240 * 60
    clean(fleet)


# The command line, over real sockets


def _served(tmp_path: Path) -> Any:
    url = f"sqlite:///{tmp_path}/drawdown.db"
    engine = connect(url)
    upgrade(engine)
    fleet = Fleet(engine)
    emulator = AutumnEmulator(lists_per_s=10**9)
    emulator.account.add_feature(FEATURE)
    emulator.account.add_customer("acme", T0)
    emulator.account.grant("acme", FEATURE, 10**6, T0)
    write(engine, lambda c: assign(c, ["acme"], "autumn", fleet.said))
    fleet.sample("acme", T0 + 1)
    engine.dispose()
    return url, emulator


def test_the_command_compares_corrects_and_says_so(tmp_path: Path) -> None:
    url, emulator = _served(tmp_path)
    clock = FixedClock(T0 + 3 * WINDOW_MS)
    with serving_in_thread(emulator, clock) as address:
        env = dict(line.split("=", 1) for line in autumn_lines(emulator, address))

        def run(*arguments: str) -> Any:
            return drawdown(url, "--json", *arguments, at=str(clock.at_ms), env=env)

        emulator.faults.rates = {"accepted_then_lost": 1.0}
        assert run("tick").json["tick"]["accepted"] == 1
        emulator.faults.rates = {}
        assert emulator.charged("acme", FEATURE, T0) == 0
        waits = run("reconcile")
        assert (waits.status, waits.json["reconcile"]["waiting"]) == (0, 1), "Autumn's lists lag"

        clock.at_ms += 4 * WINDOW_MS
        differs = run("reconcile", "--from", "2026-01-01", "--to", "2026-01-02")
        assert differs.status == differs.json["reconcile"]["exit_status"] == 1
        (line,) = differs.json["reconcile"]["differing"]
        assert (line["org_id"], line["ours"], line["theirs"], line["verdict"]) == ("acme", 60, 0, "short")
        for people in ("acme", "stripe: not compared: it has no key"):
            assert people in drawdown(url, "reconcile", at=str(clock.at_ms), env=env).out
        silent = run("reconcile", "--threshold", "100")
        assert (silent.status, silent.json["reconcile"]["differing"]) == (0, [])

        corrected = run("reconcile", "acme", "--provider", "autumn", "--correct", "--actor", "me", "--reason", "lost")
        assert (corrected.status, corrected.json["reconcile"]["differing"][0]["corrected"]) == (75, 60)
        clock.at_ms += WINDOW_MS
        assert run("tick").json["tick"]["accepted"] == 1
        clock.at_ms += 4 * WINDOW_MS
        for _ in range(2):
            again = run("reconcile", "--correct")
            assert (again.status, again.json["reconcile"]["compared"]) == (0, 1)
        assert emulator.charged("acme", FEATURE, T0) == 60
        assert run("verify").json["breaches"] == []

        emulator.balance_store, emulator.event_store = "down", "off"
        unread = run("reconcile")
        assert (unread.status, unread.json["reconcile"]["unread"]) == (75, 1), "events; a balance waits for them"


def test_a_tick_that_looks_up_goes_on_to_push_and_project(tmp_path: Path) -> None:
    """As a command, with its progress counted."""
    url, emulator = _served(tmp_path)
    clock = FixedClock(T0 + 3 * WINDOW_MS)
    with serving_in_thread(emulator, clock) as address:
        env = dict(line.split("=", 1) for line in autumn_lines(emulator, address))
        emulator.faults.rates = {"answer_lost": 1.0}
        assert drawdown(url, "--json", "tick", at=str(clock.at_ms), env=env).status == 75
        emulator.faults.rates = {}
        clock.at_ms += 60 * SECOND_MS
        tick = drawdown(url, "--json", "tick", at=str(clock.at_ms), env=env).json["tick"]
        assert (tick["looked_up"], tick["accepted"], tick["failures"]) == (1, 1, [])
        assert (tick["left"]["projections_due"], tick["exit_status"]) == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--from", "2026-01-01T01:00:00Z"], 2, "are days"),
        (["--from", "2026-01-02", "--to", "2026-01-02"], 2, "ends before it starts"),
        (["--from", "2026-01-03", "--to", "2026-01-02"], 2, "ends before it starts"),
        (["--to", "soon"], 2, "--to"),
        (["--threshold", "-1"], 2, "threshold"),
        (["--threshold", "101"], 2, "threshold"),
        (["--provider", "nobody"], 2, "there is no provider nobody"),
    ],
)
def test_a_range_that_cannot_be_meant_is_refused(
    tmp_path: Path, arguments: Sequence[str], status: int, says: str
) -> None:
    url = f"sqlite:///{tmp_path}/drawdown.db"
    engine = connect(url)
    upgrade(engine)
    engine.dispose()
    assert says in one_clear_line(drawdown(url, "reconcile", *arguments, at=str(T0)), status)


def test_without_a_database_it_says_what_to_do(tmp_path: Path) -> None:
    said = one_clear_line(drawdown(f"sqlite:///{tmp_path}/none.db", "reconcile", at=str(T0)), 1, 2)
    assert "drawdown init" in said


@pytest.mark.parametrize("wrong", ["lost", "another quantity", "twice"])
def test_below_the_floor_nothing_is_voided_or_adopted(engine: sa.Engine, wrong: str) -> None:
    """Nothing would be sealed in its place: a loss would stay one, and a double would look like ours."""
    fleet, provider = billed(engine)
    fleet.tick(T0 + 37 * DAY_MS, accept_clock=True)
    prune(partial(write, engine), T0 + DAY_MS, fleet.said)
    if wrong == "lost":
        provider.charged.clear()
    elif wrong == "another quantity":
        provider.charged[KEY] = replace(provider.charged[KEY], quantity=50)
    else:
        provider.over[("acme", FEATURE, T0 + 1)] = 60
    before = everything(fleet)
    found = compare(fleet, from_ms=T0, to_ms=T0 + DAY_MS, correct=True)
    assert (found.differing[0].corrected, found.exit_status) == (0, 1)
    assert "below the floor" in str(found.differing[0].note)
    assert everything(fleet) == before
    with pytest.raises(Refused, match="below the floor"):
        write(engine, lambda c: pushes.void(c, [KEY], fleet.said, "seen", although_accepted=True))


def test_what_was_accepted_and_lost_a_person_may_void(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, lookup_lag_ms=None)
    provider.charged.clear()
    with pytest.raises(Refused, match="is accepted"):
        write(engine, lambda c: pushes.void(c, [KEY], fleet.said, "their console"))
    write(engine, lambda c: pushes.void(c, [KEY], fleet.said, "their console", although_accepted=True))
    settle(fleet)
    assert states(fleet) == [(0, 60, 60, "voided"), (1, 60, 60, "accepted")]
    clean(fleet)


def test_what_was_told_of_a_balance_is_acknowledged_on_record(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, drawn=True)
    drawn(provider, 10)
    compare(fleet, correct=True)
    assert [row.told_qty for row in read(engine, told_balances)] == [-50]
    assert len(write(engine, lambda c: acknowledge(c, "acme", fleet.said))) == 1
    assert list(read(engine, told_balances)) == []
    assert fleet.rows("SELECT target FROM operator_actions WHERE action = 'balance_acknowledge'") == [("acme",)]
    assert compare(fleet, correct=True).exit_status == 0


def test_what_a_person_bills_by_hand_while_pushes_are_looked_up_is_not_voided(engine: sa.Engine) -> None:
    """Refused late and put on an invoice meanwhile, it is accepted as it was; billed again it would be paid twice."""
    fleet, provider = billed(engine)
    provider.charged.clear()
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    walk = Walk(reconcile(fleet.context(), ReconcileScope(provider="fake", correct=True), fleet.said), world)
    walk.until("reconcile_short", fleet.engine)
    write(engine, lambda c: apply_notices(c, "fake", [PushRefused(KEY, "no meter")], fleet.clock.at_ms))
    write(engine, lambda c: resolve_accepted(c, [KEY], fleet.said, "invoice 17"))
    walk.rest(fleet.engine)
    settle(fleet)
    assert states(fleet) == [(0, 60, 60, "accepted")]
    assert provider.charged == {}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_late_refusal_waits_for_the_answer_that_is_written_down(engine: sa.Engine) -> None:
    """What it then finds accepted has drawn on the wallet, which gets it back."""
    provider = FakeProvider(capabilities(balance_in_ledger=True))
    provider.answers[KEY] = Queued(T0 + DAY_MS)
    fleet, _ = billed(engine, provider=provider)
    assert states(fleet)[0][3] in ("queued", "in_doubt"), "what the provider has taken, as far as it said"
    began = threading.Event()

    def refuse(connection: sa.Connection) -> None:
        began.set()
        apply_notices(connection, "fake", [PushRefused(KEY, "no meter")], fleet.clock.at_ms)

    with engine.begin() as answer, ThreadPoolExecutor(1) as other:
        answer.execute(sa.text("UPDATE pushes SET state = 'accepted', settled_ms = sealed_at_ms"))
        refused = other.submit(write, engine, refuse)
        assert began.wait(60)
        wait_until_blocked(engine)
        answer.commit()
        refused.result(60)
    assert states(fleet) == [(0, 60, 60, "rejected")]
    was = "SELECT details FROM operator_actions WHERE action = 'push_refused_late'"
    assert '"accepted"' in str(fleet.one(was)), "what was drawn is given back for what it is, not for what it was"
