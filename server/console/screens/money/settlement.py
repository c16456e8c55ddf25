"""One settlement: what its supplier is owed for a run, what was taken back, and when it was frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa

from drawdown.ledger.settlements import Freeze, Reversal, Settlement
from drawdown.schema.typed.parsing import show_percent
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Link, Shown, Table, act, shown
from drawdown.server.console.screens.money import cells
from drawdown.worker.settlements.lists import show_settlement

PATH: Final = "/console/settlement"
MOST_ACTS: Final = 100


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    key = ask.required("key")
    found, reversals, freezes = show_settlement(connection, key, ask.now_ms, MOST_ACTS)
    command = cells.command("settlement", "show", key)
    facts = Table("The settlement", ("What", "As it is"), _facts(found), "", command)
    tables = [facts, _reversals(reversals, command), _freezes(freezes, command)]
    above = Link("Settlement", "/console/settlements")
    acts = _acts(found, freezes)
    return shown(Shown(PATH, tables, query={"key": key}, acts=acts, above=above, heading=key))


def _acts(found: Settlement, freezes: list[Freeze]) -> list[Link]:
    key = found.reservation
    if any(one.reservation and one.ended_ms is None for one in freezes):
        freeze = [act("Unfreeze", "settlement-unfreeze", run=key)]
    else:
        freeze = [act("Freeze", "settlement-freeze", run=key)] if found.payout is None else []
    may_take = found.left_micro > 0 and not found.is_final
    return [*freeze, *([act("Take back", "settlement-reverse", run=key)] if may_take else [])]


def _facts(one: Settlement) -> list[tuple[Cell, Cell]]:
    return [
        (Cell("State"), Cell(one.state, "state", cells.SETTLEMENT_TONES.get(one.state, ""))),
        (Cell("Run"), cells.run(one.reservation)),
        (Cell("Supplier"), cells.supplier(one.supplier)),
        (Cell("Organisation"), cells.org(one.org_id)),
        (Cell("Project"), Cell(one.project or figures.UNKNOWN, "id")),
        (Cell("Charged for the run"), Cell(figures.exact(one.gross_micro))),
        (Cell("Share"), Cell(show_percent(one.share_ppm))),
        (Cell("Owed"), Cell(figures.exact(one.owed_micro))),
        (Cell("Taken back before its release"), Cell(figures.exact(one.reversed_micro))),
        (Cell("Clawed back after it"), Cell(figures.exact(one.clawed_back_micro))),
        (Cell("Settled, UTC"), cells.time(one.settled_ms)),
        (Cell("Held until, UTC"), cells.time(one.hold_until_ms)),
        (Cell("Batch"), Cell(one.payout or figures.UNKNOWN, "id")),
    ]


def _reversals(found: list[Reversal], command: str) -> Table:
    rows = [
        (cells.time(one.at_ms), Cell(figures.exact(one.amount_micro), "number"),
         Cell("claw-back" if one.is_clawback else "before its release"), Cell(one.actor, "id"),
         Cell(one.reason, "id", narrow=False), Cell(one.reversal, "id", narrow=False))
        for one in found
    ]  # fmt: skip
    heads = ("At, UTC", "#Amount", "How", "By", "Why", "Key")
    return Table("Taken back", heads, rows, "Nothing of it was taken back.", command)


def _freezes(found: list[Freeze], command: str) -> Table:
    rows = [
        (Cell("this one" if one.reservation else "its supplier"), cells.time(one.from_ms),
         Cell(figures.time(one.ended_ms), "time") if one.ended_ms is not None else Cell("frozen", "state", "warn"),
         Cell(one.actor, "id"), Cell(one.reason, "id", narrow=False))
        for one in found
    ]  # fmt: skip
    heads = ("What", "From, UTC", "Until, UTC", "By", "Why")
    return Table("Frozen", heads, rows, "It was never frozen.", command)
