"""Top-ups are claimed: to be charged, with the attempt on record before a byte leaves (P1), or to be looked up.

Guarantee: what is claimed to be charged is wanted at that moment (the wallet is still low, its terms are live, nobody
has switched top-ups off), and is proven not to have been charged by an earlier call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.providers.payments.protocol import Charge, PaymentCapabilities
from drawdown.schema.sql import queries
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.engine.context import LEASE_MS
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import count_sends, require_same
from drawdown.worker.topup.outcome import Calls, Loss
from drawdown.worker.topup.topups import ALL, Topup, description, read_loss

SQL = queries(__file__)

CHARGES_AT_ONCE: Final = 16
"""Claimed and called together: what a process that dies leaves to be looked up."""
LOOKUPS_AT_ONCE: Final = 16
PROVEN_MS: Final = 10 * MINUTE_MS
"""For how long a look-up that found nothing allows the charge."""
UNWANTED_AT_ONCE: Final = 200


@dataclass(frozen=True)
class Claim:
    """What one claim took, the history that was lost here, and what to remember before a charge leaves."""

    topups: Sequence[Topup]
    loss: Loss | None
    witness: Witness | None


@dataclass(frozen=True)
class Asks:
    """Which claim: at a service, under a name, of all wallets or one."""

    service: str
    claim: str
    now: int
    can: PaymentCapabilities
    witness: Witness | None
    only: str = ALL


def claim_charges(connection: sa.Connection, *, asks: Asks) -> Claim:
    """Take what is due and wanted, and count it as sends (R1). What is not wanted any more is given up where it was
    never called; else it is looked up until that is known."""
    require_same(connection, asks.witness)
    loss = read_loss(connection)
    values = _values(asks, loss)
    _leave_unwanted(connection, asks, values, loss)
    claimed = SQL.run(connection, "claim", {**values, "at_most": CHARGES_AT_ONCE}).rowcount
    if not claimed:
        return Claim([], loss, None)
    recorded = SQL.run(connection, "begin_attempts", values).rowcount
    assert recorded == claimed, "every claimed charge has its attempt on record before it is made"
    topups = [_topup(row, loss, asks) for row in SQL.run(connection, "claimed", values)]
    return Claim(topups, loss, count_sends(connection, claimed, asks.witness))


def claim_lookups(connection: sa.Connection, *, asks: Asks) -> Claim:
    """Take what is in doubt, what nobody ever settled, and what a lost history may have charged (R1)."""
    require_same(connection, asks.witness)
    loss = read_loss(connection)
    values = _values(asks, loss)
    if not SQL.run(connection, "claim_lookups", {**values, "at_most": LOOKUPS_AT_ONCE}).rowcount:
        return Claim([], loss, None)
    return Claim([_topup(row, loss, asks) for row in SQL.run(connection, "claimed", values)], loss, None)


def _values(asks: Asks, loss: Loss | None) -> dict[str, object]:
    return {
        "service": asks.service,
        "claim_owner": asks.claim,
        "now_ms": asks.now,
        "lease_end_ms": asks.now + LEASE_MS,
        "only": asks.only,
        "lost": int(loss is not None),
        "proven_ms": max(asks.now - PROVEN_MS, 0 if loss is None else loss.at_ms),
    }


def _leave_unwanted(connection: sa.Connection, asks: Asks, values: dict[str, object], loss: Loss | None) -> None:
    gone_ms = LEASE_MS + asks.can.applied_within_ms
    lost_ms = 0 if loss is None else loss.at_ms
    for row in SQL.run(connection, "unwanted", {**values, "at_most": UNWANTED_AT_ONCE}).all():
        if not row.arrived and (loss is None or row.asked_ms >= lost_ms + gone_ms):
            SQL.run(connection, "give_up", {"topup": row.topup, "now_ms": asks.now})
        else:
            later_ms = max(int(row.last_ms or 0), lost_ms) + gone_ms
            SQL.run(connection, "doubt", {"topup": row.topup, "due_at_ms": later_ms})


def _topup(row: sa.Row[Any], loss: Loss | None, asks: Asks) -> Topup:
    charge = Charge(
        row.topup, row.service_customer, row.money_minor, row.currency, description(row.credits_micro), row.begun_ms
    )
    may_be_applied = loss is not None and asks.now < loss.at_ms + LEASE_MS + asks.can.applied_within_ms
    return Topup(
        charge,
        row.customer_id,
        row.credits_micro,
        row.attempts,
        row.lookups,
        Calls(row.first_ms, row.last_ms),
        arrived_before=bool(row.others) or may_be_applied,
        refused=row.answer == "other_content",
    )
