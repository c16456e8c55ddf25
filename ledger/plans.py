"""Plans: how many sandboxes at once one allows, and what its runs hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger.accounts import wallet_account
from drawdown.schema.sql import queries

SQL = queries(__file__)

ONE_PPM: Final = 1_000_000


@dataclass(frozen=True)
class HoldTerms:
    """What a run holds: its estimate times a factor (parts in a million), this much without an estimate (None: it is
    refused), at most so much for one run and for all of a wallet (None: no end); and whether what is held halts.
    Micro-credits."""

    hold_factor_ppm: int = ONE_PPM
    unknown_hold_micro: int | None = None
    most_hold_micro: int | None = None
    most_held_micro: int | None = None
    holds_halt: bool = True

    def held_for(self, estimate_micro: int) -> int:
        """What is held for an estimate, rounded up; never more than for one run."""
        amount = -(-estimate_micro * self.hold_factor_ppm // ONE_PPM)
        return amount if self.most_hold_micro is None else min(amount, self.most_hold_micro)


PLAIN: Final = HoldTerms()
"""Of a wallet on no plan."""


def hold_terms(connection: sa.Connection, customer_id: str) -> HoldTerms | None:
    """Those of the plan of a customer's wallet; the plain ones where it is on no plan; None without a wallet."""
    row = SQL.run(connection, "of_wallet", {"account_id": wallet_account(customer_id)}).mappings().one_or_none()
    return None if row is None else PLAIN if row["holds_halt"] is None else _terms(row)


def set_hold_terms(connection: sa.Connection, plan: str, terms: HoldTerms) -> None:
    """Have a plan that is there go by other terms, from the next acceptance on."""
    SQL.run(connection, "set", {**vars(terms), "plan": plan})


def read_hold_terms(connection: sa.Connection, plan: str) -> HoldTerms | None:
    """A plan's own; None where there is no such plan."""
    row = SQL.run(connection, "of_plan", {"plan": plan}).mappings().one_or_none()
    return None if row is None else _terms(row)


def _terms(row: Mapping[Any, Any]) -> HoldTerms:
    return HoldTerms(**{**row, "holds_halt": bool(row["holds_halt"])})
