"""The tables of who pays: pools, and who may charge whom."""

import sqlalchemy as sa

from drawdown.schema.tables.columns import Big, id_column, metadata, ms_column, said_columns

pools = sa.Table(
    "pools",
    metadata,
    id_column("pool", key=True),
    ms_column("at_ms"),
    *said_columns(),
    comment="Wallets that allot credit to others: each has a wallet of its own name.",
)

payers = sa.Table(
    "payers",
    metadata,
    id_column("payer", key=True),
    id_column("org_id", key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("allowed", sa.Boolean, nullable=False),
    sa.Column("limit_micro", Big, nullable=True),
    ms_column("since_ms"),
    ms_column("at_ms"),
    *said_columns(),
    sa.CheckConstraint("limit_micro IS NULL OR (allowed AND limit_micro > 0)", name="payers_sane"),
    sa.Index("payers_by_org", "org_id"),
    comment="Whose wallet runs of an organisation may be paid from, beside its own. The last number counts, from its "
    "since_ms on; limit_micro: what runs that are accepted under it may hold and cost (NULL: no limit).",
)
