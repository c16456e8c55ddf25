"""A migration as a later version would bring it: a column, an index and a guard, without downtime for what is read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import pytest

from drawdown.schema import migrate

REVISION: Final = "0101"
TEXT: Final = '''"""Cells have a region."""

import sqlalchemy as sa
from alembic import op

from drawdown.schema.guards import Guard, statements

revision = "0101"
down_revision = "0100"
branch_labels = None
depends_on = None

GUARD = Guard("cells_region_kept", "cells", "UPDATE", "OLD.region <>? NEW.region", "a cell stays in its region")


def upgrade() -> None:
    """Adds a column with a default: no row is written again."""
    op.add_column("cells", sa.Column("region", sa.Text, nullable=False, server_default="home"))
    op.create_index("cells_by_region", "cells", ["region"])
    for statement in statements(GUARD, op.get_bind().dialect.name):
        op.execute(sa.text(statement.replace(":", "\\\\:")))
    {more}
'''


def bring(monkeypatch: pytest.MonkeyPatch, folder: Path, more: str = "") -> None:
    """Have the program be of a version with this migration; `more`: what it does last."""
    there = shutil.copytree(migrate.MIGRATIONS, folder / "migrations")
    (there / "versions" / f"{REVISION}_regions.py").write_text(TEXT.replace("{more}", more))
    monkeypatch.setattr(migrate, "MIGRATIONS", there)
    monkeypatch.setattr(migrate, "REVISIONS", [*migrate.REVISIONS, REVISION])
