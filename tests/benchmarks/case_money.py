"""Calls that move credit, over HTTP: how many statements each takes, and how fast they are beside a bare handler."""

from __future__ import annotations

import gc
import json
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema import sql
from drawdown.schema.clock import SystemClock
from drawdown.schema.database import read, write
from drawdown.server.app import Server
from drawdown.worker.access import keys as api_keys
from drawdown.worker.features.actions import install_defaults
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.terms import Change, PlanLimit
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets.actions import grant
from tests.benchmarks.bare import serving_bare
from tests.benchmarks.bare_money import prepare
from tests.benchmarks.case_gate import listening, services
from tests.benchmarks.databases import Databases, tidy, url_of
from tests.benchmarks.measure import Figure, Result
from tests.benchmarks.wallets import BY, CREDIT_MICRO
from tests.server.program import key_of
from tests.server.test_process import FRESH, serving

MOST_STATEMENTS: Final = 12.0
AT_LEAST: Final = 1 / 3
"""Of the bare handler's calls a second, with several clients."""
P99_MS: Final = 15.0
ORGS: Final = 100
KEYS: Final = 100
"""A key may ask 100 times a second."""
CLIENTS: Final = (1, 10)
SECONDS: Final = 4.0
COUNTED: Final = 5
"""Of so many calls the one with the fewest statements counts: a process looks for a restore once a second."""
PRICED, FREE = "idea", "look"
CONSUME, USE, USE_END = "/v1/guard/consume", "/v1/guard/reserve", "/v1/guard/settle"
RUN: Final = "/v1/executions"
_TOKENS: Final = [key_of(f"app-{number}") for number in range(KEYS)]


@dataclass(frozen=True)
class Call:
    """One call: its name in the table, its path and its body. KEY and ORG stand for those of a round."""

    name: str
    path: str
    body: Mapping[str, object]


_USE: Final = {"key": "KEY", "reason": "a benchmark"}
_RUN: Final = {"reason": "a benchmark"}
ROUNDS: Final[dict[str, tuple[Call, ...]]] = {
    "consume, priced": (Call("consume, priced", CONSUME, {**_USE, "org_id": "ORG", "metric": PRICED}),),
    "consume, unpriced": (Call("consume, unpriced", CONSUME, {**_USE, "org_id": "ORG", "metric": FREE}),),
    "use": (
        Call("use: reserve", USE, {**_USE, "org_id": "ORG", "metric": PRICED, "quantity": 5}),
        Call("use: settle", USE_END, {**_USE, "actual": 3}),
    ),
    "use given up": (
        Call("use: reserve", USE, {**_USE, "org_id": "ORG", "metric": PRICED, "quantity": 5}),
        Call("use: release", "/v1/guard/release", {**_USE, "incurred": 0}),
    ),
    "execution": (
        Call("execution: reserve", RUN, {**_RUN, "key": "KEY", "org_id": "ORG", "estimate": 5}),
        Call("execution: draw", f"{RUN}/KEY/draws", {**_RUN, "number": 1, "credits": 1}),
        Call("execution: settle", f"{RUN}/KEY/settle", {**_RUN, "actual": 3}),
    ),
    "execution given up": (
        Call("execution: reserve", RUN, {**_RUN, "key": "KEY", "org_id": "ORG", "estimate": 5}),
        Call("execution: release", f"{RUN}/KEY/release", _RUN),
    ),
}
"""What a client does, again and again, each time with a key of its own."""


def run(databases: Databases, kind: str, scale: float) -> list[Result]:
    """Each organisation has credit, and a limit that nobody reaches."""
    engine = databases.new(kind)
    write(engine, _equip)
    write(engine, lambda c: prepare(c, ORGS))
    tidy(engine)
    statements = {name: len(found) for name, found in statements_of(engine).items()}
    found = [
        Result(
            "money statements",
            kind,
            "statements of one call, with those that begin its transactions and find its key; commits are not counted",
            [Figure(name, "", [count], MOST_STATEMENTS) for name, count in statements.items()],
            totals={"calls": len(statements)},
        ),
        _rates(engine, kind, max(SECONDS * scale, 0.2)),
    ]
    assert not (breaches := read(engine, verify).breaches), breaches[:3]
    databases.drop(engine)
    return found


def _equip(connection: sa.Connection) -> None:
    install_defaults(connection, BY)
    guard_terms.set_metric(connection, PRICED, Change(price_micro=1_000, phase=3), BY)
    guard_terms.set_metric(connection, FREE, Change(phase=3), BY)
    for metric in (PRICED, FREE):
        guard_terms.set_limit(connection, PlanLimit(metric, "*", "month", 10**9), BY)
    orgs = [f"org-{number}" for number in range(ORGS)]
    assign(connection, orgs, "embedded", BY)
    for number in range(ORGS):
        grant(connection, f"org-{number}", CREDIT_MICRO, BY, key=f"org-{number}", plan=None)
    for number, token in enumerate(_TOKENS):
        api_keys.create(connection, token, f"app-{number}", ("guard", "executions:write"), BY, new=True)


def statements_of(engine: sa.Engine) -> dict[str, list[str]]:
    """The statements of each call, by their names in the `.sql` files, where all is known that a process keeps."""
    server = Server(replace(services(engine), clock=SystemClock()))
    found: dict[str, list[_Said]] = {}
    with listening(server.app) as port, _recorded(engine) as recorded:
        client = _Client(port, 0, keys=1)
        for number in range(COUNTED):
            for name, calls in ROUNDS.items():
                for call in calls:
                    recorded.clear()
                    client.once(call, f"counted {name} {number}", "org-1")
                    said = list(recorded)
                    before = found.get(call.name)
                    found[call.name] = said if before is None or len(said) < len(before) else before
        client.close()
    server.close()
    names = _names()
    return {name: [names.get(one[0], one[1]) for one in said] for name, said in found.items()}


_Said = tuple[int, str]
"""A statement: the identity of its clause, and the begin of its text."""


@contextmanager
def _recorded(engine: sa.Engine) -> Iterator[list[_Said]]:
    """What is executed meanwhile."""
    found: list[_Said] = []

    def execute(_connection: object, _cursor: object, text: str, _values: object, context: Any, _many: bool) -> None:
        clause = getattr(getattr(context, "compiled", None), "statement", None)
        found.append((id(clause), " ".join(text.split())[:60]))

    sa.event.listen(engine, "before_cursor_execute", execute)
    try:
        yield found
    finally:
        sa.event.remove(engine, "before_cursor_execute", execute)


def _names() -> dict[int, str]:
    """The pieces whose statements were put together, by their identity."""
    return {
        id(statement.clause): f"{queries.path.parent.name}/{queries.path.stem}: {asked[1]}"
        for queries in gc.get_objects()
        if isinstance(queries, sql.Queries)
        for asked, statements in vars(queries)["_ready"].items()
        for statement in statements
    }


def _rates(engine: sa.Engine, kind: str, seconds: float) -> Result:
    """Calls a second, by clients of a process of their own, at processes of the server and of the bare handler."""
    url, figures, totals = url_of(engine.url), list[Figure](), dict[str, int]()
    env = {"DRAWDOWN_REQUESTS_PER_S": "1000000", "DRAWDOWN_LOG_LEVEL": "CRITICAL"}
    with (
        tempfile.TemporaryDirectory() as folder,
        serving_bare("tests.benchmarks.bare_money", url) as (bare_port, _pid),
        serving(url, env, Path(folder) / "log", program=FRESH) as (at, _),
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as asking,
    ):
        port = int(at.rpartition(":")[2])
        for clients in CLIENTS:
            least = asking.submit(sent, bare_port, "consume, priced", clients, seconds).result()
            bare_per_s = _count(least) / seconds
            figures.append(Figure(f"bare, {clients} clients", "/s", [bare_per_s]))
            figures.append(Figure(f"bare, {clients} clients: p99", "ms", [_percentile(_all(least), 99)]))
            for name in ROUNDS:
                found = asking.submit(sent, port, name, clients, seconds).result()
                per_s, times = _count(found) / seconds, _all(found)
                what, is_many = f"{name}, {clients} clients", clients > 1
                figures += [
                    Figure(what, "/s", [per_s]),
                    Figure(f"{what}: of bare", "", [per_s / bare_per_s], at_least=AT_LEAST if is_many else None),
                    Figure(f"{what}: p50", "ms", [_percentile(times, 50)]),
                    Figure(f"{what}: p99", "ms", [_percentile(times, 99)], P99_MS if is_many else None),
                    Figure(f"{what}: longest", "ms", [max(times)]),
                ]
                totals[what] = len(times)
    compares = f"calls a second for {seconds:g} s, over a handler that finds the key, inserts a row and moves another"
    return Result("money", kind, compares, figures, totals=totals)


Times = dict[str, list[float]]
"""Milliseconds of each call, by its name."""


def sent(port: int, name: str, clients: int, seconds: float) -> Times:
    """What so many clients were answered in so many seconds, each again as soon as it is answered."""
    until = perf_counter() + seconds

    def client(number: int) -> Times:
        made, found, rounds = _Client(port, number), Times(), 0
        while perf_counter() < until:
            key, org = f"{name} {port} {clients} {number} {rounds}", f"org-{(number * 31 + rounds * 7919) % ORGS}"
            for call in ROUNDS[name]:
                found.setdefault(call.name, []).append(made.once(call, key, org))
            rounds += 1
        made.close()
        return found

    with ThreadPoolExecutor(clients) as pool:
        all_: Times = {}
        for found in pool.map(client, range(clients)):
            for call, times in found.items():
                all_.setdefault(call, []).extend(times)
        return all_


class _Client:
    """One connection. It says and reads the least of HTTP: what it costs is not the server's."""

    def __init__(self, port: int, number: int, keys: int = KEYS) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._number, self._keys = number, keys

    def once(self, call: Call, key: str, org: str) -> float:
        """Milliseconds."""
        key = key.replace(" ", "-").replace(",", "")
        body = json.dumps({**call.body}).replace("KEY", key).replace("ORG", org)
        self._number += 1
        head = (
            f"POST {call.path.replace('KEY', key)} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {_TOKENS[self._number % self._keys]}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        began = perf_counter()
        self._socket.sendall((head + body).encode())
        said = self._read()
        took = (perf_counter() - began) * 1000
        assert said.startswith(b"HTTP/1.1 200"), said
        return took

    def _read(self) -> bytes:
        said = b""
        while True:
            said += self._socket.recv(65_536)
            head, end, body = said.partition(b"\r\n\r\n")
            if end:
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                if len(body) >= length:
                    return said

    def close(self) -> None:
        self._socket.close()


def _all(found: Times) -> list[float]:
    return [one for times in found.values() for one in times]


def _count(found: Times) -> int:
    return len(_all(found))


def _percentile(times: Sequence[float], percent: int) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]


if __name__ == "__main__":  # the statements by name
    import sys

    from tests.benchmarks.databases import databases

    for kind in sys.argv[1:] or ("sqlite", "postgresql"):
        with databases([kind]) as made:
            engine = made.new(kind)
            write(engine, _equip)
            for name, statements in statements_of(engine).items():
                print(kind, name, len(statements), *statements, sep="\n  ", flush=True)
