"""Parts of customers' balances, granted once or by a plan.

Guarantee: Drawdown stores a part from the first read that showed it. Source: Autumn omits a one-time part from all its
responses as soon as it is used up exactly (observed in a recorded call). Only its absence shows the use. A part is also
absent if it expired, or if its plan ended. Drawdown records the use of a part from reads and from responses to charges.
Each response shows the parts that its charge used. Responses and reads arrive out of order, and a read may be seconds
old. So Drawdown does not lower the recorded use of a part for a minute.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Final

import sqlalchemy as sa
import structlog

from drawdown.providers.protocol import CustomerState, Part
from drawdown.schema.sql import queries
from drawdown.schema.units import MINUTE_MS

log = structlog.get_logger()
SQL = queries(__file__)

MOST_KEPT: Final = 10_000
"""Most stored parts of one customer's balances.

At this number, Drawdown does not store new parts, and logs a warning.
"""
STALE_MS: Final = MINUTE_MS
"""Milliseconds after a record of a part's use in which a read may show an older use.

After this time, Drawdown records the use again, even if the use did not change.
"""
UNSETTLED_MS: Final = 2 * STALE_MS
"""Milliseconds after a charge in which a read of a part does not prove the charge.

The read may be old, or the provider may lose the charge.
"""
ENDS_SOON_MS: Final = 15 * MINUTE_MS
"""Milliseconds before the end of a part in which each read of its customer schedules the next read."""


def last_look_ms(ends_ms: Iterable[int | None], now_ms: int) -> int | None:
    """Return the time of the next read of a customer if a part ends soon.

    None: the customer does not have a part that ends within ENDS_SOON_MS.

    After the end of a part, a read cannot show whether the provider lost a charge on the part.
    """
    ends_soon = any(one is not None and now_ms < one <= now_ms + ENDS_SOON_MS for one in ends_ms)
    return now_ms + UNSETTLED_MS if ends_soon else None


def known_parts(connection: sa.Connection, provider: str, customers: Collection[str]) -> Mapping[str, Sequence[Part]]:
    """Return the stored parts of customers, by customer."""
    found: dict[str, list[Part]] = defaultdict(list)
    values = {"provider": provider, "customers": [{"customer_id": customer} for customer in sorted(customers)]}
    for row in SQL.run(connection, "known_parts", values) if customers else ():
        used = None if row.used is None else Decimal(row.used)
        granted, seen_ms = Decimal(row.granted), int(row.seen_ms)
        part = Part(str(row.balance), str(row.part), granted, row.ends_ms, row.plan, used, seen_ms)
        found[str(row.customer_id)].append(part)
    return found


def note_parts(connection: sa.Connection, provider: str, read: Mapping[str, CustomerState], now_ms: int) -> None:
    """Record the parts that reads of customers showed.

    Parts that did not change are not written.
    """
    known = known_parts(connection, provider, read)
    shown = {
        customer: [*state.parts, *_changed_by_absence(known.get(customer, ()), state, now_ms)]
        for customer, state in read.items()
    }
    _keep(connection, provider, shown, known, now_ms)


def note_shown_parts(
    connection: sa.Connection, provider: str, shown: Mapping[str, Sequence[Part]], now_ms: int
) -> None:
    """Record the parts that responses to charges showed.

    Without this, the next charge could use up a part before a read shows it.
    """
    if shown:
        _keep(connection, provider, shown, known_parts(connection, provider, shown), now_ms)


def _keep(
    connection: sa.Connection,
    provider: str,
    shown: Mapping[str, Sequence[Part]],
    known: Mapping[str, Sequence[Part]],
    now_ms: int,
) -> None:
    for customer in sorted(customer for customer, parts in known.items() if len(parts) >= MOST_KEPT):
        log.warning("too_many_parts", provider=provider, customer=customer)
    rows = []
    for customer, parts in sorted(shown.items()):
        kept = {(part.balance, part.name): part for part in known.get(customer, ())}
        for part in sorted(parts, key=lambda part: (part.balance, part.name)):
            before = kept.get((part.balance, part.name))
            new = replace(part, seen_ms=now_ms) if before is None else _newer(before, part, now_ms)
            if new is not None and (before is not None or len(kept) < MOST_KEPT):
                rows.append(_row(customer, new))
    if rows:
        SQL.run(connection, "note_parts", {"provider": provider, "parts": rows, "stale_ms": STALE_MS})


def _newer(before: Part, part: Part, now_ms: int) -> Part | None:
    """Return the part to store; None if the stored part did not change."""
    if part.seen_ms:  # a part that a read no longer shows keeps the time when it was last shown
        return part
    if before.used is not None and part.used is not None and now_ms < before.seen_ms + STALE_MS:
        part = replace(part, used=max(before.used, part.used))
    is_old = part.used is not None and now_ms >= before.seen_ms + STALE_MS
    return replace(part, seen_ms=now_ms) if part != before or is_old else None


def _row(customer: str, part: Part) -> dict[str, object]:
    return {
        "customer_id": customer,
        "balance": part.balance,
        "part": part.name,
        "granted": f"{part.granted:f}",
        "ends_ms": part.ends_ms,
        "plan": part.plan,
        "used": None if part.used is None else f"{part.used:f}",
        "seen_ms": part.seen_ms,
    }


def _changed_by_absence(known: Sequence[Part], state: CustomerState, now_ms: int) -> list[Part]:
    """Return the changes of stored parts that a read no longer shows.

    If such a part was not used up, it has ended. If a debt disappeared before the part's end, a person set the balance,
    and the part counts as used up at its grant. Otherwise the later end of the part would count the debt as drawn.
    """
    shown = {(part.balance, part.name) for part in state.parts}
    gone = [
        part
        for part in known
        if (part.balance, part.name) not in shown and (part.ends_ms is None or part.ends_ms > now_ms)
    ]
    changed = []
    for part in gone:
        if part.ended(state.plans):
            changed.append(replace(part, ends_ms=now_ms))
        elif part.used is not None and part.used > part.granted:
            changed.append(replace(part, used=part.granted))
    return changed
