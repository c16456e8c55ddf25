"""When the credit of a wallet ends, if it is used as in the last days. Reads only.

Guarantee: whole numbers only. It rests on full days (UTC) of use alone, seven at most and three at least; with fewer
nothing is said, and no use is not taken for an end far away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import sqlalchemy as sa

from drawdown.ledger.accounts import wallet_account
from drawdown.schema.sql import Part, queries
from drawdown.schema.units import DAY_MS, in_credits

SQL = queries(__file__)

DAYS: Final = 7
MIN_DAYS: Final = 3
FURTHEST_MS: Final = 253_402_300_799_999
"""The last moment of the year 9999: an end beyond it is none."""


@dataclass(frozen=True)
class Forecast:
    """When what is available now ends. `state`: `ends` (at `ends_ms`), `spent` (nothing is available), `lasts` (nothing
    was used on those days, or it lasts beyond any calendar), `unknown` (fewer than three full days of use are known).

    It rests on `used_micro` in `days` full days from `from_ms` on: by what it was used for, not by when it was booked.
    """

    state: Literal["ends", "spent", "lasts", "unknown"]
    ends_ms: int | None
    days: int
    from_ms: int | None
    used_micro: int | None

    def said(self) -> dict[str, object]:
        """As programs are told it: what was used in credits, too."""
        return {**vars(self), "used": None if self.used_micro is None else in_credits(self.used_micro)}


def forecast_of(connection: sa.Connection, customer_id: str, available_micro: int, now_ms: int) -> Forecast:
    """Of a wallet that has so much available. Credit that ends by itself or is still to come is not looked at, nor what
    a plan or a tier costs by the month."""
    part = used_part(customer_id, now_ms)
    return forecast_by(SQL.run(connection, part.name, part.values).one(), available_micro, now_ms)


def used_part(customer_id: str, now_ms: int) -> Part:
    """What a wallet was used for on its last full days, for whoever reads more in one statement: a row for
    `forecast_by`."""
    values = {"account_id": wallet_account(customer_id), "today_ms": now_ms - now_ms % DAY_MS, "most_days": DAYS}
    return SQL.part("used", values)


def forecast_by(row: Any, available_micro: int, now_ms: int) -> Forecast:
    """The forecast by what was read."""
    days = 0 if row.days is None else int(row.days)
    if days < MIN_DAYS:
        return Forecast("spent" if available_micro <= 0 else "unknown", None, max(days, 0), None, None)
    from_ms = now_ms - now_ms % DAY_MS - days * DAY_MS
    return _ends(available_micro, now_ms, days, from_ms, int(row.used_micro))


def _ends(available_micro: int, now_ms: int, days: int, from_ms: int, used_micro: int) -> Forecast:
    if available_micro <= 0:
        return Forecast("spent", None, days, from_ms, used_micro)
    ends = now_ms + available_micro * days * DAY_MS // used_micro if used_micro > 0 else FURTHEST_MS + 1
    if ends > FURTHEST_MS:
        return Forecast("lasts", None, days, from_ms, used_micro)
    return Forecast("ends", ends, days, from_ms, used_micro)
