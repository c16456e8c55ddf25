"""Report the open pushes of each provider: errors, age, worth, expected end.

Guarantee: only open pushes are read, by the index on open pushes. So settled pushes do not slow the read.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger.rates import RateCard, rate_card, rates_part
from drawdown.schema.push_states import OpenPushes
from drawdown.schema.sql import queries, read_together
from drawdown.schema.text import NEEDS_YOU
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.verdict.rates import Prices, Quantity

RATE_SPAN_MS: Final = 15 * MINUTE_MS
"""Milliseconds over which Drawdown measures the rate of a backlog."""
TICKS_LOOKED_AT: Final = 1_000
"""Most ticks that are read, the newest first, of all shards. Fewer ticks end within RATE_SPAN_MS."""
RANKS: Final = {1: "in_doubt", 2: "rejected", 3: "waiting"}
SQL = queries(__file__)


@dataclass(frozen=True)
class _OfProvider:
    """The first field of `Waiting`. In JSON, the numbers by state follow it."""

    provider: str


@dataclass(frozen=True)
class Waiting(OpenPushes, _OfProvider):
    """The open pushes of a provider. Prices are micro-credits.

    Prices are by the provider's own rates, otherwise by the embedded ledger's rate card. Pushes without a rate are only
    in `unpriced`. If several balances pay for the pushes, all of them are in `unpriced`. `oldest_window_ms`: the start
    of the oldest window (0: without open pushes). `error_pushes`: the number of pushes with `error`. `units`: base
    units by feature. `settled_per_min`: the pushes accepted a minute in recent ticks. `paused_ms` to `paused_reason`:
    the pause of the provider (None: it is not paused).
    """

    oldest_ms: int = 0
    """When the oldest open push was sealed; 0: without open pushes."""
    waiting_since_ms: int | None = None
    """When the oldest due or queued push was sealed; None: `due` and `queued` are 0."""
    oldest_window_ms: int = 0
    error: str | None = None
    errors: dict[str, str] = field(default_factory=dict)
    """The most frequent error by state: in_doubt, rejected, waiting. `error` is the first of these errors."""
    other_errors: dict[str, int] = field(default_factory=dict)
    """The number of other errors by state, without states that have only one error."""
    error_pushes: int = 0
    refused: int = 0
    """The number of due pushes that the provider refuses until a person changes a setting."""
    refusal: str | None = None
    """The most frequent reason of those refusals; None: `refused` is 0."""
    retry_ms: int | None = None
    """The earliest time at which a due push is sent next; None: `due` is 0."""
    tried: int = 0
    """The number of open pushes with at least one attempt."""
    units: dict[str, int] = field(default_factory=dict)
    price_micro: int = 0
    unpriced: dict[str, int] = field(default_factory=dict)
    paused_ms: int | None = None
    paused_by: str | None = None
    paused_reason: str | None = None
    settled_per_min: int = 0
    drained_ms: int | None = None
    """The time at which all due pushes are sent, at the present rate.

    None: `due` is 0, the provider is paused, or its rate is zero.
    """
    looked_up_by_ms: int | None = None
    """The time from which the provider can no longer apply queued pushes, so that a lookup decides each.

    None: `queued` is 0, or ticks have not recorded how long the provider may still apply a push.
    """

    @property
    def waiting(self) -> int:
        """Return the number of due and queued pushes, which ticks settle."""
        return self.due + self.queued

    @property
    def order(self) -> tuple[int, int, str]:
        """Return the sort key of the provider.

        The provider with the most pushes that need a person comes first, then the provider with the most waiting
        pushes.
        """
        return (-(self.in_doubt + self.rejected), -self.waiting, self.provider)


@dataclass(frozen=True)
class _Open:
    """Open pushes of one provider, state and feature, at one rate."""

    provider: str
    state: str
    feature: str
    rated_ms: int
    there_ms: int
    pushes: int
    quantity: int
    tried: int
    oldest_ms: int
    window_ms: int
    last_sent_ms: int | None
    due_ms: int


def read_providers(connection: sa.Connection, now_ms: int) -> list[Waiting]:
    """Return the paused providers and those with open pushes, sorted by `order`.

    This runs one statement, and a second if a provider with open pushes has its own rates.
    """
    read = read_together(
        connection,
        rates=rates_part(),
        open=SQL.part("open"),
        errors=SQL.part("errors"),
        paused=SQL.part("paused"),
        ticks=SQL.part("ticks", {"at_most": TICKS_LOOKED_AT, "since_ms": now_ms - RATE_SPAN_MS}),
    )
    card = rate_card(read["rates"])
    waiting: dict[str, list[_Open]] = defaultdict(list)
    for row in read["open"]:
        waiting[row.provider].append(_Open(**vars(row)))
    errors: dict[str, dict[str, list[tuple[str, int]]]] = defaultdict(dict)
    refusals: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for row in read["errors"]:
        of_state = errors[row.provider].setdefault(RANKS[row.rank], [])
        of_state.append((str(row.error).removeprefix(NEEDS_YOU), int(row.pushes)))
        refused = str(row.error).startswith(NEEDS_YOU)
        if refused and RANKS[row.rank] == "waiting":
            refusals[row.provider].append((str(row.error).removeprefix(NEEDS_YOU), int(row.pushes)))
    prices = Prices(connection)
    found = {
        name: _in_all(name, some, errors[name], _worth(name, some, card, prices)) for name, some in waiting.items()
    }
    for name, some in refusals.items():
        if name in found:
            found[name] = replace(found[name], refused=sum(pushes for _, pushes in some), refusal=some[0][0])
    for row in read["paused"]:
        before = found.get(row.provider, Waiting(row.provider))
        found[row.provider] = replace(
            before, paused_ms=int(row.paused_ms), paused_reason=str(row.paused_reason), paused_by=row.paused_by
        )
    settled, within = settled_per_minute(read["ticks"], now_ms), applied_within(read["ticks"])
    predicted = [
        _predicted(provider, settled.get(name, 0.0), now_ms, _last_lookup(waiting.get(name, ()), within.get(name)))
        for name, provider in found.items()
    ]
    return sorted(predicted, key=lambda provider: provider.order)


def _worth(name: str, some: Sequence[_Open], card: RateCard, prices: Prices) -> tuple[int, dict[str, int]]:
    """Return the price of a provider's open pushes, and quantities without a price.

    The price is in micro-credits. Quantities are in base units, by feature.
    """
    if any(part.there_ms >= 0 for part in some):
        worth = prices.worth(Quantity(name, part.feature, part.window_ms, int(part.quantity)) for part in some)
        if len(worth.credits_micro) > 1:
            return 0, worth.quantities
        return sum(worth.credits_micro.values()), worth.unpriced
    unpriced: dict[str, int] = defaultdict(int)
    price_micro = 0
    for part in some:
        price = card.price(part.feature, part.rated_ms, int(part.quantity))
        if price is None:
            unpriced[part.feature] += int(part.quantity)
        else:
            price_micro += price
    return price_micro, dict(unpriced)


def _in_all(
    name: str, some: Sequence[_Open], errors: Mapping[str, list[tuple[str, int]]], worth: tuple[int, dict[str, int]]
) -> Waiting:
    """Return the sums of all open pushes of one provider."""
    states: dict[str, Any] = defaultdict(int)
    units: dict[str, int] = defaultdict(int)
    error = next((of_state[0] for of_state in errors.values()), None)
    for part in some:
        states[part.state] += int(part.pushes)
        units[part.feature] += int(part.quantity)
    return Waiting(
        name,
        **states,
        oldest_ms=min(part.oldest_ms for part in some),
        waiting_since_ms=min((part.oldest_ms for part in some if part.state in ("due", "queued")), default=None),
        oldest_window_ms=min(part.window_ms for part in some),
        error=None if error is None else error[0],
        errors={state: of_state[0][0] for state, of_state in errors.items()},
        other_errors={state: len(of_state) - 1 for state, of_state in errors.items() if len(of_state) > 1},
        error_pushes=0 if error is None else error[1],
        tried=sum(int(part.tried) for part in some),
        retry_ms=min((int(part.due_ms) for part in some if part.state == "due"), default=None),
        units=dict(units),
        price_micro=worth[0],
        unpriced=worth[1],
    )


def _predicted(provider: Waiting, per_minute: float, now_ms: int, looked_up_by_ms: int | None) -> Waiting:
    """Predict when all due pushes are sent at the present rate.

    The rate does not apply to queued pushes, because they wait for a lookup.
    """
    drains = provider.due and per_minute > 0 and provider.paused_ms is None
    drained_ms = now_ms + round(provider.due / per_minute * MINUTE_MS) if drains else None
    return replace(provider, settled_per_min=round(per_minute), drained_ms=drained_ms, looked_up_by_ms=looked_up_by_ms)


def _last_lookup(some: Iterable[_Open], within_ms: int | None) -> int | None:
    """Return when the provider can no longer apply the last of the queued pushes."""
    sent = [int(part.last_sent_ms) for part in some if part.last_sent_ms is not None]
    return max(sent) + within_ms if sent and within_ms is not None else None


def applied_within(ticks: Iterable[Any]) -> dict[str, int]:
    """Return how long each provider may still apply a push after its send.

    The times are milliseconds. `ticks`: the newest tick first; the newest report of a provider counts.
    """
    found: dict[str, int] = {}
    for row in ticks:
        found = {**json.loads(row.report).get("applied_within_ms", {}), **found}
    return found


def settled_per_minute(ticks: Iterable[Any], now_ms: int) -> Mapping[str, float]:
    """Return pushes accepted a minute, by provider, from the reports of recent ticks.

    `ticks`: the newest tick first. The count goes back to the last tick with 0 accepted pushes, because the rate before
    an outage does not predict when the backlog ends.
    """
    totals: dict[str, int] = {}
    since: dict[str, int] = {}
    ended: set[tuple[str, int]] = set()
    for row in ticks:
        for provider, count in json.loads(row.report).get("accepted_at", {}).items():
            if not count:
                ended.add((provider, row.bucket_lo))
            elif (provider, row.bucket_lo) not in ended:
                totals[provider] = totals.get(provider, 0) + count
                since[provider] = min(since.get(provider, now_ms), row.started_ms)
    return {name: count * MINUTE_MS / max(now_ms - since[name], MINUTE_MS) for name, count in totals.items()}
