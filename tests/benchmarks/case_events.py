"""Usage events durably taken in batches of 1,000, by the function and through HTTP, beside the same rows put into the
same tables by the database's own quickest way; and one event at a time over HTTP."""

from __future__ import annotations

import gzip
import http.client
import itertools
import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from statistics import quantiles
from typing import Any, Final, TypeVar

import psycopg
import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.schema.database import write
from drawdown.worker.access import keys as api_keys
from drawdown.worker.features import actions as features
from drawdown.worker.sources.events.store import CELL, names_of, sandbox_of, take
from drawdown_client import Client, Event, Settings
from tests.benchmarks.databases import Databases, indexes_of, tidy, url_of
from tests.benchmarks.fleet import START_MS, settle_in
from tests.benchmarks.measure import Figure, Result, alternate, stopwatch
from tests.benchmarks.wallets import BY, one
from tests.server.program import key_of
from tests.server.test_process import FRESH, serving

GOAL: Final = 3.0
AT_LEAST: Final = 20_000.0
"""Events a second on two idle cores, on PostgreSQL."""
BATCH: Final = 1_000
BATCHES: Final = 20
ORGS: Final = 200
TYPE: Final = "page.render"
SINGLE: Final = 1_000
KEYS: Final = 20
"""A key may send 100 requests a second: one event at a time is sent with several."""
SENDERS: Final = 4
SAMPLE_COLUMNS: Final = "id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at"
EVENT_COLUMNS: Final = "sample_id, source, event_id, event_type, org_id, quantity, ts, project, properties, ingested_ms"

T = TypeVar("T")
Rows = tuple[list[tuple[object, ...]], list[tuple[object, ...]]]


def run(databases: Databases, kind: str, scale: float, runs: int) -> list[Result]:
    """Every event is new, and billed with its window."""
    engine = databases.new(kind)
    settle_in(engine, ORGS)
    meter = write(engine, _mapped)
    batches, singles = max(int(BATCHES * scale), 2), max(int(SINGLE * scale), 20)
    tidy(engine)
    numbers = itertools.count()
    found = [_taken(engine, kind, meter, batches, runs, numbers)]
    with tempfile.TemporaryDirectory() as folder:
        env = {"DRAWDOWN_REQUESTS_PER_S": "1000000", "DRAWDOWN_LOG_LEVEL": "CRITICAL"}
        with serving(url_of(engine.url), env, Path(folder) / "log", program=FRESH) as (url, _process):
            found += [_over_http(engine, kind, url, meter, batches, runs, numbers)]
            found += [_singly(engine, kind, url, singles, numbers)]
    databases.drop(engine)
    return found


def _mapped(connection: sa.Connection) -> int:
    features.map_event(connection, TYPE, "render", BY, from_ms=0, confirmed=True)
    for number in range(KEYS):
        name = f"app-{number}"
        api_keys.create(connection, key_of(name), name, ("events:write",), BY, new=True)
    text = sa.text("SELECT meter FROM event_types WHERE event_type = :name")
    return int(connection.execute(text, {"name": TYPE}).scalar_one())


def _events(count: int, numbers: Iterator[int]) -> list[UsageEvent]:
    made = []
    for number in itertools.islice(numbers, count):
        org, at_ms = f"org-{number * 7919 % ORGS}", START_MS + number % 300_000
        event = {"source": "/web", "event_id": f"e-{number}", "event_type": TYPE, "org_id": org}
        made.append(UsageEvent(**event, quantity=3, occurred_ms=at_ms, project="site", properties={"model": "small"}))
    return made


def _batches(count: int, numbers: Iterator[int]) -> list[list[UsageEvent]]:
    return [_events(BATCH, numbers) for _ in range(count)]


def _taken(engine: sa.Engine, kind: str, meter: int, batches: int, runs: int, numbers: Iterator[int]) -> Result:
    before = _counted(engine)

    def ours() -> float:
        made = _batches(batches, numbers)
        return _each(made, lambda batch: _accepted(engine, batch))

    found = alternate(ours, lambda: _bare(engine, _batches(batches, numbers), meter), runs)
    return _result(engine, kind, "events", batches, before, 2 * batches * (runs + 1), found)


def _each(found: Sequence[T], work: Callable[[T], None]) -> float:
    """How many seconds it takes to do them all."""

    def whole() -> None:
        for part in found:
            work(part)

    return stopwatch(whole)


def _accepted(engine: sa.Engine, batch: Sequence[UsageEvent]) -> None:
    answers = write(engine, lambda c: take(c, batch, BY.now_ms))
    assert [one.status for one in answers] == ["accepted"] * len(batch)


def _over_http(
    engine: sa.Engine, kind: str, url: str, meter: int, batches: int, runs: int, numbers: Iterator[int]
) -> Result:
    before, port = _counted(engine), int(url.rpartition(":")[2])

    def ours() -> float:
        bodies = [
            gzip.compress(json.dumps([_said(one) for one in made]).encode()) for made in _batches(batches, numbers)
        ]
        with ThreadPoolExecutor(SENDERS) as pool:
            parts = [bodies[first::SENDERS] for first in range(SENDERS)]
            return stopwatch(lambda: list(pool.map(_post, [port] * SENDERS, range(SENDERS), parts)))

    found = alternate(ours, lambda: _bare(engine, _batches(batches, numbers), meter), runs)
    by_client = [_by_our_client(url, _batches(batches, numbers)) for _ in range(runs)]
    made = _result(engine, kind, "events over HTTP", batches, before, batches * (2 * (runs + 1) + runs), found)
    rate = Figure("by our own client, from its first event to its flush", "events/s", by_client)
    return Result(made.case, kind, made.compares, [*made.figures, rate], made.baseline, made.totals)


def _post(port: int, sender: int, bodies: Sequence[bytes]) -> None:
    headers = {
        "Authorization": f"Bearer {key_of(f'app-{sender}')}",
        "Content-Type": "application/json",
        "Content-Encoding": "gzip",
    }
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
        for body in bodies:
            connection.request("POST", "/v1/events", body, headers)
            answer = connection.getresponse()
            results = json.loads(answer.read()).get("results", ())
            assert [one["status"] for one in results] == ["accepted"] * BATCH, answer.status


def _said(event: UsageEvent) -> dict[str, object]:
    return {
        "source": event.source, "event_id": event.event_id, "event_type": event.event_type, "org_id": event.org_id,
        "quantity": event.quantity, "occurred_at": event.occurred_ms, "project": event.project,
        "properties": {"model": "small"},
    }  # fmt: skip


def _by_our_client(url: str, batches: Sequence[Sequence[UsageEvent]]) -> float:
    """Events a second."""
    made = [
        Event(
            TYPE,
            event.quantity,
            event.org_id,
            event.occurred_ms,
            event.event_id,
            "/web",
            None,
            "site",
            None,
            {"model": "small"},
        )
        for batch in batches
        for event in batch
    ]
    settings = Settings(queue_items=len(made), close_s=600.0)
    with Client(url, key_of("app-0"), settings) as client:

        def whole() -> None:
            for event in made:
                client.events.send(event)
            client.flush(600.0)

        return len(made) / stopwatch(whole)


def _singly(engine: sa.Engine, kind: str, url: str, count: int, numbers: Iterator[int]) -> Result:
    before, found = _counted(engine), []
    with closing(http.client.HTTPConnection("127.0.0.1", int(url.rpartition(":")[2]), timeout=120)) as connection:
        for number, event in enumerate(_events(count, numbers)):
            body = json.dumps(_said(event))
            headers = {"Authorization": f"Bearer {key_of(f'app-{number % KEYS}')}", "Content-Type": "application/json"}

            def send(body: str = body, headers: dict[str, str] = headers) -> None:
                connection.request("POST", "/v1/events", body, headers)
                assert b'"accepted"' in connection.getresponse().read()

            found.append(stopwatch(send) * 1000)
    assert _counted(engine) - before == count, "each is kept"
    cuts = quantiles(found, n=100)
    return Result(
        case="event, one at a time",
        database=kind,
        compares=f"{count:,} events, each in a request and a commit of its own, on one connection; milliseconds to its "
        "answer",
        figures=[Figure("p50", "ms", [cuts[49]]), Figure("p99", "ms", [cuts[98]])],
        totals={"events": count},
    )


def _result(
    engine: sa.Engine,
    kind: str,
    case: str,
    batches: int,
    before: int,
    sent: int,
    times: tuple[list[float], list[float]],
) -> Result:
    kept = _counted(engine) - before
    assert kept == sent * BATCH, f"{kept} of {sent * BATCH} are kept"
    ours, bare = times
    is_taken = case == "events"
    rate = [batches * BATCH / seconds for seconds in ours]
    goal = AT_LEAST if is_taken and kind == "postgresql" else None
    ratios = [mine / other for mine, other in zip(ours, bare, strict=True)]
    how = "by `take`" if is_taken else f"over HTTP on {SENDERS} connections, packed"
    quickest = "COPY" if kind == "postgresql" else "executemany"
    return Result(
        case=case,
        database=kind,
        compares=f"{batches} batches of {BATCH:,} new events, each batch committed, {how}; over {quickest} of the same "
        "rows into the same two tables, each batch committed",
        figures=[
            Figure("ratio", "", ratios, GOAL if is_taken else None),
            Figure("taken", "events/s", rate, at_least=goal),
            Figure(f"bare {quickest}", "events/s", [batches * BATCH / seconds for seconds in bare]),
        ],
        baseline=f"usage_samples ({SAMPLE_COLUMNS})\nusage_events ({EVENT_COLUMNS})\n"
        f"{indexes_of(engine, 'usage_samples')}\n{indexes_of(engine, 'usage_events')}",
        totals={"events": kept},
    )


def _counted(engine: sa.Engine) -> int:
    kept = one(engine, "SELECT COUNT(*) FROM usage_events")
    assert kept == one(engine, "SELECT COUNT(*) FROM usage_samples WHERE problem IS NULL"), "each has its sample"
    return kept


def _bare(engine: sa.Engine, batches: Sequence[Sequence[UsageEvent]], meter: int) -> float:
    """On the driver alone, with the driver's own settings but for what a commit means."""
    ready = [_rows(batch, meter) for batch in batches]
    if engine.dialect.name == "sqlite":
        with closing(sqlite3.connect(str(engine.url.database))) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            return _each(ready, lambda rows: _executemany(connection, rows))
    with closing(psycopg.connect(url_of(engine.url))) as made:
        return _each(ready, lambda rows: _copy(made, rows))


def _rows(batch: Sequence[UsageEvent], meter: int) -> Rows:
    names = names_of(batch, own=False)
    samples: list[tuple[object, ...]] = [
        (name, one.org_id, sandbox_of(one.event_type), CELL, meter, one.quantity, one.occurred_ms, BY.now_ms)
        for name, one in zip(names, batch, strict=True)
    ]
    events: list[tuple[object, ...]] = [
        (name, one.source, one.event_id, one.event_type, one.org_id, one.quantity, one.occurred_ms, one.project,
         one.properties_json, BY.now_ms) for name, one in zip(names, batch, strict=True)
    ]  # fmt: skip
    return samples, events


def _executemany(connection: sqlite3.Connection, rows: Rows) -> None:
    for table, columns, found in _into(rows):
        marks = ", ".join("?" * len(columns.split(",")))
        connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", found)
    connection.commit()


def _copy(connection: psycopg.Connection[Any], rows: Rows) -> None:
    with connection.cursor() as cursor:
        for table, columns, found in _into(rows):
            with cursor.copy(f"COPY {table} ({columns}) FROM STDIN".encode()) as copy:
                for row in found:
                    copy.write_row(row)
    connection.commit()


def _into(rows: Rows) -> list[tuple[str, str, list[tuple[object, ...]]]]:
    return [("usage_samples", SAMPLE_COLUMNS, rows[0]), ("usage_events", EVENT_COLUMNS, rows[1])]
