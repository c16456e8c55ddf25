"""Providers beyond the embedded one: shadow pushes, keys on the wire, adoption, reconciling, flips cancelled."""

from alembic import op

from drawdown.schema.migrations.guards import Guard, create, drop

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATES = "state IN ('due', 'queued', 'in_doubt', 'accepted', 'rejected', 'voided', 'carried', 'shadow')"
REASONS = "reason IN ('unknown_org', 'no_assignment', 'no_customer', 'no_provider', 'no_mapping')"
KINDS = "evidence_kind IN ('rejected', 'absent', 'operator', 'adopted')"
FLOOR = "COALESCE((SELECT floor_ms FROM orgs WHERE org_id = OLD.org_id), 0)"
WATERMARK = (
    "(SELECT COALESCE(o.held_watermark_ms, b.watermark_ms) FROM orgs o JOIN buckets b ON b.id = o.bucket "
    "WHERE o.org_id = OLD.org_id)"
)
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
PUSH_GUARDS = (
    Guard(
        "pushes_frozen",
        "pushes",
        "UPDATE",
        f"{PUSH_FROZEN} OR (OLD.wire_key IS NOT NULL AND NEW.wire_key <>? OLD.wire_key)",
        "S3: a push never changes; void it",
    ),
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
        "(OLD.state IN ('voided', 'carried', 'shadow') AND NEW.state NOT IN (OLD.state, 'voided')) "
        "OR (OLD.state = 'accepted' AND NEW.state NOT IN ('accepted', 'rejected', 'voided')) "
        "OR (OLD.state = 'in_doubt' AND NEW.state IN ('due', 'queued'))",
        "P5, P2: a settled push is not opened again, one in doubt is not sent again",
    ),
    Guard(
        "pushes_kept",
        "pushes",
        "DELETE",
        f"OLD.window_ms >= {FLOOR}",
        "S3: a push is never deleted at or above its organisation's floor",
    ),
)
ASSIGNMENT_GUARDS = (
    Guard(
        "assignments_one_customer",
        "assignments",
        "INSERT",
        "NEW.provider NOT IN ('legacy', 'none') AND NEW.customer_id <> '' AND EXISTS (SELECT 1 FROM assignments a "
        "WHERE a.provider = NEW.provider AND a.customer_id = NEW.customer_id AND a.org_id <> NEW.org_id "
        "AND (a.end_ms IS NULL OR a.end_ms > NEW.start_ms) AND (NEW.end_ms IS NULL OR a.start_ms < NEW.end_ms))",
        "P4: a customer belongs to one organisation at a time",
    ),
    Guard(
        "assignments_append_only",
        "assignments",
        "UPDATE",
        # Its end may move while nothing after it is sealed; a customer may be filled in where none was known.
        "NEW.org_id <>? OLD.org_id OR NEW.start_ms <>? OLD.start_ms OR NEW.provider <>? OLD.provider "
        "OR (NEW.customer_id <>? OLD.customer_id AND OLD.customer_id <> '') "
        f"OR (NEW.end_ms <>? OLD.end_ms AND COALESCE(OLD.end_ms < {WATERMARK}, 1 = 0))",
        "P4: an assignment is ended once and never rewritten",
    ),
    Guard(
        "assignments_kept",
        "assignments",
        "DELETE",
        f"COALESCE(OLD.start_ms < {WATERMARK}, 1 = 0)",
        "P4: an assignment is cancelled only while nothing is sealed for it",
    ),
)
APPEND_ONLY = ("voids", "adoptions")


def upgrade() -> None:
    """Alter what PostgreSQL can alter; SQLite's tables with other constraints are made anew."""
    dialect = op.get_bind().dialect.name
    _drop_guards()
    if dialect == "postgresql":
        for statement in _POSTGRESQL:
            op.execute(statement)
    else:
        op.execute("PRAGMA legacy_alter_table = ON")  # other tables' triggers name these: they follow the name
        for statement in _SQLITE:
            op.execute(statement)
        op.execute("PRAGMA legacy_alter_table = OFF")
    for statement in _NEW_TABLES[dialect]:
        op.execute(statement)
    op.execute("CREATE INDEX ledger_entries_grants ON ledger_entries (to_account) WHERE kind = 'grant'")
    only = "end_ms IS NULL AND provider NOT IN ('legacy', 'none') AND customer_id <> ''"
    op.execute("DROP INDEX assignments_one_org_a_customer")
    op.execute(
        f"CREATE UNIQUE INDEX assignments_one_org_a_customer ON assignments (provider, customer_id) WHERE {only}"
    )
    for guard in (*PUSH_GUARDS, *ASSIGNMENT_GUARDS):
        create(guard)
    for table in APPEND_ONLY:
        for event in ("UPDATE", "DELETE"):
            create(Guard(f"{table}_no_{event.lower()}", table, event, "1 = 1", f"{table} is append-only"))


def _drop_guards() -> None:
    for guard in (*PUSH_GUARDS, *ASSIGNMENT_GUARDS):
        drop(guard.name, guard.table)
    for event in ("update", "delete"):
        drop(f"voids_no_{event}", "voids")


_POSTGRESQL = (
    'ALTER TABLE pushes ADD COLUMN wire_key TEXT COLLATE "C", ADD COLUMN lookups INTEGER DEFAULT 0 NOT NULL',
    f"ALTER TABLE pushes DROP CONSTRAINT pushes_state, ADD CONSTRAINT pushes_state CHECK ({STATES})",
    "CREATE INDEX pushes_by_wire_key ON pushes (wire_key) WHERE wire_key IS NOT NULL",
    "ALTER TABLE pending_usage DROP CONSTRAINT pending_usage_reason, "
    f"ADD CONSTRAINT pending_usage_reason CHECK ({REASONS})",
    f"ALTER TABLE voids DROP CONSTRAINT voids_evidence_kind, ADD CONSTRAINT voids_evidence_kind CHECK ({KINDS})",
)

_PUSH_COLUMNS = (
    'window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, "key", sealed_at_ms, seal_id, '
    "state, due_at_ms, claim_owner, attempts, first_attempt_ms, settled_ms, last_error"
)
_SQLITE = (
    f"""CREATE TABLE pushes_new (
    window_ms BIGINT NOT NULL,
    org_id TEXT NOT NULL,
    feature TEXT NOT NULL,
    revision INTEGER NOT NULL,
    provider TEXT NOT NULL,
    customer_id TEXT NOT NULL,
    sealed_qty BIGINT NOT NULL,
    sent_qty BIGINT NOT NULL,
    "key" TEXT NOT NULL,
    sealed_at_ms BIGINT NOT NULL,
    seal_id BIGINT NOT NULL,
    state TEXT NOT NULL,
    due_at_ms BIGINT NOT NULL,
    claim_owner TEXT,
    attempts INTEGER DEFAULT 0 NOT NULL,
    first_attempt_ms BIGINT,
    settled_ms BIGINT,
    last_error TEXT,
    wire_key TEXT,
    lookups INTEGER DEFAULT 0 NOT NULL,
    PRIMARY KEY (window_ms, org_id, feature, revision),
    CONSTRAINT pushes_quantity_bound CHECK (sealed_qty BETWEEN -9000000000000000000 AND 9000000000000000000),
    CONSTRAINT pushes_state CHECK ({STATES})
) WITHOUT ROWID""",
    f"INSERT INTO pushes_new ({_PUSH_COLUMNS}) SELECT {_PUSH_COLUMNS} FROM pushes",
    "DROP TABLE pushes",
    "ALTER TABLE pushes_new RENAME TO pushes",
    "CREATE INDEX pushes_open ON pushes (provider, due_at_ms) WHERE state IN ('due', 'queued', 'in_doubt', 'rejected')",
    "CREATE INDEX pushes_by_wire_key ON pushes (wire_key) WHERE wire_key IS NOT NULL",
    f"""CREATE TABLE pending_usage_new (
    window_ms BIGINT NOT NULL,
    org_id TEXT NOT NULL,
    memory_mb BIGINT NOT NULL,
    reason TEXT NOT NULL,
    seconds BIGINT NOT NULL,
    samples BIGINT NOT NULL,
    PRIMARY KEY (window_ms, org_id, memory_mb),
    CONSTRAINT pending_usage_reason CHECK ({REASONS})
) WITHOUT ROWID""",
    "INSERT INTO pending_usage_new SELECT * FROM pending_usage",
    "DROP TABLE pending_usage",
    "ALTER TABLE pending_usage_new RENAME TO pending_usage",
    "CREATE INDEX pending_usage_by_org ON pending_usage (org_id, window_ms)",
    f"""CREATE TABLE voids_new (
    window_ms BIGINT NOT NULL,
    org_id TEXT NOT NULL,
    feature TEXT NOT NULL,
    revision INTEGER NOT NULL,
    at_ms BIGINT NOT NULL,
    evidence_kind TEXT NOT NULL,
    evidence TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (window_ms, org_id, feature, revision),
    CONSTRAINT voids_evidence_kind CHECK ({KINDS}),
    CONSTRAINT voids_evidence_given CHECK (length(evidence) > 0)
)""",
    "INSERT INTO voids_new SELECT * FROM voids",
    "DROP TABLE voids",
    "ALTER TABLE voids_new RENAME TO voids",
)

_TABLES = """CREATE TABLE adoptions (
    window_ms BIGINT NOT NULL,
    org_id {id} NOT NULL,
    feature {id} NOT NULL,
    revision INTEGER NOT NULL,
    at_ms BIGINT NOT NULL,
    kind TEXT NOT NULL,
    evidence TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (window_ms, org_id, feature, revision),
    CONSTRAINT adoptions_kind CHECK (kind IN ('other', 'excess', 'drawn')),
    CONSTRAINT adoptions_evidence_given CHECK (length(evidence) > 0)
);
CREATE TABLE provider_states (
    provider {id} NOT NULL,
    terms TEXT,
    live_from_ms BIGINT,
    wire_since_ms BIGINT DEFAULT 0 NOT NULL,
    paused_ms BIGINT,
    paused_reason TEXT,
    PRIMARY KEY (provider)
);
CREATE TABLE reconciliations (
    day_ms BIGINT NOT NULL,
    org_id {id} NOT NULL,
    provider {id} NOT NULL,
    customer_id {id} NOT NULL,
    feature {id} NOT NULL,
    ours_qty BIGINT NOT NULL,
    theirs_qty BIGINT NOT NULL,
    verdict TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (day_ms, org_id, provider, customer_id, feature),
    CONSTRAINT reconciliations_verdict CHECK (verdict IN ('equal', 'short', 'over', 'shadow'))
)"""
_NEW_TABLES = {
    "postgresql": _TABLES.replace("{id}", 'TEXT COLLATE "C"').split(";\n"),
    "sqlite": _TABLES.replace("{id}", "TEXT").split(";\n"),
}


def downgrade() -> None:
    """Going back would forget what was adopted."""
    raise NotImplementedError("restore a backup instead: going back would forget what was adopted")
