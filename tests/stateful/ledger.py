"""A machine on the embedded ledger, beside a model in exact fractions.

Guarantee: after every step each balance is what the model says, all of them sum to zero, and no key was charged twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from types import SimpleNamespace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from drawdown.ledger import accounts, wallet
from drawdown.ledger.entries import Usage
from drawdown.ledger.wallet import Charge
from drawdown.schema.database import read, write
from drawdown.schema.errors import Refused, UnknownId
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.push import wallet_mirror
from drawdown.worker.wallets import actions as credit
from tests.sqlite_databases import fresh
from tests.world import T0, Fleet

CUSTOMERS = ("x", "y", "z")
FEATURES = ("compute_1gb", "compute_4gb", "storage")
KEYS = tuple("abcdefghijkl")
TOO_LARGE = 10**15


@dataclass(frozen=True)
class Price:
    """`micro` for each `per`, from `start` on."""

    start: int
    micro: int
    per: int


def rounded(exact: Fraction) -> int:
    """To the nearest whole micro-credit, a half away from zero."""
    whole = Decimal(exact.numerator) / Decimal(exact.denominator)
    return int(whole.quantize(Decimal(1), ROUND_HALF_UP))


uses = st.lists(
    st.builds(
        Usage,
        st.sampled_from(KEYS),
        st.sampled_from(CUSTOMERS),
        st.sampled_from(FEATURES),
        st.sampled_from([0, 1, -1, 7, -7, 50, 3600, 10**12, -(10**14)]),
        st.integers(0, 4).map(lambda windows: T0 + windows * WINDOW_MS),
    ),
    max_size=6,
)


class Ledger(RuleBasedStateMachine):
    """Three customers, three features, one of them without a rate at first."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = fresh()
        self.fleet = Fleet(self.engine)
        self.prices = {"compute_1gb": [Price(0, 100, 1)], "compute_4gb": [Price(0, 400, 1)]}
        self.charged: dict[str, tuple[Usage, int]] = {}
        self.first: dict[tuple[str, str, int], Price] = {}
        self.granted: dict[str, tuple[str, int]] = {}
        self.plans: dict[str, str] = {}
        self.limits = {"free": 2}

    def teardown(self) -> None:
        self.engine.dispose()

    def rate_of(self, use: Usage) -> Price | None:
        """That of the first charge of its wallet, feature and window; else the one in force; None: it has none."""
        begun = [one for one in self.prices.get(use.feature, []) if one.start <= use.ts]
        return self.first.get(
            (use.customer_id, use.feature, use.ts), max(begun, key=lambda one: one.start, default=None)
        )

    def price(self, use: Usage) -> int | None:
        """None: it has no rate, or costs more than an entry holds."""
        rate = self.rate_of(use)
        amount = None if rate is None else rounded(Fraction(use.quantity * rate.micro, rate.per))
        return None if amount is None or abs(amount) > TOO_LARGE else amount

    def keep(self, name: str, use: Usage, amount: int) -> None:
        """It is charged; what comes later in its window goes by the same rate."""
        rate = self.rate_of(use)
        assert rate is not None
        self.first.setdefault((use.customer_id, use.feature, use.ts), rate)
        self.charged[name] = (replace(use, key=name), amount)

    @initialize(given=st.sampled_from([0, 500]), per=st.sampled_from([None, 2, 3]))
    def begin(self, given: int, per: int | None) -> None:
        """Some begin with credit, or with a rate that leaves fractions."""
        if given:
            self.grant("invoice-0", "x", given, "free")
        if per is not None:
            self.rate("storage", 1, per, None)

    @rule(batch=uses)
    def charge(self, batch: list[Usage]) -> None:
        answers = write(self.engine, lambda c: wallet.charge(c, batch, self.fleet.clock.at_ms))
        before = set(self.charged)
        for use in batch:
            amount = self.price(use)
            if use.key not in self.charged and amount is not None:
                self.keep(use.key, use, amount)
        told: set[str] = set()
        for use, answer in zip(batch, answers, strict=True):
            if use.key not in self.charged:
                assert answer in (Charge.NO_RATE, Charge.TOO_LARGE), "no price, and charged"
                continue
            kept = self.charged[use.key][0]
            same = (kept.customer_id, kept.feature, kept.quantity) == (use.customer_id, use.feature, use.quantity)
            if answer is Charge.CHARGED:
                assert use.key not in before | told and same, "charged once, and that which is said to be"
                told.add(use.key)
            else:
                assert answer in (Charge.ALREADY, Charge.OTHER_CONTENT), "not charged, though it has a price"
                assert (answer is Charge.ALREADY) == same, "another use taken for the same"
        assert told == set(self.charged) - before, "what was charged is not what was said"

    @rule(
        key=st.one_of(st.none(), st.sampled_from(["invoice-1", "invoice-2"])),
        customer=st.sampled_from(CUSTOMERS),
        amount=st.sampled_from([1, 500, -500, 10**9]),
        plan=st.sampled_from([None, "free", "team"]),
    )
    def grant(self, key: str | None, customer: str, amount: int, plan: str | None) -> None:
        name = key or f"nameless {len(self.granted)}"
        possible = self.granted.get(name, (customer, amount)) == (customer, amount)
        possible = possible and (plan is None or plan in self.limits)
        try:
            write(self.engine, lambda c: credit.grant(c, customer, amount, self.fleet.by, key=name, plan=plan))
        except (Refused, UnknownId):
            assert not possible
            return
        assert possible
        if plan is not None and name not in self.granted:
            self.plans[customer] = plan
        self.granted[name] = (customer, amount)

    @rule(
        feature=st.sampled_from(FEATURES),
        micro=st.sampled_from([0, 1, 3, 100, 10**6]),
        per=st.sampled_from([1, 2, 3, 7, 3600]),
        start=st.one_of(st.none(), st.integers(0, 4).map(lambda windows: T0 + windows * WINDOW_MS)),
    )
    def rate(self, feature: str, micro: int, per: int, start: int | None) -> None:
        known = self.prices.setdefault(feature, [])
        begins = start if start is not None else (self.fleet.clock.at_ms if known else 0)
        try:
            told = write(self.engine, lambda c: credit.set_rate(c, feature, micro, per, self.fleet.by, from_ms=start))
        except Refused:
            assert any(one.start == begins for one in known)
            return
        holds = max((one for one in known if one.start <= begins), key=lambda one: one.start, default=None)
        if holds is not None and start in (None, holds.start) and (holds.micro, holds.per) == (micro, per):
            assert told == holds.start, "said again, it changed something"
            return
        assert told == begins, "a rate begins at another time"
        known.append(Price(begins, micro, per))

    @rule(name=st.sampled_from(["free", "team"]), limit=st.integers(0, 9))
    def plan(self, name: str, limit: int) -> None:
        write(self.engine, lambda c: credit.set_plan_limit(c, name, limit, self.fleet.by))
        self.limits[name] = limit

    @rule()
    def a_window_goes_by(self) -> None:
        self.fleet.clock.at_ms += WINDOW_MS

    # What is billed elsewhere and drawn here too

    @rule(key=st.sampled_from(KEYS), customer=st.sampled_from(CUSTOMERS), quantity=st.sampled_from([1, 7, -7, 50]))
    def draw(self, key: str, customer: str, quantity: int) -> None:
        push = SimpleNamespace(
            key=key, customer_id=customer, feature="compute_1gb", sent_qty=quantity, window_ms=self.fleet.clock.at_ms
        )
        write(self.engine, lambda c: wallet_mirror.draw(c, [wallet_mirror.usage_of(push)], push.window_ms))
        use = wallet_mirror.usage_of(push)
        name = self.standing(use.key)
        if any(owner == customer for owner, _ in self.granted.values()) and name not in self.charged:
            amount = self.price(use)
            assert amount is not None
            self.keep(name, use, amount)

    def standing(self, key: str) -> str:
        """What was given back may be drawn anew, as something of its own."""
        return self.standing(f"{key}:redrawn") if f"{key}:back" in self.charged else key

    @precondition(lambda self: any(key.startswith("mirror:") for key in self.charged))
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        drawn = sorted(
            key for key in self.charged if key.startswith("mirror:") and not key.endswith((":back", "redrawn"))
        )
        use, _ = self.charged[data.draw(st.sampled_from(drawn))]
        push = SimpleNamespace(
            key=use.key.removeprefix("mirror:"),
            org_id=use.customer_id,
            customer_id=use.customer_id,
            feature=use.feature,
            sent_qty=use.quantity,
            window_ms=use.ts,
        )
        write(self.engine, lambda c: wallet_mirror.give_back(c, [push], self.fleet.clock.at_ms))
        found = self.charged.get(self.standing(use.key))
        if found is not None:
            use, amount = found
            self.charged[f"{use.key}:back"] = (replace(use, key=f"{use.key}:back", quantity=-use.quantity), -amount)

    # What must hold after every step

    @invariant()
    def balances_are_what_the_model_says(self) -> None:
        wallets = read(self.engine, lambda c: accounts.read_wallets(c, CUSTOMERS))
        for customer in CUSTOMERS:
            given = sum(amount for owner, amount in self.granted.values() if owner == customer)
            spent = sum(amount for use, amount in self.charged.values() if use.customer_id == customer)
            assert wallets[customer].balance_micro == given - spent, "the balance is not what the model says"
            plan = self.plans.get(customer)
            told = (wallets[customer].plan, wallets[customer].max_concurrent)
            assert told == (plan, self.limits.get(plan or "")), "the plan is another one"

    @invariant()
    def the_books_sum_to_zero_and_balances_are_their_lines(self) -> None:
        assert self.fleet.one("SELECT COALESCE(SUM(amount_micro), 0) FROM ledger_lines") == 0, "the lines' sum"
        kept = self.fleet.rows("SELECT account_id, balance_micro FROM ledger_accounts WHERE balance_micro <> 0")
        lines = "SELECT account_id, SUM(amount_micro) FROM ledger_lines WHERE account_id LIKE 'wallet:%' "
        lines += "GROUP BY 1 HAVING SUM(amount_micro) <> 0"
        assert sorted(map(repr, kept)) == sorted(map(repr, self.fleet.rows(lines))), "a balance is not its lines"

    @invariant()
    def what_is_given_back_costs_what_was_charged(self) -> None:
        """Of a window of which nothing is left, at a whole price, nothing is charged: whatever was set since."""
        left: dict[tuple[str, str, int], tuple[int, int]] = {}
        rows = "SELECT from_account, feature, ts, quantity, amount_micro FROM ledger_entries WHERE kind = 'usage'"
        for account, feature, ts, quantity, amount in self.fleet.rows(rows):
            spot = (str(account).removeprefix("wallet:"), str(feature), int(str(ts)))
            if self.first[spot].per == 1:
                before = left.get(spot, (0, 0))
                left[spot] = (before[0] + int(str(quantity)), before[1] + int(str(amount)))
        assert all(amount == 0 for quantity, amount in left.values() if quantity == 0), "given back at another price"

    @invariant()
    def each_key_is_there_once(self) -> None:
        found = self.fleet.rows("SELECT key, amount_micro FROM ledger_entries WHERE kind = 'usage' ORDER BY key")
        assert found == sorted((key, amount) for key, (_, amount) in self.charged.items()), "charged as something else"
        totals = dict.fromkeys(FEATURES, 0)
        for use, _ in self.charged.values():
            if use.customer_id == "x" and use.ts < T0 + 2 * WINDOW_MS:
                totals[use.feature] += use.quantity
        told = read(self.engine, lambda c: wallet.read_totals(c, "x", 0, T0 + 2 * WINDOW_MS))
        told = {name: total for name, total in told.items() if total}
        assert told == {name: total for name, total in totals.items() if total}, "the totals differ"
