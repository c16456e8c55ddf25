"""`push cancel`: a wrong push is undone at Stripe and voided here, wherever the command dies."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from drawdown.ledger import accounts
from drawdown.providers.kit.emulator import Direct
from drawdown.providers.protocol import Cancelled, PushRefused, ReadFailed
from drawdown.providers.stripe import StripeProvider, build
from drawdown.schema.audit import By
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import read, write
from drawdown.schema.errors import DrawdownError, Refused, UnknownId, UsageError
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.push.actions import MAX_KEYS, CancelReport, Intent, conclude, intend
from drawdown.worker.push.webhooks import apply_notices
from drawdown.worker.usage import prune, withdrawals
from drawdown.worker.wallets import actions as credit
from tests.acceptance.commands import drawdown, one_clear_line
from tests.contract.stripe_setup import setup
from tests.emulators.serve import serving_in_thread, stripe_lines
from tests.emulators.stripe import StripeEmulator
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.providing import clean
from tests.integration.reconciling import compare, told
from tests.world import T0, Fleet

FEATURE = "compute_1gb"
KEY = f"usage:acme:{T0}:{FEATURE}"
HOUR_MS = 60 * MINUTE_MS


@dataclass
class Billed:
    """One organisation at an emulated Stripe, whose minute in the first window was charged."""

    fleet: Fleet
    stripe: StripeEmulator
    provider: StripeProvider

    @property
    def by(self) -> By:
        return By(self.fleet.clock.now_ms(), "test", "wrong customer")

    def intend(self, *keys: str) -> list[Intent]:
        can = {name: one.capabilities for name, one in self.fleet.providers.items()}
        return write(self.fleet.engine, lambda c: intend(c, keys or (KEY,), self.by, can))

    def ask(self, intents: list[Intent]) -> list[Cancelled | ReadFailed]:
        return [asyncio.run(self.provider.cancel(intent.request)) for intent in intents]

    def cancel(self, *keys: str) -> CancelReport:
        intents = self.intend(*keys)
        answers = self.ask(intents)
        return write(self.fleet.engine, lambda c: conclude(c, intents, answers, self.by))

    def charged(self) -> int:
        return self.stripe.charged("cus_1", FEATURE)

    def states(self) -> list[tuple[object, ...]]:
        return self.fleet.rows("SELECT revision, sent_qty, state FROM pushes ORDER BY window_ms, revision")

    def ends(self, charged: int, ticks: int = 4) -> None:
        """After some ticks all is settled, and Stripe has this much: as much as is accepted here."""
        for _ in range(ticks):
            self.fleet.tick(self.fleet.clock.now_ms() + HOUR_MS + MINUTE_MS)
        accepted = sum(int(str(sent)) for _, sent, state in self.states() if state == "accepted")
        assert (self.charged(), accepted) == (charged, charged), self.states()
        assert {state for *_, state in self.states()} <= {"accepted", "voided"}
        clean(self.fleet)


@pytest.fixture
def billed(engine: sa.Engine) -> Billed:
    clock = FixedClock(T0)
    stripe = StripeEmulator()
    stripe.add_customer("cus_1")
    stripe.add_meter(FEATURE)
    provider = build(setup(Direct(stripe, clock), clock, engine, meters=""))
    fleet = Fleet(engine, clock, extra={"stripe": provider})
    write(engine, lambda c: assign(c, ["acme"], "stripe", fleet.by, customer_id="cus_1"))
    fleet.sample("acme", T0 + 1)
    fleet.tick(T0 + 3 * WINDOW_MS)
    made = Billed(fleet, stripe, provider)
    assert made.states() == [(0, 60, "accepted")] and made.charged() == 60
    return made


def test_push_cancel_undoes_charge_and_usage_is_billed_by_next_tick(billed: Billed) -> None:
    assert billed.cancel() == CancelReport([KEY], [], {})
    assert billed.charged() == 0
    ((evidence, kind, reason),) = billed.fleet.rows("SELECT evidence, evidence_kind, reason FROM voids")
    assert (kind, reason) == ("operator", "wrong customer")
    assert str(evidence).startswith("cancelled at stripe: Stripe accepted the meter event adjustment, pending (req_")
    assert billed.fleet.rows("SELECT action, target FROM operator_actions WHERE action LIKE 'push%' ORDER BY 1") == [
        ("push_cancel", KEY),
        ("push_void", KEY),
    ]
    billed.ends(60)
    assert billed.states() == [(0, 60, "voided"), (1, 60, "accepted")]


@pytest.mark.parametrize("given_back", [False, True])
def test_push_cancel_with_withdrawn_samples_bills_zero(billed: Billed, given_back: bool) -> None:
    """Also where the next tick gave back what was charged, before the push was cancelled: it takes that back."""
    write(billed.fleet.engine, lambda c: withdrawals.withdraw(c, ["s1"], billed.by))
    if given_back:
        billed.fleet.tick_windows(1)
        assert billed.states() == [(0, 60, "accepted"), (1, -60, "accepted")]
    billed.cancel()
    billed.ends(0)


@pytest.mark.parametrize("twice_is_refused", [False, True])
def test_push_cancel_that_died_after_call_is_completed_by_rerun(billed: Billed, twice_is_refused: bool) -> None:
    billed.stripe.events.twice_is_refused = twice_is_refused
    billed.ask(billed.intend())
    assert billed.charged() == 0 and billed.states() == [(0, 60, "in_doubt")]
    billed.fleet.tick_windows(1)
    assert billed.states() == [(0, 60, "in_doubt")], "nothing is sent in its place, and nothing is looked up so soon"
    assert billed.cancel() == CancelReport([KEY], [], {})
    billed.ends(60)


def test_push_cancel_that_died_after_call_is_completed_by_lookups(billed: Billed) -> None:
    billed.ask(billed.intend())
    billed.fleet.tick(T0 + 3 * HOUR_MS)
    assert billed.states() == [(0, 60, "in_doubt")]
    for hour in range(4, 30, 5):
        billed.fleet.tick(T0 + hour * HOUR_MS)
    assert billed.fleet.rows("SELECT evidence_kind FROM voids") == [("absent",)]
    billed.ends(60)


def test_push_cancel_that_died_before_call_leaves_push_accepted(billed: Billed) -> None:
    billed.intend()
    assert billed.states() == [(0, 60, "in_doubt")]
    billed.ends(60)
    assert billed.states() == [(0, 60, "accepted")]
    assert not billed.fleet.rows("SELECT 1 FROM voids")


@pytest.mark.parametrize(
    "kinds", [("request_lost", "error_500_before", "nonsense", "answer_lost"), ("error_500_after",)]
)
def test_push_cancel_with_unconfirmed_answer_does_not_void(billed: Billed, kinds: tuple[str, ...]) -> None:
    """Asked again and again: the last of each was done over there, and its answer did not come."""
    for kind in kinds:
        billed.stripe.faults.rates = {kind: 1.0}
        report = billed.cancel()
        assert (report.voided, report.before, list(report.unconfirmed)) == ([], [], [KEY]), kind
        assert billed.states() == [(0, 60, "in_doubt")] and not billed.fleet.rows("SELECT 1 FROM voids"), kind
    billed.stripe.faults.rates = {}
    assert billed.cancel().voided == [KEY]
    billed.ends(60)


def test_concurrent_push_cancel_voids_once(billed: Billed) -> None:
    first, second = billed.intend(), billed.intend()
    one, two = billed.ask(first), billed.ask(second)
    engine = billed.fleet.engine
    assert write(engine, lambda c: conclude(c, first, one, billed.by)).voided == [KEY]
    assert write(engine, lambda c: conclude(c, second, two, billed.by)) == CancelReport([], [KEY], {})
    billed.ends(60)


def test_push_cancel_voids_push_that_early_lookup_accepted(billed: Billed) -> None:
    """The process sleeps after the call, and a tick accepts the push by a sum that still held it."""
    intents = billed.intend()
    billed.fleet.tick(billed.fleet.clock.now_ms() + HOUR_MS + MINUTE_MS)
    assert billed.states() == [(0, 60, "accepted")]
    answers = billed.ask(intents)
    assert write(billed.fleet.engine, lambda c: conclude(c, intents, answers, billed.by)).voided == [KEY]
    billed.ends(60)


def test_push_cancel_voids_push_that_webhook_rejected_meanwhile(billed: Billed) -> None:
    """Its usage is billed by the next tick. A rejected push would wait for a person instead."""
    intents = billed.intend()
    refused = [PushRefused(KEY, "archived_meter")]
    write(billed.fleet.engine, lambda c: apply_notices(c, "stripe", refused, billed.fleet.clock.now_ms()))
    assert billed.states() == [(0, 60, "rejected")]
    answers = billed.ask(intents)
    report = write(billed.fleet.engine, lambda c: conclude(c, intents, answers, billed.by))
    assert report == CancelReport([KEY], [], {}) and billed.states() == [(0, 60, "voided")]
    billed.ends(60)


def test_cancelled_push_refunds_wallet_until_usage_is_resealed(billed: Billed) -> None:
    """Stripe has no hard stop: the wallet here halts."""
    engine, by = billed.fleet.engine, billed.by
    write(engine, lambda c: credit.grant(c, "cus_1", 1_000_000, by, key="paid", plan=None))
    billed.fleet.sample("acme", T0 + 3 * WINDOW_MS + 1)
    billed.fleet.tick(T0 + 6 * WINDOW_MS)

    def balance() -> int:
        return read(engine, lambda c: accounts.read_wallets(c, ["cus_1"]))["cus_1"].balance_micro

    drawn = balance()
    assert drawn < 1_000_000
    billed.cancel(f"usage:acme:{T0 + 3 * WINDOW_MS}:{FEATURE}")
    assert balance() == 1_000_000
    billed.ends(120)
    assert balance() == drawn


def test_reconcile_reports_confirmed_cancellation_stripe_did_not_apply(billed: Billed) -> None:
    intents = billed.intend()
    write(billed.fleet.engine, lambda c: conclude(c, intents, [Cancelled("it said so")], billed.by))
    for _ in range(3):
        billed.fleet.tick(billed.fleet.clock.now_ms() + HOUR_MS + MINUTE_MS)
    assert billed.charged() == 120
    assert [line[:3] for line in told(compare(billed.fleet, provider="stripe"))] == [("over", 60, 120)]


def test_reconcile_reports_push_cancelled_outside_drawdown(billed: Billed) -> None:
    billed.ask([Intent(KEY, "stripe", intent.request) for intent in _dry(billed)])
    billed.fleet.clock.at_ms += 3 * HOUR_MS
    assert [line[:3] for line in told(compare(billed.fleet, provider="stripe"))] == [("short", 60, 0)]


def _dry(billed: Billed) -> list[Intent]:
    can = {name: one.capabilities for name, one in billed.fleet.providers.items()}
    return write(billed.fleet.engine, lambda c: intend(c, [KEY], billed.by, can), rollback=True)


def _refused(billed: Billed, error: type[DrawdownError], words: str, *keys: str) -> None:
    before = billed.states()
    with pytest.raises(error, match=words):
        billed.intend(*keys)
    assert billed.states() == before


def test_push_cancel_invalid_request_is_refused_before_call(billed: Billed) -> None:
    _refused(billed, UnknownId, "unknown push", KEY, "usage:acme:1:compute_1gb")
    _refused(billed, UsageError, f"exceed {MAX_KEYS}", *(f"{KEY}:r{n}" for n in range(1, MAX_KEYS + 2)))
    with pytest.raises(UsageError, match="missing reason"):
        write(billed.fleet.engine, lambda c: intend(c, [KEY], By(T0, "test", "not given"), {}))
    with pytest.raises(Refused, match="stripe is unavailable"):
        write(billed.fleet.engine, lambda c: intend(c, [KEY], billed.by, {}))
    billed.fleet.clock.at_ms = T0 + 3 * WINDOW_MS + DAY_MS
    assert len(_dry(billed)) == 1
    billed.fleet.clock.at_ms += 1
    _refused(billed, Refused, "cancels a push only within 24 hours. If its usage is wrong, withdraw the samples")


def test_push_cancel_of_unaccepted_push_is_refused(billed: Billed) -> None:
    billed.stripe.faults.rates = {"lock_timeout": 1.0}
    billed.fleet.sample("acme", T0 + 3 * WINDOW_MS + 1)
    billed.fleet.tick(T0 + 6 * WINDOW_MS)
    key = f"usage:acme:{T0 + 3 * WINDOW_MS}:{FEATURE}"
    _refused(billed, Refused, f"cannot cancel {key}: it is due, and you can cancel only an accepted push", key)
    billed.fleet.write("UPDATE pushes SET state = 'in_doubt' WHERE key = :key", {"key": key})
    _refused(
        billed,
        Refused,
        "it is in_doubt, and you can cancel only an accepted push. Run `drawdown push resolve",
        key,
        KEY,
    )


def test_push_cancel_below_floor_is_refused(billed: Billed) -> None:
    write(billed.fleet.engine, lambda c: prune.raise_floors(c, before=T0 + WINDOW_MS, by=billed.by))
    _refused(billed, Refused, "falls below the floor of acme")


def test_push_cancel_at_provider_without_cancellation_is_refused(engine: sa.Engine) -> None:
    fleet = Fleet(engine, extra={"fake": FakeProvider(capabilities())})
    fleet.assign("acme", provider="fake")
    fleet.sample("acme", T0 + 1)
    fleet.tick(T0 + 3 * WINDOW_MS)
    by = By(fleet.clock.now_ms(), "test", "wrong")
    can = {"fake": capabilities()}
    fleet.write("UPDATE pushes SET state = 'rejected'")
    with pytest.raises(Refused, match=r"it is rejected, and you can cancel only an accepted push\. If its usage is"):
        write(engine, lambda c: intend(c, [KEY], by, can))
    fleet.write("UPDATE pushes SET state = 'accepted'")
    with pytest.raises(
        Refused, match=r"fake does not support cancellation\. If its usage is wrong, withdraw the samples"
    ):
        write(engine, lambda c: intend(c, [KEY], by, can))


def test_push_cancel_command_voids_push_and_refuses_second_cancel(engine: sa.Engine, database_url: str) -> None:
    """As a person runs it, over a real socket."""
    clock = FixedClock(T0)
    fleet = Fleet(engine, clock)
    stripe = StripeEmulator()
    stripe.add_customer("cus_1")
    stripe.add_meter(FEATURE)
    write(engine, lambda c: assign(c, ["acme"], "stripe", fleet.by, customer_id="cus_1"))
    fleet.sample("acme", T0 + 1)
    with serving_in_thread(stripe, clock) as address:
        env = dict(line.split("=", 1) for line in stripe_lines(stripe, address))
        clock.at_ms = T0 + 3 * WINDOW_MS

        def run(*arguments: str) -> tuple[int, str]:
            done = drawdown(database_url, *arguments, at=str(clock.at_ms), env=env)
            return done.status, done.out + done.err

        assert run("tick")[0] == 0
        cancel = ("push", "cancel", KEY, "--reason", "wrong customer")
        assert run(*cancel, "--dry-run") == (
            0,
            f"1 would be cancelled and voided; nothing was changed\n  {KEY} at stripe\n",
        )
        assert stripe.charged("cus_1", FEATURE) == 60
        stripe.faults.rates = {"answer_lost": 1.0}
        status, text = run(*cancel)
        assert status == 1 and f"{KEY}: the provider did not confirm the cancellation" in text
        stripe.faults.rates = {}
        assert run(*cancel) == (0, f"1 cancelled and voided; the next tick seals their usage again\n  {KEY}\n")
        assert stripe.charged("cus_1", FEATURE) == 0
        failed = drawdown(database_url, *cancel, at=str(clock.at_ms), env=env)
        assert "it is voided" in one_clear_line(failed, 1, 2, 3)
        clock.at_ms += WINDOW_MS
        assert run("tick")[0] == 0
        assert stripe.charged("cus_1", FEATURE) == 60
        assert run("verify")[0] == 0
        clock.at_ms += WINDOW_MS
        changed = {**env, "DRAWDOWN_STRIPE_METERS": f"{FEATURE}=another"}
        failed = drawdown(database_url, *cancel[:2], f"{KEY}:r1", *cancel[3:], at=str(clock.at_ms), env=changed)
        assert "stripe is unavailable" in one_clear_line(failed, 1, 2, 3)
