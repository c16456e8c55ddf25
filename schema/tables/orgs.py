"""The tables of organisations.

They store the features and providers of organisations, and the window from which each applies. They also store the cost
of usage at other providers, and the policies while a provider cannot be read.
"""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.schema.tables.columns import Big, Id, Serial, id_column, metadata, ms_column, said_columns

buckets = sa.Table(
    "buckets",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    ms_column("watermark_ms"),
    sa.Column("cursor", Big, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False, server_default=sa.text("0")),
    # PostgreSQL: transactions before the cursor that were open when Drawdown read it. SQLite has one writer at a time.
    sa.Column("in_flight", sa.ARRAY(Big).with_variant(sa.Text(), "sqlite"), nullable=False),
    ms_column("sweep_began_ms"),
    ms_column("sweep_next_ms"),
    comment="256 fixed hash buckets of organisations. The row is the seal's lock (S1). `cursor`: the arrival cursor "
    "(S2).",
)

orgs = sa.Table(
    "orgs",
    metadata,
    id_column("org_id", key=True),
    sa.Column("bucket", sa.Integer, nullable=True),
    sa.Column("registered", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("billing_provider", Id, nullable=True),
    sa.Column("is_halted", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("halted_at", Big, nullable=True),
    sa.Column("max_concurrent_sandboxes", sa.Integer, nullable=True),
    sa.Column("halt_reason", sa.Text, nullable=True),
    ms_column("projection_read_ms", null=True),
    ms_column("projection_due_ms", null=True),
    sa.Column("refresh_requests", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("operator_halt", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("override_halted", sa.Boolean, nullable=True),
    sa.Column("override_max_concurrent", sa.Integer, nullable=True),
    ms_column("override_until_ms", null=True),
    sa.Column("balance_micro", Big, nullable=True),
    ms_column("balance_read_ms", null=True),
    sa.Column("plan", sa.Text, nullable=True),
    sa.Column("unconfirmed_micro", Big, nullable=True),
    ms_column("unread_since_ms", null=True),
    ms_column("watch_due_ms", null=True),
    sa.Column("resume_above_micro", Big, nullable=True),
    ms_column("runs_out_ms", null=True),
    ms_column("refresh_deadline_ms", null=True),
    sa.Column("refused", sa.Text, nullable=True),  # features that a limit of the provider refuses, as JSON
    sa.Column("feature_limits", sa.Text, nullable=True),  # the base units that usage limits leave, by feature, as JSON
    ms_column("held_watermark_ms", null=True),
    sa.Column("floor_ms", Big, nullable=False, server_default=sa.text("0")),
    ms_column("stopped_at_ms", null=True),
    sa.Column("stopped_reason", sa.Text, nullable=True),
    sa.CheckConstraint("bucket BETWEEN 0 AND 255", name="orgs_bucket_range"),
    sa.CheckConstraint("is_halted = (halted_at IS NOT NULL)", name="orgs_halted_at_with_is_halted"),
    sa.CheckConstraint("floor_ms % 300000 = 0", name="orgs_floor_on_window"),
    sa.CheckConstraint("held_watermark_ms % 300000 = 0", name="orgs_watermark_on_window"),
    comment="One row per organisation, with its present provider and that provider's verdict (the projection).",
)
sa.Index(
    "orgs_exceptional",
    orgs.c.bucket,
    sqlite_where=sa.text("held_watermark_ms IS NOT NULL OR stopped_at_ms IS NOT NULL"),
    postgresql_where=sa.text("held_watermark_ms IS NOT NULL OR stopped_at_ms IS NOT NULL"),
)
sa.Index(
    "orgs_override_ends",
    orgs.c.override_until_ms,
    sqlite_where=sa.text("override_until_ms IS NOT NULL"),
    postgresql_where=sa.text("override_until_ms IS NOT NULL"),
)
sa.Index(
    "orgs_asked",
    orgs.c.is_halted,
    sa.func.coalesce(orgs.c.balance_micro, sa.literal_column("0")),
    orgs.c.projection_due_ms,
    sqlite_where=sa.text("projection_due_ms IS NOT NULL"),
    postgresql_where=sa.text("projection_due_ms IS NOT NULL"),
)
sa.Index(
    "orgs_refresh_deadline",
    orgs.c.refresh_deadline_ms,
    sqlite_where=sa.text("refresh_deadline_ms IS NOT NULL"),
    postgresql_where=sa.text("refresh_deadline_ms IS NOT NULL"),
)
sa.Index(
    "orgs_watch_due",
    orgs.c.watch_due_ms,
    sqlite_where=sa.text("watch_due_ms IS NOT NULL"),
    postgresql_where=sa.text("watch_due_ms IS NOT NULL"),
)
sa.Index(
    "orgs_unread",
    orgs.c.unread_since_ms,
    sqlite_where=sa.text("unread_since_ms IS NOT NULL"),
    postgresql_where=sa.text("unread_since_ms IS NOT NULL"),
)
sa.Index(
    "orgs_halted",
    orgs.c.org_id,
    sqlite_where=sa.text("is_halted"),
    postgresql_where=sa.text("is_halted"),
)
sa.Index(
    "orgs_runs_out",
    orgs.c.runs_out_ms,
    orgs.c.org_id,
    sqlite_where=sa.text("runs_out_ms IS NOT NULL"),
    postgresql_where=sa.text("runs_out_ms IS NOT NULL"),
)
sa.Index(
    "orgs_unbilled",
    orgs.c.org_id,
    sqlite_where=sa.text("billing_provider IS NULL"),
    postgresql_where=sa.text("billing_provider IS NULL"),
)

mappings = sa.Table(
    "mappings",
    metadata,
    sa.Column("mapping_id", Serial, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("memory_mb", Big, nullable=True),
    id_column("feature", null=True),
    sa.Column("unit", sa.Text, nullable=False),
    ms_column("start_ms"),
    ms_column("at_ms"),
    *said_columns(),
    sa.CheckConstraint("kind IN ('exact', 'up_to')", name="mappings_kind"),
    *(
        sa.CheckConstraint(check, name="mappings_feature_name").ddl_if(dialect=dialect)
        for dialect, check in (("postgresql", "feature !~ '[^a-z0-9_]'"), ("sqlite", "feature NOT GLOB '*[^a-z0-9_]*'"))
    ),
    sa.CheckConstraint("unit IN ('s', 'mb_s', 'units')", name="mappings_unit"),
    sa.CheckConstraint(
        "(unit = 'units') = COALESCE(memory_mb > 16777216, 1 = 0) AND (unit <> 'units' OR kind = 'exact')",
        name="mappings_meter",
    ),
    sa.CheckConstraint("kind = 'up_to' OR memory_mb IS NOT NULL", name="mappings_exact_has_size"),
    sa.CheckConstraint("start_ms % 300000 = 0", name="mappings_on_window"),
    sa.Index("mappings_by_size", "memory_mb", "start_ms"),
    comment="Rules from memory sizes and event types to features, each from a window on (S5). `memory_mb`: the memory "
    "size, or the meter of an event type. `feature` NULL: ends the rule. Append-only.",
)

assignments = sa.Table(
    "assignments",
    metadata,
    id_column("org_id", key=True),
    ms_column("start_ms", key=True),
    ms_column("end_ms", null=True),
    id_column("provider"),
    id_column("customer_id"),
    ms_column("at_ms"),
    *said_columns(),
    sa.CheckConstraint("start_ms % 300000 = 0 AND end_ms % 300000 = 0", name="assignments_on_window"),
    sa.CheckConstraint("end_ms IS NULL OR end_ms > start_ms", name="assignments_not_empty"),
    sa.Index("assignments_by_start", "start_ms"),
    comment="The provider and customer of an organisation, from a window on (P4). `customer_id` '': not known yet.",
)
sa.Index("assignments_by_customer", assignments.c.provider, assignments.c.customer_id)
sa.Index(
    "assignments_one_org_a_customer",
    assignments.c.provider,
    assignments.c.customer_id,
    unique=True,
    sqlite_where=sa.text("end_ms IS NULL AND provider NOT IN ('legacy', 'none') AND customer_id <> ''"),
    postgresql_where=sa.text("end_ms IS NULL AND provider NOT IN ('legacy', 'none') AND customer_id <> ''"),
)


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
    id_column("balance", null=True),  # the credit system that pays, or the feature itself; NULL: an operator's rate
    ms_column(
        "confirmed_ms", null=True
    ),  # when the previous cost was last confirmed; NULL: costs were not read before, or an operator's rate
    sa.CheckConstraint("micro >= 0 AND per_quantity > 0", name="provider_rates_sane"),
    comment="The cost of usage at a provider, in millionths of its balance's unit. Estimates use it; a cost in "
    "credits is also evidence. Append-only.",
)

provider_when_down = sa.Table(
    "provider_when_down",
    metadata,
    id_column("provider", key=True),
    sa.Column("plan", sa.Text, primary_key=True),
    sa.Column("policy", sa.Text, nullable=False),
    sa.CheckConstraint("policy IN ('go_on', 'estimate', 'stop')", name="provider_when_down_policy"),
    comment="The policy for a plan while its provider cannot be read. `plan` '': every other plan.",
)

watch_state = sa.Table(
    "watch_state",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    ms_column("round_ms", null=True),
    sa.Column("rounds", Big, nullable=False, server_default=sa.text("0")),
    sa.CheckConstraint("id = 1", name="watch_state_one_row"),
    comment="A single row with the last round of a watch (`round_ms`) and the number of rounds. While a watch runs, "
    "ticks also update its figures.",
)

provider_reads = sa.Table(
    "provider_reads",
    metadata,
    id_column("provider", key=True),
    sa.Column("outcome", sa.Text, primary_key=True),
    sa.Column("reads", Big, nullable=False),
    sa.CheckConstraint("outcome IN ('read', 'no_customer', 'failed')", name="provider_reads_outcome"),
    comment="Number of all customer reads at a provider, by outcome. Only metrics use it.",
)
