"""The tables of the watch: the cost of usage at other providers, and the policies while one cannot be read."""

import sqlalchemy as sa

from drawdown.schema.tables.columns import Big, id_column, metadata, ms_column, said_columns

provider_rates = sa.Table(
    "provider_rates",
    metadata,
    id_column("provider", key=True),
    id_column("feature", key=True),
    ms_column("start_ms", key=True),
    sa.Column("micro", Big, nullable=False),
    sa.Column("per_quantity", Big, nullable=False, server_default=sa.text("1")),
    ms_column("at_ms"),
    *said_columns(),
    id_column("balance", null=True),  # the credit system that it draws on, as the provider tells; NULL: an operator's
    ms_column("confirmed_ms", null=True),  # when the cost before it was last confirmed; NULL: it is the first one told
    sa.CheckConstraint("micro >= 0 AND per_quantity > 0", name="provider_rates_sane"),
    comment="What usage costs at a provider, in millionths of its balance's unit: for estimates, and "
    "in credits as evidence. Append-only.",
)

provider_when_down = sa.Table(
    "provider_when_down",
    metadata,
    id_column("provider", key=True),
    sa.Column("plan", sa.Text, primary_key=True),
    sa.Column("policy", sa.Text, nullable=False),
    sa.CheckConstraint("policy IN ('go_on', 'estimate', 'stop')", name="provider_when_down_policy"),
    comment="What holds for a plan ('': every other) while its provider cannot be read.",
)

watch_state = sa.Table(
    "watch_state",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    ms_column("round_ms", null=True),
    sa.Column("rounds", Big, nullable=False, server_default=sa.text("0")),
    sa.CheckConstraint("id = 1", name="watch_state_one_row"),
    comment="One row: when a watch last went round, and how often. While one does, ticks keep its figures too.",
)

provider_reads = sa.Table(
    "provider_reads",
    metadata,
    id_column("provider", key=True),
    sa.Column("outcome", sa.Text, primary_key=True),
    sa.Column("reads", Big, nullable=False),
    sa.CheckConstraint("outcome IN ('read', 'no_customer', 'failed')", name="provider_reads_outcome"),
    comment="How many customers a provider was asked about since ever, by what it said. For metrics alone.",
)
