"""Guards against what passed those there were: TRUNCATE, an assignment's end moved below the watermark, samples that
say themselves when they arrived; and timestamps that are no milliseconds are quarantined.

`problem` is computed anew: on a large database that takes about as long as reading all samples twice, and inserting
waits for it.
"""

import re
from pathlib import Path

from alembic import op

from drawdown.schema.migrations.guards import Guard, create, drop

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

KEPT = (
    "adoptions", "assignments", "attempts", "buckets", "carries", "dirty_windows", "incarnation", "late_quarantine",
    "ledger_accounts", "ledger_entries", "ledger_rates", "losses", "mappings", "operator_actions", "orgs",
    "pending_usage", "projections", "provider_rates", "pushes", "sample_conflicts", "seals", "usage_samples", "voids",
    "withdrawals",
)  # fmt: skip
WATERMARK = (
    "(SELECT COALESCE(o.held_watermark_ms, b.watermark_ms) FROM orgs o JOIN buckets b ON b.id = o.bucket "
    "WHERE o.org_id = OLD.org_id)"
)
FLOOR = "COALESCE((SELECT floor_ms FROM orgs WHERE org_id = OLD.org_id), 0)"
ASSIGNMENT = Guard(
    "assignments_append_only",
    "assignments",
    "UPDATE",
    # Its end may move while nothing after it is sealed, neither where it was nor where it comes to be; a customer may
    # be filled in where none was known.
    "NEW.org_id <>? OLD.org_id OR NEW.start_ms <>? OLD.start_ms OR NEW.provider <>? OLD.provider "
    "OR (NEW.customer_id <>? OLD.customer_id AND OLD.customer_id <> '') "
    f"OR (NEW.end_ms <>? OLD.end_ms AND (COALESCE(OLD.end_ms < {WATERMARK}, 1 = 0) "
    f"OR COALESCE(NEW.end_ms < {WATERMARK}, 1 = 0)))",
    "P4: an assignment is ended once and never rewritten",
)
ARRIVAL = {
    "postgresql": Guard(
        "samples_arrive_now",
        "usage_samples",
        "INSERT",
        "NEW.arrival <> pg_current_xact_id()::text::bigint",
        "S2: the database says when a sample arrived; leave arrival out",
    ),
    # Left out, it is -1 to a trigger that comes before; so one that says -1 is found after.
    "sqlite": Guard(
        "samples_arrive_now",
        "usage_samples",
        "INSERT",
        "NEW.arrival <> -1",
        "S2: the database says when a sample arrived; leave arrival out",
    ),
}
SAMPLES = (
    Guard("samples_immutable", "usage_samples", "UPDATE", "1 = 1", "S7: samples never change; withdraw the sample"),
    Guard(
        "samples_floor_first",
        "usage_samples",
        "DELETE",
        f"OLD.ts IS NULL OR OLD.ts >= {FLOOR}",
        "S4: a sample may be deleted only below its organisation's floor",
    ),
)
COLUMNS = "arrival, id, org_id, sandbox_id, cell_id, memory_mb, cpu_count, interval_s, ts, ingested_at"
INDEXES = (
    "CREATE INDEX usage_samples_by_org_ts ON usage_samples (org_id, ts)",
    "CREATE INDEX usage_samples_by_ts ON usage_samples (ts)",
    "CREATE INDEX usage_samples_problems ON usage_samples (problem) WHERE problem IS NOT NULL",
)
# The year 2100: whatever lies beyond was said in micro- or nanoseconds, whenever it is said to have come in.
BOUND = "WHEN ts >= 4102444800000 THEN 'ts_not_milliseconds'"


def upgrade() -> None:
    """Samples keep their arrival. What is quarantined by the new bound was never sealed: its window is far ahead."""
    drop(ASSIGNMENT.name, ASSIGNMENT.table)
    create(ASSIGNMENT)
    dialect = op.get_bind().dialect.name
    if dialect == "postgresql":
        _postgresql()
    else:
        _sqlite()
    create(ARRIVAL[dialect])


def _first(dialect: str, pattern: str) -> str:
    """A part of the first schema, with the bound in it."""
    text = Path(__file__).with_name(f"0001.{dialect}.sql").read_text(encoding="utf-8")
    found = re.search(pattern, text, re.DOTALL)
    assert found is not None
    return found[1].replace("    END)", f"        {BOUND}\n    END)").replace(":", "\\:")


def _postgresql() -> None:
    problem = _first("postgresql", r"(problem TEXT GENERATED .*? STORED)")
    op.execute(f"ALTER TABLE usage_samples DROP COLUMN problem, ADD COLUMN {problem}")
    op.execute(INDEXES[2])
    op.execute(
        "CREATE FUNCTION never_truncated() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION "
        "'what was billed is kept\\: % is never truncated', TG_TABLE_NAME USING ERRCODE = 'check_violation'; END $$"
    )
    for table in KEPT:
        op.execute(
            f"CREATE TRIGGER {table}_never_truncated BEFORE TRUNCATE ON {table} EXECUTE FUNCTION never_truncated()"
        )


def _sqlite() -> None:
    """Its tables cannot change a computed column: a new one takes the name, and the count of arrivals with it."""
    table = _first("sqlite", r"CREATE TABLE usage_samples (\(.*?\n\));")
    op.execute("PRAGMA legacy_alter_table = ON")  # other tables' triggers name it: they follow the name
    op.execute(f"CREATE TABLE usage_samples_new {table}")
    op.execute(f"INSERT INTO usage_samples_new ({COLUMNS}) SELECT {COLUMNS} FROM usage_samples")
    op.execute("DELETE FROM sqlite_sequence WHERE name = 'usage_samples_new'")
    op.execute(
        "INSERT INTO sqlite_sequence (name, seq) "
        "SELECT 'usage_samples_new', seq FROM sqlite_sequence WHERE name = 'usage_samples'"
    )
    op.execute("DROP TABLE usage_samples")
    op.execute("ALTER TABLE usage_samples_new RENAME TO usage_samples")
    op.execute("PRAGMA legacy_alter_table = OFF")
    for index in INDEXES:
        op.execute(index)
    for guard in SAMPLES:
        create(guard)
    op.execute(
        "CREATE TRIGGER samples_arrive_now_after AFTER INSERT ON usage_samples FOR EACH ROW WHEN NEW.arrival < 1 "
        f"BEGIN SELECT RAISE(ABORT, '{ARRIVAL['sqlite'].message}'); END"
    )


def downgrade() -> None:
    """What the bound quarantined would be a sample of the far future again."""
    raise NotImplementedError("restore a backup instead: going back would take the quarantine away")
