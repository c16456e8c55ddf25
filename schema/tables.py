"""Every table, as SQLAlchemy Core sees it. The migrations create them, with the triggers that carry the rules;
a test holds the two equal.

Guarantee: ids compare byte by byte on both databases (C collation on PostgreSQL: mixed collations made one
join 540 times slower), times are integer milliseconds, quantities are integers.
"""

import sqlalchemy as sa

metadata = sa.MetaData()

Id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""An identifier, compared by its bytes."""
Big = sa.BigInteger()
Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""A key that the database counts up by itself."""
Exact = sa.BigInteger().with_variant(sa.Numeric(), "postgresql")
"""Keeps a fraction that another program inserted, so that it can be quarantined instead of rounded."""


def _id(name: str, *, key: bool = False, null: bool = False) -> "sa.Column[str]":
    return sa.Column(name, Id, primary_key=key, nullable=null)


def _ms(name: str, *, key: bool = False, null: bool = False) -> "sa.Column[int]":
    return sa.Column(name, Big, primary_key=key, nullable=null, autoincrement=False)


def _said() -> "list[sa.Column[str]]":
    """Who did it and why: on everything a person does to money or state."""
    return [sa.Column("actor", sa.Text, nullable=False), sa.Column("reason", sa.Text, nullable=False)]


buckets = sa.Table(
    "buckets",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    _ms("watermark_ms"),
    sa.Column("cursor", Big, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False, server_default="0"),
    _ms("sweep_began_ms"),
    _ms("sweep_next_ms"),
    comment="256 fixed hash buckets of organisations. The row is the seal's lock (S1), with the arrival cursor (S2).",
)

orgs = sa.Table(
    "orgs",
    metadata,
    _id("org_id", key=True),
    sa.Column("bucket", sa.Integer, nullable=True),
    sa.Column("registered", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("billing_provider", Id, nullable=True),
    sa.Column("is_halted", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("halted_at", Big, nullable=True),
    sa.Column("max_concurrent_sandboxes", sa.Integer, nullable=True),
    sa.Column("halt_reason", sa.Text, nullable=True),
    _ms("projection_read_ms", null=True),
    _ms("projection_due_ms", null=True),
    sa.Column("operator_halt", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("override_halted", sa.Boolean, nullable=True),
    sa.Column("override_max_concurrent", sa.Integer, nullable=True),
    _ms("override_until_ms", null=True),
    _ms("held_watermark_ms", null=True),
    sa.Column("floor_ms", Big, nullable=False, server_default="0"),
    _ms("stopped_at_ms", null=True),
    sa.Column("stopped_reason", sa.Text, nullable=True),
    sa.CheckConstraint("bucket BETWEEN 0 AND 255", name="orgs_bucket_range"),
    sa.CheckConstraint("is_halted = (halted_at IS NOT NULL)", name="orgs_halted_at_with_is_halted"),
    sa.CheckConstraint("floor_ms % 300000 = 0", name="orgs_floor_on_window"),
    sa.CheckConstraint("held_watermark_ms % 300000 = 0", name="orgs_watermark_on_window"),
    sa.Index("orgs_by_bucket", "bucket"),
    comment="One row an organisation: who bills it now, and the provider's verdict (the projection).",
)
sa.Index(
    "orgs_exceptional",
    orgs.c.bucket,
    sqlite_where=sa.text("held_watermark_ms IS NOT NULL OR stopped_at_ms IS NOT NULL"),
    postgresql_where=sa.text("held_watermark_ms IS NOT NULL OR stopped_at_ms IS NOT NULL"),
)
sa.Index(
    "orgs_projection_due",
    orgs.c.projection_due_ms,
    sqlite_where=sa.text("projection_due_ms IS NOT NULL"),
    postgresql_where=sa.text("projection_due_ms IS NOT NULL"),
)
sa.Index(
    "orgs_halted",
    orgs.c.org_id,
    sqlite_where=sa.text("is_halted"),
    postgresql_where=sa.text("is_halted"),
)

usage_samples = sa.Table(
    "usage_samples",
    metadata,
    # SQLite: INTEGER PRIMARY KEY AUTOINCREMENT, a plain rowid would be used again after a delete (S2).
    # PostgreSQL: the inserting transaction's id; the primary key there is `id`. The migration says both.
    sa.Column("arrival", Big, nullable=False),
    sa.Column("id", Id, primary_key=True),
    _id("org_id", null=True),
    _id("sandbox_id", null=True),
    _id("cell_id", null=True),
    sa.Column("memory_mb", Big, nullable=True),
    sa.Column("cpu_count", sa.Numeric, nullable=True),
    sa.Column("interval_s", Exact, nullable=True),
    sa.Column("ts", Big, nullable=True),
    sa.Column("ingested_at", Big, nullable=True),
    sa.Column("problem", sa.Text, nullable=True),
    comment="Usage as observed. Any program may insert; rows never change (S7). `problem` is the quarantine's reason.",
)

withdrawals = sa.Table(
    "withdrawals",
    metadata,
    _id("sample_id", key=True),
    _id("org_id"),
    _ms("ts"),
    sa.Column("memory_mb", Big, nullable=False),
    sa.Column("interval_s", Big, nullable=False),
    _ms("at_ms"),
    *_said(),
    sa.Index("withdrawals_by_org_ts", "org_id", "ts"),
    sa.Index("withdrawals_by_ts", "ts"),
    comment="Samples declared wrong; each takes its whole sample out of what is owed.",
)

sample_conflicts = sa.Table(
    "sample_conflicts",
    metadata,
    sa.Column("conflict_id", Serial, primary_key=True),
    _id("sample_id"),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    _ms("seen_ms"),
    sa.UniqueConstraint("sample_id", "content", name="sample_conflicts_once"),
    comment="The same sample id seen again with other content (S7): kept here, billed never.",
)

late_quarantine = sa.Table(
    "late_quarantine",
    metadata,
    _id("sample_id", key=True),
    _id("org_id"),
    _ms("found_ms"),
    comment="Samples that arrived below their organisation's floor (S4): too late for good.",
)

mappings = sa.Table(
    "mappings",
    metadata,
    sa.Column("mapping_id", Serial, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("memory_mb", Big, nullable=True),
    _id("feature", null=True),
    sa.Column("unit", sa.Text, nullable=False),
    _ms("start_ms"),
    _ms("at_ms"),
    *_said(),
    sa.CheckConstraint("kind IN ('exact', 'up_to')", name="mappings_kind"),
    sa.CheckConstraint("unit IN ('s', 'mb_s')", name="mappings_unit"),
    sa.CheckConstraint("kind = 'up_to' OR memory_mb IS NOT NULL", name="mappings_exact_has_size"),
    sa.CheckConstraint("start_ms % 300000 = 0", name="mappings_on_window"),
    comment="Which memory sizes make which feature, from which window on (S5). Append-only; NULL ends a selector.",
)

assignments = sa.Table(
    "assignments",
    metadata,
    _id("org_id", key=True),
    _ms("start_ms", key=True),
    _ms("end_ms", null=True),
    _id("provider"),
    _id("customer_id"),
    _ms("at_ms"),
    *_said(),
    sa.CheckConstraint("start_ms % 300000 = 0 AND end_ms % 300000 = 0", name="assignments_on_window"),
    sa.CheckConstraint("end_ms IS NULL OR end_ms > start_ms", name="assignments_not_empty"),
    comment="Which provider bills an organisation, as which customer, from which window on (P4).",
)
sa.Index(
    "assignments_one_org_a_customer",
    assignments.c.provider,
    assignments.c.customer_id,
    unique=True,
    sqlite_where=sa.text("end_ms IS NULL AND provider NOT IN ('legacy', 'none')"),
    postgresql_where=sa.text("end_ms IS NULL AND provider NOT IN ('legacy', 'none')"),
)

dirty_windows = sa.Table(
    "dirty_windows",
    metadata,
    _id("org_id", key=True),
    _ms("window_ms", key=True),
    comment="Windows below the watermark whose difference must be computed again: late, mended, voided, withdrawn.",
)

pending_usage = sa.Table(
    "pending_usage",
    metadata,
    _ms("window_ms", key=True),
    _id("org_id", key=True),
    sa.Column("memory_mb", Big, primary_key=True, autoincrement=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("seconds", Big, nullable=False),
    sa.Column("samples", Big, nullable=False),
    sa.CheckConstraint("reason IN ('unknown_org', 'no_assignment', 'no_mapping')", name="pending_usage_reason"),
    sa.Index("pending_usage_by_org", "org_id", "window_ms"),
    comment="Used but not sealable yet, with the reason (S6). What mends it makes the window dirty.",
)

_PUSH_KEY = ("window_ms", "org_id", "feature", "revision")


def _push_ref() -> "list[sa.Column[int] | sa.Column[str]]":
    return [
        _ms("window_ms", key=True),
        _id("org_id", key=True),
        _id("feature", key=True),
        sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
    ]


pushes = sa.Table(
    "pushes",
    metadata,
    *_push_ref(),
    _id("provider"),
    _id("customer_id"),
    sa.Column("sealed_qty", Big, nullable=False),
    sa.Column("sent_qty", Big, nullable=False),
    _id("key"),
    _ms("sealed_at_ms"),
    sa.Column("seal_id", Big, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    _ms("due_at_ms"),
    sa.Column("claim_owner", sa.Text, nullable=True),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    _ms("first_attempt_ms", null=True),
    _ms("settled_ms", null=True),
    sa.Column("last_error", sa.Text, nullable=True),
    sa.CheckConstraint(
        "state IN ('due', 'queued', 'in_doubt', 'accepted', 'rejected', 'voided', 'carried')", name="pushes_state"
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

attempts = sa.Table(
    "attempts",
    metadata,
    *_push_ref(),
    sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
    _ms("started_ms"),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("sent_qty", Big, nullable=False),
    _ms("finished_ms", null=True),
    sa.Column("outcome", sa.Text, nullable=True),
    sa.Column("detail", sa.Text, nullable=True),
    comment="Each send, committed before a byte leaves (P1). No outcome means: the answer was never seen.",
)

voids = sa.Table(
    "voids",
    metadata,
    *_push_ref(),
    _ms("at_ms"),
    sa.Column("evidence_kind", sa.Text, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
    *_said(),
    sa.CheckConstraint("evidence_kind IN ('rejected', 'absent', 'operator')", name="voids_evidence_kind"),
    sa.CheckConstraint("length(evidence) > 0", name="voids_evidence_given"),
    comment="Statements that a push never reached its provider, with evidence (P5).",
)

carries = sa.Table(
    "carries",
    metadata,
    _id("org_id", key=True),
    _id("provider", key=True),
    _id("customer_id", key=True),
    _id("feature", key=True),
    sa.Column("carry_qty", Big, nullable=False),
    comment="Sealed but not sent: what a whole unit or a refused negative left over (S10).",
)

seals = sa.Table(
    "seals",
    metadata,
    sa.Column("seal_id", Serial, primary_key=True),
    _ms("at_ms"),
    sa.Column("bucket_lo", sa.Integer, nullable=False),
    sa.Column("bucket_hi", sa.Integer, nullable=False),
    _ms("horizon_ms"),
    sa.Column("cursor", Big, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    comment="One row a committed seal: how far watermark and cursor had come (invariant 4).",
)

cells = sa.Table(
    "cells",
    metadata,
    _id("cell_id", key=True),
    sa.Column("url", sa.Text, nullable=False),
    comment="Host groups that run sandboxes and obey POST /admin/halt-org.",
)

sandboxes = sa.Table(
    "sandboxes",
    metadata,
    _id("sandbox_id", key=True),
    _id("org_id"),
    _id("cell_id"),
    sa.Column("state", sa.Text, nullable=False),
    sa.CheckConstraint("state IN ('running', 'hibernated', 'migrating', 'stopped')", name="sandboxes_state"),
    sa.Index("sandboxes_by_org", "org_id", "cell_id"),
    comment="Where an organisation's sandboxes are. The hosts' own program keeps it.",
)

halts = sa.Table(
    "halts",
    metadata,
    _id("org_id", key=True),
    _id("cell_id", key=True),
    _ms("halted_at", key=True),
    _ms("due_at_ms", null=True),
    _ms("acked_at_ms", null=True),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("claim_owner", sa.Text, nullable=True),
    sa.Column("last_error", sa.Text, nullable=True),
    sa.CheckConstraint("due_at_ms IS NOT NULL OR acked_at_ms IS NOT NULL", name="halts_due_or_acked"),
    comment="A halt owed to a cell, until the cell acknowledged it. due_at_ms NULL: acknowledged.",
)
sa.Index(
    "halts_due",
    halts.c.due_at_ms,
    sqlite_where=sa.text("due_at_ms IS NOT NULL"),
    postgresql_where=sa.text("due_at_ms IS NOT NULL"),
)

projections = sa.Table(
    "projections",
    metadata,
    sa.Column("projection_id", Serial, primary_key=True),
    _id("org_id"),
    _ms("read_ms"),
    _ms("at_ms"),
    sa.Column("is_halted", sa.Boolean, nullable=False),
    sa.Column("max_concurrent_sandboxes", sa.Integer, nullable=True),
    sa.Column("reason", sa.Text, nullable=True),
    sa.Index("projections_by_org", "org_id", "projection_id"),
    comment="Each change of the verdict, with the moment its read began (invariant 8).",
)

ticks = sa.Table(
    "ticks",
    metadata,
    sa.Column("tick_id", Serial, primary_key=True),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("bucket_lo", sa.Integer, nullable=False),
    sa.Column("bucket_hi", sa.Integer, nullable=False),
    _ms("started_ms"),
    _ms("finished_ms", null=True),
    sa.Column("exit_status", sa.Integer, nullable=True),
    sa.Column("clock_trusted", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("report", sa.Text, nullable=True),
    comment="One row a tick: what it did and what it left (JSON).",
)

operator_actions = sa.Table(
    "operator_actions",
    metadata,
    sa.Column("action_id", Serial, primary_key=True),
    _ms("at_ms"),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("details", sa.Text, nullable=False),
    *_said(),
    comment="Everything a person changed. Append-only.",
)

ledger_accounts = sa.Table(
    "ledger_accounts",
    metadata,
    _id("account_id", key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("balance_micro", Big, nullable=False, server_default="0"),
    _id("plan", null=True),
    sa.CheckConstraint("kind IN ('wallet', 'revenue', 'source')", name="ledger_accounts_kind"),
    comment="Wallets of customers, and the accounts on the other side. The balance is the sum of its lines, kept.",
)

ledger_entries = sa.Table(
    "ledger_entries",
    metadata,
    _id("key", key=True),
    sa.Column("kind", sa.Text, nullable=False),
    _id("from_account"),
    _id("to_account"),
    sa.Column("amount_micro", Big, nullable=False),
    _id("feature", null=True),
    sa.Column("quantity", Big, nullable=True),
    _ms("ts"),
    _ms("at_ms"),
    *_said(),
    sa.CheckConstraint("kind IN ('usage', 'grant')", name="ledger_entries_kind"),
    sa.CheckConstraint("from_account <> to_account", name="ledger_entries_two_sides"),
    sa.CheckConstraint(
        "kind <> 'usage' OR (feature IS NOT NULL AND quantity IS NOT NULL)", name="ledger_entries_usage_says_what"
    ),
    sa.Index("ledger_entries_by_from", "from_account", "ts"),
    comment="Each entry moves an amount from one account to another: two lines that sum to zero by construction.",
)

ledger_rates = sa.Table(
    "ledger_rates",
    metadata,
    _id("feature", key=True),
    _ms("start_ms", key=True),
    sa.Column("micro_credits", Big, nullable=False),
    sa.Column("per_quantity", Big, nullable=False, server_default="1"),
    _ms("at_ms"),
    *_said(),
    sa.CheckConstraint("micro_credits >= 0 AND per_quantity > 0", name="ledger_rates_sane"),
    comment="The rate card: micro-credits for each per_quantity base units, from a moment on.",
)

ledger_plans = sa.Table(
    "ledger_plans",
    metadata,
    _id("plan", key=True),
    sa.Column("max_concurrent_sandboxes", sa.Integer, nullable=False),
    comment="How many sandboxes at once a plan allows.",
)
