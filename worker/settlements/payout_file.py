"""The file of a batch: what is handed over to be paid, as CSV or as one JSON object. Reads only.

Guarantee: its lines add up to its total; the same batch gives the same bytes each time. Lines are known by ids that
never change. Nothing in it is taken for a formula by a spreadsheet, nor turns the direction of reading. It is read and
written in parts, however long it is.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

import sqlalchemy as sa

from drawdown.ledger import payouts
from drawdown.ledger.payouts import Payout
from drawdown.schema import ids
from drawdown.schema.sql import queries
from drawdown.schema.text import no_formula
from drawdown.schema.units import MICRO

SQL = queries(__file__)

LINES_AT_ONCE: Final = 1_000
"""Lines that are read, and held, together."""
COLUMNS: Final = (
    "payout", "supplier", "period", "line", "kind", "run", "settled_at", "gross_micro", "share_ppm", "net_micro",
    "amount_micro", "amount", "reason",
)  # fmt: skip
TEXTS: Final = ("payout", "supplier", "line", "run", "reason")
"""Columns of texts that others wrote."""


@dataclass(frozen=True)
class Line:
    """A settlement that a batch releases, or a claw-back that it takes off (`reversal`, `reason`; below zero)."""

    line: str
    reservation: str
    reversal: str | None
    settled_ms: int
    gross_micro: int
    share_ppm: int
    net_micro: int
    amount_micro: int
    reason: str | None


def require_payout(connection: sa.Connection, payout: str) -> Payout:
    """A batch by its id. Errors: UnknownId."""
    found = payouts.read(connection, payout)
    if found is None:
        ids.require(connection, ids.PAYOUT, payout)
    assert found is not None
    return found


def lines_of(connection: sa.Connection, payout: str) -> Iterator[Line]:
    """All lines of a batch, by their ids, a page at a time."""
    after: str | None = ""
    while after is not None:
        values = {"payout": payout, "after": after, "at_most": LINES_AT_ONCE}
        page = [Line(**row) for row in SQL.run(connection, "lines", values).mappings()]
        yield from page
        after = page[-1].line if len(page) == LINES_AT_ONCE else None


def csv_file(connection: sa.Connection, found: Payout) -> Iterator[str]:
    """The file as CSV, line by line."""
    yield _csv_line(COLUMNS)
    for line in lines_of(connection, found.payout):
        fields = _fields(found, line)
        texts = {name: "" if fields[name] is None else str(fields[name]) for name in COLUMNS}
        yield _csv_line([no_formula(text) if name in TEXTS else text for name, text in texts.items()])


def json_file(connection: sa.Connection, found: Payout) -> Iterator[str]:
    """The file as one JSON object, in parts: the batch, and its rows."""
    yield json.dumps(vars(found), sort_keys=True)[:-1] + ', "rows": ['
    for number, line in enumerate(lines_of(connection, found.payout)):
        yield (", " if number else "") + json.dumps(_fields(found, line), sort_keys=True)
    yield "]}\n"


def _fields(found: Payout, line: Line) -> dict[str, object]:
    """A line's columns: exact micro-credits, and the amount in credits for people."""
    return {
        "payout": found.payout,
        "supplier": found.supplier,
        "period": found.period,
        "line": line.line,
        "kind": "settlement" if line.reversal is None else "clawback",
        "run": line.reservation,
        "settled_at": datetime.fromtimestamp(line.settled_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "gross_micro": line.gross_micro,
        "share_ppm": line.share_ppm,
        "net_micro": line.net_micro,
        "amount_micro": line.amount_micro,
        "amount": f"{Decimal(line.amount_micro) / MICRO:.6f}",
        "reason": line.reason,
    }


def _csv_line(texts: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(texts)
    return out.getvalue()
