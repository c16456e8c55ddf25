"""The kinds of columns that tables are made of.

Guarantee: ids compare byte by byte on both databases (C collation on PostgreSQL: mixed collations made one
join 540 times slower), times are integer milliseconds, quantities are integers.
"""

from typing import Any, Final

import sqlalchemy as sa

metadata = sa.MetaData()

OFTEN_VACUUMED: Final[dict[str, Any]] = {
    "postgresql_with": {"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_vacuum_insert_scale_factor": "0.02"}
}
"""PostgreSQL vacuums a table once a fiftieth of its rows is new or gone, not a fifth: a push leaves two rows behind
on its way to settled, and a pruned day is one of many."""

Id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""An identifier, compared by its bytes."""
Big = sa.BigInteger()
Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""A key that the database counts up by itself."""
Exact = sa.BigInteger().with_variant(sa.Numeric(), "postgresql")
"""Keeps a fraction that another program inserted, so that it can be quarantined instead of rounded."""


def id_column(name: str, *, key: bool = False, null: bool = False) -> "sa.Column[str]":
    return sa.Column(name, Id, primary_key=key, nullable=null)


def ms_column(name: str, *, key: bool = False, null: bool = False) -> "sa.Column[int]":
    return sa.Column(name, Big, primary_key=key, nullable=null, autoincrement=False)


def said_columns() -> "list[sa.Column[str]]":
    """Return the actor and reason columns, for each row by which a person changes money or state."""
    return [sa.Column("actor", sa.Text, nullable=False), sa.Column("reason", sa.Text, nullable=False)]


def push_reference() -> "list[sa.Column[int] | sa.Column[str]]":
    """Return the columns of a push's key, for every table that refers to a push."""
    return [
        ms_column("window_ms", key=True),
        id_column("org_id", key=True),
        id_column("feature", key=True),
        sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
    ]
