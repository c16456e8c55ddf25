"""Runs: what is held, drawn, settled, released and expired, to the micro-credit, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Literal, TypeVar

import pytest
import sqlalchemy as sa

from drawdown.ledger import entries
from drawdown.ledger.accounts import HoldTerms, hold_terms, read_hold_terms, set_hold_terms, terms_of_row
from drawdown.ledger.draws import Cost
from drawdown.ledger.entries import MAX_ENTRY_MICRO, BeyondBalance
from drawdown.ledger.reservations import Denied
from drawdown.providers.embedded import EmbeddedProvider
from drawdown.providers.protocol import Accepted, PushRequest, Rejected
from drawdown.schema.database import read, write
from drawdown.schema.errors import UnknownId, UsageError
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions import permission as run_blocks
from drawdown.worker.executions.lists import RunFilter, list_runs, show_run
from drawdown.worker.executions.request import Request
from drawdown.worker.status.status import org_status
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets.actions import grant, set_rate
from tests.world import T0, Fleet

T = TypeVar("T")
HOUR_MS = 60 * MINUTE_MS


class Bank:
    """One organisation, acme, with 100 credits."""

    def __init__(self, engine: sa.Engine) -> None:
        self.fleet = Fleet(engine)
        self.fleet.assign("acme")
        self.write(lambda c: grant(c, "acme", 100 * MICRO, self.fleet.by, key="first", plan=None))

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        return write(self.fleet.engine, work)

    def accept(self, key: str, credits: int = 6, **more: object) -> executions.Accepted:
        request = Request("acme", credits * MICRO, **more)  # type: ignore[arg-type]
        return self.write(lambda c: executions.accept(c, key, request, self.fleet.by))

    def settle(self, key: str, credits: int) -> executions.Settled:
        return self.write(lambda c: executions.settle(c, key, Cost(credits * MICRO), self.fleet.by))

    def release(self, key: str, credits: int | None = None) -> executions.Settled:
        cost = None if credits is None else Cost(credits * MICRO)
        return self.write(lambda c: executions.release(c, key, cost, self.fleet.by))

    def draw(self, key: str, number: int, credits: int) -> executions.Settled:
        return self.write(lambda c: executions.draw(c, key, number, Cost(credits * MICRO), self.fleet.by))

    def extend(self, key: str, to: int | None = None, for_ms: int | None = None) -> executions.Accepted:
        micro = None if to is None else to * MICRO
        return self.write(lambda c: executions.extend(c, key, micro, for_ms, self.fleet.by))

    def preview(self, request: Request) -> executions.Preview:
        return read(self.fleet.engine, lambda c: executions.preview(c, request, self.fleet.clock.at_ms))

    @property
    def purse(self) -> tuple[int, int]:
        """What acme's wallet keeps, and what of it is held, in credits."""
        ((balance, held),) = self.fleet.rows(
            "SELECT balance_micro, held_micro FROM ledger_accounts WHERE account_id = 'wallet:acme'"
        )
        assert isinstance(balance, int)
        assert isinstance(held, int)
        assert balance % MICRO == held % MICRO == 0
        return balance // MICRO, held // MICRO

    def later(self, ms: int) -> None:
        self.fleet.clock.at_ms += ms


def available(done: executions.Accepted | executions.Settled) -> int:
    assert done.wallet is not None
    return done.wallet.available_micro


@pytest.fixture
def bank(engine: sa.Engine) -> Bank:
    return Bank(engine)


def test_execution_is_reserved_settled_and_rest_is_available(bank: Bank) -> None:
    accepted = bank.accept("e-1", project="site")
    assert (accepted.repeated, available(accepted), bank.purse) == (False, 94 * MICRO, (100, 6))
    settled = bank.settle("e-1", 4)
    assert (settled.drawn.charged_micro, available(settled), bank.purse) == (4 * MICRO, 96 * MICRO, (96, 0))
    assert bank.fleet.rows(
        "SELECT key, kind, amount_micro, reservation FROM ledger_entries WHERE kind = 'execution'"
    ) == [("run:e-1:final:*", "execution", 4 * MICRO, "e-1")]


def test_execution_call_repeated_returns_first_result(bank: Bank) -> None:
    for repeated in (False, True):
        assert bank.accept("e-1").repeated is repeated
        assert bank.purse == (100, 6)
    for repeated in (False, True):
        assert bank.draw("e-1", 1, 2).drawn.repeated is repeated
        assert bank.purse == (98, 4)
    for repeated in (False, True):
        assert bank.settle("e-1", 5).drawn.repeated is repeated
        assert bank.purse == (95, 0)
    assert bank.draw("e-1", 1, 2).drawn.repeated, "also once it has ended"
    assert bank.accept("e-1").repeated, "also once it has ended"
    bank.accept("e-2")
    for repeated in (False, True):
        assert bank.release("e-2").drawn.repeated is repeated
        assert bank.purse == (95, 0)


Act = Callable[[Bank], object]
OTHER: dict[str, tuple[str, Act]] = {
    "another estimate": ("other_content", lambda bank: bank.accept("held", 7)),
    "another project": ("other_content", lambda bank: bank.accept("held", project="x")),
    "a draw of another amount": ("other_content", lambda bank: bank.draw("held", 1, 2)),
    "a settlement at another cost": ("other_content", lambda bank: bank.settle("settled", 3)),
    "a settlement after its release": ("ended", lambda bank: bank.settle("released", 1)),
    "a release after its settlement": ("ended", lambda bank: bank.release("settled")),
    "a release at another cost": ("other_content", lambda bank: bank.release("released", 1)),
    "a draw after its settlement": ("ended", lambda bank: bank.draw("settled", 9, 1)),
    "growing after its settlement": ("ended", lambda bank: bank.extend("settled", 9)),
    "growing beyond what is there": ("no_credit", lambda bank: bank.extend("held", 200)),
    "a settlement below what was drawn": ("below_drawn", lambda bank: bank.settle("held", 0)),
    "more than there is": ("no_credit", lambda bank: bank.accept("new", 95)),
}


@pytest.mark.parametrize("situation", OTHER)
def test_execution_call_denied_leaves_wallet_unchanged(bank: Bank, situation: str) -> None:
    for key in ("held", "settled", "released"):
        bank.accept(key, 4)
    bank.draw("held", 1, 1)
    bank.settle("settled", 2)
    bank.release("released")
    before = (bank.purse, bank.fleet.rows("SELECT * FROM reservations ORDER BY 1"))
    assert before[0] == (97, 3)
    code, act = OTHER[situation]
    with pytest.raises(Denied) as denied:
        act(bank)
    assert denied.value.code == code
    assert (bank.purse, bank.fleet.rows("SELECT * FROM reservations ORDER BY 1")) == before


@pytest.mark.parametrize(
    ("overage", "charged", "purse"), [("charge", 10, (90, 0)), ("cap", 6, (94, 0)), ("refuse", None, (100, 6))]
)
def test_execution_settle_above_reservation_follows_overage(
    bank: Bank, overage: str, charged: int | None, purse: tuple[int, int]
) -> None:
    bank.accept("e-1", 6, overage=overage)
    if charged is None:
        with pytest.raises(Denied, match="Extend the execution first"):
            bank.settle("e-1", 10)
    else:
        assert bank.settle("e-1", 10).drawn.charged_micro == charged * MICRO
        assert bank.settle("e-1", 10).drawn.repeated
    assert bank.purse == purse


def test_execution_draws_above_cap_are_written_off_once(bank: Bank) -> None:
    bank.accept("e-1", 6, overage="cap")
    drawn = [bank.draw("e-1", number, 4).drawn for number in (1, 2, 3)]
    assert [(one.charged_micro // MICRO, one.written_off_micro // MICRO) for one in drawn] == [(4, 0), (2, 2), (0, 4)]
    assert bank.purse == (94, 0)
    assert bank.draw("e-1", 2, 4).drawn.repeated
    assert bank.settle("e-1", 6).drawn.charged_micro == 0


def test_execution_settle_beyond_balance_is_owed(bank: Bank) -> None:
    bank.accept("e-1", 100)
    assert available(bank.settle("e-1", 130)) == -30 * MICRO


def test_expired_reservation_is_released_before_preview_and_accept(bank: Bank) -> None:
    bank.accept("e-1", 60)
    bank.accept("e-2", 30, for_ms=2 * HOUR_MS)
    bank.later(HOUR_MS - 1)
    with pytest.raises(Denied, match=r"10 credits available.*e-1 reserves 60"):
        bank.accept("e-3", 40)
    bank.later(1)
    assert bank.preview(Request("acme", 40 * MICRO)).allowed
    bank.accept("e-3", 40)
    assert bank.fleet.one("SELECT state FROM reservations WHERE reservation = 'e-1'") == "expired"
    assert bank.purse == (100, 70)


def test_expired_execution_is_settled_late_and_draw_is_refused(bank: Bank) -> None:
    bank.accept("e-1", 60)
    bank.later(HOUR_MS)
    with pytest.raises(Denied, match="Settle the execution"):
        bank.draw("e-1", 1, 1)
    assert available(bank.settle("e-1", 50)) == 50 * MICRO
    assert bank.purse == (50, 0)


def test_execution_expiry_is_a_day_if_queued_and_renewed_by_extend(bank: Bank) -> None:
    assert bank.accept("e-1", queued=True).reservation.expires_ms == bank.fleet.clock.at_ms + DAY_MS
    accepted = bank.accept("e-2")
    bank.later(HOUR_MS - 1)
    grown = bank.extend("e-2", to=8)
    assert grown.reservation.expires_ms == accepted.reservation.expires_ms + HOUR_MS - 1
    assert (grown.reservation.amount_micro, bank.purse) == (8 * MICRO, (100, 14))
    assert bank.extend("e-2", to=8).repeated


def test_tick_expires_due_reservations(bank: Bank) -> None:
    for number in range(5):
        bank.accept(f"e-{number}", 10)
    bank.later(HOUR_MS)
    bank.fleet.tick()
    assert bank.purse == (100, 0)
    assert bank.fleet.one("SELECT next_due_ms FROM ledger_accounts WHERE account_id = 'wallet:acme'") is None


@pytest.mark.both_databases
def test_execution_is_priced_at_rates_of_acceptance(bank: Bank) -> None:
    for feature, micro in (("tokens_in", 3), ("tokens_out", 15)):
        bank.write(
            partial(set_rate, feature=feature, micro_credits=micro, per_quantity=1, by=bank.fleet.by, from_ms=None)
        )
    request = Request("acme", quantities={"tokens_in": 1_000_000, "tokens_out": 200_000})
    accepted = bank.write(lambda c: executions.accept(c, "e-1", request, bank.fleet.by))
    assert accepted.reservation.amount_micro == 6 * MICRO
    bank.later(HOUR_MS - 1)
    before_it = bank.fleet.clock.at_ms - 2 * HOUR_MS  # a rate that is set since, for a time before its acceptance
    bank.write(lambda c: set_rate(c, "tokens_in", 900, 1, bank.fleet.by, from_ms=before_it - before_it % 300_000))
    part = Cost(quantities={"tokens_in": 500_000})
    assert bank.write(lambda c: executions.draw(c, "e-1", 1, part, bank.fleet.by)).drawn.charged_micro == 1_500_000
    whole = Cost(quantities={"tokens_in": 600_000, "tokens_out": 100_000})
    for repeated in (False, True):
        settled = bank.write(lambda c: executions.settle(c, "e-1", whole, bank.fleet.by))
        assert settled.drawn.repeated is repeated
    rows = bank.fleet.rows(
        "SELECT feature, quantity, amount_micro FROM ledger_entries WHERE kind = 'execution' ORDER BY key"
    )
    assert rows == [
        ("tokens_in", 500_000, 1_500_000),
        ("tokens_in", 100_000, 300_000),
        ("tokens_out", 100_000, 1_500_000),
    ]
    assert bank.fleet.one("SELECT drawn_micro FROM reservations") == 3_300_000
    assert not read(bank.fleet.engine, verify).breaches
    with pytest.raises(Denied, match="is settled at"):
        bank.write(lambda c: executions.settle(c, "e-1", replace(whole, quantities={"tokens_in": 1}), bank.fleet.by))
    dear = read(bank.fleet.engine, lambda c: executions.preview(c, request, bank.fleet.clock.at_ms))
    assert dear.amount_micro == 1_000_000 * 900 + 200_000 * 15, "one that is accepted now is priced by it"


def test_execution_call_repeated_after_rate_change_is_recognised(bank: Bank) -> None:
    """A rate that was dated by a clock which is behind, and kept after the run was settled."""
    set_tokens = partial(set_rate, feature="tokens", per_quantity=1)
    bank.write(lambda c: set_tokens(c, micro_credits=3, by=bank.fleet.by, from_ms=None))
    bank.write(lambda c: executions.accept(c, "e-1", Request("acme", quantities={"tokens": 100}), bank.fleet.by))
    draw, settle = Cost(quantities={"tokens": 10}), Cost(quantities={"tokens": 100})
    first = (
        bank.write(lambda c: executions.draw(c, "e-1", 1, draw, bank.fleet.by)).drawn.charged_micro,
        bank.write(lambda c: executions.settle(c, "e-1", settle, bank.fleet.by)).drawn.charged_micro,
    )
    assert first == (30, 270)
    bank.write(lambda c: set_tokens(c, micro_credits=900, by=bank.fleet.by, from_ms=T0 - T0 % 300_000 - 300_000))
    assert bank.write(lambda c: executions.draw(c, "e-1", 1, draw, bank.fleet.by)).drawn.repeated
    assert bank.write(lambda c: executions.settle(c, "e-1", settle, bank.fleet.by)).drawn.repeated


def test_execution_mixing_credits_and_quantities_is_refused(bank: Bank) -> None:
    bank.write(lambda c: set_rate(c, "tokens", 1, 1, bank.fleet.by, from_ms=None, new=True))
    bank.accept("e-1")
    bank.draw("e-1", 1, 2)
    with pytest.raises(Denied, match="in credits"):
        bank.write(lambda c: executions.settle(c, "e-1", Cost(quantities={"tokens": 5}), bank.fleet.by))


STEPS = {
    "account": ("UPDATE orgs SET floor_ms = floor_ms", Request("globex", MICRO), "no_wallet"),
    "account_state": ("UPDATE orgs SET is_halted = true, halted_at = 1, halt_reason = 'operator'", None, "halted"),
    "plan": ("UPDATE orgs SET floor_ms = floor_ms", Request("acme"), "no_estimate"),
    "credits": ("UPDATE orgs SET floor_ms = floor_ms", Request("acme", 101 * MICRO), "no_credit"),
}


@pytest.mark.parametrize("step", STEPS)
def test_execution_refusal_names_step_in_preview_and_accept(bank: Bank, step: str) -> None:
    bank.fleet.assign("globex")
    statement, request, code = STEPS[step]
    bank.fleet.write(statement)
    asked = request or Request("acme", MICRO)
    found = bank.preview(asked)
    assert (found.allowed, found.step, found.code) == (False, step, code)
    with pytest.raises(Denied) as denied:
        bank.write(lambda c: executions.accept(c, "e-1", asked, bank.fleet.by))
    assert (denied.value.step, denied.value.code, str(denied.value)) == (step, code, found.reason)
    assert bank.fleet.rows("SELECT 1 FROM reservations") == []


WRONG = {
    "nothing": Request("acme", 0),
    "a negative estimate": Request("acme", -1),
    "an absurd one": Request("acme", 10**15 + 1),
    "no feature": Request("acme", quantities={}),
    "a negative quantity": Request("acme", quantities={"x": -1}),
    "a quantity beyond all": Request("acme", quantities={"x": 2**53}),
    "both": Request("acme", 1, {"x": 1}),
    "a life of a second": Request("acme", 1, for_ms=1000),
    "a life of a year": Request("acme", 1, for_ms=365 * DAY_MS),
    "a label with a line break": Request("acme", 1, project="a\nb"),
}


@pytest.mark.parametrize("situation", WRONG)
def test_execution_request_with_invalid_values_is_refused(bank: Bank, situation: str) -> None:
    request = WRONG[situation]
    with pytest.raises(UsageError):
        bank.preview(request)
    with pytest.raises(UsageError):
        bank.write(lambda c: executions.accept(c, "e-1", request, bank.fleet.by))


def test_execution_unknown_key_suggests_nearest(bank: Bank) -> None:
    bank.accept("deploy-1")
    with pytest.raises(UnknownId, match="deploy-1"):
        bank.settle("deploi-1", 1)


def test_reserved_credit_halts_and_released_credit_resumes(bank: Bank) -> None:
    """Nobody watches: cron alone."""
    bank.accept("e-1", 99)
    bank.fleet.tick()
    org = "SELECT is_halted, halt_reason FROM orgs WHERE org_id = 'acme'"
    assert bank.fleet.rows(org) == [(False, None)]
    bank.write(lambda c: grant(c, "acme", -2 * MICRO, bank.fleet.by, key="back", plan=None))
    bank.fleet.tick_windows(1)
    assert bank.fleet.rows(org) == [(True, "reserved")]
    assert bank.fleet.rows("SELECT reason, held_micro FROM projections ORDER BY projection_id DESC LIMIT 1") == [
        ("reserved", 99 * MICRO)
    ]
    assert not bank.preview(Request("acme", 1)).allowed
    shown = read(bank.fleet.engine, lambda c: org_status(c, "acme", bank.fleet.clock.at_ms))
    assert shown.credit is not None
    assert [(one.reservation, one.left_micro) for one in shown.credit.holders] == [("e-1", 99 * MICRO)]
    bank.release("e-1")
    bank.fleet.tick_windows(1)
    assert bank.fleet.rows(org) == [(False, None)]


def test_expired_reservation_does_not_halt(bank: Bank) -> None:
    bank.accept("e-1", 100)
    bank.write(lambda c: grant(c, "acme", -1, bank.fleet.by, key="back", plan=None))
    bank.fleet.tick()
    assert bank.fleet.one("SELECT halt_reason FROM orgs WHERE org_id = 'acme'") == "reserved"
    bank.later(HOUR_MS)
    bank.fleet.tick()
    assert bank.fleet.rows("SELECT is_halted, state FROM orgs, reservations") == [(False, "expired")]


def on_plan(bank: Bank, **terms: object) -> None:
    holds = HoldTerms(**terms)  # type: ignore[arg-type]
    bank.write(lambda c: credit.set_plan_limit(c, "free", 2, bank.fleet.by, holds=vars(holds)))
    bank.write(lambda c: grant(c, "acme", 0, bank.fleet.by, key="onto the plan", plan="free"))


def test_plan_terms_written_by_name_are_read_by_position(bank: Bank) -> None:
    """The values differ, so that a column in another order than the fields is found."""
    on_plan(bank)
    terms = terms_of_row([*range(1, len(fields(HoldTerms))), False])
    bank.write(lambda c: set_hold_terms(c, "free", terms))
    assert bank.write(lambda c: (read_hold_terms(c, "free"), hold_terms(c, "acme"))) == (terms, terms)


def test_plan_terms_set_reservation_amount_and_cap(bank: Bank) -> None:
    on_plan(bank, hold_factor_ppm=1_500_000, unknown_hold_micro=2 * MICRO, most_hold_micro=8 * MICRO)
    assert bank.accept("factor", 4).reservation.amount_micro == 6 * MICRO
    assert bank.accept("capped", 7).reservation.amount_micro == 8 * MICRO
    unknown = bank.write(lambda c: executions.accept(c, "unknown", Request("acme"), bank.fleet.by))
    assert unknown.reservation.amount_micro == 2 * MICRO
    assert bank.purse == (100, 16)
    refusing: tuple[Callable[[], object], ...] = (lambda: bank.accept("above", 9), lambda: bank.extend("factor", to=9))
    for refused in refusing:
        with pytest.raises(Denied) as denied:
            refused()
        assert (denied.value.code, denied.value.step) == ("above_cap", "plan")


def test_plan_terms_cap_total_reserved_credit(bank: Bank) -> None:
    on_plan(bank, most_held_micro=10 * MICRO)
    bank.accept("one", 6)
    refusing: tuple[Callable[[], object], ...] = (lambda: bank.accept("two", 5), lambda: bank.extend("one", to=11))
    for refused in refusing:
        with pytest.raises(Denied) as denied:
            refused()
        assert (denied.value.code, denied.value.step) == ("too_much_held", "plan")
    assert bank.preview(Request("acme", 5 * MICRO)).code == "too_much_held"
    bank.later(HOUR_MS)
    assert bank.preview(Request("acme", 5 * MICRO)).allowed
    bank.accept("two", 5)


def test_reserved_credit_of_plan_without_halts_does_not_halt(bank: Bank) -> None:
    on_plan(bank, holds_halt=False)
    bank.accept("e-1", 100)
    bank.write(lambda c: grant(c, "acme", -1, bank.fleet.by, key="back", plan=None))
    bank.fleet.tick()
    assert bank.fleet.rows("SELECT is_halted FROM orgs") == [(False,)]


@pytest.mark.parametrize("kind", ["project", "action"])
def test_execution_of_blocked_project_or_action_is_refused(bank: Bank, kind: Literal["project", "action"]) -> None:
    bank.accept("before", 6, **{kind: "site"})
    for changed in (True, False):
        assert bank.write(lambda c: run_blocks.block(c, "acme", kind, "site", bank.fleet.by)) is changed
    assert bank.accept("before", 6, **{kind: "site"}).repeated, "what was accepted is"
    bank.settle("before", 1)
    for name, allowed in (("site", False), ("other", True)):
        found = bank.preview(Request("acme", MICRO, **{kind: name}))  # type: ignore[arg-type]
        assert (found.allowed, found.step) == (allowed, None if allowed else kind)
    for changed in (True, False):
        assert bank.write(lambda c: run_blocks.block(c, "acme", kind, "site", bank.fleet.by, undo=True)) is changed
    bank.accept("after", 6, **{kind: "site"})
    assert bank.fleet.rows("SELECT action FROM operator_actions WHERE action LIKE 'run_%' ORDER BY 1") == [
        ("run_block",),
        ("run_unblock",),
    ]


@pytest.mark.parametrize(
    "terms",
    [
        HoldTerms(hold_factor_ppm=0),
        HoldTerms(hold_factor_ppm=10**9 + 1),
        HoldTerms(unknown_hold_micro=0),
        HoldTerms(most_hold_micro=10**15 + 1),
        HoldTerms(unknown_hold_micro=2, most_hold_micro=1),
    ],
)
def test_plan_reservation_terms_with_invalid_values_are_refused(bank: Bank, terms: HoldTerms) -> None:
    with pytest.raises(UsageError):
        bank.write(lambda c: credit.set_plan_limit(c, "free", 2, bank.fleet.by, holds=vars(terms)))


def test_execution_end_freeing_all_credit_requests_verdict(bank: Bank) -> None:
    """A halt for what it held may be under way: who ends it cannot see that yet."""
    ends: tuple[Callable[[str], object], ...] = (lambda key: bank.settle(key, 1), bank.release)
    for number, end in enumerate(ends):
        bank.accept(f"all-{number}", bank.purse[0])
        bank.fleet.write("UPDATE orgs SET projection_due_ms = NULL")
        end(f"all-{number}")
        assert bank.fleet.one("SELECT projection_due_ms FROM orgs") is not None
    bank.accept("over", bank.purse[0], for_ms=MINUTE_MS)
    bank.fleet.write("UPDATE orgs SET projection_due_ms = NULL")
    bank.later(MINUTE_MS)
    bank.settle("over", 1)
    assert bank.fleet.one("SELECT projection_due_ms FROM orgs") is not None, "it was expired on the way"
    bank.accept("small", 1)
    bank.fleet.write("UPDATE orgs SET projection_due_ms = NULL")
    bank.settle("small", 1)
    assert bank.fleet.one("SELECT projection_due_ms FROM orgs") is None, "nothing hung by it"


def test_execution_total_cost_beyond_entry_limit_is_refused(bank: Bank) -> None:
    bank.accept("run", 1)
    most = MAX_ENTRY_MICRO // MICRO
    bank.draw("run", 0, most - 5)
    with pytest.raises(UsageError, match="1,000,000,000"):
        bank.draw("run", 1, 6)
    bank.draw("run", 2, 5)
    with pytest.raises(UsageError, match="1,000,000,000"):
        bank.settle("run", most + 1)


def test_execution_draw_beyond_debt_limit_is_refused(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "MOST_BALANCE_MICRO", 200 * MICRO)
    bank.accept("run", 1)
    bank.draw("run", 0, 300)
    with pytest.raises(BeyondBalance, match="to -201 credits"):
        bank.draw("run", 1, 1)
    assert bank.purse == (-200, 0), "what was refused moved nothing"


def test_embedded_push_beyond_debt_limit_is_rejected_alone(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "MOST_BALANCE_MICRO", 200 * MICRO)
    bank.write(lambda c: set_rate(c, "x", MICRO, 1, bank.fleet.by, from_ms=0))
    provider, now = EmbeddedProvider(bank.fleet.engine, bank.fleet.clock), bank.fleet.clock.at_ms
    batch = [PushRequest(f"k{n}", "acme", "x", quantity, now, 1) for n, quantity in enumerate((100, 300, 20, 90, 30))]
    told = asyncio.run(provider.push(batch))
    assert [type(one) for one in told] == [Accepted, Rejected, Accepted, Accepted, Accepted]
    assert isinstance(told[1], Rejected) and "as credit or debt" in told[1].reason
    assert bank.purse == (-140, 0)


def test_expired_execution_is_listed_as_expired_before_tick(bank: Bank) -> None:
    bank.accept("brief", 5, for_ms=MINUTE_MS)
    bank.accept("long", 5)
    bank.later(MINUTE_MS)
    now = bank.fleet.clock.at_ms

    def listed(*states: str) -> list[tuple[str, str, int]]:
        found = read(bank.fleet.engine, lambda c: list_runs(c, RunFilter(states), now))
        return sorted((run.reservation, run.state, run.left_micro) for run in found.runs)

    assert listed("held") == [("long", "held", 5 * MICRO)]
    assert listed("expired") == [("brief", "expired", 0)]
    run, _ = read(bank.fleet.engine, lambda c: show_run(c, "brief", now, 9))
    assert (run.state, run.left_micro) == ("expired", 0)


@pytest.mark.parametrize("unit", ["credits", "quantities"])
def test_capped_execution_costs_same_in_credits_and_quantities(bank: Bank, unit: str) -> None:
    """What was written off stays written off, also once the run holds more."""
    bank.write(lambda c: set_rate(c, "tokens", MICRO, 1, bank.fleet.by, from_ms=0))

    def cost(amount: int) -> Cost:
        return Cost(amount * MICRO) if unit == "credits" else Cost(quantities={"tokens": amount})

    bank.accept("e-1", 60, overage="cap")
    for number, amount in ((1, 50), (2, 30)):
        part = partial(executions.draw, key="e-1", number=number, cost=cost(amount), by=bank.fleet.by)
        bank.write(part)
    bank.extend("e-1", to=90)
    for repeated in (False, True):
        done = bank.write(lambda c: executions.settle(c, "e-1", cost(85), bank.fleet.by))
        assert (done.drawn.charged_micro, done.drawn.repeated) == ((0, True) if repeated else (5 * MICRO, False))
    with pytest.raises(Denied, match="is settled at"):
        bank.write(lambda c: executions.settle(c, "e-1", cost(86), bank.fleet.by))
    assert bank.purse == (35, 0)
    assert not read(bank.fleet.engine, verify).breaches
