"""What all tests share: a fresh database of each kind, and a fleet to bill."""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
import time
from collections import defaultdict
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
from tests import compiled, leftovers
from tests.fresh import name_anew
from tests.integration.locked import require_lock
from tests.postgres_server import Server
from tests.whole import WHOLE

gc.disable()
"""Until all tests are read: their assertions are rewritten as trees of small objects, and to look for garbage among
those took four fifths of the time."""

os.environ["XDG_STATE_HOME"] = str(leftovers.folder("dd-state-"))
"""What a host remembers of its databases: nothing of the tests' in the home of whoever runs them."""

os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(leftovers.folder("dd-tmp-")))
"""Where `tmp_path` lies, in memory where there is room: a commit on SQLite waits for no disk. `--basetemp` keeps it."""

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
FIRST = (
    "unit", "integration", "contract", "stateful", "server", "migration", "simulation", "interleave", "deploy",
    "acceptance", "client", "benchmarks", "crash", "browser",
)  # fmt: skip
"""What is run first: most for its time. Servers, clients and browsers come last: a browser beside kills is late."""
BEGAN_S = time.monotonic()
WITHIN_S = 60 * 60
"""For `make test`; an idle machine is done long before. What is left then was not tested, and the run fails."""
TIME_IS_UP = "time was up"
SHARED = (
    "tests/acceptance/", "tests/benchmarks/", "tests/client/", "tests/crash/", "tests/integration/", "tests/migration/",
    "tests/server/",
)  # fmt: skip
"""Of these a share is run in `make test`: they are many, and each has its own database, or its own command."""
MOST_CASES = 2
"""Of one test that is run for each row of a table."""
MOST_PLANTED = 1
"""Of one test that is red for each of its planted bugs, wherever it stands: each is a small simulation."""
MOST_PAIRS = 12
"""Of the explorer's pairs, each a real PostgreSQL held after each statement."""
PAIRS = "tests/interleave/test_pairs.py::test_whatever_the_first_has_done_when_the_second_comes"
PLANTED = re.compile(r"::(test_a_planted_(bug|mistake)\w+|test_the_bug_is_caught|test_it_is_seen)\[")
DATABASES = ("sqlite", "postgresql")
TURNS = ("sqlite", "postgresql", *("sqlite",) * 4)
"""A test on PostgreSQL takes two and a half times as long."""

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is run, in which groups, and what last."""
    left_out = set() if WHOLE else _left_out(items)
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]
    for item in items:
        if item.nodeid.startswith(QUICK) and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=lambda item: FIRST.index(item.nodeid.split("/")[1]))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Nothing is begun that would keep `make test` from ending in time."""
    if not WHOLE and time.monotonic() - BEGAN_S > WITHIN_S:
        pytest.skip(TIME_IS_UP)


def _not_begun(config: pytest.Config) -> list[pytest.TestReport]:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    skipped = [] if terminal is None else terminal.stats.get("skipped", [])
    return [report for report in skipped if TIME_IS_UP in str(report.longrepr)]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run that left something out did not pass."""
    if session.exitstatus == pytest.ExitCode.OK and _not_begun(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How much was not run."""
    left = _not_begun(terminalreporter.config)
    if left:
        rooms = sorted({report.nodeid.split("/")[1] for report in left}, key=FIRST.index)
        terminalreporter.section("NOT ALL WAS RUN")
        terminalreporter.line(
            f"{len(left):,} tests, of {', '.join(rooms)}, were not begun within {WITHIN_S / 60:.0f} minutes: this "
            "machine is slow. Run `make test` on another one."
        )


def _left_out(items: list[pytest.Item]) -> set[pytest.Item]:
    """What `make test` leaves to `make test-whole`: of a long table of cases all but a fixed share, evenly chosen; and
    for each other test, and each case, one of the two databases, by TURNS: most of what they test is decided in Python,
    and their statements meet both all the same. What is neither in SHARED nor PLANTED is run whole."""
    tables = defaultdict[str, dict[str, dict[str, pytest.Item]]](lambda: defaultdict(dict))
    for item in items:
        if item.nodeid.startswith((*SHARED, PAIRS)) or PLANTED.search(item.nodeid):
            database = re.search(r"\b(sqlite|postgresql)\b", item.name)
            on = "" if database is None else database[0]
            tables[item.nodeid.partition("[")[0]][item.nodeid.replace(on, "", 1) if on else item.nodeid][on] = item
    left_out, turn = set[pytest.Item](), 0
    for name, table in tables.items():
        cases = list(table.values())
        most = MOST_PLANTED if PLANTED.search(f"{name}[") else MOST_PAIRS if name == PAIRS else MOST_CASES
        kept = {len(cases) * number // most for number in range(most)}
        for number, case in enumerate(cases):
            if len(cases) > most and number not in kept:
                left_out.update(case.values())
            elif len(case) == len(DATABASES):
                left_out.update(item for on, item in case.items() if on != TURNS[turn % len(TURNS)])
                turn += 1
    return left_out


def pytest_collection_finish() -> None:
    """What was read by now stays until the end: whoever collects garbage looks at what a test made."""
    gc.freeze()
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
    """A migrated, empty database file to copy: migrating anew takes thirty times as long."""
    path = leftovers.folder("dd-sqlite-") / "drawdown.db"
    _migrated(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: str) -> str:
    """The name of a migrated, empty database to copy."""
    _migrated(_new_database(postgres_server, MIGRATED))
    return MIGRATED


def opened(url: str) -> sa.Engine:
    """A copy, as a database of its own."""
    made = connect(url)
    compiled.share(made)
    write(made, name_anew)
    require_lock(made)
    return made


def _for_a_test(server: str, template: str) -> Iterator[str]:
    """A new database that is dropped after its test: a thousand of them would fill the memory that they lie in."""
    name = f"t{os.getpid()}_{next(_counter)}"
    yield _new_database(server, name, template)
    _do(server, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


COPIES = {"home_engine": "home", "filled_engine": "filled", "engine": "migrated"}
"""What a test takes of its database, and which one that is a copy of."""


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind; migrated for a test that also takes `engine`."""
    of = next((name for taken, name in COPIES.items() if taken in request.fixturenames), None)
    if request.param == "sqlite":
        path = tmp_path / "drawdown.db"
        if of is not None:
            shutil.copy(request.getfixturevalue(f"{of}_sqlite"), path)
        yield f"sqlite:///{path}"
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
