"""Pushes that may have been sent in a history we lost (rule R1).

Guarantee: nothing of a window from before a loss is sent before its provider was asked for it. Charges under keys of
that window that are unknown here are found by asking for the revisions that would have come next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import sqlalchemy as sa

from drawdown.providers.protocol import CannotTell, Capabilities, Found, LookupResult, PushRequest, ReadFailed
from drawdown.schema.sql import queries
from drawdown.schema.units import WINDOW_MS, push_key
from drawdown.worker.engine.asking import look_up_all
from drawdown.worker.engine.effects import Steps
from drawdown.worker.history.losses import Loss
from drawdown.worker.push.adopt import Other
from drawdown.worker.push.outcome import OTHERS, OTHERS_FIRST
from drawdown.worker.push.rows import PushRow, dated, push_id_of, request_of, wire_key

SQL = queries(__file__)

NEXT_REVISIONS: Final = 3
"""So many revisions after the newest we know are asked for at once; where the last of them is there, as many more.
Others are found step by step: what is adopted makes the difference be sealed, that is asked for with those after it."""


@dataclass(frozen=True)
class CarryDoubt:
    """How a push of a lost window stands to the others of its customer and feature."""

    stale: bool = False
    waits: bool = False


def carry_doubt(connection: sa.Connection, row: PushRow, capabilities: Capabilities) -> CarryDoubt:
    """Where only whole units are taken, or no negatives, what is sent of one window rests on all that were before: then
    all are asked for before one is sent, and what rests on a carry that is no more is sealed anew."""
    if capabilities.unit_of(row.feature) == 1 and capabilities.negatives:
        return CarryDoubt()
    values = {**push_id_of(row), "provider": row.provider, "customer_id": row.customer_id}
    stale = SQL.run(connection, "adopted_since", {**values, "sealed_at_ms": row.sealed_at_ms}).first() is not None
    waits = (
        SQL.run(connection, "others_untold", {**values, "others_first": OTHERS_FIRST, "others": OTHERS}).first()
        is not None
    )
    return CarryDoubt(stale, waits)


def next_revisions(row: PushRow, newest: int, capabilities: Capabilities) -> list[PushRequest]:
    """What to ask for besides a push: the keys that our lost history would have used after the revision `newest`."""
    asked = request_of(row, capabilities)
    numbers = range(newest + 1, newest + 1 + NEXT_REVISIONS)
    return [
        replace(
            asked,
            key=wire_key(push_key(row.org_id, row.window_ms, row.feature, number), capabilities),
            ts=dated(row.window_ms, number),
        )
        for number in numbers
    ]


@dataclass(frozen=True)
class Sought:
    """One push to look up; where history was lost, when it may have been sent, and what else is there of its window."""

    row: PushRow
    loss: Loss | None
    others: Sequence[Other] = ()

    @property
    def first_sent_ms(self) -> int:
        """When it may have been sent first: in a lost history, as soon as its window was over."""
        first = int(self.row.first_attempt_ms or self.row.last_sent_ms)
        if self.loss is None:
            return first
        return min(first, max(self.loss.from_ms, int(self.row.window_ms) + WINDOW_MS))

    @property
    def last_sent_ms(self) -> int:
        """When it may have been sent last: to a loss's end, whatever our attempts say."""
        last = int(self.row.last_sent_ms)
        if self.loss is None:
            return last
        return max(last, self.loss.until_ms) if self.row.attempts else self.loss.until_ms

    @property
    def is_unsent(self) -> bool:
        """Whether each attempt is proven not to have arrived, and none can be forgotten: it charged nothing."""
        row = self.row
        return self.loss is None and bool(row.attempts) and not row.claimed and not row.arrivals


def look_further(
    provider: str, asked: Sequence[Sought], found: Sequence[LookupResult], capabilities: Capabilities
) -> Steps[tuple[Sequence[Sought], Sequence[LookupResult]]]:
    """Where history was lost, ask also for what it may have sent after a push, or in its place."""
    asked = list(asked)
    found = [held(result) if it.loss is not None else result for it, result in zip(asked, found, strict=True)]
    places = [
        place
        for place, (sought, result) in enumerate(zip(asked, found, strict=True))
        if sought.loss is not None and not isinstance(result, ReadFailed | CannotTell)
    ]
    newest = {place: int(asked[place].row.newest) for place in places}
    while places:  # as long as the last is there: what is adopted takes the next number, which must be nobody's
        requests = [it for place in places for it in next_revisions(asked[place].row, newest[place], capabilities)]
        results = yield from look_up_all(provider, requests)
        longer = []
        for number, place in enumerate(places):
            part = slice(number * NEXT_REVISIONS, (number + 1) * NEXT_REVISIONS)
            # One that cannot be told apart there is left to reconcile; none of ours is sent under its key unasked.
            others = [held(other) for other in results[part]]
            untold = [other for other in others if isinstance(other, ReadFailed)]
            if untold:
                found[place], asked[place] = untold[0], replace(asked[place], others=())
                continue
            numbered = enumerate(zip(requests[part], others, strict=True), newest[place] + 1)
            there = [Other(n, it.key, other.quantity) for n, (it, other) in numbered if isinstance(other, Found)]
            more = [other for other in there if other.quantity]
            asked[place] = replace(asked[place], others=[*asked[place].others, *more])
            if isinstance(results[part][-1], Found):
                newest[place] += NEXT_REVISIONS
                longer.append(place)
        places = longer
    return asked, found


def held(result: LookupResult) -> LookupResult:
    """Where history was lost, another figure than ours is what we have forgotten, and not somebody else's."""
    return Found(result.holds) if isinstance(result, CannotTell) and result.holds is not None else result
