"""The meter events that the emulated Stripe counts, and their adjustments.

Guarantee: an event that is overwritten or cancelled counts nowhere any more. A meter with a window keeps the newest
event of each window in UTC. An adjustment cancels an event within 24 hours of its receipt. Stripe's documentation does
not say what a second adjustment of the same event gets: `twice_is_refused` is either way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from tests.emulators.stripe_rules import DAY_MS, GROUPS_S, MINUTE_S, Charge, required
from tests.emulators.stripe_shapes import Json, Meter, Refusal

ADJUSTMENTS = "/v1/billing/meter_event_adjustments"
ADJUSTMENT_FAULTS = (
    "connection_refused",
    "request_lost",
    "throttled",
    "throttled_nonsense",
    "lock_timeout",
    "error_500_before",
    "error_500_after",
    "answer_lost",
    "nonsense",
)


@dataclass
class Event:
    """One event that counts."""

    meter: Meter
    who: str
    identifier: str
    charge: Charge
    received_ms: int


@dataclass
class Events:
    """All events that count, by what is asked of them."""

    twice_is_refused: bool = False
    doubles: list[str] = field(default_factory=list)
    """Identifiers charged a second time."""
    cancelled: dict[str, int] = field(default_factory=dict)
    """How often each identifier was cancelled."""
    counted: dict[str, list[Event]] = field(default_factory=dict)
    """By identifier."""
    charges: dict[tuple[str, str], dict[int, list[Charge]]] = field(default_factory=dict)
    """By meter and customer, and by minute."""
    by_minute: dict[tuple[str, str, int | None], Decimal] = field(default_factory=dict)
    truth: dict[tuple[str, str, int], Decimal] = field(default_factory=dict)
    newest: dict[tuple[str, str, int], Event] = field(default_factory=dict)
    """Of meters with a window."""

    def add(self, event: Event) -> None:
        if event.meter.window is not None:
            self._overwrite(event, GROUPS_S[event.meter.window])
        if self.counted.get(event.identifier):
            self.doubles.append(event.identifier)
        self.counted.setdefault(event.identifier, []).append(event)
        minutes = self.charges.setdefault((event.meter.id, event.who), {})
        minutes.setdefault(_minute(event), []).append(event.charge)
        self._sum(event, event.charge.value)

    def _overwrite(self, event: Event, window_s: int) -> None:
        place = (event.meter.id, event.who, event.charge.timestamp_s // window_s)
        before = self.newest.get(place)
        if before is not None:
            self._drop(before)
        self.newest[place] = event

    def _drop(self, event: Event) -> None:
        self.counted[event.identifier].remove(event)
        self.charges[(event.meter.id, event.who)][_minute(event)].remove(event.charge)
        self._sum(event, -event.charge.value)

    def _sum(self, event: Event, value: Decimal) -> None:
        truth = (event.who, event.meter.event_name, event.charge.timestamp_s)
        self.truth[truth] = self.truth.get(truth, Decimal(0)) + value
        for minute_s in (None, _minute(event)):
            of = (event.who, event.meter.event_name, minute_s)
            self.by_minute[of] = self.by_minute.get(of, Decimal(0)) + value

    def adjust(self, form: Mapping[str, str], now_ms: int) -> Json:
        """Cancel one event."""
        name, kind = required(form, "event_name"), required(form, "type")
        identifier = required(form, "cancel[identifier]")
        if kind != "cancel":
            raise Refusal(400, "Invalid type: must be cancel", param="type")
        events = self.counted.get(identifier, [])
        if not events and identifier in self.cancelled and self.twice_is_refused:
            raise Refusal(400, f"The event with identifier {identifier} has already been canceled.", saved=True)
        if not events and identifier not in self.cancelled:
            raise Refusal(400, f"No meter event found with identifier {identifier}.", param="cancel[identifier]")
        for event in list(events):
            if event.meter.event_name != name:
                raise Refusal(400, f"No meter event of {name} found with identifier {identifier}.", param="event_name")
            if now_ms - event.received_ms > DAY_MS:
                text = "You can only cancel events within 24 hours of Stripe receiving them."
                raise Refusal(400, text, param="cancel[identifier]")
            self._drop(event)
        self.cancelled[identifier] = self.cancelled.get(identifier, 0) + 1
        return {
            "object": "billing.meter_event_adjustment",
            "livemode": False,
            "status": "pending",
            "event_name": name,
            "type": "cancel",
            "cancel": {"identifier": identifier},
        }


def _minute(event: Event) -> int:
    return event.charge.timestamp_s // MINUTE_S * MINUTE_S
