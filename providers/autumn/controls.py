"""Billing controls of an Autumn customer: usage limits, spend limits, overage. Pure.

Guarantee: a control that decides and cannot be read makes the customer unreadable, never unlimited and never empty.
Facts: `customers.get` merges the plan's controls with the customer's own (recorded). At 2.1.0 `source` is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Final

from drawdown.providers.autumn.deductions import number
from drawdown.providers.autumn.errors import Unreadable

READ: Final = frozenset({"usage_limits", "spend_limits", "overage_allowed"})
IGNORED: Final = frozenset({"usage_alerts", "auto_topups"})
"""Kinds that never refuse usage."""
INTERVALS: Final = frozenset({"hour", "day", "week", "month", "quarter", "semi_annual", "year"})
ABSOLUTE: Final = (None, "absolute")
"""Types of spend limits that are an amount."""


@dataclass(frozen=True)
class UsageLimit:
    """What is left of a limit on the usage of one feature, in its units; zero or less: it is reached."""

    feature: str
    left: Decimal


@dataclass(frozen=True)
class Controls:
    """The controls that apply to Drawdown's charges: enabled, and without a filter."""

    usage_limits: tuple[UsageLimit, ...] = ()
    spend_limits: Mapping[str, Decimal] = field(default_factory=dict)
    """How far a balance may be overdrawn, by feature."""
    overage: frozenset[str] = frozenset()
    unknown: tuple[str, ...] = ()
    """The controls that are not understood, in words for `check`."""

    def left(self, feature: str) -> Decimal | None:
        """What the usage limits of a feature leave; None: it has none."""
        return self._left.get(feature)

    @cached_property
    def _left(self) -> Mapping[str, Decimal]:
        found: dict[str, Decimal] = {}
        for one in self.usage_limits:
            found[one.feature] = min(one.left, found.get(one.feature, one.left))
        return found


def read_controls(body: Mapping[str, object]) -> Controls:
    """The controls of a customer. Errors: Unreadable."""
    found = body.get("billing_controls")
    if found is None:
        return Controls()
    if not isinstance(found, dict):
        raise Unreadable("Autumn's answer has billing controls that cannot be read")
    return Controls(
        tuple(_usage_limit(one) for one in _entries(found, "usage_limits", default=True) if one.get("filter") is None),
        dict(_spend_limits(found)),
        frozenset(_feature(one, "overage_allowed") for one in _entries(found, "overage_allowed", default=False)),
        tuple(_unknown(found)),
    )


def _entries(found: Mapping[str, object], kind: str, *, default: bool) -> Iterator[Mapping[str, object]]:
    """The enabled entries of a kind. `default`: what an entry without `enabled` is."""
    entries = found.get(kind)
    if entries is None:
        return
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise Unreadable(f"Autumn's answer has {kind} that cannot be read")
    for one in entries:
        enabled = one.get("enabled", default)
        if not isinstance(enabled, bool):
            raise Unreadable(f"Autumn's answer has {kind} that are neither enabled nor disabled")
        if enabled:
            yield one


def _feature(one: Mapping[str, object], kind: str) -> str:
    name = one.get("feature_id")
    if not isinstance(name, str) or not name:
        raise Unreadable(f"Autumn's answer has {kind} that name no feature")
    return name


def _usage_limit(one: Mapping[str, object]) -> UsageLimit:
    feature = _feature(one, "usage_limits")
    limit, usage = number(one.get("limit")), number(one.get("usage"))
    if limit is None or usage is None:
        raise Unreadable(f"Autumn's usage limit of {feature} has no number under limit or usage")
    return UsageLimit(feature, limit - usage)


def _spend_limits(found: Mapping[str, object]) -> Iterator[tuple[str, Decimal]]:
    least: dict[str, Decimal] = {}
    for one in _entries(found, "spend_limits", default=False):
        if one.get("overage_limit") is None:
            continue  # it limits nothing
        feature, limit = _feature(one, "spend_limits"), number(one["overage_limit"])
        if limit is None or one.get("limit_type") not in ABSOLUTE:
            raise Unreadable(f"Autumn's spend limit of {feature} is no amount")
        least[feature] = min(limit, least.get(feature, limit))
    yield from least.items()


def _unknown(found: Mapping[str, object]) -> Iterator[str]:
    """Controls of an unknown kind or shape. Drawdown's charges carry one property alone, so that a filter on another
    one never matches them; a filter that is not of properties may."""
    for kind in sorted(found.keys() - READ - IGNORED):
        if found[kind]:
            yield f"billing controls of the kind {kind}"
    for one in _entries(found, "usage_limits", default=True):
        feature, interval, chosen = one.get("feature_id"), one.get("interval"), one.get("filter")
        if interval not in INTERVALS:
            yield f"a usage limit of {feature} with the interval {interval}"
        if chosen is not None and not _is_of_properties(chosen):
            yield f"a usage limit of {feature} with a filter that is not of properties"


def _is_of_properties(chosen: object) -> bool:
    if not isinstance(chosen, dict) or chosen.keys() != {"properties"}:
        return False
    properties = chosen["properties"]
    return isinstance(properties, dict) and bool(properties)
