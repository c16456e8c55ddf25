"""What PostgreSQL is told for each transaction by itself: a pooler may drop what a connection asks for."""

from __future__ import annotations

from unittest.mock import Mock, patch

import pytest
import sqlalchemy as sa

from drawdown.schema import database
from drawdown.schema.database import connect, read, write
from drawdown.schema.errors import DatabaseNotReady
from drawdown.schema.sql import prepared

WORSE = ("synchronous_commit = off", "lock_timeout = 0", "work_mem = '1MB'", "timezone = 'Asia/Kolkata'", "jit = on")


def told(connection: sa.Connection) -> list[str]:
    names = ("synchronous_commit", "lock_timeout", "work_mem", "timezone", "jit")
    return [str(connection.execute(sa.text(f"SHOW {name}")).scalar_one()) for name in names]


def test_transaction_settings_override_database_settings(postgres: sa.Engine) -> None:
    with postgres.connect() as connection:
        for setting in WORSE:
            connection.execute(sa.text(f"ALTER DATABASE {postgres.url.database} SET {setting}"))
        connection.commit()
    engine = connect(postgres.url.render_as_string(hide_password=False))
    for _ in range(2):  # the second time on a connection that was given back
        assert write(engine, told) == ["on", "1min", "64MB", "UTC", "off"]
        assert read(engine, told) == ["on", "1min", "64MB", "UTC", "off"]
    engine.dispose()


def test_connection_does_not_send_startup_options(postgres: sa.Engine) -> None:
    """pgbouncer refuses `options`, unless it is told to drop them."""
    with postgres.connect() as connection:
        driver = connection.connection.dbapi_connection
        assert driver is not None
        assert "options" not in driver.info.get_parameters()


PREPARED = sa.text("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%42 AS asked%'")


def asked_twice(connection: sa.Connection) -> int:
    for _ in range(2):
        with prepared(connection):
            connection.execute(sa.text("SELECT 42 AS asked")).one()
        connection.execute(sa.text("SELECT 43 AS never")).one()
    assert connection.execute(sa.text(str(PREPARED).replace("42", "43"))).scalar_one() == 0
    return int(connection.execute(PREPARED).scalar_one())


def test_short_query_is_prepared_once_without_pooler(postgres: sa.Engine) -> None:
    assert read(postgres, asked_twice) == 1
    with postgres.connect() as connection, connection.begin():
        connection.connection.info["is_direct"] = False  # as behind a pooler, whose backends have other numbers
        assert asked_twice(connection) == 1, "what it has it keeps"
        connection.execute(sa.text("DEALLOCATE ALL"))
        assert asked_twice(connection) == 0


def test_pooler_is_detected_by_backend_pid(postgres: sa.Engine) -> None:
    with postgres.connect() as connection, prepared(connection):
        info = connection.connection.info
        assert info["is_direct"] is True
    with postgres.connect() as connection:
        driver = Mock(wraps=connection.connection.dbapi_connection, info=Mock(backend_pid=4711))
        del info["is_direct"]
        with patch.object(type(connection.connection), "dbapi_connection", driver), prepared(connection):
            assert connection.connection.info["is_direct"] is False and driver.prepare_threshold != 0


def test_write_outside_transaction_is_refused(postgres: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a pooler of single statements: what follows would run on another connection, without its settings."""
    monkeypatch.setattr(database, "PG_SETTINGS", ("lock_timeout=1s'; COMMIT; SET lock_timeout = '1s",))
    engine = connect(postgres.url.render_as_string(hide_password=False))
    with pytest.raises(DatabaseNotReady, match="pool transactions"):
        write(engine, told)
    engine.dispose()
