"""Parts of customers' balances that were granted once.

Guarantee: a part is kept from when a read first showed it. Source: Autumn drops a part granted once from all its
answers as soon as it is used up exactly (recorded), so that its absence alone shows what was drawn from it. A part that
expired is gone, too, and nothing tells how much of it was drawn. The same holds of a part whose plan ended.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Final

import sqlalchemy as sa
import structlog

from drawdown.providers.protocol import CustomerState, Part
from drawdown.schema.sql import queries

log = structlog.get_logger()
SQL = queries(__file__)

MOST_KEPT: Final = 10_000
"""Parts of one customer: with so many no new one is kept, and a person is told what their balance lacks."""


def known_parts(connection: sa.Connection, provider: str, customers: Collection[str]) -> Mapping[str, Sequence[Part]]:
    """The parts that reads ever showed, by customer."""
    found: dict[str, list[Part]] = defaultdict(list)
    values = {"provider": provider, "customers": [{"customer_id": customer} for customer in sorted(customers)]}
    for row in SQL.run(connection, "known_parts", values) if customers else ():
        part = Part(str(row.balance), str(row.part), Decimal(row.granted), row.ends_ms, row.plan)
        found[str(row.customer_id)].append(part)
    return found


def note_parts(connection: sa.Connection, provider: str, read: Mapping[str, CustomerState], now_ms: int) -> None:
    """Keep what reads of customers showed. Most reads show nothing new, and write nothing."""
    known = known_parts(connection, provider, read)
    shown = {
        customer: [*state.parts, *_ended(known.get(customer, ()), state, now_ms)] for customer, state in read.items()
    }
    _keep(connection, provider, shown, known, now_ms)


def note_shown_parts(
    connection: sa.Connection, provider: str, shown: Mapping[str, Sequence[Part]], now_ms: int
) -> None:
    """Keep what answers to charges showed: no read may show a part that the next charge uses up."""
    if shown:
        _keep(connection, provider, shown, known_parts(connection, provider, shown), now_ms)


def _keep(
    connection: sa.Connection,
    provider: str,
    shown: Mapping[str, Sequence[Part]],
    known: Mapping[str, Sequence[Part]],
    now_ms: int,
) -> None:
    kept = {customer: set(parts) for customer, parts in known.items() if len(parts) < MOST_KEPT}
    for customer in sorted(known.keys() - kept.keys()):
        log.warning("too_many_parts", provider=provider, customer=customer)
    rows = [
        {
            "customer_id": customer,
            "balance": part.balance,
            "part": part.name,
            "granted": f"{part.granted:f}",
            "ends_ms": part.ends_ms,
            "plan": part.plan,
        }
        for customer, parts in sorted(shown.items())
        if customer in kept or customer not in known
        for part in parts
        if part not in kept.get(customer, ())
    ]
    if rows:
        SQL.run(connection, "note_parts", {"provider": provider, "parts": rows, "now_ms": now_ms})


def _ended(known: Sequence[Part], state: CustomerState, now_ms: int) -> list[Part]:
    """Parts that a read no longer shows, of plans that it no longer shows either: they ended."""
    shown = {(part.balance, part.name) for part in state.parts}
    gone = [part for part in known if part.plan is not None and (part.balance, part.name) not in shown]
    return [
        replace(part, ends_ms=now_ms)
        for part in gone
        if part.plan not in state.plans and (part.ends_ms is None or part.ends_ms > now_ms)
    ]
