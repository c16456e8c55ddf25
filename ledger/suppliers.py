"""Suppliers: who is owed a share of what runs cost, at which terms.

Guarantee: terms are added and never changed; a settlement keeps those that it was made with. `hold` is the lock of all
that changes what a supplier is owed, apart from new settlements: freezes, reversals, batches, terms. It is taken first;
whoever has it waits for no reservation and no wallet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.sql import queries
from drawdown.schema.units import LATE_HORIZON_MS, MICRO

SQL = queries(__file__)

PPM: Final = 1_000_000
"""The whole of a run, in parts per million."""
THRESHOLD_MICRO: Final = 100 * MICRO
"""A batch comes to more than this, unless the supplier's terms say otherwise."""


@dataclass(frozen=True)
class Terms:
    """A supplier's share in parts per million; for how long (milliseconds) a settlement is held; what a batch has to
    come to more than, in micro-credits; whether what was released may be clawed back. Without claw-backs the hold is
    never shorter than the correction horizon."""

    share_ppm: int
    hold_ms: int = LATE_HORIZON_MS
    threshold_micro: int = THRESHOLD_MICRO
    takes_clawbacks: bool = False


@dataclass(frozen=True)
class Supplier:
    """A supplier's terms, the how manieth they are, and when, by whom and why they were set."""

    supplier: str
    revision: int
    terms: Terms
    at_ms: int
    actor: str
    reason: str


def read(connection: sa.Connection, supplier: str) -> Supplier | None:
    """A supplier at its newest terms; None where there is none."""
    row = SQL.run(connection, "newest", {"supplier": supplier}).one_or_none()
    if row is None:
        return None
    terms = Terms(int(row.share_ppm), int(row.hold_ms), int(row.threshold_micro), bool(row.takes_clawbacks))
    return Supplier(row.supplier, int(row.revision), terms, int(row.at_ms), row.actor, row.reason)


def hold(connection: sa.Connection, supplier: str) -> Supplier | None:
    """The same, and nobody else freezes, reverses or releases what it is owed until this transaction is over."""
    SQL.run(connection, "hold", {"supplier": supplier}).all()
    return read(connection, supplier)


def set_terms(
    connection: sa.Connection, supplier: str, terms_after: Callable[[Supplier | None], Terms], by: By
) -> tuple[Supplier, Supplier | None]:
    """Have runs that end from now on be settled at the terms that follow from those before (None: a new one); the
    supplier now and before. The same terms again change nothing."""
    found = hold(connection, supplier)
    made = _revised(connection, supplier, found, terms_after(found), by)
    if made is None:  # somebody else made it this moment: it is there by now, and can be held
        found = hold(connection, supplier)
        made = _revised(connection, supplier, found, terms_after(found), by)
        assert made is not None
    return made, found


def _revised(connection: sa.Connection, supplier: str, found: Supplier | None, terms: Terms, by: By) -> Supplier | None:
    if found is not None and found.terms == terms:
        return found
    revision = 0 if found is None else found.revision + 1
    made = Supplier(supplier, revision, terms, by.now_ms, by.actor, by.reason)
    is_new = SQL.run(connection, "insert", {**vars(made), **vars(terms)}).first() is not None
    return made if is_new else None
