"""A house with a server, on each kind of database."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.schema.database import connect
from tests import leftovers
from tests.conftest import _new_database, opened
from tests.patience import patience
from tests.quick_routes import quick_routes
from tests.server.console_home import Home, close_servers
from tests.server.filled import Filled
from tests.server.house import House
from tests.sqlite_databases import fresh


@pytest.fixture(scope="package", autouse=True)
def patient() -> Iterator[None]:
    """Also, FastAPI reads each endpoint once for all servers."""
    with patience(), quick_routes():
        yield


@pytest.hookimpl(tryfirst=True)  # before pytest reads which databases there are
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test here meets SQLite. One marked `both_databases` meets PostgreSQL, too: where locks or answers differ, and
    where each page and each way in is shown to work there at all. That PostgreSQL understands what the others say,
    `tests/postgres_parse.py` proves."""
    chosen = [mark for mark in metafunc.definition.iter_markers("parametrize") if "database_url" in mark.args[0]]
    if "database_url" in metafunc.fixturenames and not chosen and not _on_both(metafunc.definition):
        metafunc.definition.add_marker(pytest.mark.parametrize("database_url", ["sqlite"], indirect=True))


def _on_both(test: pytest.Item | pytest.Function) -> bool:
    return test.get_closest_marker("both_databases") is not None


@pytest.fixture
def house(engine: sa.Engine) -> Iterator[House]:
    made = House(engine)
    yield made
    made.server.close()


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[House]:
    """The same on SQLite alone, for what is decided before any database is asked."""
    engine = fresh(tmp_path / "drawdown.db")
    made = House(engine)
    yield made
    made.server.close()
    engine.dispose()


@pytest.fixture(scope="session")
def home_sqlite(migrated_sqlite: Path) -> Path:
    """A home's database to copy: to live what it lived takes ten times as long."""
    path = leftovers.folder("dd-home-") / "drawdown.db"
    shutil.copy(migrated_sqlite, path)
    _lived_in(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def home_postgres(postgres_server: str, migrated_postgres: str) -> str:
    """The name of one to copy."""
    _lived_in(_new_database(postgres_server, "home", migrated_postgres))
    return "home"


def _lived_in(url: str, home: type[Home] = Home) -> None:
    engine = connect(url)
    home(engine)
    engine.dispose()


@pytest.fixture
def home_engine(database_url: str) -> Iterator[sa.Engine]:
    """A home's database of each kind, for `Home(…, copied=True)`."""
    made = opened(database_url)
    yield made
    made.dispose()


@pytest.fixture(scope="session")
def filled_sqlite(migrated_sqlite: Path) -> Path:
    """A database in which each page has something to show, to copy."""
    path = leftovers.folder("dd-filled-") / "drawdown.db"
    shutil.copy(migrated_sqlite, path)
    _lived_in(f"sqlite:///{path}", Filled)
    return path


@pytest.fixture(scope="session")
def filled_postgres(postgres_server: str, migrated_postgres: str) -> str:
    """The name of one to copy."""
    _lived_in(_new_database(postgres_server, "filled", migrated_postgres), Filled)
    return "filled"


@pytest.fixture
def filled_engine(database_url: str) -> Iterator[sa.Engine]:
    """Such a database of each kind, for `Filled(…, copied=True)`."""
    made = opened(database_url)
    yield made
    made.dispose()


@pytest.fixture(autouse=True)
def closed_servers() -> Iterator[None]:
    yield
    close_servers()
