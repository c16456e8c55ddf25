"""The tab Raw of an organisation: the rows of one table about it as they are stored, and no column of secrets."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from drawdown.schema.text import typed
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame.parts import Cell, Table
from drawdown.server.console.frame.templates import url
from drawdown.server.console.screens.rules.cells import said
from drawdown.worker.status import tables
from drawdown.worker.wallets.accounts import payer_of

FIRST = "orgs"


def tab(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    org_id = ask.required("id")
    table = ask.choice("table", (FIRST, *(name for name in tables.TABLES if name != FIRST)))
    found = tables.raw_rows(connection, table, org_id, payer_of(connection, org_id, ask.now_ms))
    return {"part": "org_tables.html", "tables": [_rows(org_id, table, found), _there(org_id, table)]}


def _there(org_id: str, chosen: str) -> Table:
    rows = [
        (Cell(name, href="" if name == chosen else url("/console/org", id=org_id, tab="raw", table=name)),
         Cell("above" if name == chosen else tables.COMMENTS[name], narrow=False))
        for name in tables.TABLES
    ]  # fmt: skip
    return Table(
        "Tables about it", ("Table", "What it holds"), rows, "There is none.", f"drawdown org show {typed(org_id)}"
    )


def _rows(org_id: str, table: str, found: tables.RawRows) -> Table:
    rows = [
        tuple(said("NULL" if cell is None else cell, wide=at > 2) for at, cell in enumerate(row)) for row in found.rows
    ]
    note = (
        "As they are stored: times in milliseconds, amounts in millionths of a credit. Texts are cut, secrets left out"
    )
    note += "." if found.whole else f". The last {tables.MOST_ROWS} by the order of its index; there are more."
    return Table(
        table,
        found.columns,
        rows,
        "It has no row about this organisation.",
        f"drawdown org show {typed(org_id)}",
        note=note,
    )
