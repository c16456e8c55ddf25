"""The embedded ledger: charged once for good, balances that are sums."""

from __future__ import annotations

from functools import partial

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from structlog.testing import CapturingLogger

from drawdown.ledger import wallet
from drawdown.ledger.entries import MAX_ENTRY_MICRO, Usage
from drawdown.ledger.wallet import Charge, Granted
from drawdown.schema.database import read, write
from drawdown.schema.errors import Refused, UnknownId
from drawdown.worker.push import wallet_mirror
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit
from tests.sqlite_databases import fresh
from tests.world import T0, Fleet

FEATURE = "compute_1gb"


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    return Fleet(engine)


def charge(fleet: Fleet, *uses: Usage) -> list[Charge]:
    return write(fleet.engine, lambda connection: wallet.charge(connection, uses, T0))


def use(key: str, quantity: int = 10, customer: str = "acme", feature: str = FEATURE) -> Usage:
    return Usage(key, customer, feature, quantity, T0)


def test_ledger_repeated_key_is_charged_once(fleet: Fleet) -> None:
    assert charge(fleet, use("k"), use("k")) == [Charge.CHARGED, Charge.ALREADY]
    assert charge(fleet, use("k"), use("l")) == [Charge.ALREADY, Charge.CHARGED]
    assert fleet.one("SELECT balance_micro FROM ledger_accounts WHERE account_id = 'wallet:acme'") == -2000


@pytest.mark.parametrize("other", [use("k", 11), use("k", customer="globex"), use("k", feature="compute_4gb")])
def test_ledger_key_with_other_content_is_rejected(fleet: Fleet, other: Usage) -> None:
    charge(fleet, use("k"))
    assert charge(fleet, other) == [Charge.OTHER_CONTENT]
    assert charge(fleet, use("n"), use("n", 99)) == [Charge.CHARGED, Charge.OTHER_CONTENT]
    assert fleet.one("SELECT COUNT(*) FROM ledger_entries") == 2


def test_feature_without_rate_is_charged_after_rate_is_set(fleet: Fleet) -> None:
    assert charge(fleet, use("k", feature="new")) == [Charge.NO_RATE]
    write(fleet.engine, lambda c: credit.set_rate(c, "new", 7, 2, fleet.by, from_ms=None))
    assert charge(fleet, use("k", feature="new")) == [Charge.CHARGED]
    assert fleet.one("SELECT amount_micro FROM ledger_entries") == 35


def test_mirrored_push_that_is_not_drawn_is_logged_with_key(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = CapturingLogger()
    monkeypatch.setattr(wallet_mirror, "log", logger)
    write(fleet.engine, lambda c: credit.grant(c, "acme", 10, fleet.by, key="given", plan=None))
    charge(fleet, use("twice"))
    uses = [use("unpriced", feature="new"), use("large", MAX_ENTRY_MICRO), use("twice", 11), use("drawn")]
    write(fleet.engine, lambda c: wallet_mirror.draw(c, uses, T0))
    logged = {call.kwargs["key"]: call.kwargs["detail"].split(". ")[0] for call in logger.calls}
    assert logged == {
        "unpriced": "the embedded ledger lacks a rate",
        "large": "the charge exceeds 1,000,000,000 credits",
        "twice": "the key was charged before with another customer, feature or quantity",
    }


@pytest.mark.both_databases
def test_rate_equal_to_current_rate_is_stored_only_with_another_start(fleet: Fleet) -> None:
    """A rate with a start is a return from any change before it, also from one that is entered afterwards."""

    def say(micro: int, from_ms: int | None) -> int:
        return write(fleet.engine, lambda c: credit.set_rate(c, "new", micro, 2, fleet.by, from_ms=from_ms))

    later, last = T0 + 300_000, T0 + 600_000
    assert (say(7, None), say(7, None), say(7, 0)) == (0, 0, 0)
    assert (say(7, last), say(7, last), say(9, later), say(9, later)) == (last, last, later, later)
    found = fleet.rows("SELECT start_ms, micro_credits FROM ledger_rates WHERE feature = 'new' ORDER BY start_ms")
    assert found == [(0, 7), (later, 9), (last, 7)]
    assert fleet.one("SELECT COUNT(*) FROM operator_actions WHERE target = 'new'") == 3


def test_usage_is_charged_at_rate_of_own_time(fleet: Fleet) -> None:
    write(fleet.engine, lambda c: credit.set_rate(c, FEATURE, 5, 1, fleet.by, from_ms=T0 + 300_000))
    later = Usage("later", "acme", FEATURE, 1, T0 + 300_000)
    charge(fleet, use("k", 1), later)
    assert fleet.rows("SELECT key, amount_micro FROM ledger_entries ORDER BY key") == [("k", 100), ("later", 5)]


def test_grant_with_repeated_key_is_credited_once(fleet: Fleet) -> None:
    def give(amount: int) -> int:
        given = write(fleet.engine, lambda c: credit.grant(c, "acme", amount, fleet.by, key="invoice-1", plan=None))
        return given.balance_micro

    assert give(500) == give(500) == 500
    with pytest.raises(Refused, match="invoice-1"):
        give(501)


def test_repeated_grant_is_recorded_once(fleet: Fleet) -> None:
    """Three lines of an amount would read as three times the amount."""
    for plan, repeated in ((None, False), (None, True), ("free", True)):
        give = partial(credit.grant, customer_id="acme", amount_micro=5, by=fleet.by, key="invoice-1", plan=plan)
        assert write(fleet.engine, give) == Granted(5, repeated)
    assert fleet.rows("SELECT action, details FROM operator_actions WHERE target = 'acme' ORDER BY action_id") == [
        ("ledger_grant", '{"amount_micro": 5, "key": "grant:invoice-1", "plan": null}')
    ]
    assert read(fleet.engine, verify).breaches == []


def test_grants_with_different_keys_are_added(fleet: Fleet) -> None:
    for key, balance in (("a", 5), ("b", 10)):
        give = partial(credit.grant, customer_id="acme", amount_micro=5, by=fleet.by, key=key, plan="free")
        assert write(fleet.engine, give).balance_micro == balance
    found = read(fleet.engine, lambda c: credit.wallet_of(c, "acme"))
    assert (found.plan, found.max_concurrent) == ("free", 2)


def test_grant_with_unknown_plan_is_refused(fleet: Fleet) -> None:
    with pytest.raises(UnknownId, match="unknown plan gold"):
        write(fleet.engine, lambda c: credit.grant(c, "acme", 5, fleet.by, key="a", plan="gold"))
    assert fleet.one("SELECT COUNT(*) FROM ledger_entries") == 0


def test_ledger_names_with_special_characters_are_accepted(fleet: Fleet) -> None:
    odd = "a'; DROP TABLE orgs;-- :x %s {} \u00fc\u4e2d"
    assert charge(fleet, use("k:" + odd, customer=odd)) == [Charge.CHARGED]
    assert read(fleet.engine, lambda c: credit.wallet_of(c, odd)).balance_micro == -1000


class Ledger(RuleBasedStateMachine):
    """Random charges and grants beside a plain model."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = fresh()
        self.fleet = Fleet(self.engine)
        self.model: dict[str, tuple[str, int]] = {}
        self.granted: dict[str, int] = {}
        self.keys = 0

    @rule(
        batch=st.lists(
            st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["x", "y"]), st.integers(-50, 50)), max_size=6
        )
    )
    def charge(self, batch: list[tuple[str, str, int]]) -> None:
        answers = charge(self.fleet, *(use(key, quantity, customer) for key, customer, quantity in batch))
        for (key, customer, quantity), answer in zip(batch, answers, strict=True):
            known = self.model.setdefault(key, (customer, quantity))
            if answer is Charge.CHARGED:
                assert known == (customer, quantity)
            else:
                assert answer is (Charge.ALREADY if known == (customer, quantity) else Charge.OTHER_CONTENT)

    @rule(customer=st.sampled_from(["x", "y"]), amount=st.integers(-100, 100))
    def grant(self, customer: str, amount: int) -> None:
        self.keys += 1
        key = f"grant {self.keys}"
        write(self.engine, lambda c: credit.grant(c, customer, amount, self.fleet.by, key=key, plan=None))
        self.granted[customer] = self.granted.get(customer, 0) + amount

    @invariant()
    def balances_are_what_the_model_says_and_sum_to_zero(self) -> None:
        for customer in ("x", "y"):
            used = sum(quantity for owner, quantity in self.model.values() if owner == customer)
            found = read(self.engine, lambda c, name=customer: credit.wallet_of(c, name))  # type: ignore[misc]
            assert found.balance_micro == self.granted.get(customer, 0) - 100 * used
        lines = "(SELECT COALESCE(SUM(amount_micro), 0) FROM ledger_lines WHERE account_id LIKE 'wallet:%')"
        assert self.fleet.one(f"SELECT COALESCE(SUM(balance_micro), 0) - {lines} FROM ledger_accounts") == 0
        assert self.fleet.one("SELECT COALESCE(SUM(amount_micro), 0) FROM ledger_lines") == 0


def test_random_charges_and_grants_keep_ledger_balanced() -> None:
    run_state_machine_as_test(Ledger, settings=settings(max_examples=25, stateful_step_count=15))
