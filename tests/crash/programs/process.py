"""What a process of the siege does: it asks the guard, sends events, fills in the past, or ticks; and may be killed.

Guarantee: what it gives again has the same key and content. An end is written into its journal after the answer, in one
line; whoever takes over reads it, and gives everything again that has no end there.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from drawdown.cli.main import run
from drawdown.events.cloudevents import ReceivedEvent
from drawdown.ledger.reservations import Denied
from drawdown.schema.audit import By
from drawdown.schema.database import connect, read
from drawdown.schema.errors import DatabaseBusy, Refused
from drawdown.schema.units import DAY_MS
from drawdown.server.usage.intake import ReceivedBody
from drawdown.server.usage.items import EVENTS
from drawdown.worker.access.keys import ApiKey
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.use import Wish
from drawdown.worker.usage import backfills
from drawdown.worker.usage.backfills import show_backfill
from tests.crash.credit.shared import Board
from tests.crash.observer import Observer
from tests.crash.process import TRY_AGAIN
from tests.crash.programs.plans import PART, Ask, Fill, batches, fills, uses
from tests.crash.programs.planted import PLANTED

BUSY_TRIES, BUSY_S = 3_000, 0.01
HOLDS_MS: Final = 3 * DAY_MS
TICKER: Final = "ticker"


class Journal:
    """What a role has come to the end of, whoever played it."""

    def __init__(self, path: Path) -> None:
        self.ended = {one["key"]: one for one in records(path)}
        self._out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(self, key: str, **said: Any) -> None:
        os.write(self._out, f"{json.dumps({'key': key, **said})}\n".encode())


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Actor:
    """Who acts: one transaction at a time, again while the database is busy, away, or gave no answer."""

    def __init__(self, role: str, folder: Path, observer: Observer) -> None:
        self.role, self.observer = role, observer
        self.engine, self.board = connect(os.environ["DRAWDOWN_DATABASE_URL"]), Board(folder)
        self.journal = Journal(folder / f"{role}.journal")

    @property
    def by(self) -> By:
        return By(self.board.now_ms(), self.role, "the siege", "http")

    def act(self, name: str, work: Callable[[sa.Connection], Any]) -> Any:
        write = self.observer.written(name)
        return self._patiently(lambda: write(self.engine, work))

    def look(self, work: Callable[[sa.Connection], Any]) -> Any:
        return self._patiently(lambda: read(self.engine, work))

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        for _ in range(BUSY_TRIES):
            try:
                return ask()
            except DatabaseBusy:
                self.observer.note("busy")
                time.sleep(BUSY_S)
        raise AssertionError(f"the database was busy {BUSY_TRIES} times")


def _ask(actor: Actor, one: Ask) -> None:
    """A use, from the question to its end."""
    wish = Wish(one.org, one.metric, one.amount, None if one.end == "used" else HOLDS_MS)
    if one.end == "used":
        found = actor.act("consume", lambda c: guard.consume(c, one.key, wish, actor.by))
    else:
        found = actor.act("reserve", lambda c: guard.reserve(c, one.key, wish, actor.by))
    if found.decision != "block" and one.end != "used":
        end = guard.settle if one.end == "settled" else guard.release
        try:
            actor.act("settle", lambda c: end(c, one.key, one.actual, actor.by))
        except Denied as denied:
            raise AssertionError(f"{one} was refused its end: {denied}") from denied
    actor.journal.note(one.key, decision=found.decision)


def _send(actor: Actor, number: int, batch: list[Any]) -> None:
    """A batch, as the server stores it; each of its events was taken once, by now or before."""
    sent = ReceivedBody(b"", "", {}, ApiKey("app", ("events:write",), None), actor.board.now_ms())
    given = [ReceivedEvent(event, has_time=True) for event in batch]
    found = actor.act("intake", lambda c: EVENTS.store(c, given, sent))
    wrong = [one for one in found if one.status not in ("accepted", "duplicate")]
    assert not wrong, f"batch {number} of {actor.role} was answered {wrong}"
    actor.journal.note(f"{actor.role}-{number}", statuses=[one.status for one in found])


def _fill(actor: Actor, one: Fill) -> None:
    """Opened, staged, shown, closed by what was shown, and some taken back; from wherever it was left."""
    try:
        actor.act("open", lambda c: backfills.open_backfill(c, one.name, one.org, one.from_ms, one.to_ms, actor.by))
    except Refused:  # it was closed by the one before, which was killed then: without it, `show_backfill` finds none
        actor.observer.note("was closed before")
    state = actor.look(lambda c: show_backfill(c, one.name)).state
    for first in range(0, len(one.events) if state == "open" else 0, PART):
        part = one.events[first : first + PART]
        actor.act("stage", lambda c, part=part: backfills.stage(c, one.name, part, actor.board.now_ms()))  # type: ignore[misc]
    while state == "open":
        shown = actor.look(lambda c: backfills.diff(c, one.name)).hash
        try:
            actor.act("close", lambda c, shown=shown: backfills.close(c, one.name, shown, actor.by))  # type: ignore[misc]
        except Refused:
            actor.observer.note("looks again")
            time.sleep(BUSY_S)
        state = actor.look(lambda c: show_backfill(c, one.name)).state
    done = not one.reverted
    while not done:
        _, done = actor.act("revert", lambda c: backfills.revert(c, one.name, actor.by))
    actor.journal.note(one.name, reverted=one.reverted)


def work(role: str, number: int, folder: Path) -> int:
    """The whole life of one; returns its exit status."""
    kind, _, place = role.partition("-")
    observer = Observer(folder / f"{role}.{number}.log", folder / f"order.{kind}")
    backfills.REVERTED_AT_ONCE, backfills.TAKEN_AT_ONCE = 5, 5  # type: ignore[misc]
    if (bug := os.environ.get("CRASH_PLANTED", "")) != "":
        PLANTED[bug]()
    observer.install()
    observer.note("ready")
    if kind == TICKER:
        return _tick_on(folder, observer)
    told = json.loads((folder / "siege.json").read_text())
    actor = Actor(role, folder, observer)
    ended = actor.journal.ended
    if kind == "asker":
        for one in uses(told["seed"], int(place), told["uses"]):
            if one.key not in ended:
                _ask(actor, one)
    elif kind == "sender":
        for at, batch in enumerate(batches(told["seed"], int(place), told["batches"])):
            if f"{role}-{at}" not in ended:
                _send(actor, at, batch)
    else:
        for fill in fills(told["seed"], told["fills"]):
            if fill.name not in ended:
                _fill(actor, fill)
    return 0


def _tick_on(folder: Path, observer: Observer) -> int:
    board = Board(folder)
    while not (folder / "stop").exists():
        status = run(["--at", str(board.now_ms()), "tick"])
        observer.note(f"status {status}")
        if status not in (0, TRY_AGAIN):
            return status
        time.sleep(0.05)
    return 0
