"""Record the event that a use emits.

One call then counts the use against limits, and bills it.

Guarantee: a use and its event are both recorded, or neither is. If the event is refused, the use does not count. A
blocked use does not emit its event, and a repeated use does not emit its event again. The event's source and id are its
key. The event is sealed, withdrawn and verified as any other event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.ledger.reservations import Denied
from drawdown.worker.sources.events import store
from drawdown.worker.sources.events.store import NOT_YET_MS, EventResult, Status
from drawdown.worker.sources.events.types import Bringer

REFUSED: Final = "bad_event"
_KEPT: Final = ("accepted", "duplicate", "pending")


@dataclass(frozen=True)
class Emission:
    """An event that a use emits, once it is allowed.

    `has_time`: True if the caller sent the time of the event; otherwise the event has the time of the first call.
    `own`: as `Ask.own`. `by`: the sender, to which the bounds of event types apply.
    """

    event: UsageEvent
    has_time: bool
    own: bool
    by: Bringer

    @property
    def content(self) -> list[object]:
        """Return the content of the event that the caller sent.

        A repeated call has the same content.
        """
        one = self.event
        ts = one.occurred_ms if self.has_time else None
        labels = [one.subject, one.project, one.plan_key, one.properties_json]
        return [one.source, one.event_id, one.event_type, one.quantity, ts, *labels]


@dataclass(frozen=True)
class Emitted:
    """The outcome of the event of a use, and its key.

    The status `duplicate` means that the event existed before. The event of a repeated use has this status. `code`,
    `message`: the reason why the event is not accepted (None: it is accepted, or a duplicate).
    """

    status: Status
    source: str
    event_id: str
    code: str | None = None
    message: str | None = None


def before(emission: Emission | None) -> Emitted | None:
    """Return the outcome of a repeated use's event (`duplicate`); None without it.

    The fingerprint of the use proves that the first call had the same event.
    """
    return None if emission is None else Emitted("duplicate", emission.event.source, emission.event.event_id)


def emit(connection: sa.Connection, emission: Emission, now_ms: int) -> Emitted:
    """Record one event. Errors: Denied `bad_event`; DatabaseBusy."""
    (found,) = take_all(connection, [emission], now_ms)
    if not is_kept(found):
        raise Denied(
            REFUSED, f"cannot count the use, because Drawdown refused its event ({found.code}): {found.message}"
        )
    return emitted(emission, found)


def take_all(connection: sa.Connection, emissions: Sequence[Emission], now_ms: int) -> list[EventResult]:
    """Record events of several senders.

    Return a result for each event, in their order. Errors: DatabaseBusy.
    """
    found: dict[int, EventResult] = {}
    for own, by in sorted({(one.own, one.by) for one in emissions}, key=repr):
        mine = [at for at, one in enumerate(emissions) if (one.own, one.by) == (own, by)]
        # An event of this age must wait for a seal, and a use cannot wait.
        old = {at: _TOO_OLD for at in mine if emissions[at].event.occurred_ms < now_ms - NOT_YET_MS}
        left = [at for at in mine if at not in old]
        events = [emissions[at].event for at in left]
        # # A key that is bound to an organisation must not learn other names. So do not compare its new event type with
        # known types.
        taken = store.take(connection, events, now_ms, own=own, types_by=by, unlike=not own) if left else ()
        found |= old | dict(zip(left, taken, strict=True))
    return [found[at] for at in range(len(emissions))]


_TOO_OLD: Final = EventResult("invalid", "too_old", "the event is over 34 days old. Send it to POST /v1/events")


def is_kept(taken: EventResult) -> bool:
    """Return True if the event is recorded, and is billed or pending."""
    return taken.status in _KEPT and taken.code != store.WITHDRAWN.code


def emitted(emission: Emission, taken: EventResult) -> Emitted:
    return Emitted(taken.status, emission.event.source, emission.event.event_id, taken.code, taken.message)


def to_json(found: Emitted | None) -> Mapping[str, object] | None:
    return None if found is None else dict(vars(found))
