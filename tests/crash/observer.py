"""Watches one real process from inside: writes down each step it begins and ends, and ends or holds it there when told.

Production code has no hooks for this: the functions that do effects are replaced, in this process alone, by ones that
leave a mark before, in the middle (worked, not committed) and after.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import sqlalchemy as sa

from drawdown.providers import embedded
from drawdown.schema import database
from drawdown.worker.engine import runner
from drawdown.worker.engine.calls import Calls
from drawdown.worker.engine.effects import (
    AskWhoFills,
    ChargeMoney,
    CheckCustomers,
    Effect,
    LoadWitness,
    LookUp,
    LookUpMoney,
    OnDisk,
    Push,
    ReadCells,
    ReadCosts,
    ReadCustomers,
    ReadDrawn,
    ReadTotals,
    RunTogether,
    SaveWitness,
    SendHalts,
    SendHooks,
    Transaction,
)
from drawdown.worker.sources.samples import importer

HELD_S: Final = 60.0
"""Nobody is held for longer, whatever became of the controller."""
Work = Callable[[sa.Connection], Any]
_NAMES: Final = {
    Push: "push",
    LookUp: "look_up",
    ReadCustomers: "read",
    ReadTotals: "totals",
    ReadDrawn: "drawn",
    ReadCosts: "costs",
    ReadCells: "cells",
    CheckCustomers: "check",
    SendHalts: "halts",
    SendHooks: "hooks",
    ChargeMoney: "pay",
    LookUpMoney: "ask_pay",
    AskWhoFills: "ask_fills",
    LoadWitness: "recall",
    SaveWitness: "remember",
}


class _Write(Protocol):
    def __call__(self, engine: sa.Engine, work: Work, *, rollback: bool = False) -> Any: ...


@dataclass
class Observer:
    """`log` gets a line a mark; the file `order` says what to do at which mark: `kill`, `hold` or `pass`; `slow` waits
    at marks.

    A process that is held says by which backend of the database, and waits until the order it took is gone.
    """

    log: Path
    order: Path | None = None
    slow: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._out = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(self, text: str) -> None:
        """One line, in the file before this returns, whatever becomes of the process."""
        os.write(self._out, f"{text}\n".encode())

    def mark(self, when: str, name: str, connection: sa.Connection | None = None) -> None:
        """`begin`, `inside` or `end` of a step."""
        at = f"{when} {name}"
        self.note(at)
        if at in self.slow:
            time.sleep(self.slow[at])
        if self.order is None:
            return
        if self._took(self.order, f"kill {at}"):
            self.note(f"killed {at}")
            os.kill(os.getpid(), signal.SIGKILL)
        elif self._took(self.order, f"pass {at}"):
            self.note(f"passed {at}")
        elif self._took(self.order, f"hold {at}"):
            self.note(f"held {at} backend {_backend(connection)}")
            self._wait()

    def _took(self, order: Path, text: str) -> bool:
        """Whether this process is the one that the order is for: the first to get here takes it."""
        try:
            if order.read_text() != text:
                return False
            order.rename(self.taken)
        except FileNotFoundError:
            return False
        return True

    @property
    def taken(self) -> Path:
        return self.log.with_suffix(".order")

    def _wait(self) -> None:
        until = time.monotonic() + HELD_S
        while self.taken.exists() and time.monotonic() < until:
            time.sleep(0.005)
        self.note("released")

    def _work(self, name: str, work: Work, connection: sa.Connection) -> Any:
        result = work(connection)
        self.mark("inside", name, connection)
        return result

    def written(self, name: str) -> _Write:
        def write(engine: sa.Engine, work: Work, *, rollback: bool = False) -> Any:
            self.mark("begin", name)
            try:
                return database.write(engine, partial(self._work, name, work), rollback=rollback)
            finally:
                self.mark("end", name)

        return write

    def install(self) -> None:
        """Replace what does effects: the runner's, the import's chunks, the embedded ledger's charges."""
        original = runner._do

        async def do(effect: Effect, world: runner.World, calls: Mapping[str, Calls]) -> Any:
            if isinstance(effect, RunTogether):
                return await original(effect, world, calls)
            name = effect.name if isinstance(effect, Transaction | OnDisk) else _NAMES[type(effect)]
            self.mark("begin", name)
            if isinstance(effect, Transaction):
                effect = Transaction(name, partial(self._work, name, effect.work), effect.rollback)
            try:
                return await original(effect, world, calls)
            finally:
                self.mark("end", name)

        vars(runner)["_do"] = do
        vars(importer)["write"] = self.written("chunk")
        vars(embedded)["write"] = self.written("charge")


def _backend(connection: sa.Connection | None) -> int:
    """The process of PostgreSQL that serves a connection; 0 where there is none."""
    driver = None if connection is None else connection.connection.driver_connection
    return int(driver.info.backend_pid) if driver is not None and hasattr(driver, "info") else 0


def open_steps(log: Path) -> list[str]:
    """The steps that a process had begun and not ended when its log broke off."""
    found: list[str] = []
    for line in log.read_text().splitlines() if log.exists() else ():
        when, _, name = line.partition(" ")
        if when == "begin":
            found.append(name)
        elif when == "end" and name in found:
            found.remove(name)
    return found
