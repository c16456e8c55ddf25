"""One wallet: what it has, its lots in their order of use, and its entries, each with what it is an entry of; and
entries as a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.units import MINUTE_MS
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, Link, Shown, Table, Tile, act, shown
from drawdown.server.console.frame.templates import running, url
from drawdown.server.console.screens.csv_lines import csv_line
from drawdown.server.console.screens.money import cells
from drawdown.worker.wallets import entries as wallet_entries
from drawdown.worker.wallets.accounts import Account, LotRow, LotsView, PaidFrom, account_of, list_lots, paid_from
from drawdown.worker.wallets.entries import ALL, MOST_LOOKED_AT, NEVER, Chosen, Entries, EntryLine, sizes_of

PATH: Final = "/console/wallet"
MOST_LOTS: Final = 100
COLUMNS: Final = (
    "used_at", "booked_at", "kind", "feature", "run", "lot", "key", "actor", "reason", "quantity", "amount", "balance",
)  # fmt: skip
"""Of a file of entries."""


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    customer, after, chosen = ask.required("id"), ask.key("after"), chosen_by(ask)
    account = account_of(connection, customer, ask.now_ms)
    lots = list_lots(connection, customer, ask.now_ms)
    found = wallet_entries.page(connection, customer, after, chosen=chosen)
    paid = None
    if not (lots.lots or found.entries or chosen.narrows or after):
        ids.require(connection, ids.CUSTOMER, customer)
        paid = paid_from(connection, customer, ask.now_ms)
    filters = chosen_filters(ask)
    if paid is not None and (not paid.is_here or paid.customer_id != customer):
        return shown(_never_used(customer, paid))
    query = {"id": customer, **{one.name: one.value for one in filters}}
    return shown(
        Shown(
            PATH,
            [entries_table(found, customer, chosen, PATH, query, after), lots_table(lots, customer)],
            tiles=tiles(account),
            acts=[act("Give credit", "grant", id=customer), Link("Billing", url("/console/billing", id=customer))],
            filters=filters,
            query={**query, "after": after},
            file=url(f"{PATH}.csv", **query),
            above=Link("Ledger", "/console/ledger"),
            heading=customer,
            said=f"Plan {account.plan}" if account.plan else "On no plan",
        )
    )


def _never_used(customer: str, paid: PaidFrom) -> Shown:
    """Instead of zeros that say nothing."""
    acts = [act("Give credit", "grant", id=customer)] if paid.takes_credit and paid.customer_id == customer else []
    above, billing = Link("Ledger", "/console/ledger"), Link("Billing", url("/console/billing", id=customer))
    return Shown(PATH, [no_wallet(customer, paid)], acts=[*acts, billing], above=above, heading=customer)


def whose(paid: PaidFrom) -> str:
    """Why there is no balance to show, in words; '' where one is kept here."""
    if paid.is_here:
        return ""
    if paid.provider is None:
        return "billed by nobody yet"
    return f"billed at {paid.provider}: no balance is kept here"


def nothing_here(paid: PaidFrom) -> Tile:
    """What is not known is no zero."""
    return Tile("Available", figures.UNKNOWN, whose(paid))


def no_wallet(customer_id: str, paid: PaidFrom) -> Table:
    """In the place of a ledger that is not here."""
    command: tuple[str, ...] = ("org", "list", "--provider", f"{paid.provider}")
    if paid.takes_credit:
        command = ("ledger", "grant", paid.customer_id, "10")
    said = whose(paid) if paid.customer_id == customer_id else f"paid from the wallet of {paid.customer_id}"
    none = f"{said[:1].upper()}{said[1:]}, so that there is no entry."
    return Table("Ledger", ("Entries",), [], none, cells.command(*command))


def chosen_by(ask: Ask) -> Chosen:
    """The entries that were booked in some time, or of some amount. Times are shown to the minute and amounts to the
    cent, so that what is typed stands for the whole of either. Errors: UsageError."""
    begin, end, amount = ask.moment("from"), ask.moment("to"), ask.text("amount").strip()
    return Chosen(
        sizes=sizes_of(amount, "amount") if amount else ALL.sizes,
        booked_from_ms=0 if begin is None else begin - begin % MINUTE_MS,
        booked_to_ms=NEVER if end is None else end - end % MINUTE_MS + MINUTE_MS,
    )


def chosen_filters(ask: Ask) -> tuple[Filter, ...]:
    return (
        Filter("from", "Booked from, UTC", ask.text("from")),
        Filter("to", "Booked up to, UTC", ask.text("to")),
        Filter("amount", "Amount", ask.text("amount")),
    )


def lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Exactly the entries of the filter."""
    customer = ask.required("id")
    ids.require(connection, ids.CUSTOMER, customer)
    return entry_lines(connection, customer, chosen_by(ask))


def entry_lines(connection: sa.Connection, customer: str, chosen: Chosen) -> Iterator[str]:
    """Entries of a wallet as a file has them, in the order of its page; the balance is what was left behind each."""
    yield csv_line(COLUMNS)
    for one, left in wallet_entries.every(connection, customer, chosen):
        times = (figures.iso(one.ts), figures.iso(one.at_ms))
        said = (one.kind, one.feature, one.reservation, one.lot, one.key, one.actor, one.reason)
        amounts = (figures.plain(one.moved_micro), figures.plain(left))
        yield csv_line((*times, *said), (one.quantity, *amounts))


def tiles(account: Account) -> list[Tile]:
    """A wallet's buckets."""
    given = account.bonus_micro + account.sponsor_micro + account.refund_micro
    owed = f"{figures.credits(account.owed_micro)} owed" if account.owed_micro > 0 else "available and reserved"
    over = f"{figures.credits(account.over_micro)} of it is over" if account.over_micro else "by runs that go on"
    tone = "bad" if account.available_micro < 0 or account.owed_micro > 0 else ""
    can = "overdrawn" if account.available_micro < 0 else "to be used now"
    if account.unbilled_micro:
        can = f"{figures.credits(account.unbilled_micro)} used, not charged yet"
    return [
        Tile("Available", figures.credits(account.available_micro), can, tone),
        Tile("Reserved", figures.credits(account.reserved_micro), over),
        Tile("Included in plan", figures.credits(account.included_micro), "left of what the plan gives"),
        Tile("Purchased", figures.credits(account.purchased_micro), "left of what was bought"),
        Tile("Bonus and gifts", figures.credits(given), "bonus, sponsored, refunded"),
        Tile("Settlement hold", figures.credits(account.hold_micro), "charged; suppliers wait for it"),
        Tile("Balance", figures.credits(account.balance_micro), owed, "bad" if account.balance_micro < 0 else ""),
    ]


def entries_table(
    found: Entries, customer_id: str, chosen: Chosen, path: str, query: Mapping[str, object], after: str
) -> Table:
    """The entries, the latest use first; `path` and `query`: where their first page is, `after`: behind which entry
    this one begins."""
    heads: tuple[str, ...] = ("Used, UTC", "Booked, UTC", "Event", "Kind", "#Quantity", "#Amount", "#Balance", "By")
    none = "The ledger has no entry of this wallet. A grant, or the first charge, makes one."
    if found.booked_micro is None:  # which was left behind entries of other pages
        heads = tuple(head for head in heads if head != "#Balance")
        rows = [_entry(one, customer_id) for one in found.entries]
    else:
        rows = [_entry(one, customer_id, left) for one, left in running(found.entries, found.booked_micro)]
    if chosen.narrows:
        none = "Nothing like it was booked."
    notes = ["By the time of use; what came in late was booked later."] if rows else []
    if rows and "#Balance" not in heads:
        notes.append("What was left behind each is in the file of all entries.")
    if found.is_cut:
        notes.append(f"Of {MOST_LOOKED_AT:,} that were looked through; the next page goes on.")
    is_empty = not rows and not chosen.narrows
    command = cells.command("ledger", "grant", customer_id, "10") if is_empty else _command(customer_id, chosen)
    return Table(
        "Entries, the latest first", heads, rows, none, command,
        next=url(path, **query, after=found.after) if found.after else "", note=" ".join(notes),
        first=url(path, **query) if after else "",
    )  # fmt: skip


def _command(customer_id: str, chosen: Chosen) -> str:
    """What lists the same entries."""
    times = (("--from", chosen.booked_from_ms, 0), ("--to", chosen.booked_to_ms, NEVER))
    options = [word for name, ms, any_ms in times if ms != any_ms for word in (name, figures.iso(ms))]
    if chosen.amount is not None:
        options += ["--amount", chosen.amount]
    return cells.command("ledger", "entries", customer_id, *options)


def _entry(one: EntryLine, customer_id: str, left_micro: int | None = None) -> tuple[Cell, ...]:
    place = cells.of_entry(one.key, one.reservation, one.lot, customer_id)
    return (
        cells.time(one.ts),
        cells.time(one.at_ms),
        Cell(one.feature or (f"run {one.reservation}" if one.reservation else one.reason), "id", href=place),
        Cell(one.kind, narrow=False),
        cells.count(one.quantity, narrow=False),
        Cell(figures.signed(one.moved_micro), "number"),
        *(() if left_micro is None else (cells.balance(left_micro, narrow=False),)),
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
