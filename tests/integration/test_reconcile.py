"""What we call accepted beside what a provider says: compared, corrected where it is proven, said where it is not."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import (
    CannotTell,
    FoundPush,
    PushRefused,
    Queued,
    ReadFailed,
    Rejected,
    RetryAt,
    Unknown,
)
from drawdown.schema.database import read, write
from drawdown.schema.errors import Refused
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.push import actions as pushes
from drawdown.worker.push.actions import acknowledge, find_unacknowledged, resolve_accepted
from drawdown.worker.push.webhooks import apply_notices
from drawdown.worker.reconcile.comparison import BY_HAND
from drawdown.worker.reconcile.reconcile import ReconcileScope, reconcile
from drawdown.worker.usage import withdrawals
from drawdown.worker.usage.prune import prune
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
from tests.integration.test_interleavings import wait_until_blocked
from tests.interleave.walk import Walk
from tests.world import T0, Fleet


def test_reconcile_equal_totals_stores_equal_verdict(engine: sa.Engine) -> None:
    fleet, _ = billed(engine, 30)
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (found.compared, found.differing, found.exit_status) == (1, [], 0)
    assert everything(fleet) == before
    kept = fleet.rows("SELECT day_ms, org_id, provider, feature, ours_qty, theirs_qty, verdict FROM reconciliations")
    assert kept == [(T0, "acme", "fake", FEATURE, 90, 90, "equal")]


def test_reconcile_without_correct_reports_shortfall_and_leaves_pushes(engine: sa.Engine) -> None:
    fleet, provider = billed(engine)
    del provider.charged[KEY]
    before = everything(fleet)
    found = compare(fleet)
    # Without --correct a shortfall is looked into by nobody: it is said, and all stays as it is.
    assert (told(found), found.exit_status) == ([("short", 60, 0, 0)], 1)
    assert everything(fleet) == before


def test_reconcile_missing_push_is_voided_and_resealed(engine: sa.Engine) -> None:
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


def test_reconcile_push_at_other_quantity_is_adopted(engine: sa.Engine) -> None:
    fleet, provider = billed(engine)
    provider.charged[KEY] = replace(provider.charged[KEY], quantity=50)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 60, 50, 10)], 75)
    settle(fleet)
    assert states(fleet) == [(0, 60, 60, "voided"), (1, 50, 50, "accepted"), (2, 10, 10, "accepted")]
    assert charged(provider) == 60
    assert compare(fleet, correct=True).exit_status == 0
    clean(fleet)


def test_reconcile_push_with_zero_charge_is_voided(engine: sa.Engine) -> None:
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
        write(engine, lambda c: withdrawals.withdraw(c, ["s1"], fleet.by))
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
def test_reconcile_difference_only_balance_can_explain_is_reported(engine: sa.Engine, back: bool) -> None:
    """Voided, and sealed anew, it would be billed twice; given back, it would be given back twice."""
    fleet, _, key = on_record_as_nothing(engine, back=back)
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 30, 90, 0) if back else ("short", 97, 90, 0)], 1)
    assert "balance" in str(found.differing[0].note) and (back or key in str(found.differing[0].note))
    assert everything(fleet) == before
    clean(fleet)


@pytest.mark.parametrize("event", [False, True])
def test_reconcile_push_sent_and_then_billed_by_hand_is_unchanged(engine: sa.Engine, event: bool) -> None:
    """An item of an invoice beside the meters, or an event over there: both are right, and neither is voided."""
    provider = FakeProvider(capabilities(**TOTALS))
    provider.answers[KEY] = Rejected("dated more than 35 days back")
    fleet, _ = billed(engine, provider=provider)
    assert fleet.one("SELECT attempts FROM pushes") == 1
    write(engine, lambda c: pushes.resolve_accepted(c, [KEY], fleet.by, "invoice item ii_1"))
    if event:
        provider.over["acme", FEATURE, T0 + 1] = 60
    fleet.clock.at_ms += SHOWN
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([], 0)
    assert fleet.rows("SELECT state, by_hand FROM pushes") == [("accepted", True)]


def test_reconcile_excess_in_window_billed_by_hand_is_not_refunded(engine: sa.Engine) -> None:
    """Too old to be sent, put into an invoice by hand, and resolved so: what is over in its window may be that."""
    provider = FakeProvider(capabilities(**TOTALS, max_quantity=59))
    fleet, _ = billed(engine, provider=provider)
    said = "invoice item ii_1"
    write(engine, lambda c: pushes.resolve_accepted(c, [KEY], fleet.by, said))
    fleet.clock.at_ms += SHOWN
    provider.over["acme", FEATURE, T0 + 1] = 100
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 60, 100, 0)], 1)
    assert found.differing[0].note is not None
    assert everything(fleet) == before


@pytest.mark.parametrize("said", [FoundPush(60), CannotTell("shared minute"), ReadFailed("503")])
def test_reconcile_shortfall_without_absent_push_is_reported(
    engine: sa.Engine, said: FoundPush | CannotTell | ReadFailed
) -> None:
    fleet, provider = billed(engine)
    del provider.charged[KEY]
    provider.lookups[KEY] = said
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 60, 0, 0)], 1)
    why = "each push of that day was found" if isinstance(said, FoundPush) else "lookups of 1 push of that day failed"
    then = f" ({KEY}: shared minute): {BY_HAND}" if isinstance(said, CannotTell) else ""
    assert found.differing[0].note == f"60 more are missing: {why}{then}"
    assert everything(fleet) == before
    clean(fleet)


def test_reconcile_correction_that_counted_twice_is_reported(engine: sa.Engine) -> None:
    """Where a minute's sum is all there is, another figure than was sent tells of no push."""
    fleet, provider = billed(engine, 30)
    write(engine, lambda c: withdrawals.withdraw(c, ["s1"], fleet.by))
    settle(fleet)
    key = f"{KEY}:r1"
    provider.charged[key] = replace(provider.charged[key], quantity=-120)
    provider.lookups[key] = CannotTell("another figure than was sent: -120, not -60")
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 30, -30, 0)], 1)
    note = str(found.differing[0].note)
    assert f"({key}: another figure than was sent: -120, not -60)" in note
    assert BY_HAND in note
    assert everything(fleet) == before


def test_reconcile_shortfall_without_lookups_is_reported(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, lookup_lag_ms=None)
    del provider.charged[KEY]
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 60, 0, 0)], 1)
    assert "cannot look up a single push" in str(found.differing[0].note)
    assert "push void" in str(found.differing[0].note)
    assert everything(fleet) == before


def test_reconcile_excess_in_billed_window_is_adopted_and_refunded(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, 30)
    provider.over["acme", FEATURE, T0 + WINDOW_MS - 1] = 40
    due = "SELECT projection_due_ms FROM orgs WHERE org_id = 'acme'"
    assert fleet.one(due) is None
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 90, 130, 40)], 75)
    assert fleet.one(due) is not None, "no read has shown the charge yet"
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


def test_reconcile_excess_without_negatives_is_carried(engine: sa.Engine) -> None:
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


def test_reconcile_excess_outside_sealed_windows_is_reported(engine: sa.Engine) -> None:
    fleet, provider = billed(engine)
    provider.over["acme", FEATURE, T0 + 7 * WINDOW_MS] = 40
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 60, 100, 0)], 1)
    assert (
        found.differing[0].note == "40: outside all windows of Drawdown, because another system charges this customer"
    )
    assert everything(fleet) == before


@pytest.mark.parametrize("beside", [30, 0])
def test_reconcile_late_event_of_voided_and_withdrawn_push_is_refunded(engine: sa.Engine, beside: int) -> None:
    """The window has no other push: its usage was withdrawn before a seal took it again. So has the day, `beside` 0."""
    fleet, provider = billed(engine, beside)
    late = provider.charged.pop(KEY)
    assert compare(fleet, correct=True).exit_status == 75
    write(engine, lambda c: withdrawals.withdraw(c, ["s1"], fleet.by))
    settle(fleet)
    provider.charged[KEY] = late
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", beside, beside + 60, 60)], 75)
    settle(fleet)
    assert states(fleet) == [(0, 60, 60, "voided"), (1, 60, 60, "accepted"), (2, -60, -60, "accepted")]
    assert charged(provider) == beside
    assert compare(fleet, correct=True).exit_status == 0
    clean(fleet)


def test_reconcile_excess_partly_in_sealed_windows_adopts_only_that_part(engine: sa.Engine) -> None:
    fleet, provider = billed(engine)
    provider.over["acme", FEATURE, T0 + 2] = 25
    provider.over["acme", FEATURE, T0 + 7 * WINDOW_MS] = 40
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 60, 125, 25)], 1)
    assert "40: outside all windows of Drawdown" in str(found.differing[0].note)
    settle(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 60, 100, 0)], 1), "the foreign part stays and is said again"
    assert charged(provider) - 40 == 60
    clean(fleet)


def test_reconcile_before_totals_lag_waits(engine: sa.Engine) -> None:
    fleet, provider = billed(engine)
    provider.charged.clear()
    fleet.clock.at_ms -= 1
    found = compare(fleet, correct=True)
    assert (found.compared, found.waiting, found.exit_status) == (0, 1, 0)
    fleet.clock.at_ms += 1
    assert compare(fleet).compared == 1


@pytest.mark.parametrize("answer", [Unknown("cut"), RetryAt(T0 + DAY_MS, "later")])
def test_reconcile_day_with_unsettled_push_waits(engine: sa.Engine, answer: Unknown | RetryAt) -> None:
    provider = FakeProvider(capabilities(**{**TOTALS, "duplicate_proves_delivery": False}))
    provider.answers[KEY] = answer
    fleet, _ = billed(engine, 30, provider=provider)
    provider.charged.clear()
    found = compare(fleet, correct=True)
    assert (found.compared, found.waiting, found.exit_status) == (0, 1, 0)
    assert states(fleet)[0][3] != "voided"


def test_reconcile_current_day_compares_windows_that_are_old_enough(engine: sa.Engine) -> None:
    """Whoever uses something at every moment would else never be compared before midnight."""
    provider = FakeProvider(capabilities(**{**TOTALS, "duplicate_proves_delivery": False}))
    fresh = f"usage:acme:{T0 + WINDOW_MS}:{FEATURE}"
    provider.answers[fresh] = Unknown("cut")
    fleet, _ = billed(engine, 30, provider=provider)
    provider.charged.clear()
    found = compare(fleet, correct=True)
    assert (told(found), found.waiting) == ([("short", 60, 0, 60)], 0)
    assert fleet.rows("SELECT key, state FROM pushes ORDER BY key") == [(KEY, "voided"), (fresh, "queued")]


def test_reconcile_rejected_push_is_not_counted(engine: sa.Engine) -> None:
    provider = FakeProvider(capabilities(**TOTALS))
    provider.answers[f"usage:acme:{T0 + WINDOW_MS}:{FEATURE}"] = Rejected("no")
    fleet, _ = billed(engine, 30, provider=provider)
    found = compare(fleet, correct=True)
    assert (found.compared, found.waiting, found.exit_status) == (1, 0, 0)


def test_reconcile_with_unreadable_totals_leaves_pushes_unchanged(engine: sa.Engine) -> None:
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


def test_reconcile_with_unreadable_windows_reports_difference(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, provider=FailsByWindow(capabilities(**TOTALS)))
    provider.over["acme", FEATURE, T0] = 40
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("over", 60, 100, 0)], 1)
    assert found.differing[0].note == "could not be read by window: 503"
    assert everything(fleet) == before


def test_reconcile_with_unreadable_balances_is_counted_as_unread(engine: sa.Engine) -> None:
    fleet, _ = billed(engine, provider=DrawnFails(capabilities(**TOTALS, drawn=True)))
    found = compare(fleet, correct=True)
    assert (found.compared, found.unread, found.exit_status) == (1, 1, 75)


def test_reconcile_provider_that_raises_is_counted_as_unread(engine: sa.Engine) -> None:
    fleet, _ = billed(engine, provider=Raises(capabilities(**TOTALS)))
    found = compare(fleet, correct=True)
    assert (found.compared, found.unread, found.exit_status) == (0, 1, 75)


@pytest.mark.parametrize(("theirs", "threshold", "is_told"), [(57, 0.05, False), (57, 0.049, True), (60, 0.0, False)])
def test_reconcile_difference_below_threshold_is_stored_and_not_reported(
    engine: sa.Engine, theirs: int, threshold: float, is_told: bool
) -> None:
    fleet, provider = billed(engine)
    provider.charged[KEY] = replace(provider.charged[KEY], quantity=theirs)
    found = compare(fleet, threshold=threshold)
    assert (bool(found.differing), found.exit_status) == (is_told, 1 if is_told else 0)
    verdict = "equal" if theirs == 60 else "short"
    assert fleet.rows("SELECT ours_qty, theirs_qty, verdict FROM reconciliations") == [(60, theirs, verdict)]


@pytest.mark.parametrize(("theirs", "is_told"), [(69, False), (70, True), (51, False), (50, True)])
def test_reconcile_shadow_difference_is_reported_and_not_corrected(
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
    assert found.forgiven == (0 if is_told or theirs == 60 else 1), "what is forgiven is counted"
    assert fleet.one("SELECT verdict FROM reconciliations") == "shadow"


def test_reconcile_scope_limits_days_organisations_and_provider(engine: sa.Engine) -> None:
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
    assert compare(fleet, recent=True).compared == 6, "no nightly run compared them before"
    assert compare(fleet, recent=True).compared == 0, "nothing was settled in the last two days"
    fleet.sample("bolt", T0 + 2, 5)
    settle(fleet)
    assert compare(fleet, recent=True).compared == 1, "a late revision makes its old day recent"


def test_reconcile_provider_without_totals_or_key_is_skipped(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, totals_lag_ms=None)
    assert compare(fleet).skipped == {"fake": "it does not return totals"}
    provider.capabilities = capabilities(**TOTALS)
    world = runner.World(engine, fleet.providers, fleet.cells, fleet.clock)
    context = fleet.context(dormant={"fake": "FAKE_KEY is not set"})
    assert runner.run(reconcile(context, ReconcileScope(), fleet.by), world).skipped["fake"] == "its API key is missing"


def test_reconcile_several_days_and_organisations_each_are_corrected(engine: sa.Engine) -> None:
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


@pytest.mark.parametrize("wrong", ["lost", "another quantity", "twice"])
def test_reconcile_below_floor_does_not_void_or_adopt(engine: sa.Engine, wrong: str) -> None:
    """Nothing would be sealed in its place: a loss would stay one, and a double would look like ours."""
    fleet, provider = billed(engine)
    fleet.tick(T0 + 37 * DAY_MS, accept_clock=True)
    prune(partial(write, engine), T0 + DAY_MS, fleet.by)
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
        void_lost(fleet, "seen")


def test_accepted_push_declared_lost_is_voided_and_resealed(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, lookup_lag_ms=None)
    provider.charged.clear()
    with pytest.raises(Refused, match="is accepted"):
        write(engine, lambda c: pushes.void(c, [KEY], fleet.by, "their console"))
    void_lost(fleet, "their console")
    settle(fleet)
    assert states(fleet) == [(0, 60, 60, "voided"), (1, 60, 60, "accepted")]
    clean(fleet)


def test_balance_acknowledge_is_recorded_as_action(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, drawn=True)
    drawn(provider, 10)
    compare(fleet, correct=True)
    assert [row.told_qty for row in read(engine, find_unacknowledged)] == [-50]
    assert len(write(engine, lambda c: acknowledge(c, "acme", fleet.by))) == 1
    assert list(read(engine, find_unacknowledged)) == []
    assert fleet.rows("SELECT target FROM operator_actions WHERE action = 'balance_acknowledge'") == [("acme",)]
    assert compare(fleet, correct=True).exit_status == 0


def test_reconcile_push_billed_by_hand_during_lookup_is_not_voided(engine: sa.Engine) -> None:
    """Refused late and put on an invoice meanwhile, it is accepted as it was; billed again it would be paid twice."""
    fleet, provider = billed(engine)
    provider.charged.clear()
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    walk = Walk(reconcile(fleet.context(), ReconcileScope(provider="fake", correct=True), fleet.by), world)
    walk.until("reconcile_short", fleet.engine)
    write(engine, lambda c: apply_notices(c, "fake", [PushRefused(KEY, "no meter")], fleet.clock.at_ms))
    write(engine, lambda c: resolve_accepted(c, [KEY], fleet.by, "invoice 17"))
    walk.rest(fleet.engine)
    settle(fleet)
    assert states(fleet) == [(0, 60, 60, "accepted")]
    assert provider.charged == {}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_late_refusal_during_acceptance_waits_and_rejects_push(engine: sa.Engine) -> None:
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


def test_reconcile_loss_beside_credit_by_hand_is_reported(engine: sa.Engine) -> None:
    """Accepted and lost over there, then withdrawn; too old to be given back, it was credited on an invoice."""
    fleet, provider = billed(engine)
    credit_by_hand(fleet, provider, "dated more than 35 days back")
    fleet.clock.at_ms += SHOWN
    assert told(compare(fleet, correct=True)) == []
    del provider.charged[KEY]
    assert told(compare(fleet, correct=True)) == [("short", 60, 0, 60)]
    settle(fleet)
    assert charged(provider) == 60, "the credit note stands against it"
    assert told(compare(fleet, correct=True)) == []
    clean(fleet)
