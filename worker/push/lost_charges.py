"""What a provider's events show of a lost span that is not known here (rule R1): other pushes of the lost history drew
it, and a customer's balance must not be taken for what one push drew on account of them.

Guarantee: reads only. What could not be read is None, never nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from drawdown.providers.protocol import Capabilities, ReadFailed, Totals
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS, next_window
from drawdown.worker.catalog.costs import Pools
from drawdown.worker.engine.effects import Over, ReadTotals, Steps, Transaction
from drawdown.worker.history.losses import Loss, loss_of, read_losses
from drawdown.worker.push.balances import Balances, CustomerPool, drawn_of, read_accounted
from drawdown.worker.push.lost_revisions import Sought

SQL = queries(__file__)


@dataclass(frozen=True)
class Shown:
    """What events show of a customer's windows in [from_ms, until_ms)."""

    from_ms: int
    until_ms: int
    totals: Totals | ReadFailed


def read_shown(
    provider: str,
    asked: Sequence[Sought],
    pairs: Collection[CustomerPool],
    pools: Pools,
    balances: Balances,
    capabilities: Capabilities,
    over: Over,
) -> Steps[Mapping[CustomerPool, Shown]]:
    """Ask for the totals of what was lost since a balance was compared last; of nothing else are there any."""
    if capabilities.totals_lag_ms is None:
        return {}
    losses: Mapping[CustomerPool, Loss] = yield Transaction(
        "confirm_lost", partial(_lost_since, provider=provider, pairs=pairs, balances=balances), rollback=True
    )
    spans: dict[CustomerPool, tuple[str, int, int]] = {}
    for pair, loss in losses.items():
        windows = [
            int(it.row.window_ms)
            for it in asked
            if (it.row.customer_id, pools.of(str(it.row.feature))) == pair and it.loss
        ]
        # Late samples of that day may have been billed in what was lost, too.
        first = min(loss.from_ms - loss.from_ms % DAY_MS, *windows, loss.from_ms)
        spans[pair] = pair[0], first, next_window(loss.until_ms)
    wanted = sorted(set(spans.values()))
    totals: Sequence[Totals | ReadFailed] = (yield ReadTotals(provider, wanted, over)) if wanted else ()
    read = dict(zip(wanted, totals, strict=True))
    return {pair: Shown(span[1], span[2], read[span]) for pair, span in spans.items()}


def _lost_since(
    connection: sa.Connection, *, provider: str, pairs: Collection[CustomerPool], balances: Balances
) -> Mapping[CustomerPool, Loss]:
    """What was lost of the cycle of each balance, and after it was compared last: that comparison told all before."""
    losses = read_losses(connection)
    if not losses:
        return {}
    found: dict[CustomerPool, Loss] = {}
    for pair, now in read_accounted(connection, provider=provider, pairs=pairs, balances=balances).items():
        drawn = drawn_of(balances, pair)
        since = max(0 if now.apart is None else now.marked_ms, (drawn.since_ms or 0) if drawn else 0)
        loss = loss_of(0, [it for it in losses if it.until_ms > since])
        if drawn is not None and loss is not None:
            found[pair] = loss
    return found


def unknown_of(
    connection: sa.Connection, provider: str, pair: CustomerPool, pools: Pools, shown: Shown | None, found: int
) -> int | None:
    """How much events show of a span beyond what is accepted here, or `found` by this look-up, in quantities of the
    balance; None: it could not be read, or a cost changed since.

    What a balance alone says was drawn has no event, and less than nothing is what was charged without one."""
    if shown is None:
        return 0
    if isinstance(shown.totals, ReadFailed):
        return None
    whose = {"provider": provider, "customer_id": pair[0], "from_ms": shown.from_ms, "until_ms": shown.until_ms}
    total = 0
    for feature in pools.features(pair[1]):
        known = int(SQL.run(connection, "known_by_events", {**whose, "feature": feature}).scalar_one())
        least, most = pools.weight_between(pair[1], feature, shown.from_ms, 2**62)
        if least != most:
            return None
        total += (int(shown.totals.get(feature, 0)) - known) * most
    return max(0, total - found)
