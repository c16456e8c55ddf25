"""Whoever may keep sandboxes needs no right on organisations and halts: the halt of a sandbox's organisation becomes
due in its cell by the right of the tables' owner, and by nothing that a caller's search path could put in between."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_FUNCTIONS = ("halts_on_sandbox", "halts_on_sandbox_new")


def upgrade() -> None:
    """PostgreSQL alone knows rights. Nobody else may put these functions behind a table of their own."""
    if op.get_bind().dialect.name != "postgresql":
        return
    schema = op.get_bind().execute(sa.text("SELECT quote_ident(current_schema())")).scalar_one()
    for name in _FUNCTIONS:
        op.execute(f"ALTER FUNCTION {name}() SECURITY DEFINER SET search_path = {schema}, pg_temp")
        op.execute(f"REVOKE EXECUTE ON FUNCTION {name}() FROM PUBLIC")


def downgrade() -> None:
    """By the caller's right again."""
    if op.get_bind().dialect.name != "postgresql":
        return
    for name in _FUNCTIONS:
        op.execute(f"ALTER FUNCTION {name}() SECURITY INVOKER RESET search_path")
        op.execute(f"GRANT EXECUTE ON FUNCTION {name}() TO PUBLIC")
