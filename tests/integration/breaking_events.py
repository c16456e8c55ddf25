"""Ways to break what products told of their usage, and what `verify` must say of each."""

from __future__ import annotations

from drawdown.worker.sources.events.store import sample_id_of
from tests.integration.breaking import Broken
from tests.world import T0

_ID = sample_id_of("app", "e-1")
_EVENT = f"sample_id = '{_ID}'"


def _of(text: str, *statements: str, also: tuple[int, ...] = (), beside: str | None = None) -> Broken:
    return Broken(9, statements, text, window_ms=T0, org="told", also=also, beside=beside)


EVENTS = {
    "an event without its sample": _of(
        "the event e-1 of app does not have a sample", f"DELETE FROM usage_samples WHERE id = '{_ID}'", also=(1,)
    ),
    "an event of another quantity": _of(
        "e-1 of app has 8 of page.render, but its sample has 7",
        f"UPDATE usage_events SET quantity = 8 WHERE {_EVENT}",
    ),
    "an event of another organisation": Broken(
        9, (f"UPDATE usage_events SET org_id = 'acme' WHERE {_EVENT}",), "for told, or another time", T0, org="acme"
    ),
    "an event of another moment": _of("or another time", f"UPDATE usage_events SET ts = ts + 1 WHERE {_EVENT}"),
    "an event of another type": _of(
        "e-1 of app has 7 of page.view", f"UPDATE usage_events SET event_type = 'page.view' WHERE {_EVENT}"
    ),
    "an event type that was forgotten": _of(
        "its sample has 5 of the meter", "DELETE FROM event_types WHERE event_type = 'page.view'"
    ),
    "a meter that moved": _of(
        "its sample has 7 of the meter",
        "UPDATE event_types SET meter = 17777216 WHERE event_type = 'page.render'",
        beside="keen",
        also=(1,),
    ),
    "a sample that no event says": _of(
        f"{_ID} counts units of the meter 16777217", f"DELETE FROM usage_events WHERE {_EVENT}"
    ),
}
