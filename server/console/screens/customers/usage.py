"""Show an organisation's usage: its credit, use by day, executions and ledger.

Guarantee: the tiles equal the figures of `GET /v1/accounts/…`, and the sums of the days equal the ledger's entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema.errors import UsageError
from drawdown.schema.text import quote_value
from drawdown.schema.units import DAY_MS, EXEMPT_PROVIDERS, MICRO
from drawdown.server.console.frame import charts, figures
from drawdown.server.console.frame.parts import Tile
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.money import wallets
from drawdown.server.console.screens.money.cells import of_entry
from drawdown.worker.usage.lists import Share, last_days, read_shares
from drawdown.worker.verdict.watch_state import is_watched
from drawdown.worker.wallets import entries as wallet_days
from drawdown.worker.wallets.accounts import Account, PaidFrom, account_of, payer_of
from drawdown.worker.wallets.entries import Chosen, Forecast, LedgerDay, RunSteps, Use, forecast_by

DAYS: Final = (30, 7, 90)
TILE_DAYS: Final = 30
OTHER: Final = "executions by amount"
"""Name of charges without a feature, which are executions settled by an amount.

A feature cannot have this name, because it has spaces.
"""
HOUR_MS: Final = DAY_MS // 24
HOURS_BELOW_MS: Final = 3 * DAY_MS
"""Age of a wallet's first use below which the chart has a bar for each hour.

Otherwise the chart would have at most three bars.
"""
LEAST_BARS: Final = 12
"""Minimum number of bars in a chart, so that one bar is not as wide as the chart."""
SPLIT_DAYS: Final = 7
"""Days of samples from which the page counts the use of each sandbox and project."""
MOST_SHARES: Final = 8
"""Sandboxes that an organisation's page names. Projects have the same limit."""
EFFECTS: Final = {
    "preview": "A preview calculates the credit that an execution would reserve. It does not change the wallet.",
    "accept": "Acceptance reserves the estimate. Available credit falls, and the balance stays.",
    "queued": "The execution keeps its reservation until the execution ends or the reservation expires. A draw reduces "
    "the balance and the reservation.",
    "complete": "Settlement charges the cost and releases the rest. Release and expiry release the remaining credit.",
    "settlement": "Drawdown holds the supplier's share, then releases it. The customer does not pay more.",
}
OUTLOOKS: Final = {
    "spent": "no credit is left",
    "lasts": "no recent use",
    "unknown": "no forecast before 3 full days of use",
}


@dataclass(frozen=True)
class Step:
    """A step of executions: its count, its amounts, and its effect on the wallet."""

    name: str
    number: int | None
    note: str
    effect: str


HERE: Final = frozenset({None, EMBEDDED, *EXEMPT_PROVIDERS})
"""Providers without a balance outside Drawdown; None stands for an organisation without a provider."""


@dataclass(frozen=True)
class Day:
    """A day of the ledger: its entries by kind, their sum, and the balance at its end."""

    day_ms: int
    kinds: list[LedgerDay]
    moved_micro: int
    entries: int
    balance_micro: int


def read(connection: sa.Connection, ask: Ask, org: sa.Row[Any], paid: PaidFrom) -> Mapping[str, object]:
    days, opened, customer = ask.number("days", DAYS), opened_day(ask), paid.customer_id
    account = account_of(connection, customer, ask.now_ms)
    tomorrow = ask.now_ms - ask.now_ms % DAY_MS + DAY_MS
    begin, used_from = tomorrow - days * DAY_MS, tomorrow - max(days, TILE_DAYS) * DAY_MS
    hours_from = max(begin, tomorrow - HOURS_BELOW_MS - DAY_MS)
    asked = wallet_days.EntriesQuery(customer, org.org_id, begin, tomorrow, used_from, hours_from, opened)
    found = wallet_days.read_days(connection, asked, ask.now_ms)
    shown = [one for one in found.by_day if one.at_ms >= begin]
    first = min((one.at_ms for one in shown), default=begin)
    by_hour = ask.now_ms - first < HOURS_BELOW_MS and bool(shown)
    said = forecast_by(found.forecast, account.available_micro, ask.now_ms)
    tiles = _tiles(account, outlook(said, ask.now_ms), used(found.by_day, tomorrow))
    if not paid.is_here:
        tiles = provider_balance_tiles(connection, org, paid, ask.now_ms) + _over_from_before(account)
    return {
        "part": "org_usage.html",
        "customer": customer,
        "is_here": paid.is_here or bool(found.ledger),
        "tiles": tiles,
        "days": days,
        "day_choices": sorted(DAYS),
        "chart": chart(found.by_hour, ask.now_ms, hours_from, HOUR_MS) if by_hour else chart(shown, ask.now_ms, begin),
        "by_hour": by_hour,
        "table": by_day(shown),
        "steps": steps(found.steps) if paid.is_here or found.steps.accepted else [],
        "shares": _shares(connection, org, ask.now_ms),
        "ledger": ledger_days(found.ledger, found.closing_micro),
        "opened": opened,
        "entries": found.entries,
        "most": wallet_days.MOST_DAY_ENTRIES,
        "leads": lambda entry: of_entry(entry.key, entry.reservation, entry.lot, customer),
    }


def _tiles(account: Account, said: str, used_: Tile) -> list[Tile]:
    """Return the tiles of the wallet, the most important first."""
    _, reserved, included, *_, hold, balance = wallets.tiles(account)
    return [available(account, said), reserved, included, hold, used_, balance]


def provider_balance_tiles(connection: sa.Connection, org: Any, paid: PaidFrom, now_ms: int) -> list[Tile]:
    """Return the tiles of an organisation with its balance at a provider.

    The tiles show the provider's last balance, less the usage that the balance does not include yet. Before the first
    read of a balance, they show that the balance is unknown. `org`: the organisation's row.
    """
    if org is None or org.billing_provider in HERE or org.balance_micro is None:
        return [wallets.nothing_here(paid)]
    left = org.balance_micro - (org.unconfirmed_micro or 0)
    tone, said = (
        "bad" if left <= 0 else "",
        f"{'owed; ' if left < 0 else ''}read {figures.ago(org.balance_read_ms, now_ms)}",
    )
    found = [Tile(f"Left at {org.billing_provider}", figures.credits(left), said, tone)]
    ends = None if org.is_halted else org.runs_out_ms
    if ends is not None and ends > now_ms and is_watched(connection, now_ms):
        found.append(Tile("Runs out", figures.time(ends), f"{figures.ago(ends, now_ms)}, by the watch's estimate"))
    return found


def _over_from_before(account: Account) -> list[Tile]:
    """Return the tile of an embedded wallet that no longer pays for usage."""
    if not account.balance_micro:
        return []
    return [Tile("Unused wallet", figures.credits(account.balance_micro), "from an earlier assignment, not used now")]


def available(account: Account, said: str) -> Tile:
    """Return the tile of available credit.

    If the wallet owes credit, the tile shows the debt in place of the forecast.
    """
    if account.owed_micro > 0:
        said = f"{figures.credits(account.owed_micro)} owed: used but not paid"
    tone = "bad" if account.available_micro < 0 or account.owed_micro > 0 else ""
    return Tile("Available", figures.credits(account.available_micro), said, tone)


def used(by_day: list[Use], tomorrow_ms: int) -> Tile:
    """Return the tile of the use in the last TILE_DAYS days, including today."""
    micro = sum(one.micro for one in by_day if one.at_ms >= tomorrow_ms - TILE_DAYS * DAY_MS)
    return Tile(f"Used in {TILE_DAYS} days", figures.credits(micro), "today included")


def outlook(found: Forecast, now_ms: int) -> str:
    """Return the forecast in words."""
    if found.state == "ends" and found.ends_ms is not None:
        ends = found.ends_ms
        return f"runs out {figures.time(ends)}, {figures.ago(ends, now_ms)}, at the pace of {found.days} days"
    return OUTLOOKS.get(found.state, "")


def chart(use: list[Use], now_ms: int, from_ms: int, step_ms: int = DAY_MS) -> charts.Chart:
    """Return the chart of credits by feature, with a bar for each day or hour.

    The chart begins with the first use, or earlier for LEAST_BARS bars, but not before `from_ms`. `step_ms`: the time
    span of a bar in milliseconds.
    """
    last = now_ms - now_ms % step_ms
    first = max(from_ms, min([*(one.at_ms for one in use), last - (LEAST_BARS - 1) * step_ms]))
    parts: dict[int, dict[str, int]] = {at: {} for at in range(first, now_ms + 1, step_ms)}
    for one in use:
        parts.setdefault(one.at_ms, {})[one.feature or OTHER] = one.micro
    by_hour, total = step_ms < DAY_MS, figures.credits(sum(one.micro for one in use))
    show = figures.time if by_hour else figures.day
    said = f"Credits per {'hour' if by_hour else 'day'} by feature, {show(first)} to {show(now_ms)}: {total} in total"
    return charts.stacked([(show(at), named) for at, named in sorted(parts.items())], said, MICRO)


def by_day(use: list[Use]) -> list[tuple[int, int]]:
    """Return each day with use and its sum in micro-credits, newest first."""
    sums: dict[int, int] = {}
    for one in use:
        sums[one.at_ms] = sums.get(one.at_ms, 0) + one.micro
    return sorted(sums.items(), reverse=True)


def steps(found: RunSteps) -> list[Step]:
    """Return the five steps of executions, each with its effect on the wallet."""
    reserved, held = figures.credits(found.accepted_micro), figures.credits(found.held_micro)
    drawn, left = figures.credits(found.drawn_micro), figures.credits(found.left_micro)
    waits = figures.credits(found.unreleased_micro)
    return [
        Step("Preview", None, "not recorded", EFFECTS["preview"]),
        Step("Accept", found.accepted, f"{reserved} reserved in total", EFFECTS["accept"]),
        Step("Queued", found.going, f"{found.waiting:,} without a draw; {held} reserved", EFFECTS["queued"]),
        Step("Complete", found.complete, f"{drawn} charged, metering included", EFFECTS["complete"]),
        Step(
            "Settlement", found.settling, f"{left} owed to suppliers; {waits} not released yet", EFFECTS["settlement"]
        ),
    ]


def _shares(connection: sa.Connection, org: sa.Row[Any], now_ms: int) -> list[tuple[str, list[Share], int]]:
    """Return the usage by sandbox and by project, the largest first.

    Each list ends with the number of further sandboxes or projects. Both lists cover SPLIT_DAYS days.
    """
    found = read_shares(connection, org.org_id, int(org.floor_ms), *last_days(now_ms, SPLIT_DAYS))
    named = {by: [one for one in shares if one.group or by == "sandbox"] for by, shares in found.items()}
    return [(by, shares[:MOST_SHARES], max(len(shares) - MOST_SHARES, 0)) for by, shares in named.items()]


def ledger_days(rows: list[LedgerDay], closing_micro: int) -> list[Day]:
    """Return the ledger by days, newest first.

    `closing_micro`: the balance at the end of the latest day.
    """
    days: dict[int, list[LedgerDay]] = {}
    for row in rows:
        days.setdefault(row.day_ms, []).append(row)
    found = []
    for day, kinds in days.items():
        moved = sum(one.moved_micro for one in kinds)
        found.append(Day(day, kinds, moved, sum(one.entries for one in kinds), closing_micro))
        closing_micro -= moved
    return found


def opened_day(ask: Ask) -> int | None:
    """Return the start of the day of the shown entries, in milliseconds.

    Return None if the address does not name a day. Errors: UsageError for an invalid day.
    """
    text = ask.query.get("day", "")
    if not text:
        return None
    try:
        found = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise UsageError(f"invalid day {quote_value(text)}: expected a date such as 2026-01-31") from None
    return int(found.timestamp()) * 1000


def days_of(ask: Ask) -> Chosen:
    """Return the filter for the entries of the shown days, by the time of use."""
    tomorrow = ask.now_ms - ask.now_ms % DAY_MS + DAY_MS
    return Chosen(used_from_ms=tomorrow - ask.number("days", DAYS) * DAY_MS, used_to_ms=tomorrow)


def csv_lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Yield the entries of the days that the page shows."""
    customer = payer_of(connection, ask.required("id"), ask.now_ms)
    return wallets.entry_lines(connection, customer, days_of(ask))
