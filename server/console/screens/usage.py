"""An organisation's usage: what is left, what it is used for day by day, how far its runs have come, and its ledger.

Guarantee: the tiles are those of `GET /v1/accounts/…`, and the days add up to what the ledger has of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa

from drawdown.schema.errors import UsageError
from drawdown.schema.units import DAY_MS, MICRO, WINDOW_MS
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import charts, figures
from drawdown.worker.views import export, wallet_days
from drawdown.worker.views.accounts import Account, account_of, payer_of
from drawdown.worker.views.export import Span
from drawdown.worker.views.forecast import Forecast, forecast_of
from drawdown.worker.views.usage import read_usage
from drawdown.worker.views.wallet_days import LedgerDay, RunSteps, Use

DAYS: Final = (30, 7, 90)
TILE_DAYS: Final = 30
OTHER: Final = "runs"
"""What names no feature: runs that were settled by an amount alone."""
HOUR_MS: Final = DAY_MS // 24
HOURS_BELOW_MS: Final = 3 * DAY_MS
"""A wallet that was first used less than this ago is shown by hours: three bars say nothing."""
SPLIT_DAYS: Final = 7
"""The share by sandbox and project is counted from samples, and those of a week are many."""
MOST_SHARES: Final = 8
EFFECTS: Final = {
    "preview": "A preview says what a run would reserve. It changes nothing and leaves no row.",
    "accept": "Accepting reserves the estimate at once: available falls by it, the balance does not.",
    "queued": "What goes on keeps its hold until it ends or expires. What it draws leaves the balance and the hold.",
    "complete": "Settling charges what it came to and frees the rest. Releasing, or expiring, frees all that is left.",
    "settlement": "A supplier's share waits out its hold, then is released. The customer is charged nothing more.",
}
OUTLOOKS: Final = {
    "spent": "nothing is left",
    "lasts": "nothing was used lately",
    "unknown": "no forecast before 3 full days of use",
}


@dataclass(frozen=True)
class Step:
    """One of the five steps of a run: how many, how much, and what it does to the wallet."""

    name: str
    number: int | None
    said: str
    effect: str


@dataclass(frozen=True)
class Day:
    """A day of the ledger: its entries by kind, and what they moved."""

    day_ms: int
    kinds: list[LedgerDay]
    moved_micro: int
    entries: int


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    org_id, days = ask.required("id"), ask.number("days", DAYS)
    customer = payer_of(connection, org_id, ask.now_ms)
    account = account_of(connection, customer, ask.now_ms)
    tomorrow = ask.now_ms - ask.now_ms % DAY_MS + DAY_MS
    use = wallet_days.use_by(connection, customer, tomorrow - max(days, TILE_DAYS) * DAY_MS, tomorrow)
    begin = tomorrow - days * DAY_MS
    shown = [one for one in use if one.at_ms >= begin]
    first = min((one.at_ms for one in shown), default=begin)
    by_hour = ask.now_ms - first < HOURS_BELOW_MS and bool(shown)
    bars = wallet_days.use_by(connection, customer, first, tomorrow, HOUR_MS) if by_hour else shown
    opened = _opened(ask)
    return {
        "customer": customer,
        "account": account,
        "forecast": forecast_of(connection, customer, account.available_micro, ask.now_ms),
        "used_micro": sum(one.micro for one in use if one.at_ms >= tomorrow - TILE_DAYS * DAY_MS),
        "days": days,
        "day_choices": sorted(DAYS),
        "chart": chart(bars, ask.now_ms, HOUR_MS if by_hour else DAY_MS),
        "by_hour": by_hour,
        "table": _table(shown),
        "steps": steps(wallet_days.run_steps(connection, org_id, begin, ask.now_ms), account),
        "shares": _shares(connection, org_id, ask.now_ms),
        "ledger": _ledger(wallet_days.ledger_by_day(connection, customer, begin, tomorrow)),
        "opened": opened,
        "entries": [] if opened is None else wallet_days.entries_of_day(connection, customer, opened),
        "most": wallet_days.MOST_DAY_ENTRIES,
        "outlook": outlook,
    }


def outlook(found: Forecast, now_ms: int) -> str:
    """The forecast in words."""
    if found.state == "ends" and found.ends_ms is not None:
        ends = found.ends_ms
        return f"runs out {figures.time(ends)}, {figures.ago(ends, now_ms)}, by {found.days} days of use"
    return OUTLOOKS.get(found.state, "")


def chart(use: list[Use], now_ms: int, step_ms: int) -> charts.Chart:
    """Credits by feature, a day or an hour each, from the first use on."""
    first = min((one.at_ms for one in use), default=now_ms)
    parts: dict[int, dict[str, int]] = {at: {} for at in range(first, now_ms + 1, step_ms)}
    for one in use:
        parts.setdefault(one.at_ms, {})[one.feature or OTHER] = one.micro
    by_hour, total = step_ms < DAY_MS, figures.credits(sum(one.micro for one in use))
    show = figures.time if by_hour else figures.day
    said = f"Credits {'an hour' if by_hour else 'a day'} by feature, {show(first)} to {show(now_ms)}: {total} in all"
    return charts.stacked([(show(at), named) for at, named in sorted(parts.items())], said, MICRO)


def _table(use: list[Use]) -> list[tuple[int, int]]:
    """What the chart shows, for who reads: each day with use and its sum, the latest first."""
    sums: dict[int, int] = {}
    for one in use:
        sums[one.at_ms] = sums.get(one.at_ms, 0) + one.micro
    return sorted(sums.items(), reverse=True)


def steps(found: RunSteps, account: Account) -> list[Step]:
    """Preview, accept, queued, complete, settlement: each with what it does to the wallet."""
    reserved, held = figures.credits(found.accepted_micro), figures.credits(found.held_micro)
    drawn, net = figures.credits(found.drawn_micro), figures.credits(found.net_micro)
    on_hold = figures.credits(account.hold_micro)
    return [
        Step("Preview", None, "asked, and not kept", EFFECTS["preview"]),
        Step("Accept", found.accepted, f"{reserved} reserved in all", EFFECTS["accept"]),
        Step("Queued", found.going, f"{found.waiting:,} drew nothing yet; {held} still held", EFFECTS["queued"]),
        Step("Complete", found.complete, f"{drawn} charged", EFFECTS["complete"]),
        Step("Settlement", found.settling, f"{net} to suppliers; {on_hold} on hold", EFFECTS["settlement"]),
    ]


def _shares(
    connection: sa.Connection, org_id: str, now_ms: int
) -> list[tuple[str, list[tuple[str, str, int, str]], int]]:
    """Usage of the last days by sandbox and by project: name, feature, base units and their unit; the rest counted."""
    to_ms = now_ms - now_ms % WINDOW_MS + WINDOW_MS
    found = []
    for by in ("sandbox", "project"):
        rows = [
            (row.what, row.feature, row.used, row.unit)
            for row in read_usage(connection, org_id, to_ms - SPLIT_DAYS * DAY_MS, to_ms, by).rows
            if row.used and (by == "sandbox" or row.what)
        ]
        rows.sort(key=lambda row: (-row[2], row[0]))
        found.append((by, rows[:MOST_SHARES], max(len(rows) - MOST_SHARES, 0)))
    return found


def _ledger(rows: list[LedgerDay]) -> list[Day]:
    days: dict[int, list[LedgerDay]] = {}
    for row in rows:
        days.setdefault(row.day_ms, []).append(row)
    return [
        Day(day, kinds, sum(one.moved_micro for one in kinds), sum(one.entries for one in kinds))
        for day, kinds in days.items()
    ]


def _opened(ask: Ask) -> int | None:
    """The day whose entries are shown. Errors: UsageError for what is no day."""
    text = ask.query.get("day", "")
    if not text:
        return None
    try:
        found = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise UsageError("day: write it as 2026-01-31") from None
    return int(found.timestamp()) * 1000


def lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """The entries of the days that are shown, as `drawdown export ledger` writes them."""
    tomorrow = ask.now_ms - ask.now_ms % DAY_MS + DAY_MS
    span = Span(ask.required("id"), tomorrow - ask.number("days", DAYS) * DAY_MS, tomorrow)
    return export.lines(connection, "ledger", span, "csv", ask.now_ms)
