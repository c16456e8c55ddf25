"""The wallets of customers.

A wallet has a balance and reserved credit. Its plan sets how many sandboxes may run at once, and how executions reserve
credit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
    """A customer's wallet. Amounts are micro-credits.

    `plan` None: the wallet does not have a plan. `max_concurrent`: the concurrent sandboxes that plan and tiers allow
    (None: the wallet does not have a plan). `held_micro`: the credit that executions reserve. `overdraft_micro`: the
    debt up to which executions can reserve credit. `over_micro`: the unused credit of ended lots that is not booked
    yet. `unbilled_micro`: use that is not charged yet; 0 if it was not read.
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
        """Return the unreserved credit that remains of ended lots, in micro-credits.

        This credit cannot pay for further use, and will leave the balance.
        """
        return self.over_micro - promised(self.over_micro, self.balance_micro, self.held_micro)

    @property
    def payable_micro(self) -> int:
        """Return the credit for new use and for open executions, in micro-credits."""
        return self.balance_micro - self.lapsed_micro

    @property
    def available_micro(self) -> int:
        """Return the credit that can still be reserved, in micro-credits.

        The same amount in SQL, without unbilled use, is `available_micro` of `words.sql`.
        """
        return self.payable_micro - self.held_micro + self.overdraft_micro - self.unbilled_micro


def wallet_account(customer_id: str) -> str:
    """Return the account of a customer's wallet."""
    return f"{WALLET}{customer_id}"


def read_wallets(connection: sa.Connection, customer_ids: Iterable[str]) -> Mapping[str, Wallet]:
    """Return the wallets of customers. A wallet that was never used is empty."""
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
    """Return True if a customer has a wallet, even an empty one."""
    return SQL.run(connection, "has_wallet", {"account_id": wallet_account(customer_id)}).first() is not None


def set_plan(connection: sa.Connection, customer_id: str, plan: str, by: By) -> bool:
    """Put a customer on a plan from now on, and return True if the plan changed.

    The plan's credit is due immediately. Errors: Refused for a plan that does not exist.
    """
    account = wallet_account(customer_id)
    open_accounts(connection, [account])
    if not hold_plans(connection, [plan]):
        raise Refused(f"unknown plan {plan}. Run `drawdown plan set {typed(plan, '--max-concurrent', 'N')} --new`")
    if SQL.run(connection, "set_plan", {"plan": plan, "account_id": account}).first() is None:
        return False
    SQL.run(connection, "stay", {"customer_id": customer_id, "plan": plan, **vars(by)})
    return True


def hold_plans(connection: sa.Connection, plans: Collection[str]) -> int:
    """Lock plans, so that their terms cannot change until this transaction ends.

    Return how many of these plans exist.

    Before the call, lock the wallets to which you grant credit by the present terms. A transaction that changes the
    terms later can then read which wallets received credit before.
    """
    return len(SQL.run(connection, "hold_plans", {"plans": sorted(plans)}).all())


def open_accounts(connection: sa.Connection, accounts: Iterable[str]) -> None:
    """Make the wallets that do not exist.

    All transactions make accounts in one order, so that they do not deadlock.
    """
    rows = [{"id": account} for account in sorted(set(accounts))]
    SQL.run(connection, "open_accounts", {"accounts": rows})


ONE_PPM: Final = 1_000_000


@dataclass(frozen=True)
class HoldTerms:
    """The terms by which an execution reserves credit. Amounts are micro-credits.

    `hold_factor_ppm`: the factor of the estimate, in parts per million. `unknown_hold_micro`: the amount without an
    estimate; None: refuse such an execution. `most_hold_micro`, `most_held_micro`: the most for one execution, and for
    all executions of a wallet; None: unlimited. `holds_halt`: True if reserved credit can halt the organisation.
    """

    hold_factor_ppm: int = ONE_PPM
    unknown_hold_micro: int | None = None
    most_hold_micro: int | None = None
    most_held_micro: int | None = None
    holds_halt: bool = True

    def held_for(self, estimate_micro: int) -> int:
        """Return the amount to reserve for an estimate, in micro-credits.

        The amount is rounded up, and is at most `most_hold_micro`.
        """
        amount = -(-estimate_micro * self.hold_factor_ppm // ONE_PPM)
        return amount if self.most_hold_micro is None else min(amount, self.most_hold_micro)


PLAIN: Final = HoldTerms()
"""The terms of a wallet without a plan."""


def hold_terms(connection: sa.Connection, customer_id: str) -> HoldTerms | None:
    """Return the terms of a wallet.

    Return PLAIN if the wallet does not have a plan, and None if the wallet does not exist.
    """
    row = SQL.run(connection, "of_wallet", {"account_id": wallet_account(customer_id)}).one_or_none()
    return None if row is None else terms_of_row(row)


def set_hold_terms(connection: sa.Connection, plan: str, terms: HoldTerms) -> None:
    """Set the terms of an existing plan, for executions that are accepted later."""
    SQL.run(connection, "set", {**vars(terms), "plan": plan})


def read_hold_terms(connection: sa.Connection, plan: str) -> HoldTerms | None:
    """Return a plan's own terms; None if the plan does not exist."""
    row = SQL.run(connection, "of_plan", {"plan": plan}).one_or_none()
    return None if row is None else terms_of_row(row)


def terms_of_row(row: Sequence[Any]) -> HoldTerms:
    """Return the terms in a plan's columns, which are in the order of the fields.

    Return PLAIN if the columns are NULL, because the wallet does not have a plan.
    """
    return PLAIN if row[-1] is None else replace(HoldTerms(*row), holds_halt=bool(row[-1]))
