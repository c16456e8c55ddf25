"""The rights on PostgreSQL.

Drawdown creates three roles that cannot log in. You make logins members of these roles.

Guarantee: a host inserts samples, and the database writes their arrival. A host writes only the sandboxes of the cell
that its login is named after, and cannot read other data. A reader cannot write. A worker can do all that Drawdown's
commands do. Only the owner of the tables can change the schema or disable a guard.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from drawdown.schema.database import clear_errors
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.migrate import require_ready
from drawdown.schema.tables.columns import sample_columns
from drawdown.schema.tables.whole import metadata

HOST: Final = "drawdown_host"
READ: Final = "drawdown_read"
WORKER: Final = "drawdown_worker"
OF_CELL: Final = "drawdown_cell_"
"""Prefix of the logins of cells.

A login of this prefix and a cell's id can write that cell's sandboxes. PostgreSQL cuts names at 63 bytes. A login with
a cut name cannot write sandboxes.
"""

DELETED_FROM: Final = (
    "assignments", "attempts", "backfill_events", "batch_files", "batch_sources", "cells", "console_acts",
    "console_failures", "console_sessions", "dirty_windows", "halts", "high_spenders", "invalid_items",
    "my_sessions", "pending_usage", "provider_when_down", "pushes", "quarantine_closed", "run_blocks", "usage_samples",
    "used_signatures", "webhooks",
)  # fmt: skip
"""Tables from which Drawdown's own commands delete rows, within the guards."""
UNREAD: Final = ("console_users",)
"""Tables that a reader cannot read, because they have hashes of passwords."""

_ROLES = ", ".join((HOST, READ, WORKER))
_OWN = f"'{OF_CELL}' || cell_id = current_user"
_HEAD = """-- Drawdown's roles on PostgreSQL; safe to repeat. To be run by the owner of the tables, who may make roles.
-- Logins are yours to make, for example:
--   CREATE ROLE "drawdown_cell_cell-1" LOGIN PASSWORD '…' IN ROLE drawdown_host;   -- the hosts of the cell cell-1
--   CREATE ROLE grafana LOGIN PASSWORD '…' IN ROLE drawdown_read;
--   CREATE ROLE drawdown_ticks LOGIN PASSWORD '…' IN ROLE drawdown_worker;         -- tick, run, watch, serve
"""


def script() -> str:
    """Return the script that makes the roles, for psql."""
    return "\n".join((_HEAD, "BEGIN;", *(f"{statement};" for statement in statements()), "COMMIT;"))


def apply(engine: sa.Engine) -> None:
    """Make the roles and grant them exactly these rights, in one transaction.

    Errors: UsageError on SQLite, which does not have users. Refused if this user may not make roles. DatabaseNotReady
    for another schema.
    """
    require_roles(engine)
    try:
        with clear_errors(engine), engine.begin() as connection:
            require_ready(connection)
            for statement in statements():
                connection.exec_driver_sql(statement)
    except Exception as error:
        if "42501" in (getattr(cause, "sqlstate", None) for cause in _causes(error)):
            raise Refused(
                "this user cannot create the roles. Only a superuser, or the owner of the tables with CREATEROLE, can. "
                "Ask an administrator to run the SQL that `drawdown init --roles` prints"
            ) from error
        raise


def require_roles(engine: sa.Engine) -> None:
    """Check that the database has roles. Errors: UsageError on SQLite."""
    if engine.dialect.name != "postgresql":
        raise UsageError(
            "SQLite does not have roles. Write access to its file allows everything. Keep the file to one user (mode "
            "0600), "
            "or use PostgreSQL"
        )


def statements() -> tuple[str, ...]:
    """Return the statements that make the roles.

    The statements also revoke rights that an earlier version granted.
    """
    tables, read = (", ".join(sorted(set(metadata.tables) - set(but))) for but in ((), UNREAD))
    return (
        *(_role(name) for name in (HOST, READ, WORKER)),
        _on_database(f"GRANT USAGE ON SCHEMA ' || quote_ident(current_schema()) || ' TO {_ROLES}"),
        _on_database(f"GRANT TEMPORARY ON DATABASE ' || quote_ident(current_database()) || ' TO {WORKER}"),
        f"REVOKE ALL ON {tables}, alembic_version, ledger_lines FROM {_ROLES}",
        f"GRANT INSERT ({', '.join(column.name for column in sample_columns())}) ON usage_samples TO {HOST}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON sandboxes TO {HOST}",
        *_own_sandboxes(),
        f"GRANT SELECT ON {tables}, alembic_version, ledger_lines TO {WORKER}",
        f"GRANT SELECT ON {read}, alembic_version, ledger_lines TO {READ}",
        f"GRANT INSERT, UPDATE ON {tables} TO {WORKER}",
        f"REVOKE UPDATE ON usage_samples FROM {WORKER}",
        f"GRANT DELETE ON {', '.join(DELETED_FROM)} TO {WORKER}",
        f"GRANT USAGE ON SEQUENCE {', '.join(_sequences())} TO {WORKER}",
        _of_cluster(),
    )


def _of_cluster() -> str:
    """Return the grants on the schema of `drawdown worker`, if it exists.

    Its engine stores jobs there, and no bills.
    """
    where = "IN SCHEMA drawdown_cluster TO"
    return (
        "DO $$ BEGIN IF to_regnamespace('drawdown_cluster') IS NOT NULL THEN "
        f"GRANT USAGE ON SCHEMA drawdown_cluster TO {READ}, {WORKER}; "
        f"GRANT SELECT ON ALL TABLES {where} {READ}; "
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES {where} {WORKER}; "
        f"GRANT USAGE ON ALL SEQUENCES {where} {WORKER}; "
        "END IF; END $$"
    )


def _sequences() -> list[str]:
    """Return the sequences of the keys, by PostgreSQL's names."""
    counted = (table.autoincrement_column for table in metadata.tables.values())
    return sorted(f"{column.table.name}_{column.name}_seq" for column in counted if column is not None)


def _role(name: str) -> str:
    return (
        f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{name}') THEN "
        f"CREATE ROLE {name} NOLOGIN; END IF; END $$"
    )


def _on_database(statement: str) -> str:
    """Return a statement that names the present schema or database."""
    return f"DO $$ BEGIN EXECUTE '{statement}'; END $$"


def _own_sandboxes() -> tuple[str, ...]:
    """Return the policies of sandboxes.

    They restrict hosts, and are open for all other roles.

    If a policy hid sandboxes from a worker, the worker would not see running sandboxes, and would not halt
    organisations.
    """
    return (
        "ALTER TABLE sandboxes ENABLE ROW LEVEL SECURITY",
        "DROP POLICY IF EXISTS sandboxes_of_all ON sandboxes",
        "CREATE POLICY sandboxes_of_all ON sandboxes USING (true)",
        "DROP POLICY IF EXISTS sandboxes_of_own_cell ON sandboxes",
        f"CREATE POLICY sandboxes_of_own_cell ON sandboxes AS RESTRICTIVE TO {HOST} USING ({_OWN})",
    )


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None:
        found += [error, *filter(None, [getattr(error, "orig", None)])]
        error = error.__cause__
    return found
