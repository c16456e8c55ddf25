"""The tables of automatic top-ups.

They store wallets and their terms, each charge, and each call that may take money.
"""

import sqlalchemy as sa

from drawdown.schema.tables.columns import Big, id_column, metadata, ms_column, said_columns

_OPEN_STATES = "state IN ('due', 'sending', 'in_doubt')"
_OPEN = sa.text(_OPEN_STATES)
_PAID = sa.text("payment_id IS NOT NULL")

topup_terms = sa.Table(
    "topup_terms",
    metadata,
    id_column("customer_id", key=True),
    sa.Column("threshold_micro", Big, nullable=False),
    sa.Column("amount_micro", Big, nullable=True),
    sa.Column("fill_to_micro", Big, nullable=True),
    sa.Column("price_minor", Big, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    id_column("service"),
    id_column("service_customer"),
    sa.Column("most_minor", Big, nullable=False),
    sa.Column("max_day", sa.Integer, nullable=False),
    sa.Column("max_month", sa.Integer, nullable=False),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("declines", sa.Integer, nullable=False, server_default=sa.text("0")),
    ms_column("wait_until_ms", null=True),
    ms_column("blocked_ms", null=True),
    sa.Column("blocked_reason", sa.Text, nullable=True),
    ms_column("at_ms"),
    *said_columns(),
    sa.CheckConstraint("mode IN ('live', 'shadow', 'stopped')", name="topup_terms_mode"),
    sa.CheckConstraint("(amount_micro IS NULL) <> (fill_to_micro IS NULL)", name="topup_terms_amount_or_level"),
    sa.CheckConstraint(
        "price_minor > 0 AND most_minor > 0 AND max_day > 0 AND max_month > 0 AND declines >= 0 "
        "AND COALESCE(amount_micro, 1) > 0 AND COALESCE(fill_to_micro, threshold_micro + 1) > threshold_micro",
        name="topup_terms_sane",
    ),
    sa.CheckConstraint("(blocked_ms IS NULL) = (blocked_reason IS NULL)", name="topup_terms_blocked_says_why"),
    comment="The terms of a wallet's top-ups. A wallet has one row, because only one program may top the wallet up. "
    "`price_minor`: minor units of the currency for one credit.",
)

topups = sa.Table(
    "topups",
    metadata,
    id_column("topup", key=True),
    id_column("customer_id"),
    sa.Column("episode", sa.Integer, nullable=False),
    sa.Column("credits_micro", Big, nullable=False),
    sa.Column("money_minor", Big, nullable=False),
    sa.Column("price_minor", Big, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    id_column("service"),
    id_column("service_customer"),
    sa.Column("max_day", sa.Integer, nullable=False),
    sa.Column("max_month", sa.Integer, nullable=False),
    ms_column("at_ms"),
    ms_column("begun_ms"),
    sa.Column("state", sa.Text, nullable=False),
    ms_column("due_at_ms"),
    id_column("claim_owner", null=True),
    sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("lookups", sa.Integer, nullable=False, server_default=sa.text("0")),
    ms_column("asked_ms", null=True),
    sa.Column("answer", sa.Text, nullable=True),
    sa.Column("evidence", sa.Text, nullable=True),
    id_column("payment_id", null=True),
    ms_column("ended_ms", null=True),
    sa.UniqueConstraint("customer_id", "episode", name="topups_episode"),
    sa.CheckConstraint(
        "state IN ('due', 'sending', 'in_doubt', 'credited', 'declined', 'needs_customer', 'given_up', 'shadow')",
        name="topups_state",
    ),
    sa.CheckConstraint(f"state = 'shadow' OR ({_OPEN_STATES}) = (ended_ms IS NULL)", name="topups_end"),
    sa.CheckConstraint("(state = 'credited') = (payment_id IS NOT NULL)", name="topups_paid_says_how"),
    sa.CheckConstraint(
        "credits_micro > 0 AND money_minor > 0 AND episode > 0 AND begun_ms <= at_ms", name="topups_sane"
    ),
    sa.Index("topups_one_open", "customer_id", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
    sa.Index("topups_one_payment", "service", "payment_id", unique=True, sqlite_where=_PAID, postgresql_where=_PAID),
    sa.Index("topups_by_due", "service", "due_at_ms", sqlite_where=_OPEN, postgresql_where=_OPEN),
    sa.Index("topups_by_wallet", "customer_id", "at_ms"),
    sa.Index("topups_by_end", "ended_ms"),
    comment="One charge per row, the same at every call. `begun_ms`: the earliest possible time of a call. `answer`, "
    "`evidence`: the last response and evidence about it.",
)

topup_attempts = sa.Table(
    "topup_attempts",
    metadata,
    id_column("topup", key=True),
    sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
    ms_column("started_ms"),
    id_column("owner"),
    ms_column("finished_ms", null=True),
    sa.Column("outcome", sa.Text, nullable=True),
    sa.Column("detail", sa.Text, nullable=True),
    comment="Each call that may have taken money, recorded before it is made. `outcome` NULL: unknown.",
)

topup_switch = sa.Table(
    "topup_switch",
    metadata,
    sa.Column("one", sa.Integer, primary_key=True, autoincrement=False),
    ms_column("stopped_ms", null=True),
    *said_columns(),
    sa.CheckConstraint("one = 1", name="topup_switch_one"),
    comment="The kill switch of top-ups. While `stopped_ms` is set, no customer is charged. Without a row, the switch "
    "was never used.",
)
