"""The tables of recurring checks.

They store the latest result of each check, runs of `verify`, and the counts of cells and vendors.
"""

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
    comment="The last check of each kind. `at_ms`: its time. `off`: lines that differed. `alerts`: the differing lines "
    "that a person must check. Metrics show these numbers. No decision depends on them.",
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
    comment="One row per run of `verify`, append-only. `orgs`: organisations that it examined (NULL: all). "
    "`by_invariant`: its findings by invariant, as JSON. `checked`: the counts of rows that it examined, as JSON. "
    "`open`: the work that it left open, as JSON. `newest_action`: hash of the newest operator action. `doubted`: why "
    "history may be lost (NULL: it is not in doubt). Such a run does not prove that all rows exist. `follows`: the run "
    "that this run continued, from window `from_ms` on (NULL: the run examined all windows). `proven_to_ms`, "
    "`arrival`: all earlier windows and arrivals were sealed and counted.",
)

invariants = sa.Table(
    "invariants",
    metadata,
    sa.Column("invariant", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("held_by", Big, nullable=True),
    sa.Column("broken_by", Big, nullable=True),
    comment="The newest runs of `verify` that held and broke each invariant. `held_by`: the newest run that examined "
    "all organisations and windows, in a database that is not in doubt, without a breach. `broken_by`: the newest run "
    "that found a breach, even if it examined only a part.",
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
    comment="Seconds by samples, and seconds as the cell reports them, by day, cell and organisation. `cell_id` '': "
    "all cells. `org_id` '': the whole cell. If `at_ms` differs from that of the whole cell, the row is from an "
    "earlier check. NULL: unknown.",
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
    comment="Units and cost of a vendor's service for a feature. `units`, `money_micro`: use of the service, and its "
    "cost in millionths of `currency`, for `per_quantity` base units of the feature. `start_ms`: first day (UTC). "
    "Append-only.",
)

vendor_imports = sa.Table(
    "vendor_imports",
    metadata,
    id_column("import_id", key=True),
    sa.Column("number", Big, nullable=False),
    ms_column("at_ms"),
    *said_columns(),
    sa.UniqueConstraint("number", name="vendor_imports_in_order"),
    comment="Imported files of vendors' bills, in order. `import_id`: hash of the file's bytes. Append-only.",
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
    comment="A vendor's bill for one day, service and currency. `billed_micro`: millionths of `currency`. The latest "
    "import of a day replaces the vendor's earlier bills for that day. Append-only.",
)
