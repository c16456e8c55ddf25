"""What each page of the console may ask of the database: few statements, and no more of many rows than of few."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import httpx
import pytest
import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.schema.database import read, write
from drawdown.schema.units import MICRO, WINDOW_MS
from drawdown.server.console.pages import PAGES
from drawdown.server.console.screens.customers import orgs
from drawdown.server.console.session_auth import COOKIE
from drawdown.worker.access import keys as api_keys
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.orgs.lists import OrgFilter, list_orgs
from drawdown.worker.sources.events.store import take
from drawdown.worker.wallets import actions as credit
from tests.server.console_home import KIM, Home, secret
from tests.server.filled import Filled
from tests.server.program import key_of

pytestmark = pytest.mark.xdist_group("filled")
MOST_STATEMENTS: Final = 16
FEW, MANY = 10, orgs.PAGE_ROWS + 10
_asked: Final = set[str]()
"""By this process: whatever it asks only once was asked."""
FRAME: Final = re.compile(r"(BEGIN|SET|PRAGMA|COMMIT|ROLLBACK|SAVEPOINT|RELEASE)")
"""What makes the transaction that a page reads in, and is none of its questions."""


@pytest.fixture
def home(filled_engine: sa.Engine) -> Home:
    return Filled(filled_engine, copied=True)


def live(home: Home, first: int, upto: int) -> None:
    """These organisations use something: one in three on credit with a run, one in three halted, one in three assigned
    to nobody."""
    names, now, by = [f"org-{number:03}" for number in range(first, upto)], home.fleet.clock.at_ms, home.fleet.by
    home.fleet.assign(*(name for number, name in enumerate(names) if number % 3), from_ms=now - now % WINDOW_MS)

    def give(connection: sa.Connection) -> None:
        for name in names[1::3]:
            credit.grant(connection, name, 10 * MICRO, by, key=f"k-{name}", plan="team")
            executions.accept(connection, f"run-{name}", Request(name, MICRO), by)
        executions.accept(connection, f"metered-{first}", _metered(names[1]), by)
        told = [UsageEvent("shop", f"{name}-1", "order", name, 5, now) for name in names]
        take(connection, told, now)
        for name in names[::3]:
            api_keys.create(connection, key_of(name), name, ("guard",), by, new=True)

    write(home.engine, give)
    for number, name in enumerate(names):
        home.fleet.sample(name, now + 1, sandbox=f"box-{number}")
        home.fleet.sample(name, now + 2, memory_mb=77, sandbox=f"box-{number}")
    home.fleet.tick_windows(2)
    for number, name in enumerate(names):
        home.fleet.sample(name, home.fleet.clock.at_ms - 1000, sandbox=f"box-{number}")


def _metered(org: str) -> Request:
    return Request(org, MICRO, settled_by="metering", sandboxes=("box-1",))


def places() -> list[str]:
    """Every page, each of its tabs; of a page of one thing, what its example names."""
    found = []
    for page in PAGES:
        joined = "&" if page.example else "?"
        found += [f"{page.path}{page.example}{joined}tab={tab}" for tab in page.tabs] or [page.path + page.example]
    return [*found, "/console/orgs?within=7d", "/console/org?id=org-001"]


def statements(home: Home, paths: Sequence[str] = ()) -> dict[str, int]:
    """How many each page takes, once what is asked once a process was asked. `paths`: other than those of `places`."""
    seen: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if not FRAME.match(statement.lstrip()):
            seen.append(statement)

    async def visit(client: httpx.AsyncClient, _: Any) -> dict[str, int]:
        found = {}
        for path in paths or places():
            for _again in range(1 if path in _asked else 2):
                seen.clear()
                answer = await client.get(path, headers={"cookie": f"{COOKIE}={secret(KIM)}"})
                assert answer.status_code == 200, (path, answer.status_code, answer.text[-500:])
            found[path] = len(seen)
            _asked.add(path)
        return found

    sa.event.listen(home.engine, "before_cursor_execute", note)
    try:
        return home.ask(visit)
    finally:
        sa.event.remove(home.engine, "before_cursor_execute", note)


def test_console_page_statement_count_is_independent_of_row_count(home: Home) -> None:
    live(home, 0, FEW)
    few = statements(home)
    live(home, FEW, MANY)
    many = statements(home)
    assert {path: count for path, count in many.items() if count > MOST_STATEMENTS} == {}
    # Where there is something to price, the rates are read: the ledger's, and the providers'.
    assert {path: (few[path], count) for path, count in many.items() if count > few[path] + 2} == {}


def test_orgs_page_statement_count_is_independent_of_provider_count(home: Home) -> None:
    """As many statements for three providers as for one."""
    live(home, 0, FEW)
    before = statements(home, ("/console/orgs",))["/console/orgs"]
    for provider in ("autumn", "stripe"):
        home.fleet.assign(f"at-{provider}", provider=provider, from_ms=home.fleet.clock.at_ms - WINDOW_MS)
        home.fleet.sample(f"at-{provider}", home.fleet.clock.at_ms)
    home.fleet.tick_windows(2)
    listed = read(home.engine, lambda c: list_orgs(c, OrgFilter(), home.fleet.clock.at_ms)).orgs
    assert {one.billing_provider for one in listed} >= {"autumn", "embedded", "stripe"}
    assert statements(home, ("/console/orgs",))["/console/orgs"] == before
