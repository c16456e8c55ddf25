"""What waits at each provider, why, since when, how much it is worth, and when it will be drained at the present rate.

Guarantee: only what is open is read, by its own index, however many pushes are settled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.units import MINUTE_MS
from drawdown.worker.catalog.prices import Prices
from drawdown.worker.catalog.terms import paused

RATE_SPAN_MS: Final = 15 * MINUTE_MS
TICKS_LOOKED_AT: Final = 1_000
"""The newest ticks of all shards: more than end in a quarter of an hour."""


@dataclass
class Waiting:
    """One provider's open pushes. Prices are micro-credits by the embedded ledger's rate card; what has none there is
    in `unpriced` alone."""

    provider: str
    due: int = 0
    queued: int = 0
    in_doubt: int = 0
    rejected: int = 0
    oldest_ms: int = 0
    """When the oldest of them was sealed."""
    oldest_window_ms: int = 0
    error: str | None = None
    error_pushes: int = 0
    tried: int = 0
    """Of the open ones, how many were ever sent, or tried to be."""
    units: dict[str, int] = field(default_factory=dict)
    price_micro: int = 0
    unpriced: dict[str, int] = field(default_factory=dict)
    paused_ms: int | None = None
    paused_by: str | None = None
    paused_reason: str | None = None
    settled_per_min: int = 0
    drained_ms: int | None = None
    """None: at the present rate, never."""

    @property
    def waiting(self) -> int:
        """What ticks will settle by themselves."""
        return self.due + self.queued


# Word for word the condition of the index on what is open. Of a feature's rates, the one in force at the window counts.
OPEN: Final = """
SELECT p.provider, p.state, p.feature, COALESCE((SELECT MAX(r.start_ms) FROM ledger_rates r
        WHERE r.feature = p.feature AND r.start_ms <= p.window_ms), -1) AS rated_ms,
    COUNT(*) AS pushes, SUM(p.sent_qty) AS quantity,
    COUNT(CASE WHEN p.attempts > 0 THEN 1 END) AS tried, MIN(p.sealed_at_ms) AS oldest_ms, MIN(p.window_ms) AS window_ms
FROM pushes p WHERE p.state IN ('due', 'queued', 'in_doubt', 'rejected') GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
"""
# What a person is needed for comes first.
ERRORS: Final = """
SELECT p.provider, CASE p.state WHEN 'in_doubt' THEN 1 WHEN 'rejected' THEN 2 ELSE 3 END AS rank,
    SUBSTR(p.last_error, 1, 160) AS error, COUNT(*) AS pushes FROM pushes p
WHERE p.state IN ('due', 'queued', 'in_doubt', 'rejected') AND p.last_error IS NOT NULL
GROUP BY 1, 2, 3 ORDER BY 2, 4 DESC, 3 LIMIT 500
"""
TICKS: Final = """
SELECT started_ms, bucket_lo, report FROM ticks WHERE tick_id > (SELECT MAX(tick_id) FROM ticks) - :most
    AND finished_ms > :since AND report IS NOT NULL ORDER BY tick_id DESC
"""
PAUSED_BY: Final = """
SELECT actor FROM operator_actions WHERE action = 'provider_pause' AND target = :provider
ORDER BY action_id DESC LIMIT 1
"""


def read_providers(connection: sa.Connection, now_ms: int) -> list[Waiting]:
    """Each provider where something waits, or that a person paused; the one with most of it first."""
    found: dict[str, Waiting] = {}
    prices = Prices.read(connection)
    for row in connection.execute(sa.text(OPEN)):
        _take(found.setdefault(row.provider, Waiting(row.provider)), row, prices)
    for row in connection.execute(sa.text(ERRORS)):
        one = found.get(row.provider)
        if one is not None and one.error is None:
            one.error, one.error_pushes = str(row.error), int(row.pushes)
    for name, (since, why) in paused(connection).items():
        one = found.setdefault(name, Waiting(name))
        one.paused_ms, one.paused_reason = since, why
        one.paused_by = connection.execute(sa.text(PAUSED_BY), {"provider": name}).scalar_one_or_none()
    settled = settled_per_minute(connection, now_ms)
    for one in found.values():
        _predict(one, settled.get(one.provider, 0.0), now_ms)
    return sorted(found.values(), key=lambda one: (-(one.in_doubt + one.rejected), -one.waiting, one.provider))


def _take(one: Waiting, row: sa.Row[Any], prices: Prices) -> None:
    quantity = int(row.quantity)
    setattr(one, row.state, getattr(one, row.state) + int(row.pushes))
    one.tried += int(row.tried)
    one.oldest_ms = min(one.oldest_ms or row.oldest_ms, row.oldest_ms)
    one.oldest_window_ms = min(one.oldest_window_ms or row.window_ms, row.window_ms)
    one.units[row.feature] = one.units.get(row.feature, 0) + quantity
    price = prices.of(row.feature, row.rated_ms, quantity)
    if price is None:
        one.unpriced[row.feature] = one.unpriced.get(row.feature, 0) + quantity
    else:
        one.price_micro += price


def _predict(one: Waiting, per_minute: float, now_ms: int) -> None:
    one.settled_per_min = round(per_minute)
    if one.waiting and per_minute > 0 and one.paused_ms is None:
        one.drained_ms = now_ms + round(one.waiting / per_minute * MINUTE_MS)


def settled_per_minute(connection: sa.Connection, now_ms: int) -> Mapping[str, float]:
    """Pushes that ticks saw accepted, by provider, a minute: those of the last quarter of an hour, back to the last one
    that saw none. What was before an outage says nothing of when it will be over."""
    values = {"most": TICKS_LOOKED_AT, "since": now_ms - RATE_SPAN_MS}
    totals: dict[str, int] = {}
    since: dict[str, int] = {}
    ended: set[tuple[str, int]] = set()
    for row in connection.execute(sa.text(TICKS), values):
        for provider, count in json.loads(row.report).get("accepted_at", {}).items():
            if not count:
                ended.add((provider, row.bucket_lo))
            elif (provider, row.bucket_lo) not in ended:
                totals[provider] = totals.get(provider, 0) + count
                since[provider] = min(since.get(provider, now_ms), row.started_ms)
    return {name: count * MINUTE_MS / max(now_ms - since[name], MINUTE_MS) for name, count in totals.items()}
