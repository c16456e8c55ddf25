"""Export the ledger and sealed usage for other programs, row by row.

An export is CSV or JSON lines. Reads only.

Guarantee: an export reads the database as of one moment, however long it takes, and never keeps all rows in memory. If
an export of all wallets is by the time of booking, later exports have the same entries before `final_before`. The
exception is an entry that a person books in the past (`--at`). So adjacent final ranges have each entry once. The
ledger's export of one organisation is that of the wallet that pays for it now. The usage export has the organisation's
own pushes.

Each row has an id that never changes, so a program can merge a second export of the same time into the first. Amounts
are exact: whole micro-credits, and credits as a decimal text. Times are milliseconds since 1970 (UTC). In CSV, a
spreadsheet does not interpret a text as a formula, and a text does not change the reading direction.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain, islice
from typing import Any, Final, Literal

import sqlalchemy as sa

from drawdown.ledger.accounts import wallet_account
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries
from drawdown.schema.text import no_formula
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import DAY_MS, MICRO
from drawdown.worker.wallets.accounts import payer_of
from drawdown.worker.wallets.statement import FINAL_AFTER_MS

SQL = queries(__file__)

ROWS_AT_ONCE: Final = 1_000
"""Rows of an export that Drawdown reads into memory at a time."""
Kind = Literal["ledger", "usage"]
Format = Literal["csv", "jsonl"]
ByTime = Literal["booked", "used"]
COLUMNS: Final[Mapping[Kind, tuple[str, ...]]] = {
    "ledger": (
        "key", "at_ms", "ts_ms", "kind", "from_account", "to_account", "amount_micro", "amount", "moved_micro", "moved",
        "feature", "quantity", "execution", "lot", "actor", "reason",
    ),
    "usage": (
        "key", "window_ms", "org_id", "feature", "revision", "quantity", "provider", "customer_id", "sent_quantity",
        "state",
    ),
}  # fmt: skip
TEXTS: Final = frozenset((
    "key", "kind", "from_account", "to_account", "feature", "execution", "lot", "actor", "reason", "org_id", "provider",
    "customer_id", "state",
))  # fmt: skip
"""Columns of texts.

Other people or programs wrote some of them, so CSV escapes formulas.
"""


@dataclass(frozen=True)
class Span:
    """A span to export, of one organisation ('': all).

    The span is [from_ms, to_ms), in milliseconds. `by`: the time that selects the ledger's entries, `booked` or `used`.
    Usage is selected by its window.
    """

    org_id: str
    from_ms: int
    to_ms: int
    by: ByTime = "booked"


def final_before(span: Span, now_ms: int) -> int:
    """Return the moment before which the ledger's entries can no longer change.

    The moment is in milliseconds, and applies to a span by booking. It is the end of the span or FINAL_AFTER_MS before
    now, whichever is earlier, but not before the start of the span.
    """
    return max(span.from_ms, min(span.to_ms, now_ms - FINAL_AFTER_MS))


def export_lines(connection: sa.Connection, kind: Kind, span: Span, form: Format, now_ms: int) -> Iterator[str]:
    """Yield the lines of an export. CSV begins with the names of the columns.

    Errors: UnknownId for an unknown organisation; UsageError for usage in pushes that `push fold` replaced with daily
    sums.
    """
    rows = _ledger(connection, span, now_ms) if kind == "ledger" else _usage(connection, span, now_ms)
    # Read a row before the first output, so that errors come before it.
    columns, first = COLUMNS[kind], list(islice(rows, 1))
    if form == "csv":
        yield _csv_line({name: name for name in columns}, columns)
    for row in chain(first, rows):
        yield _csv_line(row, columns) if form == "csv" else _json_line(row, columns)


def _ledger(connection: sa.Connection, span: Span, now_ms: int) -> Iterator[dict[str, object]]:
    account = wallet_account(payer_of(connection, span.org_id, now_ms)) if span.org_id else ""
    values = {"from_ms": span.from_ms, "to_ms": span.to_ms, "account_id": account}
    of_whom = "of_wallet" if account else "of_all"
    for row in _streamed(connection, "entries", values, of_whom=of_whom, time=span.by):
        moved = row.amount_micro if row.to_account == account else -row.amount_micro
        made: dict[str, object] = {**row._mapping, "amount": _credits(row.amount_micro)}
        told = {"moved_micro": moved, "moved": _credits(moved)} if account else {"moved_micro": None, "moved": None}
        yield {**made, **told}


def _usage(connection: sa.Connection, span: Span, now_ms: int) -> Iterator[dict[str, object]]:
    if span.org_id:
        payer_of(connection, span.org_id, now_ms)  # raises UnknownId for an unknown id
    values = {"from_ms": span.from_ms, "to_ms": span.to_ms, "org_id": span.org_id}
    of_whom = "of_org" if span.org_id else "of_all"
    folded = SQL.run(connection, "folded", values, of_whom=of_whom).scalar()
    if folded is not None:
        raise UsageError(
            f"`drawdown push fold` replaced pushes before {show_time(int(folded) + DAY_MS)} with daily sums. Export "
            "usage from then on. For earlier charges, export the ledger. For earlier sums, run `drawdown usage ORG "
            "--from DAY --to DAY`"
        )
    for row in _streamed(connection, "pushes", values, of_whom=of_whom):
        yield dict(row._mapping)


def _streamed(connection: sa.Connection, name: str, values: Mapping[str, object], **slots: str) -> Iterator[Any]:
    """Stream the rows by a cursor on the server, if it has cursors."""
    connection.execution_options(stream_results=True, max_row_buffer=ROWS_AT_ONCE)
    with SQL.run(connection, name, values, **slots) as answer:
        yield from answer


def _credits(micro: int) -> str:
    return f"{Decimal(micro) / MICRO:.6f}"


def _csv_line(row: Mapping[str, object], columns: tuple[str, ...]) -> str:
    texts = [(name, "" if row[name] is None else str(row[name])) for name in columns]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([no_formula(text) if name in TEXTS else text for name, text in texts])
    return out.getvalue()


def _json_line(row: Mapping[str, object], columns: tuple[str, ...]) -> str:
    return json.dumps({name: row[name] for name in columns}) + "\n"
