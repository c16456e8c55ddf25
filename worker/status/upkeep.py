"""What a person may change of our tables on PostgreSQL: how soon those that grow with use are vacuumed, and what was
attached to them.

Guarantee: reads only. Values that a person chose are a person's business; settings that are gone are told. A table that
was attached is told whatever it is for: its rows are read as ours, and have none of our keys, triggers and guards (rule
S7 counts an id once, by a key that a child table does not share).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.schema.tables.whole import metadata

TABLES: Final = ("usage_samples", "pushes")
"""Those that were seen to gain by it: ops/scale.md."""
SETTINGS: Final = ("autovacuum_vacuum_scale_factor", "autovacuum_vacuum_insert_scale_factor")
SHARE: Final = 0.02
"""Of a table's rows: a day of 36 that is pruned is more, so that the next day takes its room."""
ENABLED: Final = "autovacuum_enabled"
ON: Final = ("true", "on", "yes", "1")

SQL = queries(__file__)


@dataclass(frozen=True)
class Upkeep:
    """Whether autovacuum works on the server, and the statement for each table that it neglects, for its owner to run.
    `attached`: likewise, for each table that was attached to one of ours, or that one of ours was attached to."""

    works: bool
    statements: dict[str, str]
    attached: dict[str, str]


def upkeep(connection: sa.Connection) -> Upkeep | None:
    """As the server has it; None on SQLite, which reuses room by itself."""
    if connection.dialect.name != "postgresql":
        return None
    rows = SQL.run(connection, "upkeep", {"tables": list(TABLES)}).all()
    found = {row.name: _mend(row.name, dict(one.split("=", 1) for one in row.options)) for row in rows}
    attached = SQL.run(connection, "attached", {"tables": sorted(metadata.tables)})
    return Upkeep(
        all(row.works for row in rows),
        {name: text for name, text in found.items() if text},
        {row.child: f"ALTER TABLE {row.parent} DETACH PARTITION {row.child}" if row.parted
         else f"ALTER TABLE {row.child} NO INHERIT {row.parent}" for row in attached},
    )  # fmt: skip


def _mend(table: str, options: dict[str, str]) -> str:
    lacking = [f"{name} = {SHARE}" for name in SETTINGS if name not in options]
    set_again = [f"SET ({', '.join(lacking)})"] if lacking else []
    turned_on = [f"RESET ({ENABLED})"] if options.get(ENABLED, ON[0]) not in ON else []
    return f"ALTER TABLE {table} {', '.join(set_again + turned_on)}" if set_again or turned_on else ""
