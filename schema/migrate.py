"""Creating and upgrading the database.

Guarantee: an upgrade is one transaction; a database newer than this program is refused untouched.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from drawdown.schema.database import clear_errors, sqlite_file
from drawdown.schema.errors import DatabaseNotReady
from drawdown.schema.tables import buckets
from drawdown.schema.units import BUCKETS


@dataclass(frozen=True)
class Version:
    """Where a database stands: `current` is None for one without our tables."""

    current: str | None
    head: str
    known: bool

    @property
    def ready(self) -> bool:
        return self.current == self.head


def _config(connection: sa.Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def version(connection: sa.Connection) -> Version:
    """The schema version of a database, and the one this program wants."""
    scripts = ScriptDirectory.from_config(_config())
    current = MigrationContext.configure(connection).get_current_revision()
    head = scripts.get_current_head()
    assert head is not None, "the package ships at least one migration"
    known = current is None or current in {script.revision for script in scripts.walk_revisions()}
    return Version(current, head, known)


def require_ready(connection: sa.Connection) -> None:
    """Raises DatabaseNotReady unless the database has exactly this program's schema."""
    found = version(connection)
    if found.ready:
        return
    if found.current is None:
        raise DatabaseNotReady("the database has no Drawdown tables: run `drawdown init`")
    if not found.known:
        raise DatabaseNotReady(
            f"the database has schema {found.current}, newer than this program's {found.head}: upgrade Drawdown"
        )
    raise DatabaseNotReady(
        f"the database has schema {found.current}: run `drawdown init` to upgrade it to {found.head}"
    )


def upgrade(engine: sa.Engine) -> Version:
    """Create the schema or bring it up to date; returns where it stood before.

    Errors: DatabaseNotReady for a database newer than this program, or one that cannot be written.
    """
    file = sqlite_file(engine)
    if file is not None and not file.parent.exists():
        raise DatabaseNotReady(f"the folder {file.parent} does not exist: create it, or set --database-url")
    with clear_errors(), engine.begin() as connection:
        before = version(connection)
        if not before.known:
            require_ready(connection)
        if not before.ready:
            command.upgrade(_config(connection), "head")
            if before.current is None:
                connection.execute(
                    buckets.insert(),
                    [
                        {"id": n, "watermark_ms": 0, "cursor": 0, "sweep_began_ms": 0, "sweep_next_ms": 0}
                        for n in range(BUCKETS)
                    ],
                )
    return before


def bucket_of(org_id: str) -> int:
    """The fixed bucket of an organisation: stable across machines, versions and databases."""
    return zlib.crc32(org_id.encode("utf-8", "surrogatepass")) % BUCKETS
