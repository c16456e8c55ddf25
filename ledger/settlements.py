"""Suppliers and their settlements.

The transaction that ends an execution makes the settlement of the execution.

Guarantee: a settlement does not change a wallet. A supplier is owed a part of the execution's charge, which is never a
second deduction. A settlement never changes. An amount that is not owed after all is a reversal, in its own row. The
time and the stored rows alone decide if a settlement is held, eligible, frozen, released or reversed. A supplier's
terms are added and never changed, and a settlement keeps its terms.

Order of locks: reservations by their keys, then wallets by their ids, then settlements, which are only inserted. A
freeze, a reversal, a payout and new terms lock the supplier first (`hold_supplier`). After that lock, they do not lock
a reservation or wallet, so a deadlock is impossible.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import sqlalchemy as sa

from drawdown.ledger.reservations import Denied, Reservation
from drawdown.schema.audit import By
from drawdown.schema.sql import queries
from drawdown.schema.text import typed
from drawdown.schema.units import LATE_HORIZON_MS, MICRO, as_credits, counted_credits

SQL = queries(__file__)

Standing: TypeAlias = Literal["hold", "eligible", "frozen", "released", "reversed"]


@dataclass(frozen=True)
class Settlement:
    """A settlement at a moment, in micro-credits, parts per million and milliseconds.

    `gross_micro`: the charge. `share_ppm`, `net_micro`: the supplier's share of the charge. `hold_until_ms`: the end of
    the settlement's hold. `threshold_micro`, `takes_clawbacks`: the supplier's terms, as copied by the settlement.
    `reversed_micro` was deducted before the release, `clawed_back_micro` afterwards. `payout` None: the settlement is
    not released. `state`: its state at the moment.
    """

    reservation: str
    org_id: str
    project: str | None
    supplier: str
    gross_micro: int
    share_ppm: int
    net_micro: int
    settled_ms: int
    hold_until_ms: int
    threshold_micro: int
    takes_clawbacks: bool
    reversed_micro: int
    clawed_back_micro: int
    payout: str | None
    state: Standing

    @property
    def owed_micro(self) -> int:
        """Return the amount that is released, or will be, in micro-credits."""
        return self.net_micro - self.reversed_micro

    @property
    def left_micro(self) -> int:
        """Return the amount that is neither reversed nor clawed back, in micro-credits."""
        return self.owed_micro - self.clawed_back_micro

    @property
    def is_final(self) -> bool:
        """Return True if the settlement is released, and its terms do not allow clawbacks."""
        return self.payout is not None and not self.takes_clawbacks


@dataclass(frozen=True)
class Freeze:
    """A stop of releases, with its start, actor and reason.

    `ended_ms` to `ended_reason`: its end (None: it is open). The stop is for one settlement or, if `reservation` is
    None, for the whole supplier.
    """

    freeze_id: int
    supplier: str
    reservation: str | None
    from_ms: int
    actor: str
    reason: str
    ended_ms: int | None
    ended_by: str | None
    ended_reason: str | None


@dataclass(frozen=True)
class Reversal:
    """A part of a settlement that is not owed after all.

    `amount_micro`: micro-credits. `is_clawback`: True if the settlement was released before.
    """

    reversal: str
    reservation: str
    amount_micro: int
    is_clawback: bool
    at_ms: int
    actor: str
    reason: str


def net_of(gross_micro: int, share_ppm: int) -> int:
    """Return a supplier's share of an execution's charge, in micro-credits.

    The share is rounded down, and the operator keeps the fraction.
    """
    return gross_micro * share_ppm // PPM


def owe(connection: sa.Connection, ended: Reservation, now_ms: int) -> None:
    """Make the settlement of an execution's supplier.

    This transaction ends the execution, and has locked it.

    An execution that was released free of charge does not get a settlement row. A settled execution gets a row, even
    with an amount of 0.
    """
    if ended.supplier is None or (ended.state == "released" and not ended.drawn_micro):
        return
    found = read_supplier(connection, ended.supplier)
    assert found is not None, "a supplier is never deleted, and existed when the execution was accepted"
    terms = found.terms
    row = {
        "reservation": ended.reservation,
        "supplier": ended.supplier,
        "revision": found.revision,
        "gross_micro": ended.drawn_micro,
        "net_micro": net_of(ended.drawn_micro, terms.share_ppm),
        "settled_ms": now_ms,
        "hold_until_ms": now_ms + terms.hold_ms,
    }
    SQL.run(connection, "insert", {**row, **vars(terms)})


def settlement_of(row: sa.RowMapping) -> Settlement:
    """Return the settlement of a row of the query `settlements_now`."""
    return Settlement(**{**row, "takes_clawbacks": bool(row["takes_clawbacks"])})


def read(connection: sa.Connection, reservation: str, now_ms: int) -> Settlement | None:
    """Return an execution's settlement; None if it does not exist."""
    values = {"reservation": reservation, "now_ms": now_ms}
    row = SQL.run(connection, "read", values).mappings().one_or_none()
    return None if row is None else settlement_of(row)


def hold(connection: sa.Connection, reservation: str, now_ms: int) -> Settlement | None:
    """Lock the supplier of an execution's settlement, and return the settlement.

    Return None if the settlement does not exist.
    """
    supplier = SQL.run(connection, "supplier_of", {"reservation": reservation}).scalar()
    if supplier is None:
        return None
    hold_supplier(connection, supplier)
    return read(connection, reservation, now_ms)


def freeze_of(connection: sa.Connection, supplier: str, reservation: str | None) -> Freeze | None:
    """Return the open freeze of a settlement or supplier; None if it is not frozen.

    `reservation` None: the freeze of the whole supplier.
    """
    values = {"supplier": supplier, **({"reservation": reservation} if reservation else {})}
    of_what = "of_all" if reservation is None else "of_one"
    row = SQL.run(connection, "open_freeze", values, of_what=of_what).mappings().one_or_none()
    return None if row is None else Freeze(**row)


def freeze(connection: sa.Connection, supplier: str, reservation: str | None, by: By) -> bool:
    """Stop releases of one settlement, or of a whole supplier.

    Return True if the freeze is new.

    This transaction must have locked the supplier. Errors: Denied `clock_behind`.
    """
    if freeze_of(connection, supplier, reservation) is not None:
        return False
    require_in_order(connection, supplier, by.now_ms)
    person = {"from_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    SQL.run(connection, "freeze", {"supplier": supplier, "reservation": reservation, **person})
    return True


def unfreeze(connection: sa.Connection, supplier: str, reservation: str | None, by: By) -> bool:
    """End a freeze, and return True if it existed. Errors: Denied `clock_behind`.

    This transaction must have locked the supplier.
    """
    found = freeze_of(connection, supplier, reservation)
    if found is None:
        return False
    require_in_order(connection, supplier, by.now_ms)
    person = {"ended_ms": by.now_ms, "ended_by": by.actor, "ended_reason": by.reason}
    SQL.run(connection, "unfreeze", {"freeze_id": found.freeze_id, **person})
    return True


def require_in_order(connection: sa.Connection, supplier: str, now_ms: int) -> None:
    """Check that the clock is not behind the last act on a supplier.

    Acts are freezes, their ends, and payouts. Their times show if a settlement was released while it was frozen.
    Errors: Denied `clock_behind`.
    """
    last_ms = SQL.run(connection, "last_act", {"supplier": supplier}).scalar()
    if last_ms is not None and now_ms < int(last_ms):
        raise Denied(
            "clock_behind",
            f"the clock of this machine is {int(last_ms) - now_ms} ms behind the last change "
            f"or payout of {supplier}. Wait, or fix the clock",
        )


def reverse(
    connection: sa.Connection, found: Settlement, key: str, amount_micro: int | None, by: By
) -> tuple[Reversal, bool]:
    """Reverse a part of a settlement, under the caller's key.

    Return the reversal, and True if it existed before.

    `amount_micro` None: reverse the whole remaining amount. Before the release, the supplier is owed less for the
    settlement. After the release, the next payout is lower. This transaction must have locked `found` with `hold`.

    Errors: Denied `other_content`, `nothing_left`, `above_left`, `no_clawbacks`.
    """
    row = SQL.run(connection, "reversal", {"reversal": key}).mappings().one_or_none()
    if row is not None:
        before = Reversal(**{**row, "is_clawback": bool(row["is_clawback"])})
        same = amount_micro == before.amount_micro or (amount_micro is None and not found.left_micro)
        if before.reservation != found.reservation or not same:
            raise _other_content(key)
        return before, True
    if not found.left_micro:
        amount_is = f"its amount, {counted_credits(found.net_micro)}, is already reversed"
        amount_is = amount_is if found.net_micro else "its amount is 0"
        raise Denied(
            "nothing_left",
            f"cannot reverse {found.reservation}: {amount_is}. "
            f"Run `drawdown settlement show {typed(found.reservation)}`",
        )
    if found.is_final:
        raise Denied(
            "no_clawbacks",
            f"cannot reverse {found.reservation}: its settlement was released with {found.payout}, and the terms "
            f"of {found.supplier} then did not allow clawbacks. Settle the difference with the supplier directly",
        )
    amount = found.left_micro if amount_micro is None else amount_micro
    if amount > found.left_micro:
        left = f"only {as_credits(found.left_micro)} of {counted_credits(found.net_micro)} can be reversed"
        raise Denied("above_left", f"cannot reverse {found.reservation}: {left}. Reverse that amount, or less")
    made = Reversal(key, found.reservation, amount, found.payout is not None, by.now_ms, by.actor, by.reason)
    if SQL.run(connection, "reverse", vars(made)).first() is None:  # a concurrent reversal of another supplier
        raise _other_content(key)
    return made, False


def _other_content(key: str) -> Denied:
    text = (
        f"key {key} was used for another reversal. To repeat that reversal, send its first execution and amount. "
        "For another reversal, use a new key"
    )
    return Denied("other_content", text)


PPM: Final = 1_000_000
"""The whole charge of an execution, in parts per million."""
THRESHOLD_MICRO: Final = 100 * MICRO
"""The default threshold that a payout must exceed, in micro-credits.

A supplier's terms can set another.
"""


@dataclass(frozen=True)
class Terms:
    """A supplier's terms.

    `share_ppm`: the supplier's share in parts per million. `hold_ms`: milliseconds for which a settlement is held.
    `threshold_micro`: the micro-credits that a payout must exceed. `takes_clawbacks`: True if released amounts can be
    clawed back. If False, the hold is never shorter than the correction horizon.
    """

    share_ppm: int
    hold_ms: int = LATE_HORIZON_MS
    threshold_micro: int = THRESHOLD_MICRO
    takes_clawbacks: bool = False


@dataclass(frozen=True)
class Supplier:
    """A supplier's newest terms, with their revision, time, actor and reason."""

    supplier: str
    revision: int
    terms: Terms
    at_ms: int
    actor: str
    reason: str


def read_supplier(connection: sa.Connection, supplier: str) -> Supplier | None:
    """Return a supplier with its newest terms; None if it does not exist."""
    row = SQL.run(connection, "newest", {"supplier": supplier}).one_or_none()
    if row is None:
        return None
    terms = Terms(int(row.share_ppm), int(row.hold_ms), int(row.threshold_micro), bool(row.takes_clawbacks))
    return Supplier(row.supplier, int(row.revision), terms, int(row.at_ms), row.actor, row.reason)


def hold_supplier(connection: sa.Connection, supplier: str) -> Supplier | None:
    """Return a supplier, locked until the commit; None if it does not exist."""
    SQL.run(connection, "hold", {"supplier": supplier}).all()
    return read_supplier(connection, supplier)


def set_terms(
    connection: sa.Connection, supplier: str, terms_after: Callable[[Supplier | None], Terms], by: By
) -> tuple[Supplier, Supplier | None]:
    """Set the terms of executions that end from now on.

    Return the supplier now and before.

    `terms_after`: a function that returns the new terms, from the supplier before (None: the supplier is new).
    Unchanged terms do not make a revision.
    """
    found = hold_supplier(connection, supplier)
    made = _revised(connection, supplier, found, terms_after(found), by)
    if made is None:  # a concurrent transaction made the same revision, so it can be locked now
        found = hold_supplier(connection, supplier)
        made = _revised(connection, supplier, found, terms_after(found), by)
        assert made is not None
    return made, found


def _revised(connection: sa.Connection, supplier: str, found: Supplier | None, terms: Terms, by: By) -> Supplier | None:
    if found is not None and found.terms == terms:
        return found
    revision = 0 if found is None else found.revision + 1
    made = Supplier(supplier, revision, terms, by.now_ms, by.actor, by.reason)
    is_new = SQL.run(connection, "insert_terms", {**vars(made), **vars(terms)}).first() is not None
    return made if is_new else None
