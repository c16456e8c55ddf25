"""Show the credit of suppliers: their settlements and payouts.

The actions freeze suppliers and settlements, change a supplier's share, reverse settlements, and release payouts. This
module also defines the action that acknowledges differences of a comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, get_args

import sqlalchemy as sa

from drawdown.ledger.payouts import Payout
from drawdown.ledger.settlements import Freeze, Reversal, Settlement, Standing
from drawdown.schema import ids
from drawdown.schema.audit import require_org
from drawdown.schema.declare import YES, Fact
from drawdown.schema.text import counted
from drawdown.schema.typed.parsing import show_percent
from drawdown.schema.units import show_difference
from drawdown.server.console.action import Action, ActionResult, Doing, Field
from drawdown.server.console.csv_lines import csv_line
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, Link, PageContent, Table, Tile, act, to_context
from drawdown.server.console.frame.templates import url
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.money import cells
from drawdown.worker.push import actions as balances
from drawdown.worker.reconcile.acknowledgement import acknowledge, find_unbilled
from drawdown.worker.settlements import lists as settlements
from drawdown.worker.settlements.lists import (
    Account,
    NextPayout,
    SettlementFilter,
    Sums,
    show_settlement,
)

PATH: Final = "/console/settlements"
STATES: Final[tuple[str, ...]] = get_args(Standing)
SAID: Final = {
    "hold": "until its time ends", "eligible": "in the next payout", "frozen": "frozen by a person",
    "released": "released for payment", "reversed": "no longer owed",
}  # fmt: skip
COLUMNS: Final = (
    "execution", "org_id", "project", "supplier", "state", "payout", "settled_at", "held_until", "charged", "share_ppm",
    "owed", "clawed_back",
)  # fmt: skip
OF_ALL: Final = (
    "The filter does not apply to this table, because a payout covers all eligible settlements of a supplier."
)
MOST_SUPPLIERS: Final = 25
"""Suppliers that a page shows."""
MOST_PAYOUTS: Final = 20
"""Payouts that a page shows."""


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    state, chosen = ask.choice("state", ("", *STATES)), _chosen(ask)
    if chosen.supplier:
        suppliers = [settlements.account_of_supplier(connection, chosen.supplier, ask.now_ms)]
    else:
        suppliers = settlements.list_suppliers(connection, ask.now_ms, MOST_SUPPLIERS)
    place = ask.text("after")
    found, after = settlements.page(connection, chosen, ask.now_ms, place)
    payouts = settlements.list_payouts(connection, chosen.supplier, MOST_PAYOUTS)
    query = {"state": state, "supplier": chosen.supplier, "org": chosen.org}
    filters = [
        Filter("state", "State", state, [("", "any"), *((one, one) for one in STATES)]),
        Filter("supplier", "Supplier", chosen.supplier),
        Filter("org", "Organisation", chosen.org),
    ]
    following = url(PATH, **query, after=after) if after else ""
    options = [word for name, value in query.items() if value for word in (f"--{name}", value)]
    tables = [
        _suppliers(suppliers, settlements.next_payouts(connection, suppliers, ask.now_ms), bool(state or chosen.org)),
        settlements_table(
            found,
            cells.command("settlement", "list", *options),
            following,
            url(PATH, **query) if place else "",
            bool(options),
        ),
        _payouts(payouts, chosen.supplier),
    ]
    file = url(f"{PATH}.csv", **query)
    if state or chosen.org:
        tiles = _tiles([settlements.sums_of(connection, chosen, ask.now_ms)], chosen.states)
    else:
        tiles = _tiles([one.sums for one in suppliers], STATES, _first(suppliers))
        carried = sum(one.sums.carried_micro for one in suppliers)
        tiles.append(Tile("Clawbacks due", figures.credits(carried), "taken from the next payouts"))
    return to_context(PageContent(PATH, tables, tiles=tiles, filters=filters, query=query, file=file))


def csv_lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Yield the settlements of the filter."""
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
    """Return tiles with the sums of settlements in these states.

    The last parameter is the text of each tile, in place of the state's meaning.
    """
    sums = {name: sum(getattr(one, f"{name}_micro") for one in found) for name in SAID if name in states}
    return [
        Tile(name.capitalize() if name != "hold" else "On hold", figures.credits(micro), whose or SAID[name],
             "warn" if name == "frozen" and micro else "")
        for name, micro in sums.items()
    ]  # fmt: skip


def _first(found: Sequence[Account]) -> str:
    """Return a note if the figures cover only the first suppliers; else ''."""
    return f"of the first {MOST_SUPPLIERS} suppliers by name" if len(found) == MOST_SUPPLIERS else ""


def _suppliers(found: Sequence[Account], payouts: Mapping[str, NextPayout], beside: bool) -> Table:
    """Return the table of suppliers.

    `beside`: True if the page's filter does not narrow this table.
    """
    rows = [
        (
            cells.supplier(one.supplier),
            _standing(one),
            Cell(show_percent(one.share_ppm), "number", narrow=False, links=_terms(one)),
            cells.credits(one.sums.hold_micro),
            Cell(figures.credits(one.sums.eligible_micro), "number", links=_release(one, payouts[one.supplier])),
            cells.credits(one.sums.frozen_micro, narrow=False),
            cells.credits(one.sums.released_micro, narrow=False),
            cells.credits(one.sums.paid_micro, narrow=False),
            cells.credits(payouts[one.supplier].above_micro, narrow=False),
        )
        for one in found
    ]
    heads = ("Supplier", "State", "#Share", "#On hold", "#Eligible", "#Frozen", "#Released", "#In payouts",
             "#Payout minimum")  # fmt: skip
    notes = [f"This table shows the first {MOST_SUPPLIERS} suppliers by name."] if len(found) == MOST_SUPPLIERS else []
    notes += [OF_ALL] if beside else []
    none = "No supplier exists yet. If an execution names a supplier, you owe the supplier a share."
    command = "drawdown supplier list" if rows else "drawdown supplier set render-farm --share 70 --new"
    return Table("By supplier", heads, rows, none, command, note=" ".join(notes))


def _standing(one: Account) -> Cell:
    if one.is_frozen:
        links = (act("Unfreeze", "supplier-freeze", supplier=one.supplier, undo=YES),)
        return Cell("frozen", "state", "warn", links=links)
    return Cell("open", links=(act("Freeze", "supplier-freeze", supplier=one.supplier),))


def _terms(one: Account) -> tuple[Link, ...]:
    return (act("Change", "supplier-set", "admin", supplier=one.supplier),)


def _release(one: Account, payout: NextPayout) -> tuple[Link, ...]:
    """Return the link that releases a payout.

    The form has the amount. If the amount changes meanwhile, Drawdown refuses the form.
    """
    if one.is_frozen or not payout.may_be_made:
        return ()
    return (act("Release", "settlement-payout", supplier=one.supplier, expect=figures.plain(payout.due_micro)),)


def settlements_table(found: Sequence[Settlement], command: str, following: str, first: str, narrowed: bool) -> Table:
    """Return the table of settlements, newest first."""
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
    heads = ("Execution", "Supplier", "State", "#Charged", "#Owed", "#Clawed back", "Settled, UTC", "Held until, UTC",
             "Organisation")  # fmt: skip
    none = (
        "No settlement matches the filter."
        if narrowed
        else "No settlement exists yet. A settled execution that names a supplier creates a settlement."
    )
    return Table("Settlements, the newest first", heads, rows, none, command, following, first=first)


def _payouts(found: Sequence[Payout], supplier: str) -> Table:
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
    heads = ("Supplier", "Month", "#Released", "#Clawed back", "#To pay", "#Lines", "Created, UTC", "Actor")
    none = "No payout exists yet."
    options = ("--supplier", supplier) if supplier else ()
    command = cells.command("settlement", "payouts", *options)
    fill = cells.command("settlement", "payout", supplier or "SUPPLIER", "--dry-run")
    return Table("Payouts, the newest first", heads, rows, none, command if rows else fill)


SETTLEMENT_PATH: Final = "/console/settlement"
MOST_ACTS: Final = 100
"""Reversals that the page of a settlement shows. Freezes have the same limit."""


def read_one(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    key = ask.required("key")
    found, reversals, freezes = show_settlement(connection, key, ask.now_ms, MOST_ACTS)
    command = cells.command("settlement", "show", key)
    facts = Table("Settlement", ("Field", "Value"), _facts(found), "", command)
    tables = [facts, _reversals(reversals, command), _freezes(freezes, command)]
    above = Link("Settlements", "/console/settlements")
    acts = _acts(found, freezes)
    return to_context(PageContent(SETTLEMENT_PATH, tables, query={"key": key}, acts=acts, above=above, heading=key))


def _acts(found: Settlement, freezes: list[Freeze]) -> list[Link]:
    key = found.reservation
    if any(one.reservation and one.ended_ms is None for one in freezes):
        freeze = [act("Unfreeze", "settlement-freeze", execution=key, undo=YES)]
    else:
        freeze = [act("Freeze", "settlement-freeze", execution=key)] if found.payout is None else []
    may_take = found.left_micro > 0 and not found.is_final
    return [*freeze, *([act("Take back", "settlement-reverse", execution=key)] if may_take else [])]


def _facts(one: Settlement) -> list[tuple[Cell, Cell]]:
    return [
        (Cell("State"), Cell(one.state, "state", cells.SETTLEMENT_TONES.get(one.state, ""))),
        (Cell("Execution"), cells.run(one.reservation)),
        (Cell("Supplier"), cells.supplier(one.supplier)),
        (Cell("Organisation"), cells.org(one.org_id)),
        (Cell("Project"), Cell(one.project or figures.UNKNOWN, "id")),
        (Cell("Charged"), Cell(figures.exact(one.gross_micro))),
        (Cell("Share"), Cell(show_percent(one.share_ppm))),
        (Cell("Owed"), Cell(figures.exact(one.owed_micro))),
        (Cell("Taken back before release"), Cell(figures.exact(one.reversed_micro))),
        (Cell("Clawed back after release"), Cell(figures.exact(one.clawed_back_micro))),
        (Cell("Settled, UTC"), cells.time(one.settled_ms)),
        (Cell("Held until, UTC"), cells.time(one.hold_until_ms)),
        (Cell("Payout"), Cell(one.payout or figures.UNKNOWN, "id")),
    ]


def _reversals(found: list[Reversal], command: str) -> Table:
    rows = [
        (cells.time(one.at_ms), Cell(figures.exact(one.amount_micro), "number"),
         Cell("clawback" if one.is_clawback else "before release"), Cell(one.actor, "id"),
         Cell(one.reason, "id", narrow=False), Cell(one.reversal, "id", narrow=False))
        for one in found
    ]  # fmt: skip
    heads = ("Time, UTC", "#Amount", "Kind", "Actor", "Reason", "Key")
    return Table("Reversals", heads, rows, "The settlement has no reversals.", command)


def _freezes(found: list[Freeze], command: str) -> Table:
    rows = [
        (Cell("this settlement" if one.reservation else "the supplier"), cells.time(one.from_ms),
         Cell(figures.time(one.ended_ms), "time") if one.ended_ms is not None else Cell("frozen", "state", "warn"),
         Cell(one.actor, "id"), Cell(one.reason, "id", narrow=False))
        for one in found
    ]  # fmt: skip
    heads = ("Scope", "From, UTC", "Until, UTC", "Actor", "Reason")
    return Table("Freezes", heads, rows, "The settlement has no freezes.", command)


def _acknowledge(connection: sa.Connection, doing: Doing) -> ActionResult:
    org = doing.text("org")
    require_org(connection, org)
    seen = acknowledge(connection, org, doing.by)
    said = counted(len(seen.balances), "reported difference")
    if seen.unbilled:
        said += f" and {counted(sum(one.days for one in seen.unbilled), 'unbilled day')}"
    return ActionResult(f"{org}: {said} acknowledged")


def _difference_facts(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    ids.require(connection, ids.ORG, doing.text("org"))
    found = balances.find_unacknowledged(connection, doing.text("org"))
    facts = [
        Fact(f"{row.provider}, {row.feature}", show_difference(int(row.told_qty), int(row.unsure_qty), int(row.scale)))
        for row in found
    ]
    unbilled = [
        Fact(f"Not billed by {one.provider}", f"{counted(one.days, 'day')}, {one.worth}")
        for one in find_unbilled(connection, doing.text("org"))
    ]
    return [*facts, *unbilled]


ACKNOWLEDGE: Final = Action(
    "reconcile-acknowledge",
    "Acknowledge differences",
    (Field("org", "Organisation"),),
    _acknowledge,
    _difference_facts,
    lambda doing: ["reconcile", doing.text("org"), "--acknowledge"],
    lambda _doing: "/console/reconcile",
    "Acknowledge reported balance differences, and days that no provider bills, after a person has handled them. "
    "Drawdown does not correct any balance.",
)
ACTIONS: Final = (ACKNOWLEDGE,)
