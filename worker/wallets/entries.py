"""Return a wallet's entries and days, and a forecast of the end of its credit.

The latest use comes first. Reads only.

Guarantee: the cost of a page does not depend on the number of entries. A page begins after the last entry of the
previous page. If a filter omits entries, the page reads at most MOST_LOOKED_AT entries. The entries of all pages add up
to the balance. Days are in UTC, by the time of use, and have the same entries as the pages. Each SQL statement uses an
index of this wallet, so other wallets are not read. If the wallet has no available credit, the state of a forecast is
`spent`. Otherwise, a forecast needs MIN_DAYS full days since the first use, and counts at most DAYS of them. With fewer
days, its state is `unknown`. If the use of these days is 0 or less, its state is `lasts`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import sqlalchemy as sa

from drawdown.ledger.accounts import wallet_account
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import Part, queries, read_together
from drawdown.schema.text import quote_value
from drawdown.schema.typed.parsing import parse_credits, show_time, type_credits
from drawdown.schema.units import DAY_MS, MICRO, in_credits

SQL = queries(__file__)

MOST_ENTRIES_ON_PAGE: Final = 50
"""Ledger entries on one page."""
MOST_ENTRIES_AT_ONCE: Final = 1_000
"""Entries of a download that Drawdown reads into memory at a time."""
MOST_LOOKED_AT: Final = 10_000
"""Entries that one page reads for a filter by booking time or amount."""
NEVER: Final = 2**53
CENTS: Final = 2
"""Decimals of amounts for people."""
CENT: Final = MICRO // 10**CENTS
TYPED: Final = re.compile(r"[+-]?(\d{1,3}(?:,\d{3})+(?:\.\d*)?|[^,+-]*)")
"""An amount as a page shows it, or without commas.

Another comma may mean a decimal point, so it is invalid.
"""
BELOW_A_CENT: Final = ("<0.01", ">-0.01")
"""Texts for a positive and a negative amount that would round to 0.00."""


@dataclass(frozen=True)
class Chosen:
    """The choice of entries by time of use, time of booking, and size.

    Each time is in [from, to), in milliseconds. `sizes`: the amounts in [from, to), in micro-credits, without the sign.
    By default, all entries are chosen.
    """

    used_from_ms: int = 0
    used_to_ms: int = NEVER
    booked_from_ms: int = 0
    booked_to_ms: int = NEVER
    sizes: tuple[int, int] = (0, NEVER)

    @property
    def narrows(self) -> bool:
        """Return True if the choice may omit entries within the time of use."""
        return (self.booked_from_ms, self.booked_to_ms, *self.sizes) != (0, NEVER, 0, NEVER)

    @property
    def amount(self) -> str | None:
        """Return the amount for which `sizes_of` returns `sizes`; None for all amounts."""
        begin, end = self.sizes
        if self.sizes == ALL.sizes:
            return None
        if end - begin == 1:
            return f"{begin // MICRO}.{begin % MICRO:06d}"
        return BELOW_A_CENT[0] if begin == 1 else type_credits(end - CENT // 2)


ALL: Final = Chosen()


def sizes_of(text: str, option: str) -> tuple[int, int]:
    """Return the sizes that an amount may mean.

    The sizes are [from, to), in micro-credits. For example, `4.8` means all amounts that round to 4.80. An amount with
    more than two decimals means only this amount. The sign is ignored.

    Errors: UsageError that names `option`.
    """
    plain = text.strip().replace("\N{MINUS SIGN}", "-")
    if plain in BELOW_A_CENT:
        return 1, CENT // 2
    typed = TYPED.fullmatch(plain)
    if typed is None:
        raise UsageError(f"invalid {option} {quote_value(text)}: expected credits such as 12.50 or 1,234.50")
    unsigned = typed[1].replace(",", "")
    try:
        size = parse_credits(unsigned)
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from error
    if len(unsigned.partition(".")[2]) > CENTS:
        return size, size + 1
    return max(size - CENT // 2, 0), size + CENT // 2


@dataclass(frozen=True)
class EntryLine:
    """An entry of a wallet.

    `moved_micro`: the change of the wallet, up or down, in micro-credits. `ts`: the time of use, in milliseconds.
    `at_ms`: the time of booking. `key`: for usage, the key of the push. `feature`, `quantity`: the charged base units.
    `reservation`: the execution that it charges. `lot`: the lot that it expires or takes back. The last four are None
    for another kind of entry.
    """

    key: str
    kind: str
    feature: str | None
    quantity: int | None
    ts: int
    at_ms: int
    actor: str
    reason: str
    reservation: str | None
    lot: str | None
    moved_micro: int


@dataclass(frozen=True)
class Entries:
    """A page of entries.

    `after`: the key after which the next page begins (None: this is the last page). `booked_micro`: the wallet's
    balance after the first entry of the page (None: it is not the first page of all entries, or the wallet does not
    exist). `is_cut`: the page ended because it had read MOST_LOOKED_AT entries.
    """

    entries: list[EntryLine]
    after: str | None
    booked_micro: int | None
    is_cut: bool = False


def page(
    connection: sa.Connection,
    customer_id: str,
    after: str = "",
    most: int = MOST_ENTRIES_ON_PAGE,
    *,
    chosen: Chosen = ALL,
) -> Entries:
    """Return a page of entries, after the entry with the key `after`.

    Errors: UsageError if the wallet does not have an entry with that key, or if the time of booking ends before it
    begins.
    """
    if chosen.booked_from_ms >= chosen.booked_to_ms:
        raise UsageError(
            f"invalid range {show_time(chosen.booked_from_ms)} to {show_time(chosen.booked_to_ms)}: its end must be "
            "later than its start"
        )
    values: dict[str, Any] = {"account_id": wallet_account(customer_id), **vars(chosen), "after_key": after}
    values["size_from"], values["size_to"] = chosen.sizes
    values |= {"at_most": most + 1, "looked_at": MOST_LOOKED_AT}
    behind = (chosen.used_to_ms, "")
    if after:
        moment = SQL.run(connection, "moment", values).scalar()
        if moment is None:
            raise UsageError(
                f"invalid `after` {quote_value(after)}: this wallet does not have an entry with this key. Start at the "
                "first page"
            )
        behind = min(behind, (int(moment), after))
    values["after_ms"], values["after_key"] = behind
    # Drawdown books a charge after its use. So skip use after the end of the range of booking times.
    values["left_ms"], values["left_key"] = min(behind, (chosen.booked_to_ms, ""))
    last = SQL.run(connection, "last", values).one_or_none() if chosen.narrows else None
    is_cut, down_to = last is not None and last.looked == MOST_LOOKED_AT, ""
    if last is not None and is_cut:
        values |= {"last_ms": last.ts, "last_key": last.key}
        down_to = "down_to"
    rows = SQL.run(connection, "page", values, down_to=down_to)
    found = [EntryLine(**row._mapping) for row in rows]
    booked = SQL.run(connection, "booked", values).scalar() if not after and chosen == ALL else None
    if len(found) > most:
        return Entries(found[:most], found[most - 1].key, booked)
    return Entries(found, last.key if last is not None and is_cut else None, booked, is_cut)


def every(connection: sa.Connection, customer_id: str, chosen: Chosen = ALL) -> Iterator[tuple[EntryLine, int | None]]:
    """Yield all chosen entries in the order of pages, each with the balance after it.

    The balance is None if the choice may omit entries. Errors: as `page`.
    """
    left = None if chosen.narrows else closing_micro(connection, customer_id, chosen.used_to_ms)
    after: str | None = ""
    while after is not None:
        found = page(connection, customer_id, after, MOST_ENTRIES_AT_ONCE, chosen=chosen)
        for one in found.entries:
            yield one, left
            left = None if left is None else left - one.moved_micro
        after = found.after


MOST_DAY_ROWS: Final = 20_000
"""Rows that one page reads.

A row is a day and a feature, or a day and a kind.
"""
MOST_DAY_ENTRIES: Final = 200
"""Entries of one day that a page shows."""


@dataclass(frozen=True)
class Use:
    """The cost of a feature in a day or an hour from `at_ms` on.

    The cost is in micro-credits. `feature` '': entries without a feature.
    """

    at_ms: int
    feature: str
    micro: int


@dataclass(frozen=True)
class LedgerDay:
    """The sum of one kind of entry on a day, positive if the wallet gained."""

    day_ms: int
    kind: str
    entries: int
    moved_micro: int


@dataclass(frozen=True)
class DayEntry:
    """One entry of a day. `moved_micro`: the change of the wallet, in micro-credits.

    `ts`: the time of use, in milliseconds. `feature`, `quantity`: the charged base units. `reservation`: the execution
    that it charges. `lot`: the lot that it expires or takes back. The last four are None for another kind of entry.
    """

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
    """Executions of an organisation that were accepted since a moment, by step.

    Amounts are in micro-credits.

    `accepted`: all these executions. `accepted_micro`: the amounts of their reservations. `going`: executions that have
    not ended. `waiting`: those of them that were not charged yet. `held_micro`: the credit that executions reserve now.
    `complete`: executions that have ended. `drawn_micro`: the charges of ended executions. `settling`: executions with
    a share for a supplier. `left_micro`: these shares, less their reversals. `unreleased_micro`: the part of these
    shares that no payout has released.
    """

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
    """Return the use by feature and day, or by feature and a part of a day.

    `step_ms`: the length of that part, which must divide a day. Refunds reduce the use.
    """
    values = {"account_id": wallet_account(customer_id), "from_ms": from_ms, "to_ms": to_ms, "step_ms": step_ms}
    return _uses(SQL.run(connection, "use_by", {**values, "at_most": MOST_DAY_ROWS}))


def _uses(rows: Iterable[Any]) -> list[Use]:
    return [Use(int(row.at_ms), row.feature, int(row.micro)) for row in rows]


def ledger_by_day(connection: sa.Connection, customer_id: str, from_ms: int, to_ms: int) -> list[LedgerDay]:
    """Return the sums of entries by day and kind, the latest day first."""
    values = {"account_id": wallet_account(customer_id), "from_ms": from_ms, "to_ms": to_ms, "at_most": MOST_DAY_ROWS}
    return _days(SQL.run(connection, "ledger_by_day", values))


def _days(rows: Iterable[Any]) -> list[LedgerDay]:
    return [LedgerDay(int(row.day_ms), row.kind, int(row.entries), int(row.moved_micro)) for row in rows]


def entries_of_day(connection: sa.Connection, customer_id: str, day_ms: int) -> list[DayEntry]:
    """Return the entries of a day, newest first, at most MOST_DAY_ENTRIES."""
    span = {"from_ms": day_ms, "to_ms": day_ms + DAY_MS, "at_most": MOST_DAY_ENTRIES}
    rows = SQL.run(connection, "entries_of_day", {"account_id": wallet_account(customer_id), **span})
    return [DayEntry(**row._mapping) for row in rows]


def closing_micro(connection: sa.Connection, customer_id: str, to_ms: int) -> int:
    """Return a wallet's balance at a moment, by the time of use, in micro-credits."""
    return int(SQL.run(connection, "closing", _from_then(customer_id, to_ms)).scalar_one())


def _from_then(customer_id: str, to_ms: int) -> dict[str, object]:
    return {"account_id": wallet_account(customer_id), "from_ms": to_ms, "to_ms": NEVER}


def _steps(*found: Any) -> RunSteps:
    """Return the sum of rows that have its figures. NULL counts as 0."""
    return RunSteps(**{name: int(value or 0) for row in found for name, value in vars(row).items()})


@dataclass(frozen=True)
class EntriesQuery:
    """A query of a wallet's days, in milliseconds. Days begin at midnight (UTC).

    `from_ms`, `to_ms`: the span of the days. `use_from_ms`: the start of the use by day. `hours_from_ms`: the start of
    the use by hour. `opened_ms`: the start of the day with entries to show (None: entries are not shown).
    """

    customer_id: str
    org_id: str
    from_ms: int
    to_ms: int
    use_from_ms: int
    hours_from_ms: int
    opened_ms: int | None


@dataclass(frozen=True)
class WalletDays:
    """The use, ledger sums, entries and execution steps of a wallet's days.

    `by_day`, `by_hour`: the use by day and by hour. `entries`: the entries of one day. `forecast`: a row for
    `forecast_by`. `closing_micro`: the balance at the end of the days, in micro-credits.
    """

    by_day: list[Use]
    by_hour: list[Use]
    ledger: list[LedgerDay]
    entries: list[DayEntry]
    steps: RunSteps
    forecast: Any
    closing_micro: int


def read_days(connection: sa.Connection, asked: EntriesQuery, now_ms: int) -> WalletDays:
    """Return a wallet's days, read by one statement."""
    account = {"account_id": wallet_account(asked.customer_id), "to_ms": asked.to_ms, "at_most": MOST_DAY_ROWS}
    day = -DAY_MS if asked.opened_ms is None else asked.opened_ms
    of_runs = {"org_id": asked.org_id, "from_ms": asked.from_ms, "now_ms": now_ms}
    of_day = {**account, "from_ms": day, "to_ms": day + DAY_MS, "at_most": MOST_DAY_ENTRIES}
    read = read_together(
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


DAYS: Final = 7
MIN_DAYS: Final = 3
FURTHEST_MS: Final = 253_402_300_799_999
"""The last moment of the year 9999, in milliseconds.

If the credit ends later, the state of the forecast is `lasts`.
"""


ForecastState: TypeAlias = Literal["ends", "spent", "lasts", "unknown"]


@dataclass(frozen=True)
class Forecast:
    """A forecast of the end of the credit that is available now.

    `state`: the first of `spent`, `unknown`, `lasts` and `ends` that applies. `ends`: the credit ends at `ends_ms`.
    `spent`: the available credit is 0 or less. `unknown`: fewer than MIN_DAYS full days have passed since the first
    use. `lasts`: the use in the counted days is 0 or less, or the end is beyond FURTHEST_MS. `used_micro`: the use in
    the `days` full days from `from_ms` on, by the time of use, not of booking. With fewer than MIN_DAYS days, `from_ms`
    and `used_micro` are None.
    """

    state: ForecastState
    ends_ms: int | None
    days: int
    from_ms: int | None
    used_micro: int | None

    def to_json(self) -> dict[str, object]:
        """Return the forecast as JSON for programs. `used` is the used amount in credits."""
        return {**vars(self), "used": None if self.used_micro is None else in_credits(self.used_micro)}


def forecast_of(connection: sa.Connection, customer_id: str, available_micro: int, now_ms: int) -> Forecast:
    """Return the forecast of a wallet with this available credit.

    The forecast ignores credit that expires or begins later, and the monthly changes by plans and tiers.
    """
    part = used_part(customer_id, now_ms)
    return forecast_by(SQL.run(connection, part.name, part.values).one(), available_micro, now_ms)


def used_part(customer_id: str, now_ms: int) -> Part:
    """Return the query of a wallet's use on its last full days.

    The query runs with others in one statement, and `forecast_by` reads its row.
    """
    values = {"account_id": wallet_account(customer_id), "today_ms": now_ms - now_ms % DAY_MS, "most_days": DAYS}
    return SQL.part("used", values)


def forecast_by(row: Any, available_micro: int, now_ms: int) -> Forecast:
    """Return the forecast from a row of `used_part`."""
    days = 0 if row.days is None else int(row.days)
    if days < MIN_DAYS:
        return Forecast("spent" if available_micro <= 0 else "unknown", None, max(days, 0), None, None)
    from_ms = now_ms - now_ms % DAY_MS - days * DAY_MS
    return _ends(available_micro, now_ms, days, from_ms, int(row.used_micro))


def _ends(available_micro: int, now_ms: int, days: int, from_ms: int, used_micro: int) -> Forecast:
    if available_micro <= 0:
        return Forecast("spent", None, days, from_ms, used_micro)
    ends = now_ms + available_micro * days * DAY_MS // used_micro if used_micro > 0 else FURTHEST_MS + 1
    if ends > FURTHEST_MS:
        return Forecast("lasts", None, days, from_ms, used_micro)
    return Forecast("ends", ends, days, from_ms, used_micro)
