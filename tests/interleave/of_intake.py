"""What programs send over HTTP: samples, and events that say no time, which are dated as they come."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from drawdown.events.cloudevents import EVENT, ReceivedEvent, parse_events
from drawdown.events.envelope import UsageEvent
from drawdown.events.values import COUNT, EventValue
from drawdown.schema.database import write
from drawdown.schema.errors import DatabaseBusy
from drawdown.server.usage.intake import ReceivedBody
from drawdown.server.usage.items import EVENTS as EVENTS_IN
from drawdown.worker.access.keys import ApiKey
from drawdown.worker.features.actions import map_event
from drawdown.worker.sources.samples.rows import Sample
from drawdown.worker.usage.host_samples import take_samples
from tests.interleave.party import Act, Party, plain
from tests.interleave.stage import FLIP, NOW, OLD, Stage

SITE: Final = "server.usage.intake:_store"
SENT: Final = ReceivedBody(b"", "", {}, ApiKey("app", ("events:write",), None), NOW)


def _sample(name: str, seconds: int, ts: int) -> Sample:
    return (name, "acme", "box", "cell-1", 1024, None, seconds, ts, NOW)


SAMPLES: Final = (_sample("http-1", 60, FLIP + 5), _sample("http-2", 30, NOW - 1), _sample("http-1", 60, FLIP + 5))
ANCIENT: Final = (_sample("http-9", 9, OLD + 7), _sample("http-2", 30, NOW - 1))
OTHERS: Final = (_sample("http-2", 31, NOW - 1), _sample("http-1", 60, FLIP + 5), _sample("http-3", 7, FLIP + 6))


def _takes(batch: tuple[Sample, ...]) -> Callable[[Stage, sa.Connection], object]:
    return lambda _stage, connection: take_samples(connection, batch, "http:app", NOW)


def _ancient_events(_stage: Stage, connection: sa.Connection) -> object:
    event = UsageEvent("archive", "e-9", "page.render", "acme", 9, OLD + 7)
    return EVENTS_IN.store(connection, [ReceivedEvent(event, has_time=True)], SENT)


def _timeless(now_ms: int) -> Callable[[Stage, sa.Connection], object]:
    events = [UsageEvent("door", f"e-{number}", "page.render", "acme", 3, now_ms) for number in (1, 2)]
    sent = replace(SENT, now_ms=now_ms)
    return lambda _stage, c: EVENTS_IN.store(c, [ReceivedEvent(event, has_time=False) for event in events], sent)


def _one_time_each(stage: Stage) -> Iterator[str]:
    """Whoever came first dated them, and whoever came second said the same."""
    found = stage.rows("SELECT event_id, ts FROM usage_events WHERE source = 'door' ORDER BY 1")
    if [row[0] for row in found] != ["e-1", "e-2"]:
        yield f"two were taken, and there are {found}"
    if stage.rows("SELECT 1 FROM sample_conflicts WHERE sample_id LIKE 'event:%' AND source = 'event:door'"):
        yield "what says no time is in conflict with nothing"


def _each_once(stage: Stage) -> Iterator[str]:
    there = {row[0] for row in stage.rows("SELECT id FROM usage_samples WHERE id LIKE 'http-%'")}
    if not {"http-1", "http-2"} <= there:
        yield f"http-1 and http-2 were taken, and there are {sorted(there)}"


def _none_too_late(stage: Stage) -> Iterator[str]:
    """What went in was answered so that its sender takes it for billed: it is not too late for good."""
    taken = "sample_id = 'http-9' OR sample_id IN (SELECT sample_id FROM usage_events WHERE source = 'archive')"
    for (name,) in stage.rows(f"SELECT sample_id FROM late_quarantine WHERE {taken}"):
        yield f"{name} was taken, and is too late to be billed"


def _stated(connection: sa.Connection) -> object:
    """An event that states 7 of a type which may be counted, each event as one."""
    item = {"specversion": "1.0", "id": "v-1", "source": "app", "type": "model.run", "subject": "acme",
            "data": {"quantity": 7}}  # fmt: skip
    (event,) = parse_events(json.dumps(item).encode(), EVENT, {}, None, NOW)
    return EVENTS_IN.store(connection, [event] if isinstance(event, ReceivedEvent) else [], SENT)


def _sent_again(engine: sa.Engine) -> None:
    """What a sender does who is told to try again, for a value was declared this moment."""

    try:
        write(engine, _stated)
    except DatabaseBusy as error:
        if "just declared a value" not in str(error):
            raise
        write(engine, _stated)


def _declares(stage: Stage, connection: sa.Connection) -> object:
    return map_event(connection, "model.run", "runs", stage.by, value=EventValue(COUNT))


def _counted_as_declared(stage: Stage) -> Iterator[str]:
    declared = bool(stage.rows("SELECT 1 FROM event_values WHERE event_type = 'model.run'"))
    for (quantity,) in stage.rows("SELECT quantity FROM usage_events WHERE event_type = 'model.run'"):
        if quantity != (1 if declared else 7):
            yield f"it counts {quantity}, and its type is {'' if declared else 'not '}counted"


INTAKE: Final = (
    Party(f"{SITE} an event of which a value may be declared", lambda _: Act(_sent_again), _counted_as_declared),
    plain("cli.declared:run feature map-event by a value", _declares, _counted_as_declared),
    plain(f"{SITE} samples", _takes(SAMPLES), _each_once),
    plain(f"{SITE} others of their ids", _takes(OTHERS), _each_once),
    plain(f"{SITE} ancient samples", _takes(ANCIENT), _none_too_late),
    plain(f"{SITE} ancient events", _ancient_events, _none_too_late),
    plain(f"{SITE} events without times", _timeless(NOW - 5), _one_time_each),
    plain(f"{SITE} the same again", _timeless(NOW), _one_time_each),
)
