"""Providers that queue, forget, cannot be asked, bill elsewhere, or change their mind."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run
from drawdown.providers.protocol import (
    HOUR_MS,
    Absent,
    Accepted,
    CannotTell,
    CustomerChanged,
    CustomerState,
    Duplicate,
    FoundPush,
    LookupResult,
    Outcome,
    PushRefused,
    PushRequest,
    Queued,
    ReadFailed,
    Rejected,
    Unknown,
)
from drawdown.schema.database import write
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.engine.effects import Push, Transaction
from drawdown.worker.provider import actions as providers
from drawdown.worker.push import actions as pushes
from drawdown.worker.push.push import push
from drawdown.worker.push.webhooks import apply_notices
from drawdown.worker.usage import withdrawals
from drawdown.worker.wallets import actions as credit
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.providing import ASKED, KEY, LAG, clean, fleet_of, settle, states
from tests.integration.test_drawn import is_asked_again
from tests.prepaid import price
from tests.world import T0, Fleet


def test_push_with_lost_answer_is_looked_up_and_not_resent(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, **ASKED)
    provider.answers[KEY] = Unknown("cut")
    provider.charged[KEY] = PushRequest(KEY, "acme", "compute_1gb", 60, T0, 1)
    assert fleet.tick_windows(2).left.queued == 1
    assert fleet.tick(fleet.clock.at_ms + LAG - 1).looked_up == 0, "the lag is not over"
    report = fleet.tick(fleet.clock.at_ms + 1)
    assert (report.looked_up, report.accepted, report.exit_status, len(provider.seen)) == (1, 1, 0, 1)
    clean(fleet)


def test_push_lost_in_transit_is_resent_with_same_bytes(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, **ASKED)
    provider.answers[KEY] = Unknown("cut")
    fleet.tick_windows(2)
    provider.answers.clear()
    settle(fleet, 2)
    first, second = provider.seen
    assert (first.key, first.quantity, first.ts) == (second.key, second.quantity, second.ts)
    clean(fleet)


@pytest.mark.parametrize("claim", [Duplicate(), Queued(0)])
def test_claimed_absent_push_waits_until_key_expires(engine: sa.Engine, claim: Duplicate | Queued) -> None:
    """Seen at Autumn: killed between claim and deduction; queued and dropped. Its key would only meet the claim."""
    fleet, provider = fleet_of(engine, **ASKED)
    provider.answers[KEY] = Unknown("cut")
    fleet.tick_windows(2)
    provider.answers[KEY] = claim
    for _ in range(3):
        fleet.tick(fleet.clock.at_ms + 5 * HOUR_MS)
    assert states(fleet) == [(0, 60, 60, "queued")]
    assert len(provider.seen) == 2, "a claim is not knocked at again"
    for _ in range(8):
        fleet.tick(fleet.clock.at_ms + 3 * HOUR_MS)
    assert states(fleet) == [(0, 60, 60, "voided"), (1, 60, 60, "accepted")]
    assert fleet.one("SELECT evidence_kind FROM voids") == "absent"
    clean(fleet)


def test_push_past_key_lifetime_is_looked_up_and_not_resent(engine: sa.Engine) -> None:
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
    provider.lookups[KEY] = FoundPush(60)
    fleet.tick(fleet.clock.at_ms + HOUR_MS)
    assert states(fleet) == [(0, 60, 60, "accepted")] and len(provider.seen) == sent
    clean(fleet)


def test_lookup_that_cannot_tell_leaves_push_in_doubt(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, **ASKED)
    provider.answers[KEY] = Unknown("cut")
    provider.lookups[KEY] = CannotTell("the minute holds 90, not 60 or nothing")
    fleet.tick_windows(2)
    report = fleet.tick(fleet.clock.at_ms + LAG)
    assert (report.left.in_doubt, report.exit_status) == (1, 1)
    assert fleet.one("SELECT last_error FROM pushes") == "the minute holds 90, not 60 or nothing"
    settle(fleet)
    assert len(provider.seen) == 1
    write(fleet.engine, lambda c: pushes.resolve_accepted(c, [KEY], fleet.by, "seen in their console"))
    assert fleet.tick_windows(1).exit_status == 0
    clean(fleet)


@pytest.mark.parametrize(
    ("answer", "said", "again"),
    [
        (FoundPush(60), "found", False),
        (FoundPush(50), "found 50", False),
        (Absent(), "absent", True),
        (CannotTell("shared minute"), "cannot_tell", True),
        (ReadFailed("503"), "not_read", True),
    ],
)
def test_push_show_after_lookup_shows_time_and_answer(
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
    asked = f"looked up 1 time, last response: {said.replace('_', ' ')} at {show_time(fleet.clock.at_ms)}"
    assert asked in told and ("; again from " in told) == again


def test_lookup_with_other_quantity_is_adopted_and_difference_sent(engine: sa.Engine) -> None:
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


def test_queued_push_found_with_zero_quantity_awaits_credit(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, **ASKED)
    provider.answers[KEY] = Queued(0)
    provider.lookups[KEY] = FoundPush(0)
    fleet.tick_windows(2)
    assert fleet.tick(fleet.clock.at_ms + LAG).left.awaiting_credit == 1


def test_push_too_old_for_provider_is_rejected_with_reason(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, oldest_ms=35 * DAY_MS)
    report = fleet.tick(T0 + 36 * DAY_MS)
    assert (report.sealed, report.left.rejected, report.exit_status, provider.seen) == (1, 1, 1, [])
    assert "35 days back" in str(fleet.one("SELECT last_error FROM pushes"))
    write(fleet.engine, lambda c: pushes.resolve_accepted(c, [KEY], fleet.by, "invoice item ii_1, by hand"))
    assert fleet.tick_windows(1).exit_status == 0
    clean(fleet)


def test_push_above_max_quantity_is_rejected_with_reason(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, max_quantity=59)
    assert fleet.tick_windows(2).left.rejected == 1
    assert provider.seen == [] and "above 59" in str(fleet.one("SELECT last_error FROM pushes"))
    clean(fleet)


def test_push_with_long_key_is_sent_as_hash_and_found_by_notice(engine: sa.Engine) -> None:
    provider = FakeProvider(capabilities(max_key_chars=100))
    fleet = Fleet(engine, extra={"fake": provider})
    org = "o" * 150
    fleet.assign(org, provider="fake")
    fleet.sample(org, T0 + 1)
    fleet.tick_windows(2)
    (sent,) = provider.charged
    assert len(sent) <= 100 and fleet.one("SELECT wire_key FROM pushes") == sent
    (said,) = write(fleet.engine, lambda c: apply_notices(c, "fake", [PushRefused(sent, "no such meter")], T0))
    assert "changed from accepted to rejected" in said and fleet.one("SELECT state FROM pushes") == "rejected"
    clean(fleet)


def test_push_refused_by_later_notice_is_rejected_and_can_be_retried(engine: sa.Engine) -> None:
    fleet, _provider = fleet_of(engine)
    fleet.tick_windows(2)
    notices = [PushRefused(KEY, "archived_meter"), PushRefused(KEY, "archived_meter")]
    write(fleet.engine, lambda c: apply_notices(c, "fake", notices, fleet.clock.at_ms))
    report = fleet.tick_windows(1)
    assert (report.left.rejected, report.exit_status) == (1, 1)
    assert fleet.one("SELECT last_error FROM pushes") == "rejected later: archived_meter"
    write(fleet.engine, lambda c: pushes.retry(c, [KEY], fleet.by))
    assert fleet.tick_windows(1).accepted == 1
    clean(fleet)


@pytest.mark.both_databases
def test_late_refusal_beyond_balance_halts_org_at_next_tick(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine)
    price(fleet, 1)
    provider.states["acme"] = CustomerState(50, None, None)
    fleet.tick_windows(2)
    halted = "SELECT is_halted, halt_reason FROM orgs"
    assert fleet.rows(halted) == [(False, None)]
    write(engine, lambda c: apply_notices(c, "fake", [PushRefused(KEY, "archived_meter")], fleet.clock.at_ms))
    fleet.tick(fleet.clock.at_ms + MINUTE_MS)
    assert fleet.rows(halted) == [(True, "estimate")]
    clean(fleet)


def test_notice_for_push_of_other_provider_is_ignored(engine: sa.Engine) -> None:
    fleet, _ = fleet_of(engine)
    fleet.tick_windows(2)
    write(fleet.engine, lambda c: apply_notices(c, "stripe", [PushRefused(KEY, "no_meter")], T0))
    assert states(fleet) == [(0, 60, 60, "accepted")]
    told = write(fleet.engine, lambda c: apply_notices(c, "fake", [PushRefused("usage:nobody:0:x", "no_meter")], T0))
    assert told == ["unknown push usage:nobody:0:x: this database does not have it"]


def test_customer_changed_notice_refreshes_projection(engine: sa.Engine) -> None:
    fleet, _ = fleet_of(engine)
    fleet.tick_windows(2)
    assert fleet.one("SELECT projection_due_ms FROM orgs") is None
    said = write(
        fleet.engine,
        lambda c: apply_notices(c, "fake", [CustomerChanged("acme"), CustomerChanged("who")], fleet.clock.at_ms),
    )
    assert "it is not a customer here" in said[1] and fleet.tick_windows(1).projected == 1


def test_notice_refusing_push_with_two_attempts_puts_push_in_doubt(engine: sa.Engine) -> None:
    """The first was charged, and its answer never came; the second was accepted, and is refused later."""
    fleet, provider = fleet_of(engine, **{**ASKED, "duplicate_proves_delivery": True, "balance_in_ledger": True})
    write(engine, lambda c: credit.grant(c, "acme", 10_000, fleet.by, key="g", plan=None))
    provider.answers[KEY] = Unknown("cut")
    fleet.tick_windows(2)
    provider.answers[KEY] = Accepted()
    assert fleet.tick(fleet.clock.at_ms + MINUTE_MS).accepted == 1
    provider.charged[KEY] = PushRequest(KEY, "acme", "compute_1gb", 60, T0, 1)
    notices = [PushRefused(KEY, "no_meter")]
    (said,) = write(engine, lambda c: apply_notices(c, "fake", notices, fleet.clock.at_ms))
    assert "changed from accepted to in doubt" in said and states(fleet) == [(0, 60, 60, "in_doubt")]
    clean(fleet)
    assert fleet.tick(fleet.clock.at_ms + MINUTE_MS).left.in_doubt == 1, "a person sees it meanwhile"
    fleet.tick(fleet.clock.at_ms + max(LAG, 3_600_000))
    assert states(fleet) == [(0, 60, 60, "accepted")] and len(provider.seen) == 2
    clean(fleet)


def test_attempt_in_flight_during_refusal_leaves_push_in_doubt(engine: sa.Engine) -> None:
    fleet, provider = refusing(engine, **{**ASKED, "duplicate_proves_delivery": True})
    provider.answers[KEY], provider.lookups[KEY] = Unknown("cut"), Absent()
    fleet.tick_windows(2)
    provider.answers[KEY] = Accepted()
    del provider.lookups[KEY]
    provider.charged[KEY] = PushRequest(KEY, "acme", "compute_1gb", 60, T0, 1)
    fleet.tick(fleet.clock.at_ms + MINUTE_MS)
    assert states(fleet) == [(0, 60, 60, "in_doubt")]
    clean(fleet)


@pytest.mark.both_databases
def test_answer_after_lookup_of_refusal_leaves_push_in_doubt(engine: sa.Engine) -> None:
    """More than an hour late: the lookup has claimed the push meanwhile, and could not read."""
    fleet, provider = fleet_of(engine, **{**ASKED, "duplicate_proves_delivery": True})
    provider.answers[KEY] = Unknown("cut")
    fleet.tick_windows(2)
    fleet.clock.at_ms += MINUTE_MS
    steps = push(fleet.context(), "fake")
    effect = next(steps)
    while not isinstance(effect, Push):
        assert isinstance(effect, Transaction)
        effect = steps.send(write(engine, effect.work))
    write(engine, lambda c: apply_notices(c, "fake", [PushRefused(KEY, "no_meter")], fleet.clock.at_ms))
    provider.lookups[KEY] = ReadFailed("not now")
    fleet.tick(fleet.clock.at_ms + max(LAG, 3_600_000))
    assert fleet.rows("SELECT state, lookups, claim_owner IS NULL FROM pushes") == [("in_doubt", 1, False)]
    settling = steps.send({0: Accepted()})
    assert isinstance(settling, Transaction)
    write(engine, settling.work)
    assert states(fleet) == [(0, 60, 60, "in_doubt")]
    assert fleet.one("SELECT outcome FROM attempts WHERE attempt = 2") == "accepted", "it is on record all the same"


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


def test_refusal_during_send_overrides_accepted_answer(engine: sa.Engine) -> None:
    fleet, provider = refusing(engine, balance_in_ledger=True)
    write(engine, lambda c: credit.grant(c, "acme", 10_000, fleet.by, key="g", plan=None))
    report = fleet.tick_windows(2)
    assert (report.exit_status, provider.charged) == (1, {})
    assert fleet.rows("SELECT state, last_error FROM pushes") == [("rejected", "rejected later: no meter")]
    assert fleet.one("SELECT balance_micro FROM ledger_accounts WHERE account_id = 'wallet:acme'") == 10_000
    clean(fleet)


def test_refusal_during_lookup_overrides_found_answer(engine: sa.Engine) -> None:
    fleet, provider = refusing(engine, **ASKED)
    provider.answers[KEY], provider.lookups[KEY] = Unknown("cut"), FoundPush(60)
    provider.charged[KEY] = PushRequest(KEY, "acme", "compute_1gb", 60, T0, 1)
    fleet.tick_windows(2)
    fleet.tick(fleet.clock.at_ms + LAG)
    assert fleet.rows("SELECT state, last_error FROM pushes") == [("rejected", "rejected later: no meter")]
    clean(fleet)


def test_provider_call_that_raises_does_not_affect_other_pushes(engine: sa.Engine) -> None:
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


def test_provider_outage_stops_sending_after_few_calls(engine: sa.Engine) -> None:
    provider = FakeProvider(capabilities(batch_size=1, in_flight=4))
    fleet = Fleet(engine, extra={"fake": provider})
    orgs = [f"org-{number}" for number in range(100)]
    fleet.assign(*orgs, provider="fake")
    fleet.write(
        "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
        f"VALUES (:org, :org, 'box', 'cell-1', 1024, 60, {T0 + 1}, {T0 + 1})",
        [{"org": org} for org in orgs],
    )
    provider.fails = ConnectionError("cut")
    assert fleet.tick_windows(2).left.due == 100
    assert len(provider.seen) < 75
    provider.fails = None
    fleet.tick_windows(1)
    assert len(provider.charged) == 100


def test_pushes_of_same_customer_and_feature_are_sequential_if_declared(engine: sa.Engine) -> None:
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


def test_outcome_by_key_applies_only_to_its_push(engine: sa.Engine) -> None:
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


def test_org_with_new_credit_or_plan_limit_is_refreshed(
    engine: sa.Engine,
) -> None:
    """Where no watch goes round, nobody else would: a customer who paid would stay halted."""
    fleet, _ = fleet_of(engine, balance_in_ledger=True)
    fleet.tick_windows(2)
    assert not is_asked_again(fleet)
    write(engine, lambda c: credit.grant(c, "acme", 10_000, fleet.by, key="paid", plan="free"))
    assert is_asked_again(fleet)
    fleet.tick_windows(1)
    assert not is_asked_again(fleet)
    write(engine, lambda c: credit.set_plan_limit(c, "free", 7, fleet.by))
    assert is_asked_again(fleet)


def test_org_billed_elsewhere_is_not_refreshed_after_wallet_grant(engine: sa.Engine) -> None:
    fleet, _ = fleet_of(engine)
    fleet.tick_windows(2)
    write(engine, lambda c: credit.grant(c, "acme", 10_000, fleet.by, key="paid", plan="free"))
    assert not is_asked_again(fleet)


def test_carry_after_unit_becomes_smaller_is_sent(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, unit=3600)
    fleet.tick_windows(2)
    assert fleet.rows("SELECT carry_qty FROM carries") == [(60,)]
    provider.capabilities = capabilities()
    providers.accept(partial(write, engine), "fake", provider.capabilities, fleet.by)
    fleet.sample("acme", T0 + 2 * WINDOW_MS, 7)
    fleet.tick_windows(2)
    assert [one.quantity for one in provider.charged.values()] == [67]
    assert fleet.rows("SELECT carry_qty FROM carries") == [(0,)]
    clean(fleet)


def test_negative_carry_after_negatives_are_allowed_is_sent(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, negatives=False)
    fleet.tick_windows(2)
    write(engine, lambda c: withdrawals.withdraw(c, ["s1"], fleet.by))
    fleet.tick_windows(1)
    assert fleet.rows("SELECT carry_qty FROM carries") == [(-60,)]
    provider.capabilities = capabilities()
    providers.accept(partial(write, engine), "fake", provider.capabilities, fleet.by)
    fleet.sample("acme", T0 + 3 * WINDOW_MS, 7)
    fleet.tick_windows(2)
    assert sum(one.quantity for one in provider.charged.values()) == 7
    assert fleet.rows("SELECT carry_qty FROM carries") == [(0,)]
    clean(fleet)
