"""The envelope: what every usage event says, whatever product sends it, in whatever shape.

Guarantee: pure. An event that is made here is one that the database takes; what is wrong with another is named by a
code and the place in it, without its value. Numbers are integers of base units: an adapter scales what its product
counts in parts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, TypeAlias

from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.units import EARLIEST_TS, FUTURE_SLACK_MS

MAX_QUANTITY: Final = 10**12
"""Base units of one event: nine million such events of one window still fit in 64 bits."""
MAX_PROPERTIES_BYTES: Final = 4_096
"""Of an event's own properties, as JSON."""

_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

Named: TypeAlias = tuple[str | None, str | None]
"""What an item calls its source and itself, where those are ids."""


class Unfit(UsageError):
    """An item that is no usage event. `code` names what is wrong, `at` where in it (a path; empty: all of it), `named`
    what the item calls its source and itself."""

    at: str

    def __init__(self, code: str, text: str, at: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.at = at
        self.named: Named = (None, None)


def named_in(item: Mapping[str, object], source: str, name: str) -> Named:
    """What stands in an item by these names."""
    first, second = (
        found if isinstance(found, str) and is_clean_id(found) else None for found in (item.get(source), item.get(name))
    )
    return first, second


@dataclass(frozen=True)
class UsageEvent:
    """One act of use. `source` and `event_id` together are its key; `quantity` is in base units of its type;
    `occurred_ms` is milliseconds since 1970. `subject`, `project` and `plan_key` are labels as they were then, never
    looked up again. Errors: Unfit, of what no event can say at any time (`require_time` knows the time)."""

    source: str
    event_id: str
    event_type: str
    org_id: str
    quantity: int
    occurred_ms: int
    subject: str | None = None
    project: str | None = None
    plan_key: str | None = None
    properties: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = (self.source, self.event_id, self.event_type, self.org_id)
        labels = (one for one in (self.subject, self.project, self.plan_key) if one is not None)
        if not all(map(is_clean_id, (*ids, *labels))):
            self._refuse_ids()
        if not 0 <= self.quantity <= MAX_QUANTITY:
            raise Unfit("bad_quantity", f"a quantity is a whole number from 0 to {MAX_QUANTITY:,}", "quantity")
        try:
            size = len(self.properties_json.encode())
        except (TypeError, ValueError, RecursionError):
            raise Unfit("bad_properties", "properties are what JSON can say, in clean UTF-8", "properties") from None
        if size > MAX_PROPERTIES_BYTES:
            raise Unfit("properties_too_large", f"properties are {MAX_PROPERTIES_BYTES:,} bytes at most", "properties")

    @cached_property
    def properties_json(self) -> str:
        """The properties as they are kept: the same text for the same content."""
        return _ENCODER.encode(self.properties) if self.properties else "{}"

    def require_time(self, now_ms: int) -> None:
        """Errors: Unfit `too_old` (before 2000: a unit mistake), `in_the_future` (over five minutes from now)."""
        if self.occurred_ms < EARLIEST_TS:
            raise Unfit("too_old", "the time lies before 2000: it is in milliseconds, or as ISO 8601", "time")
        if self.occurred_ms > now_ms + FUTURE_SLACK_MS:
            raise Unfit("in_the_future", "the time lies over five minutes ahead: see to the sender's clock", "time")

    def _refuse_ids(self) -> None:
        for name in ("source", "event_id", "event_type", "org_id", "subject", "project", "plan_key"):
            text = getattr(self, name)
            if text is not None and not is_clean_id(text):
                raise Unfit("bad_id", f"{name} has 1 to 200 characters, none of them control characters", name)
