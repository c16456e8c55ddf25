"""Consoles to look at: one server in a thread for each state that pages have, on databases of SQLite.

Guarantee: the clock stands, so that a page is the same each time; every text that others choose is a hostile one
somewhere.
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import sqlalchemy as sa
import uvicorn

from drawdown.events.envelope import UsageEvent
from drawdown.providers.http import Http
from drawdown.schema.database import connect, write
from drawdown.schema.errors import DatabaseBusy
from drawdown.schema.units import DAY_MS, MICRO, WINDOW_MS
from drawdown.server.app import Server
from drawdown.server.services import NobodyThere, Services
from drawdown.server.settings import MySettings, OidcSettings, ServerSettings
from drawdown.worker.access import my_sessions
from drawdown.worker.access import people as console_users
from drawdown.worker.access import sessions as console_sessions
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.terms import Change, PlanLimit, Wish
from drawdown.worker.halts import cells
from drawdown.worker.jobs import queue
from drawdown.worker.jobs.job_payloads import ReplayJob
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.provider import actions as providers
from drawdown.worker.replay.plan import ReplayScope
from drawdown.worker.usage import backfills
from drawdown.worker.wallets import actions as credit
from tests.browser import money_pages
from tests.server.ruled import rule
from tests.sqlite_databases import named_anew
from tests.world import T0, Fleet

HOSTILE: Final = "<b onmouseover=alert(1)>\"&'/../?x=1#"
"""An id that is none of a page's business, but for being shown."""
BIDI: Final = "usd\u200f-שלום-123"
"""It reads from right to left, and turns nothing around it."""
FORMULA: Final = '=HYPERLINK("http://x")'
NOW: Final = T0 + 9 * DAY_MS + 7 * WINDOW_MS
STORED: Final = "00:ff"
ROLES: Final = console_users.ROLES
MY: Final = "my"
"""Who came to the small face."""
NO_OIDC: Final = OidcSettings()
NOBODY: Final = NobodyThere()


def secret(number: int) -> str:
    return f"{number:043}"


class Site:
    """One server on one database, and the sessions of a person of each role."""

    def __init__(
        self, path: Path, *, filled: bool = True, demo: bool = False, oidc: OidcSettings = NO_OIDC, http: Http = NOBODY
    ) -> None:
        self.oidc, self.http = oidc, http
        path.write_bytes(named_anew(path.read_bytes()))
        self.engine = connect(f"sqlite:///{path}")
        self.fleet = Fleet(self.engine)
        self._sessions = itertools.count()
        if filled:
            fill(self.fleet)
        self.fleet.clock.at_ms = NOW
        write(self.engine, lambda c: people(c, self.fleet, demo=demo))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.console_engine = connect(f"sqlite:///{path}")
        self.server = self._made()
        config = uvicorn.Config(self.server.app, lifespan="off", log_level="error", ws="none", http="h11")
        self._uvicorn = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._uvicorn.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        while not self._uvicorn.started:
            time.sleep(0.01)

    def _made(self) -> Server:
        def nobody() -> Any:
            raise AssertionError("no step is asked for by a page")

        own = MySettings(secrets=("0" * 32,), contact=HOSTILE)
        settings = ServerSettings(console_url=self.url, requests_per_s=1_000_000, oidc=self.oidc, my=own)
        services = Services(
            engine=self.engine, clock=self.fleet.clock, settings=settings, providers={}, unasked={}, broken={},
            http=self.http, thread_kit=nobody, console_engine=self.console_engine,
        )  # fmt: skip
        return Server(services)

    def session(self, role: str) -> str:
        """A new session of the person of this role; of somebody of acme's own, where that is no role here."""
        made = secret(100 + next(self._sessions))
        if role == MY:
            who = my_sessions.visitor("acme", BIDI)
            write(self.engine, lambda c: my_sessions.enter(c, made, who, made, "192.0.2.1", NOW))
            return made
        write(self.engine, lambda c: console_sessions.begin(c, role, STORED, made, "192.0.2.1", NOW))
        return made

    @property
    def console(self) -> Any:
        return self.server._console

    @contextmanager
    def fail(self) -> Iterator[None]:
        """Meanwhile no page can read its database."""
        with patch.object(self.console, "look", _down), patch.object(vars(self.console)["_my"], "_look", _down):
            yield

    def close(self) -> None:
        self._uvicorn.should_exit = True
        self._thread.join(10)
        self.server.close()
        self.engine.dispose()
        self.console_engine.dispose()


async def _down(_work: object) -> None:
    raise DatabaseBusy("the database does not answer or is busy, and uncommitted changes are lost. Try again")


def people(connection: sa.Connection, fleet: Fleet, *, demo: bool) -> None:
    """A person of each role, who has a password; and eve, who has a link."""
    for number, role in enumerate(ROLES):
        console_users.add(connection, role, role, secret(number), fleet.by)
        console_users.set_password(connection, secret(number), STORED, NOW)
    console_users.add(connection, "eve", "viewer", secret(9), fleet.by)
    if demo:
        console_users.mark_demo(connection, NOW)


def fill(fleet: Fleet) -> None:
    """Nine days of use, runs, somebody who is halted, stopped, in debt; ids of all shapes."""
    write(fleet.engine, lambda c: credit.set_plan_limit(c, "team", 20, fleet.by))
    names = ("acme", "initech", HOSTILE, BIDI, FORMULA)
    fleet.assign(*names, from_ms=T0)
    for number, (name, amount) in enumerate({"acme": 100, HOSTILE: 5, BIDI: 5, FORMULA: 5}.items()):
        given = partial(
            credit.grant, customer_id=name, amount_micro=amount * MICRO, by=fleet.by, key=f"k{number}", plan="team"
        )
        write(fleet.engine, given)
    for day in range(9):
        for hour in (1, 13):
            at = T0 + day * DAY_MS + hour * 3_600_000 + 5
            fleet.sample("acme", at, 3_600, 1024, sandbox=HOSTILE)
            fleet.sample("acme", at, 1_800, 4096)
            fleet.sample(HOSTILE, at, 60)
        fleet.tick(T0 + (day + 1) * DAY_MS)
    fleet.sample("initech", T0 + 8 * DAY_MS, 60)
    fleet.sample("nobody's", T0 + 8 * DAY_MS, 60)
    rule(fleet, hostile=HOSTILE)
    fleet.tick(NOW - WINDOW_MS)
    run = Request("acme", 5 * MICRO, project="site")
    write(fleet.engine, lambda c: executions.accept(c, "run-1", run, fleet.by))
    write(fleet.engine, lambda c: guard_terms.set_metric(c, "idea.create", Change(phase=3), fleet.by))
    write(fleet.engine, lambda c: guard_terms.set_limit(c, PlanLimit("idea.create", "*", "month", 1), fleet.by))
    for key in ("idea-1", "idea-2"):
        use = partial(guard.consume, key=key, wish=Wish("acme", "idea.create", 1), by=replace(fleet.by, now_ms=NOW))
        write(fleet.engine, use)
    write(fleet.engine, lambda c: orgs.halt(c, [BIDI], replace(fleet.by, reason=HOSTILE)))
    money_pages.fill(fleet, HOSTILE)
    wait(fleet)


def wait(fleet: Fleet) -> None:
    """What on call looks at: cells, one of which does not answer; a push in doubt and one refused; a sample whose time
    is in seconds; an event that waits in a backfill; a provider that is paused; a replay that is ordered."""
    write(fleet.engine, lambda c: cells.set_cell(c, "cell-1", "http://cell-1:8080", fleet.by, new=True))
    for name, cell in ((BIDI, "cell-1"), (HOSTILE, f"cell {FORMULA}")):
        values = {"sandbox": f"box of {name}", "org": name, "cell": cell}
        fleet.write(
            "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES (:sandbox, :org, :cell, 'running')",
            values,
        )
    fleet.cells.failing.add("cell-1")
    fleet.tick()
    late = {"id": HOSTILE, "org": "acme", "now": fleet.clock.at_ms}
    fleet.write(
        "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, cpu_count, interval_s, ts, "
        "ingested_at) VALUES (:id, :org, 's', 'cell-1', 1024, 1, 60, 1767225600, :now)",
        late,
    )
    at = T0 + 8 * DAY_MS
    write(fleet.engine, lambda c: backfills.open_backfill(c, "june", "acme", at, at + DAY_MS, fleet.by))
    event = UsageEvent("app", "e-1", "page.render", "acme", 3, at + 1)
    write(fleet.engine, lambda c: backfills.stage(c, "june", [event], fleet.clock.at_ms))
    fleet.sample("acme", NOW - 2 * WINDOW_MS, 60)
    fleet.sample(HOSTILE, NOW - 2 * WINDOW_MS, 60)
    write(fleet.engine, lambda c: providers.pause(c, "embedded", fleet.by))
    fleet.tick(NOW - 1)
    for name, state in (("acme", "in_doubt"), (HOSTILE, "rejected")):
        fleet.write(
            "UPDATE pushes SET state = :state, last_error = :error WHERE org_id = :org AND state = 'due'",
            {"state": state, "error": HOSTILE, "org": name},
        )
    asked = ReplayJob(ReplayScope((HOSTILE,)), T0, T0 + DAY_MS)
    write(fleet.engine, lambda c: queue.place(c, asked, replace(fleet.by, reason=HOSTILE)))
