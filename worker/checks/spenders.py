"""Whose wallets were used most in the last 30 days: looked at, and kept for the page that shows it."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.worker.wallets.lists import Spender, spenders_now

SQL = queries(__file__)


def check(connection: sa.Connection, now_ms: int) -> Sequence[Spender]:
    """Look, and keep what is found; an older look that ends late replaces no newer one."""
    found = spenders_now(connection, now_ms)
    rows = [
        {name: getattr(one, name) for name in ("place", "customer_id", "used_micro", "from_ms", "at_ms")}
        for one in found
    ]
    if rows:
        SQL.run(connection, "keep", {"rows": rows})
    return found
