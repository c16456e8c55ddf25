"""What a customer's balance tells of accepted pushes that no event shows (P5).

Guarantee: it tells nothing while a push is on its way. A push is taken for undrawn only where figures agree exactly;
where the balance was drawn on by more than is accounted for, a push stands.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from drawdown.providers.protocol import ReadFailed
from drawdown.worker.push.balances import Accounted, Balances, CustomerFeature, charged_among, read_accounted


def standing(
    connection: sa.Connection,
    provider: str,
    pair: CustomerFeature,
    before: Accounted,
    balances: Balances,
    taken_over: int,
) -> Accounted | None:
    """What stands beside a balance. None: it tells nothing yet, since it was not read, or a push was on its way."""
    now = read_accounted(connection, provider=provider, pairs=[pair], balances=balances)[pair]
    unread = isinstance(balances.get(pair[0]), ReadFailed)
    if unread or now.open or now.sent != before.sent or now.accepted != before.accepted - taken_over:
        return None
    return now


def charged_of(quantities: Sequence[int], beyond: tuple[int, int], extra: int) -> frozenset[int] | None:
    """Which of the absent pushes the balance was drawn on by: they count as accepted still. None, too, where it was not
    drawn on by what events show too much of: that stands for a push of a day that is not compared now."""
    if not quantities:
        return frozenset() if beyond[1] >= extra else None
    if beyond[0] >= extra and all(quantity > 0 for quantity in quantities):
        return frozenset(range(len(quantities)))  # it covers them all, and perhaps what others drew besides
    of_absent = sum(quantities) - extra
    return charged_among(quantities, beyond[0] + of_absent, beyond[1] + of_absent)
