"""Backfills: which there are, and what became of them. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import sqlalchemy as sa

from drawdown.ledger.wallet import read_ahead
from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema import ids
from drawdown.schema.errors import Refused
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS
from drawdown.worker.verdict.rules import Overrides, verdict

SQL = queries(__file__)

OPEN_MS: Final = 7 * DAY_MS
"""How long one may stay open before somebody is told."""
MOST_OPEN: Final = 1_000
"""Open ones that are looked at: an organisation has one."""


@dataclass(frozen=True)
class BackfillRow:
    """One backfill of events used in [from_ms, to_ms). `events`: what it holds; once it is closed, what went in by
    it, of which `withdrawn` were taken back. `diff_hash`: of what was shown before it was closed."""

    backfill: str
    org_id: str
    from_ms: int
    to_ms: int
    state: str
    at_ms: int
    closed_ms: int | None
    reverted_ms: int | None
    diff_hash: str | None
    actor: str
    reason: str
    events: int
    withdrawn: int

    @property
    def went_in(self) -> str:
        """Of one that was closed, in words."""
        back = f", {self.withdrawn:,} of which are withdrawn" if self.withdrawn else ""
        return f"{self.events:,} events went in by it{back}"


@dataclass(frozen=True)
class Left:
    """What a wallet has for use, and what of it is left once what a backfill adds is charged, in micro-credits.
    `halts`: the organisation is not halted, and would be."""

    org_id: str
    customer_id: str
    has_micro: int
    left_micro: int
    halts: bool


@dataclass(frozen=True)
class Overdue:
    """One that is open and waits for a person's word. `why`: it is open for too long; or a part of its range is below
    its organisation's floor, and never goes in."""

    backfill: str
    org_id: str
    at_ms: int
    actor: str
    why: Literal["open_long", "below_floor"]


@dataclass(frozen=True)
class OpenBackfills:
    """How many are open, and since when the oldest is; None: there is none."""

    count: int
    since_ms: int | None


def overdue(connection: sa.Connection, now_ms: int, open_ms: int = OPEN_MS) -> list[Overdue]:
    """Open ones that somebody has to look at, the oldest first. Nothing is closed or reverted but by a person."""
    found = []
    for row in SQL.run(connection, "open", {"at_most": MOST_OPEN}):
        is_below = int(row.floor_ms) > int(row.from_ms)
        if is_below or now_ms - int(row.at_ms) > open_ms:
            why: Literal["open_long", "below_floor"] = "below_floor" if is_below else "open_long"
            found.append(Overdue(row.backfill, row.org_id, int(row.at_ms), row.actor, why))
    return found


def open_backfills(connection: sa.Connection) -> OpenBackfills:
    """By the index on open ones."""
    row = SQL.run(connection, "figures").one()
    return OpenBackfills(int(row.backfills), None if row.since_ms is None else int(row.since_ms))


def list_backfills(connection: sa.Connection, *, org_id: str = "", most: int = 100) -> list[BackfillRow]:
    """The latest first; of one organisation where it is given. Errors: UnknownId."""
    if org_id:
        ids.require(connection, ids.ORG, org_id)
    return _rows(connection, org_id, "", most)


def show_backfill(connection: sa.Connection, backfill: str) -> BackfillRow:
    """One of them. Errors: UnknownId."""
    found = _rows(connection, "", backfill, 1)
    if not found:
        ids.require(connection, ids.BACKFILL, backfill)
        raise Refused(f"the backfill {backfill} appeared this moment: try again")
    return found[0]


def left_after(connection: sa.Connection, found: BackfillRow, price_micro: int, now_ms: int) -> Left | None:
    """What so much more leaves of the wallet that is charged for a backfill's range, by what is charged so far; None:
    that is no wallet of the embedded ledger, or several are."""
    span = {"org_id": found.org_id, "from_ms": found.from_ms, "to_ms": found.to_ms}
    rows = SQL.run(connection, "wallets", {**span, "provider": EMBEDDED, "now_ms": now_ms}).all()
    if len(rows) != 1:
        return None
    (org,) = rows
    wallet = read_ahead(connection, [org.customer_id], now_ms)[org.customer_id]
    left = wallet.payable_micro - price_micro
    halted = None if org.override_halted is None else bool(org.override_halted)
    said = Overrides(bool(org.operator_halt), halted, until_ms=org.override_until_ms)
    then = verdict(left, wallet.max_concurrent, said, now_ms, held_micro=wallet.held_micro)
    halts = bool(org.bills_now) and then.is_halted and not org.is_halted
    return Left(
        found.org_id, org.customer_id, wallet.payable_micro - wallet.held_micro, left - wallet.held_micro, halts
    )


def _rows(connection: sa.Connection, org_id: str, backfill: str, most: int) -> list[BackfillRow]:
    values = {"org_id": org_id, "backfill": backfill, "at_most": most}
    return [BackfillRow(**row) for row in SQL.run(connection, "list", values).mappings()]
