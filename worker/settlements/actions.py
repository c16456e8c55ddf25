"""What a person does about suppliers: their terms, freezes, reversals, batches.

Guarantee: each act is one transaction, under the supplier's lock, on record with who and why. The same act again
changes nothing, so that whoever lost the answer gives it again. No wallet moves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import sqlalchemy as sa

from drawdown.ledger import payouts, settlements
from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.ledger.payouts import Payout
from drawdown.ledger.reservations import Denied
from drawdown.ledger.settlements import PPM, Reversal, Settlement, Supplier, Terms
from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.text import typed
from drawdown.schema.units import DAY_MS, LATE_HORIZON_MS
from drawdown.worker.history.incarnation import require_whole

MAX_HOLD_MS: Final = 3_650 * DAY_MS
"""For how long a settlement is held at most: ten years."""


@dataclass(frozen=True)
class Change:
    """What of a supplier's terms is set; None: it stays as it is, or as suppliers have it by default."""

    share_ppm: int | None = None
    hold_ms: int | None = None
    threshold_micro: int | None = None
    takes_clawbacks: bool | None = None


@dataclass(frozen=True)
class Reversed:
    """A reversal, whether it was made before, and its settlement now."""

    reversal: Reversal
    repeated: bool
    settlement: Settlement


def set_supplier(
    connection: sa.Connection, supplier: str, change: Change, by: By, *, new: bool = False
) -> tuple[Supplier, Supplier | None]:
    """Set the terms of a supplier, for runs that end from now on; its terms now and before.

    Errors: UsageError for terms that make no sense; UnknownId, unless `new`.
    """
    if not is_clean_id(supplier):
        raise UsageError("a supplier's id has 1 to 200 characters, none of them control characters")
    ids.require(connection, ids.SUPPLIER, supplier, new=new)

    def changed(was: Supplier | None) -> Terms:
        if was is None and change.share_ppm is None:
            raise UsageError(f"{supplier} is new: say which share it gets with --share")
        terms = Terms(0) if was is None else was.terms
        terms = replace(terms, **{name: value for name, value in vars(change).items() if value is not None})
        _require_sane(terms)
        return terms

    found, was = settlements.set_terms(connection, supplier, changed, by)
    if was is None or found.revision != was.revision:
        before = None if was is None else vars(was.terms)
        record(connection, "supplier_set", supplier, {**vars(found.terms), "was": before}, by)
    return found, was


def freeze_supplier(connection: sa.Connection, supplier: str, by: By, *, undo: bool = False) -> bool:
    """Let nothing of a supplier be released, or end that; whether it changes anything. Runs that name it go on.

    Errors: UnknownId; Denied `clock_behind`.
    """
    _held_supplier(connection, supplier)
    return _freeze(connection, supplier, None, by, undo)


def freeze(connection: sa.Connection, reservation: str, by: By, *, undo: bool = False) -> tuple[Settlement, bool]:
    """The same of one settlement; as it stands now, and whether that changes anything.

    Errors: UnknownId; Denied `released`, `clock_behind`.
    """
    found = _held(connection, reservation, by.now_ms)
    if found.payout is not None and not undo:
        raise Denied(
            "released",
            f"{reservation} was released with {found.payout}: `drawdown settlement reverse {typed(reservation)}`",
        )
    done = _freeze(connection, found.supplier, reservation, by, undo)
    return _read(connection, reservation, by.now_ms), done


def reverse(connection: sa.Connection, reservation: str, key: str, amount_micro: int | None, by: By) -> Reversed:
    """Take a settlement back, in part or (without an amount) in whole, under a key of the caller's. The customer is
    given nothing back by it: that is a grant.

    Errors: as `ledger.settlements.reverse`; UnknownId; UsageError.
    """
    if not is_clean_id(key):
        raise UsageError("a reversal's key has 1 to 200 characters, none of them control characters")
    if amount_micro is not None and not 0 < amount_micro <= MAX_ENTRY_MICRO:
        raise UsageError("a reversal is of more than nothing, and of at most a thousand million credits")
    found = _held(connection, reservation, by.now_ms)
    made, repeated = settlements.reverse(connection, found, key, amount_micro, by)
    if not repeated:
        details = {"key": key, "amount_micro": made.amount_micro, "is_clawback": made.is_clawback}
        record(connection, "settlement_reverse", reservation, details, by)
    return Reversed(made, repeated, _read(connection, reservation, by.now_ms))


def batch(
    connection: sa.Connection, supplier: str, period: str, by: By, expect_micro: int | None = None
) -> tuple[Payout, bool]:
    """Release what a supplier is owed and is eligible now, as its batch of a period; also whether it was made before.
    `expect_micro`: what the dry run came to.

    Errors: as `ledger.payouts.release`; UnknownId; HistoryDoubted while the database stands still: a batch that it
    forgot may have been handed over, and would be paid twice (R1).
    """
    require_whole(connection)
    made, repeated = payouts.release(connection, _held_supplier(connection, supplier), period, expect_micro, by)
    if not repeated:
        names = ("released_micro", "carried_micro", "total_micro", "lines")
        record(connection, "settlement_batch", made.payout, {name: getattr(made, name) for name in names}, by)
    return made, repeated


def _freeze(connection: sa.Connection, supplier: str, reservation: str | None, by: By, undo: bool) -> bool:
    act = settlements.unfreeze if undo else settlements.freeze
    done = act(connection, supplier, reservation, by)
    if done:
        action = "settlement_unfreeze" if undo else "settlement_freeze"
        record(connection, action, reservation or supplier, {"supplier": supplier, "reservation": reservation}, by)
    return done


def _held_supplier(connection: sa.Connection, supplier: str) -> Supplier:
    found = settlements.hold_supplier(connection, supplier)
    if found is None:
        ids.require(connection, ids.SUPPLIER, supplier)
        raise UsageError(f"{supplier} appeared this moment: try again")
    return found


def _held(connection: sa.Connection, reservation: str, now_ms: int) -> Settlement:
    found = settlements.hold(connection, reservation, now_ms)
    if found is None:
        ids.require(connection, ids.SETTLEMENT, reservation)
        raise UsageError(f"{reservation} appeared this moment: try again")
    return found


def _read(connection: sa.Connection, reservation: str, now_ms: int) -> Settlement:
    found = settlements.read(connection, reservation, now_ms)
    assert found is not None
    return found


def _require_sane(terms: Terms) -> None:
    if not 0 <= terms.share_ppm <= PPM:
        raise UsageError("a share lies between nothing and all of it (1,000,000 parts per million)")
    if not 0 <= terms.threshold_micro <= MAX_ENTRY_MICRO:
        raise UsageError("a threshold lies between nothing and a thousand million credits")
    if not 0 <= terms.hold_ms <= MAX_HOLD_MS:
        raise UsageError("a settlement is held for ten years at most")
    if terms.hold_ms < LATE_HORIZON_MS and not terms.takes_clawbacks:
        raise UsageError(
            f"without claw-backs a settlement is held for {LATE_HORIZON_MS // DAY_MS} days at least, in which a run "
            "may still be corrected: give a longer --hold, or --clawbacks"
        )
