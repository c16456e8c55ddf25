"""The other tabs of an organisation: its pushes, halts and verdicts, assignments, and what people did to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from shlex import quote
from typing import Final

import sqlalchemy as sa

from drawdown.schema.text import typed
from drawdown.schema.units import DAY_MS
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Table, act
from drawdown.server.console.frame.templates import url
from drawdown.server.console.screens.money import cells
from drawdown.server.console.screens.oncall import cells_of
from drawdown.worker.access.audit import AuditFilter, list_deeds
from drawdown.worker.orgs import lists as org_history
from drawdown.worker.verdict.effective_balance import verdict_history

Tab = Callable[[sa.Connection, Ask], Mapping[str, object]]
PUSH_TONES: Final = {"in_doubt": "bad", "rejected": "bad", "due": "warn", "queued": "warn"}
PUSH_DAYS: Final = 1
MOST_DEEDS: Final = 100
HALTS: Final = "/console/halts"


def pushes(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    org_id = ask.required("id")
    found = org_history.pushes_between(connection, org_id, ask.now_ms - PUSH_DAYS * DAY_MS, ask.now_ms)
    rows = [
        (
            Cell(figures.time(one.window_ms), "time", href=url("/console/push", key=one.key)),
            Cell(one.feature, "id"),
            Cell(figures.count(one.sealed_qty), "number"),
            Cell(figures.count(one.sent_qty), "number", narrow=False),
            Cell(one.provider, "id", narrow=False),
            Cell(one.state, "state", PUSH_TONES.get(one.state, "")),
            Cell(figures.count(one.attempts), "number", narrow=False),
            Cell(one.last_error or one.key, "id", narrow=False),
        )
        for one in found
    ]
    heads = ("Window, UTC", "Feature", "#Sealed", "#Sent", "Provider", "State", "#Tries", "Error, or key")
    none = "No push is of a window of the last 24 hours."
    table = Table("Pushes of the last 24 hours", heads, rows, none, f"drawdown push list --org {quote(org_id)}")
    return {"part": "org_tables.html", "tables": [table]}


def halts(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    org_id = ask.required("id")
    told = [
        (Cell(figures.time(one.halted_at), "time"),
         Cell(one.cell_id, "id", href=url(HALTS, state="any", cell=one.cell_id)),
         cells_of.told(one.halted_at, one.acked_at_ms), Cell(figures.count(one.attempts), "number", narrow=False),
         Cell(one.last_error or figures.UNKNOWN, "id", narrow=False))
        for one in org_history.halts_of(connection, org_id)
    ]  # fmt: skip
    said = [
        (
            Cell(figures.time(one.at_ms), "time"),
            Cell(*(("halted", "state", "bad") if one.is_halted else ("open", "state"))),
            Cell(one.reason or figures.UNKNOWN, "id"),
            cells.balance(one.balance_micro),
            Cell(figures.count(one.max_concurrent_sandboxes), "number", narrow=False),
        )
        for one in verdict_history(connection, org_id)
    ]
    show = f"drawdown org show {typed(org_id)}"
    tables = [
        Table("Which cells were told", ("Halted, UTC", "Cell", "Answer", "#Tries", "Error"), told,
              "No cell was ever told to halt it.", show),
        Table("Verdicts, the last ten", ("At, UTC", "Verdict", "Reason", "#Balance", "#Sandboxes at once"), said,
              "No verdict was written yet: the first read at its provider writes one.", show),
    ]  # fmt: skip
    return {"part": "org_tables.html", "tables": tables}


def assignment(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    org_id = ask.required("id")
    rows = [
        (Cell(figures.time(one.start_ms), "time"), Cell("open" if one.end_ms is None else figures.time(one.end_ms)),
         Cell(one.provider, "id"), Cell(one.customer_id or figures.UNKNOWN, "id"), Cell(one.actor, "id", narrow=False),
         Cell(one.reason, "id", narrow=False))
        for one in org_history.assignments_of(connection, org_id)
    ]  # fmt: skip
    heads = ("From, UTC", "To", "Provider", "Customer", "By", "Reason")
    table = Table(
        "Who bills it", heads, rows, "Nobody does.", f"drawdown org assign {typed(org_id, '--provider', 'embedded')}"
    )
    ways = [
        act("Bill it here, or by nobody", "assign", id=org_id),
        act("Bill it elsewhere", "assign-remote", id=org_id),
    ]
    return {"part": "org_tables.html", "tables": [table], "ways": ways}


def audit(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    org_id = ask.required("id")
    rows = [
        (Cell(figures.time(one.at_ms), "time"), Cell(one.action.replace("_", " ")), Cell(one.actor, "id"),
         Cell(one.via, narrow=False), Cell(one.reason, "id"))
        for one in list_deeds(connection, AuditFilter(target=org_id), most=MOST_DEEDS).deeds
    ]  # fmt: skip
    heads = ("At, UTC", "What", "Who", "Through", "Why")
    none = "Nobody changed anything of it."
    table = Table("What people did", heads, rows, none, f"drawdown audit list --target {quote(org_id)}")
    return {"part": "org_tables.html", "tables": [table]}


TABS: Final[dict[str, Tab]] = {"pushes": pushes, "halts": halts, "assignment": assignment, "audit": audit}
