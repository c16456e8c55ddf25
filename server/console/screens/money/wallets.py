"""The ledger: its wallets, the lowest first, its rate card and its plans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final

import sqlalchemy as sa

from drawdown.ledger.accounts import ONE_PPM
from drawdown.ledger.rates import Rate
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, Shown, Table, act, shown
from drawdown.server.console.frame.templates import url
from drawdown.server.console.screens.csv_lines import csv_line
from drawdown.server.console.screens.money import cells
from drawdown.worker.wallets import lists as wallets
from drawdown.worker.wallets.accounts import list_rates
from drawdown.worker.wallets.lists import After, Chosen, WalletLine

PATH: Final = "/console/ledger"
COLUMNS: Final = ("customer_id", "plan", "top_up", "top_up_stopped", "balance", "reserved", "available", "top_up_below")
WORDS: Final = {"": "any", "owed": "owed: below nothing", "low": "low: at its threshold or below"}
MOST_RATES: Final = 100


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    chosen, after = _chosen(ask), _after(ask)
    found = wallets.page(connection, chosen, after)
    plans, _ = wallets.offers(connection, "")
    rates = list_rates(connection)
    query = {name: value for name, value in vars(chosen).items() if value}
    names = [("", "any"), *((one.name, one.name) for one in plans)]
    if chosen.plan and chosen.plan not in dict(names):
        names.append((chosen.plan, chosen.plan))
    filters = [
        Filter("which", "Wallets", chosen.which, list(WORDS.items())),
        Filter("plan", "Plan", chosen.plan, names),
        Filter("search", "Id contains", chosen.search),
    ]
    following = ""
    if found.after is not None:
        following = url(PATH, **query, after=found.after.customer_id, at=found.after.balance_micro)
    options = [word for name, value in query.items() for word in (f"--{name}", value)]
    none = "No wallet is like that." if query else "There is no wallet yet. The first grant makes one."
    heads = ("Customer", "#Balance", "#Reserved", "#Available", "Plan", "Top-up")
    listed = cells.command("ledger", "wallets", *options)
    of_wallets = Table(
        "Wallets, the lowest first", heads, [_row(one) for one in found.lines], none,
        listed if found.lines or query else "drawdown ledger grant acme 10", following,
        first="" if after is None else url(PATH, **query),
    )  # fmt: skip
    tables = [of_wallets, _rates(rates, ask.now_ms), _plans(plans)]
    acts = [act("Give credit", "grant"), act("Set a rate", "rate", "admin")]
    return shown(Shown(PATH, tables, filters=filters, query=query, acts=acts, file=url(f"{PATH}.csv", **query)))


def lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Exactly the wallets of the filter."""
    chosen = _chosen(ask)
    yield csv_line(COLUMNS)
    for one in wallets.every(connection, chosen):
        amounts = (one.balance_micro, one.held_micro, one.available_micro, one.threshold_micro)
        yield csv_line(
            (one.customer_id, one.plan, one.mode, one.blocked_reason), [figures.plain(micro) for micro in amounts]
        )


def _chosen(ask: Ask) -> Chosen:
    return Chosen(ask.choice("which", wallets.WHICH), ask.text("plan"), ask.text("search"))


def _after(ask: Ask) -> After | None:
    customer, balance = ask.text("after"), ask.whole("at")
    return After(customer, balance) if customer and balance is not None else None


def _row(one: WalletLine) -> tuple[Cell, ...]:
    return (
        cells.billing(one.customer_id),
        cells.balance(one.balance_micro),
        cells.credits(one.held_micro, narrow=False),
        cells.available(one.available_micro),
        Cell(one.plan or figures.UNKNOWN, "id", narrow=False),
        topped_up(one),
    )


def topped_up(one: WalletLine) -> Cell:
    """Whether it is topped up by itself, and from where."""
    if one.mode is None:
        return Cell("none", narrow=False)
    if one.blocked_reason is not None:
        return Cell("stopped itself", "state", "bad", narrow=False)
    if one.mode == "stopped":
        return Cell("paused", "state", "warn", narrow=False)
    return Cell(f"{one.mode}, at {figures.credits(one.threshold_micro)}", narrow=False)


def _rates(rates: list[Rate], now_ms: int) -> Table:
    """The newest of each feature first; which of them counts now."""
    rows, seen = [], set[str]()
    for one in sorted(rates, key=lambda one: (one.feature, -one.start_ms)):
        is_now = one.start_ms <= now_ms and one.feature not in seen
        if is_now:
            seen.add(one.feature)
        state = ("now", "state", "") if is_now else ("to come", "", "") if one.start_ms > now_ms else ("was", "", "")
        rows.append(
            (
                Cell(one.feature, "id"),
                Cell(figures.exact(one.price(figures.PRICED)), "number"),
                cells.count(one.micro_credits, narrow=False),
                cells.count(one.per_quantity, narrow=False),
                Cell("ever" if not one.start_ms else figures.time(one.start_ms), "time"),
                Cell(*state),
            )
        )
    heads = ("Feature", f"#Credits for {figures.PRICED:,}", "#Micro-credits", "#For base units", "From, UTC", "Counts")
    none = "No feature has a rate: usage of the embedded ledger costs nothing."
    note = f"The first {MOST_RATES} of {len(rows):,}." if len(rows) > MOST_RATES else ""
    command = "drawdown ledger show" if rows else "drawdown ledger rate compute_1gb --micro-credits 100"
    return Table("Rate card", heads, rows[:MOST_RATES], none, command, note=note)


def _plans(plans: list[wallets.Offer]) -> Table:
    rows = [plan_cells(one, False) for one in plans]
    none = "There is no plan yet."
    command = "drawdown plan list" if rows else "drawdown plan set team --max-concurrent 20 --new"
    return Table("Plans", PLAN_HEADS, rows, none, command)


PLAN_HEADS: Final = (
    "Plan", "#Sandboxes at once", "#Included a month", "#Rolls over, at most", "#New customers get",
    "#Run holds, times", "#One run holds, at most",
)  # fmt: skip


def plan_cells(one: wallets.Offer, is_own: bool) -> tuple[Cell, ...]:
    """A plan in a comparison; the customer's own says so."""
    factor = figures.UNKNOWN if one.hold_factor_ppm is None else f"{Decimal(one.hold_factor_ppm) / ONE_PPM:f}"
    name = Cell(f"{one.name}, its own" if is_own else one.name, "id")
    return (
        name,
        cells.count(one.at_once),
        cells.credits(one.included_micro),
        cells.credits(one.rollover_max_micro, narrow=False),
        cells.credits(one.first_micro, narrow=False),
        Cell(factor, "number", narrow=False),
        Cell("no end" if one.most_hold_micro is None else figures.credits(one.most_hold_micro), "number", narrow=False),
    )
