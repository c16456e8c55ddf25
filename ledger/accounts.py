"""Accounts: each customer's wallet, its plan, how many sandboxes at once that allows, and what its runs hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger.expiry import promised
from drawdown.schema.audit import By
from drawdown.schema.errors import Refused
from drawdown.schema.sql import queries
from drawdown.schema.text import typed

SQL = queries(__file__)

WALLET: Final = "wallet:"


@dataclass(frozen=True)
class Wallet:
    """A customer's wallet: balance (micro-credits), the parts that runs hold and that ended lots left, and plan.

    `max_concurrent`: the sandboxes at once that plan and tiers allow. `unbilled_micro`: use that is not charged yet, if
    it was read.
    """

    balance_micro: int
    plan: str | None
    max_concurrent: int | None
    held_micro: int = 0
    overdraft_micro: int = 0
    over_micro: int = 0
    unbilled_micro: int = 0

    @property
    def lapsed_micro(self) -> int:
        """The part of ended lots that no run has reserved: it pays for nothing any more, and will leave the balance."""
        return self.over_micro - promised(self.over_micro, self.balance_micro, self.held_micro)

    @property
    def payable_micro(self) -> int:
        """The credit for new use, and for the runs that continue."""
        return self.balance_micro - self.lapsed_micro

    @property
    def available_micro(self) -> int:
        """The credit that may still be reserved. In SQL, except for unbilled use: `available_micro` of `words.sql`."""
        return self.payable_micro - self.held_micro + self.overdraft_micro - self.unbilled_micro


def wallet_account(customer_id: str) -> str:
    """The account of a customer's wallet."""
    return f"{WALLET}{customer_id}"


def read_wallets(connection: sa.Connection, customer_ids: Iterable[str]) -> Mapping[str, Wallet]:
    """The wallets of customers; one never used before is empty."""
    rows = SQL.run(connection, "wallets", {"customers": [{"id": customer_id} for customer_id in customer_ids]})
    return {
        row.id: Wallet(
            int(row.balance_micro),
            row.plan,
            row.max_concurrent_sandboxes,
            row.held_micro,
            row.overdraft_micro,
            row.over_micro,
        )
        for row in rows
    }


def has_wallet(connection: sa.Connection, customer_id: str) -> bool:
    """Return True if a customer was ever given credit, or charged."""
    return SQL.run(connection, "has_wallet", {"account_id": wallet_account(customer_id)}).first() is not None


def set_plan(connection: sa.Connection, customer_id: str, plan: str, by: By) -> bool:
    """Put a customer on a plan from now on, and return True if it was on another one. The plan's credit is due at once.

    Errors: Refused for a plan that does not exist.
    """
    account = wallet_account(customer_id)
    open_accounts(connection, [account])
    if not hold_plans(connection, [plan]):
        raise Refused(f"unknown plan {plan}. Run `drawdown plan set {typed(plan, '--max-concurrent', 'N')}`")
    if SQL.run(connection, "set_plan", {"plan": plan, "account_id": account}).first() is None:
        return False
    SQL.run(connection, "stay", {"customer_id": customer_id, "plan": plan, **vars(by)})
    return True


def hold_plans(connection: sa.Connection, plans: Collection[str]) -> int:
    """Lock plans, so that no transaction changes their terms until this one ends. Return how many exist.

    This transaction already holds the wallets that it gives to. It gives by the terms that exist now. A transaction
    that changes them later sees who received credit before.
    """
    return len(SQL.run(connection, "hold_plans", {"plans": sorted(plans)}).all())


def open_accounts(connection: sa.Connection, accounts: Iterable[str]) -> None:
    """Make wallets that do not exist, in one order: no two transactions wait for each other by it."""
    rows = [{"id": account} for account in sorted(set(accounts))]
    SQL.run(connection, "open_accounts", {"accounts": rows})


ONE_PPM: Final = 1_000_000


@dataclass(frozen=True)
class HoldTerms:
    """The terms by which a run holds credit. Amounts are micro-credits.

    `hold_factor_ppm`: the estimate is multiplied by this (parts in a million). `unknown_hold_micro`: held without an
    estimate; None: such a run is refused. `most_hold_micro`, `most_held_micro`: the most for one run, and for all runs
    of a wallet; None: no limit. `holds_halt`: held credit can halt the organisation.
    """

    hold_factor_ppm: int = ONE_PPM
    unknown_hold_micro: int | None = None
    most_hold_micro: int | None = None
    most_held_micro: int | None = None
    holds_halt: bool = True

    def held_for(self, estimate_micro: int) -> int:
        """Return the amount to hold for an estimate, rounded up; never more than the most for one run."""
        amount = -(-estimate_micro * self.hold_factor_ppm // ONE_PPM)
        return amount if self.most_hold_micro is None else min(amount, self.most_hold_micro)


PLAIN: Final = HoldTerms()
"""The terms of a wallet on no plan."""


def hold_terms(connection: sa.Connection, customer_id: str) -> HoldTerms | None:
    """Return the hold terms of a wallet's plan; the plain ones without a plan; None without a wallet."""
    row = SQL.run(connection, "of_wallet", {"account_id": wallet_account(customer_id)}).mappings().one_or_none()
    return None if row is None else PLAIN if row["holds_halt"] is None else _terms(row)


def set_hold_terms(connection: sa.Connection, plan: str, terms: HoldTerms) -> None:
    """Have a plan that is there go by other terms, from the next acceptance on."""
    SQL.run(connection, "set", {**vars(terms), "plan": plan})


def read_hold_terms(connection: sa.Connection, plan: str) -> HoldTerms | None:
    """Return a plan's own hold terms; None if there is no such plan."""
    row = SQL.run(connection, "of_plan", {"plan": plan}).mappings().one_or_none()
    return None if row is None else _terms(row)


def _terms(row: Mapping[Any, Any]) -> HoldTerms:
    return HoldTerms(**{**row, "holds_halt": bool(row["holds_halt"])})
