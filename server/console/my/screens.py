"""What an organisation's own people see: what is left, what it was used for, its ledger; and the ways out of a block.

Guarantee: all of it is of the organisation that the session is bound to, which the address cannot name: `Ask` is given
it. Where its wallet pays for others, too, nothing of the wallet is read. No name of another organisation, or of an
operator, and no reason that an operator wrote, is in what is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import sqlalchemy as sa

from drawdown.schema.errors import UnknownId
from drawdown.schema.units import DAY_MS
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Tile
from drawdown.server.console.frame.templates import HALTED_FOR
from drawdown.server.console.screens.csv_lines import csv_line
from drawdown.server.console.screens.customers import usage as full
from drawdown.worker.guard.terms import Wish
from drawdown.worker.guard.ways import ways_out
from drawdown.worker.usage.lists import last_days, read_usage
from drawdown.worker.verdict.rules import CREDIT_REASONS, USAGE_LIMIT
from drawdown.worker.wallets import accounts as own_wallet
from drawdown.worker.wallets import entries as wallet_entries
from drawdown.worker.wallets.entries import forecast_of

COLUMNS: Final = ("used_at", "booked_at", "kind", "event", "quantity", "amount", "balance")
DAY_CHOICES: Final = (7, 30, 89)
"""For how long an override is asked for: until a midnight, 90 days from now at the latest."""


def usage(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    org_id, days = ask.required("id"), ask.number("days", full.DAYS)
    nothing: dict[str, object] = {
        "empty": True, "shared": False, "card": None, "days": days, "day_choices": sorted(full.DAYS), "halted": None,
        "ends": None, "features": None,
    }  # fmt: skip
    try:
        told = own_wallet.told_of(connection, org_id, ask.now_ms)
    except UnknownId:
        return nothing
    blocked = own_wallet.blocked(connection, org_id, ask.now_ms)
    shown = {**nothing, "empty": False, "shared": told.is_shared, "card": told.card, "blocked": blocked}
    org = own_wallet.org_of(connection, org_id)
    if org is not None and org.is_halted:
        shown |= {"halted": org, "why": HALTED_FOR.get(f"{org.halt_reason}", "")}
        shown["by_credit"] = org.halt_reason in CREDIT_REASONS - {"unreadable", USAGE_LIMIT}
    if told.is_shared:
        return {**shown, "features": _features(connection, org_id, ask.now_ms)}
    if not told.paid.is_here:
        shown["tiles"] = full.elsewhere(connection, org, told.paid, ask.now_ms)
        if not told.paid.has_wallet:
            return {**shown, "features": _features(connection, org_id, ask.now_ms)}
        return {**_wallet(connection, told.paid.customer_id, days, ask), **shown}
    return {**shown, **_wallet(connection, told.paid.customer_id, days, ask)}


def _wallet(connection: sa.Connection, customer: str, days: int, ask: Ask) -> Mapping[str, object]:
    account = own_wallet.standing(connection, customer, ask.now_ms)
    tomorrow = _tomorrow(ask.now_ms)
    use = wallet_entries.use_by(connection, customer, tomorrow - max(days, full.TILE_DAYS) * DAY_MS, tomorrow)
    begin = tomorrow - days * DAY_MS
    bars = [one for one in use if one.at_ms >= begin]
    opened = full.opened_day(ask)
    forecast = forecast_of(connection, customer, account.available_micro, ask.now_ms)
    closing = wallet_entries.closing_micro(connection, customer, tomorrow)
    return {
        "tiles": [*_tiles(account, full.outlook(forecast, ask.now_ms)), full.used(use, tomorrow), _balance(account)],
        "ends": forecast if forecast.state == "ends" else None,
        "chart": full.chart(bars, ask.now_ms, begin),
        "table": full.by_day(bars),
        "ledger": full.ledger_days(wallet_entries.ledger_by_day(connection, customer, begin, tomorrow), closing),
        "opened": opened,
        "entries": [] if opened is None else wallet_entries.entries_of_day(connection, customer, opened),
        "most": wallet_entries.MOST_DAY_ENTRIES,
    }


def _tiles(account: own_wallet.Standing, forecast: str) -> list[Tile]:
    tone = "bad" if account.available_micro < 0 else ""
    return [
        Tile("Available", figures.credits(account.available_micro), forecast, tone),
        Tile("Reserved", figures.credits(account.reserved_micro), "for what is running"),
    ]


def _balance(account: own_wallet.Standing) -> Tile:
    owes = account.balance_micro < 0
    said = "used, and not paid for" if owes else "available and reserved"
    return Tile("Balance", figures.credits(account.balance_micro), said, "bad" if owes else "")


def _features(connection: sa.Connection, org_id: str, now_ms: int) -> list[tuple[str, int, str]]:
    """What was sampled or sent in the last days: feature, base units and their name, the most first."""
    try:
        rows = read_usage(connection, org_id, *last_days(now_ms, full.SPLIT_DAYS), "feature").rows
    except UnknownId:  # a wallet alone
        return []
    return sorted(((row.feature, row.used, row.unit) for row in rows if row.used), key=lambda row: (-row[1], row[0]))


def _tomorrow(now_ms: int) -> int:
    return now_ms - now_ms % DAY_MS + DAY_MS


def lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """The ledger of the days that are shown; of a wallet that others share, the heads alone."""
    told, chosen = own_wallet.told_of(connection, ask.required("id"), ask.now_ms), full.days_of(ask)
    yield csv_line(COLUMNS)
    for one, left in () if told.is_shared else wallet_entries.every(connection, told.paid.customer_id, chosen):
        texts = (figures.iso(one.ts), figures.iso(one.at_ms), one.kind, one.feature)
        yield csv_line(texts, (one.quantity, figures.plain(one.moved_micro), figures.plain(left)))


def blocked(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    org_id, metric = ask.required("id"), ask.required("metric")
    found = ways_out(connection, Wish(org_id, metric, 1), ask.now_ms, most_sponsors=0)
    by_credit = found.answer.rule == "credits"  # what no override lifts
    return {
        "metric": metric,
        "answer": found.answer,
        "ways": {way.option: way for way in found.ways},
        "asked": [] if by_credit else own_wallet.overrides(connection, org_id, metric, ask.now_ms),
        "day_choices": [(days, until(ask.now_ms, days)) for days in DAY_CHOICES],
        "empty": False,
    }


def until(now_ms: int, days: int) -> int:
    """A midnight, so that the same form sent twice asks for the same."""
    return now_ms - now_ms % DAY_MS + days * DAY_MS
