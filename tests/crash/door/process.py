"""What a process of a siege of the door does: a client records and sends, the server takes, the ticker bills meanwhile.

A client is a program that sends by our own client: it reads its usage in order, records it, and then notes how far it
came. One that was killed begins again where it had noted, and may record the last of it again, by the same ids.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any, Final, cast

from drawdown.cli.main import run
from drawdown.server.usage import intake
from drawdown_client import Client, Item, Result, Settings, World
from drawdown_client.connection import Line, _tls
from drawdown_client.outbox import Outbox
from tests.crash.credit.shared import Board
from tests.crash.door.planted import PLANTED
from tests.crash.door.usage import Used, usage
from tests.crash.observer import Observer
from tests.crash.process import TRY_AGAIN
from tests.server.program import key_of

SERVER, TICKER, SIEGE = "server", "ticker", "siege.json"
MOST_AT_ONCE: Final = 60
"""Items that a program records by one call."""
BATCHES: Final = (10, 50, 200, 1_000)
"""Of which a client's life has one, as the most items of a call."""
QUEUE: Final = 1_000
SPOOLS: Final = 2
"""Clients share a spool's name, so that one takes over what another left."""
LONGEST_PAUSE_S: Final = 0.3
PATIENCE_S: Final = 3_600.0
TICK_EVERY_S: Final = 0.5

_made: list[Used] = []


def prepare(folder: Path) -> None:
    """Make the usage, once for all that are forked."""
    import uvicorn  # noqa: F401 what the server imports first thing

    _tls()
    told = json.loads((folder / SIEGE).read_text())
    _made[:] = usage(told["trace"], told["seed"], rows=told["rows"]).all


def work(role: str, number: int, folder: Path) -> int:
    """The whole life of one; returns its exit status."""
    told = json.loads((folder / SIEGE).read_text())
    os.environ["DRAWDOWN_DATABASE_URL"] = told["url"]
    observer = Observer(folder / f"{role}.{number}.log", folder / f"order.{role.split('-')[0]}")
    if told["planted"]:
        PLANTED[told["planted"]]()
    observer.note("ready")
    if role == SERVER:
        vars(intake)["write"] = _marked(observer, "take", vars(intake)["write"])
        return _serve_on(told["port"])
    if role == TICKER:
        observer.install()
        return _tick_on(Path(told["place"]), observer)
    return _Program(int(role.split("-")[1]), number, told, observer).work()


def _marked(observer: Observer, name: str, write: Any) -> Any:
    """The same, with a mark before, in the middle and after."""

    def written(engine: Any, work: Any) -> Any:
        observer.mark("begin", name)
        try:
            return write(engine, lambda connection: observer._work(name, work, connection))
        finally:
            observer.mark("end", name)

    return written


def _serve_on(port: int) -> int:
    """As whoever watches over it: one that found no database is started again."""
    while (status := run(["serve", "--port", str(port)])) == TRY_AGAIN:
        time.sleep(TICK_EVERY_S)
    return status


def _tick_on(place: Path, observer: Observer) -> int:
    while not (place / "stop").exists():
        status = run(["tick"])
        observer.note(f"status {status}")
        if status not in (0, TRY_AGAIN):
            return status
        time.sleep(TICK_EVERY_S)
    return 0


class _Brisk:
    """In place of a random number: short pauses, so that a siege has many tries."""

    def uniform(self, low: float, high: float) -> float:
        return min(high, LONGEST_PAUSE_S)


class _Program:
    """One client's life."""

    def __init__(self, number: int, life: int, told: dict[str, Any], observer: Observer) -> None:
        self.number, self.told, self.observer = number, told, observer
        place = Path(told["place"])
        self.board = Board(place)
        self.dice = random.Random(f"{told['seed']}:{number}:{life}")
        self.mine = _made[number :: self.board.clients]
        self.spool = place / f"app{number % SPOOLS}.spool"
        self._out = os.open(place / f"client-{number}.journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def work(self) -> int:
        self._watch()
        settings = Settings(
            on_result=self._note, spool=self.spool, block_s=PATIENCE_S, queue_items=QUEUE, batch_ms=20,
            batch_items=self.dice.choice(self.told["batches"]), close_s=PATIENCE_S,
        )  # fmt: skip
        url = f"http://127.0.0.1:{self.told['proxy']}"
        world = World(jitter=cast(random.Random, _Brisk()))
        with Client(url, key_of(f"client-{self.number}"), settings, world=world) as client:
            place = self.board.place(self.number)
            while place < len(self.mine):
                some = self.mine[place : place + self.dice.randint(1, MOST_AT_ONCE)]
                self._record(client, some)
                place += len(some)
            client.flush(PATIENCE_S)
        return 0

    def _record(self, client: Client, some: list[Used]) -> None:
        self.observer.mark("begin", "record")
        if self.told["as"] == "samples":
            client.samples.send(*(one.sample() for one in some))
        else:
            client.events.send(*(one.event() for one in some))
        self.observer.mark("inside", "record")
        self.board.come(self.number, self.board.place(self.number) + len(some))
        self.observer.mark("end", "record")

    def _watch(self) -> None:
        """Marks around a call, and around what is done with its answer."""
        once, answered, observer = Line.once, Outbox._answered, self.observer

        def marked_once(line: Line, call: Any) -> Any:
            observer.mark("begin", "send")
            try:
                found = once(line, call)
                observer.mark("inside", "send")
                return found
            finally:
                observer.mark("end", "send")

        def marked_answered(outbox: Outbox, *given: Any) -> None:
            observer.mark("begin", "answered")
            answered(outbox, *given)
            observer.mark("end", "answered")

        setattr(Line, "once", marked_once)  # noqa: B010
        setattr(Outbox, "_answered", marked_answered)  # noqa: B010

    def _note(self, item: Item, result: Result) -> None:
        """One line for each item that an answer came to, in the file before this returns."""
        os.write(self._out, f"{item.item_id} {result.status} {result.code}\n".encode())
