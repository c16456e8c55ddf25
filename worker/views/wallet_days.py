"""A wallet by days: what it was used for by feature, its entries day by day, and what its organisation's runs came to.
Reads only.

Guarantee: days are UTC, by the time of use, and hold what `list_entries` has of them. Nothing is read of other wallets:
each statement goes by an index of this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.ledger.accounts import wallet_account
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS

SQL = queries(__file__)

MOST_DAY_ROWS: Final = 20_000
"""Days times features, or kinds, of one look."""
MOST_DAY_ENTRIES: Final = 200
"""Entries of one day that are shown at once."""


@dataclass(frozen=True)
class Use:
    """What a feature cost from a moment on, for a day or an hour; '': what names none."""

    at_ms: int
    feature: str
    micro: int


@dataclass(frozen=True)
class LedgerDay:
    """What one kind of entry came to on a day: up is more in the wallet."""

    day_ms: int
    kind: str
    entries: int
    moved_micro: int


@dataclass(frozen=True)
class DayEntry:
    """One entry of a day. `event`: what it is an entry of: its feature, or why somebody made it."""

    key: str
    kind: str
    moved_micro: int
    feature: str | None
    quantity: int | None
    ts: int
    at_ms: int
    actor: str
    reason: str


@dataclass(frozen=True)
class RunSteps:
    """Runs of an organisation that were accepted since a moment, by how far they have come, in micro-credits. `going`:
    held, of which so many have drawn nothing yet; `settling`: charged, and of interest to a supplier."""

    accepted: int
    accepted_micro: int
    going: int
    waiting: int
    held_micro: int
    complete: int
    drawn_micro: int
    settling: int
    net_micro: int


def use_by(connection: sa.Connection, customer_id: str, from_ms: int, to_ms: int, step_ms: int = DAY_MS) -> list[Use]:
    """By feature and day, or whatever length divides a day. What was given back is less."""
    values = {"account_id": wallet_account(customer_id), "from_ms": from_ms, "to_ms": to_ms, "step_ms": step_ms}
    rows = SQL.run(connection, "use_by", {**values, "at_most": MOST_DAY_ROWS})
    return [Use(int(row.at_ms), row.feature, int(row.micro)) for row in rows]


def ledger_by_day(connection: sa.Connection, customer_id: str, from_ms: int, to_ms: int) -> list[LedgerDay]:
    """By day, the latest first, and kind."""
    values = {"account_id": wallet_account(customer_id), "from_ms": from_ms, "to_ms": to_ms, "at_most": MOST_DAY_ROWS}
    rows = SQL.run(connection, "ledger_by_day", values)
    return [LedgerDay(int(row.day_ms), row.kind, int(row.entries), int(row.moved_micro)) for row in rows]


def entries_of_day(connection: sa.Connection, customer_id: str, day_ms: int) -> list[DayEntry]:
    """The latest first, MOST_DAY_ENTRIES at most."""
    span = {"from_ms": day_ms, "to_ms": day_ms + DAY_MS, "at_most": MOST_DAY_ENTRIES}
    rows = SQL.run(connection, "entries_of_day", {"account_id": wallet_account(customer_id), **span})
    return [DayEntry(**row._mapping) for row in rows]


def run_steps(connection: sa.Connection, org_id: str, from_ms: int, now_ms: int) -> RunSteps:
    """How far its runs have come."""
    row = SQL.run(connection, "run_steps", {"org_id": org_id, "from_ms": from_ms, "now_ms": now_ms}).one()
    return RunSteps(**{str(name): int(value or 0) for name, value in row._mapping.items()})
