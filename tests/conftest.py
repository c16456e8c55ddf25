"""What all tests share: a fresh database of each kind, and a fleet to bill."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path

import hypothesis
import psycopg
import pytest
import sqlalchemy as sa
import structlog

from drawdown.schema.database import connect, write
from drawdown.schema.migrate import upgrade
from tests import compiled, installed, leftovers, one_thread, reused, rewritten, template
from tests.integration.locked import require_lock
from tests.postgres_parse import misunderstood
from tests.postgres_server import Server
from tests.quick_sqlite import quicken
from tests.sqlite_databases import name_anew, named_anew
from tests.whole import WHOLE

gc.disable()
"""Until all tests are read: their assertions are rewritten as trees of small objects, and to look for garbage among
those took four fifths of the time."""
SELDOM = (50_000, 20, 100)
"""After how many new objects Python looks for garbage, instead of after 700: a test ends before most of it counts."""

os.environ["XDG_STATE_HOME"] = str(leftovers.folder("dd-state-"))
"""What a host remembers of its databases: nothing of the tests' in the home of whoever runs them."""

os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(leftovers.folder("dd-tmp-")))
"""Where `tmp_path` lies, in memory where there is room: a commit on SQLite waits for no disk. `--basetemp` keeps it."""

installed.share()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
"""A shell has interrupts ignored in what it starts in the background, which what tests start would inherit."""

UNTIMED = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile(
    "fixed", derandomize=True, database=None, deadline=None, suppress_health_check=UNTIMED
)
hypothesis.settings.load_profile("fixed")
"""The same examples each time, however slow the machine is; nothing is kept from one run to the next."""

QUICK = "tests/unit/"
"""Thousands of tests of milliseconds: to hand out each by itself costs more than to run it. A module is a group."""
OF_SOURCES = ("test_bounds", "test_layers", "test_named_commands", "test_registry", "test_rooms")
"""Modules that look at all of the product's source: one process parses it for all of them."""
FIRST = (
    "unit", "integration", "contract", "stateful", "server", "migration", "simulation", "interleave", "deploy",
    "acceptance", "client", "benchmarks", "crash", "browser",
)  # fmt: skip
"""What is run first: most for its time. Servers, clients and browsers come last: a browser beside kills is late."""
ON_POSTGRES = "on_postgres"
POSTGRES = {"postgres", "postgres_url", "postgres_server"}
"""Fixtures of a test that starts PostgreSQL."""
BOTH = "both_databases"
"""The mark of a test or module that runs on PostgreSQL as well."""

one_thread.install()
reused.install()

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


def pytest_configure(config: pytest.Config) -> None:
    """Before anything is read."""
    rewritten.compile_share(config)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In which groups, and what last; what needs PostgreSQL is chosen by `-k on_postgres`, or left out."""
    for item in items:
        if _is_on_postgres(item):
            item.extra_keyword_matches.add(ON_POSTGRES)
        if item.get_closest_marker("xdist_group") is not None:
            continue
        if item.path.stem in OF_SOURCES:
            item.add_marker(pytest.mark.xdist_group("sources"))
        elif item.nodeid.startswith(QUICK):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=lambda item: FIRST.index(item.nodeid.split("/")[1]))


def _is_on_postgres(item: pytest.Item) -> bool:
    given = getattr(getattr(item, "callspec", None), "params", {})
    taken = getattr(item, "fixturenames", ())
    return given.get("database_url") == "postgresql" or not POSTGRES.isdisjoint(taken)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the databases of a test: SQLite, and PostgreSQL as well if it is marked or in `make test-whole`."""
    if "database_url" not in metafunc.fixturenames:
        return
    marks = list(metafunc.definition.iter_markers())
    if not any(mark.name == "parametrize" and "database_url" in mark.args[0] for mark in marks):
        both = WHOLE or any(mark.name == BOTH for mark in marks)
        metafunc.parametrize("database_url", ["sqlite", "postgresql"] if both else ["sqlite"], indirect=True)


def pytest_collection_finish() -> None:
    """What was read by now stays until the end: whoever collects garbage looks at what a test made."""
    gc.freeze()
    gc.set_threshold(*SELDOM)
    gc.enable()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a real PostgreSQL server of this test session, on a socket."""
    with closing(Server()) as server:
        yield server.url


@cache
def _line(server: str) -> psycopg.Connection:
    """To make and drop databases by: a new connection for each costs as much as dropping one."""
    return psycopg.connect(server, autocommit=True)


def _do(server: str, statement: str) -> None:
    try:
        _line(server).execute(statement.encode())
    except psycopg.OperationalError:
        if not _line(server).closed:
            raise
        _line.cache_clear()
        _line(server).execute(statement.encode())


def _new_database(server: str, name: str, template: str = "template1") -> str:
    _do(server, f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
    url = sa.make_url(server).set(database=name)
    return url.render_as_string(hide_password=False)


_counter = iter(range(1_000_000))
MIGRATED = "migrated"


def _migrated(url: str) -> None:
    made = connect(url)
    upgrade(made)
    made.dispose()


@pytest.fixture(scope="session")
def migrated_sqlite() -> Path:
    """A migrated, empty database file to copy."""
    path = leftovers.folder("dd-sqlite-") / "drawdown.db"
    path.write_bytes(template.content())
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: str) -> Iterator[str]:
    """Return the name of a migrated, empty database to copy.

    In the end its server must be able to plan each statement that this process ran on SQLite.
    """
    url = _new_database(postgres_server, MIGRATED)
    _migrated(url)
    yield MIGRATED
    assert misunderstood(url) == [], "statements that ran on SQLite, and that PostgreSQL cannot plan"


def opened(url: str) -> sa.Engine:
    """A copy, as a database of its own."""
    made = connect(url)
    if made.dialect.name == "sqlite":
        quicken(made)
    else:
        write(made, name_anew)
    compiled.share(made)
    require_lock(made)
    return made


def _for_a_test(server: str, template: str) -> Iterator[str]:
    """A new database that is dropped after its test: a thousand of them would fill the memory that they lie in."""
    name = f"t{os.getpid()}_{next(_counter)}"
    yield _new_database(server, name, template)
    _do(server, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


COPIES = {"home_engine": "home", "filled_engine": "filled", "engine": "migrated"}
"""What a test takes of its database, and which one that is a copy of."""


@cache
def _content(path: Path) -> bytes:
    return path.read_bytes()


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return the URL of an empty database, migrated if the test takes `engine`; see `pytest_generate_tests`."""
    of = next((name for taken, name in COPIES.items() if taken in request.fixturenames), None)
    if request.param == "sqlite":
        if of is None:
            yield f"sqlite:///{tmp_path}/drawdown.db"
            return
        path = reused.lend(named_anew(_content(request.getfixturevalue(f"{of}_sqlite"))))
        yield f"sqlite:///{path}"
        reused.give_back(path)
        return
    template = "template1" if of is None else request.getfixturevalue(f"{of}_postgres")
    yield from _for_a_test(request.getfixturevalue("postgres_server"), template)


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest, postgres_server: str) -> Iterator[str]:
    """An empty PostgreSQL database; migrated for a test that also takes `postgres`."""
    migrated = "postgres" in request.fixturenames
    template = request.getfixturevalue("migrated_postgres") if migrated else "template1"
    yield from _for_a_test(postgres_server, template)


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    """A migrated, empty database of each kind."""
    made = opened(database_url)
    yield made
    made.dispose()


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[sa.Engine]:
    """A migrated, empty PostgreSQL database."""
    made = opened(postgres_url)
    yield made
    made.dispose()
