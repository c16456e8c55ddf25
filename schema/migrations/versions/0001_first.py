"""The first schema: what is metered, what is owed, what was sent, and the embedded ledger."""

from pathlib import Path

from alembic import op

from drawdown.schema.migrations.guards import Guard, create

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

APPEND_ONLY = (
    "withdrawals",
    "sample_conflicts",
    "mappings",
    "voids",
    "seals",
    "projections",
    "operator_actions",
    "ledger_entries",
    "ledger_rates",
)

WATERMARK = (
    "(SELECT COALESCE(o.held_watermark_ms, b.watermark_ms) FROM orgs o JOIN buckets b ON b.id = o.bucket "
    "WHERE o.org_id = NEW.org_id)"
)
FLOOR = "COALESCE((SELECT floor_ms FROM orgs WHERE org_id = OLD.org_id), 0)"

PUSH_FROZEN = " OR ".join(
    f"NEW.{column} <>? OLD.{column}"
    for column in (
        "window_ms",
        "org_id",
        "feature",
        "revision",
        "provider",
        "customer_id",
        "sealed_qty",
        "sent_qty",
        "key",
        "sealed_at_ms",
        "seal_id",
    )
)

GUARDS = (
    Guard("samples_immutable", "usage_samples", "UPDATE", "1 = 1", "S7: samples never change; withdraw the sample"),
    Guard(
        "samples_floor_first",
        "usage_samples",
        "DELETE",
        f"OLD.ts IS NULL OR OLD.ts >= {FLOOR}",
        "S4: a sample may be deleted only below its organisation's floor",
    ),
    Guard("pushes_frozen", "pushes", "UPDATE", PUSH_FROZEN, "S3: a push never changes; void it"),
    Guard(
        "pushes_void_has_evidence",
        "pushes",
        "UPDATE",
        "NEW.state = 'voided' AND NOT EXISTS (SELECT 1 FROM voids v WHERE v.window_ms = NEW.window_ms "
        "AND v.org_id = NEW.org_id AND v.feature = NEW.feature AND v.revision = NEW.revision)",
        "P5: a push is voided only with evidence in voids",
    ),
    Guard(
        "pushes_final",
        "pushes",
        "UPDATE",
        "(OLD.state = 'voided' AND NEW.state <> 'voided') OR (OLD.state = 'accepted' AND NEW.state NOT IN "
        "('accepted', 'rejected', 'voided')) OR (OLD.state = 'in_doubt' AND NEW.state IN ('due', 'queued'))",
        "P5, P2: a settled push is not opened again, one in doubt is not sent again",
    ),
    Guard(
        "pushes_kept",
        "pushes",
        "DELETE",
        f"OLD.window_ms >= {FLOOR}",
        "S3: a push is never deleted at or above its organisation's floor",
    ),
    Guard("attempts_kept", "attempts", "DELETE", f"OLD.window_ms >= {FLOOR}", "P1: attempts are evidence"),
    Guard(
        "attempts_frozen",
        "attempts",
        "UPDATE",
        "NEW.started_ms <>? OLD.started_ms OR NEW.sent_qty <>? OLD.sent_qty OR NEW.owner <>? OLD.owner",
        "P1: what was attempted never changes",
    ),
    Guard(
        "buckets_forward",
        "buckets",
        "UPDATE",
        "NEW.epoch < OLD.epoch OR (NEW.epoch = OLD.epoch AND (NEW.watermark_ms < OLD.watermark_ms "
        "OR NEW.cursor < OLD.cursor))",
        "Invariant 4: watermark and cursor never move back within an epoch",
    ),
    Guard("buckets_kept", "buckets", "DELETE", "1 = 1", "S1: the buckets are the seal's locks"),
    Guard(
        "orgs_watermark_forward",
        "orgs",
        "UPDATE OF held_watermark_ms",
        "NEW.held_watermark_ms <>? OLD.held_watermark_ms AND EXISTS (SELECT 1 FROM assignments a "
        "WHERE a.org_id = NEW.org_id) AND COALESCE(NEW.held_watermark_ms, (SELECT watermark_ms FROM buckets "
        "WHERE id = NEW.bucket)) < COALESCE(OLD.held_watermark_ms, (SELECT watermark_ms FROM buckets "
        "WHERE id = OLD.bucket))",
        "Invariant 4: a watermark never moves back",
    ),
    Guard(
        "orgs_floor_forward",
        "orgs",
        "UPDATE OF floor_ms",
        "NEW.floor_ms < OLD.floor_ms OR (NEW.floor_ms > OLD.floor_ms AND (EXISTS (SELECT 1 FROM pending_usage p "
        "WHERE p.org_id = NEW.org_id AND p.window_ms < NEW.floor_ms) OR EXISTS (SELECT 1 FROM dirty_windows d "
        "WHERE d.org_id = NEW.org_id AND d.window_ms < NEW.floor_ms) OR NEW.floor_ms > "
        "COALESCE(NEW.held_watermark_ms, (SELECT watermark_ms FROM buckets WHERE id = NEW.bucket))))",
        "S4: a floor never moves back, past the watermark, or past pending usage",
    ),
    Guard("orgs_kept", "orgs", "DELETE", "1 = 1", "An organisation is never deleted; its usage refers to it"),
    Guard(
        "orgs_bucket_fixed",
        "orgs",
        "UPDATE OF bucket",
        "OLD.bucket IS NOT NULL AND NEW.bucket <>? OLD.bucket",
        "S1: an organisation's bucket is fixed",
    ),
    Guard(
        "assignments_forward",
        "assignments",
        "INSERT",
        # Either nothing is sealed there yet, or nothing was ever assigned there: a hole is filled, no window rewritten.
        f"NEW.start_ms < {WATERMARK} AND NEW.start_ms >= "
        "COALESCE((SELECT MIN(start_ms) FROM assignments a WHERE a.org_id = NEW.org_id), NEW.start_ms + 1)",
        "P4: an assignment starts at or after the watermark",
    ),
    Guard(
        "assignments_one_customer",
        "assignments",
        "INSERT",
        "NEW.provider NOT IN ('legacy', 'none') AND EXISTS (SELECT 1 FROM assignments a "
        "WHERE a.provider = NEW.provider AND a.customer_id = NEW.customer_id AND a.org_id <> NEW.org_id "
        "AND (a.end_ms IS NULL OR a.end_ms > NEW.start_ms) AND (NEW.end_ms IS NULL OR a.start_ms < NEW.end_ms))",
        "P4: a customer belongs to one organisation at a time",
    ),
    Guard(
        "assignments_append_only",
        "assignments",
        "UPDATE",
        "OLD.end_ms IS NOT NULL OR NEW.org_id <>? OLD.org_id OR NEW.start_ms <>? OLD.start_ms "
        "OR NEW.provider <>? OLD.provider OR NEW.customer_id <>? OLD.customer_id",
        "P4: an assignment is ended once and never rewritten",
    ),
    Guard("assignments_kept", "assignments", "DELETE", "1 = 1", "P4: assignments are append-only"),
    Guard(
        "withdrawals_match",
        "withdrawals",
        "INSERT",
        "NOT EXISTS (SELECT 1 FROM usage_samples s WHERE s.id = NEW.sample_id AND s.org_id = NEW.org_id "
        "AND s.ts = NEW.ts AND s.memory_mb = NEW.memory_mb AND s.interval_s = NEW.interval_s AND s.problem IS NULL)",
        "S7: a withdrawal repeats its sample's content exactly",
    ),
    Guard("ledger_accounts_kept", "ledger_accounts", "DELETE", "1 = 1", "A ledger account is never deleted"),
)

HALT_FOR = "INSERT INTO halts (org_id, cell_id, halted_at, due_at_ms) {source} ON CONFLICT DO NOTHING"
BY_ORG = HALT_FOR.format(
    source="SELECT DISTINCT s.org_id, s.cell_id, NEW.halted_at, NEW.halted_at FROM sandboxes s "
    "WHERE s.org_id = NEW.org_id AND s.state <> 'stopped' AND NEW.is_halted"
)
BY_SANDBOX = HALT_FOR.format(
    source="SELECT o.org_id, NEW.cell_id, o.halted_at, o.halted_at FROM orgs o "
    "WHERE o.org_id = NEW.org_id AND o.is_halted AND NEW.state <> 'stopped'"
)
# Invariant 7 kept by the database: whoever halts an organisation or moves a sandbox, the halt is due at once.
HALT_TRIGGERS = (
    ("halts_on_org", "AFTER UPDATE OF is_halted, halted_at ON orgs", BY_ORG),
    ("halts_on_org_new", "AFTER INSERT ON orgs", BY_ORG),
    ("halts_on_sandbox", "AFTER UPDATE ON sandboxes", BY_SANDBOX),
    ("halts_on_sandbox_new", "AFTER INSERT ON sandboxes", BY_SANDBOX),
)


def upgrade() -> None:
    """Create everything."""
    dialect = op.get_bind().dialect.name
    script = Path(__file__).with_name(f"0001.{dialect}.sql").read_text(encoding="utf-8")
    for statement in script.split(";\n\n"):
        op.execute(statement.replace(":", "\\:"))
    for table in APPEND_ONLY:
        for event in ("UPDATE", "DELETE"):
            create(Guard(f"{table}_no_{event.lower()}", table, event, "1 = 1", f"{table} is append-only"))
    for guard in GUARDS:
        create(guard)
    for name, when, body in HALT_TRIGGERS:
        if dialect == "postgresql":
            op.execute(
                f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NULL; END $$"
            )
            op.execute(f"CREATE TRIGGER {name} {when} FOR EACH ROW EXECUTE FUNCTION {name}()")
        else:
            op.execute(f"CREATE TRIGGER {name} {when} FOR EACH ROW BEGIN {body}; END")


def downgrade() -> None:
    """There is nothing before the first version."""
    raise NotImplementedError("restore a backup instead: going back would drop what was billed")
