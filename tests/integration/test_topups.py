"""Top-ups: a wallet that runs low is filled once for its gap; what was paid is credited once; on both databases."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.cli.nouns.status import other_lines
from drawdown.ledger.lots import Terms
from drawdown.providers.payments.protocol import Charge, InDoubt
from drawdown.schema.database import read, write
from drawdown.schema.declare import Invocation
from drawdown.schema.errors import Refused, UnknownId, UsageError
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.calls import PAYMENTS_AT_ONCE
from drawdown.worker.engine.effects import ChargeMoney, Transaction
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.history.incarnation import HistoryDoubted
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.status.status import status
from drawdown.worker.tick import tick
from drawdown.worker.topup import actions as said
from drawdown.worker.topup.fill import CHARGES_AT_ONCE, begin, fill, is_wanted
from drawdown.worker.topup.lists import PausedDebt
from drawdown.worker.wallets import pools
from drawdown.worker.wallets.actions import grant, set_rate, take_back
from drawdown.worker.watch import Watcher, watch
from tests.fake_payments import CAN, FakePayments
from tests.integration.beside import Work, beside
from tests.integration.topping import HOUR_MS, TERMS, Purses, flat, judged
from tests.sqlite_databases import fresh
from tests.world import T0, Fleet


@pytest.fixture
def purses(engine: sa.Engine) -> Purses:
    made = Purses(engine)
    made.set()
    return made


def test_topup_of_low_wallet_is_charged_once(purses: Purses) -> None:
    purses.grant(6)
    assert purses.fill().begun == 0, "above the threshold"
    purses.use(2 * MICRO)
    done = purses.fill()
    assert (done.begun, done.charged, done.credited) == (1, 1, 1)
    assert purses.credits() == 24
    assert [(one.charge_id, one.amount, one.currency) for one in purses.pay.taken] == [("topup:acme:1", 2000, "usd")]
    assert purses.fill().begun == 0
    entries = "SELECT kind, from_account, to_account, amount_micro FROM ledger_entries WHERE key = 'topup:acme:1'"
    assert purses.rows(entries) == [("grant", "source:grants", "wallet:acme", 20 * MICRO)]
    assert judged(purses) == []


@pytest.mark.parametrize(("left", "reserved", "is_refilled"), [(6, 0, False), (5, 0, True), (7, 3, True)])
def test_take_back_reports_if_next_topup_charges(purses: Purses, left: int, reserved: int, is_refilled: bool) -> None:
    """A payment that is taken back because its card was stolen: the next fill would charge the same card."""
    purses.grant(left)
    if reserved:
        purses.write(lambda c: executions.accept(c, "e-1", Request("acme", reserved * MICRO), purses.by))
    purses.grant(20, key="paid")
    done = purses.write(lambda c: take_back(c, "grant:paid", purses.by, whole=True))
    assert (done.is_refilled, done.balance_micro) == (is_refilled, left * MICRO)
    assert purses.fill().begun == is_refilled


def test_topup_single_charge_covers_whole_gap(purses: Purses) -> None:
    purses.use(50 * MICRO)
    purses.fill()
    assert purses.credits() == 10, "three times 20, to be above 5"
    purses.set("bulk", amount_micro=None, fill_to_micro=30 * MICRO, most_minor=4_000)
    purses.use(7_500_001, "bulk")
    purses.fill()
    assert purses.credits("bulk") == 30
    assert purses.pay.taken[-1].amount == 3_751, "a part of a minor unit is rounded up"
    purses.use(80 * MICRO, "bulk")
    purses.fill()
    assert purses.credits("bulk") == -10, "the largest charge that the terms allow"
    purses.fill()
    assert purses.credits("bulk") == 30, "the level is asked for again"


def test_unanswered_charge_is_looked_up_and_credited_once(purses: Purses) -> None:
    purses.pay.script.extend(["answer_lost"])
    purses.fill()
    assert purses.topups() == [("topup:acme:1", "in_doubt")]
    assert purses.fill(6_000).credited == 1
    assert (purses.pay.charges, purses.credits()) == (["topup:acme:1"], 20)
    assert judged(purses) == []


def test_charge_that_never_arrived_is_repeated_with_same_id_after_lag(purses: Purses) -> None:
    purses.pay.script.extend(["request_lost"])
    purses.fill()
    purses.fill(MINUTE_MS)
    assert purses.topups() == [("topup:acme:1", "in_doubt")], "nothing is seen yet, and that proves nothing"
    assert len(purses.pay.charges) == 1
    done = purses.fill(12 * MINUTE_MS)
    assert (done.credited, purses.pay.charges) == (1, ["topup:acme:1"] * 2)
    assert judged(purses) == []


def test_charge_in_flight_when_process_dies_is_looked_up(purses: Purses) -> None:
    steps = flat(fill(purses.context()))
    effect = next(steps)
    while isinstance(effect, Transaction):
        effect = steps.send(purses.write(effect.work))
    assert isinstance(effect, ChargeMoney)
    purses.pay.charged(effect.charges[0])
    assert purses.topups() == [("topup:acme:1", "sending")]
    purses.fill(MINUTE_MS)
    assert purses.topups() == [("topup:acme:1", "sending")], "its lease still runs"
    purses.fill(2 * MINUTE_MS)
    assert (purses.credits(), purses.pay.charges) == (20, ["topup:acme:1"])


def test_charge_without_answer_for_a_day_is_given_up_and_replaced(purses: Purses) -> None:
    purses.pay.script.extend(["request_lost"])
    purses.fill()
    purses.pay.rate = 1.0  # nobody answers for a day
    for _ in range(24):
        purses.fill(HOUR_MS)
    assert purses.pay.taken == []
    purses.pay.rate = 0.0
    purses.settle()
    assert purses.topups() == [("topup:acme:1", "given_up")]
    assert purses.fill().credited == 1
    assert judged(purses) == []


@pytest.mark.both_databases
def test_topup_third_decline_in_a_row_blocks_wallet_until_resume(purses: Purses) -> None:
    purses.pay.cards["cus_acme"] = "declined"
    for after_ms, charged in (
        (5_000, 1),
        (5_000, 0),
        (HOUR_MS, 1),
        (HOUR_MS, 0),
        (DAY_MS, 1),
        (DAY_MS, 0),
        (DAY_MS, 0),
    ):
        assert purses.fill(after_ms).charged == charged
    ((blocked, declines),) = purses.rows("SELECT blocked_reason, declines FROM topup_terms")
    assert declines == 3 and "3 declines in a row" in blocked
    purses.pay.cards["cus_acme"] = "good"
    assert purses.fill(DAY_MS).charged == 0, "nobody told of another card"
    purses.write(lambda c: said.resume(c, "acme", purses.by))
    assert purses.fill().credited == 1


@pytest.mark.parametrize("manner", ["stolen", "none"])
def test_topup_of_stolen_card_is_not_retried_until_grant(purses: Purses, manner: str) -> None:
    purses.pay.cards["cus_acme"] = manner
    assert purses.fill().charged == 1
    for _ in range(5):
        assert purses.fill(DAY_MS).charged == 0
    purses.pay.cards.clear()
    purses.grant(1, key="invoice-1")
    assert purses.fill().credited == 1, "a paid invoice has it go on"


def test_topup_blocked_wallet_is_not_resumed_by_repeated_grant(purses: Purses) -> None:
    purses.grant(1, key="invoice-1")
    purses.pay.cards["cus_acme"] = "stolen"
    assert purses.fill().charged == 1
    purses.grant(1, key="invoice-1")
    assert purses.fill().charged == 0


def test_blocked_topup_is_not_resumed_by_repeated_later_grant(purses: Purses) -> None:
    later = Terms(begins_ms=T0 + 30 * DAY_MS)
    purses.grant(1, key="invoice-1", terms=later)
    purses.pay.cards["cus_acme"] = "stolen"
    assert purses.fill().charged == 1
    purses.grant(1, key="invoice-1", terms=later)
    assert purses.fill().charged == 0


def test_topup_outage_is_not_counted_as_decline_or_towards_cap(purses: Purses) -> None:
    purses.set(max_day=1, max_month=1)
    purses.pay.script.extend(["not_sent"] * 20)
    for _ in range(21):
        purses.fill(2 * HOUR_MS)
    assert purses.rows("SELECT declines, blocked_ms FROM topup_terms") == [(0, None)]
    assert purses.credits() == 20
    assert purses.topups() == [("topup:acme:1", "credited")]


def test_topup_caps_per_day_and_month_limit_charges(purses: Purses) -> None:
    purses.set(max_day=2, max_month=3)
    for _ in range(4):
        purses.fill()
        purses.use(20 * MICRO)
    assert len(purses.pay.taken) == 2
    purses.fill(DAY_MS)
    purses.use(20 * MICRO)
    purses.fill(DAY_MS)
    assert len(purses.pay.taken) == 3
    purses.fill(31 * DAY_MS)
    assert len(purses.pay.taken) == 4


def test_topup_shadow_records_without_charging(purses: Purses) -> None:
    purses.set(mode="shadow")
    for _ in range(3):
        assert purses.fill().charged == 0
    assert purses.topups() == [("topup:acme:1", "shadow")]
    purses.use(20 * MICRO)
    purses.fill()
    assert [state for _, state in purses.topups()] == ["shadow", "shadow"]
    assert (purses.pay.charges, purses.rows("SELECT 1 FROM ledger_entries WHERE kind = 'grant'")) == ([], [])
    purses.write(lambda c: said.set_mode(c, "acme", "live", purses.by))
    purses.fill()
    assert purses.topups()[-1] == ("topup:acme:3", "credited")


def test_topup_kill_switch_stops_charges_and_still_looks_up_doubts(purses: Purses) -> None:
    purses.pay.script.extend(["answer_lost"])
    purses.fill()
    purses.set("other")
    assert purses.write(lambda c: said.switch(c, purses.by, stopped=True)) is None
    done = purses.fill(MINUTE_MS)
    assert (done.begun, done.charged, done.credited) == (0, 0, 1)
    assert purses.write(lambda c: said.switch(c, purses.by, stopped=False)) == "test: a test"
    assert purses.fill().credited == 1


def test_topup_due_when_stopped_is_given_up(purses: Purses) -> None:
    purses.pay.script.extend(["not_sent"])
    purses.fill()
    purses.write(lambda c: said.set_mode(c, "acme", "stopped", purses.by))
    purses.fill(2 * HOUR_MS)
    assert purses.topups() == [("topup:acme:1", "given_up")]
    assert len(purses.pay.charges) == 1


RIGHT: dict[str, Any] = {"service_customer": "cus_right", "amount_micro": 10 * MICRO}


@pytest.mark.both_databases
def test_unsent_topup_of_former_terms_is_given_up_and_not_charged(purses: Purses) -> None:
    purses.pay.script.extend(["not_sent"])
    purses.fill()
    assert purses.topups() == [("topup:acme:1", "due")]
    assert purses.change(**RIGHT).open_topup is None
    purses.fill(2 * HOUR_MS)
    assert purses.topups() == [("topup:acme:1", "given_up"), ("topup:acme:2", "credited")]
    assert [(one.customer_id, one.amount) for one in purses.pay.taken] == [("cus_right", 1_000)]
    assert judged(purses) == []


def test_unsent_topup_of_unconfigured_service_does_not_block_new_terms(purses: Purses) -> None:
    purses.set(service="old")
    purses.write(lambda c: begin(c, ready=["old"], now=purses.clock.at_ms, witness=None))
    assert purses.change(service="fake").open_topup is None
    assert purses.fill().credited == 1
    assert purses.topups() == [("topup:acme:1", "given_up"), ("topup:acme:2", "credited")]


def test_unsent_topup_of_same_terms_set_again_is_charged(purses: Purses) -> None:
    """A program that sets the terms each day uses up no cap."""
    purses.pay.script.extend(["not_sent"])
    purses.fill()
    purses.set()
    purses.fill(2 * HOUR_MS)
    assert purses.topups() == [("topup:acme:1", "credited")]


def test_sent_topup_of_former_terms_is_named_and_not_sent_again(purses: Purses) -> None:
    purses.pay.script.extend(["request_lost"])
    purses.fill()
    changed = purses.change(**RIGHT)
    assert changed.open_topup == "topup:acme:1"
    purses.settle()
    purses.fill()
    assert purses.topups() == [("topup:acme:1", "given_up"), ("topup:acme:2", "credited")]
    assert [one.customer_id for one in purses.pay.taken] == ["cus_right"]
    assert (purses.pay.charges, judged(purses)) == (["topup:acme:1", "topup:acme:2"], [])


def test_unsent_topup_after_lost_history_is_in_doubt_at_new_terms(purses: Purses) -> None:
    _restored(purses, Purses(fresh()), 3 * DAY_MS)
    purses.write(lambda c: begin(c, ready=["fake"], now=purses.clock.at_ms, witness=None))
    assert purses.topups() == [("topup:acme:1", "due")]
    assert purses.change(**RIGHT).open_topup == "topup:acme:1", "the lost history may have sent it"
    assert purses.topups() == [("topup:acme:1", "in_doubt")]
    assert purses.fill().credited == 1


@pytest.mark.parametrize("fault", ["not_sent", "request_lost"])
@pytest.mark.parametrize("customer_id", ["acme", None])
def test_topup_stop_states_charge_that_may_still_be_paid(purses: Purses, fault: str, customer_id: str | None) -> None:
    purses.pay.script.extend([fault])
    purses.fill()
    stop: Any = next(one for one in said.ACTIONS if one.name == "topup stop")
    asked = Invocation(purses.by)
    done = purses.write(lambda c: stop.do(c, asked, customer_id, all_=customer_id is None))
    sent = fault != "not_sent"
    assert (done.open_topups, done.open_topup) == (int(sent), "topup:acme:1" if sent and customer_id else None)
    assert ("may still be paid and credited" in stop.says(done)) == sent


def test_topup_in_doubt_when_stopped_is_looked_up_until_given_up(purses: Purses) -> None:
    purses.pay.script.extend(["request_lost"])
    purses.fill()
    purses.write(lambda c: said.set_mode(c, "acme", "stopped", purses.by))
    for _ in range(5):
        purses.fill(HOUR_MS)
    assert purses.topups() == [("topup:acme:1", "in_doubt")]
    purses.fill(DAY_MS)
    assert purses.topups() == [("topup:acme:1", "given_up")]
    assert len(purses.pay.charges) == 1


def test_topup_service_without_key_is_not_called(purses: Purses) -> None:
    purses.pay.dormant = "no key"
    assert purses.fill().begun == 0
    assert purses.pay.charges == []


def test_topup_call_that_hangs_puts_charge_in_doubt(purses: Purses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drawdown.worker.engine.calls.LAST_CHARGES_S", 0.2)

    async def never(_request: object) -> InDoubt:
        await asyncio.sleep(60)
        raise AssertionError

    purses.pay.charge = never  # type: ignore[method-assign, assignment]
    asked = iter(range(1_000_000))
    done = purses.fill(stopping=lambda: next(asked) > 6)
    assert done.charged == 1
    assert purses.topups() == [("topup:acme:1", "in_doubt")]


def test_topup_found_with_other_amount_stays_in_doubt_until_resolved(purses: Purses) -> None:
    purses.pay.script.extend(["request_lost"])
    purses.fill()
    other = replace(_request(purses), amount=1)
    purses.pay.charged(other)
    for _ in range(3):
        purses.fill(DAY_MS)
    assert purses.topups() == [("topup:acme:1", "in_doubt")]
    with pytest.raises(UsageError):
        purses.write(lambda c: said.resolve(c, "topup:acme:1", None, " ", purses.by))
    with pytest.raises(UnknownId):
        purses.write(lambda c: said.resolve(c, "topup:acme:9", None, "their dashboard", purses.by))
    purses.write(lambda c: said.resolve(c, "topup:acme:1", None, "their dashboard: 1 cent, paid back", purses.by))
    purses.fill()
    assert purses.topups() == [("topup:acme:1", "given_up"), ("topup:acme:2", "credited")]
    with pytest.raises(Refused):
        purses.write(lambda c: said.resolve(c, "topup:acme:2", None, "x", purses.by))


def test_topup_resolved_as_paid_is_credited(purses: Purses) -> None:
    purses.pay.script.extend(["request_lost"])
    purses.fill()
    purses.write(lambda c: said.resolve(c, "topup:acme:1", "pay_9", "their dashboard", purses.by))
    assert (purses.topups(), purses.credits()) == ([("topup:acme:1", "credited")], 20)


def _two_in_doubt(purses: Purses) -> None:
    """The charge of acme never arrived; that of other was paid as pay_1, without an answer."""
    purses.pay.script.extend(["request_lost", "answer_lost"])
    purses.set("other")
    purses.fill()
    assert purses.topups() == [("topup:acme:1", "in_doubt"), ("topup:other:1", "in_doubt")]
    assert [(one.charge_id, one.payment_id) for one in purses.pay.taken] == [("topup:other:1", "pay_1")]


@pytest.mark.both_databases
def test_topup_resolved_with_payment_of_other_topup_is_refused(purses: Purses) -> None:
    _two_in_doubt(purses)

    def resolve(topup: str) -> Work:
        return lambda c: said.resolve(c, topup, "pay_1", "their dashboard", purses.by)

    done, refused = beside(purses.engine, resolve("topup:other:1"), resolve("topup:acme:1"))
    assert done == "credited"
    assert isinstance(refused, Refused) and str(refused) == (
        "cannot resolve topup:acme:1: topup:other:1 was already credited from the payment pay_1. Run `drawdown topup "
        "show topup:other:1`"
    )
    assert purses.topups() == [("topup:acme:1", "in_doubt"), ("topup:other:1", "credited")]
    assert judged(purses) == []


@pytest.mark.both_databases
def test_payment_that_person_gave_to_other_topup_is_not_credited_again(purses: Purses) -> None:
    _two_in_doubt(purses)
    purses.write(lambda c: said.resolve(c, "topup:acme:1", "pay_1", "their dashboard", purses.by))
    purses.set("third")
    purses.pay.script.extend(["answer_lost"])
    purses.fill(0)
    purses.fill(MINUTE_MS)
    expected = [("topup:acme:1", "credited"), ("topup:other:1", "in_doubt"), ("topup:third:1", "credited")]
    assert purses.topups() == expected, "the lookup of another wallet goes on"
    ((answer, evidence),) = purses.rows("SELECT answer, evidence FROM topups WHERE topup = 'topup:other:1'")
    assert answer == "other_content", "it is left to a person"
    assert evidence == "paid as pay_1, but topup:acme:1 was already credited from this payment"
    purses.write(lambda c: said.resolve(c, "topup:other:1", None, "acme's was not paid", purses.by))
    assert purses.rows("SELECT COUNT(*) FROM ledger_entries WHERE kind = 'grant'") == [(2,)]


def test_topup_resume_repeated_charges_once(purses: Purses) -> None:
    for _ in range(3):
        purses.write(lambda c: said.resume(c, "acme", purses.by))
        purses.fill(only="acme")
    assert len(purses.pay.taken) == 1


def test_topup_counts_reserved_credit_as_used(purses: Purses) -> None:
    """By the level of what is available: a hold calls for a top-up as a charge does, and its end calls for none."""
    purses.grant(30)
    assert purses.fill().begun == 0
    request = Request("acme", 26 * MICRO)
    purses.write(lambda c: executions.accept(c, "e-1", request, purses.by))
    for begun in (1, 0):
        assert purses.fill().begun == begun
    assert purses.credits() == 50
    purses.write(lambda c: executions.release(c, "e-1", None, purses.by))
    assert (purses.fill().begun, len(purses.pay.taken)) == (0, 1)
    assert judged(purses) == []


def test_topup_resume_during_charge_in_doubt_does_not_charge(purses: Purses) -> None:
    purses.pay.script.extend(["answer_lost"])
    purses.fill()
    for _ in range(2):
        purses.write(lambda c: said.resume(c, "acme", purses.by))
        purses.fill(6_000, only="acme")
    assert (len(purses.pay.taken), purses.credits()) == (1, 20)


def test_topup_of_named_wallet_leaves_other_wallet(purses: Purses) -> None:
    purses.set("other")
    assert purses.fill(only="acme").credited == 1
    assert [one.customer_id for one in purses.pay.taken] == ["cus_acme"]


BAD = {
    "an amount and a level": {"fill_to_micro": 9 * MICRO},
    "neither": {"amount_micro": None},
    "a level below the threshold": {"amount_micro": None, "fill_to_micro": 5 * MICRO},
    "nothing": {"amount_micro": 0},
    "less than the service takes": {"amount_micro": MICRO // 10},
    "more than is allowed": {"most_minor": 1_999},
    "more than the service takes": {"most_minor": 10**10},
    "no price": {"price_minor": 0},
    "no currency": {"currency": "USD"},
    "no customer": {"service_customer": ""},
    "no cap": {"max_day": 0},
    "no end": {"max_month": 10**6},
}


@pytest.mark.parametrize("what", BAD)
def test_topup_invalid_terms_are_refused(purses: Purses, what: str) -> None:
    terms = replace(TERMS, **BAD[what])  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        purses.write(lambda c: said.set_terms(c, "acme", terms, CAN, purses.by))


def test_topup_of_wallet_with_remote_balance_is_refused(purses: Purses) -> None:
    purses.write(
        lambda c: c.execute(
            sa.text(
                "INSERT INTO assignments (org_id, start_ms, provider, customer_id, at_ms, actor, reason) "
                "VALUES ('far', 0, 'autumn', 'far', 0, 'a', 'b')"
            )
        )
    )
    with pytest.raises(Refused, match="autumn"):
        purses.set("far")


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("provider", "customer", "use", "charged"),
    [
        ("autumn", "acme", None, 0),
        ("autumn", "cus_9", None, 0),
        ("embedded", "other", None, 0),
        ("stripe", "acme", None, 1),
        ("stripe", "", None, 1),
        ("none", "acme", None, 1),
        ("autumn", "acme", "payer", 1),
    ],
)
def test_topup_of_wallet_with_org_billed_elsewhere_does_not_begin(
    purses: Purses, provider: str, customer: str, use: str | None, charged: int
) -> None:
    """A wallet goes on that a bill is drawn on here, without a biller, or as a payer."""
    purses.write(
        lambda c: c.execute(
            sa.text("INSERT INTO provider_states (provider, terms) VALUES ('autumn', '{}'), ('stripe', :terms)"),
            {"terms": json.dumps({"balance_in_ledger": True})},
        )
    )
    purses.write(lambda c: assign(c, ["acme"], "embedded", purses.by))
    purses.grant(1)
    purses.later(DAY_MS)
    purses.write(lambda c: assign(c, ["acme"], provider, purses.by, customer_id=customer))
    if use == "payer":
        purses.write(lambda c: assign(c, ["wayne"], "embedded", purses.by))
        purses.write(lambda c: pools.allow(c, "acme", "wayne", purses.by))
    purses.later(DAY_MS)
    assert purses.write(lambda c: is_wanted(c, "acme", purses.clock.at_ms)) is bool(charged)
    purses.fill()
    assert len(purses.pay.taken) == charged
    purses.later(DAY_MS)
    if provider != "embedded":
        purses.write(lambda c: assign(c, ["acme"], "embedded", purses.by, customer_id="acme"))
        purses.later(DAY_MS)
        purses.fill()
        assert len(purses.pay.taken) == 1, "billed here again, it is filled"


@pytest.mark.parametrize(("customer", "provider", "wanted"), [("acme", "autumn", True), ("acme", "none", False)])
def test_topup_of_wallet_of_other_name_follows_its_org(
    purses: Purses, customer: str, provider: str, wanted: bool
) -> None:
    """Executions use a wallet with the name of another customer at Autumn; or its only org left for its own wallet."""
    purses.write(lambda c: c.execute(sa.text("INSERT INTO provider_states (provider, terms) VALUES ('autumn', '{}')")))
    if provider == "none":
        purses.write(lambda c: assign(c, ["acme-prod"], "embedded", purses.by, customer_id=customer))
    purses.grant(1)
    purses.later(DAY_MS)
    purses.write(lambda c: assign(c, ["acme-prod"], provider, purses.by, customer_id=customer))
    purses.later(DAY_MS)
    assert purses.write(lambda c: is_wanted(c, "acme", purses.clock.at_ms)) is wanted


def test_topup_begun_before_org_is_billed_elsewhere_is_given_up(purses: Purses) -> None:
    purses.write(lambda c: assign(c, ["acme"], "embedded", purses.by))
    purses.grant(1)
    purses.later(DAY_MS)
    purses.pay.script.extend(["not_sent"])
    purses.fill()
    assert purses.topups() == [("topup:acme:1", "due")]
    purses.write(lambda c: assign(c, ["acme"], "autumn", purses.by))
    purses.later(DAY_MS)
    purses.fill()
    assert (purses.topups(), len(purses.pay.taken)) == ([("topup:acme:1", "given_up")], 0)


def _request(purses: Purses) -> Charge:
    ((name, customer, money, begun),) = purses.rows(
        "SELECT topup, service_customer, money_minor, begun_ms FROM topups WHERE state = 'in_doubt'"
    )
    return Charge(name, customer, money, "usd", "20 credits", begun)


def test_topup_concurrent_charges_are_limited(purses: Purses) -> None:
    for number in range(20):
        purses.set(f"w{number}")
    under_way, most, real = [0], [0], purses.pay.charge

    async def slow(request: Charge) -> object:
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        await asyncio.sleep(0.02)
        under_way[0] -= 1
        return await real(request)

    purses.pay.charge = slow  # type: ignore[method-assign, assignment]
    assert purses.fill().credited == 21
    claims = purses.rows("SELECT COUNT(*) FROM topup_attempts GROUP BY owner ORDER BY 1 DESC")
    assert claims == [(CHARGES_AT_ONCE,), (21 - CHARGES_AT_ONCE,)]
    assert most == [PAYMENTS_AT_ONCE]
    assert judged(purses) == []


# After a restore, an episode's number may be used again.


def _restored(purses: Purses, lost: Purses, after_ms: int) -> None:
    """`purses` is what a backup of `lost` gave back, `after_ms` after it was charged; somebody ran `recover`."""
    from_ms = purses.clock.at_ms
    lost.pay.clock = lost.clock = purses.clock
    lost.set()
    lost.fill()
    purses.pay = lost.pay
    purses.later(after_ms)
    purses.write(
        lambda c: c.execute(
            sa.text(
                "INSERT INTO losses (number, from_ms, until_ms, at_ms, seal_id, found, actor, reason) "
                "VALUES (1, :from_ms, :at_ms, :at_ms, 0, 'a test', 'test', 'a test')"
            ),
            {"from_ms": from_ms, "at_ms": purses.clock.at_ms},
        )
    )


@pytest.mark.parametrize("after_ms", [HOUR_MS, 3 * DAY_MS])
def test_topup_paid_before_restore_is_credited_and_not_charged(purses: Purses, after_ms: int) -> None:
    """Also where the service has forgotten the id: it is looked up before it is first charged."""
    _restored(purses, Purses(fresh()), after_ms)
    done = purses.fill()
    assert (done.begun, done.charged, done.credited) == (1, 0, 1)
    assert (purses.pay.charges, purses.credits()) == (["topup:acme:1"], 20)
    assert judged(purses) == []
    purses.use(20 * MICRO)
    purses.fill(MINUTE_MS)
    assert len(purses.pay.charges) == 1, "a call of the lost history may be applied yet"
    purses.fill(DAY_MS + HOUR_MS)
    assert purses.topups()[1] == ("topup:acme:2", "credited")
    assert judged(purses) == []


def test_topup_lost_charge_of_other_amount_stays_in_doubt(purses: Purses) -> None:
    lost = Purses(fresh())
    lost.use(100 * MICRO)
    _restored(purses, lost, 3 * DAY_MS)
    for _ in range(3):
        purses.fill(DAY_MS)
    assert purses.topups() == [("topup:acme:1", "in_doubt")]
    assert len(purses.pay.taken) == 1


def test_topup_begun_before_backup_and_charged_after_is_not_repeated(purses: Purses) -> None:
    purses.pay.script.append("not_sent")
    purses.fill()
    assert purses.topups() == [("topup:acme:1", "due")]
    _restored(purses, Purses(fresh()), 3 * DAY_MS)
    assert purses.fill().credited == 1
    assert len(purses.pay.taken) == 1


def test_topup_with_doubted_history_does_not_charge(purses: Purses) -> None:
    purses.write(lambda c: c.execute(sa.text("UPDATE incarnation SET doubted_ms = 1, doubted_reason = 'a test'")))
    with pytest.raises(HistoryDoubted):
        purses.fill()
    assert purses.pay.charges == []


def test_topup_restore_during_charge_is_noticed_before_settling(purses: Purses) -> None:
    steps = flat(fill(purses.context()))
    effect: object = next(steps)
    while isinstance(effect, Transaction):
        effect = steps.send(purses.write(effect.work))
    assert isinstance(effect, ChargeMoney)
    answers = [purses.pay.charged(one) for one in effect.charges]
    settle = steps.send(answers)
    assert isinstance(settle, Transaction)
    purses.write(lambda c: c.execute(sa.text("UPDATE incarnation SET doubted_ms = 1, doubted_reason = 'a test'")))
    with pytest.raises(HistoryDoubted):
        purses.write(settle.work)


# In the tick, and in the watch.


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    """acme has used up its credit, is halted, and has a card."""
    made = Fleet(engine)
    made.assign("acme")
    write(engine, lambda c: set_rate(c, "compute_1gb", 1, 1, made.by, from_ms=None, new=True))
    write(engine, lambda c: grant(c, "acme", 10, made.by, key="g", plan="free"))
    made.sample("acme", T0 + 1, 60)
    made.tick_windows(2)
    terms = replace(TERMS, threshold_micro=5, amount_micro=100, price_minor=10**8, most_minor=10**9)
    write(engine, lambda c: said.set_terms(c, "acme", terms, CAN, made.by))
    assert made.one("SELECT is_halted FROM orgs WHERE org_id = 'acme'")
    return made


def test_tick_tops_up_wallet_and_resumes_halted_customer(fleet: Fleet) -> None:
    pay = FakePayments(fleet.clock)
    fleet.clock.at_ms += MINUTE_MS
    context = fleet.context(payments={"fake": CAN})
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock, payments={"fake": pay})
    report = runner.run(tick(context), world)
    assert (report.topped_up, report.resumed, len(pay.taken)) == (1, 1, 1)
    assert not fleet.one("SELECT is_halted FROM orgs WHERE org_id = 'acme'")


@pytest.mark.both_databases
def test_debt_of_wallet_that_its_org_left_is_told_by_status(engine: sa.Engine) -> None:
    """Usage before the move is sealed after it, also late. The card is not charged for a wallet that is not used."""
    fleet = Fleet(engine)
    pay = FakePayments(fleet.clock)
    fleet.assign("acme", from_ms=T0)
    write(engine, lambda c: set_rate(c, "compute_1gb", 1, 1, fleet.by, from_ms=None, new=True))
    write(engine, lambda c: grant(c, "acme", 50, fleet.by, key="g", plan=None))
    terms = replace(TERMS, threshold_micro=5, amount_micro=100, price_minor=10**8, most_minor=10**9)
    write(engine, lambda c: said.set_terms(c, "acme", terms, CAN, fleet.by))

    def owed() -> list[PausedDebt]:
        fleet.clock.at_ms += WINDOW_MS
        world = runner.World(engine, fleet.providers, fleet.cells, fleet.clock, payments={"fake": pay})
        assert runner.run(tick(fleet.context(payments={"fake": CAN})), world).topped_up == 0
        return read(engine, lambda c: status(c, fleet.clock.at_ms)).standing.paused_debts

    (made,) = write(
        engine, lambda c: assign(c, ["acme"], "embedded", fleet.by, customer_id="inc", from_ms=T0 + WINDOW_MS)
    )
    assert made.note is not None and made.note.endswith(
        "its automatic top-ups pause. Usage before then can still put it in debt, which `drawdown status` shows"
    )
    fleet.sample("acme", T0 + 1, 60)
    assert owed() == [], "the windows before the move are not sealed yet"
    assert owed() == [PausedDebt("acme", 10)]
    fleet.sample("acme", T0 + 2, 7)
    assert owed() == [PausedDebt("acme", 17)]
    found = read(engine, lambda c: status(c, fleet.clock.at_ms))
    assert (found.headline.verdict, [line for line in other_lines(found.standing, 0) if line[0] == "owed"]) == (
        "settled",
        [("owed", "the wallet acme owes 0.000017 credits. Its top-ups pause, because no organisation uses it: "
          "`drawdown ledger show acme`")],
    )  # fmt: skip
    write(engine, lambda c: grant(c, "acme", 17, fleet.by, key="paid", plan=None))
    assert owed() == [] and pay.taken == []


def test_watch_tops_up_wallet_and_resumes_halted_customer(fleet: Fleet) -> None:
    pay = FakePayments(fleet.clock)
    resumed = topped_up = 0
    for _ in range(2):
        fleet.clock.at_ms += 5_000
        context = fleet.context(payments={"fake": CAN})
        world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock, payments={"fake": pay})
        done = runner.run(watch(context, Watcher()), world)
        resumed, topped_up = resumed + done.resumed, topped_up + done.topped_up
    assert (resumed, topped_up, len(pay.taken)) == (1, 1, 1)


def test_tick_on_restored_database_does_not_charge(fleet: Fleet) -> None:
    pay = FakePayments(fleet.clock)
    fleet.write("UPDATE incarnation SET doubted_ms = 1, doubted_reason = 'a test'")
    fleet.clock.at_ms += MINUTE_MS
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock, payments={"fake": pay})
    assert runner.run(tick(fleet.context(payments={"fake": CAN})), world).doubted is not None
    assert not runner.run(watch(fleet.context(payments={"fake": CAN}), Watcher()), world).failures
    assert pay.charges == []
