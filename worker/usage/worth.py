"""Amounts in credits of usage that a person is about to correct. Reads only.

Guarantee: an amount is by the rates in force at the time of use, as a charge is. Usage that nobody bills is worth
nothing. Usage without a rate is named by its feature, for then its amount is not known.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.worker.push.rows import find_pushes
from drawdown.worker.sources.events.find import samples_of
from drawdown.worker.verdict.rates import Prices, Quantity, Worth

SQL = queries(__file__)


def worth_of_pushes(connection: sa.Connection, keys: Sequence[str]) -> Worth:
    """What pushes carry, by their keys; those that are not there count nothing."""
    found = find_pushes(connection, keys).values()
    return Prices(connection).worth(
        Quantity(one.provider, one.feature, one.window_ms, abs(int(one.sealed_qty))) for one in found
    )


def worth_of_events(connection: sa.Connection, source: str, event_ids: Sequence[str], org_id: str | None) -> Worth:
    """What events come to that count. Errors: those of `samples_of`."""
    samples = list(samples_of(connection, source, event_ids, org_id).values())
    return _worth(connection, "these", {"samples": [{"sample_id": one} for one in samples]})


def worth_of_backfill(connection: sa.Connection, backfill: str) -> Worth:
    """What went in by a backfill and counts."""
    return _worth(connection, "of_that", {"backfill": backfill})


def _worth(connection: sa.Connection, chosen: str, values: dict[str, object]) -> Worth:
    rows = SQL.run(connection, "used", values, chosen=chosen)
    return Prices(connection).worth(Quantity(one.provider, one.feature, one.window_ms, int(one.qty)) for one in rows)
