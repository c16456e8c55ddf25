"""What programs send over HTTP: samples, and events that say no time, which are dated as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import sqlalchemy as sa

from drawdown.events.cloudevents import Given
from drawdown.events.envelope import UsageEvent
from drawdown.server.usage.events import EVENTS as EVENTS_IN
from drawdown.server.usage.intake import Sent
from drawdown.worker.commands.api_keys import ApiKey
from drawdown.worker.commands.host_samples import take_samples
from drawdown.worker.sources.samples.rows import Sample
from tests.interleave.party import plain
from tests.interleave.stage import FLIP, NOW, Stage

SITE: Final = "server.usage.intake:_done"


def _sample(name: str, seconds: int, ts: int) -> Sample:
    return (name, "acme", "box", "cell-1", 1024, None, seconds, ts, NOW)


SAMPLES: Final = (_sample("http-1", 60, FLIP + 5), _sample("http-2", 30, NOW - 1), _sample("http-1", 60, FLIP + 5))
OTHERS: Final = (_sample("http-2", 31, NOW - 1), _sample("http-1", 60, FLIP + 5), _sample("http-3", 7, FLIP + 6))


def _timeless(now_ms: int) -> Callable[[Stage, sa.Connection], object]:
    events = [UsageEvent("door", f"e-{number}", "page.render", "acme", 3, now_ms) for number in (1, 2)]
    sent = Sent(b"", "", {}, ApiKey("app", ("events:write",), None), now_ms)
    return lambda _stage, c: EVENTS_IN.store(c, [Given(event, has_time=False) for event in events], sent)


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


INTAKE: Final = (
    plain(f"{SITE} samples", lambda _s, c: take_samples(c, SAMPLES, "http:app"), _each_once),
    plain(f"{SITE} others of their ids", lambda _s, c: take_samples(c, OTHERS, "http:app"), _each_once),
    plain(f"{SITE} events without times", _timeless(NOW - 5), _one_time_each),
    plain(f"{SITE} the same again", _timeless(NOW), _one_time_each),
)
