"""Events and samples in the form that the client sends.

The client encodes each item as JSON once.

Guarantee: a repeated item has the same bytes and the same id, so that the server recognises the item. The call that
makes an invalid item raises BadItem.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeAlias

from drawdown_client.errors import BadItem

Kind: TypeAlias = Literal["events", "samples", "guard"]
"""The kind of an item.

`guard`: a spooled call of the guard for a use that was let through.
"""
Status: TypeAlias = Literal["accepted", "duplicate", "pending", "conflict", "invalid", "refused"]

MAX_ID_CHARS: Final = 200
"""Maximum characters of an id or label."""
MAX_QUANTITY: Final = 10**12
"""Maximum quantity of an event, in base units."""
MAX_ITEM_BYTES: Final = 16 * 1024
"""Maximum bytes of an item as JSON."""
MOST_WARNED: Final = 1_000
"""Maximum number of warnings that a client logs about items that the server does not bill yet."""
_ABOUT: Final = {"unmapped": ("event_type", "memory_mb"), "unassigned": ("org_id",)}
"""The fields of an item that a code is about, by code."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)

log = logging.getLogger("drawdown_client")


@dataclass(frozen=True)
class Item:
    """A recorded item. `item_id`: the id of the event or sample. `body`: the JSON."""

    kind: Kind
    item_id: str
    body: bytes

    @property
    def content(self) -> dict[str, object]:
        """Return the fields of the recorded item."""
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found


@dataclass(frozen=True)
class Result:
    """The result of an item.

    - `accepted`: the server stored the item.
    - `duplicate`: the server stored the item before.
    - `pending`: the server stored the item, and bills it after you fix the fault in `code`.
    - `conflict`: the server has an item with the same id and different content.
    - `invalid`: the server rejected the item; `at` is the place of the fault.
    - `refused`: the server refused the call with this item.
    """

    status: Status
    code: str | None = None
    message: str | None = None
    at: str | None = None

    @property
    def is_kept(self) -> bool:
        """Return True if the server stored the item."""
        return self.status in ("accepted", "duplicate", "pending")


@dataclass(frozen=True)
class Event:
    """A usage event.

    `quantity`: a whole number of base units of the type, also as a float without a fraction. `at`: the time of the
    event, as an aware datetime or milliseconds since 1970; None: now. `event_id` None: the client makes an id. If you
    record an event with an `event_id` and without a time twice, the server stores one event with the first time.
    `source` None: the source in the client's settings.
    """

    event_type: str
    quantity: int | float = 1
    org_id: str | None = None
    at: datetime | int | None = None
    event_id: str | None = None
    source: str | None = None
    subject: str | None = None
    project: str | None = None
    plan_key: str | None = None
    properties: Mapping[str, object] | None = None


def of_event(event: Event, source: str, now_ms: int, new_id: str) -> Item:
    """Return an event as an item. Errors: BadItem."""
    is_stamped = event.at is None and event.event_id is not None  # a repetition has another time, but is the same event
    said = {
        **_event_fields(event),
        "source": _id(event.source or source, "source"),
        "event_id": _id(new_id if event.event_id is None else event.event_id, "event_id"),
        "recorded_at": now_ms if is_stamped else None,
        "occurred_at": None if is_stamped else now_ms if event.at is None else moment_ms(event.at),
    }
    return _item("events", str(said["event_id"]), said)


def of_use(event: Event | str, now_ms: int) -> dict[str, object]:
    """Return the event that a use emits.

    If `event` is only a type, the server takes all other fields from the use.

    If `event` does not have a time, a repeated call has another `recorded_at`, but names the same event. Errors:
    BadItem.
    """
    if isinstance(event, str):
        return {"event_type": _id(event, "event_type"), "recorded_at": now_ms}
    said = {
        **_event_fields(event),
        "source": _label(event.source, "source"),
        "event_id": _label(event.event_id, "event_id"),
        "recorded_at": now_ms if event.at is None else None,
        "occurred_at": None if event.at is None else moment_ms(event.at),
    }
    return _item("events", "", said).content


def _event_fields(event: Event) -> dict[str, object]:
    """Return the fields of an event that are the same in all calls. Errors: BadItem."""
    return {
        "event_type": _id(event.event_type, "event_type"),
        "org_id": _label(event.org_id, "org_id"),
        "quantity": _quantity(event.quantity),
        "subject": _label(event.subject, "subject"),
        "project": _label(event.project, "project"),
        "plan_key": _label(event.plan_key, "plan_key"),
        "properties": None if event.properties is None else dict(event.properties),
    }


def of_sample(sample: Mapping[str, object], now_ms: int, new_id: str) -> Item:
    """Return a sample as an item, with the field names of docs/samples.md.

    A sample without `id` gets a new id. A sample without `ts` gets the present time. Errors: BadItem.
    """
    ts = sample.get("ts")
    item_id = _id(sample.get("id", new_id), "id")
    when = now_ms if ts is None else moment_ms(ts) if isinstance(ts, datetime) else ts
    return _item("samples", item_id, {**sample, "id": item_id, "ts": when})


def moment_ms(at: datetime | int) -> int:
    """Return milliseconds since 1970.

    Errors: BadItem for a datetime without an offset.
    """
    if not isinstance(at, datetime):
        return at
    if at.tzinfo is None:
        raise BadItem(
            f"invalid time {str(at)!r}: it does not have an offset. Use datetime.now(UTC), not datetime.now()"
        )
    return (at - _EPOCH) // _MS


def _item(kind: Kind, item_id: str, said: Mapping[str, object]) -> Item:
    given = {name: value for name, value in said.items() if value is not None}
    try:
        body = json.dumps(given, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadItem(f"invalid item: it cannot be encoded as JSON ({error}). Pass only JSON values") from None
    if len(body) > MAX_ITEM_BYTES:
        raise BadItem(
            f"invalid item: expected at most {MAX_ITEM_BYTES:,} bytes as JSON, got {len(body):,}. Pass less data"
        )
    return Item(kind, item_id, body)


def _quantity(given: object) -> int:
    whole = int(given) if isinstance(given, float) and given.is_integer() else given
    if not isinstance(whole, int) or isinstance(whole, bool) or not 0 <= whole <= MAX_QUANTITY:
        raise BadItem(
            f"invalid quantity {given!r:.60}: expected a whole number from 0 to {MAX_QUANTITY:,}. Count fractions in "
            "a smaller unit"
        )
    return whole


def _id(text: object, name: str) -> str:
    if not isinstance(text, str) or not 0 < len(text) <= MAX_ID_CHARS:
        raise BadItem(f"invalid {name} {text!r:.60}: expected a string of 1 to {MAX_ID_CHARS} characters")
    return text


def _label(text: object, name: str) -> str | None:
    return None if text is None else _id(text, name)


class Waiting:
    """A log of items that the server stored but does not bill yet.

    The class is not thread-safe. It logs one warning for each event type, memory size or organisation, and at most
    MOST_WARNED warnings in all.
    """

    def __init__(self) -> None:
        self._warned: set[tuple[str | None, str]] = set()

    def tell(self, item: Item, result: Result) -> None:
        """Log a warning for a `pending` item, if it is the first for its code and subject.

        The subject is the event type, memory size or organisation that the code concerns.
        """
        said = item.content
        about = next((said[name] for name in _ABOUT.get(result.code or "", ()) if name in said), "an organisation")
        name = (result.code, repr(about))
        if name in self._warned or len(self._warned) >= MOST_WARNED:
            return
        self._warned.add(name)
        log.warning(
            "the server stored %s of %s, and does not bill them yet: %s: %s",
            item.kind,
            name[1],
            result.code,
            result.message,
        )
