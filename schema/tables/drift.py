"""What others count of the same usage: cells, by parity."""

import sqlalchemy as sa

from drawdown.schema.tables.columns import Big, id_column, metadata, ms_column

parity_checks = sa.Table(
    "parity_checks",
    metadata,
    ms_column("day_ms", key=True),
    id_column("cell_id", key=True),
    id_column("org_id", key=True),
    sa.Column("ours_s", Big, nullable=True),
    sa.Column("theirs_s", Big, nullable=True),
    sa.Column("withdrawn_s", Big, nullable=False),
    sa.Column("off_s", Big, nullable=True),
    sa.Column("ppm", Big, nullable=True),
    sa.Column("verdict", sa.Text, nullable=False),
    ms_column("at_ms"),
    comment="Seconds by samples beside seconds by the cell, an organisation and day. cell_id empty: all cells. org_id "
    "empty: the whole cell; lines of another at_ms than its are of an earlier check. NULL is unknown, never zero.",
)
