"""Payouts of suppliers.

Each month you release a supplier's eligible settlements, less its clawbacks.

Guarantee: a supplier has at most one payout for each period. Its amount is exactly the amount that is eligible when it
is created, less the clawbacks. Each settlement and each clawback is in at most one payout. Drawdown does not pay the
supplier. To pay the supplier, use the payout's file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa

from drawdown.ledger import settlements
from drawdown.ledger.reservations import Denied
from drawdown.ledger.settlements import Supplier
from drawdown.schema.audit import By
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries
from drawdown.schema.text import quote_value, typed
from drawdown.schema.units import as_credits, counted_credits

SQL = queries(__file__)

PERIOD: Final = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")
"""The form of a period: a month such as 2026-01."""


@dataclass(frozen=True)
class Payout:
    """A payout. Amounts are micro-credits.

    `period`: the month, such as 2026-01. `released_micro`: its settlements. `carried_micro`: its clawbacks, as a
    negative amount. `total_micro`: the sum of both. `lines`: the number of its settlements and clawbacks.
    """

    payout: str
    supplier: str
    period: str
    released_micro: int
    carried_micro: int
    total_micro: int
    lines: int
    at_ms: int
    actor: str
    reason: str


def payout_id(supplier: str, period: str) -> str:
    """Return the name of the payout of a supplier and a period."""
    return f"payout:{supplier}:{period}"


def period_of(moment_ms: int) -> str:
    """Return the month of a moment, in UTC."""
    return datetime.fromtimestamp(moment_ms // 1000, UTC).strftime("%Y-%m")


def above_micro(agreed_micro: int | None, newest_micro: int) -> int:
    """Return the threshold that a payout must exceed, in micro-credits.

    The threshold is the lowest that was agreed on for a settlement of the payout. Without settlements, the supplier's
    newest terms decide.
    """
    return newest_micro if agreed_micro is None else int(agreed_micro)


def read(connection: sa.Connection, payout: str) -> Payout | None:
    """Return a payout; None if it does not exist."""
    row = SQL.run(connection, "read", {"payout": payout}).mappings().one_or_none()
    return None if row is None else Payout(**row)


def newest(connection: sa.Connection, supplier: str, most: int) -> list[Payout]:
    """Return the `most` newest payouts, the newest period first.

    `supplier`: return only this supplier's payouts; '': return those of all suppliers.
    """
    return [Payout(**row) for row in SQL.run(connection, "newest", {"supplier": supplier, "at_most": most}).mappings()]


def release(
    connection: sa.Connection, found: Supplier, period: str, expect_micro: int | None, by: By
) -> tuple[Payout, bool]:
    """Create a supplier's payout of a period.

    Return the payout, and True if it existed before.

    This transaction must have locked the supplier. `expect_micro`: the total of the dry run; None: any total.

    Errors: Denied `frozen_supplier`, `clock_behind`, `earlier_period`, `below_threshold`, `not_as_expected`; UsageError
    for a period that is invalid or has not begun.
    """
    payout = payout_id(found.supplier, period)
    before = read(connection, payout)
    if before is not None:
        _require_expected(before, expect_micro)
        return before, True
    _require_period(connection, found.supplier, period, by.now_ms)
    frozen = settlements.freeze_of(connection, found.supplier, None)
    if frozen is not None:
        why = f"by {frozen.actor} ({frozen.reason})"
        raise Denied(
            "frozen_supplier",
            f"supplier {found.supplier} is frozen {why}. Run `drawdown supplier freeze "
            f"{typed(found.supplier, '--undo')}`",
        )
    settlements.require_in_order(connection, found.supplier, by.now_ms)
    made = _gathered(connection, payout, found, period, by)
    _require_expected(made, expect_micro)
    SQL.run(connection, "insert", vars(made))
    return made, False


def _gathered(connection: sa.Connection, payout: str, found: Supplier, period: str, by: By) -> Payout:
    """Write the lines of a payout, and return the payout with their sums.

    A settlement that is made meanwhile is in the next payout.
    """
    values = {"payout": payout, "supplier": found.supplier, "now_ms": by.now_ms}
    SQL.run(connection, "release", values)
    SQL.run(connection, "carry", values)
    sums = SQL.run(connection, "sums", values).one()
    total = int(sums.released_micro) + int(sums.carried_micro)
    threshold = above_micro(sums.threshold_micro, found.terms.threshold_micro)
    if total <= threshold:
        less = f", less {as_credits(-sums.carried_micro)} clawed back" if sums.carried_micro else ""
        raise Denied(
            "below_threshold",
            f"cannot release a payout of {found.supplier}: the releasable amount is "
            f"{counted_credits(sums.released_micro)}{less}. A payout must exceed {counted_credits(threshold)}. "
            "The amount stays for the next payout",
        )
    return Payout(
        payout=payout,
        supplier=found.supplier,
        period=period,
        released_micro=int(sums.released_micro),
        carried_micro=int(sums.carried_micro),
        total_micro=total,
        lines=int(sums.lines),
        at_ms=by.now_ms,
        actor=by.actor,
        reason=by.reason,
    )


def _require_expected(found: Payout, expect_micro: int | None) -> None:
    if expect_micro is not None and found.total_micro != expect_micro:
        raise Denied(
            "not_as_expected",
            f"{found.payout} totals {counted_credits(found.total_micro)}, not "
            f"{as_credits(expect_micro)}. Repeat the command with --dry-run, without --expect",
        )


def _require_period(connection: sa.Connection, supplier: str, period: str, now_ms: int) -> None:
    if not PERIOD.fullmatch(period):
        raise UsageError(f"invalid period {quote_value(period)}: expected a month such as 2026-01")
    if period > period_of(now_ms):
        raise UsageError(f"invalid period {period}: it has not begun. Pass {period_of(now_ms)} or an earlier period")
    last = SQL.run(connection, "last_period", {"supplier": supplier}).scalar()
    if last is not None and period < str(last):
        raise Denied(
            "earlier_period",
            f"supplier {supplier} already has a payout of {last}, which released all "
            "eligible credit. Use a later period",
        )
