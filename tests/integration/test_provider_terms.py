"""A provider's terms: units, shadow mode, cut-over, pauses; other terms wait for a person."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.cli.app import App
from drawdown.cli.nouns import pushes
from drawdown.cli.nouns import recover as recover_command
from drawdown.cli.settings import Settings
from drawdown.providers.protocol import FoundPush, PushRefused, PushRequest, ReadFailed, RetryAt, Unknown
from drawdown.providers.registry import Registry
from drawdown.providers.validated_provider import ValidatedProvider
from drawdown.schema.database import read, write
from drawdown.schema.errors import DatabaseBusy, Refused
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.catalog.terms import wire_since
from drawdown.worker.engine import runner
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.provider import actions as providers
from drawdown.worker.push.actions import intend, require_lost
from drawdown.worker.push.adopt import adopt_excess
from drawdown.worker.push.confirm import OTHER_TERMS, confirm
from drawdown.worker.push.push import push
from drawdown.worker.push.rows import find_pushes, was_sent_before
from drawdown.worker.push.webhooks import apply_notices
from drawdown.worker.usage import withdrawals
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.providing import ASKED, KEY, clean, fleet_of, settle, states
from tests.integration.reconciling import compare
from tests.integration.test_lost import recovered
from tests.world import T0, Fleet


def test_paused_provider_receives_pushes_after_resume(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine)
    write(fleet.engine, lambda c: providers.pause(c, "fake", fleet.by))
    report = fleet.tick_windows(2)
    assert (report.sealed, report.left.due, provider.seen) == (1, 1, [])
    write(fleet.engine, lambda c: providers.resume(c, "fake", fleet.by))
    assert fleet.tick_windows(1).accepted == 1
    with pytest.raises(Refused, match="not paused"):
        write(fleet.engine, lambda c: providers.resume(c, "fake", fleet.by))


def test_usage_before_provider_declares_terms_is_pending(engine: sa.Engine) -> None:
    """Without a key other settings may be missing too: whatever was sealed by then could be in the wrong unit."""
    fleet, provider = fleet_of(engine, unit=60)
    report = fleet.tick(T0 + 3 * WINDOW_MS, dormant={"fake": "FAKE_KEY is not set"})
    assert (report.sealed, report.left.pending_s, provider.seen) == (0, {"no_provider": 60}, [])
    clean(fleet)
    assert fleet.tick_windows(1).accepted == 1
    assert fleet.tick(fleet.clock.at_ms, dormant={"fake": "FAKE_KEY is not set"}).exit_status == 0
    fleet.sample("acme", fleet.clock.at_ms, 100)
    assert fleet.tick(fleet.clock.at_ms + 2 * WINDOW_MS, dormant={"fake": "FAKE_KEY is not set"}).left.due == 1, (
        "its terms are known by now"
    )
    clean(fleet)


def test_unusable_provider_that_bills_org_is_reported(engine: sa.Engine) -> None:
    fleet, _ = fleet_of(engine)
    broken = {"fake": "UsageError: a setting", "nobody": "ImportError: x"}
    fleet.tick_windows(2)
    fleet.extra = {}
    report = fleet.tick(fleet.clock.at_ms, broken=broken)
    assert (report.problems, report.exit_status) == (["fake: UsageError: a setting"], 1)
    assert fleet.tick(fleet.clock.at_ms).problems == ["fake: its package is not installed on this machine"]


def test_changed_terms_before_accept_are_reported_and_pushes_wait(engine: sa.Engine) -> None:
    """A meter renamed, a unit changed, shadow mode switched: machines with different settings must not fight (S5)."""
    fleet, provider = fleet_of(engine, **ASKED)
    fleet.tick_windows(2)
    fleet.sample("acme", fleet.clock.at_ms, 90)
    fleet.extra = {"fake": (other := FakeProvider(capabilities(**{**ASKED, "unit": 60, "names": {"x": "y"}})))}
    report = fleet.tick_windows(2)
    assert (report.sealed, report.left.due, report.exit_status, other.seen) == (1, 1, 1, [])
    assert "unit was 1, is 60" in report.problems[0] and "names was {}" in report.problems[0]
    can = other.capabilities
    assert providers.accept(partial(write, fleet.engine), "fake", can, fleet.by) == 1
    report = fleet.tick_windows(1)
    assert [one.quantity for one in other.seen] == [60] and report.problems == []
    assert states(fleet)[1:] == [(0, 90, 90, "voided"), (1, 90, 60, "accepted")]
    clean(fleet)
    with pytest.raises(Refused, match="have not changed"):
        providers.accept(partial(write, fleet.engine), "fake", can, fleet.by)
    fleet.extra = {"fake": provider}
    assert fleet.tick_windows(1).exit_status == 1


def test_process_with_former_terms_does_not_send_or_look_up(engine: sa.Engine) -> None:
    """It began before another machine accepted the terms: it would send 60 units as 60 seconds, or miss a charge."""
    fleet, provider = fleet_of(engine, **ASKED)
    write(engine, lambda c: providers.pause(c, "fake", fleet.by))
    fleet.tick_windows(2)
    other = FakeProvider(capabilities(**{**ASKED, "unit": 60, "names": {"x": "y"}}))
    former = fleet.context()
    providers.accept(partial(write, engine), "fake", other.capabilities, fleet.by)
    fleet.extra = {"fake": other}
    assert fleet.tick_windows(1).sealed == 1
    write(engine, lambda c: providers.resume(c, "fake", fleet.by))
    world = runner.World(engine, {"fake": ValidatedProvider(provider)}, fleet.cells, fleet.clock)
    with pytest.raises(Refused, match="cannot bill by fake: other terms were accepted"):
        runner.run(push(former, "fake"), world)
    other.answers[f"{KEY}:r1"] = Unknown("cut")
    fleet.tick_windows(1)
    fleet.clock.at_ms += WINDOW_MS
    with pytest.raises(Refused, match="cannot bill by fake"):
        runner.run(confirm(former, "fake"), world)
    other.lookups[f"{KEY}:r1"] = FoundPush(60)
    assert fleet.tick_windows(1).accepted == 1
    assert (provider.seen, [one.quantity for one in other.seen]) == ([], [60])
    clean(fleet)


def test_push_sent_under_former_names_is_not_judged_by_lookup(engine: sa.Engine) -> None:
    """The new name shows no charge, and the former one may have it: to bill it again would charge it twice.

    The command that accepts the new names began before the push was sent.
    """
    fleet, provider = fleet_of(engine, **ASKED, cancel_within_ms=DAY_MS)
    began = fleet.by
    provider.answers[KEY] = Unknown("cut")
    fleet.tick_windows(2)
    provider.answers.clear()
    settle(fleet)
    assert states(fleet) == [(0, 60, 60, "accepted")]
    fleet.clock.at_ms += WINDOW_MS
    other = FakeProvider(capabilities(**{**ASKED, "cancel_within_ms": DAY_MS, "names": {"x": "y"}}))
    providers.accept(partial(write, engine), "fake", other.capabilities, began)
    fleet.extra = {"fake": other}
    can = {"fake": other.capabilities}
    with pytest.raises(Refused, match=f"cannot cancel {KEY}: it was sent on earlier terms of fake"):
        write(engine, lambda c: intend(c, [KEY], fleet.by, can))
    rows = list(read(engine, lambda c: find_pushes(c, [KEY])).values())
    world = runner.World(engine, fleet.providers, fleet.cells, fleet.clock)
    since_ms = {"fake": read(engine, lambda c: wire_since(c, "fake"))}
    with pytest.raises(Refused, match=f"cannot void {KEY}: it was sent on earlier terms of fake"):
        runner.run(require_lost(rows, can, {}, since_ms, fleet.clock.at_ms + DAY_MS), world)
    write(engine, lambda c: apply_notices(c, "fake", [PushRefused(KEY, "no_meter")], fleet.clock.at_ms))
    for _ in range(4):
        fleet.tick(fleet.clock.at_ms + DAY_MS)
    assert (states(fleet), other.seen) == ([(0, 60, 60, "in_doubt")], [])
    assert fleet.one("SELECT last_error FROM pushes") == OTHER_TERMS
    other.lookups[KEY] = FoundPush(60)
    fleet.tick(fleet.clock.at_ms + DAY_MS)
    assert states(fleet) == [(0, 60, 60, "accepted")], "its key has its charge"
    clean(fleet)


def test_terms_accepted_during_reconcile_leave_provider_uncorrected(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows nothing in the former place about pushes that follow. Other providers are compared."""
    fleet, provider = fleet_of(engine, **ASKED)
    fleet.tick_windows(2)
    provider.charged.clear()
    fleet.clock.at_ms += DAY_MS
    there = provider.totals

    async def totals(customer_id: str, from_ms: int, to_ms: int) -> Mapping[str, int] | ReadFailed:
        monkeypatch.setattr(provider, "totals", there)
        can = capabilities(**{**ASKED, "names": {"x": "y"}})
        providers.accept(partial(write, engine), "fake", can, fleet.by)
        return await there(customer_id, from_ms, to_ms)

    monkeypatch.setattr(provider, "totals", totals)
    done = compare(fleet, correct=True)
    assert done.unusable == ["fake"] and "other terms were accepted" in done.skipped["fake"]
    assert states(fleet) == [(0, 60, 60, "accepted")]
    assert fleet.rows("SELECT verdict FROM reconciliations") == [], "no later run would compare that day again"


def test_push_without_known_send_counts_as_sent_at_its_seal() -> None:
    adopted: Any = SimpleNamespace(first_attempt_ms=None, sealed_at_ms=T0)
    assert was_sent_before(adopted, T0 + 1) and not was_sent_before(adopted, T0)


def test_terms_accept_with_unsettled_push_is_refused(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, **ASKED)
    provider.answers[KEY] = Unknown("cut")
    fleet.tick_windows(2)
    can = capabilities(**{**ASKED, "unit": 60})
    with pytest.raises(Refused, match="have not settled 1 push that Drawdown sent on the old terms"):
        providers.accept(partial(write, fleet.engine), "fake", can, fleet.by)


def test_changed_way_is_reported_until_accepted(engine: sa.Engine) -> None:
    """What was sent one way may be unknown on the other: the same bytes would be charged again."""
    fleet, provider = fleet_of(engine, **ASKED)
    fleet.tick_windows(2)
    for way, before in (("stream", "v1"), ("", "stream")):
        provider.capabilities = capabilities(**{**ASKED, "way": way})
        report = fleet.tick_windows(1)
        assert f"way was {before}, is {way or 'v1'}" in report.problems[0]
        providers.accept(partial(write, fleet.engine), "fake", provider.capabilities, fleet.by)
        assert fleet.tick_windows(1).problems == []
    clean(fleet)


def test_terms_accept_voids_push_proven_unsent(engine: sa.Engine) -> None:
    """A wrong key and a wrong meter, fixed together: nothing of it ever arrived."""
    fleet, provider = fleet_of(engine, **ASKED)
    provider.answers[KEY] = RetryAt(0, "the key is refused")
    fleet.tick_windows(2)
    provider.answers.clear()
    provider.capabilities = capabilities(**{**ASKED, "names": {"x": "y"}})
    assert providers.accept(partial(write, fleet.engine), "fake", provider.capabilities, fleet.by) == 1
    assert fleet.tick_windows(1).accepted == 1
    assert states(fleet) == [(0, 60, 60, "voided"), (1, 60, 60, "accepted")]
    clean(fleet)


def test_terms_accept_interrupted_keeps_old_terms_until_repeated(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever seals waits for one portion, and not for all; the old terms hold until the last of them."""
    monkeypatch.setattr(providers, "CHUNK", 2)
    provider = FakeProvider(capabilities(**ASKED))
    fleet = Fleet(engine, extra={"fake": provider})
    orgs = [f"org-{number}" for number in range(5)]
    fleet.assign(*orgs, provider="fake")
    for org in orgs:
        fleet.sample(org, T0 + 1, 60)
    write(engine, lambda c: providers.pause(c, "fake", fleet.by))
    fleet.tick_windows(2)
    fleet.extra = {"fake": (other := FakeProvider(capabilities(**{**ASKED, "unit": 60})))}
    work, kept = [], 0

    def breaks(given: Any, *, rollback: bool = False) -> Any:
        work.append(given)
        if len(work) == kept + 1:
            raise DatabaseBusy("the database is locked")
        return write(engine, given, rollback=rollback)

    can = other.capabilities
    assert providers.accept(partial(write, engine), "fake", can, fleet.by, dry_run=True) == 5
    with pytest.raises(DatabaseBusy, match=r"^the database is locked$"):
        providers.accept(breaks, "fake", can, fleet.by)
    work, kept = [], 2
    with pytest.raises(
        DatabaseBusy, match=r"locked; 4 unsent pushes were voided before that, .* still has its old terms"
    ):
        providers.accept(breaks, "fake", can, fleet.by)
    assert fleet.one("SELECT COUNT(*) FROM pushes WHERE state = 'voided'") == 4
    assert fleet.tick_windows(1).sealed == 4, "anew, on the old terms, which hold: nothing is lost meanwhile"
    assert providers.accept(partial(write, engine), "fake", can, fleet.by) == 5
    action = json.loads(str(fleet.one("SELECT details FROM operator_actions WHERE action = 'provider_accept'")))
    assert action["voided"] == 5
    write(engine, lambda c: providers.resume(c, "fake", fleet.by))
    fleet.tick_windows(1)
    assert [one.quantity for one in other.seen] == [60] * 5 and provider.seen == []
    clean(fleet)


def test_provider_switched_to_live_is_sent_usage_from_next_window(engine: sa.Engine) -> None:
    """Late samples and withdrawals of windows that another system billed stay in shadow."""
    fleet, provider = fleet_of(engine, live_from_ms=2**52)
    wrong = fleet.sample("acme", T0 + 2, 7)
    fleet.tick_windows(2)
    provider.capabilities = capabilities()
    providers.accept(partial(write, fleet.engine), "fake", provider.capabilities, fleet.by)
    write(fleet.engine, lambda c: withdrawals.withdraw(c, [wrong], fleet.by))
    fleet.sample("acme", T0 + 3, 11)
    live = -(-fleet.clock.at_ms // WINDOW_MS) * WINDOW_MS
    fleet.sample("acme", live, 30)
    fleet.tick_windows(4)
    assert [(one.quantity, one.ts // WINDOW_MS) for one in provider.seen] == [(30, live // WINDOW_MS)]
    clean(fleet)


def test_unit_of_provider_applies_while_plugin_is_missing(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, unit=60)
    fleet.tick_windows(2)
    fleet.extra = {}
    fleet.sample("acme", fleet.clock.at_ms, 100)
    assert fleet.tick_windows(2).left.due == 1
    fleet.extra = {"fake": provider}
    fleet.tick_windows(1)
    assert [one.quantity for one in provider.seen] == [60, 60]
    assert fleet.one("SELECT carry_qty FROM carries") == 40
    clean(fleet)


def test_feature_with_own_unit_is_sent_in_that_unit(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, units={"compute_1gb": 50, "compute_4gb": 7})
    fleet.sample("acme", T0 + 2, 30, memory_mb=4096)
    fleet.sample("acme", T0 + 2, 30, memory_mb=8192)
    fleet.tick_windows(2)
    sent = {one.feature: one.quantity for one in provider.seen}
    assert sent == {"compute_1gb": 50, "compute_4gb": 28, "compute_8gb": 30}
    clean(fleet)


@pytest.mark.parametrize("unit", [1, 7])
def test_usage_before_cut_over_is_sealed_in_shadow(engine: sa.Engine, unit: int) -> None:
    fleet, provider = fleet_of(engine, live_from_ms=T0 + WINDOW_MS, unit=unit, totals_lag_ms=0)
    fleet.sample("acme", T0 + WINDOW_MS, 70)
    report = fleet.tick_windows(3)
    assert (report.sealed, report.exit_status) == (2, 0)
    assert [one.quantity for one in provider.seen] == [70], "what is in shadow leaves nothing over for what is sent"
    fleet.sample("acme", T0 + 2)  # late, and still before the cut-over
    assert fleet.tick_windows(1).sealed == 1 and len(provider.seen) == 1
    assert states(fleet) == [(0, 60, 60, "shadow"), (1, 60, 60, "shadow"), (0, 70, 70, "accepted")]
    clean(fleet)


def test_usage_without_customer_is_pending_until_assigned(engine: sa.Engine) -> None:
    provider = FakeProvider(capabilities(own_customer_ids=True))
    fleet = Fleet(engine, extra={"fake": provider})

    write(engine, lambda c: assign(c, ["acme"], "fake", fleet.by, customer_id=""))
    fleet.sample("acme", T0 + 1)
    report = fleet.tick_windows(2)
    assert (report.sealed, report.left.pending_s, report.exit_status) == (0, {"no_customer": 60}, 0)
    clean(fleet)
    (made,) = write(engine, lambda c: assign(c, ["acme"], "fake", fleet.by, customer_id="cus_1"))
    assert (made.start_ms, made.waited.resolved_s) == (T0, 60)
    report = fleet.tick_windows(1)
    assert (report.accepted, report.left.pending_s) == (1, {})
    assert [one.customer_id for one in provider.seen] == ["cus_1"]
    clean(fleet)


def test_lost_push_is_not_judged_under_names_accepted_since(engine: sa.Engine) -> None:
    """The lost history charged it under the former name, and its samples are imported again after the new one."""
    provider = FakeProvider(capabilities(**ASKED))
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake")
    fleet.sample("acme", T0 + 20 * WINDOW_MS, 5)
    fleet.tick(T0 + MINUTE_MS)
    provider.charged[KEY] = PushRequest(KEY, "acme", "compute_1gb", 60, T0, 1)
    fleet.clock.at_ms = T0 + 2 * WINDOW_MS
    recovered(fleet)
    fleet.tick_windows(25)
    fleet.tick(fleet.clock.at_ms + 2 * DAY_MS)
    other = FakeProvider(capabilities(**{**ASKED, "names": {"x": "y"}}))
    providers.accept(partial(write, engine), "fake", other.capabilities, fleet.by)
    fleet.extra = {"fake": other}
    fleet.sample("acme", T0 + 1, 60)
    for _ in range(6):
        fleet.tick(fleet.clock.at_ms + DAY_MS)
    assert other.seen == [] and fleet.one(f"SELECT last_error FROM pushes WHERE key = '{KEY}'") == OTHER_TERMS


def test_push_after_backup_from_before_accepted_terms_waits_for_person(engine: sa.Engine) -> None:
    """The lost history accepted the other name and charged under it. The database has the former name again."""
    fleet, provider = fleet_of(engine, **ASKED)
    fleet.tick_windows(2)
    window = T0 + 5 * WINDOW_MS
    key = f"usage:acme:{window}:compute_1gb"
    other = FakeProvider(capabilities(**{**ASKED, "names": {"x": "y"}}))
    other.charged[key] = PushRequest(key, "acme", "compute_1gb", 60, window, 1)
    fleet.extra = {"fake": other}
    fleet.clock.at_ms = window + 4 * WINDOW_MS
    recovered(fleet)
    fleet.sample("acme", window + 1, 60)
    fleet.tick(fleet.clock.at_ms + MINUTE_MS)
    with pytest.raises(Refused, match="Restore the old settings"):
        providers.accept(partial(write, engine), "fake", other.capabilities, fleet.by)
    provider.seen.clear()
    fleet.extra = {"fake": provider}
    for _ in range(6):
        fleet.tick(fleet.clock.at_ms + DAY_MS)
    assert key not in [one.key for one in provider.seen]


def test_names_dated_by_recovery_stay_dated_for_provider_without_usage(engine: sa.Engine) -> None:
    """The backup predates the first usage. The next tick stores the terms of this machine by itself."""
    fleet = Fleet(engine, extra={"fake": FakeProvider(capabilities(**ASKED))})
    fleet.assign("acme", provider="fake")
    fleet.tick(T0 + MINUTE_MS)
    other = FakeProvider(capabilities(**{**ASKED, "names": {"x": "y"}}))
    fleet.extra = {"fake": other}
    fleet.clock.at_ms = T0 + 4 * WINDOW_MS
    found = recovered(fleet)
    assert found.other_terms == ["fake"]
    for dry_run, advice in ((True, "correct them before you recover"), (False, "Later changes do not undo this")):
        (told,) = [line for line in recover_command._report(found, dry_run=dry_run) if "declares other terms" in line]
        assert told.startswith("fake ") and told.endswith(advice)
    fleet.sample("acme", T0 + 1, 60)
    for _ in range(3):
        fleet.tick(fleet.clock.at_ms + DAY_MS)
    assert (other.seen, fleet.one("SELECT last_error FROM pushes")) == ([], OTHER_TERMS)


def test_terms_accepted_during_void_lost_void_nothing(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lookup asked in the former place."""
    fleet, provider = fleet_of(engine, **ASKED)
    fleet.tick_windows(2)
    fleet.clock.at_ms += DAY_MS
    provider.charged.clear()
    other = capabilities(**{**ASKED, "names": {"x": "y"}})

    def accepts(steps: Any, world: Any) -> None:
        runner.run(steps, world)
        providers.accept(partial(write, engine), "fake", other, fleet.by)

    monkeypatch.setattr(pushes, "run", accepts)
    app = App(Settings(), fleet.clock)
    app._engine, app._registry = engine, Registry(fleet.providers)
    given: Any = SimpleNamespace(obj=app)
    with pytest.raises(Refused, match="cannot bill by fake: other terms were accepted"):
        pushes.void_lost(given, [KEY], evidence="their console", dry_run=False, actor="ann", reason="lost")
    assert states(fleet) == [(0, 60, 60, "accepted")]


def test_void_lost_on_machine_with_other_settings_is_refused(engine: sa.Engine) -> None:
    """It would not look the push up, and the next tick would bill it again."""
    fleet, _ = fleet_of(engine, **ASKED)
    fleet.tick_windows(2)
    fleet.clock.at_ms += DAY_MS
    fleet.extra = {"fake": FakeProvider(capabilities(**{**ASKED, "names": {"x": "y"}}))}
    app = App(Settings(), fleet.clock)
    app._engine, app._registry = engine, Registry(fleet.providers)
    given: Any = SimpleNamespace(obj=app)
    with pytest.raises(Refused, match=f"cannot void {KEY}: this machine cannot look it up at fake .its settings"):
        pushes.void_lost(given, [KEY], evidence="their console", dry_run=False, actor="ann", reason="lost")
    assert states(fleet) == [(0, 60, 60, "accepted")]


def test_push_sent_in_former_way_is_not_cancelled(engine: sa.Engine) -> None:
    """Stripe does not document that an adjustment reaches an event of its stream."""
    fleet, _ = fleet_of(engine, **{**ASKED, "way": "stream"})
    fleet.tick_windows(2)
    fleet.clock.at_ms += WINDOW_MS
    can = capabilities(**{**ASKED, "cancel_within_ms": DAY_MS})
    providers.accept(partial(write, engine), "fake", can, fleet.by)
    with pytest.raises(Refused, match=f"cannot cancel {KEY}: it was sent on earlier terms"):
        write(engine, lambda c: intend(c, [KEY], fleet.by, {"fake": can}))


def test_new_names_are_dated_after_adoption_during_accept(engine: sa.Engine) -> None:
    """What was adopted on the former terms is not compared on the new ones."""
    fleet, _ = fleet_of(engine, **ASKED)
    fleet.tick_windows(2)
    began = fleet.by
    fleet.clock.at_ms += WINDOW_MS
    row = read(engine, lambda c: find_pushes(c, [KEY]))[KEY]
    write(engine, lambda c: adopt_excess(c, row, 7, fleet.by, "their console"))
    can = capabilities(**{**ASKED, "names": {"x": "y"}})
    providers.accept(partial(write, engine), "fake", can, began)
    assert read(engine, lambda c: wire_since(c, "fake")) == fleet.clock.at_ms + 1
