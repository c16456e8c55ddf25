"""The tables of the amounts that suppliers are owed.

Rows are append-only, except for the end of a freeze.
"""

import sqlalchemy as sa

from drawdown.schema.tables.columns import Big, Serial, id_column, metadata, ms_column, said_columns

_HORIZON = "3024000000"
"""The shortest hold of a settlement without clawbacks: 35 days, in milliseconds."""

supplier_terms = sa.Table(
    "supplier_terms",
    metadata,
    id_column("supplier", key=True),
    sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("share_ppm", Big, nullable=False),
    sa.Column("hold_ms", Big, nullable=False),
    sa.Column("threshold_micro", Big, nullable=False),
    sa.Column("takes_clawbacks", sa.Boolean, nullable=False),
    ms_column("at_ms"),
    *said_columns(),
    sa.CheckConstraint(
        "share_ppm BETWEEN 0 AND 1000000 AND threshold_micro >= 0 AND hold_ms >= 0", name="supplier_terms_sane"
    ),
    sa.CheckConstraint(f"takes_clawbacks OR hold_ms >= {_HORIZON}", name="supplier_terms_hold"),
    comment="A supplier's share of each execution, and when it is paid. The highest `revision` applies to executions "
    "that end from now on.",
)

settlements = sa.Table(
    "settlements",
    metadata,
    id_column("reservation", key=True),
    id_column("supplier"),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("gross_micro", Big, nullable=False),
    sa.Column("share_ppm", Big, nullable=False),
    sa.Column("net_micro", Big, nullable=False),
    ms_column("settled_ms"),
    ms_column("hold_until_ms"),
    sa.Column("threshold_micro", Big, nullable=False),
    sa.Column("takes_clawbacks", sa.Boolean, nullable=False),
    sa.CheckConstraint("net_micro BETWEEN 0 AND gross_micro", name="settlements_sane"),
    sa.CheckConstraint(
        f"hold_until_ms >= settled_ms AND (takes_clawbacks OR hold_until_ms >= settled_ms + {_HORIZON})",
        name="settlements_hold",
    ),
    sa.Index("settlements_by_supplier", "supplier", "settled_ms"),
    sa.Index("settlements_by_time", "settled_ms", "reservation"),
    comment="The amount that a supplier is owed for one execution. `reservation`: the execution. The row copies the "
    "supplier's terms at that time, which never change. Time and other rows decide if it is held, eligible, frozen, "
    "released or reversed.",
)

_ENDLESS = sa.text("ended_ms IS NULL")
_ENDLESS_WHOLE = sa.text("ended_ms IS NULL AND reservation IS NULL")
settlement_freezes = sa.Table(
    "settlement_freezes",
    metadata,
    sa.Column("freeze_id", Serial, primary_key=True),
    id_column("supplier"),
    id_column("reservation", null=True),
    ms_column("from_ms"),
    *said_columns(),
    ms_column("ended_ms", null=True),
    sa.Column("ended_by", sa.Text, nullable=True),
    sa.Column("ended_reason", sa.Text, nullable=True),
    sa.CheckConstraint("ended_ms IS NULL OR ended_ms >= from_ms", name="settlement_freezes_end"),
    sa.Index("settlement_freezes_one", "reservation", unique=True, sqlite_where=_ENDLESS, postgresql_where=_ENDLESS),
    sa.Index(
        "settlement_freezes_whole",
        "supplier",
        unique=True,
        sqlite_where=_ENDLESS_WHOLE,
        postgresql_where=_ENDLESS_WHOLE,
    ),
    sa.Index("settlement_freezes_by_supplier", "supplier", "from_ms"),
    comment="A freeze of a settlement, or of a whole supplier (`reservation` NULL). While `ended_ms` is NULL, Drawdown "
    "does not release the settlements.",
)

settlement_reversals = sa.Table(
    "settlement_reversals",
    metadata,
    id_column("reversal", key=True),
    id_column("reservation"),
    sa.Column("amount_micro", Big, nullable=False),
    sa.Column("is_clawback", sa.Boolean, nullable=False),
    ms_column("at_ms"),
    *said_columns(),
    sa.CheckConstraint("amount_micro > 0", name="settlement_reversals_sane"),
    sa.Index("settlement_reversals_by_run", "reservation"),
    comment="The part of a settlement that is not owed after all. `is_clawback`: it was released before, so the next "
    "payout is reduced by it.",
)

payouts = sa.Table(
    "payouts",
    metadata,
    id_column("payout", key=True),
    id_column("supplier"),
    sa.Column("period", sa.Text, nullable=False),
    sa.Column("released_micro", Big, nullable=False),
    sa.Column("carried_micro", Big, nullable=False),
    sa.Column("total_micro", Big, nullable=False),
    ms_column("at_ms"),
    *said_columns(),
    sa.CheckConstraint(
        "carried_micro <= 0 AND total_micro = released_micro + carried_micro AND total_micro > 0", name="payouts_sane"
    ),
    sa.UniqueConstraint("supplier", "period", name="payouts_one_a_period"),
    comment="The amount to pay a supplier for a month, outside Drawdown. `released_micro`: released settlements. "
    "`carried_micro`: clawbacks (zero or negative).",
)

payout_lines = sa.Table(
    "payout_lines",
    metadata,
    id_column("line", key=True),
    id_column("payout"),
    id_column("reservation"),
    id_column("reversal", null=True),
    sa.Column("amount_micro", Big, nullable=False),
    sa.CheckConstraint(
        "CASE WHEN reversal IS NULL THEN line = 'settlement:' || reservation AND amount_micro >= 0 "
        "ELSE line = 'reversal:' || reversal AND amount_micro < 0 END",
        name="payout_lines_sane",
    ),
    sa.Index("payout_lines_by_payout", "payout", "line"),
    comment="The settlements that a payout releases, and its clawbacks. The key prevents a second payout of the same "
    "line.",
)
