"""A wallet's entries, the latest use first, a page at a time; its days; and when its credit ends. Reads only.

Guarantee: the cost of a page does not depend on the number of entries: it begins after the last one of the page before,
and if it omits some it reads MOST_LOOKED_AT at most. The entries of all pages add up to the balance. Days are UTC, by
the time of use, and have the entries of `list_entries`. Other wallets are not read: each statement uses an index of
this one. A forecast rests on full days of use alone, seven at most and three at least; with fewer there is none, and no
use is not taken for an end in the far future.
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
from drawdown.schema.typed.parsing import parse_credits, type_credits
from drawdown.schema.units import DAY_MS, MICRO, in_credits

SQL = queries(__file__)

MOST_ENTRIES_ON_PAGE: Final = 50
"""Entries of one page."""
MOST_ENTRIES_AT_ONCE: Final = 1_000
"""Entries of a download that Drawdown reads, and keeps in memory, at a time."""
MOST_LOOKED_AT: Final = 10_000
"""Entries that one page reads, if a time of booking or an amount is chosen."""
NEVER: Final = 2**53
CENTS: Final = 2
"""Decimals of amounts for people."""
CENT: Final = MICRO // 10**CENTS
TYPED: Final = re.compile(r"[+-]?(\d{1,3}(?:,\d{3})+(?:\.\d*)?|[^,+-]*)")
"""An amount as a page shows it, or without commas: elsewhere a comma may be meant as a decimal point."""
BELOW_A_CENT: Final = ("<0.01", ">-0.01")
"""The text for an amount that would round to 0.00, up and down."""


@dataclass(frozen=True)
class Chosen:
    """The chosen entries: used, and booked, in [from, to) in milliseconds.

    Their size is in `sizes`, [from, to) micro-credits, without the sign. The default is all entries.
    """

    used_from_ms: int = 0
    used_to_ms: int = NEVER
    booked_from_ms: int = 0
    booked_to_ms: int = NEVER
    sizes: tuple[int, int] = (0, NEVER)

    @property
    def narrows(self) -> bool:
        """True if entries between others, by their use, may be left out."""
        return (self.booked_from_ms, self.booked_to_ms, *self.sizes) != (0, NEVER, 0, NEVER)

    @property
    def amount(self) -> str | None:
        """The amount that `sizes` are of, as `sizes_of` reads it; None: any."""
        begin, end = self.sizes
        if self.sizes == ALL.sizes:
            return None
        if end - begin == 1:
            return f"{begin // MICRO}.{begin % MICRO:06d}"
        return BELOW_A_CENT[0] if begin == 1 else type_credits(end - CENT // 2)


ALL: Final = Chosen()


def sizes_of(text: str, option: str) -> tuple[int, int]:
    """Return the sizes that an amount may mean: `4.8` is all that rounds to 4.80.

    An amount with more than two decimals is itself alone. The sign is ignored. Errors: UsageError naming the option.
    """
    plain = text.strip().replace("\N{MINUS SIGN}", "-")
    if plain in BELOW_A_CENT:
        return 1, CENT // 2
    typed = TYPED.fullmatch(plain)
    if typed is None:
        raise UsageError(f"{option}: invalid amount {text!r}: expected credits such as 12.50 or 1,234.50")
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
    """An entry: the micro-credits by which it moved the wallet, up or down.

    `ts`: the time of use. `at_ms`: when it was booked. `key`: the push's, for usage. `reservation`: the run. `lot`: the
    lot that it expires or takes.
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

    `after`: the key after which the next page begins; None: this is the last. `booked_micro`: the wallet's balance
    after the first of them; None if they do not begin with the latest. `is_cut`: the page ended because it had read
    MOST_LOOKED_AT entries.
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
    """Return the entries after the entry of that key.

    Errors: UsageError if no entry of the wallet has that key, or for a time that ends before it begins.
    """
    if chosen.booked_from_ms >= chosen.booked_to_ms:
        raise UsageError("invalid range: `to` must be later than `from`")
    values: dict[str, Any] = {"account_id": wallet_account(customer_id), **vars(chosen), "after_key": after}
    values["size_from"], values["size_to"] = chosen.sizes
    values |= {"at_most": most + 1, "looked_at": MOST_LOOKED_AT}
    behind = (chosen.used_to_ms, "")
    if after:
        moment = SQL.run(connection, "moment", values).scalar()
        if moment is None:
            raise UsageError("invalid after: this wallet has no such entry. Start at the first page")
        behind = min(behind, (int(moment), after))
    values["after_ms"], values["after_key"] = behind
    # What leaves a wallet is booked once it was used, and no sooner: its index is entered there.
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
    """Yield all of them, in the order of pages, each with the balance after it; None if some between them are omitted.

    Errors: as `page`.
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
"""Rows that one page reads, by day and feature, or by day and kind."""
MOST_DAY_ENTRIES: Final = 200
"""Entries of one day that are shown at once."""


@dataclass(frozen=True)
class Use:
    """The cost of a feature in a day or an hour from a moment on; '': entries without a feature."""

    at_ms: int
    feature: str
    micro: int


@dataclass(frozen=True)
class LedgerDay:
    """The sum of one kind of entry on a day; positive: the wallet gained."""

    day_ms: int
    kind: str
    entries: int
    moved_micro: int


@dataclass(frozen=True)
class DayEntry:
    """One entry of a day: its feature, or the reason of the person who made it.

    `reservation` names the run of a run's entry; `lot`: the lot that expires or is taken.
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
    """Return the use by feature and day, or by any length that divides a day. Refunds reduce it."""
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
    """Return the booked credit of the wallet at a moment."""
    return int(SQL.run(connection, "closing", _from_then(customer_id, to_ms)).scalar_one())


def _from_then(customer_id: str, to_ms: int) -> dict[str, object]:
    return {"account_id": wallet_account(customer_id), "from_ms": to_ms, "to_ms": NEVER}


def _steps(*found: Any) -> RunSteps:
    """Return the sum of rows that have its figures. NULL counts as 0."""
    return RunSteps(**{name: int(value or 0) for row in found for name, value in vars(row).items()})


@dataclass(frozen=True)
class EntriesQuery:
    """A question about a wallet's days, in milliseconds. Days begin at midnight (UTC).

    `from_ms` to `to_ms`: the days. Use is shown from `use_from_ms` on, and by hours from `hours_from_ms` on.
    `opened_ms`: the day to show the entries of; None: no day.
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
    """Use by feature, by day and of late by hour; the ledger by day, and the entries of the day that is opened; how far
    runs have come; what a forecast rests on (a row for `forecast_by`); what was in the wallet when the days ended."""

    by_day: list[Use]
    by_hour: list[Use]
    ledger: list[LedgerDay]
    entries: list[DayEntry]
    steps: RunSteps
    forecast: Any
    closing_micro: int


def read_days(connection: sa.Connection, asked: EntriesQuery, now_ms: int) -> WalletDays:
    """All of it, in one statement."""
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
"""The last moment of the year 9999: an end beyond it is none."""


ForecastState: TypeAlias = Literal["ends", "spent", "lasts", "unknown"]


@dataclass(frozen=True)
class Forecast:
    """When what is available now ends. `state`: `ends` (at `ends_ms`), `spent` (nothing is available), `lasts` (nothing
    was used on those days, or it lasts beyond any calendar), `unknown` (fewer than three full days of use are known).

    It rests on `used_micro` in `days` full days from `from_ms` on: by what it was used for, not by when it was booked.
    """

    state: ForecastState
    ends_ms: int | None
    days: int
    from_ms: int | None
    used_micro: int | None

    def to_json(self) -> dict[str, object]:
        """As programs are told it: what was used in credits, too."""
        return {**vars(self), "used": None if self.used_micro is None else in_credits(self.used_micro)}


def forecast_of(connection: sa.Connection, customer_id: str, available_micro: int, now_ms: int) -> Forecast:
    """Return the forecast of a wallet with this available credit.

    It leaves out credit that ends by itself or is still to come, and the monthly cost of plans and tiers.
    """
    part = used_part(customer_id, now_ms)
    return forecast_by(SQL.run(connection, part.name, part.values).one(), available_micro, now_ms)


def used_part(customer_id: str, now_ms: int) -> Part:
    """Return the query of a wallet's use on its last full days, to read beside others: a row for `forecast_by`."""
    values = {"account_id": wallet_account(customer_id), "today_ms": now_ms - now_ms % DAY_MS, "most_days": DAYS}
    return SQL.part("used", values)


def forecast_by(row: Any, available_micro: int, now_ms: int) -> Forecast:
    """The forecast by what was read."""
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
