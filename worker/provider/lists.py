"""Providers as people look at them: what is kept of each, who is billed there, which are in shadow. Reads only.

Guarantee: only what is open, the latest sends, and organisations' assignments are counted. A circuit is each process's
own and is not kept; the sends without an answer that open one are.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS, EXEMPT_PROVIDERS
from drawdown.worker.engine.breaker import OPEN_AFTER, OPEN_FOR_MS
from drawdown.worker.push.lists import OpenSum, open_sums

SQL = queries(__file__)

WELL: Final = "read"
"""The outcome of a read with a customer, as the watch and ticks count it."""

MOST_SENDS: Final = 5_000
"""Latest sends in the calls, errors and times of the page of providers."""
USED_MS: Final = 7 * DAY_MS
"""Age of the last bill up to which a customer counts as a user of a feature."""
SENDS_MS: Final = DAY_MS
"""Age of the oldest send that counts."""


@dataclass(frozen=True)
class Unanswered:
    """Sends of those latest that had no answer, or that the provider put off: how many since it last answered any, when
    the first and the last of them ended, and when it last answered. None: there is none among them."""

    in_a_row: int
    since_ms: int | None
    last_ms: int | None
    answered_ms: int | None

    def may_be_open(self, now_ms: int) -> bool:
        """Return True if some process may send nothing now.

        A circuit counts batches, which are as many sends or fewer.
        """
        return self.in_a_row >= OPEN_AFTER and self.last_ms is not None and now_ms < self.last_ms + OPEN_FOR_MS


@dataclass(frozen=True)
class ProviderLine:
    """A provider: `state` by what is kept here (broken settings show on the machine alone, `drawdown provider list`);
    calls are sends of the latest MOST_SENDS and no older than a day, `reads` all that were ever counted."""

    provider: str
    met: bool = False
    paused_ms: int | None = None
    paused_reason: str | None = None
    live_from_ms: int | None = None
    terms: dict[str, object] = field(default_factory=dict)
    orgs: int = 0
    without_customer: int = 0
    open: dict[str, int] = field(default_factory=dict)
    oldest_ms: int | None = None
    calls: int | None = None
    failed: int | None = None
    p95_ms: int | None = None
    unanswered: Unanswered | None = None
    reads: int | None = None
    reads_failed: int | None = None

    def state(self, now_ms: int) -> str:
        """paused, shadow (sealed and compared, and nothing is sent), failing (most sends are not accepted),
        in use, or not met by any tick yet."""
        if self.paused_ms is not None:
            return "paused"
        if not self.met:
            return "not met"
        return "shadow" if self.live_from_ms is not None and self.live_from_ms > now_ms else self._in_use

    @property
    def open_pushes(self) -> int:
        """Pushes that are not decided."""
        return sum(self.open.values())

    @property
    def is_failing(self) -> bool:
        """True if most of its latest sends were not accepted."""
        return 2 * (self.failed or 0) > (self.calls or 0)

    @property
    def _in_use(self) -> str:
        return "failing" if self.is_failing else "in use"


def provider_lines(connection: sa.Connection, now_ms: int) -> list[ProviderLine]:
    """Each one that bills somebody, or was met; by name."""
    found: dict[str, ProviderLine] = {}
    for row in SQL.run(connection, "states"):
        found[row.provider] = ProviderLine(
            row.provider,
            row.terms is not None,
            row.paused_ms,
            row.paused_reason,
            row.live_from_ms,
            {} if row.terms is None else json.loads(row.terms),
        )

    def of(name: str) -> ProviderLine:
        return found.get(name, ProviderLine(name))

    for row in SQL.run(connection, "orgs", {"now_ms": now_ms}):
        if row.provider not in EXEMPT_PROVIDERS:
            found[row.provider] = replace(
                of(row.provider), orgs=int(row.orgs), without_customer=int(row.without_customer)
            )
    for name, sums in _by_provider(open_sums(connection)).items():
        states: dict[str, int] = defaultdict(int)
        for one in sums:
            states[one.state] += one.pushes
        found[name] = replace(of(name), open=dict(states), oldest_ms=min(one.oldest_ms for one in sums))
    for row in SQL.run(connection, "attempts", {"since_ms": now_ms - SENDS_MS, "at_most": MOST_SENDS}):
        unanswered = Unanswered(int(row.in_a_row), row.unanswered_ms, row.last_unanswered_ms, row.answered_ms)
        found[row.provider] = replace(
            of(row.provider), calls=int(row.calls), failed=int(row.failed), p95_ms=row.p95_ms, unanswered=unanswered
        )
    for row in SQL.run(connection, "reads", {"well": WELL}):
        found[row.provider] = replace(of(row.provider), reads=int(row.reads), reads_failed=int(row.failed))
    return [found[name] for name in sorted(found)]


def customers_at(connection: sa.Connection, provider: str, now_ms: int, most: int) -> list[str]:
    """Customers that are billed there, or will be."""
    values = {"provider": provider, "now_ms": now_ms, "at_most": most}
    return list(SQL.run(connection, "customers", values).scalars())


def features_used(
    connection: sa.Connection, provider: str, customers: Sequence[str], now_ms: int
) -> dict[tuple[str, ...], list[str]]:
    """The customers by the features that were billed to them there of late; of those without any, none."""
    values = {"provider": provider, "customers": list(customers), "since_ms": now_ms - USED_MS}
    used: dict[str, list[str]] = {customer: [] for customer in customers}
    for row in SQL.run(connection, "features_used", values):
        used[row.customer_id].append(row.feature)
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for customer, features in used.items():
        found[tuple(features)].append(customer)
    return found


def providers_in_use(connection: sa.Connection) -> list[str]:
    """Providers that bill organisations from some time on without an end; `none` and `legacy` bill nothing."""
    return list(SQL.run(connection, "in_use").scalars())


def _by_provider(sums: list[OpenSum]) -> dict[str, list[OpenSum]]:
    found: dict[str, list[OpenSum]] = defaultdict(list)
    for one in sums:
        found[one.provider].append(one)
    return found
