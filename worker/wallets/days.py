"""A wallet by days: what it was used for by feature, its entries day by day, and what its organisation's runs came to.
Reads only.

Guarantee: days are UTC, by the time of use, and hold what `list_entries` has of them. Nothing is read of other wallets:
each statement goes by an index of this one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger.accounts import wallet_account
from drawdown.schema.sql import queries, together
from drawdown.schema.units import DAY_MS
from drawdown.worker.wallets.forecast import used_part

SQL = queries(__file__)

MOST_DAY_ROWS: Final = 20_000
"""Days times features, or kinds, of one look."""
MOST_DAY_ENTRIES: Final = 200
"""Entries of one day that are shown at once."""
NEVER: Final = 2**53


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
    """One entry of a day: its feature, or why somebody made it; of a run, `reservation` names it; `lot`: of which it
    expires or is taken."""

    key: str
    kind: str
    moved_micro: int
    feature: str | None
    quantity: int | None
    ts: int
    at_ms: int
    actor: str
    reason: str
    reservation: str | None
    lot: str | None


@dataclass(frozen=True)
class RunSteps:
    """Runs of an organisation that were accepted since a moment, by how far they have come, in micro-credits. `going`:
    held, of which so many have drawn nothing yet; `settling`: settled with a supplier; `left`: what of its shares was
    not taken back; `unreleased`: what of that suppliers wait for."""

    accepted: int
    accepted_micro: int
    going: int
    waiting: int
    held_micro: int
    complete: int
    drawn_micro: int
    settling: int
    left_micro: int
    unreleased_micro: int


def use_by(connection: sa.Connection, customer_id: str, from_ms: int, to_ms: int, step_ms: int = DAY_MS) -> list[Use]:
    """By feature and day, or whatever length divides a day. What was given back is less."""
    values = {"account_id": wallet_account(customer_id), "from_ms": from_ms, "to_ms": to_ms, "step_ms": step_ms}
    return _uses(SQL.run(connection, "use_by", {**values, "at_most": MOST_DAY_ROWS}))


def _uses(rows: Iterable[Any]) -> list[Use]:
    return [Use(int(row.at_ms), row.feature, int(row.micro)) for row in rows]


def ledger_by_day(connection: sa.Connection, customer_id: str, from_ms: int, to_ms: int) -> list[LedgerDay]:
    """By day, the latest first, and kind."""
    values = {"account_id": wallet_account(customer_id), "from_ms": from_ms, "to_ms": to_ms, "at_most": MOST_DAY_ROWS}
    return _days(SQL.run(connection, "ledger_by_day", values))


def _days(rows: Iterable[Any]) -> list[LedgerDay]:
    return [LedgerDay(int(row.day_ms), row.kind, int(row.entries), int(row.moved_micro)) for row in rows]


def entries_of_day(connection: sa.Connection, customer_id: str, day_ms: int) -> list[DayEntry]:
    """The latest first, MOST_DAY_ENTRIES at most."""
    span = {"from_ms": day_ms, "to_ms": day_ms + DAY_MS, "at_most": MOST_DAY_ENTRIES}
    rows = SQL.run(connection, "entries_of_day", {"account_id": wallet_account(customer_id), **span})
    return [DayEntry(**row._mapping) for row in rows]


def closing_micro(connection: sa.Connection, customer_id: str, to_ms: int) -> int:
    """What was in the wallet then, of what is booked by now."""
    return int(SQL.run(connection, "closing", _from_then(customer_id, to_ms)).scalar_one())


def _from_then(customer_id: str, to_ms: int) -> dict[str, object]:
    return {"account_id": wallet_account(customer_id), "from_ms": to_ms, "to_ms": NEVER}


def _steps(*found: Any) -> RunSteps:
    """Of rows that have its figures, NULL where there is none."""
    return RunSteps(**{name: int(value or 0) for row in found for name, value in vars(row).items()})


@dataclass(frozen=True)
class Asked:
    """Of which wallet and organisation, and of which days: `from_ms` to `to_ms`, of use from `use_from_ms` on and by
    hours from `hours_from_ms` on; `opened_ms`: the day whose entries are shown, None: of none. Days begin at midnight
    (UTC)."""

    customer_id: str
    org_id: str
    from_ms: int
    to_ms: int
    use_from_ms: int
    hours_from_ms: int
    opened_ms: int | None


@dataclass(frozen=True)
class WalletDays:
    """Use by feature, by day and of late by hour; the ledger by day, and the entries of the day that is opened; how far
    runs have come; what a forecast rests on (a row for `forecast_by`); what was in the wallet when the days ended."""

    by_day: list[Use]
    by_hour: list[Use]
    ledger: list[LedgerDay]
    entries: list[DayEntry]
    steps: RunSteps
    forecast: Any
    closing_micro: int


def read_days(connection: sa.Connection, asked: Asked, now_ms: int) -> WalletDays:
    """All of it, in one statement."""
    account = {"account_id": wallet_account(asked.customer_id), "to_ms": asked.to_ms, "at_most": MOST_DAY_ROWS}
    day = -DAY_MS if asked.opened_ms is None else asked.opened_ms
    of_runs = {"org_id": asked.org_id, "from_ms": asked.from_ms, "now_ms": now_ms}
    of_day = {**account, "from_ms": day, "to_ms": day + DAY_MS, "at_most": MOST_DAY_ENTRIES}
    read = together(
        connection,
        by_day=SQL.part("use_by", {**account, "from_ms": asked.use_from_ms, "step_ms": DAY_MS}),
        by_hour=SQL.part("use_by", {**account, "from_ms": asked.hours_from_ms, "step_ms": DAY_MS // 24}),
        ledger=SQL.part("ledger_by_day", {**account, "from_ms": asked.from_ms}),
        entries=SQL.part("entries_of_day", of_day),
        steps=SQL.part("run_steps", of_runs),
        settled=SQL.part("run_settlements", of_runs),
        forecast=used_part(asked.customer_id, now_ms),
        closing=SQL.part("closing", _from_then(asked.customer_id, asked.to_ms)),
    )
    return WalletDays(
        by_day=_uses(read["by_day"]),
        by_hour=_uses(read["by_hour"]),
        ledger=_days(read["ledger"]),
        entries=[DayEntry(**vars(row)) for row in read["entries"]],
        steps=_steps(read["steps"][0], read["settled"][0]),
        forecast=read["forecast"][0],
        closing_micro=int(read["closing"][0].closing_micro),
    )
