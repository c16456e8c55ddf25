"""The tables of webhooks to the operator's product.

They store endpoints, messages, deliveries, and the levels of balances.
"""

import sqlalchemy as sa

from drawdown.schema.tables.columns import Big, id_column, metadata, ms_column, said_columns

hook_endpoints = sa.Table(
    "hook_endpoints",
    metadata,
    id_column("name", key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("events", sa.Text, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False, server_default=sa.text("1")),
    ms_column("old_until_ms", null=True),
    ms_column("created_ms"),
    ms_column("ended_ms", null=True),
    *said_columns(),
    sa.CheckConstraint("generation > 0", name="hook_endpoints_generation"),
    comment="URLs of the operator's product that receive webhooks. `events`: separated by spaces. `generation`: the "
    "number of its secret, which Drawdown derives from DRAWDOWN_HOOK_SECRET and does not store. `old_until_ms`: the "
    "time until which Drawdown also signs with the previous secret.",
)

hook_messages = sa.Table(
    "hook_messages",
    metadata,
    id_column("message_id", key=True),
    sa.Column("event", sa.Text, nullable=False),
    id_column("fact"),
    id_column("org_id", null=True),
    id_column("customer_id", null=True),
    ms_column("at_ms"),
    sa.Column("body", sa.Text, nullable=False),
    sa.UniqueConstraint("fact", name="hook_messages_fact"),
    sa.Index("hook_messages_by_time", "at_ms"),
    sa.Index("hook_messages_by_org", "org_id", "at_ms"),
    comment="One webhook message per fact, written in the fact's transaction. `body`: exactly the bytes to send.",
)

_DUE = sa.text("state = 'due'")
_FAILED = sa.text("state = 'failed'")
hook_deliveries = sa.Table(
    "hook_deliveries",
    metadata,
    id_column("message_id", key=True),
    id_column("endpoint", key=True),
    sa.Column("state", sa.Text, nullable=False, server_default="due"),
    ms_column("due_at_ms"),
    sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("failures", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("replays", sa.Integer, nullable=False, server_default=sa.text("0")),
    id_column("claim_owner", null=True),
    sa.Column("last_status", sa.Integer, nullable=True),
    sa.Column("last_error", sa.Text, nullable=True),
    ms_column("ended_ms", null=True),
    sa.CheckConstraint("state IN ('due', 'delivered', 'failed')", name="hook_deliveries_state"),
    sa.CheckConstraint("(state = 'due') = (ended_ms IS NULL)", name="hook_deliveries_end"),
    sa.CheckConstraint("attempts >= 0 AND failures >= 0 AND replays >= 0", name="hook_deliveries_sane"),
    sa.Index("hook_deliveries_due", "endpoint", "due_at_ms", sqlite_where=_DUE, postgresql_where=_DUE),
    sa.Index("hook_deliveries_failed", "endpoint", "ended_ms", sqlite_where=_FAILED, postgresql_where=_FAILED),
    comment="One message for one endpoint. `due_at_ms`: the time of the next send, or the end of a claim. `failures`: "
    "consecutive failed attempts, which determine the next wait.",
)

balance_levels = sa.Table(
    "balance_levels",
    metadata,
    id_column("org_id", key=True),
    sa.Column("low_micro", Big, nullable=True),
    ms_column("at_ms"),
    *said_columns(),
    comment="The balance at or below which an organisation's balance is low. `org_id` '': organisations without a "
    "row. `low_micro` NULL: never low.",
)

_OPEN = sa.text("ended_ms IS NULL")
balance_episodes = sa.Table(
    "balance_episodes",
    metadata,
    id_column("org_id", key=True),
    sa.Column("level", sa.Text, primary_key=True),
    sa.Column("episode", sa.Integer, primary_key=True, autoincrement=False),
    ms_column("begun_ms"),
    ms_column("ended_ms", null=True),
    sa.CheckConstraint("level IN ('low', 'exhausted')", name="balance_episodes_level"),
    sa.CheckConstraint("episode > 0", name="balance_episodes_number"),
    sa.Index("balance_episodes_open", "org_id", "level", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
    comment="A period in which a balance is at or below a level, reported once. `begun_ms`: the read that showed it "
    "first. `ended_ms`: the read that showed the balance above the level again (NULL: still open).",
)
