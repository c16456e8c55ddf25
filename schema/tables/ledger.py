"""The tables of the embedded ledger."""

import sqlalchemy as sa

from drawdown.schema.tables.columns import Big, id_column, metadata, ms_column, said_columns

ledger_accounts = sa.Table(
    "ledger_accounts",
    metadata,
    id_column("account_id", key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("balance_micro", Big, nullable=False, server_default="0"),
    id_column("plan", null=True),
    sa.CheckConstraint("kind IN ('wallet', 'revenue', 'source')", name="ledger_accounts_kind"),
    comment="Wallets of customers, and the accounts on the other side. The balance is the sum of its lines, kept.",
)

ledger_entries = sa.Table(
    "ledger_entries",
    metadata,
    id_column("key", key=True),
    sa.Column("kind", sa.Text, nullable=False),
    id_column("from_account"),
    id_column("to_account"),
    sa.Column("amount_micro", Big, nullable=False),
    id_column("feature", null=True),
    sa.Column("quantity", Big, nullable=True),
    ms_column("ts"),
    ms_column("at_ms"),
    *said_columns(),
    sa.CheckConstraint("kind IN ('usage', 'grant')", name="ledger_entries_kind"),
    sa.CheckConstraint("from_account <> to_account", name="ledger_entries_two_sides"),
    sa.CheckConstraint(
        "kind <> 'usage' OR (feature IS NOT NULL AND quantity IS NOT NULL)", name="ledger_entries_usage_says_what"
    ),
    sa.Index("ledger_entries_by_from", "from_account", "ts"),
    comment="Each entry moves an amount from one account to another: two lines that sum to zero by construction.",
)

sa.Index(
    "ledger_entries_grants",
    ledger_entries.c.to_account,
    sqlite_where=sa.text("kind = 'grant'"),
    postgresql_where=sa.text("kind = 'grant'"),
)

ledger_rates = sa.Table(
    "ledger_rates",
    metadata,
    id_column("feature", key=True),
    ms_column("start_ms", key=True),
    sa.Column("micro_credits", Big, nullable=False),
    sa.Column("per_quantity", Big, nullable=False, server_default="1"),
    ms_column("at_ms"),
    *said_columns(),
    sa.CheckConstraint("micro_credits >= 0 AND per_quantity > 0", name="ledger_rates_sane"),
    comment="The rate card: micro-credits for each per_quantity base units, from a moment on.",
)

ledger_plans = sa.Table(
    "ledger_plans",
    metadata,
    id_column("plan", key=True),
    sa.Column("max_concurrent_sandboxes", sa.Integer, nullable=False),
    comment="How many sandboxes at once a plan allows.",
)
