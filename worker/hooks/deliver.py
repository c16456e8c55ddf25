"""Deliver the messages of the outbox to the endpoints of the operator's product.

Guarantee: delivery at least once. A message stays due until its endpoint accepts it, its schedule ends, or a person
ends the endpoint. The schedule is that of Svix: eight attempts in 27 hours and 35 minutes. After that, a person must
replay the message. An attempt is committed before its call, under a lease. A message has the same bytes at each
attempt. The order of messages is not guaranteed. Each endpoint has its own queue, with its own claims, time and circuit
breaker. So an endpoint that is dead, slow or flooded does not delay other endpoints or halts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import sqlalchemy as sa
import structlog

from drawdown.schema.sql import queries
from drawdown.schema.text import in_short
from drawdown.schema.units import MINUTE_MS, SECOND_MS
from drawdown.worker.engine.context import LEASE_MS, Context
from drawdown.worker.engine.effects import HookAnswer, HookRequest, RunTogether, SendHooks, Steps, Transaction
from drawdown.worker.halts.addresses import origin

log = structlog.get_logger()

SQL = queries(__file__)

BATCH: Final = 8
"""Messages that one step claims and sends concurrently to a responding endpoint."""
ENDPOINT_BUDGET_MS: Final = 30 * SECOND_MS
"""Time that one delivery round spends on one endpoint, in milliseconds.

The rest waits for the next round.
"""
ALL: Final = ""


@dataclass(frozen=True)
class ClaimedMessage:
    """A message that this worker may send.

    `failures`: the number of its consecutive failures.
    """

    request: HookRequest
    failures: int


@dataclass
class Deliveries:
    """The numbers of messages by outcome."""

    delivered: int = 0
    failed: int = 0
    given_up: int = 0
    """Messages that failed for good, because their schedule ended."""


def deliver(context: Context, only: str = ALL) -> Steps[Deliveries]:
    """Send the due messages to every endpoint that this machine may call.

    `only`: if not empty, send only the messages of this endpoint.
    """
    done = Deliveries()
    if not context.hooks or not context.leaves(CALL_MS):
        return done
    now = context.clock.now_ms()
    due: dict[str, str] = yield Transaction("due_hooks", partial(_due, now=now, only=only))
    lanes = [_lane(context, endpoint, done) for endpoint, url in due.items() if origin(url) in context.hooks]
    if lanes:
        for result in (yield RunTogether(lanes)):
            if isinstance(result, Exception):
                raise result
    return done


def _lane(context: Context, endpoint: str, done: Deliveries) -> Steps[None]:
    """Send the due messages of one endpoint.

    The function also stops if the endpoint does not respond, or if the time is up. Until its first response, the
    endpoint gets one message at a time.
    """
    breaker, began_ms, most = context.telling(endpoint), context.clock.now_ms(), 1
    while context.leaves(CALL_MS):
        now = context.clock.now_ms()
        if now - began_ms >= ENDPOINT_BUDGET_MS or not breaker.allows(now):
            log.warning("endpoint_left_for_later", endpoint=endpoint, answers=breaker.failures == 0)
            return
        claim = context.new_claim()
        work = partial(_claim, endpoint=endpoint, claim=claim, now=now, most=most)
        claimed: list[ClaimedMessage] = yield Transaction("claim_hooks", work)
        if not claimed:
            return
        answers = yield from _send(context, claimed, now + LEASE_MS)
        now = context.clock.now_ms()
        settle = partial(_settle, claimed=claimed, answers=answers, claim=claim, now=now)
        yield Transaction("settle_hooks", settle)
        _note(done, claimed, answers)
        if not any(answer.is_sent for answer in answers):
            return
        is_there = any(answer.status is not None for answer in answers)
        breaker.note(failed=not is_there, now_ms=now)
        most = BATCH if is_there else 1


def _send(context: Context, claimed: Sequence[ClaimedMessage], lease_end_ms: int) -> Steps[Sequence[HookAnswer]]:
    """Send claimed messages.

    After the lease has ended, the function does not send, because another worker may have sent the messages.
    """
    over = partial(_is_over, context, lease_end_ms)
    try:
        answers: Sequence[HookAnswer] = yield SendHooks([message.request for message in claimed], over)
        assert len(answers) == len(claimed), f"answers: {len(answers)}, messages: {len(claimed)}"
    except Exception as error:  # it is unknown whether the messages arrived
        log.exception("endpoint_call_failed", endpoint=claimed[0].request.endpoint)
        return [HookAnswer(error=in_short(error))] * len(claimed)
    return answers


def _is_over(context: Context, lease_end_ms: int) -> bool:
    return not context.leaves(CALL_MS) or context.clock.now_ms() >= lease_end_ms


def _note(done: Deliveries, claimed: Sequence[ClaimedMessage], answers: Sequence[HookAnswer]) -> None:
    for message, answer in zip(claimed, answers, strict=True):
        given_up = answer.is_sent and answer.error is not None and next_wait_ms(message.failures + 1) is None
        done.delivered += answer.error is None
        done.failed += answer.is_sent and answer.error is not None
        done.given_up += given_up
        tell = log.error if given_up else log.info
        tell(
            "message_sent" if answer.is_sent else "message_not_sent",
            endpoint=message.request.endpoint,
            message=message.request.message_id,
            status=answer.status,
            error=answer.error,
            given_up=given_up,
        )


def _due(connection: sa.Connection, *, now: int, only: str) -> dict[str, str]:
    """Return the endpoints with due messages, each with its URL."""
    return {row.name: row.url for row in SQL.run(connection, "due_endpoints", {"now_ms": now, "only": only})}


def _claim(connection: sa.Connection, *, endpoint: str, claim: str, now: int, most: int) -> list[ClaimedMessage]:
    values = {"endpoint": endpoint, "claim_owner": claim, "now_ms": now, "lease_end_ms": now + LEASE_MS}
    rows = SQL.run(connection, "claim", {**values, "at_most": most}).all()
    if not rows:
        return []
    where = SQL.run(connection, "endpoint", {"endpoint": endpoint}).one()
    is_rotated = where.old_until_ms is not None and now < where.old_until_ms
    generations = (where.generation, where.generation - 1) if is_rotated else (where.generation,)
    ids = [row.message_id for row in rows]
    bodies = {row.message_id: row.body for row in SQL.run(connection, "bodies", {"message_ids": ids})}
    return [
        ClaimedMessage(
            HookRequest(row.message_id, endpoint, where.url, generations, bodies[row.message_id]), row.failures
        )
        for row in sorted(rows, key=lambda row: row.message_id)
    ]


def _settle(
    connection: sa.Connection, *, claimed: Sequence[ClaimedMessage], answers: Sequence[HookAnswer], claim: str, now: int
) -> None:
    """Record outcomes.

    The function records a success even if the worker has lost its claim. It records any other outcome only if the
    worker still has the claim.
    """
    values = [_end(message, answer, now) for message, answer in zip(claimed, answers, strict=True)]
    SQL.run(connection, "settle", [{**one, "claim_owner": claim} for one in values])


def _end(message: ClaimedMessage, answer: HookAnswer, now: int) -> dict[str, object]:
    """Return the new state of a delivery after a call.

    If the call did not begin, the delivery does not fail, and is due immediately.
    """
    wait_ms = next_wait_ms(message.failures + 1) if answer.is_sent else 0
    state = "delivered" if answer.error is None else "failed" if wait_ms is None else "due"
    return {
        "message_id": message.request.message_id,
        "endpoint": message.request.endpoint,
        "state": state,
        "due_at_ms": now + (wait_ms or 0),
        "failed": int(answer.is_sent and answer.error is not None),
        "last_status": answer.status,
        "last_error": answer.error,
        "ended_ms": None if state == "due" else now,
    }


WAITS: Final = (5 * SECOND_MS, *(minutes * MINUTE_MS for minutes in (5, 30, 120, 300, 600, 600)))
"""Waits after each consecutive failure, in milliseconds.

The first call is immediate.
"""
CALL_MS: Final = 4 * SECOND_MS
"""Timeout of one call to an endpoint, in milliseconds.

The time is from the DNS lookup to the response. It is shorter than a round of the watch, which makes these calls
concurrently with halts.
"""


def next_wait_ms(failures: int) -> int | None:
    """Return the wait after a number of consecutive failures, in milliseconds.

    Return None if the schedule has ended, so that the delivery has failed.
    """
    return WAITS[failures - 1] if failures <= len(WAITS) else None
