"""What PostgreSQL is told for each transaction by itself: a pooler may drop what a connection asks for."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from drawdown.schema import database
from drawdown.schema.database import connect, read, write
from drawdown.schema.errors import DatabaseNotReady

BY_TURNS = True

WORSE = ("synchronous_commit = off", "lock_timeout = 0", "work_mem = '1MB'", "timezone = 'Asia/Kolkata'")


def told(connection: sa.Connection) -> list[str]:
    names = ("synchronous_commit", "lock_timeout", "work_mem", "timezone")
    return [str(connection.execute(sa.text(f"SHOW {name}")).scalar_one()) for name in names]


def test_each_transaction_has_its_settings_whatever_its_connection_has(postgres: sa.Engine) -> None:
    with postgres.connect() as connection:
        for setting in WORSE:
            connection.execute(sa.text(f"ALTER DATABASE {postgres.url.database} SET {setting}"))
        connection.commit()
    engine = connect(postgres.url.render_as_string(hide_password=False))
    for _ in range(2):  # the second time on a connection that was given back
        assert write(engine, told) == ["on", "1min", "64MB", "UTC"]
        assert read(engine, told) == ["on", "1min", "64MB", "UTC"]
    engine.dispose()


def test_a_connection_asks_for_nothing_as_it_starts(postgres: sa.Engine) -> None:
    """pgbouncer refuses `options`, unless it is told to drop them."""
    with postgres.connect() as connection:
        driver = connection.connection.dbapi_connection
        assert driver is not None
        assert "options" not in driver.info.get_parameters()


def test_nothing_runs_where_no_transaction_was_begun(postgres: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a pooler of single statements: what follows would run on another connection, without its settings."""
    monkeypatch.setattr(database, "PG_SETTINGS", ("lock_timeout=1s'; COMMIT; SET lock_timeout = '1s",))
    engine = connect(postgres.url.render_as_string(hide_password=False))
    with pytest.raises(DatabaseNotReady, match="pool transactions"):
        write(engine, told)
    engine.dispose()
