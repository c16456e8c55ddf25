"""Billing controls at the emulated Autumn: usage limits, spend limits, overage and usage alerts of customer and plan.

Guarantee: what is merged, shown, counted and clamped is as recorded. The recording leaves open where a period without
an anchor begins; here it begins when the limit was set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from tests.emulators.autumn_numbers import Json, Number, later

KINDS = ("usage_limits", "spend_limits", "overage_allowed", "usage_alerts")


@dataclass
class Entry:
    """One control, whose it is, and what a usage limit has counted in its period."""

    kind: str
    told: Json
    source: str
    since_ms: int
    usage: Number = 0
    sent: bool = False
    """Of an alert: whether it was triggered."""

    @property
    def feature(self) -> str:
        return str(self.told["feature_id"])

    @property
    def enabled(self) -> bool:
        return self.told.get("enabled") is True

    def number(self, name: str) -> Number:
        found = self.told[name]
        return found if isinstance(found, int | Decimal) else Decimal(repr(found))

    def matches(self, properties: Mapping[str, object]) -> bool:
        """Whether a charge falls under its filter."""
        only = self.told.get("filter")
        wanted = only.get("properties", {}) if isinstance(only, dict) else {}
        return all(properties.get(name) == text for name, text in wanted.items())

    def turn(self, now_ms: int) -> None:
        """Count anew where a period ended."""
        interval = str(self.told.get("interval"))
        begins = _period(self.since_ms, interval, now_ms, utc=self.told.get("anchor") == "utc")
        if begins > self.since_ms:
            self.since_ms, self.usage = begins, 0


def _period(since_ms: int, interval: str, now_ms: int, *, utc: bool) -> int:
    if utc:
        moment = datetime.fromtimestamp(now_ms // 1000, UTC).replace(minute=0, second=0)
        if interval != "hour":
            moment = moment.replace(hour=0)
        if interval == "month":
            moment = moment.replace(day=1)
        return int(moment.timestamp()) * 1000
    while interval in ("hour", "day", "week", "month", "year") and later(since_ms, interval) <= now_ms:
        since_ms = later(since_ms, interval)
    return since_ms


@dataclass
class Controls:
    """All controls of a customer, or those of a plan."""

    entries: list[Entry] = field(default_factory=list)

    @classmethod
    def read(cls, given: Mapping[str, object], source: str, now_ms: int) -> Controls:
        """From a body's `billing_controls`."""
        made = cls()
        for kind in KINDS:
            listed = given.get(kind)
            made.entries += [
                Entry(kind, dict(one), source, now_ms) for one in (listed if isinstance(listed, list) else [])
            ]
        return made

    def set(self, more: Controls) -> None:
        """Take more in; of one source and kind the new ones replace the old ones."""
        replaced = {(one.source, one.kind) for one in more.entries}
        self.entries = [one for one in self.entries if (one.source, one.kind) not in replaced] + more.entries

    def copy(self) -> Controls:
        return Controls([Entry(**vars(one)) for one in self.entries])

    def given(self) -> Json:
        """As they were given."""
        kept: dict[str, object] = {}
        for kind in KINDS:
            listed = [one.told for one in self.entries if one.kind == kind]
            kept |= {kind: listed} if listed else {}
        return kept

    def of(self, kind: str, feature: str | None = None) -> Iterator[Entry]:
        """Those that count: a customer's own replaces the plan's of the same feature (recorded: B12)."""
        own = {one.feature for one in self.entries if one.kind == kind and one.source == "customer"}
        for one in self.entries:
            counts = one.source == "customer" or one.feature not in own
            if one.kind == kind and counts and feature in (None, one.feature):
                yield one

    def shown(self, now_ms: int, *, with_source: bool) -> Json:
        found: Json = {}
        for kind in KINDS:
            listed = []
            for one in self.of(kind):
                told = dict(one.told)
                if kind == "usage_limits":
                    one.turn(now_ms)
                    told["usage"] = one.usage
                listed.append(told | {"source": one.source} if with_source else told)
            found |= {kind: listed} if listed else {}
        return found

    def allows_overage(self, feature: str) -> bool:
        return any(one.enabled for one in self.of("overage_allowed", feature))

    def spend_limit(self, feature: str) -> Number | None:
        """What `check` goes by."""
        limits = [one.number("overage_limit") for one in self.of("spend_limits", feature) if one.enabled]
        return min(limits) if limits else None

    def clamp(self, feature: str) -> Number | None:
        """Where a charge stops. With a limit of 5 in the plan and 8 of its own a customer was stopped at 5 (K5),
        although its reads and `check` went by 8 (B12, G17): the lowest of all that were set."""
        entries = [one for one in self.entries if one.kind == "spend_limits" and one.feature == feature]
        limits = [one.number("overage_limit") for one in entries if one.enabled]
        return min(limits) if limits else None

    def limits(self, feature: str, properties: Mapping[str, object], now_ms: int) -> list[Entry]:
        """The usage limits of a feature that a charge falls under."""
        found = [one for one in self.of("usage_limits", feature) if one.enabled and one.matches(properties)]
        for one in found:
            one.turn(now_ms)
        return found

    def headroom(self, feature: str, properties: Mapping[str, object], now_ms: int) -> Number | None:
        """How much of a feature its usage limits still allow; None: there is none."""
        left = [max(0, one.number("limit") - one.usage) for one in self.limits(feature, properties, now_ms)]
        return min(left) if left else None
