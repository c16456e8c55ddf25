"""What was last found by checks that somebody has made again and again."""

import sqlalchemy as sa

from drawdown.schema.tables.columns import Big, id_column, metadata, ms_column

checks = sa.Table(
    "checks",
    metadata,
    id_column("check_name", key=True),
    ms_column("at_ms"),
    sa.Column("off", Big, nullable=False),
    sa.Column("alerts", Big, nullable=False),
    sa.CheckConstraint("check_name IN ('guard', 'vendors') AND 0 <= alerts AND alerts <= off", name="checks_sane"),
    comment="The last check of each kind: when, how many lines were off, and how many of them somebody has to look at. "
    "Nothing is decided by it: metrics are of it.",
)
