"""What plans give: credit each month, what of it rolls over, and a new customer's first credit.

Guarantee: terms are added and never changed. What begins later goes by the new ones; what was given stays as it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.sql import queries

SQL = queries(__file__)


@dataclass(frozen=True)
class Gives:
    """Micro-credits: what a plan includes each month (0: nothing); of what nobody used of it, what rolls over where it
    is `rollover_min_micro` at least, and up to `rollover_max_micro` (0: nothing); and what a new customer gets once."""

    included_micro: int = 0
    rollover_min_micro: int = 0
    rollover_max_micro: int = 0
    first_micro: int = 0


NOTHING = Gives()


@dataclass(frozen=True)
class Terms:
    """What a plan gives from a moment on."""

    from_ms: int
    gives: Gives


def newest(connection: sa.Connection, plan: str) -> Gives:
    """What a plan gives by its newest terms."""
    row = SQL.run(connection, "newest", {"plan": plan}).mappings().one_or_none()
    return NOTHING if row is None else Gives(**row)


def set_gives(connection: sa.Connection, plan: str, gives: Gives, by: By) -> int | None:
    """Have a plan, whose row this transaction holds, give this from now on; from which moment on that is, None where it
    changes nothing."""
    if newest(connection, plan) == gives:
        return None
    values = {**vars(gives), "plan": plan, "at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    return int(SQL.run(connection, "add", values).scalar_one())


def of_plans(connection: sa.Connection, plans: Collection[str]) -> Mapping[str, Sequence[Terms]]:
    """All terms there ever were of these plans, the oldest first."""
    found: dict[str, list[Terms]] = defaultdict(list)
    for row in SQL.run(connection, "of_plans", {"plans": sorted(plans)}):
        gives = Gives(row.included_micro, row.rollover_min_micro, row.rollover_max_micro, row.first_micro)
        found[row.plan].append(Terms(row.from_ms, gives))
    return found


def in_force(terms: Sequence[Terms], moment_ms: int) -> Gives:
    """What a plan gave at a moment, by all of its terms."""
    return next((one.gives for one in reversed(terms) if one.from_ms <= moment_ms), NOTHING)
