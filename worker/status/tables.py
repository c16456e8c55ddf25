"""The tables as they are stored: one organisation's rows of each, and their upkeep on PostgreSQL by a person.

Guarantee: reads only. A table is shown only if an index leads into it by the organisation, or by its payer. A bounded
number of rows is shown, and the database cuts texts. No table that readers of the database may not see
(`schema.roles.UNREAD`) is among them, and no column of secrets or of values derived from them.

For tables that grow with use, the settings of vacuum are checked. Missing settings are reported; values that a person
chose are left alone. An attached table is reported, whatever its purpose: its rows are read as ours, but lack our keys,
triggers and guards (rule S7 counts an id once, by a key that a child table does not share).
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
"""Rows of a table about one organisation that are shown as they are stored."""
MOST_CELL_CHARS: Final = 200
"""Length of a stored value that a table of raw rows shows."""
HIDDEN: Final = re.compile(r".*(sha256|password|secret|fingerprint|token|claim_owner)$")
"""Columns that nobody is shown: their names end so."""
_LEADS: Final = ("org_id", "customer_id", "account_id", "from_account")
"""Columns that name the organisation, the customer who pays for it, or that customer's wallet."""
_UNNAMED: Final[Mapping[str, tuple[str, ...]]] = {
    "usage_samples": ("org_id", "ts"),
    "operator_actions": ("target", "action_id"),
}
"""Indexes that the tables' definitions do not name as an organisation's: written by hand, or by another name."""


@dataclass(frozen=True)
class RawRows:
    """The rows of a table; cells as texts (None: NULL). `whole`: there are no more."""

    columns: tuple[str, ...]
    rows: list[tuple[str | None, ...]]
    whole: bool


def _order(table: sa.Table) -> tuple[str, ...]:
    """The columns of the index that leads into a table; () where none does."""
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
"""The content of each table, in a sentence."""


def raw_rows(connection: sa.Connection, table: str, org_id: str, customer_id: str) -> RawRows:
    """The last rows of a table of TABLES about an organisation, or about the customer who pays for it, by its index."""
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
"""Those that were seen to gain by it: ops/scale.md."""
SETTINGS: Final = ("autovacuum_vacuum_scale_factor", "autovacuum_vacuum_insert_scale_factor")
SHARE: Final = 0.02
"""Share of a table's rows: a pruned day of 36 is more, so that the next day takes its room."""
ENABLED: Final = "autovacuum_enabled"
ON: Final = ("true", "on", "yes", "1")


@dataclass(frozen=True)
class Upkeep:
    """The upkeep of tables.

    `works`: autovacuum works on the server. `statements`: for each neglected table, the statement for its owner to run.
    `attached`: likewise, for each table that was attached to one of ours, or that one of ours was attached to.
    """

    works: bool
    statements: dict[str, str]
    attached: dict[str, str]


def upkeep(connection: sa.Connection) -> Upkeep | None:
    """As the server has it; None on SQLite, which reuses room by itself."""
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
