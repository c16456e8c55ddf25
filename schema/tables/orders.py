"""What people ordered, and a tick does."""

import sqlalchemy as sa

from drawdown.schema.tables.columns import Serial, metadata, ms_column, said_columns

orders = sa.Table(
    "orders",
    metadata,
    sa.Column("order_id", Serial, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("asked", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    ms_column("at_ms"),
    ms_column("began_ms", null=True),
    ms_column("ended_ms", null=True),
    sa.Column("worker", sa.Text, nullable=True),
    ms_column("lease_ms", null=True),
    sa.Column("tries", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("said", sa.Text, nullable=False, server_default=""),
    sa.Column("via", sa.Text, nullable=False),
    *said_columns(),
    sa.CheckConstraint("kind IN ('replay', 'accept', 'assign', 'topup', 'correct')", name="orders_kind"),
    sa.CheckConstraint("state IN ('waiting', 'under_way', 'done', 'failed', 'cancelled')", name="orders_state"),
    sa.CheckConstraint("(state = 'under_way') = (lease_ms IS NOT NULL)", name="orders_leased"),
    comment="Orders: what a person asked for that takes longer than a request, done by a tick. asked: what, as JSON; "
    "tries: how often a tick took it up and came to no end of its turn.",
)
sa.Index(
    "orders_open",
    orders.c.order_id,
    postgresql_where=sa.text("state IN ('waiting', 'under_way')"),
    sqlite_where=sa.text("state IN ('waiting', 'under_way')"),
)
sa.Index(
    "orders_failed",
    orders.c.ended_ms,
    postgresql_where=sa.text("state = 'failed'"),
    sqlite_where=sa.text("state = 'failed'"),
)
