"""The rush of `guard_rush` over HTTP: client processes with API keys of their own, half of them bound to the
organisation, and a server that is killed in between. Whoever has no answer asks again, by the same key."""

from __future__ import annotations

import http.client
import json
import multiprocessing
import random
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
import structlog

from drawdown.schema.audit import By
from drawdown.schema.clock import SystemClock
from drawdown.schema.database import connect, read, write
from drawdown.worker.access import keys as api_keys
from drawdown.worker.guard.use import own_name
from tests import fork_server
from tests.acceptance.commands import PROJECT, environment
from tests.client.shop import free_port

ORG: Final = "acme"
PATIENCE_S: Final = 600.0
"""How long a client asks again for one answer."""
PAUSE_S, LONGEST_PAUSE_S = 0.05, 0.5
"""Before it asks again: longer and longer where nobody answers, so that a server that begins has the machine."""
AGAIN: Final = (429, 500, 502, 503)
NO_LIMIT: Final = {"DRAWDOWN_REQUESTS_PER_S": "100000"}

Told = dict[str, tuple[str, int]]
"""What became of each key by what its client was told: the use's state and amount; `blocked`, 0."""


@dataclass(frozen=True)
class Share:
    """One client's: how many decisions it asks for, and whose key it has."""

    port: int
    seed: int
    number: int
    decisions: int
    ends_s: float
    """When it stops, however many are left, by the monotonic clock."""

    @property
    def is_bound(self) -> bool:
        return self.number % 2 == 0

    @property
    def key(self) -> str:
        return api_keys.PREFIX + f"{self.seed:020}-{self.number:022}"


class Client:
    """Asks so often, by a random stream of its own."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self.random = random.Random(f"{share.seed} {share.number}")
        self.told: Told = {}
        self.said: Counter[str] = Counter()
        self.connection: http.client.HTTPConnection | None = None

    def once(self, number: int) -> None:
        key, amount = f"c{self.share.number}-{number}", self.random.choice((1, 1, 1, 2, 3))
        act = "consume" if self.random.random() < 0.8 else "reserve"
        found = self.sure(act, key=key, org_id=ORG, metric="hot", quantity=amount)
        if self.random.random() < 0.02:
            again = self.sure(act, key=key, org_id=ORG, metric="hot", quantity=amount)
            assert found["state"] is None or again["repeated"], again
            found = again if found["state"] is None else found
        self.said[str(found["decision"])] += 1
        state = str(found["state"] or "blocked")
        if state == "held":
            actual, gives_up = self.random.randint(0, amount), self.random.random() < 0.5
            ended = (
                self.sure("release", key=key, incurred=actual)
                if gives_up
                else self.sure("settle", key=key, actual=actual)
            )
            state, amount = str(ended["state"]), actual
        name = own_name(ORG, key) if self.share.is_bound else key
        self.told[name] = state, 0 if state == "blocked" else amount

    def sure(self, act: str, **order: object) -> dict[str, Any]:
        body = json.dumps(order).encode()
        until, pause_s = time.monotonic() + PATIENCE_S, PAUSE_S
        while time.monotonic() < until:
            try:
                status, answer = self._send(act, body)
            except (OSError, http.client.HTTPException):
                self.connection = None
                self.said["no answer"] += 1
                time.sleep(pause_s * (1 + self.random.random()))
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                continue
            if status == 200:
                found = json.loads(answer)
                assert isinstance(found, dict)
                return found
            assert status in AGAIN, (act, order, status, answer)
            self.said[f"status {status}"] += 1
            time.sleep(PAUSE_S * (1 + self.random.random()))
        raise AssertionError(f"no answer for {PATIENCE_S:.0f} s: {order}")

    def _send(self, act: str, body: bytes) -> tuple[int, bytes]:
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.share.port, timeout=30)
        head = {"authorization": f"Bearer {self.share.key}", "content-type": "application/json"}
        self.connection.request("POST", f"/v1/guard/{act}", body, head)
        answer = self.connection.getresponse()
        return answer.status, answer.read()


def client(share: Share) -> tuple[Told, Counter[str]]:
    """One process."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    mine = Client(share)
    for number in range(share.decisions):
        if time.monotonic() > share.ends_s:
            break
        mine.once(number)
    return mine.told, mine.said


class Served:
    """`drawdown serve` on one port; killed without a word, and begun again."""

    def __init__(self, url: str, log: Path) -> None:
        self.url, self.log, self.port = url, log, free_port()
        self.process = self._begin()

    def _begin(self) -> fork_server.Started:
        words = ["--json", "serve", "--port", str(self.port)]
        with self.log.open("ab") as log:
            begun = fork_server.Started(words, env=environment(self.url, NO_LIMIT), cwd=PROJECT, err=log)
        assert begun.stdout.readline(), self.log.read_text()
        return begun

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)

    def kill_and_begin(self) -> None:
        self.kill()
        self.process = self._begin()


def rush(
    url: str, log: Path, clients: int, decisions: int, seed: int, kills: int, most_s: float
) -> tuple[Told, Counter[str], float]:
    """All of them, while the server is killed so often; what they were told, and how long that took. They end after
    `most_s` with as many decisions as they have."""
    now, engine = SystemClock().now_ms(), connect(url)
    by = By(now, "test", "a rush")
    served = Served(url, log)
    began = time.monotonic()
    shares = [Share(served.port, seed, number, decisions // clients, began + most_s) for number in range(clients)]
    for one in shares:
        bound = ORG if one.is_bound else None
        write(engine, lambda c, one=one, bound=bound: api_keys.create(  # type: ignore[misc]
            c, one.key, f"client-{one.number}", ["guard"], by, org_id=bound, new=True))  # fmt: skip
    engine.dispose()
    stop = threading.Event()
    killer = threading.Thread(target=_kill, args=(engine, served, decisions, kills, stop))
    # Forked while there is one thread: sixteen interpreters that begin anew take longer than they ask.
    with multiprocessing.get_context("fork").Pool(clients) as pool:
        killer.start()
        try:
            found = pool.map(client, shares, chunksize=1)
        finally:
            took = time.monotonic() - began
            stop.set()
            killer.join()
            served.kill()
            engine.dispose()
    told: Told = {}
    for mine, _ in found:
        told |= mine
    return told, sum((said for _, said in found), Counter[str](kills=len(KILLED))), took


USES: Final = "SELECT COALESCE(SUM(uses), 0) FROM guard_counters WHERE period = 'month'"
KILLED: Final[list[int]] = []
"""At how many uses the server was killed."""


def _kill(engine: sa.Engine, served: Served, decisions: int, kills: int, stop: threading.Event) -> None:
    """At even parts of what may be used, while clients ask."""
    KILLED.clear()
    for number in range(1, kills + 1):
        while not stop.wait(0.05):
            uses = read(engine, lambda c: int(c.execute(sa.text(USES)).scalar_one()))
            if uses * (kills + 1) * 3 >= number * decisions:
                served.kill_and_begin()
                KILLED.append(uses)
                break


def judge(engine: sa.Engine, told: Told) -> list[str]:
    """Each row is what a client was told, and each that was told is a row."""
    text = sa.text("SELECT use_key, state, amount FROM guard_uses WHERE use_key NOT LIKE 'last-%'")
    rows = {str(row[0]): (str(row[1]), int(row[2])) for row in read(engine, lambda c: c.execute(text).all())}
    used = {name: one for name, one in told.items() if one[0] != "blocked"}
    wrong = [f"{len(used.keys() - rows.keys()):,} uses that were told are not there"] if used.keys() - rows else []
    if rows.keys() - used.keys():
        wrong.append(f"{len(rows.keys() - used.keys()):,} uses are there that nobody was told of")
    other = [name for name in used.keys() & rows.keys() if used[name] != rows[name]]
    return [*wrong, *(f"{name}: told {used[name]}, kept {rows[name]}" for name in other[:9])]
