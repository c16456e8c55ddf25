"""Triggers of PostgreSQL run for rows that they may have to do with: for voids, and for who is halted.

Whether a void has evidence was asked of each push twice, as it was claimed and as it was settled: a quarter of what
both took. Who is to be told of a halt was asked of each organisation whose verdict was written.
"""

from alembic import op

revision = "0075"
down_revision = "0074"
branch_labels = None
depends_on = None

NEEDS = (
    ("pushes_void_has_evidence", "pushes", "BEFORE UPDATE", "NEW.state = 'voided'"),
    ("halts_on_org", "orgs", "AFTER UPDATE OF is_halted, halted_at", "NEW.is_halted"),
    ("halts_on_org_new", "orgs", "AFTER INSERT", "NEW.is_halted"),
)
"""Name, table, event, and what each function asks for first."""


def upgrade() -> None:
    """Takes no time, whatever is there. SQLite has no function to call: it asks for the same first as it is."""
    for name, table, event, need in NEEDS:
        _create(name, table, event, f"WHEN ({need})")


def downgrade() -> None:
    """The same is refused, and the same is told, as before."""
    for name, table, event, _ in NEEDS:
        _create(name, table, event, "")


def _create(name: str, table: str, event: str, when: str) -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"DROP TRIGGER {name} ON {table}")
        op.execute(f"CREATE TRIGGER {name} {event} ON {table} FOR EACH ROW {when} EXECUTE FUNCTION {name}()")
