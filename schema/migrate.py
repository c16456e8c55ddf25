"""The creation and the upgrade of a database.

Guarantee: an upgrade is one transaction. A database newer than this program is rejected unchanged.
"""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from drawdown.schema.database import ANOTHER, clear_errors, place_of, sqlite_file
from drawdown.schema.errors import DatabaseNotReady, Refused
from drawdown.schema.units import BUCKETS

MIGRATIONS: Final = Path(__file__).parent / "migrations"
REVISIONS: Final = sorted(file.name.partition("_")[0] for file in MIGRATIONS.glob("versions/[0-9]*.py"))
"""The revisions of the schema.

The name of each migration's file begins with its revision.
"""

_PIN_FUNCTIONS: Final = """
DO $$ DECLARE one record; BEGIN
    FOR one IN SELECT p.oid::regprocedure AS name FROM pg_proc p
        WHERE p.pronamespace = current_schema()::regnamespace AND pg_has_role(p.proowner, 'USAGE')
            AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
            AND NOT EXISTS (SELECT 1 FROM unnest(p.proconfig) AS setting WHERE setting LIKE 'search_path=%')
    LOOP EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %I, pg_temp', one.name, current_schema());
    END LOOP;
END $$"""
"""Pin the search path of Drawdown's functions.

Guards name tables without a schema, and PostgreSQL searches the temporary schema first. Without a pinned path, a
function would use a caller's temporary table of that name. With a pinned path, it searches the temporary schema last.
Functions of extensions are not changed.
"""

ONE_UPGRADE: Final = 4_927_306_118
"""Number of PostgreSQL's advisory lock for a creation or upgrade of the schema.

The value is arbitrary.
"""
UPGRADE_LOCK_S: Final = 5
"""Seconds that an upgrade waits for the lock of a table.

Later statements on the table wait, too. If the upgrade times out, run it again.
"""


NAMED: Final = 3
"""Tables of another program that an error lists."""


@dataclass(frozen=True)
class Version:
    """The version of a database.

    `current`: its revision; None: it lacks Drawdown's tables. `head`: this program's revision. `supported`: True if the
    database lacks Drawdown's tables, or this program knows its revision.
    """

    current: str | None
    head: str
    supported: bool

    @property
    def ready(self) -> bool:
        return self.current == self.head

    @property
    def is_unreleased(self) -> bool:
        """Return True if a version before the first release made the database."""
        return self.current is not None and self.current < REVISIONS[0]


def version(connection: sa.Connection) -> Version:
    """Return the schema version of a database, and the revision of this program."""
    current = None
    if sa.inspect(connection).has_table("alembic_version"):
        current = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return Version(current, REVISIONS[-1], current is None or current in REVISIONS)


def require_ready(connection: sa.Connection) -> None:
    """Check that the database has exactly this program's schema.

    Errors: DatabaseNotReady.
    """
    found = version(connection)
    if found.ready:
        return
    if found.current is None:
        raise DatabaseNotReady(f"the database does not have Drawdown tables. {ANOTHER}. Otherwise run `drawdown init`")
    if not sa.inspect(connection).has_table("buckets"):
        raise DatabaseNotReady(
            f"the database has tables of another program. {ANOTHER}. Otherwise run `drawdown init` on a new database"
        )
    if found.is_unreleased:
        raise DatabaseNotReady(
            f"the database has schema {found.current}, of a version before the first release, so it cannot be "
            "upgraded. Keep the database with the program that made it, and run `drawdown init` on a new database"
        )
    if not found.supported:
        raise DatabaseNotReady(
            f"the database has schema {found.current}, newer than this program's {found.head}. Upgrade Drawdown"
        )
    raise DatabaseNotReady(
        f"the database has schema {found.current}. Run `drawdown init` to upgrade it to {found.head}"
    )


def upgrade(engine: sa.Engine) -> Version:
    """Create or upgrade the schema. Return the version before.

    Errors: DatabaseNotReady for a database that is newer than this program, of a version before the first release, or
    read-only. DatabaseNotReady also if the folder of a SQLite file does not exist. Refused for a database of another
    program.
    """
    file = sqlite_file(engine)
    if file is not None and not file.parent.exists():
        raise DatabaseNotReady(f"the folder {file.parent} does not exist. {ANOTHER}. Otherwise create the folder")
    if file is not None:
        _create_private(file)
    with clear_errors(engine), engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": ONE_UPGRADE})
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{UPGRADE_LOCK_S}s'")
        _require_own(connection)
        before = version(connection)
        if not before.supported:
            require_ready(connection)
        if not before.ready:
            _bring_up_to_date(connection, new=before.current is None)
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text(_PIN_FUNCTIONS.replace(":", "\\:")))
    return before


def _require_own(connection: sa.Connection) -> None:
    """Check that a database is empty or Drawdown's.

    Errors: Refused for the database of another program, because a mistyped URL would otherwise add Drawdown's tables to
    it.
    """
    tables = sorted(sa.inspect(connection).get_table_names())
    if tables and "buckets" not in tables:
        named = ", ".join(tables[:NAMED]) + (f" and {len(tables) - NAMED:,} more" if len(tables) > NAMED else "")
        raise Refused(
            f"{place_of(connection.engine.url)} has tables of another program ({named}), so Drawdown did not "
            f"create tables. {ANOTHER}. Otherwise create a database for Drawdown alone"
        )


def _create_private(file: Path) -> None:
    """Create the file so that only its owner can read it.

    The umask does not matter. The file contains all usage and payments.

    SQLite gives the files beside it (WAL) the same rights. An existing file is not changed.
    """
    with suppress(OSError):  # the file exists, or SQLite reports the error better
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _bring_up_to_date(connection: sa.Connection, *, new: bool) -> None:
    """Create the newest schema in a new database, or migrate an older one."""
    from alembic import command  # imported here: few commands need it, and it takes a tenth of a command's start
    from alembic.config import Config

    from drawdown.schema.create import create_schema

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    if new:
        create_schema(connection)
        command.stamp(config, REVISIONS[-1])
    else:
        command.upgrade(config, REVISIONS[-1])


def bucket_of(org_id: str) -> int:
    """Return the fixed bucket of an organisation.

    The bucket is the same on all machines, versions and databases.
    """
    return zlib.crc32(org_id.encode("utf-8", "surrogatepass")) % BUCKETS
