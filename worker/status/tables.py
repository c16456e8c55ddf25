"""Show an organisation's stored rows, and check the upkeep of tables.

Guarantee: this module only reads. A table is shown only if it has an index by the organisation or its payer. The number
of rows is bounded, and the database cuts long texts. Tables that the database's readers may not see
(`schema.roles.UNREAD`) are omitted. Columns of secrets, and of values derived from secrets, are omitted, too.

For tables that grow with use, this module checks the settings of vacuum. It reports missing settings, and accepts any
values that a person set. It always reports a table that is attached to a table of Drawdown. PostgreSQL reads the rows
of the attached table as rows of the other, but without its keys, triggers and guards. So an id in the attached table
could count twice (S7).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.ledger.accounts import wallet_account
from drawdown.schema.roles import UNREAD
from drawdown.schema.sql import queries
from drawdown.schema.tables.whole import metadata

SQL = queries(__file__)

MOST_ROWS: Final = 50
"""Rows about one organisation that a table of raw rows shows."""
MOST_CELL_CHARS: Final = 200
"""Most characters of a stored value that a table of raw rows shows."""
HIDDEN: Final = re.compile(r".*(sha256|password|secret|fingerprint|token|claim_owner)$")
"""The ends of names of columns that are never shown."""
_LEADS: Final = ("org_id", "customer_id", "account_id", "from_account")
"""Columns with the organisation, the customer who pays for it, or that customer's wallet."""
_UNNAMED: Final[Mapping[str, tuple[str, ...]]] = {
    "usage_samples": ("org_id", "ts"),
    "operator_actions": ("target", "action_id"),
}
"""Indexes by organisation that the definitions of tables do not show: written by hand, or by another column."""


@dataclass(frozen=True)
class RawRows:
    """Rows of a table as text (None: NULL). `whole`: True if all rows are shown."""

    columns: tuple[str, ...]
    rows: list[tuple[str | None, ...]]
    whole: bool


def _order(table: sa.Table) -> tuple[str, ...]:
    """Return the columns of a table's index by organisation or payer; () without one."""
    if table.name in _UNNAMED:
        return _UNNAMED[table.name]
    whole = [index for index in table.indexes if index.dialect_options["sqlite"].get("where") is None]
    indexes = [[column.name for column in table.primary_key.columns]]
    indexes += [[column.name for column in index.columns] for index in whole]
    for columns in indexes:
        if columns and columns[0] in _LEADS:
            return tuple(columns)
    return ()


TABLES: Final[Mapping[str, tuple[str, ...]]] = {
    name: order for name, table in sorted(metadata.tables.items()) if name not in UNREAD and (order := _order(table))
}
"""The tables that may be shown, and the order of their rows."""
COMMENTS: Final[Mapping[str, str]] = {name: (metadata.tables[name].comment or "").partition(". ")[0] for name in TABLES}
"""A sentence about the content of each table."""


def raw_rows(connection: sa.Connection, table: str, org_id: str, customer_id: str) -> RawRows:
    """Return the last rows of a table about an organisation or its payer.

    `table`: one of TABLES. The call reads the rows by the table's index.
    """
    wallet = wallet_account(customer_id)
    named = {"customer_id": customer_id, "account_id": wallet, "from_account": wallet}
    found, order = metadata.tables[table], TABLES[table]
    columns = [column for column in found.columns if not HIDDEN.fullmatch(column.name)]
    cut = [sa.func.substr(sa.cast(one, sa.Text), 1, MOST_CELL_CHARS).label(one.name) for one in columns]
    statement = (
        sa.select(*cut)
        .where(found.c[order[0]] == named.get(order[0], org_id))
        .order_by(*(found.c[name].desc() for name in order))
        .limit(MOST_ROWS + 1)
    )
    rows = [tuple(None if cell is None else str(cell) for cell in row) for row in connection.execute(statement)]
    return RawRows(tuple(one.name for one in columns), rows[:MOST_ROWS], len(rows) <= MOST_ROWS)


GROWING: Final = ("usage_samples", "pushes")
"""Tables that autovacuum should clean after changes of SHARE of their rows.

ops/scale.md has the measurements.
"""
SETTINGS: Final = ("autovacuum_vacuum_scale_factor", "autovacuum_vacuum_insert_scale_factor")
SHARE: Final = 0.02
"""Share of a table's rows after which vacuum runs.

One of 36 stored days is more than this share. So vacuum runs after a day is pruned, and the next day reuses its space.
"""
ENABLED: Final = "autovacuum_enabled"
ON: Final = ("true", "on", "yes", "1")


@dataclass(frozen=True)
class Upkeep:
    """The upkeep of tables on PostgreSQL.

    `works`: True if autovacuum works on the server. `statements`: the statement that the owner must run, by table with
    missing settings. `attached`: the statement that detaches a table, by table that is attached to a table of Drawdown,
    or the reverse.
    """

    works: bool
    statements: dict[str, str]
    attached: dict[str, str]


def upkeep(connection: sa.Connection) -> Upkeep | None:
    """Return the upkeep of tables; None on SQLite, which reuses space automatically."""
    if connection.dialect.name != "postgresql":
        return None
    rows = SQL.run(connection, "upkeep", {"tables": list(GROWING)}).all()
    found = {row.name: _fix(row.name, dict(one.split("=", 1) for one in row.options)) for row in rows}
    attached = SQL.run(connection, "attached", {"tables": sorted(metadata.tables)})
    return Upkeep(
        all(row.works for row in rows),
        {name: text for name, text in found.items() if text},
        {row.child: f"ALTER TABLE {row.parent} DETACH PARTITION {row.child}" if row.parted
         else f"ALTER TABLE {row.child} NO INHERIT {row.parent}" for row in attached},
    )  # fmt: skip


def _fix(table: str, options: dict[str, str]) -> str:
    lacking = [f"{name} = {SHARE}" for name in SETTINGS if name not in options]
    set_again = [f"SET ({', '.join(lacking)})"] if lacking else []
    turned_on = [f"RESET ({ENABLED})"] if options.get(ENABLED, ON[0]) not in ON else []
    return f"ALTER TABLE {table} {', '.join(set_again + turned_on)}" if set_again or turned_on else ""
