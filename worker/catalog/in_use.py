"""The features that organisations use now: by sandboxes that run, and by samples of late.

Guarantee: reads only. Asked only of organisations of which a provider refuses a feature.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.catalog.mapping import mapping_rows, segments

SQL = queries(__file__)


def read_in_use(connection: sa.Connection, org_ids: Sequence[str], now_ms: int) -> dict[str, frozenset[str]]:
    """By organisation, features of its sandboxes that run and of samples of this window and the last."""
    if not org_ids:
        return {}
    window_ms = now_ms - now_ms % WINDOW_MS
    values = {
        "orgs": [{"org_id": org_id} for org_id in org_ids],
        "segments": [asdict(one) for one in segments(mapping_rows(connection))],
        "window_ms": window_ms,
        "from_ms": window_ms - WINDOW_MS,
    }
    found = defaultdict[str, set[str]](set)
    for row in SQL.run(connection, "in_use", values):
        found[row.org_id].add(row.feature)
    return {org_id: frozenset(features) for org_id, features in found.items()}
