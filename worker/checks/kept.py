"""What a check found is kept. Guarantee: one row of each kind; an older check that ends late replaces no newer one."""

from __future__ import annotations

from typing import Literal

import sqlalchemy as sa

from drawdown.schema.sql import queries

SQL = queries(__file__)

Check = Literal["guard", "vendors"]


def keep(connection: sa.Connection, check: Check, at_ms: int, *, off: int, alerts: int) -> None:
    """`off`: lines that are not as they should be; `alerts`: how many of them somebody has to look at."""
    SQL.run(connection, "keep", {"check_name": check, "at_ms": at_ms, "off": off, "alerts": alerts})
