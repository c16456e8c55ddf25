"""What `verify` found: each run of it, and when each invariant last held."""

import sqlalchemy as sa

from drawdown.schema.tables.columns import Big, Serial, metadata, ms_column, said_columns

proofs = sa.Table(
    "proofs",
    metadata,
    sa.Column("number", Serial, primary_key=True),
    ms_column("at_ms"),
    ms_column("took_ms"),
    sa.Column("orgs", Big, nullable=True),
    sa.Column("breaches", Big, nullable=False),
    sa.Column("by_invariant", sa.Text, nullable=False),
    sa.Column("checked", sa.Text, nullable=False),
    sa.Column("open", sa.Text, nullable=False),
    sa.Column("newest_action", sa.Text, nullable=False),
    sa.Column("doubted", sa.Text, nullable=True),
    *said_columns(),
    sa.Column("follows", Big, nullable=True),
    ms_column("from_ms", null=True),
    ms_column("proven_to_ms", null=True),
    sa.Column("arrival", Big, nullable=True),
    sa.CheckConstraint("breaches >= 0 AND took_ms >= 0 AND orgs > 0", name="proofs_sane"),
    comment="Each run of verify: how many organisations were asked about (NULL: all), what it found by invariant, "
    "looked at, and left open (JSON); the newest action's hash. doubted: history was lost, so that nothing is proven "
    "of what was forgotten. follows: the run that this one continued, from the window from_ms on (NULL: it looked at "
    "all of it); proven_to_ms, arrival: windows and arrivals before them were sealed and counted. Append-only.",
)

invariants = sa.Table(
    "invariants",
    metadata,
    sa.Column("invariant", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("held_by", Big, nullable=True),
    sa.Column("broken_by", Big, nullable=True),
    comment="The newest run of verify by which each invariant held, of all organisations and windows, in a database "
    "that nobody doubts; and the newest by which it was broken, of any.",
)
