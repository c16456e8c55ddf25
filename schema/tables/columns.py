"""The kinds of columns of the tables.

Guarantee: ids compare byte by byte on both databases. PostgreSQL uses the C collation, because mixed collations made a
join 540 times slower. Times are integer milliseconds. Quantities are integers.
"""

from typing import Any, Final

import sqlalchemy as sa

metadata = sa.MetaData()

OFTEN_VACUUMED: Final[dict[str, Any]] = {
    "postgresql_with": {"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_vacuum_insert_scale_factor": "0.02"}
}
"""Setting by which PostgreSQL vacuums a table once a fiftieth of its rows changed.

A push leaves two dead rows until it is settled, and a pruned day is a small part of the table.
"""

Id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""An identifier, compared by its bytes."""
Big = sa.BigInteger()
Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""A key that the database increments by itself."""
Exact = sa.BigInteger().with_variant(sa.Numeric(), "postgresql")
"""A column that stores a fraction that another program inserted.

Drawdown can then quarantine the row, and does not round the fraction.
"""


def id_column(name: str, *, key: bool = False, null: bool = False) -> "sa.Column[str]":
    return sa.Column(name, Id, primary_key=key, nullable=null)


def ms_column(name: str, *, key: bool = False, null: bool = False) -> "sa.Column[int]":
    return sa.Column(name, Big, primary_key=key, nullable=null, autoincrement=False)


def said_columns() -> "list[sa.Column[str]]":
    """Return the actor and reason columns.

    Each row by which a person changes money or state has these columns.
    """
    return [sa.Column("actor", sa.Text, nullable=False), sa.Column("reason", sa.Text, nullable=False)]


def sample_columns() -> "list[sa.Column[Any]]":
    """Return the columns of a sample that a host writes.

    The database writes `arrival`, `ingested_at` and `problem`. The table, its SQL that is written by hand, the right
    of hosts and the statements that insert samples have these columns, in this order.
    """
    return [
        sa.Column("id", Id, primary_key=True),
        id_column("org_id", null=True),
        id_column("sandbox_id", null=True),
        id_column("cell_id", null=True),
        sa.Column("memory_mb", Big, nullable=True),
        sa.Column("cpu_count", sa.Numeric, nullable=True),
        sa.Column("interval_s", Exact, nullable=True),
        sa.Column("ts", Big, nullable=True),
    ]


def push_reference() -> "list[sa.Column[int] | sa.Column[str]]":
    """Return the columns of a push's key, for every table that refers to a push."""
    return [
        ms_column("window_ms", key=True),
        id_column("org_id", key=True),
        id_column("feature", key=True),
        sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
    ]
