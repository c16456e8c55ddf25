"""Show the ledger's wallets, rate card and plans, or one wallet.

The list has the lowest wallets first. A wallet's page has its credit, its lots in their order of use, and its entries
with links.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final

import sqlalchemy as sa

from drawdown.ledger.accounts import ONE_PPM
from drawdown.ledger.rates import Rate
from drawdown.schema import ids
from drawdown.schema.units import MINUTE_MS
from drawdown.server.console.csv_lines import csv_line
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, Link, PageContent, Table, Tile, act, to_context
from drawdown.server.console.frame.templates import running, url
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.money import cells
from drawdown.worker.wallets import entries as wallet_entries
from drawdown.worker.wallets import lists as wallets
from drawdown.worker.wallets.accounts import (
    Account,
    LotRow,
    LotsView,
    PaidFrom,
    account_of,
    list_lots,
    list_rates,
    paid_from,
)
from drawdown.worker.wallets.entries import ALL, MOST_LOOKED_AT, NEVER, Entries, EntryLine, sizes_of
from drawdown.worker.wallets.entries import Chosen as ChosenEntries
from drawdown.worker.wallets.lists import After, Chosen, WalletLine

PATH: Final = "/console/ledger"
COLUMNS: Final = ("customer_id", "plan", "top_up", "top_up_stopped", "balance", "reserved", "available", "top_up_below")
WORDS: Final = {"": "any", "owed": "owed: below 0", "low": "low: at its threshold or below"}
MOST_RATES: Final = 100
"""Rates that a page shows."""


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
    none = "No wallet matches the filter." if query else "No wallet exists yet. The first grant creates a wallet."
    heads = ("Customer", "#Balance", "#Reserved", "#Available", "Plan", "Top-up")
    listed = cells.command("ledger", "wallets", *options)
    of_wallets = Table(
        "Wallets, the lowest first", heads, [_row(one) for one in found.lines], none,
        listed if found.lines or query else "drawdown ledger grant acme 10", following,
        first="" if after is None else url(PATH, **query),
    )  # fmt: skip
    tables = [of_wallets, _rates(rates, ask.now_ms), _plans(plans)]
    acts = [act("Give credit", "grant"), act("Set a rate", "ledger-rate", "admin")]
    return to_context(
        PageContent(PATH, tables, filters=filters, query=query, acts=acts, file=url(f"{PATH}.csv", **query))
    )


def csv_lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Yield the wallets of the filter."""
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
    """Return the cell with the state of a wallet's automatic top-up."""
    if one.mode is None:
        return Cell("none", narrow=False)
    if one.blocked_reason is not None:
        return Cell("stopped automatically", "state", "bad", narrow=False)
    if one.mode == "stopped":
        return Cell("paused", "state", "warn", narrow=False)
    return Cell(f"{one.mode}, at {figures.credits(one.threshold_micro)}", narrow=False)


def _rates(rates: list[Rate], now_ms: int) -> Table:
    """Return the rate card by feature, the newest rate first, with the rate in use."""
    rows, seen = [], set[str]()
    for one in sorted(rates, key=lambda one: (one.feature, -one.start_ms)):
        is_now = one.start_ms <= now_ms and one.feature not in seen
        if is_now:
            seen.add(one.feature)
        state = ("in use", "state", "") if is_now else ("future", "", "") if one.start_ms > now_ms else ("past", "", "")
        rows.append(
            (
                Cell(one.feature, "id"),
                Cell(figures.exact(one.price(figures.PRICED)), "number"),
                cells.count(one.micro_credits, narrow=False),
                cells.count(one.per_quantity, narrow=False),
                Cell("always" if not one.start_ms else figures.time(one.start_ms), "time"),
                Cell(*state),
            )
        )
    heads = ("Feature", f"#Credits for {figures.PRICED:,}", "#Micro-credits", "#Per base units", "From, UTC", "State")
    none = "No feature has a rate, so the embedded ledger does not charge usage."
    note = f"This table shows the first {MOST_RATES} of {len(rows):,} rates." if len(rows) > MOST_RATES else ""
    command = "drawdown ledger show" if rows else "drawdown ledger rate compute_1gb --micro-credits 100"
    return Table("Rate card", heads, rows[:MOST_RATES], none, command, note=note)


def _plans(plans: list[wallets.Offer]) -> Table:
    rows = [plan_cells(one, False) for one in plans]
    none = "No plan exists yet."
    command = "drawdown plan list" if rows else "drawdown plan set team --max-concurrent 20 --new"
    return Table("Plans", PLAN_HEADS, rows, none, command)


PLAN_HEADS: Final = (
    "Plan", "#Concurrent sandboxes", "#Included per month", "#Maximum rollover", "#First credit",
    "#Reservation factor", "#Maximum reservation",
)  # fmt: skip


def plan_cells(one: wallets.Offer, is_own: bool) -> tuple[Cell, ...]:
    """Return the cells of a plan. `is_own`: True if it is the customer's plan."""
    factor = figures.UNKNOWN if one.hold_factor_ppm is None else f"{Decimal(one.hold_factor_ppm) / ONE_PPM:f}"
    name = Cell(f"{one.name}, current" if is_own else one.name, "id")
    return (
        name,
        cells.count(one.at_once),
        cells.credits(one.included_micro),
        cells.credits(one.rollover_max_micro, narrow=False),
        cells.credits(one.first_micro, narrow=False),
        Cell(factor, "number", narrow=False),
        Cell(
            "no limit" if one.most_hold_micro is None else figures.credits(one.most_hold_micro), "number", narrow=False
        ),
    )


WALLET_PATH: Final = "/console/wallet"
MOST_LOTS: Final = 100
"""Lots that a page shows."""
ENTRY_COLUMNS: Final = (
    "used_at", "booked_at", "kind", "feature", "execution", "lot", "key", "actor", "reason", "quantity", "amount",
    "balance",
)  # fmt: skip
"""Columns of a file of entries."""


def read_one(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
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
        return to_context(_never_used(customer, paid))
    query = {"id": customer, **{one.name: one.value for one in filters}}
    return to_context(
        PageContent(
            WALLET_PATH,
            [entries_table(found, customer, chosen, WALLET_PATH, query, after), lots_table(lots, customer)],
            tiles=tiles(account),
            acts=[act("Give credit", "grant", id=customer), Link("Billing", url("/console/billing", id=customer))],
            filters=filters,
            query={**query, "after": after},
            file=url(f"{WALLET_PATH}.csv", **query),
            above=Link("Ledger", "/console/ledger"),
            heading=customer,
            note=f"Plan {account.plan}" if account.plan else "No plan",
        )
    )


def _never_used(customer: str, paid: PaidFrom) -> PageContent:
    """Return the page of a wallet that was never used.

    The page does not show amounts of zero.
    """
    acts = [act("Give credit", "grant", id=customer)] if paid.takes_credit and paid.customer_id == customer else []
    above, billing = Link("Ledger", "/console/ledger"), Link("Billing", url("/console/billing", id=customer))
    return PageContent(WALLET_PATH, [no_wallet(customer, paid)], acts=[*acts, billing], above=above, heading=customer)


def whose(paid: PaidFrom) -> str:
    """Return why Drawdown cannot show a balance; '' if Drawdown keeps the balance."""
    if paid.is_here:
        return ""
    if paid.provider is None:
        return "no provider bills it yet"
    if paid.keeper is None:
        return f"billed at {paid.provider} in arrears, without a wallet here"
    return f"billed at {paid.provider}, which keeps the balance"


def nothing_here(paid: PaidFrom) -> Tile:
    """Return the tile of an unknown balance, which shows a dash, not zero."""
    return Tile("Available", figures.UNKNOWN, whose(paid))


def no_wallet(customer_id: str, paid: PaidFrom) -> Table:
    """Return a table that explains why the wallet's ledger is not in Drawdown."""
    command: tuple[str, ...] = ("org", "list", "--provider", f"{paid.provider}")
    if paid.takes_credit:
        command = ("ledger", "grant", paid.customer_id, "10")
    said = whose(paid) if paid.customer_id == customer_id else f"paid from the wallet of {paid.customer_id}"
    none = f"{said[:1].upper()}{said[1:]}: no entry exists here."
    return Table("Ledger", ("Entries",), [], none, cells.command(*command))


def chosen_by(ask: Ask) -> ChosenEntries:
    """Return the filter of entries: by the time of booking, and by the amount.

    The page shows times to the minute and amounts to the cent. So a typed value matches the whole minute or cent.
    Errors: UsageError.
    """
    begin, end, amount = ask.moment("from"), ask.moment("to"), ask.text("amount").strip()
    return ChosenEntries(
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


def lines_of_one(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Yield the entries of the filter."""
    customer = ask.required("id")
    ids.require(connection, ids.CUSTOMER, customer)
    return entry_lines(connection, customer, chosen_by(ask))


def entry_lines(connection: sa.Connection, customer: str, chosen: ChosenEntries) -> Iterator[str]:
    """Yield a wallet's entries as lines of CSV, in the order of the wallet's page.

    Each line has the balance after the entry. If the filter may omit entries, the balance is empty.
    """
    yield csv_line(ENTRY_COLUMNS)
    for one, left in wallet_entries.every(connection, customer, chosen):
        times = (figures.iso(one.ts), figures.iso(one.at_ms))
        said = (one.kind, one.feature, one.reservation, one.lot, one.key, one.actor, one.reason)
        amounts = (figures.plain(one.moved_micro), figures.plain(left))
        yield csv_line((*times, *said), (one.quantity, *amounts))


def tiles(account: Account) -> list[Tile]:
    """Return the tiles of a wallet: its balance and the parts of its credit."""
    given = account.bonus_micro + account.sponsor_micro + account.refund_micro
    owed = f"{figures.credits(account.owed_micro)} owed" if account.owed_micro > 0 else "available and reserved"
    over = f"{figures.credits(account.over_micro)} of it expired" if account.over_micro else "by open executions"
    tone = "bad" if account.available_micro < 0 or account.owed_micro > 0 else ""
    can = "overdrawn" if account.available_micro < 0 else "ready to use"
    if account.unbilled_micro:
        can = f"{figures.credits(account.unbilled_micro)} used, not charged yet"
    return [
        Tile("Available", figures.credits(account.available_micro), can, tone),
        Tile("Reserved", figures.credits(account.reserved_micro), over),
        Tile("Included in plan", figures.credits(account.included_micro), "unused credit of the plan"),
        Tile("Purchased", figures.credits(account.purchased_micro), "unused purchased credit"),
        Tile("Bonus and gifts", figures.credits(given), "bonus, sponsored, refunded"),
        Tile("Settlement hold", figures.credits(account.hold_micro), "charged, on hold for suppliers"),
        Tile("Balance", figures.credits(account.balance_micro), owed, "bad" if account.balance_micro < 0 else ""),
    ]


def entries_table(
    found: Entries, customer_id: str, chosen: ChosenEntries, path: str, query: Mapping[str, object], after: str
) -> Table:
    """Return the table of entries, the latest use first.

    `path` and `query`: the address of the first page. `after`: the entry before this page.
    """
    heads: tuple[str, ...] = ("Used, UTC", "Booked, UTC", "Event", "Kind", "#Quantity", "#Amount", "#Balance", "Actor")
    none = "No entry of this wallet exists yet. A grant or the first charge creates an entry."
    if found.booked_micro is None:  # only the first page of all entries has the balance after each entry
        heads = tuple(head for head in heads if head != "#Balance")
        rows = [_entry(one, customer_id) for one in found.entries]
    else:
        rows = [_entry(one, customer_id, left) for one, left in running(found.entries, found.booked_micro)]
    if chosen.narrows:
        none = "No entry matches the filter."
    notes = ["Ordered by time of use. Late usage was booked later."] if rows else []
    if rows and "#Balance" not in heads:
        notes.append("The file of all entries has the balance after each entry.")
    if found.is_cut:
        notes.append(f"This page searched {MOST_LOOKED_AT:,} entries. The next page continues.")
    is_empty = not rows and not chosen.narrows
    command = cells.command("ledger", "grant", customer_id, "10") if is_empty else _command(customer_id, chosen)
    return Table(
        "Entries, the latest first", heads, rows, none, command,
        next=url(path, **query, after=found.after) if found.after else "", note=" ".join(notes),
        first=url(path, **query) if after else "",
    )  # fmt: skip


def _command(customer_id: str, chosen: ChosenEntries) -> str:
    """Return the command that lists the same entries."""
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
        Cell(one.feature or (f"execution {one.reservation}" if one.reservation else one.reason), "id", href=place),
        Cell(one.kind, narrow=False),
        cells.count(one.quantity, narrow=False),
        Cell(figures.signed(one.moved_micro), "number"),
        *(() if left_micro is None else (cells.balance(left_micro, narrow=False),)),
        Cell(one.actor, "id", narrow=False, under="" if place else one.key),
    )


def lots_table(view: LotsView, customer_id: str) -> Table:
    """Return the table of lots in their order of use.

    After them come future lots, then ended lots.
    """
    heads = ("Order", "Lot", "#Given", "#Left", "#Used", "#Expired or taken", "Expires, UTC", "Features")
    note = f"Order of use: {view.order}."
    if view.owed_micro:
        note += (
            f" No lot paid for {figures.credits(view.owed_micro)} of the used credits yet. The next lot pays for them."
        )
    if view.back_micro:
        note += f" Later use draws first on {figures.credits(view.back_micro)} credits that were given back."
    if len(view.lots) > MOST_LOTS:
        note += f" This table shows the first {MOST_LOTS} of {len(view.lots):,} lots."
    rows = [_lot(one) for one in view.lots[:MOST_LOTS]]
    none = "No lot exists yet, because this wallet never got credit."
    command = ("ledger", "lots", customer_id) if rows else ("ledger", "grant", customer_id, "10")
    return Table("Lots", heads, rows, none, cells.command(*command), note=note if rows else "")


def _lot(one: LotRow) -> tuple[Cell, ...]:
    return (
        Cell(f"{one.place}." if one.place else one.state),
        Cell(one.kind, under=one.lot),
        cells.credits(one.amount_micro, narrow=False),
        Cell(figures.credits(one.remaining_micro), "number", links=_take_back(one)),
        cells.credits(one.used_micro, narrow=False),
        cells.credits(one.waits_micro + one.expired_micro + one.taken_back_micro, narrow=False),
        Cell(
            "never" if one.expires_ms is None else figures.time(one.expires_ms),
            "time",
            under=f"from {figures.time(one.begins_ms)}",
        ),
        Cell(", ".join(one.features) if one.features else "all", "id", narrow=False),
    )


def _take_back(one: LotRow) -> tuple[Link, ...]:
    return (act("Take back", "ledger-take-back", lot=one.lot),) if one.remaining_micro > 0 else ()
