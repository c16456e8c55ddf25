"""The tables of what comes round each month: what plans give, and tiers."""

import sqlalchemy as sa

from drawdown.schema.tables.columns import Big, id_column, metadata, ms_column, said_columns

plan_terms = sa.Table(
    "plan_terms",
    metadata,
    id_column("plan", key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    ms_column("from_ms"),
    sa.Column("included_micro", Big, nullable=False),
    sa.Column("rollover_min_micro", Big, nullable=False),
    sa.Column("rollover_max_micro", Big, nullable=False),
    sa.Column("first_micro", Big, nullable=False),
    ms_column("at_ms"),
    *said_columns(),
    sa.CheckConstraint(
        "included_micro >= 0 AND rollover_min_micro >= 0 AND rollover_max_micro >= 0 AND first_micro >= 0",
        name="plan_terms_sane",
    ),
    comment="What a plan gives from a moment on: each month, what of that rolls over, and to a new customer.",
)

plan_stays = sa.Table(
    "plan_stays",
    metadata,
    id_column("customer_id", key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    id_column("plan"),
    ms_column("since_ms"),
    ms_column("at_ms"),
    *said_columns(),
    comment="Since when a customer is on which plan; until the next one.",
)

plan_lots = sa.Table(
    "plan_lots",
    metadata,
    id_column("lot", key=True),
    id_column("customer_id"),
    sa.Column("part", sa.Text, nullable=False),
    id_column("plan"),
    sa.Column("period", sa.Text, nullable=True),
    sa.Column("rollover_min_micro", Big, nullable=False),
    sa.Column("rollover_max_micro", Big, nullable=False),
    sa.CheckConstraint("part IN ('included', 'rollover', 'first')", name="plan_lots_part"),
    sa.CheckConstraint("(part = 'first') = (period IS NULL)", name="plan_lots_period"),
    sa.Index("plan_lots_by_customer", "customer_id", "period"),
    comment="Lots that plans gave: of which plan, and for which month; the terms of rolling over that they copied.",
)

tiers = sa.Table(
    "tiers",
    metadata,
    id_column("tier", key=True),
    sa.Column("at_once", sa.Integer, nullable=False),
    sa.Column("price_micro", Big, nullable=False),
    sa.CheckConstraint("at_once >= 0 AND price_micro >= 0", name="tiers_sane"),
    comment="How many sandboxes at once a tier allows, and what a month of it costs.",
)

tier_holders = sa.Table(
    "tier_holders",
    metadata,
    id_column("customer_id", key=True),
    id_column("tier", key=True),
    ms_column("bought_ms"),
    ms_column("paid_to_ms"),
    sa.Column("renews", sa.Boolean, nullable=False),
    ms_column("ended_ms", null=True),
    sa.Column("ended_reason", sa.Text, nullable=True),
    *said_columns(),
    sa.Index("tier_holders_by_tier", "tier"),
    comment="Who bought a tier, until when it is paid for, and whether it goes on then.",
)
