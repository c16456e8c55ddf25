"""Providers that queue, forget, cannot be asked, bill elsewhere, or change their mind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run
from drawdown.cli.parsing import show_time
from drawdown.providers.protocol import (
    HOUR_MS,
    Absent,
    Accepted,
    CannotTell,
    CustomerChanged,
    Drawn,
    Duplicate,
    Found,
    LookupResult,
    Outcome,
    PushRefused,
    PushRequest,
    Queued,
    ReadFailed,
    Rejected,
    RetryAt,
    Unknown,
)
from drawdown.schema.database import read, write
from drawdown.schema.errors import DatabaseBusy, Refused
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.commands import credit, providers, pushes, withdrawals
from drawdown.worker.engine.context import LEASE_MS
from drawdown.worker.engine.effects import Push, Transaction
from drawdown.worker.push.notices import apply_notices
from drawdown.worker.push.push import push
from drawdown.worker.verify.verify import verify
from tests.fake_provider import FakeProvider, capabilities
from tests.world import T0, Fleet

KEY = f"usage:acme:{T0}:compute_1gb"
LAG = MINUTE_MS
ASKED: dict[str, object] = {
    "key_retention_ms": DAY_MS,
    "duplicate_proves_delivery": False,
    "lookup_lag_ms": LAG,
    "applied_within_ms": DAY_MS,
    "totals_lag_ms": LAG,
}


def fleet_of(engine: sa.Engine, **changes: object) -> tuple[Fleet, FakeProvider]:
    """One organisation at a provider of these capabilities, with a minute used in the first window."""
    provider = FakeProvider(capabilities(**changes))
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake")
    fleet.sample("acme", T0 + 1)
    return fleet, provider


def states(fleet: Fleet) -> list[tuple[object, ...]]:
    return fleet.rows("SELECT revision, sealed_qty, sent_qty, state FROM pushes ORDER BY window_ms, revision")


def settle(fleet: Fleet, ticks: int = 3) -> None:
    for _ in range(ticks):
        fleet.tick(fleet.clock.at_ms + LAG)


def clean(fleet: Fleet) -> None:
    assert read(fleet.engine, verify).breaches == []


def test_an_answer_that_was_lost_is_looked_up_and_not_sent_again(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, **ASKED)
    provider.answers[KEY] = Unknown("cut")
    provider.charged[KEY] = PushRequest(KEY, "acme", "compute_1gb", 60, T0, 1)
    assert fleet.tick_windows(2).left.queued == 1
    assert fleet.tick(fleet.clock.at_ms + LAG - 1).looked_up == 0, "the lag is not over"
    report = fleet.tick(fleet.clock.at_ms + 1)
    assert (report.looked_up, report.accepted, report.exit_status, len(provider.seen)) == (1, 1, 0, 1)
    clean(fleet)


def test_what_was_lost_on_the_way_is_sent_again_with_the_same_bytes(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, **ASKED)
    provider.answers[KEY] = Unknown("cut")
    fleet.tick_windows(2)
    provider.answers.clear()
    settle(fleet, 2)
    first, second = provider.seen
    assert (first.key, first.quantity, first.ts) == (second.key, second.quantity, second.ts)
    clean(fleet)


@pytest.mark.parametrize("claim", [Duplicate(), Queued(0)])
def test_what_is_claimed_and_absent_waits_until_it_cannot_be_applied_any_more(
    engine: sa.Engine, claim: Duplicate | Queued
) -> None:
    """Seen at Autumn: killed between claim and deduction; queued and dropped. Its key would only meet the claim."""
    fleet, provider = fleet_of(engine, **ASKED)
    provider.answers[KEY] = Unknown("cut")
    fleet.tick_windows(2)
    provider.answers[KEY] = claim
    for _ in range(15):
        fleet.tick(fleet.clock.at_ms + HOUR_MS)
    assert states(fleet) == [(0, 60, 60, "queued")]
    assert len(provider.seen) == 2, "a claim is not knocked at again"
    for _ in range(15):
        fleet.tick(fleet.clock.at_ms + HOUR_MS)
    assert states(fleet) == [(0, 60, 60, "voided"), (1, 60, 60, "accepted")]
    assert fleet.one("SELECT evidence_kind FROM voids") == "absent"
    clean(fleet)


def test_past_its_keys_life_a_push_is_looked_up_and_never_sent_blind(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, **{**ASKED, "duplicate_proves_delivery": True})
    provider.answers[KEY] = Unknown("cut")
    provider.lookups[KEY] = ReadFailed("503")
    fleet.tick_windows(2)
    for _ in range(5):
        fleet.tick(fleet.clock.at_ms + 5 * HOUR_MS)
    sent = len(provider.seen)
    for _ in range(5):
        fleet.tick(fleet.clock.at_ms + 5 * HOUR_MS)
    assert len(provider.seen) == sent and states(fleet) == [(0, 60, 60, "queued")]
    provider.lookups[KEY] = Found(60)
    fleet.tick(fleet.clock.at_ms + HOUR_MS)
    assert states(fleet) == [(0, 60, 60, "accepted")] and len(provider.seen) == sent
    clean(fleet)


def test_what_the_provider_will_not_say_waits_for_a_person(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, **ASKED)
    provider.answers[KEY] = Unknown("cut")
    provider.lookups[KEY] = CannotTell("the minute holds 90, not 60 or nothing")
    fleet.tick_windows(2)
    report = fleet.tick(fleet.clock.at_ms + LAG)
    assert (report.left.in_doubt, report.exit_status) == (1, 1)
    assert fleet.one("SELECT last_error FROM pushes") == "the minute holds 90, not 60 or nothing"
    settle(fleet)
    assert len(provider.seen) == 1
    write(fleet.engine, lambda c: pushes.resolve_accepted(c, [KEY], fleet.said, "seen in their console"))
    assert fleet.tick_windows(1).exit_status == 0
    clean(fleet)


@pytest.mark.parametrize(
    ("answer", "said", "again"),
    [
        (Found(60), "found", False),
        (Found(50), "found 50", False),
        (Absent(), "absent", True),
        (CannotTell("shared minute"), "cannot_tell", True),
        (ReadFailed("503"), "not_read", True),
    ],
)
def test_a_lookup_leaves_a_trace_that_push_show_tells(
    engine: sa.Engine, answer: LookupResult, said: str, again: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """N6: when it was looked up, what was answered, and when it is looked up again."""
    fleet, provider = fleet_of(engine, **ASKED)
    provider.answers[KEY] = Unknown("cut")
    provider.lookups[KEY] = answer
    fleet.tick_windows(2)
    show = ["--database-url", engine.url.render_as_string(hide_password=False).replace("+psycopg", ""), "push", "show"]
    assert run([*show, KEY]) == 0
    assert "looked up" not in capsys.readouterr().out
    if said == "absent":  # while it may still be applied
        write(engine, lambda c: c.execute(sa.text("UPDATE pushes SET due_at_ms = 0")))
        fleet.tick(fleet.clock.at_ms + 1000)
    else:
        fleet.tick(fleet.clock.at_ms + LAG)
    found = fleet.rows("SELECT looked_up_ms, lookup_answer FROM pushes WHERE key = :key", key=KEY)
    assert found == [(fleet.clock.at_ms, said)]
    assert run([*show, KEY]) == 0
    told = capsys.readouterr().out
    asked = f"looked up there 1 times, last answer: {said.replace('_', ' ')} at {show_time(fleet.clock.at_ms)}"
    assert asked in told and ("; again from " in told) == again


def test_history_that_was_lost_is_adopted_and_the_difference_sent(engine: sa.Engine) -> None:
    """R1: the provider knows this key at another quantity, from before a restore."""
    fleet, provider = fleet_of(engine, **{**ASKED, "duplicate_proves_delivery": True})
    provider.charged[KEY] = PushRequest(KEY, "acme", "compute_1gb", 50, T0, 1)
    fleet.tick_windows(2)
    report = fleet.tick(fleet.clock.at_ms + LAG)
    assert report.adopted == 1
    assert fleet.tick(fleet.clock.at_ms + LAG).accepted == 1
    assert states(fleet) == [(0, 60, 60, "voided"), (1, 50, 50, "accepted"), (2, 10, 10, "accepted")]
    assert sum(one.quantity for one in provider.charged.values()) == 60
    clean(fleet)


def test_success_that_charged_nothing_is_a_rejection_when_it_is_looked_up(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, **ASKED)
    provider.answers[KEY] = Queued(0)
    provider.lookups[KEY] = Found(0)
    fleet.tick_windows(2)
    assert fleet.tick(fleet.clock.at_ms + LAG).left.rejected == 1


def test_what_is_too_old_for_the_provider_is_kept_and_said(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, oldest_ms=35 * DAY_MS)
    report = fleet.tick(T0 + 36 * DAY_MS)
    assert (report.sealed, report.left.rejected, report.exit_status, provider.seen) == (1, 1, 1, [])
    assert "35 days back" in str(fleet.one("SELECT last_error FROM pushes"))
    write(fleet.engine, lambda c: pushes.resolve_accepted(c, [KEY], fleet.said, "invoice item ii_1, by hand"))
    assert fleet.tick_windows(1).exit_status == 0
    clean(fleet)


def test_what_is_too_large_for_the_provider_is_kept_and_said(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, max_quantity=59)
    assert fleet.tick_windows(2).left.rejected == 1
    assert provider.seen == [] and "above 59" in str(fleet.one("SELECT last_error FROM pushes"))
    clean(fleet)


def test_a_long_key_is_sent_as_a_hash_and_found_by_it(engine: sa.Engine) -> None:
    provider = FakeProvider(capabilities(max_key_chars=100))
    fleet = Fleet(engine, extra={"fake": provider})
    org = "o" * 150
    fleet.assign(org, provider="fake")
    fleet.sample(org, T0 + 1)
    fleet.tick_windows(2)
    (sent,) = provider.charged
    assert len(sent) <= 100 and fleet.one("SELECT wire_key FROM pushes") == sent
    (said,) = write(fleet.engine, lambda c: apply_notices(c, "fake", [PushRefused(sent, "no such meter")], T0))
    assert "is rejected now" in said and fleet.one("SELECT state FROM pushes") == "rejected"
    clean(fleet)


def test_what_is_refused_later_is_rejected_visibly_and_can_be_sent_anew(engine: sa.Engine) -> None:
    fleet, _provider = fleet_of(engine)
    fleet.tick_windows(2)
    notices = [PushRefused(KEY, "archived_meter"), PushRefused(KEY, "archived_meter")]
    write(fleet.engine, lambda c: apply_notices(c, "fake", notices, fleet.clock.at_ms))
    report = fleet.tick_windows(1)
    assert (report.left.rejected, report.exit_status) == (1, 1)
    assert fleet.one("SELECT last_error FROM pushes") == "refused later: archived_meter"
    write(fleet.engine, lambda c: pushes.retry(c, [KEY], fleet.said))
    assert fleet.tick_windows(1).accepted == 1
    clean(fleet)


def test_a_notice_of_a_push_of_another_provider_changes_nothing(engine: sa.Engine) -> None:
    fleet, _ = fleet_of(engine)
    fleet.tick_windows(2)
    write(fleet.engine, lambda c: apply_notices(c, "stripe", [PushRefused(KEY, "no_meter")], T0))
    assert states(fleet) == [(0, 60, 60, "accepted")]
    told = write(fleet.engine, lambda c: apply_notices(c, "fake", [PushRefused("usage:nobody:0:x", "no_meter")], T0))
    assert told == ["usage:nobody:0:x is no push of this database"]


def test_a_customer_that_changed_is_read_again(engine: sa.Engine) -> None:
    fleet, _ = fleet_of(engine)
    fleet.tick_windows(2)
    assert fleet.one("SELECT projection_due_ms FROM orgs") is None
    said = write(
        fleet.engine,
        lambda c: apply_notices(c, "fake", [CustomerChanged("acme"), CustomerChanged("who")], fleet.clock.at_ms),
    )
    assert "nobody here" in said[1] and fleet.tick_windows(1).projected == 1


def test_a_paused_provider_is_sent_nothing_and_loses_nothing(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine)
    write(fleet.engine, lambda c: providers.pause(c, "fake", fleet.said))
    report = fleet.tick_windows(2)
    assert (report.sealed, report.left.due, provider.seen) == (1, 1, [])
    write(fleet.engine, lambda c: providers.resume(c, "fake", fleet.said))
    assert fleet.tick_windows(1).accepted == 1
    with pytest.raises(Refused, match="not paused"):
        write(fleet.engine, lambda c: providers.resume(c, "fake", fleet.said))


def test_usage_waits_until_a_provider_declares_its_terms(engine: sa.Engine) -> None:
    """Without a key other settings may be missing too: whatever was sealed by then could be in the wrong unit."""
    fleet, provider = fleet_of(engine, unit=60)
    report = fleet.tick(T0 + 3 * WINDOW_MS, dormant=("fake",))
    assert (report.sealed, report.left.pending_s, provider.seen) == (0, {"no_provider": 60}, [])
    clean(fleet)
    assert fleet.tick_windows(1).accepted == 1
    assert fleet.tick(fleet.clock.at_ms, dormant=("fake",)).exit_status == 0
    fleet.sample("acme", fleet.clock.at_ms, 100)
    assert fleet.tick(fleet.clock.at_ms + 2 * WINDOW_MS, dormant=("fake",)).left.due == 1, "its terms are known by now"
    clean(fleet)


def test_a_provider_that_cannot_be_used_needs_a_person_where_it_bills_somebody(engine: sa.Engine) -> None:
    fleet, _ = fleet_of(engine)
    broken = {"fake": "UsageError: a setting", "nobody": "ImportError: x"}
    fleet.tick_windows(2)
    fleet.extra = {}
    report = fleet.tick(fleet.clock.at_ms, broken=broken)
    assert (report.problems, report.exit_status) == (["fake: UsageError: a setting"], 1)
    assert fleet.tick(fleet.clock.at_ms).problems == ["fake: its package is not installed here"]


def test_other_terms_wait_for_a_person_and_send_nothing(engine: sa.Engine) -> None:
    """A meter renamed, a unit changed, shadow mode switched: two hosts with different settings must not fight (S5)."""
    fleet, provider = fleet_of(engine, **ASKED)
    fleet.tick_windows(2)
    fleet.sample("acme", fleet.clock.at_ms, 90)
    fleet.extra = {"fake": (other := FakeProvider(capabilities(**{**ASKED, "unit": 60, "names": {"x": "y"}})))}
    report = fleet.tick_windows(2)
    assert (report.sealed, report.left.due, report.exit_status, other.seen) == (1, 1, 1, [])
    assert "unit was 1, is 60" in report.problems[0] and "names was {}" in report.problems[0]
    can = other.capabilities
    assert providers.accept(partial(write, fleet.engine), "fake", can, fleet.said) == 1
    report = fleet.tick_windows(1)
    assert [one.quantity for one in other.seen] == [60] and report.problems == []
    assert states(fleet)[1:] == [(0, 90, 90, "voided"), (1, 90, 60, "accepted")]
    clean(fleet)
    with pytest.raises(Refused, match="have not changed"):
        providers.accept(partial(write, fleet.engine), "fake", can, fleet.said)
    fleet.extra = {"fake": provider}
    assert fleet.tick_windows(1).exit_status == 1


def test_terms_do_not_change_under_what_was_sent_and_is_not_settled(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, **ASKED)
    provider.answers[KEY] = Unknown("cut")
    fleet.tick_windows(2)
    can = capabilities(**{**ASKED, "unit": 60})
    with pytest.raises(Refused, match="1 pushes were sent to fake on its old terms"):
        providers.accept(partial(write, fleet.engine), "fake", can, fleet.said)


def test_terms_may_change_under_what_was_tried_and_proven_unsent(engine: sa.Engine) -> None:
    """A wrong key and a wrong meter, mended together: nothing of it ever arrived."""
    fleet, provider = fleet_of(engine, **ASKED)
    provider.answers[KEY] = RetryAt(0, "the key is refused")
    fleet.tick_windows(2)
    provider.answers.clear()
    provider.capabilities = capabilities(**{**ASKED, "names": {"x": "y"}})
    assert providers.accept(partial(write, fleet.engine), "fake", provider.capabilities, fleet.said) == 1
    assert fleet.tick_windows(1).accepted == 1
    assert states(fleet) == [(0, 60, 60, "voided"), (1, 60, 60, "accepted")]
    clean(fleet)


def test_many_are_voided_in_portions_and_what_ends_half_way_says_so(
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
    write(engine, lambda c: providers.pause(c, "fake", fleet.said))
    fleet.tick_windows(2)
    fleet.extra = {"fake": (other := FakeProvider(capabilities(**{**ASKED, "unit": 60})))}
    work, kept = [], 0

    def breaks(given: Any, *, rollback: bool = False) -> Any:
        work.append(given)
        if len(work) == kept + 1:
            raise DatabaseBusy("the database is locked")
        return write(engine, given, rollback=rollback)

    can = other.capabilities
    assert providers.accept(partial(write, engine), "fake", can, fleet.said, dry_run=True) == 5
    with pytest.raises(DatabaseBusy, match=r"^the database is locked$"):
        providers.accept(breaks, "fake", can, fleet.said)
    work, kept = [], 2
    with pytest.raises(
        DatabaseBusy, match=r"locked; 4 unsent pushes were voided before that, .* on its old terms still"
    ):
        providers.accept(breaks, "fake", can, fleet.said)
    assert fleet.one("SELECT COUNT(*) FROM pushes WHERE state = 'voided'") == 4
    assert fleet.tick_windows(1).sealed == 4, "anew, on the old terms, which hold: nothing is lost meanwhile"
    assert providers.accept(partial(write, engine), "fake", can, fleet.said) == 5
    action = json.loads(str(fleet.one("SELECT details FROM operator_actions WHERE action = 'provider_accept'")))
    assert action["voided"] == 5
    write(engine, lambda c: providers.resume(c, "fake", fleet.said))
    fleet.tick_windows(1)
    assert [one.quantity for one in other.seen] == [60] * 5 and provider.seen == []
    clean(fleet)


def test_who_goes_live_does_so_from_the_next_window_on(engine: sa.Engine) -> None:
    """Late samples and withdrawals of windows that another system billed stay in shadow."""
    fleet, provider = fleet_of(engine, live_from_ms=2**52)
    wrong = fleet.sample("acme", T0 + 2, 7)
    fleet.tick_windows(2)
    provider.capabilities = capabilities()
    providers.accept(partial(write, fleet.engine), "fake", provider.capabilities, fleet.said)
    write(fleet.engine, lambda c: withdrawals.withdraw(c, [wrong], fleet.said))
    fleet.sample("acme", T0 + 3, 11)
    live = -(-fleet.clock.at_ms // WINDOW_MS) * WINDOW_MS
    fleet.sample("acme", live, 30)
    fleet.tick_windows(4)
    assert [(one.quantity, one.ts // WINDOW_MS) for one in provider.seen] == [(30, live // WINDOW_MS)]
    clean(fleet)


def test_units_of_a_provider_outlive_its_plug_in(engine: sa.Engine) -> None:
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


def test_features_have_units_of_their_own(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, units={"compute_1gb": 50, "compute_4gb": 7})
    fleet.sample("acme", T0 + 2, 30, memory_mb=4096)
    fleet.sample("acme", T0 + 2, 30, memory_mb=8192)
    fleet.tick_windows(2)
    sent = {one.feature: one.quantity for one in provider.seen}
    assert sent == {"compute_1gb": 50, "compute_4gb": 28, "compute_8gb": 30}
    clean(fleet)


@pytest.mark.parametrize("unit", [1, 7])
def test_before_its_cut_over_usage_is_sealed_in_shadow_and_never_sent(engine: sa.Engine, unit: int) -> None:
    fleet, provider = fleet_of(engine, live_from_ms=T0 + WINDOW_MS, unit=unit, totals_lag_ms=0)
    fleet.sample("acme", T0 + WINDOW_MS, 70)
    report = fleet.tick_windows(3)
    assert (report.sealed, report.exit_status) == (2, 0)
    assert [one.quantity for one in provider.seen] == [70], "what is in shadow leaves nothing over for what is sent"
    fleet.sample("acme", T0 + 2)  # late, and still before the cut-over
    assert fleet.tick_windows(1).sealed == 1 and len(provider.seen) == 1
    assert states(fleet) == [(0, 60, 60, "shadow"), (1, 60, 60, "shadow"), (0, 70, 70, "accepted")]
    clean(fleet)


def test_without_a_customer_usage_waits_and_is_counted_until_there_is_one(engine: sa.Engine) -> None:
    provider = FakeProvider(capabilities(own_customer_ids=True))
    fleet = Fleet(engine, extra={"fake": provider})
    from drawdown.worker.commands.assignments import assign

    write(engine, lambda c: assign(c, ["acme"], "fake", fleet.said, customer_id=""))
    fleet.sample("acme", T0 + 1)
    report = fleet.tick_windows(2)
    assert (report.sealed, report.left.pending_s, report.exit_status) == (0, {"no_customer": 60}, 0)
    clean(fleet)
    (made,) = write(engine, lambda c: assign(c, ["acme"], "fake", fleet.said, customer_id="cus_1"))
    assert (made.start_ms, made.mended_s) == (T0, 60)
    report = fleet.tick_windows(1)
    assert (report.accepted, report.left.pending_s) == (1, {})
    assert [one.customer_id for one in provider.seen] == ["cus_1"]
    clean(fleet)


class RefusesLater(FakeProvider):
    """Accepts, and says by a webhook, before its answer is written down, that it refuses after all."""

    fleet: Fleet

    def refuse(self, key: str) -> None:
        told = [PushRefused(key, "no meter")]
        write(self.fleet.engine, lambda c: apply_notices(c, "fake", told, self.fleet.clock.at_ms))
        self.charged.pop(key)

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        outcomes = await super().push(batch)
        for one in batch:
            if one.key not in self.lookups:
                self.refuse(one.key)
        return outcomes

    async def lookup(self, request: PushRequest) -> LookupResult:
        found = await super().lookup(request)
        self.refuse(request.key)
        return found


def refusing(engine: sa.Engine, **changes: object) -> tuple[Fleet, RefusesLater]:
    provider = RefusesLater(capabilities(**changes))
    fleet = provider.fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake")
    fleet.sample("acme", T0 + 1)
    return fleet, provider


def test_an_answer_that_was_on_its_way_leaves_a_later_refusal_alone(engine: sa.Engine) -> None:
    fleet, provider = refusing(engine, balance_in_ledger=True)
    write(engine, lambda c: credit.grant(c, "acme", 10_000, fleet.said, key="g", plan=None))
    report = fleet.tick_windows(2)
    assert (report.exit_status, provider.charged) == (1, {})
    assert fleet.rows("SELECT state, last_error FROM pushes") == [("rejected", "refused later: no meter")]
    assert fleet.one("SELECT balance_micro FROM ledger_accounts WHERE account_id = 'wallet:acme'") == 10_000
    clean(fleet)


def test_a_lookup_that_was_on_its_way_leaves_a_later_refusal_alone(engine: sa.Engine) -> None:
    fleet, provider = refusing(engine, **ASKED)
    provider.answers[KEY], provider.lookups[KEY] = Unknown("cut"), Found(60)
    provider.charged[KEY] = PushRequest(KEY, "acme", "compute_1gb", 60, T0, 1)
    fleet.tick_windows(2)
    fleet.tick(fleet.clock.at_ms + LAG)
    assert fleet.rows("SELECT state, last_error FROM pushes") == [("rejected", "refused later: no meter")]
    clean(fleet)


def is_asked_again(fleet: Fleet) -> bool:
    return fleet.one("SELECT projection_due_ms FROM orgs WHERE org_id = 'acme'") is not None


def test_where_there_is_no_hard_stop_a_wallet_of_the_ledger_is_drawn_on(engine: sa.Engine) -> None:
    fleet, _provider = fleet_of(engine, balance_in_ledger=True)

    def balance() -> object:
        return fleet.one("SELECT balance_micro FROM ledger_accounts WHERE account_id = 'wallet:acme'")

    write(engine, lambda c: credit.grant(c, "acme", 10_000, fleet.said, key="g", plan=None))
    fleet.tick_windows(2)
    assert balance() == 4_000
    write(engine, lambda c: apply_notices(c, "fake", [PushRefused(KEY, "no_meter")], fleet.clock.at_ms))
    assert balance() == 10_000, "what was refused is given back"
    assert is_asked_again(fleet)
    write(engine, lambda c: pushes.retry(c, [KEY], fleet.said))
    fleet.tick_windows(1)
    assert balance() == 4_000
    clean(fleet)


def test_a_wallet_is_drawn_on_once_however_a_push_is_accepted(engine: sa.Engine) -> None:
    """By a lookup, by a person, at another quantity: each time what stands accepted, and verify holds it to that."""
    fleet, provider = fleet_of(engine, **{**ASKED, "balance_in_ledger": True})
    write(engine, lambda c: credit.grant(c, "acme", 100_000, fleet.said, key="g", plan=None))
    for number in (1, 2):
        fleet.sample("acme", T0 + number * WINDOW_MS)
    keys = [f"usage:acme:{T0 + number * WINDOW_MS}:compute_1gb" for number in range(3)]
    provider.answers = {key: Unknown("cut") for key in keys}
    provider.lookups = {keys[0]: Found(60), keys[1]: CannotTell("who knows"), keys[2]: Found(50)}
    fleet.tick_windows(4)
    fleet.tick(fleet.clock.at_ms + LAG)
    assert not is_asked_again(fleet)
    write(fleet.engine, lambda c: pushes.resolve_accepted(c, [keys[1]], fleet.said, "seen"))
    assert is_asked_again(fleet), "or a customer who has spent all goes on"
    fleet.tick(fleet.clock.at_ms + LAG)
    assert fleet.one("SELECT SUM(quantity) FROM ledger_entries WHERE kind = 'usage'") == 180
    clean(fleet)
    fleet.write(
        "INSERT INTO ledger_entries (key, kind, from_account, to_account, amount_micro, feature, quantity, ts, at_ms, "
        "actor, reason) SELECT key || 'x', kind, from_account, to_account, 0, feature, 1, ts, at_ms, actor, reason "
        "FROM ledger_entries WHERE kind = 'usage' AND quantity = 50"
    )
    found = read(engine, verify)
    assert set(found.by_invariant) == {2, 5}, "one unit for nothing, which is no rate; and of no push"
    assert {one.invariant for one in found.breaches if "there is no such push" in one.text} == {5}


def test_without_a_wallet_nothing_is_drawn(engine: sa.Engine) -> None:
    fleet, _ = fleet_of(engine, balance_in_ledger=True)
    fleet.tick_windows(2)
    assert fleet.one("SELECT COUNT(*) FROM ledger_entries") == 0


def test_one_call_that_breaks_its_contract_says_nothing_of_the_others(engine: sa.Engine) -> None:
    class Odd(FakeProvider):
        async def push(self, batch: Any) -> Any:
            if batch[0].customer_id == "bolt":
                raise RuntimeError("a bug of theirs")
            return await super().push(batch)

    provider = Odd(capabilities(batch_size=1, in_flight=4))
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", "bolt", "core", provider="fake")
    for org in ("acme", "bolt", "core"):
        fleet.sample(org, T0 + 1)
    report = fleet.tick_windows(2)
    assert (report.accepted, report.not_accepted) == (2, 1)
    assert fleet.one("SELECT last_error FROM pushes WHERE org_id = 'bolt'") == "RuntimeError: a bug of theirs"


def test_an_outage_costs_a_few_calls_and_not_one_a_push(engine: sa.Engine) -> None:
    provider = FakeProvider(capabilities(batch_size=1, in_flight=4))
    fleet = Fleet(engine, extra={"fake": provider})
    orgs = [f"org-{number}" for number in range(200)]
    fleet.assign(*orgs, provider="fake")
    for org in orgs:
        fleet.sample(org, T0 + 1)
    provider.fails = ConnectionError("cut")
    assert fleet.tick_windows(2).left.due == 200
    assert len(provider.seen) < 150
    provider.fails = None
    fleet.tick_windows(1)
    assert len(provider.charged) == 200


def test_pushes_of_one_customer_and_feature_go_one_after_the_other_where_asked(engine: sa.Engine) -> None:
    import asyncio

    class Watched(FakeProvider):
        flying: set[tuple[str, str]]
        most = 0

        async def push(self, batch: Any) -> Any:
            line = (batch[0].customer_id, batch[0].feature)
            assert line not in self.flying, "two at once"
            self.flying.add(line)
            self.most = max(self.most, len(self.flying))
            await asyncio.sleep(0.001)
            self.flying.discard(line)
            return await super().push(batch)

    provider = Watched(capabilities(batch_size=1, in_flight=8, one_at_a_time=True))
    provider.flying = set()
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", "bolt", provider="fake")
    for number in range(20):
        for org in ("acme", "bolt"):
            fleet.sample(org, T0 + number * WINDOW_MS)
    report = fleet.tick_windows(21)
    assert (report.accepted, provider.most) == (40, 2)


def test_outcomes_of_a_provider_are_believed_for_their_own_push_alone(engine: sa.Engine) -> None:
    provider = FakeProvider(capabilities(batch_size=1, in_flight=3))
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", "bolt", "core", provider="fake")
    for org in ("acme", "bolt", "core"):
        fleet.sample(org, T0 + 1)
    provider.answers = {
        f"usage:bolt:{T0}:compute_1gb": Rejected("no"),
        f"usage:core:{T0}:compute_1gb": Accepted(),
    }
    fleet.tick_windows(2)
    assert fleet.rows("SELECT org_id, state FROM pushes ORDER BY 1") == [
        ("acme", "accepted"),
        ("bolt", "rejected"),
        ("core", "accepted"),
    ]


def test_whose_wallet_is_given_credit_or_another_limit_is_asked_about_again_wherever_they_are_billed(
    engine: sa.Engine,
) -> None:
    """Where no watch goes round, nobody else would: a customer who paid would stay halted."""
    fleet, _ = fleet_of(engine, balance_in_ledger=True)
    fleet.tick_windows(2)
    assert not is_asked_again(fleet)
    write(engine, lambda c: credit.grant(c, "acme", 10_000, fleet.said, key="paid", plan="free"))
    assert is_asked_again(fleet)
    fleet.tick_windows(1)
    assert not is_asked_again(fleet)
    write(engine, lambda c: credit.set_plan_limit(c, "free", 7, fleet.said))
    assert is_asked_again(fleet)


def test_who_is_billed_elsewhere_is_not_asked_about_for_a_wallet(engine: sa.Engine) -> None:
    fleet, _ = fleet_of(engine)
    fleet.tick_windows(2)
    write(engine, lambda c: credit.grant(c, "acme", 10_000, fleet.said, key="paid", plan="free"))
    assert not is_asked_again(fleet)


def test_what_larger_units_left_over_is_sent_once_units_are_small(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, unit=3600)
    fleet.tick_windows(2)
    assert fleet.rows("SELECT carry_qty FROM carries") == [(60,)]
    provider.capabilities = capabilities()
    providers.accept(partial(write, engine), "fake", provider.capabilities, fleet.said)
    fleet.sample("acme", T0 + 2 * WINDOW_MS, 7)
    fleet.tick_windows(2)
    assert [one.quantity for one in provider.charged.values()] == [67]
    assert fleet.rows("SELECT carry_qty FROM carries") == [(0,)]
    clean(fleet)


def test_what_was_not_given_back_is_once_negatives_are_taken(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, negatives=False)
    fleet.tick_windows(2)
    write(engine, lambda c: withdrawals.withdraw(c, ["s1"], fleet.said))
    fleet.tick_windows(1)
    assert fleet.rows("SELECT carry_qty FROM carries") == [(-60,)]
    provider.capabilities = capabilities()
    providers.accept(partial(write, engine), "fake", provider.capabilities, fleet.said)
    fleet.sample("acme", T0 + 3 * WINDOW_MS, 7)
    fleet.tick_windows(2)
    assert sum(one.quantity for one in provider.charged.values()) == 7
    assert fleet.rows("SELECT carry_qty FROM carries") == [(0,)]
    clean(fleet)


DRAWN = {**ASKED, "drawn": True}


def claimed_and_unanswered(engine: sa.Engine, drawn: int, **whole: bool) -> tuple[Fleet, FakeProvider]:
    """A push whose sender was killed, or the service: its key is claimed over there, and no event shows it."""
    fleet, provider = fleet_of(engine, **DRAWN)
    provider.answers[KEY] = Unknown("cut")
    fleet.tick_windows(2)
    provider.answers[KEY] = Duplicate()
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(drawn, None, **whole)}}
    settle(fleet)
    return fleet, provider


def test_what_was_drawn_without_an_event_is_accepted_and_not_charged_again(engine: sa.Engine) -> None:
    fleet, provider = claimed_and_unanswered(engine, 60)
    assert states(fleet) == [(0, 60, 60, "accepted")], "not a day later: the balance shows it"
    assert "drawn on" in str(fleet.one("SELECT last_error FROM pushes"))
    assert len(provider.seen) == 2
    clean(fleet)


def test_what_no_event_shows_and_nothing_drew_is_voided_once_it_can_arrive_no_more(engine: sa.Engine) -> None:
    fleet, provider = claimed_and_unanswered(engine, 0)
    assert states(fleet) == [(0, 60, 60, "queued")]
    provider.answers = {}
    settle(fleet, 10)
    fleet.tick(fleet.clock.at_ms + DAY_MS)
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(60, None)}}
    settle(fleet)
    assert states(fleet) == [(0, 60, 60, "voided"), (1, 60, 60, "accepted")]
    assert "the customer's balance agrees" in str(fleet.one("SELECT evidence FROM voids"))
    clean(fleet)


@pytest.mark.parametrize("said", [Drawn(31, None), Drawn(-5, None), Drawn(0, None, whole=False)])
def test_what_the_balance_does_not_tell_is_in_doubt_and_never_voided(engine: sa.Engine, said: Drawn) -> None:
    fleet, provider = claimed_and_unanswered(engine, said.quantity, whole=said.whole)
    fleet.tick(fleet.clock.at_ms + 2 * DAY_MS)
    assert states(fleet) == [(0, 60, 60, "in_doubt")]
    assert "does not tell" in str(fleet.one("SELECT last_error FROM pushes"))
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(60, None)}}
    fleet.tick(fleet.clock.at_ms + DAY_MS)
    assert states(fleet) == [(0, 60, 60, "accepted")], "a person may wait until it does"
    clean(fleet)


def test_what_a_balance_shows_is_explained_before_anything_beside_it_is_voided(engine: sa.Engine) -> None:
    """59 s were accepted and lost over there; 60 were drawn without an event, and 7 are on their way still. What the
    balance shows too much, 1, is less than each of them: that proves nothing of the 60."""
    fleet, provider = claimed_and_unanswered(engine, 0)
    last = f"usage:acme:{T0 + 2 * WINDOW_MS}:compute_1gb"
    provider.answers[last] = Queued(fleet.clock.at_ms + 2 * DAY_MS)
    fleet.sample("acme", T0 + WINDOW_MS, 59)
    fleet.sample("acme", T0 + 2 * WINDOW_MS, 7)
    fleet.tick_windows(3)
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(60, None)}}
    fleet.tick(fleet.clock.at_ms + DAY_MS)
    assert [(row[1], row[3]) for row in states(fleet)] == [(60, "queued"), (59, "accepted"), (7, "queued")]
    assert "what else is on its way" in str(fleet.one("SELECT last_error FROM pushes WHERE sent_qty = 60"))
    fleet.tick(fleet.clock.at_ms + DAY_MS)
    fleet.tick(fleet.clock.at_ms + DAY_MS)
    assert [row[3] for row in states(fleet)] == ["in_doubt", "accepted", "in_doubt"], "once all have been looked up"
    assert fleet.one("SELECT COUNT(*) FROM voids") == 0
    clean(fleet)


def test_what_was_never_sent_did_not_draw_on_the_balance(engine: sa.Engine) -> None:
    """A process slept before it sent, for longer than its lease; the next one's connection was refused. The key grew
    too old meanwhile. The balance shows as much for another reason: a correction that was lost."""
    fleet, provider = fleet_of(engine, **DRAWN)
    provider.answers[KEY] = RetryAt(0, "not sent: connection refused")
    fleet.tick_windows(2)
    fleet.clock.at_ms += MINUTE_MS
    slow = push(fleet.context("slow"), "fake")
    effect = next(slow)
    while not isinstance(effect, Push):
        effect = slow.send(write(engine, effect.work) if isinstance(effect, Transaction) else None)
    fleet.tick(fleet.clock.at_ms + LEASE_MS)
    fleet.clock.at_ms += DAY_MS
    settling = slow.send({0: RetryAt(0, "not sent: time was up before")})
    assert isinstance(settling, Transaction)
    write(engine, settling.work)
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(60, None)}}
    settle(fleet)
    assert states(fleet) == [(0, 60, 60, "voided"), (1, 60, 60, "accepted")]
    assert "proven not to have arrived" in str(fleet.one("SELECT evidence FROM voids"))
    clean(fleet)


def test_of_two_without_an_event_the_balance_tells_how_much(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, **DRAWN)
    fleet.sample("acme", T0 + WINDOW_MS, 45)
    keys = [KEY, f"usage:acme:{T0 + WINDOW_MS}:compute_1gb"]
    provider.answers = {key: Unknown("cut") for key in keys}
    fleet.tick_windows(3)
    provider.answers = {key: Duplicate() for key in keys}
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(45, None)}}
    settle(fleet)
    assert [row[3] for row in states(fleet)] == ["queued", "accepted"]
    provider.answers = {}
    fleet.tick(fleet.clock.at_ms + DAY_MS)
    fleet.tick_windows(1)
    assert [(row[0], row[1], row[3]) for row in states(fleet)] == [
        (0, 60, "voided"),
        (1, 60, "accepted"),
        (0, 45, "accepted"),
    ]
    clean(fleet)
