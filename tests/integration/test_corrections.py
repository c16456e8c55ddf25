"""Withdrawals, voids, retries, replays, mappings that reach back, pruning: what a person may do about the past."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import Rejected, RetryAt, Unknown
from drawdown.schema.clock import utc
from drawdown.schema.database import read, write
from drawdown.schema.errors import DrawdownError, Refused, UnknownId, UsageError
from drawdown.schema.units import DAY_MS, WINDOW_MS, next_window
from drawdown.worker.engine import runner
from drawdown.worker.features.actions import end_feature, map_size
from drawdown.worker.push import actions as pushes
from drawdown.worker.push.explanation import explain_push
from drawdown.worker.replay.plan import ReplayScope, plan
from drawdown.worker.replay.replay import Replayed, replay
from drawdown.worker.usage import prune as pruning
from drawdown.worker.usage import withdrawals
from drawdown.worker.usage.prune import prune, raise_floors
from drawdown.worker.verify.verify import verify
from tests.fake_provider import FakeProvider, capabilities
from tests.world import T0, Fleet

R = TypeVar("R")

KEY = f"usage:acme:{T0}:compute_1gb"


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider(capabilities())


@pytest.fixture
def fleet(engine: sa.Engine, provider: FakeProvider) -> Fleet:
    made = Fleet(engine, extra={"fake": provider})
    made.assign("acme", provider="fake")
    return made


def billed(provider: FakeProvider) -> int:
    return sum(push.quantity for push in provider.charged.values())


def do_replay(fleet: Fleet, from_ms: int, to_ms: int, *, dry_run: bool = False, org: str | None = None) -> Replayed:
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    scope = ReplayScope(() if org is None else (org,))
    made = read(fleet.engine, lambda c: plan(c, scope, from_ms, to_ms, fleet.clock.now_ms()))
    return runner.run(replay(fleet.context(), made, fleet.by, dry_run=dry_run), world)


def test_withdrawn_sample_is_refunded_once(fleet: Fleet, provider: FakeProvider) -> None:
    wrong = fleet.sample("acme", T0 + 1, 50)
    fleet.sample("acme", T0 + 2, 10)
    fleet.tick_windows(2)
    assert billed(provider) == 60
    for already in (False, True):
        (done,) = write(fleet.engine, lambda c: withdrawals.withdraw(c, [wrong], fleet.by))
        assert done.already == already
    assert fleet.tick_windows(1).sealed == 1
    assert billed(provider) == 10
    assert fleet.tick_windows(1).sealed == 0


def test_sample_withdrawn_before_seal_is_not_billed(fleet: Fleet, provider: FakeProvider) -> None:
    wrong = fleet.sample("acme", T0 + 1, 50)
    write(fleet.engine, lambda c: withdrawals.withdraw(c, [wrong], fleet.by))
    assert fleet.tick_windows(2).sealed == 0
    assert provider.seen == []


def test_withdraw_with_unknown_or_quarantined_sample_is_refused(fleet: Fleet) -> None:
    good = fleet.sample("acme", T0 + 1)
    bad = fleet.sample("acme", T0 + 1, -1)
    for ids, text in (([good, "unknown"], "unknown sample unknown"), ([good, bad], "interval_negative")):
        with pytest.raises(DrawdownError, match=text):
            write(fleet.engine, lambda c, ids=ids: withdrawals.withdraw(c, ids, fleet.by))  # type: ignore[misc]
    assert fleet.one("SELECT COUNT(*) FROM withdrawals") == 0


def test_rejected_push_after_retry_is_sealed_under_new_revision(fleet: Fleet, provider: FakeProvider) -> None:
    fleet.sample("acme", T0 + 1)
    provider.answers[KEY] = Rejected("no such feature")
    report = fleet.tick_windows(2)
    assert (report.exit_status, report.left.rejected) == (1, 1)
    assert fleet.tick_windows(1).accepted == 0
    write(fleet.engine, lambda c: pushes.retry(c, [KEY], fleet.by))
    report = fleet.tick_windows(1)
    assert (report.sealed, report.accepted, report.exit_status) == (1, 1, 0)
    assert list(provider.charged) == [KEY + ":r1"]
    assert fleet.rows("SELECT evidence_kind, evidence FROM voids") == [("rejected", "no such feature")]


def corrected_while_its_push_waits(fleet: Fleet, provider: FakeProvider) -> None:
    """A push of 60 is to be sent again, and 50 of it are withdrawn."""
    wrong = fleet.sample("acme", T0 + 1, 50)
    fleet.sample("acme", T0 + 2, 10)
    provider.answers[KEY] = RetryAt(0, "busy")
    fleet.tick_windows(2)
    write(fleet.engine, lambda c: withdrawals.withdraw(c, [wrong], fleet.by))
    report = fleet.tick_windows(1)
    assert (report.sealed, report.left.dirty_windows) == (0, 1)


def test_refund_is_sealed_after_corrected_push_is_accepted(fleet: Fleet, provider: FakeProvider) -> None:
    corrected_while_its_push_waits(fleet, provider)
    provider.answers.clear()
    assert (fleet.tick_windows(1).sealed, billed(provider)) == (0, 60)
    report = fleet.tick_windows(1)
    assert (report.sealed, report.left.dirty_windows, billed(provider)) == (1, 0, 10)


def test_rejected_push_with_withdrawal_is_resealed_as_single_push(fleet: Fleet, provider: FakeProvider) -> None:
    corrected_while_its_push_waits(fleet, provider)
    provider.answers[KEY] = Rejected("more than it takes")
    for _ in range(2):
        report = fleet.tick_windows(1)
        assert (report.left.rejected, report.left.dirty_windows, billed(provider)) == (1, 1, 0)
    write(fleet.engine, lambda c: pushes.retry(c, [KEY], fleet.by))
    assert fleet.tick_windows(1).accepted == 1
    assert [(push.key, push.quantity) for push in provider.charged.values()] == [(KEY + ":r1", 10)]
    assert read(fleet.engine, verify).clean


def test_window_with_pending_refund_still_seals_owed_usage(fleet: Fleet, provider: FakeProvider) -> None:
    """Another feature's usage of the same window, and a late sample that outweighs what was taken back."""
    corrected_while_its_push_waits(fleet, provider)
    fleet.sample("acme", T0 + 3, 7, memory_mb=4096)
    assert (fleet.tick_windows(1).sealed, billed(provider)) == (1, 7)
    fleet.sample("acme", T0 + 4, 55)
    assert (fleet.tick_windows(1).sealed, billed(provider)) == (1, 12)
    provider.answers.clear()
    fleet.tick_windows(1)
    assert (billed(provider), fleet.tick_windows(1).left.dirty_windows) == (72, 0)
    assert read(fleet.engine, verify).clean


def test_void_without_evidence_or_of_due_push_is_refused(fleet: Fleet, provider: FakeProvider) -> None:
    fleet.sample("acme", T0 + 1)
    provider.answers[KEY] = Unknown("cut")
    fleet.tick_windows(2)
    with pytest.raises(UsageError, match="evidence"):
        write(fleet.engine, lambda c: pushes.void(c, [KEY], fleet.by, "  "))
    with pytest.raises(Refused, match="is due"):
        write(fleet.engine, lambda c: pushes.void(c, [KEY], fleet.by, "I think so"))
    with pytest.raises(UnknownId, match="unknown push"):
        write(fleet.engine, lambda c: pushes.void(c, [KEY + ":r7"], fleet.by, "seen"))


def test_void_of_accepted_push_is_refused_with_void_lost_hint(fleet: Fleet, provider: FakeProvider) -> None:
    """If its provider lost it, that is the only way to have its usage sent again."""
    fleet.assign("own", provider="embedded", from_ms=T0)
    for org in ("acme", "own"):
        fleet.sample(org, T0 + 1)
    assert fleet.tick_windows(2).accepted == 2 and provider.seen
    with pytest.raises(Refused, match=r"is accepted.*push void-lost"):
        write(fleet.engine, lambda c: pushes.void(c, [KEY], fleet.by, "their support says so"))
    (own,) = fleet.rows("SELECT key FROM pushes WHERE org_id = 'own' AND state = 'accepted'")
    with pytest.raises(Refused, match=r"if it is rejected or in doubt$"):
        write(fleet.engine, lambda c: pushes.void(c, [str(own[0])], fleet.by, "a charge in the ledger is never voided"))


def test_push_with_unknown_answer_is_resent_under_same_key(fleet: Fleet, provider: FakeProvider) -> None:
    fleet.sample("acme", T0 + 1)
    provider.fails = ConnectionError("cut")
    assert fleet.tick_windows(2).exit_status == 75
    provider.fails = None
    assert fleet.tick_windows(1).accepted == 1
    assert [(push.key, push.quantity) for push in provider.seen] == [(KEY, 60), (KEY, 60)]
    assert fleet.rows("SELECT attempt, outcome FROM attempts ORDER BY attempt") == [(1, "unknown"), (2, "accepted")]


def test_push_in_doubt_is_resolved_as_accepted_or_voided(fleet: Fleet, provider: FakeProvider) -> None:
    fleet.sample("acme", T0 + 1)
    fleet.sample("acme", T0 + WINDOW_MS)
    other = f"usage:acme:{T0 + WINDOW_MS}:compute_1gb"
    from drawdown.providers.protocol import Duplicate

    provider.answers = {KEY: Duplicate(), other: Duplicate()}
    report = fleet.tick_windows(3)
    assert (report.left.in_doubt, report.exit_status) == (2, 1)
    provider.answers.clear()
    write(fleet.engine, lambda c: pushes.resolve_accepted(c, [KEY], fleet.by, "seen in their console"))
    write(fleet.engine, lambda c: pushes.void(c, [other], fleet.by, "absent in their console"))
    assert fleet.tick_windows(1).accepted == 1
    states = {(row[1], row[3]): row[5] for row in fleet.pushes()}
    assert states == {(T0, 0): "accepted", (T0 + WINDOW_MS, 0): "voided", (T0 + WINDOW_MS, 1): "accepted"}


def test_push_older_than_key_retention_is_in_doubt_and_not_resent(engine: sa.Engine) -> None:
    provider = FakeProvider(capabilities(key_retention_ms=DAY_MS))
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake")
    fleet.sample("acme", T0 + 1)
    provider.answers[KEY] = Unknown("cut")
    fleet.tick_windows(2)
    fleet.tick(fleet.clock.at_ms + 23 * 3_600_000)
    assert len(provider.seen) == 1
    assert fleet.one("SELECT state FROM pushes") == "in_doubt"


def test_push_throttled_beyond_key_retention_is_resent_under_same_key(engine: sa.Engine) -> None:
    """Proven not to have arrived, so its key cannot have been forgotten there (P2)."""
    provider = FakeProvider(capabilities(key_retention_ms=DAY_MS))
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake")
    fleet.sample("acme", T0 + 1)
    provider.answers[KEY] = RetryAt(0, "busy")
    fleet.tick_windows(2)
    fleet.tick(fleet.clock.at_ms + 23 * 3_600_000)
    provider.answers.clear()
    assert fleet.tick(fleet.clock.at_ms + 36 * DAY_MS).accepted == 1
    assert list(provider.charged) == [KEY]


def test_push_explanation_shows_samples_and_attempts(fleet: Fleet) -> None:
    fleet.sample("acme", T0 + 1, 40, sample_id="first")
    fleet.sample("acme", T0 + 2, 20, memory_mb=4096)
    fleet.tick_windows(2)
    found = write(fleet.engine, lambda c: explain_push(c, KEY))
    assert [sample.id for sample in found.samples] == ["first"]
    assert found.samples_in_force_qty == found.sealed_qty == 40
    assert found.attempts[0].outcome == "accepted"


def test_replay_does_not_bill_usage_twice(fleet: Fleet, provider: FakeProvider) -> None:
    for window in range(4):
        fleet.sample("acme", T0 + window * WINDOW_MS + 5)
    fleet.tick_windows(6)
    for dry_run in (True, False):
        assert do_replay(fleet, T0 - DAY_MS, fleet.clock.at_ms, dry_run=dry_run).pushes == 0
    assert (billed(provider), len(provider.seen)) == (240, 4)


def test_replay_bills_usage_missed_by_cursor_and_dry_run_does_not(fleet: Fleet, provider: FakeProvider) -> None:
    fleet.tick_windows(3)
    fleet.sample("acme", T0 + 5, 11)
    fleet.write("UPDATE buckets SET cursor = 9000000000000, epoch = epoch + 1")  # as if the sample had been seen
    assert do_replay(fleet, T0, T0 + 1, dry_run=True).quantity == 11
    assert fleet.pushes() == []
    assert do_replay(fleet, T0, T0 + 1, org="acme").quantity == 11
    assert billed(provider) == 11


@pytest.mark.parametrize(("start", "end"), [(T0 + 5, T0 + 5), (T0 + 5, T0), (T0 + DAY_MS, T0 + 2 * DAY_MS)])
def test_replay_of_empty_or_future_range_is_refused(fleet: Fleet, start: int, end: int) -> None:
    fleet.tick_windows(2)
    with pytest.raises(UsageError):
        do_replay(fleet, start, end)


def test_usage_of_unmapped_size_is_sealed_after_mapping(fleet: Fleet, provider: FakeProvider) -> None:
    fleet.sample("acme", T0 + 1, memory_mb=3000)
    assert fleet.tick_windows(2).left.pending_s == {"no_mapping": 60}

    def add(*, confirmed: bool, start: int = T0) -> int:
        return write(
            fleet.engine,
            lambda c: (
                map_size(
                    c, "odd", fleet.by, kind="up_to", memory_mb=None, unit="mb_s", from_ms=start, confirmed=confirmed
                ).resolved_s
            ),
        )

    with pytest.raises(Refused, match=r"--dry-run.*--yes"):
        add(confirmed=False)
    assert add(confirmed=True) == 60
    report = fleet.tick_windows(1)
    assert report.left.pending_s == {}
    assert [push.quantity for push in provider.charged.values()] == [180_000]


def test_mapping_that_changes_sealed_windows_is_refused(fleet: Fleet) -> None:
    fleet.tick_windows(3)
    with pytest.raises(Refused, match="compute_1gb"):
        write(
            fleet.engine,
            lambda c: map_size(
                c, "other", fleet.by, kind="exact", memory_mb=1024, unit="s", from_ms=T0, confirmed=True
            ),
        )


def test_mapping_changed_back_before_its_start_is_made(fleet: Fleet) -> None:
    """Of two mappings with one start, the first was taken for the newest, and the change back had no effect."""

    def mapped(feature: str, unit: str) -> bool:
        more = {"kind": "exact", "memory_mb": 2048, "unit": unit}
        return write(fleet.engine, lambda c: map_size(c, feature, fleet.by, **more)).again  # type: ignore[arg-type]

    start = next_window(fleet.clock.at_ms)
    assert [mapped("twos", "s"), mapped("all", "mb_s"), mapped("twos", "s")] == [False, False, False]
    assert mapped("twos", "s") is True
    fleet.sample("acme", start + 1, 60, memory_mb=2048)
    fleet.clock.at_ms = start
    fleet.tick_windows(2)
    assert fleet.rows("SELECT feature, sealed_qty FROM pushes WHERE window_ms = :at", at=start) == [("twos", 60)]


def test_feature_end_repeated_returns_first_end(fleet: Fleet) -> None:
    def ended(from_ms: int | None = None) -> list[tuple[int, bool]]:
        done = write(fleet.engine, lambda c: end_feature(c, "compute_1gb", fleet.by, from_ms=from_ms))
        return [(one.start_ms, one.again) for one in done]

    ((at_ms, _),) = ended()
    assert ended() == ended(at_ms) == [(at_ms, True)], "perhaps for an answer that was lost"
    fleet.clock.at_ms += WINDOW_MS
    assert ended() == [(at_ms, True)]
    with pytest.raises(Refused, match="cannot end the feature compute_1gb"):
        ended(at_ms + WINDOW_MS)
    write(fleet.engine, lambda c: map_size(c, "other", fleet.by, kind="exact", memory_mb=1024, unit="s", new=True))
    with pytest.raises(Refused, match="cannot end the feature compute_1gb"):
        ended()


def test_feature_end_repeated_before_scheduled_mapping_returns_first_end(fleet: Fleet) -> None:
    starts = [next_window(fleet.clock.at_ms) + window * WINDOW_MS for window in range(5)]

    def mapped(feature: str, memory_mb: int, from_ms: int) -> None:
        more = {"kind": "exact", "memory_mb": memory_mb, "unit": "s", "from_ms": from_ms}
        write(fleet.engine, lambda c: map_size(c, feature, fleet.by, **more))  # type: ignore[arg-type]

    def ended(from_ms: int | None) -> list[tuple[int, bool]]:
        done = write(fleet.engine, lambda c: end_feature(c, "compute_1gb", fleet.by, from_ms=from_ms))
        return [((one.start_ms - starts[0]) // WINDOW_MS, one.again) for one in done]

    mapped("other", 1024, starts[3])
    assert ended(starts[1]) == [(1, False)]
    assert ended(starts[1]) == [(1, True)], "the later mapping to another feature does not count"
    mapped("compute_1gb", 100, starts[4])
    assert ended(starts[2]) == [(4, False)]
    assert ended(starts[2]) == [(4, True)], "it was ended at its own start"
    mapped("compute_1gb", 101, starts[2])
    mapped("compute_1gb", 102, starts[3])
    assert ended(starts[2]) == [(2, False), (3, False)]
    assert ended(starts[2]) == [(2, True), (3, True), (4, True)]
    assert ended(starts[1]) == [(1, True), (2, True), (3, True), (4, True)]
    with pytest.raises(Refused, match="cannot end the feature compute_1gb"):
        ended(starts[4] + WINDOW_MS)


def test_feature_end_repeated_returns_each_end_of_last_call(fleet: Fleet) -> None:
    """An end of an earlier call is not among them."""
    fleet.clock.at_ms = T0 + 1
    starts = [next_window(fleet.clock.at_ms) + window * WINDOW_MS for window in range(6)]

    def mapped(memory_mb: int, window: int, feature: str = "big") -> None:
        more = {"kind": "exact", "memory_mb": memory_mb, "unit": "s", "from_ms": starts[window]}
        write(fleet.engine, lambda c: map_size(c, feature, fleet.by, **more))  # type: ignore[arg-type]

    def ended() -> list[tuple[int, str, bool, bool]]:
        done = write(fleet.engine, lambda c: end_feature(c, "big", fleet.by))
        return [((one.start_ms - starts[0]) // WINDOW_MS, one.selector, one.unbegun, one.again) for one in done]

    mapped(99, 5)
    assert ended() == [(5, "exact 99 MB", True, False)]
    for size, window, feature in ((98, 0, "big"), (98, 3, "other"), (98, 4, "big"), (100, 2, "big")):
        mapped(size, window, feature)
    fleet.clock.at_ms = starts[0]
    ends = ((0, "exact 98 MB", False), (2, "exact 100 MB", True), (4, "exact 98 MB", True))
    assert ended() == [(*one, False) for one in ends]
    fleet.clock.at_ms += 3 * WINDOW_MS
    assert ended() == [(*one, True) for one in ends]
    mapped(100, 5, "other")
    assert ended() == [(0, "exact 98 MB", False, True), (4, "exact 98 MB", True, True)]


def test_feature_end_leaves_later_usage_pending(fleet: Fleet) -> None:
    write(fleet.engine, lambda c: end_feature(c, "compute_1gb", fleet.by))
    fleet.sample("acme", T0 - 1)
    fleet.sample("acme", T0)
    fleet.assign("globex", from_ms=T0 - WINDOW_MS)
    fleet.sample("globex", T0 - 1)
    fleet.sample("globex", T0)
    report = fleet.tick_windows(2)
    assert [(row[0], row[1]) for row in fleet.pushes()] == [("globex", T0 - WINDOW_MS)]
    assert report.left.pending_s == {"no_assignment": 60, "no_mapping": 120}


def test_prune_closes_old_windows_without_billing(fleet: Fleet, provider: FakeProvider) -> None:
    fleet.sample("acme", T0 + 1)
    fleet.sample("nobody", T0 + 1)
    fleet.tick_windows(2)
    fleet.clock.at_ms = T0 + 60 * DAY_MS
    with pytest.raises(UsageError, match="35 days"):
        prune(partial(write, fleet.engine), fleet.clock.at_ms - DAY_MS, fleet.by)
    fleet.tick()
    done = prune(partial(write, fleet.engine), T0 + DAY_MS, fleet.by)
    assert (done.samples, done.held_back) == (1, 1)  # what is pending holds its organisation back
    assert read(fleet.engine, verify).breaches == []
    late = fleet.sample("acme", T0 + 7)
    report = fleet.tick_windows(1)
    assert report.left.quarantined == {"below_floor": 1}
    assert fleet.rows("SELECT sample_id FROM late_quarantine") == [(late,)]
    assert do_replay(fleet, T0, T0 + 2 * DAY_MS).pushes == 0
    assert billed(provider) == 60


def in_whole_units(engine: sa.Engine, *used: int, rejected: Sequence[int]) -> tuple[Fleet, FakeProvider, list[str]]:
    """So many seconds in a window each, at a provider of minutes that rejects the pushes of some of these windows."""
    provider = FakeProvider(capabilities(unit=60))
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake")
    named = [fleet.sample("acme", T0 + place * WINDOW_MS, seconds) for place, seconds in enumerate(used)]
    for place in rejected:
        provider.answers[f"usage:acme:{T0 + place * WINDOW_MS}:compute_1gb"] = Rejected("no such meter")
    fleet.tick_windows(len(used) + 1)
    return fleet, provider, named


def carried(fleet: Fleet) -> object:
    return fleet.one("SELECT CAST(COALESCE(SUM(carry_qty), 0) AS BIGINT) FROM carries")


def test_withdrawn_part_of_rejected_unit_is_not_refunded(engine: sa.Engine) -> None:
    fleet, provider, (first, second) = in_whole_units(engine, 50, 10, rejected=[1])
    write(engine, lambda c: withdrawals.withdraw(c, [first], fleet.by))
    report = fleet.tick_windows(1)
    assert (billed(provider), report.sealed, report.left.dirty_windows) == (0, 0, 1)
    write(engine, lambda c: withdrawals.withdraw(c, [second], fleet.by))
    report = fleet.tick_windows(2)
    assert (billed(provider), carried(fleet), report.left.dirty_windows, report.exit_status) == (0, 0, 0, 0)
    assert read(engine, verify).clean


def test_whole_units_left_by_void_are_sent(engine: sa.Engine) -> None:
    fleet, provider, (_, wrong, _) = in_whole_units(engine, 59, 1, 59, rejected=[1])
    assert (billed(provider), carried(fleet)) == (0, 59)
    write(engine, lambda c: withdrawals.withdraw(c, [wrong], fleet.by))
    fleet.tick_windows(1)
    assert (billed(provider), carried(fleet), fleet.tick_windows(1).sealed) == (60, 58, 0)
    assert read(engine, verify).clean


def test_whole_units_charged_in_excess_after_void_are_refunded(engine: sa.Engine) -> None:
    used = (119, 1) * 3
    fleet, provider, named = in_whole_units(engine, *used, rejected=[0, 2, 4])
    assert (billed(provider), carried(fleet)) == (180, 0)
    write(engine, lambda c: withdrawals.withdraw(c, named[::2], fleet.by))
    fleet.tick_windows(1)
    assert (billed(provider), carried(fleet), fleet.tick_windows(1).sealed) == (0, 3, 0)
    assert read(engine, verify).clean


@pytest.mark.both_databases
def test_whole_units_are_sent_and_the_rest_is_carried(engine: sa.Engine) -> None:
    provider = FakeProvider(capabilities(unit=60, negatives=False))
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake")
    for window, seconds in enumerate((100, 50, 10, 59)):
        fleet.sample("acme", T0 + window * WINDOW_MS, seconds)
    wrong = fleet.sample("acme", T0 + 4 * WINDOW_MS, 300)
    fleet.tick_windows(6)
    # 100, 150, 160, 219, 519 in all: whole minutes of them are 1, 2, 2, 3, 8.
    assert fleet.rows("SELECT sealed_qty, sent_qty, state FROM pushes ORDER BY window_ms") == [
        (100, 60, "accepted"),
        (50, 60, "accepted"),
        (10, 0, "carried"),
        (59, 60, "accepted"),
        (300, 300, "accepted"),
    ]
    assert fleet.one("SELECT carry_qty FROM carries") == 39
    write(fleet.engine, lambda c: withdrawals.withdraw(c, [wrong], fleet.by))
    fleet.tick_windows(1)
    assert fleet.one("SELECT carry_qty FROM carries") == -261  # a negative is not taken: it is owed to the customer
    fleet.sample("acme", fleet.clock.at_ms, 330)
    fleet.tick_windows(2)
    assert (billed(provider), fleet.one("SELECT carry_qty FROM carries")) == (540, 9)


@pytest.mark.parametrize("odd", ["a'; DROP TABLE orgs;--", "a:b :lo \\:hi", "100%", "\u00fc\u4e2d {scope}", 'q"x'])
def test_replay_of_org_with_special_characters_bills_usage(fleet: Fleet, provider: FakeProvider, odd: str) -> None:
    fleet.assign(odd, provider="fake", from_ms=T0)
    fleet.tick_windows(3)
    fleet.sample(odd, T0 + 5, 11)
    fleet.write("UPDATE buckets SET cursor = 9000000000000, epoch = epoch + 1")
    assert do_replay(fleet, T0, T0 + 1, org=odd).quantity == 11
    assert list(provider.charged) == [f"usage:{odd}:{T0}:compute_1gb"]


def test_prune_interrupted_is_finished_by_repeat(fleet: Fleet) -> None:
    """The lock is for the floors; samples go a window at a time, and what was cut off is gone on with."""
    for number in range(3):
        fleet.sample("acme", T0 + number * WINDOW_MS + 1)
    fleet.tick(T0 + 40 * DAY_MS, accept_clock=True)
    work: list[str] = []

    def cut_off(what: Callable[[sa.Connection], R], *, rollback: bool = False) -> R:
        work.append(getattr(what, "func", what).__name__)
        if work.count("_delete_between") == 2:
            raise KeyboardInterrupt
        return write(fleet.engine, what, rollback=rollback)

    with pytest.raises(KeyboardInterrupt):
        prune(cut_off, T0 + DAY_MS, fleet.by)
    assert work[0] == "raise_floors"
    assert fleet.one("SELECT MIN(floor_ms) FROM orgs") == T0 + DAY_MS
    assert prune(partial(write, fleet.engine), T0 + DAY_MS, fleet.by, dry_run=True).samples == 2
    assert prune(partial(write, fleet.engine), T0 + DAY_MS, fleet.by).samples == 2
    assert fleet.one("SELECT COUNT(*) FROM usage_samples") == 0


def test_prune_adapts_windows_per_transaction_to_portion(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction a window is slow where windows are small; one for all would take minutes where they are large."""
    monkeypatch.setattr(pruning, "AT_ONCE", 4)
    for number in range(40):
        for second in range(1 if number < 20 else 3):
            fleet.sample("acme", T0 + number * WINDOW_MS + second)
    fleet.tick(T0 + 40 * DAY_MS, accept_clock=True)
    portions: list[int] = []

    def counted(what: Callable[[sa.Connection], R], *, rollback: bool = False) -> R:
        done = write(fleet.engine, what, rollback=rollback)
        if getattr(what, "func", what).__name__ == "_delete_between":
            assert isinstance(done, int)
            portions.append(done)
        return done

    assert prune(counted, T0 + DAY_MS, fleet.by).samples == 80
    assert portions[:6] == [1, 2, 4, 4, 4, 4], "twice as many windows while half a portion or less was found"
    assert max(portions) == 10 and portions.count(3) >= 10, "and half as many after more than a portion"
    assert portions.count(0) <= 2, "an hour, then all the windows behind it, where there are none"
    assert prune(counted, T0 + WINDOW_MS, fleet.by).samples == 0
    assert fleet.one("SELECT MIN(floor_ms) FROM orgs") == T0 + DAY_MS, "no floor goes back"


def test_sample_arriving_below_floor_during_prune_is_quarantined(fleet: Fleet) -> None:
    """No seal has looked at it: without a look it would be gone without a trace (S4)."""
    fleet.sample("acme", T0 + 1)
    fleet.tick(T0 + 40 * DAY_MS, accept_clock=True)

    def late(what: Callable[[sa.Connection], R], *, rollback: bool = False) -> R:
        done = write(fleet.engine, what, rollback=rollback)
        if getattr(what, "func", what).__name__ == "raise_floors":
            fleet.sample("acme", T0 + 2, 77)
        return done

    assert prune(late, T0 + DAY_MS, fleet.by).samples == 1
    assert fleet.rows("SELECT interval_s FROM usage_samples") == [(77,)]
    fleet.tick(T0 + 40 * DAY_MS + WINDOW_MS, accept_clock=True)
    assert fleet.one("SELECT COUNT(*) FROM late_quarantine") == 1
    assert prune(partial(write, fleet.engine), T0 + DAY_MS, fleet.by).samples == 1


def test_billed_undeleted_sample_is_not_late_after_arrivals_are_reread(fleet: Fleet) -> None:
    """A prune that is cut off leaves billed samples below the floor: whoever bills what is told as late bills twice."""
    fleet.sample("acme", T0 + 1)
    fleet.tick(T0 + 40 * DAY_MS, accept_clock=True)
    write(fleet.engine, lambda c: raise_floors(c, before=T0 + DAY_MS, by=fleet.by))
    fleet.clock.at_ms += 1
    late = fleet.sample("acme", T0 + 2, 77)
    fleet.write("UPDATE buckets SET cursor = 0, epoch = epoch + 1")
    fleet.tick(fleet.clock.at_ms + WINDOW_MS, accept_clock=True)
    assert fleet.rows("SELECT sample_id FROM late_quarantine") == [(late,)]


def test_feature_mapping_with_different_unit_is_refused(fleet: Fleet) -> None:
    """Its rate, its meter and its carry have one: seconds and MB-seconds would be added up and charged alike."""

    def add(memory_mb: int | None, unit: str, start: int, kind: str = "exact", feature: str = "half") -> None:
        more = {"kind": kind, "memory_mb": memory_mb, "unit": unit, "from_ms": start}
        write(fleet.engine, lambda c: map_size(c, feature, fleet.by, **more))  # type: ignore[arg-type]

    later = T0 + DAY_MS
    add(100, "mb_s", later)
    add(100, "s", later)  # it had not begun, and is replaced
    for size, kind, start in ((101, "exact", later), (None, "up_to", later), (100, "exact", later + DAY_MS)):
        with pytest.raises(Refused, match=rf"the unit of half is s \(exact 100 MB, in windows from {utc(later)}\)"):
            add(size, "mb_s", start, kind)
    write(fleet.engine, lambda c: end_feature(c, "half", fleet.by, from_ms=later + DAY_MS))
    with pytest.raises(Refused, match="Pass --unit s, or use another feature"):
        add(100, "mb_s", later + 2 * DAY_MS)
    add(101, "s", later)
    add(102, "mb_s", later, feature="other")
