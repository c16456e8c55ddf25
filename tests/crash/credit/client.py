"""One client of a siege: it has its requests run on credit, one after another, and may be killed at any moment.

Guarantee: what it gives again has the same key and the same content. An end is written into its journal after the
answer, in one line; a client that takes over reads it, and gives everything again that has no end there.
"""

from __future__ import annotations

import heapq
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger import reservations
from drawdown.ledger.reservations import Denied, Reservation
from drawdown.schema.audit import By
from drawdown.schema.database import connect, read
from drawdown.schema.errors import DatabaseBusy
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.executions import actions as executions
from tests.crash.credit.requests import AHEAD_MS, Planned
from tests.crash.credit.shared import Board
from tests.crash.observer import Observer

BUSY_TRIES, BUSY_S = 3_000, 0.01
"""On SQLite one writes at a time, and a server that was struck is away: how long a client goes on asking."""
MAY_REFUSE: Final = frozenset({"no_credit", "halted"})


class Client:
    """Every `clients`-th request is its own."""

    def __init__(self, number: int, folder: Path, url: str, observer: Observer, made: Sequence[Planned]) -> None:
        self.number, self.observer, self.engine = number, observer, connect(url)
        self.board = Board(folder)
        self.requests = made
        self.journal = folder / f"client-{number}.journal"
        self.ended = {one["line"]: one for one in records(self.journal)}
        self._out = os.open(self.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.waiting: list[tuple[int, int, int]] = []
        """Runs that were left, and are settled late: when, their places, and the parts that were drawn."""

    def work(self) -> int:
        for place in range(self.number, len(self.requests), self.board.clients):
            self.board.come(self.number, place)
            self._late()
            one = self.requests[place]
            before = self.ended.get(one.line)
            if before is None:
                before = self._run(one)
            if before["end"] == "left" and one.end == "late" and not before["tried"]:
                heapq.heappush(self.waiting, (before["until"] + MINUTE_MS, place, before["parts"]))
        self.board.come(self.number, len(self.requests))
        while self.waiting:
            self._late()
            time.sleep(0.01)
        return 0

    def _late(self) -> None:
        while self.waiting and self.waiting[0][0] <= self.board.now_ms():
            _, place, parts = heapq.heappop(self.waiting)
            self._end(self.requests[place], parts, "settled")

    def _run(self, one: Planned) -> dict[str, Any]:
        """From the preview to its end; what the journal keeps."""
        while one.metered and self.board.now_ms() < one.at_ms - AHEAD_MS:
            time.sleep(0.01)  # the last of all clients waits for nobody
        shown = self._read(lambda c: executions.preview(c, one.request, self.board.now_ms()))
        assert shown.amount_micro in (None, one.micro(one.estimate)), f"{one.key}: previewed as {shown}"
        try:
            accepted = self._act("accept", lambda c: executions.accept(c, one.key, one.request, self.by))
        except Denied as denied:
            assert denied.code in MAY_REFUSE and denied.step is not None, f"{one.key}: {denied.code}, {denied}"
            return self._note(one, "refused", 0, None)
        for number, quantity in enumerate(one.parts):
            said = self._drawn(one, number, quantity)
            if said == "ended":
                return self._found_ended(one, number)
            if said == "no room":
                return self._end(one, number, "given up")
        if one.end in ("left", "late"):
            return self._note(one, "left", len(one.parts), self._row(one) or accepted.reservation)
        return self._end(one, len(one.parts), one.end)

    def _drawn(self, one: Planned, number: int, quantity: int) -> str:
        cost = one.cost(quantity)
        assert cost is not None

        def draw() -> Any:
            return self._act("draw", lambda c: executions.draw(c, one.key, number, cost, self.by))

        try:
            draw()
        except Denied as denied:
            if denied.code == "ended":
                return "ended"
            assert denied.code == "beyond_hold" and one.overage == "refuse", f"{one.key}: {denied.code}, {denied}"
            if not self._extended(one):
                return "no room"
            try:
                draw()
            except Denied as again:
                assert again.code == "ended", f"{one.key}: {again.code}, {again}"
                return "ended"
        return "drawn"

    def _extended(self, one: Planned) -> bool:
        """Whether it may be as much as it will be."""
        whole = sum(map(one.micro, (*one.parts, one.last)))
        try:
            self._act("extend", lambda c: executions.extend(c, one.key, max(whole, 1), None, self.by))
        except Denied as denied:
            assert denied.code in ("no_credit", "ended"), f"{one.key}: {denied.code}, {denied}"
            return False
        return True

    def _found_ended(self, one: Planned, parts: int) -> dict[str, Any]:
        """Its client was dead for longer than it lived; or had given it up, and died before it said so."""
        row = self._row(one)
        assert row is not None
        if row.state == "released":
            return self._end(one, parts, "given up")
        return self._note(one, "left", parts, row) if one.end == "left" else self._end(one, parts, "settled")

    def _end(self, one: Planned, parts: int, end: str) -> dict[str, Any]:
        """Settle it, or give it up; what it may not be charged for lack of room is given up, or left where it is."""
        cost = None if end == "given up" else one.cost(one.total)

        def work(connection: sa.Connection) -> object:
            if end == "settled":
                return executions.settle(connection, one.key, cost, self.by)
            return executions.release(connection, one.key, cost, self.by)

        try:
            self._act("settle" if end == "settled" else "release", work)
        except Denied as denied:
            row = self._row(one)
            assert row is not None and denied.code in ("beyond_hold", "ended"), f"{one.key}: {denied.code}, {denied}"
            if row.state == "released":  # as a client before this one gave it up
                return self._end(one, parts, "given up")
            if denied.code == "beyond_hold":
                assert one.overage == "refuse"
                if row.state == "held" and row.expires_ms > self.board.now_ms():
                    return self._end(one, parts, end if self._extended(one) else "given up")
                return self._note(one, "left", parts, row, tried=True)
            return self._end(one, parts, "settled")  # it expired meanwhile: it may be settled late
        return self._note(one, end, parts, self._row(one))

    def _row(self, one: Planned) -> Reservation | None:
        found: Reservation | None = self._read(lambda c: reservations.read(c, one.key))
        return found

    @property
    def by(self) -> By:
        return By(self.board.now_ms(), f"client-{self.number}", "the trace", "http")

    def _act(self, name: str, work: Callable[[sa.Connection], Any]) -> Any:
        """One transaction."""
        write = self.observer.written(name)
        return self._patiently(lambda: write(self.engine, work))

    def _read(self, work: Callable[[sa.Connection], Any]) -> Any:
        return self._patiently(lambda: read(self.engine, work))

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        """The answer; asked for again while the database is busy, away, or gave none."""
        for _ in range(BUSY_TRIES):
            try:
                return ask()
            except DatabaseBusy:
                self.observer.note("busy")
                time.sleep(BUSY_S)
        raise AssertionError(f"the database was busy {BUSY_TRIES} times")

    def _note(
        self, one: Planned, end: str, parts: int, row: Reservation | None, *, tried: bool = False
    ) -> dict[str, Any]:
        """`tried`: it was to be settled late, and may not be charged that much."""
        found = {
            "line": one.line,
            "end": end,
            "parts": parts,
            "held": 0 if row is None else row.amount_micro,
            "until": 0 if row is None else row.expires_ms,
            "tried": tried,
        }
        os.write(self._out, f"{json.dumps(found)}\n".encode())
        return found


def records(journal: Path) -> list[dict[str, Any]]:
    """The ends in a journal; the last of a line counts."""
    return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
