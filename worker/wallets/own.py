"""What an organisation's own people may see of the wallet that pays for it. Reads only.

Guarantee: a wallet that pays, or ever paid, for another organisation's metered usage is told of to nobody's people:
what it has and what moved it would say how the others do. Neither an operator's name nor a reason is in any of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.ledger import maturing
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS
from drawdown.worker.verdict.unbilled import unbilled_micro
from drawdown.worker.wallets.accounts import PaidFrom, paid_from

SQL = queries(__file__)

MOST_BLOCKED: Final = 20
"""Metrics of which something was blocked, that are listed."""
BLOCKED_DAYS: Final = 30
MOST_OVERRIDES: Final = 20
"""Of one metric, that are listed; more do not wait for one organisation (`guard_overrides.MOST_ASKED`)."""


@dataclass(frozen=True)
class Blocked:
    """A metric of which something was blocked lately: how often, how much, when last."""

    metric: str
    times: int
    amount: int
    last_ms: int


def blocked(connection: sa.Connection, org_id: str, now_ms: int) -> list[Blocked]:
    """What was blocked of an organisation in the last days, the latest first."""
    values = {"org_id": org_id, "since_ms": now_ms - BLOCKED_DAYS * DAY_MS, "at_most": MOST_BLOCKED}
    rows = SQL.run(connection, "blocked", values)
    return [Blocked(row.metric, int(row.times), int(row.amount), int(row.last_ms)) for row in rows]


@dataclass(frozen=True)
class Card:
    """How a wallet is topped up by itself: at or below `threshold_micro`, by `amount_micro` (None: up to a sum), from a
    card at a service, as its customer. `stopped`: charges failed, and none is made until there is another card."""

    service: str
    service_customer: str
    threshold_micro: int
    amount_micro: int | None
    stopped: bool


@dataclass(frozen=True)
class Told:
    """A customer's wallet: whether others draw on it, or did, and its card where nobody else does."""

    paid: PaidFrom
    is_shared: bool
    card: Card | None


@dataclass(frozen=True)
class Org:
    """Whether it is halted, since when, and why; what its biller last said (micro-credits there) and when that was
    read; when it ends, as the watch estimates."""

    billing_provider: str | None
    is_halted: bool
    halted_at: int | None
    halt_reason: str | None
    balance_micro: int | None
    unseen_micro: int | None
    balance_read_ms: int | None
    runs_out_ms: int | None


@dataclass(frozen=True)
class Standing:
    """What a wallet has, in micro-credits."""

    available_micro: int
    reserved_micro: int
    balance_micro: int


@dataclass(frozen=True)
class Asked:
    """An override of the organisation's own: `asked` waits for a word, `in_force` counts; `amount` None: without an
    end."""

    number: int
    period: str
    amount: int | None
    ends_ms: int | None
    state: str
    at_ms: int


def told_of(connection: sa.Connection, org_id: str, now_ms: int) -> Told:
    """Whose wallet it is, and what may be told of it. Errors: UnknownId."""
    paid = paid_from(connection, org_id, now_ms)
    row = SQL.run(connection, "told", {"customer_id": paid.customer_id, "org_id": org_id}).one()
    if row.is_shared:
        return Told(paid, True, None)
    if row.service is None:
        return Told(paid, False, None)
    card = Card(row.service, row.service_customer, row.threshold_micro, row.amount_micro, row.blocked_ms is not None)
    return Told(paid, False, card)


def org_of(connection: sa.Connection, org_id: str) -> Org | None:
    """None for one that nobody registered yet."""
    row = SQL.run(connection, "org", {"org_id": org_id}).mappings().one_or_none()
    return None if row is None else Org(**{**row, "is_halted": bool(row["is_halted"])})


def standing(connection: sa.Connection, customer_id: str, now_ms: int) -> Standing:
    """As it is once all that is due by now is done."""
    found = maturing.look_ahead(connection, customer_id, now_ms)
    unbilled = unbilled_micro(connection, customer_id, now_ms)
    return Standing(found.available_micro - unbilled, found.held_micro, found.balance_micro)


def overrides(connection: sa.Connection, org_id: str, metric: str, now_ms: int) -> list[Asked]:
    """Of one metric: what waits first, then the newest."""
    values = {"org_id": org_id, "metric": metric, "now_ms": now_ms, "at_most": MOST_OVERRIDES}
    return [Asked(**row._mapping) for row in SQL.run(connection, "overrides", values)]
