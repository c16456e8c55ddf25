"""Top-ups are settled: what was answered is written down, and what was paid is credited.

Guarantee: paid and credited are one transaction, under the top-up's id as the key of the grant: who was charged has the
credit, once, and nobody else. The organisation's verdict is asked for again in it, so that a halted customer who paid
goes on. An answer that proves something is written down even where the claim has passed on; any other only by its
claimer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.ledger import wallet
from drawdown.providers.payments.protocol import (
    ChargeResult,
    InDoubt,
    NotFound,
    NotSent,
    PaymentCapabilities,
)
from drawdown.schema.sql import queries
from drawdown.schema.text import MAX_ERROR_CHARS, clean
from drawdown.schema.units import DAY_MS
from drawdown.worker.catalog.wallets import orgs_of
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import require_same
from drawdown.worker.topup.outcome import HOUR_MS, End, Loss, of_answer, of_not_found, of_not_sent
from drawdown.worker.topup.told import tell_ends
from drawdown.worker.topup.topups import Topup
from drawdown.worker.verdict.asks import mark_for_projection

SQL = queries(__file__)

MOST_DECLINES: Final = 3
"""In a row; then only another card, or a paid invoice, has the wallet topped up again."""
WAITS_MS: Final = (HOUR_MS, DAY_MS)
"""After the first decline in a row, and after the second."""
WHERE: Final = {
    "credited": "if_not_credited",
    "declined": "if_open",
    "needs_customer": "if_open",
}
"""Which answers are proof, whoever brings them."""


@dataclass(frozen=True)
class Settled:
    """A top-up and its end; `changed`: nobody had settled it before."""

    topup: Topup
    end: End
    changed: bool


def end_of_charge(found: Topup, result: ChargeResult, now_ms: int) -> End:
    """What a charge's answer makes of it."""
    if isinstance(result, NotSent):
        return of_not_sent(result, found.lookups, now_ms, arrived=found.arrived_before)
    if isinstance(result, NotFound):
        result = InDoubt("the service looked up what it was to charge")  # against its contract
    end = of_answer(result, found.charge.amount, found.charge.currency, found.lookups, now_ms)
    assert end is not None
    return end


def end_of_lookup(
    found: Topup, result: ChargeResult, asked_ms: int, now_ms: int, can: PaymentCapabilities, loss: Loss | None
) -> End:
    """What a look-up's answer makes of it. A service that says it was not sent has told nothing."""
    if isinstance(result, NotFound):
        return of_not_found(found.calls, loss, asked_ms, now_ms, can, refused=found.refused)
    if isinstance(result, NotSent):
        result = InDoubt(result.reason)
    end = of_answer(result, found.charge.amount, found.charge.currency, found.lookups, now_ms)
    assert end is not None
    return end


def settle(
    connection: sa.Connection,
    *,
    ends: Sequence[tuple[Topup, End]],
    claim: str,
    now: int,
    witness: Witness | None,
    asked_ms: int | None = None,
) -> list[Settled]:
    """Write down what became of claimed top-ups; `asked_ms`: when they were looked up, else they were charged."""
    require_same(connection, witness)
    customers = sorted({found.customer_id for found, _ in ends})
    SQL.run(connection, "hold_terms", {"customers": customers}).all()
    done = []
    for found, end in sorted(ends, key=lambda one: one[0].charge.charge_id):
        if asked_ms is None:
            _finish_attempt(connection, found, end, now)
        changed = _write(connection, found, end, claim, now, asked_ms)
        if changed:
            _follow(connection, found, end, now)
        done.append(Settled(found, end, changed))
    credited = sorted({one.topup.customer_id for one in done if one.changed and one.end.state == "credited"})
    mark_for_projection(connection, orgs_of(connection, credited), now)
    ended = [one.topup.charge.charge_id for one in done if one.changed and one.end.ended]
    tell_ends(connection, ended, now)
    return done


def _finish_attempt(connection: sa.Connection, found: Topup, end: End, now: int) -> None:
    values = {"topup": found.charge.charge_id, "attempt": found.attempt, "now_ms": now}
    SQL.run(connection, "finish_attempt", {**values, "answer": end.answer, "said": _brief(end.said)})


def _write(connection: sa.Connection, found: Topup, end: End, claim: str, now: int, asked_ms: int | None) -> bool:
    values = {
        "topup": found.charge.charge_id,
        "state": end.state,
        "due_at_ms": end.due_at_ms,
        "answer": end.answer,
        "said": _brief(end.said),
        "payment_id": end.payment_id,
        "ended": int(end.ended),
        "now_ms": now,
        "claim_owner": claim,
        "asked_ms": asked_ms if end.answer == "not_found" else None,
    }
    where = WHERE.get(end.state, "if_claimed")
    return SQL.run(connection, "settle", values, where=where).first() is not None


def _follow(connection: sa.Connection, found: Topup, end: End, now: int) -> None:
    """What an end means for the wallet and its terms. An outage of the service is no decline."""
    wallet_of = {"customer_id": found.customer_id}
    if end.state == "credited":
        credit(connection, found.charge.charge_id, found.customer_id, found.credits_micro, now, end.said)
        return
    blocks = end.blocks
    if end.declined:
        waits = {"first_ms": now + WAITS_MS[0], "then_ms": now + WAITS_MS[1]}
        declines = int(SQL.run(connection, "note_decline", {**wallet_of, **waits}).scalar_one())
        if blocks is None and declines >= MOST_DECLINES:
            blocks = f"{declines} declines in a row, the last: {end.said}"
    if blocks is not None:
        SQL.run(connection, "block", {**wallet_of, "now_ms": now, "reason": _brief(blocks)})


def credit(connection: sa.Connection, topup: str, customer_id: str, credits_micro: int, now: int, said: str) -> None:
    """Give the wallet what was paid for, once for good; whatever had stopped its top-ups is over."""
    rearm(connection, customer_id)
    wallet.grant(
        connection,
        customer_id,
        credits_micro,
        key=topup,
        now_ms=now,
        actor="drawdown",
        reason=_brief(said),
    )


def rearm(connection: sa.Connection, customer_id: str) -> None:
    """What had stopped a wallet's top-ups is over."""
    SQL.run(connection, "rearm", {"customer_id": customer_id})


def _brief(said: str) -> str:
    return clean(said, MAX_ERROR_CHARS)
