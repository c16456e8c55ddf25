"""Return the providers in shadow, with the span of each shadow. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.clock import utc
from drawdown.schema.sql import Part, queries, read_together

SQL = queries(__file__)

FOR_GOOD_MS: Final = 250_000_000_000_000
"""Earliest go-live time of a shadow without a planned end, in milliseconds.

Such a shadow lasts until a person accepts the cut-over.
"""


@dataclass(frozen=True)
class InShadow:
    """A provider to which Drawdown does not send usage before `live_from_ms`.

    `since_ms`: the first window that was sealed in shadow (None: Drawdown has not sealed its usage yet).
    """

    provider: str
    live_from_ms: int
    since_ms: int | None

    def __str__(self) -> str:
        since = "" if self.since_ms is None else f" since {utc(self.since_ms)}"
        until = (
            "until its cut-over is accepted" if self.live_from_ms >= FOR_GOOD_MS else f"until {utc(self.live_from_ms)}"
        )
        return (
            f"{self.provider} is in shadow{since}, {until}. Drawdown seals and compares its usage, but does not send it"
        )


def shadow_part(now_ms: int) -> Part:
    """Return the query of providers in shadow, to combine into one statement."""
    return SQL.part("in_shadow", {"now_ms": now_ms})


def in_shadow(connection: sa.Connection, now_ms: int) -> list[InShadow]:
    """Return the providers in shadow."""
    return [InShadow(**vars(row)) for row in read_together(connection, found=shadow_part(now_ms))["found"]]
