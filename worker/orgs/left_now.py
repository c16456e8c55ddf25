"""What is left of organisations' credit now, what they use of it a minute, and when that ends. Reads only.

Guarantee: the figures are worked out as the watch's are (`effective_balance`), all of one moment, and the same in the
console, in its files and on the command line: when credit ends follows from what is left and what is used beside it.
They take as many statements for a thousand organisations as for one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import sqlalchemy as sa

from drawdown.schema.units import EXEMPT_PROVIDERS
from drawdown.worker.verdict.effective_balance import Asked, Used, since_read
from drawdown.worker.verdict.rules import end_ms
from drawdown.worker.verdict.used_now import read_used_now


class Billed(Asked, Protocol):
    """An organisation with who bills it: a row of `orgs`."""

    @property
    def billing_provider(self) -> str | None: ...


class Left(NamedTuple):
    """Of one organisation, in micro-credits of its provider; None: unknown, or without an end. `left_now_micro`: its
    effective balance, or what was read last where nobody bills it; `used_a_minute_micro`: in the last minutes;
    `runs_out_ms`: when what is left ends, if it is used on like that."""

    left_now_micro: int | None
    used_a_minute_micro: int | None
    runs_out_ms: int | None


UNBILLED: Final = frozenset((None, *EXEMPT_PROVIDERS))
NOTHING: Final = Used()
"""Of whoever used nothing that its balance may not show."""


def left_of(connection: sa.Connection, rows: Sequence[Billed], now_ms: int) -> list[Left]:
    """Of each of these organisations (rows of `orgs`)."""
    by_provider: dict[str, list[Billed]] = defaultdict(list)
    for row in rows:
        provider = row.billing_provider
        if provider is not None and provider not in UNBILLED:
            by_provider[provider].append(row)
    used = read_used_now(connection, by_provider, now_ms)
    return [
        _left(row, None if row.billing_provider in UNBILLED else used.get(row.org_id, NOTHING), now_ms) for row in rows
    ]


def _left(row: Billed, used: Used | None, now_ms: int) -> Left:
    effective = None if used is None else since_read(row, used)
    burn = None if used is None or (used.unpriced and not used.burn_a_minute) else used.burn_a_minute
    ends_ms = end_ms(effective.value, burn, now_ms) if effective and burn else None
    return Left(row.balance_micro if effective is None else effective.value, burn, ends_ms)
