"""One wallet: what it has, its lots in their order of use, and its entries, each with what it is an entry of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, Link, Shown, Table, Tile, act, shown
from drawdown.server.console.frame.templates import running, url
from drawdown.server.console.screens.money import cells
from drawdown.worker.views import export, wallet_entries
from drawdown.worker.views.accounts import Account, account_of
from drawdown.worker.views.export import Span
from drawdown.worker.views.ledger import LotRow, LotsView, list_lots
from drawdown.worker.views.wallet_entries import Entries, EntryLine

PATH: Final = "/console/wallet"
MOST_LOTS: Final = 100


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    customer = ask.required("id")
    account = account_of(connection, customer, ask.now_ms)
    lots = list_lots(connection, customer, ask.now_ms)
    found = wallet_entries.page(connection, customer, ask.key("after"), until_ms=ask.moment("until"))
    if not lots.lots and not found.entries:
        ids.require(connection, ids.CUSTOMER, customer)
    query = {"id": customer}
    return shown(
        Shown(
            PATH,
            [entries_table(found, customer, url(PATH, id=customer, after=found.after) if found.after else ""),
             lots_table(lots, customer)],
            tiles=tiles(account),
            acts=[act("Give credit", "grant", id=customer), Link("Billing", url("/console/billing", id=customer))],
            filters=(Filter("until", "Used up to, UTC", ask.text("until")),),
            query={**query, "until": ask.text("until"), "after": ask.key("after")},
            file=url(f"{PATH}.csv", **query),
            above=Link("Ledger", "/console/ledger"),
            heading=customer,
            said=f"Plan {account.plan}" if account.plan else "On no plan",
        )
    )  # fmt: skip


def lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """All its entries, as `drawdown export ledger` writes them."""
    return export.lines(connection, "ledger", Span(ask.required("id"), 0, ask.now_ms + 1), ask.form, ask.now_ms)


def tiles(account: Account) -> list[Tile]:
    """A wallet's buckets."""
    given = account.bonus_micro + account.sponsor_micro + account.refund_micro
    owed = f"{figures.credits(account.owed_micro)} owed" if account.owed_micro > 0 else "available and reserved"
    over = f"{figures.credits(account.over_micro)} of it is over" if account.over_micro else "by runs that go on"
    tone = "bad" if account.available_micro < 0 or account.owed_micro > 0 else ""
    return [
        Tile("Available", figures.credits(account.available_micro), "to be used now", tone),
        Tile("Reserved", figures.credits(account.reserved_micro), over),
        Tile("Included in plan", figures.credits(account.included_micro), "left of what the plan gives"),
        Tile("Purchased", figures.credits(account.purchased_micro), "left of what was bought"),
        Tile("Bonus and gifts", figures.credits(given), "bonus, sponsored, refunded"),
        Tile("Settlement hold", figures.credits(account.hold_micro), "charged; suppliers wait for it"),
        Tile("Balance", figures.credits(account.balance_micro), owed, "bad" if account.balance_micro < 0 else ""),
    ]


def entries_table(found: Entries, customer_id: str, following: str) -> Table:
    """The entries, the latest first."""
    heads: tuple[str, ...] = ("Used, UTC", "Event", "Kind", "#Quantity", "#Amount", "#Balance", "By")
    none = "The ledger has no entry of this wallet. A grant, or the first charge, makes one."
    if found.booked_micro is None:  # which was left behind entries of other pages
        heads = tuple(head for head in heads if head != "#Balance")
        rows = [_entry(one, customer_id) for one in found.entries]
    else:
        rows = [_entry(one, customer_id, left) for one, left in running(found.entries, found.booked_micro)]
    command = cells.command("ledger", "entries", customer_id)
    fill = command if rows else cells.command("ledger", "grant", customer_id, "10")
    note = "By the time that each counts for." if rows else ""
    return Table("Entries, the latest first", heads, rows, none, fill, following, note)


def _entry(one: EntryLine, customer_id: str, left_micro: int | None = None) -> tuple[Cell, ...]:
    place = cells.of_entry(one.key, one.reservation, one.lot, customer_id)
    return (
        cells.time(one.ts),
        Cell(one.feature or (f"run {one.reservation}" if one.reservation else one.reason), "id", href=place),
        Cell(one.kind, narrow=False),
        cells.count(one.quantity, narrow=False),
        Cell(figures.signed(one.moved_micro), "number"),
        *(() if left_micro is None else (Cell(figures.credits(left_micro), "number", narrow=False),)),
        Cell(one.actor, "id", narrow=False, under="" if place else one.key),
    )


def lots_table(view: LotsView, customer_id: str) -> Table:
    """The lots in their order of use, then those to come, then those that are over."""
    heads = ("Use", "Lot", "#Given", "#Left", "#Used", "#Over or back", "Until, UTC", "For")
    note = f"Order of use: {view.order}."
    if view.owed_micro:
        note += f" {figures.credits(view.owed_micro)} were used that no lot paid for: the next one does."
    if view.back_micro:
        note += f" {figures.credits(view.back_micro)} were given back, and pay for later use first."
    if len(view.lots) > MOST_LOTS:
        note += f" The first {MOST_LOTS} of {len(view.lots):,}."
    rows = [_lot(one) for one in view.lots[:MOST_LOTS]]
    none = "No credit was ever given to this wallet."
    command = ("ledger", "lots", customer_id) if rows else ("ledger", "grant", customer_id, "10")
    return Table("Lots", heads, rows, none, cells.command(*command), note=note if rows else "")


def _lot(one: LotRow) -> tuple[Cell, ...]:
    return (
        Cell(f"{one.place}." if one.place else one.state),
        Cell(one.kind, under=one.lot),
        cells.credits(one.amount_micro, narrow=False),
        Cell(figures.credits(one.left_micro), "number", links=_take_back(one)),
        cells.credits(one.used_micro, narrow=False),
        cells.credits(one.waits_micro + one.expired_micro + one.taken_micro, narrow=False),
        Cell(
            "never" if one.expires_ms is None else figures.time(one.expires_ms),
            "time",
            under=f"from {figures.time(one.begins_ms)}",
        ),
        Cell(", ".join(one.features) if one.features else "all", "id", narrow=False),
    )


def _take_back(one: LotRow) -> tuple[Link, ...]:
    return (act("Take back", "take-back", lot=one.lot),) if one.left_micro > 0 else ()
