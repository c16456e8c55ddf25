"""The siege of the door: eight clients send real usage through a proxy that cuts, to a server that is killed, while a
ticker bills it; the clients are killed as well, and go on from their spools. In the end each act of use is there once.
"""

from __future__ import annotations

import json
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.clock import SystemClock
from drawdown.schema.database import connect
from drawdown.schema.migrate import upgrade
from drawdown.worker.access import keys as api_keys
from drawdown.worker.catalog.mapping import SECONDS
from drawdown.worker.features import actions as features
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.wallets import actions as credit
from tests.acceptance.commands import must
from tests.crash.credit.shared import Board
from tests.crash.credit.trace import killed, patiently
from tests.crash.door.cutter import Cutter
from tests.crash.door.judge import Told, judged, kept_once, read_back
from tests.crash.door.process import BATCHES, SERVER, SIEGE, TICKER
from tests.crash.door.usage import TOP, UP_TO, As, Usage, usage
from tests.crash.hunt import Hunt, wait
from tests.crash.nursery import Child, Nursery
from tests.crash.toll import Toll, sound
from tests.postgres_server import Server
from tests.server.program import key_of

CLIENTS: Final = 8
MOST_AT_ONCE: Final = (*(1,) * 10, 2, CLIENTS + 2)
"""How many are killed in one moment: one, two, or all, as a power cut would."""
BY_ORDER, ORDER_S, ORDERED_S = 0.5, 0.5, 5.0
STEPS: Final = (
    ("client", "begin send"), ("client", "inside send"), ("client", "inside record"), ("client", "begin answered"),
    (SERVER, "begin take"), (SERVER, "inside take"), (SERVER, "inside take"), (SERVER, "end take"),
    (TICKER, "inside seal"), (TICKER, "inside charge"),
)  # fmt: skip
"""In the middle of what: before a call, after its answer, between the spool and the program's own note, …"""
NO_END, DATABASE_EVERY, SETTLED_TICKS = 10**9, 10, 2
SCOPES: Final = ("samples:write", "events:write", "usage:read")


@dataclass(frozen=True)
class Asked:
    """What to send, and how hard it is made. `at`: kills by order at these steps alone; `strikes`: kills at most."""

    trace: str
    sent_as: As
    seed: int = 1
    rows: int | None = None
    batches: Sequence[int] = BATCHES
    every_s: float = 1.0
    strikes: int = NO_END
    most_s: float = 3_600.0
    planted: str = ""
    at: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Outcome:
    """What a siege came to; it is only returned where every sum was exact."""

    toll: Toll
    killed: Counter[str]
    """How often a process of each kind was."""
    told: Told
    sent: int
    seconds: int
    pushes: int
    connections: int
    calls: int
    cuts: dict[str, int]
    took_s: float

    @property
    def share(self) -> float:
        """Of the connections, those that were cut."""
        return sum(self.cuts.values()) / max(self.connections, 1)


class _Siege(Hunt):
    def __init__(self, nursery: Nursery, place: Path, asked: Asked, server: Server | None) -> None:
        super().__init__(nursery, random.Random(asked.seed), no_kill=False)
        self.place, self.before = place, nursery.starts
        self.kinds = Counter[str]()
        self.asked, self.strikes, self.server = asked, asked.strikes, server
        self.clients = [f"client-{number}" for number in range(CLIENTS)]

    def besiege(self) -> None:
        """Until every client has ended in peace."""
        self.start(SERVER, *self.clients, TICKER)
        began = kill_at = time.monotonic()
        while alive := self._alive():
            assert time.monotonic() - began < self.asked.most_s, f"no end within {self.asked.most_s:.0f} s: {alive}"
            if self.strikes and time.monotonic() >= kill_at + self.asked.every_s:
                self.strikes -= 1
                self._strike(alive)
                kill_at = time.monotonic()
            time.sleep(0.005)
        (self.place / "stop").touch()
        self.end([TICKER])
        self.toll.starts = self.nursery.starts - self.before

    def _killed(self, child: Child, *, ordered: bool) -> None:
        super()._killed(child, ordered=ordered)
        self.kinds[child.role.split("-")[0]] += 1

    def leave(self) -> None:
        """Nothing of it goes on."""
        for child in self.running.values():
            child.poll()
            child.kill()

    def _alive(self) -> list[str]:
        """The clients that go on; each of the others ended in peace, as nobody else does."""
        found = []
        for role, child in self.running.items():
            status = child.poll()
            is_client = role in self.clients
            assert status in ((None, 0) if is_client else (None,)), f"{role} ended with {status}: {self.said(child)}"
            found += [role] if is_client and status is None else []
        return found

    def _strike(self, alive: Sequence[str]) -> None:
        if self.server is not None and self.strikes % DATABASE_EVERY == 0:
            killed(self.server, self.dice)
            self.toll.strikes["postmaster killed"] += 1
            return
        if self.asked.at or self.dice.random() < BY_ORDER:
            kind, step = self.dice.choice(self.asked.at or STEPS)
            if self.kill_by_order(kind, step, ORDERED_S if self.asked.at else ORDER_S) or self.asked.at:
                return
        roles = [*alive, SERVER, SERVER, TICKER]
        for role in set(self.dice.sample(roles, min(self.dice.choice(MOST_AT_ONCE), len(roles)))):
            self._kill_one(self.running[role])

    def _kill_one(self, child: Child) -> None:
        """Unless it has hardly begun, or ends this moment."""
        if child.log.exists() and child.kill() != 0:
            self._killed(child, ordered=False)


def set_up(url: str, made: Usage, sent_as: As) -> None:
    """Every size, or event type, has a feature and a rate, every organisation a biller, every client a key."""
    start = made.from_ms - made.from_ms % 300_000
    engine, by = connect(url), By(SystemClock().now_ms(), "test", "the siege of the door")
    upgrade(engine)
    orgs = sorted({one.org for one in made.all})

    def begin(connection: sa.Connection) -> None:
        features.install_defaults(connection, By(start, by.actor, by.reason))
        assign(connection, orgs, "embedded", by, from_ms=start)
        for number in range(CLIENTS):
            name = f"client-{number}"
            api_keys.create(connection, key_of(name), name, SCOPES, by, new=True)
        if sent_as == "samples":
            _map_sizes(connection, by, start)
        for tier, event_type in sorted(made.tiers().items()):
            if sent_as == "events":
                features.map_event(connection, event_type, f"used_{tier}", by, from_ms=start, confirmed=True)
                credit.set_rate(connection, f"used_{tier}", 100, 1, by, from_ms=None)

    patiently(engine, begin)
    engine.dispose()


def _map_sizes(connection: sa.Connection, by: By, start: int) -> None:
    """Besides the sizes that have features of their own."""
    tiers: list[tuple[int | None, str]] = [*UP_TO.items(), (None, TOP)]
    for size, tier in tiers:
        name = f"compute_{tier}"
        features.map_size(
            connection, name, by, kind="up_to", memory_mb=size, unit=SECONDS, from_ms=start, confirmed=True
        )
        if credit.rate_at(connection, name, by.now_ms) is None:
            credit.set_rate(connection, name, 100, 1, by, from_ms=None)


@contextmanager
def stage(folder: Path, asked: Asked) -> Iterator[Nursery]:
    """Where sieges of one usage are done, one after the other: processes that have it are forked here."""
    (folder / SIEGE).write_text(json.dumps(_usage_of(asked)))
    with closing(Nursery(folder, "", work="tests.crash.door.process")) as nursery:
        yield nursery


def siege(nursery: Nursery, place: Path, url: str, asked: Asked, server: Server | None = None) -> Outcome:
    """One siege on one database, its spools and journals in a folder of its own; every tenth strike is at its `server`,
    where one is given.

    Errors: AssertionError where anything is lost, doubled, left over or broken.
    """
    made = usage(asked.trace, asked.seed, rows=asked.rows)
    set_up(url, made, asked.sent_as)
    Board(place, clients=CLIENTS)
    for before in nursery.folder.glob("*.err"):
        before.unlink()
    port, began = _free_port(), time.monotonic()
    with Cutter(port, random.Random(asked.seed)) as cutter:
        more = {"port": port, "proxy": cutter.port, "place": str(place), "url": url, "planted": asked.planted}
        told = {**_usage_of(asked), "as": asked.sent_as, "batches": asked.batches, **more}
        (nursery.folder / SIEGE).write_text(json.dumps(told))
        hunt = _Siege(nursery, place, asked, server)
        try:
            hunt.besiege()
            took_s = time.monotonic() - began
            kept_once(url, made, asked.sent_as)
            wait(lambda: _listens(port), "the server to be there again")
            read_back(f"http://127.0.0.1:{port}", made, asked.sent_as)
        finally:
            hunt.leave()
    sound(nursery, (SERVER, TICKER))
    for role in hunt.clients:
        assert "Traceback" not in nursery.said(role), nursery.said(role)[-3_000:]
    for _ in range(SETTLED_TICKS):
        must(url, "tick")
    heard, pushes = judged(url, place, made, asked.sent_as, hunt.toll.kills)
    sent = (len(made.all), made.seconds, pushes)
    return Outcome(hunt.toll, hunt.kinds, heard, *sent, cutter.connections, cutter.calls, dict(cutter.cuts), took_s)


def _usage_of(asked: Asked) -> dict[str, object]:
    return {"trace": asked.trace, "seed": asked.seed, "rows": asked.rows}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0
