"""What suppliers are owed: by supplier, settlement by settlement, and the batches that released it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, get_args

import sqlalchemy as sa

from drawdown.ledger.payouts import Payout
from drawdown.ledger.settlements import Settlement, Standing
from drawdown.schema.typed.parsing import show_percent
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, Link, Shown, Table, Tile, act, shown
from drawdown.server.console.frame.templates import url
from drawdown.server.console.screens.csv_lines import csv_line
from drawdown.server.console.screens.money import cells
from drawdown.worker.settlements import lists as settlements
from drawdown.worker.settlements.lists import Account, NextBatch, SettlementFilter, Sums

PATH: Final = "/console/settlements"
STATES: Final[tuple[str, ...]] = get_args(Standing)
SAID: Final = {
    "hold": "waits out its time", "eligible": "in the next batch", "frozen": "a person holds it back",
    "released": "handed over to be paid", "reversed": "not owed after all",
}  # fmt: skip
COLUMNS: Final = (
    "run", "org_id", "project", "supplier", "state", "batch", "settled_at", "held_until", "charged", "share_ppm",
    "owed", "clawed_back",
)  # fmt: skip
OF_ALL: Final = "Of all organisations and states, whatever is chosen: a batch is of all that a supplier is owed."
MOST_SUPPLIERS: Final = 25
MOST_BATCHES: Final = 20


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    state, chosen = ask.choice("state", ("", *STATES)), _chosen(ask)
    if chosen.supplier:
        suppliers = [settlements.account_of_supplier(connection, chosen.supplier, ask.now_ms)]
    else:
        suppliers = settlements.list_suppliers(connection, ask.now_ms, MOST_SUPPLIERS)
    place = ask.text("after")
    found, after = settlements.page(connection, chosen, ask.now_ms, place)
    batches = settlements.list_batches(connection, chosen.supplier, MOST_BATCHES)
    query = {"state": state, "supplier": chosen.supplier, "org": chosen.org}
    filters = [
        Filter("state", "State", state, [("", "any"), *((one, one) for one in STATES)]),
        Filter("supplier", "Supplier", chosen.supplier),
        Filter("org", "Organisation", chosen.org),
    ]
    following = url(PATH, **query, after=after) if after else ""
    options = [word for name, value in query.items() if value for word in (f"--{name}", value)]
    tables = [
        _suppliers(suppliers, settlements.next_batches(connection, suppliers, ask.now_ms), bool(state or chosen.org)),
        settlements_table(
            found,
            cells.command("settlement", "list", *options),
            following,
            url(PATH, **query) if place else "",
            bool(options),
        ),
        _batches(batches, chosen.supplier),
    ]
    file = url(f"{PATH}.csv", **query)
    if state or chosen.org:
        tiles = _tiles([settlements.sums_of(connection, chosen, ask.now_ms)], chosen.states)
    else:
        tiles = _tiles([one.sums for one in suppliers], STATES, _first(suppliers))
        carried = sum(one.sums.carried_micro for one in suppliers)
        tiles.append(Tile("To be clawed back", figures.credits(carried), "less in the next batches"))
    return shown(Shown(PATH, tables, tiles=tiles, filters=filters, query=query, file=file))


def lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Exactly the settlements of the filter."""
    yield csv_line(COLUMNS)
    for one in settlements.every(connection, _chosen(ask), ask.now_ms):
        times = (figures.iso(one.settled_ms), figures.iso(one.hold_until_ms))
        texts = (one.reservation, one.org_id, one.project, one.supplier, one.state, one.payout, *times)
        amounts = (figures.plain(one.gross_micro), one.share_ppm, figures.plain(one.owed_micro))
        yield csv_line(texts, (*amounts, figures.plain(one.clawed_back_micro)))


def _chosen(ask: Ask) -> SettlementFilter:
    state = ask.choice("state", ("", *STATES))
    return SettlementFilter((state,) if state else STATES, ask.text("supplier"), ask.text("org"))


def _tiles(found: Sequence[Sums], states: Sequence[str], whose: str = "") -> list[Tile]:
    """What settlements of these states come to."""
    sums = {name: sum(getattr(one, f"{name}_micro") for one in found) for name in SAID if name in states}
    return [
        Tile(name.capitalize() if name != "hold" else "On hold", figures.credits(micro), whose or SAID[name],
             "warn" if name == "frozen" and micro else "")
        for name, micro in sums.items()
    ]  # fmt: skip


def _first(found: Sequence[Account]) -> str:
    """Whose they are, where there may be more suppliers."""
    return f"of the first {MOST_SUPPLIERS} suppliers by name" if len(found) == MOST_SUPPLIERS else ""


def _suppliers(found: Sequence[Account], batches: Mapping[str, NextBatch], beside: bool) -> Table:
    """`beside`: the page is of fewer settlements than the table."""
    rows = [
        (
            cells.supplier(one.supplier),
            _standing(one),
            Cell(show_percent(one.share_ppm), "number", narrow=False),
            cells.credits(one.sums.hold_micro),
            Cell(figures.credits(one.sums.eligible_micro), "number", links=_release(one, batches[one.supplier])),
            cells.credits(one.sums.frozen_micro, narrow=False),
            cells.credits(one.sums.released_micro, narrow=False),
            cells.credits(one.sums.paid_micro, narrow=False),
            cells.credits(batches[one.supplier].above_micro, narrow=False),
        )
        for one in found
    ]
    heads = ("Supplier", "State", "#Share", "#On hold", "#Eligible", "#Frozen", "#Released", "#In batches",
             "#A batch is above")  # fmt: skip
    notes = [f"The first {MOST_SUPPLIERS} by name."] if len(found) == MOST_SUPPLIERS else []
    notes += [OF_ALL] if beside else []
    none = "There is no supplier. A run that names one owes it a share."
    command = "drawdown supplier list" if rows else "drawdown supplier set render-farm --share 70 --new"
    return Table("By supplier", heads, rows, none, command, note=" ".join(notes))


def _standing(one: Account) -> Cell:
    if one.is_frozen:
        links = (act("Unfreeze", "supplier-unfreeze", supplier=one.supplier),)
        return Cell("frozen", "state", "warn", links=links)
    return Cell("open", links=(act("Freeze", "supplier-freeze", supplier=one.supplier),))


def _release(one: Account, batch: NextBatch) -> tuple[Link, ...]:
    """The form says what the batch comes to, so that it is refused once that is another amount."""
    if one.is_frozen or not batch.may_be_made:
        return ()
    return (act("Release", "settlement-batch", supplier=one.supplier, expect=figures.plain(batch.due_micro)),)


def settlements_table(found: Sequence[Settlement], command: str, following: str, first: str, narrowed: bool) -> Table:
    """Settlements, the newest first."""
    rows = [
        (
            Cell(one.reservation, "id", href=url("/console/settlement", key=one.reservation)),
            cells.supplier(one.supplier, narrow=False),
            Cell(one.state, "state", cells.SETTLEMENT_TONES.get(one.state, "")),
            cells.credits(one.gross_micro, narrow=False),
            cells.credits(one.owed_micro),
            cells.credits(one.clawed_back_micro or None, narrow=False),
            cells.time(one.settled_ms, narrow=False),
            cells.time(one.hold_until_ms),
            cells.org(one.org_id, narrow=False),
        )
        for one in found
    ]
    heads = ("Run", "Supplier", "State", "#Charged", "#Owed", "#Clawed back", "Settled, UTC", "Held until, UTC",
             "Organisation")  # fmt: skip
    none = (
        "None is like that." if narrowed else "Nothing is owed yet. A run that names a supplier owes as it is settled."
    )
    return Table("Settlements, the newest first", heads, rows, none, command, following, first=first)


def _batches(found: Sequence[Payout], supplier: str) -> Table:
    rows = [
        (
            cells.supplier(one.supplier),
            Cell(one.period),
            cells.credits(one.released_micro),
            cells.credits(-one.carried_micro or None, narrow=False),
            cells.credits(one.total_micro),
            cells.count(one.lines, narrow=False),
            cells.time(one.at_ms),
            Cell(one.actor, "id", narrow=False),
        )
        for one in found
    ]
    heads = ("Supplier", "Month", "#Released", "#Clawed back", "#To be paid", "#Lines", "Made, UTC", "By")
    none = "No batch was made yet."
    options = ("--supplier", supplier) if supplier else ()
    command = cells.command("settlement", "batches", *options)
    fill = cells.command("settlement", "batch", supplier or "SUPPLIER", "--dry-run")
    return Table("Batches, the newest first", heads, rows, none, command if rows else fill)
