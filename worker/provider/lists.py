"""Lists of providers: stored state, organisations, open pushes and latest sends.

Reads only.

Guarantee: these lists count only open pushes, the latest sends, and assignments. Each process has its own circuit
breakers, which are not stored. However, the database stores the unanswered sends that open a circuit breaker.
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
"""The outcome of a successful read of a customer, as the watch and ticks count it."""

MOST_SENDS: Final = 5_000
"""Latest sends from which the page of providers calculates calls, errors and times."""
USED_MS: Final = 7 * DAY_MS
"""Milliseconds after a push's window for which its customer counts as a user of the feature."""
SENDS_MS: Final = DAY_MS
"""Largest age of a send that the page of providers counts, in milliseconds."""


@dataclass(frozen=True)
class Unanswered:
    """Latest sends that the provider deferred or did not answer.

    `in_a_row`: the number of these sends since the last response. `since_ms`, `last_ms`: the end of the first and of
    the last of them (None: `in_a_row` is 0). `answered_ms`: the end of the last answered send (None: the provider did
    not answer any).
    """

    in_a_row: int
    since_ms: int | None
    last_ms: int | None
    answered_ms: int | None

    def may_be_open(self, now_ms: int) -> bool:
        """Return True if the circuit breaker of a process may be open now.

        A circuit breaker counts requests, and a request has one or more sends.
        """
        return self.in_a_row >= OPEN_AFTER and self.last_ms is not None and now_ms < self.last_ms + OPEN_FOR_MS


@dataclass(frozen=True)
class ProviderLine:
    """A provider by its stored state.

    Only `drawdown provider list` shows invalid settings of a machine.

    `met`: a tick has stored its terms. `paused_ms` None: it is not paused. `live_from_ms`: the time from which Drawdown
    sends pushes (None: always). `without_customer`: the number of its organisations without a customer there. `open`:
    the number of open pushes, by state. `oldest_ms`: the time when the oldest of them was sealed (None: all pushes are
    settled).

    The next four fields count its sends among the latest MOST_SENDS sends to all providers within a day. They are None
    if Drawdown did not send to it. `calls`: the number of sends with an outcome. `failed`: how many of these were
    neither accepted, queued nor duplicate. `p95_ms`: the 95th percentile of the durations (also None while all sends
    are under way). `unanswered`: the sends that the provider deferred or did not answer.

    `reads`, `reads_failed`: the numbers of all reads of its customers, and of failed reads (None: Drawdown has not
    counted a read).
    """

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
        """Return the state: paused, shadow, failing, in use, or not met.

        `shadow`: usage is sealed and compared, but not sent. `failing`: most of its latest sends failed. `not met`: a
        tick has not stored its terms yet.
        """
        if self.paused_ms is not None:
            return "paused"
        if not self.met:
            return "not met"
        return "shadow" if self.live_from_ms is not None and self.live_from_ms > now_ms else self._in_use

    @property
    def open_pushes(self) -> int:
        """Return the number of open pushes."""
        return sum(self.open.values())

    @property
    def is_failing(self) -> bool:
        """Return True if most of its latest sends failed.

        A send failed if it is neither accepted, queued nor duplicate.
        """
        return 2 * (self.failed or 0) > (self.calls or 0)

    @property
    def _in_use(self) -> str:
        return "failing" if self.is_failing else "in use"


def provider_lines(connection: sa.Connection, now_ms: int) -> list[ProviderLine]:
    """Return the providers in use, sorted by name.

    A provider is in use if it has an assignment, open pushes, sends or stored state.
    """
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
    """Return up to `most` customers that a provider bills now or later."""
    values = {"provider": provider, "now_ms": now_ms, "at_most": most}
    return list(SQL.run(connection, "customers", values).scalars())


def features_used(
    connection: sa.Connection, provider: str, customers: Sequence[str], now_ms: int
) -> dict[tuple[str, ...], list[str]]:
    """Group customers by the features of their pushes within USED_MS.

    Customers without such a push are under the empty key.
    """
    values = {"provider": provider, "customers": list(customers), "since_ms": now_ms - USED_MS}
    used: dict[str, list[str]] = {customer: [] for customer in customers}
    for row in SQL.run(connection, "features_used", values):
        used[row.customer_id].append(row.feature)
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for customer, features in used.items():
        found[tuple(features)].append(customer)
    return found


def providers_in_use(connection: sa.Connection) -> list[str]:
    """Return the providers with an assignment that does not end.

    `none` and `legacy` do not bill, and are omitted.
    """
    return list(SQL.run(connection, "in_use").scalars())


def _by_provider(sums: list[OpenSum]) -> dict[str, list[OpenSum]]:
    found: dict[str, list[OpenSum]] = defaultdict(list)
    for one in sums:
        found[one.provider].append(one)
    return found
