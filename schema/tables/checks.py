"""The tables of recurring checks: the latest result of each, runs of `verify`, and the counts of cells and vendors."""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.schema.tables.columns import Big, Serial, id_column, metadata, ms_column, said_columns

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
_FOUND = sa.text("verdict IN ('compared', 'differs', 'only_here', 'only_there', 'unread', 'pruned')")
sa.Index(
    "parity_checks_found",
    parity_checks.c.day_ms,
    parity_checks.c.cell_id,
    parity_checks.c.org_id,
    sqlite_where=_FOUND,
    postgresql_where=_FOUND,
)

vendor_units = sa.Table(
    "vendor_units",
    metadata,
    id_column("feature", key=True),
    id_column("vendor", key=True),
    id_column("service", key=True),
    ms_column("start_ms", key=True),
    sa.Column("unit", sa.Text, nullable=False),
    sa.Column("units", Big, nullable=False),
    sa.Column("money_micro", Big, nullable=False),
    sa.Column("per_quantity", Big, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    ms_column("at_ms"),
    *said_columns(),
    sa.CheckConstraint(
        "units >= 0 AND money_micro >= 0 AND per_quantity > 0 AND start_ms % 86400000 = 0", name="vendor_units_sane"
    ),
    comment="What per_quantity base units of a feature take of a vendor's service, in its units, and cost there, in "
    "millionths of the currency; from a day on. Append-only.",
)

vendor_imports = sa.Table(
    "vendor_imports",
    metadata,
    id_column("import_id", key=True),
    sa.Column("number", Big, nullable=False),
    ms_column("at_ms"),
    *said_columns(),
    sa.UniqueConstraint("number", name="vendor_imports_in_order"),
    comment="Files of vendors' bills that were imported, by the hash of their bytes, in order. Append-only.",
)

vendor_bills = sa.Table(
    "vendor_bills",
    metadata,
    id_column("vendor", key=True),
    ms_column("day_ms", key=True),
    sa.Column("number", Big, primary_key=True, autoincrement=False),
    id_column("service", key=True),
    id_column("currency", key=True),
    sa.Column("billed_micro", Big, nullable=False),
    sa.Column("is_final", sa.Boolean, nullable=False),
    sa.CheckConstraint("day_ms % 86400000 = 0", name="vendor_bills_on_a_day"),
    comment="What a vendor billed for a day, in millionths of the currency. Of one vendor's day the latest "
    "import holds, whole. Append-only.",
)
