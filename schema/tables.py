"""Every table, as SQLAlchemy Core sees it; this file holds usage and the outbox. The migrations create them, with the
triggers that carry the rules; a test holds the two equal."""

import sqlalchemy as sa

from drawdown.schema.columns import Big, Id, Serial, id_column, metadata, ms_column, push_reference, said_columns
from drawdown.schema.tables_fleet import (
    action_chain,
    balance_marks,
    cells,
    halts,
    incarnation,
    losses,
    operator_actions,
    projections,
    provider_states,
    reconciliations,
    replays,
    sandboxes,
    ticks,
)
from drawdown.schema.tables_ledger import ledger_accounts, ledger_entries, ledger_plans, ledger_rates
from drawdown.schema.tables_samples import (
    late_quarantine,
    quarantine_closed,
    sample_conflicts,
    usage_samples,
    withdrawals,
)
from drawdown.schema.tables_server import gate_asks, used_signatures, webhooks
from drawdown.schema.tables_watch import provider_rates, provider_reads, provider_when_down, watch_state

__all__ = [
    "action_chain",
    "adoptions",
    "assignments",
    "attempts",
    "balance_marks",
    "buckets",
    "carries",
    "cells",
    "dirty_windows",
    "gate_asks",
    "halts",
    "incarnation",
    "late_quarantine",
    "ledger_accounts",
    "ledger_entries",
    "ledger_plans",
    "ledger_rates",
    "losses",
    "mappings",
    "metadata",
    "operator_actions",
    "orgs",
    "pending_usage",
    "projections",
    "provider_rates",
    "provider_reads",
    "provider_states",
    "provider_when_down",
    "pushes",
    "quarantine_closed",
    "reconciliations",
    "replays",
    "sample_conflicts",
    "sandboxes",
    "seals",
    "ticks",
    "usage_samples",
    "used_signatures",
    "voids",
    "watch_state",
    "webhooks",
    "withdrawals",
]

buckets = sa.Table(
    "buckets",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    ms_column("watermark_ms"),
    sa.Column("cursor", Big, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False, server_default="0"),
    # PostgreSQL: transactions before the cursor that were open when it was read. SQLite has one writer at a time.
    sa.Column("in_flight", sa.ARRAY(Big).with_variant(sa.Text(), "sqlite"), nullable=False),
    ms_column("sweep_began_ms"),
    ms_column("sweep_next_ms"),
    comment="256 fixed hash buckets of organisations. The row is the seal's lock (S1), with the arrival cursor (S2).",
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
    sa.Column("projection_asks", sa.Integer, nullable=False, server_default="0"),
    sa.Column("operator_halt", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("override_halted", sa.Boolean, nullable=True),
    sa.Column("override_max_concurrent", sa.Integer, nullable=True),
    ms_column("override_until_ms", null=True),
    sa.Column("balance_micro", Big, nullable=True),
    ms_column("balance_read_ms", null=True),
    sa.Column("plan", sa.Text, nullable=True),
    sa.Column("unseen_micro", Big, nullable=True),
    ms_column("unread_since_ms", null=True),
    ms_column("watch_due_ms", null=True),
    sa.Column("resume_above_micro", Big, nullable=True),
    ms_column("held_watermark_ms", null=True),
    sa.Column("floor_ms", Big, nullable=False, server_default="0"),
    ms_column("stopped_at_ms", null=True),
    sa.Column("stopped_reason", sa.Text, nullable=True),
    sa.CheckConstraint("bucket BETWEEN 0 AND 255", name="orgs_bucket_range"),
    sa.CheckConstraint("is_halted = (halted_at IS NOT NULL)", name="orgs_halted_at_with_is_halted"),
    sa.CheckConstraint("floor_ms % 300000 = 0", name="orgs_floor_on_window"),
    sa.CheckConstraint("held_watermark_ms % 300000 = 0", name="orgs_watermark_on_window"),
    comment="One row an organisation: who bills it now, and the provider's verdict (the projection).",
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
    "orgs_projection_due",
    orgs.c.projection_due_ms,
    sqlite_where=sa.text("projection_due_ms IS NOT NULL"),
    postgresql_where=sa.text("projection_due_ms IS NOT NULL"),
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
    sa.CheckConstraint("unit IN ('s', 'mb_s')", name="mappings_unit"),
    sa.CheckConstraint("kind = 'up_to' OR memory_mb IS NOT NULL", name="mappings_exact_has_size"),
    sa.CheckConstraint("start_ms % 300000 = 0", name="mappings_on_window"),
    comment="Which memory sizes make which feature, from which window on (S5). Append-only; NULL ends a selector.",
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
    comment="Which provider bills an organisation, as which customer ('': not known yet), from which window on (P4).",
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

dirty_windows = sa.Table(
    "dirty_windows",
    metadata,
    id_column("org_id", key=True),
    ms_column("window_ms", key=True),
    comment="Windows below the watermark whose difference must be computed again: late, mended, voided, withdrawn.",
)

pending_usage = sa.Table(
    "pending_usage",
    metadata,
    ms_column("window_ms", key=True),
    id_column("org_id", key=True),
    sa.Column("memory_mb", Big, primary_key=True, autoincrement=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("seconds", Big, nullable=False),
    sa.Column("samples", Big, nullable=False),
    sa.CheckConstraint(
        "reason IN ('unknown_org', 'no_assignment', 'no_customer', 'no_provider', 'no_mapping')",
        name="pending_usage_reason",
    ),
    sa.Index("pending_usage_by_org", "org_id", "window_ms"),
    comment="Used but not sealable yet, with the reason (S6). What mends it makes the window dirty.",
)

pushes = sa.Table(
    "pushes",
    metadata,
    *push_reference(),
    id_column("provider"),
    id_column("customer_id"),
    sa.Column("sealed_qty", Big, nullable=False),
    sa.Column("sent_qty", Big, nullable=False),
    id_column("key"),
    ms_column("sealed_at_ms"),
    sa.Column("seal_id", Big, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    ms_column("due_at_ms"),
    sa.Column("claim_owner", sa.Text, nullable=True),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    ms_column("first_attempt_ms", null=True),
    ms_column("settled_ms", null=True),
    sa.Column("last_error", sa.Text, nullable=True),
    id_column("wire_key", null=True),
    sa.Column("lookups", sa.Integer, nullable=False, server_default="0"),
    # When its provider was last asked, and what it said: found, absent, cannot_tell, not_read.
    ms_column("looked_up_ms", null=True),
    sa.Column("lookup_answer", sa.Text, nullable=True),
    # Rejected, and billed by a person: as an event over there or beside them.
    sa.Column("by_hand", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.CheckConstraint(
        "state IN ('due', 'queued', 'in_doubt', 'accepted', 'rejected', 'voided', 'carried', 'shadow')",
        name="pushes_state",
    ),
    # SQLite turns an overflowing product into a float; cut back to an integer it lands outside these bounds (S8).
    sa.CheckConstraint("sealed_qty BETWEEN -9000000000000000000 AND 9000000000000000000", name="pushes_quantity_bound"),
    comment="The outbox: one immutable quantity a row (S3). Only its delivery state changes.",
)
sa.Index(
    "pushes_open",
    pushes.c.provider,
    pushes.c.due_at_ms,
    sqlite_where=sa.text("state IN ('due', 'queued', 'in_doubt', 'rejected')"),
    postgresql_where=sa.text("state IN ('due', 'queued', 'in_doubt', 'rejected')"),
)

sa.Index(
    "pushes_by_wire_key",
    pushes.c.wire_key,
    sqlite_where=sa.text("wire_key IS NOT NULL"),
    postgresql_where=sa.text("wire_key IS NOT NULL"),
)

attempts = sa.Table(
    "attempts",
    metadata,
    *push_reference(),
    sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
    ms_column("started_ms"),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("sent_qty", Big, nullable=False),
    ms_column("finished_ms", null=True),
    sa.Column("outcome", sa.Text, nullable=True),
    sa.Column("detail", sa.Text, nullable=True),
    sa.Column("attempts_then", sa.Integer, nullable=True),  # how many there were when the answer was written
    sa.Index("attempts_by_start", "started_ms"),
    comment="Each send, committed before a byte leaves (P1). No outcome means: the answer was never seen.",
)

voids = sa.Table(
    "voids",
    metadata,
    *push_reference(),
    ms_column("at_ms"),
    sa.Column("evidence_kind", sa.Text, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
    *said_columns(),
    sa.Column("attempts_then", sa.Integer, nullable=True),  # how many its push had by then
    sa.CheckConstraint("evidence_kind IN ('rejected', 'absent', 'operator', 'adopted')", name="voids_evidence_kind"),
    sa.CheckConstraint("length(evidence) > 0", name="voids_evidence_given"),
    comment="Statements that a push never reached its provider, with evidence (P5).",
)

adoptions = sa.Table(
    "adoptions",
    metadata,
    *push_reference(),
    ms_column("at_ms"),
    # other: its key at another quantity; excess: charged beside our keys; drawn: a balance shows it, and no event.
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
    *said_columns(),
    sa.CheckConstraint("kind IN ('other', 'excess', 'drawn')", name="adoptions_kind"),
    sa.CheckConstraint("length(evidence) > 0", name="adoptions_evidence_given"),
    comment="Pushes that the provider was found to have, at its quantity; the difference makes the rest (R1, R2).",
)

carries = sa.Table(
    "carries",
    metadata,
    id_column("org_id", key=True),
    id_column("provider", key=True),
    id_column("customer_id", key=True),
    id_column("feature", key=True),
    sa.Column("carry_qty", Big, nullable=False),
    comment="Sealed but not sent: what a whole unit or a refused negative left over (S10).",
)

seals = sa.Table(
    "seals",
    metadata,
    sa.Column("seal_id", Serial, primary_key=True),
    ms_column("at_ms"),
    sa.Column("bucket_lo", sa.Integer, nullable=False),
    sa.Column("bucket_hi", sa.Integer, nullable=False),
    ms_column("horizon_ms"),
    sa.Column("cursor", Big, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    comment="One row a committed seal: how far watermark and cursor had come (invariant 4).",
)
