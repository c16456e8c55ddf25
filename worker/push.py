"""Push: send what is due to its provider and write down what became of it.

Guarantee: claim and attempt are committed before a byte leaves (P1); what is sent is what the outbox row says; an
answer that was never seen leaves the push due again under the same key, or in doubt, never forgotten.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa
import structlog

from drawdown.providers.protocol import Capabilities, Outcome, PushRequest, RetryAt, Unknown
from drawdown.schema.database import rows_sql
from drawdown.worker.context import LEASE_MS, Context
from drawdown.worker.decide import Settlement, safe_retention_ms, settle
from drawdown.worker.effects import Push, Steps, Transaction
from drawdown.worker.orgs import mark_for_projection
from drawdown.worker.shard import Shard

log = structlog.get_logger()


@dataclass(frozen=True)
class Claimed:
    """One push that this worker may send until its lease ends."""

    window_ms: int
    org_id: str
    feature: str
    revision: int
    request: PushRequest


@dataclass
class Pushed:
    """How many pushes ended how."""

    accepted: int = 0
    other: int = 0
    rounds: int = 0


# Word for word the condition of the index on what is open, or SQLite reads all pushes there ever were.
_OPEN = "state IN ('due', 'queued', 'in_doubt', 'rejected')"

# `due_at_ms` is the lease too: a claimed push is due again when its claimer has not settled it by then.
CLAIM = f"""
UPDATE pushes SET claim_owner = :claim, due_at_ms = :lease_end, attempts = pushes.attempts + 1,
    first_attempt_ms = COALESCE(pushes.first_attempt_ms, :now)
FROM (
    SELECT p.window_ms, p.org_id, p.feature, p.revision FROM pushes p JOIN orgs o ON o.org_id = p.org_id
    WHERE p.provider = :provider AND p.{_OPEN} AND p.state = 'due' AND p.due_at_ms <= :now
        AND o.stopped_at_ms IS NULL AND o.bucket BETWEEN :lo AND :hi
    ORDER BY p.due_at_ms LIMIT :most {{skip_locked}}) c
WHERE pushes.window_ms = c.window_ms AND pushes.org_id = c.org_id AND pushes.feature = c.feature
    AND pushes.revision = c.revision
RETURNING pushes.window_ms, pushes.org_id, pushes.feature, pushes.revision, pushes.key, pushes.customer_id,
    pushes.sent_qty, pushes.attempts
"""

ATTEMPTS = f"""
INSERT INTO attempts (window_ms, org_id, feature, revision, attempt, started_ms, owner, sent_qty)
SELECT window_ms, org_id, feature, revision, attempts, :now, :claim, sent_qty FROM pushes
WHERE provider = :provider AND {_OPEN} AND state = 'due' AND due_at_ms = :lease_end AND claim_owner = :claim
"""

# Rule P2: past this a key may be forgotten over there, and sending it again could bill twice.
EXPIRE = f"""
UPDATE pushes SET state = 'in_doubt', settled_ms = :now,
    last_error = 'the provider may have forgotten the key: look the push up'
WHERE provider = :provider AND {_OPEN} AND state = 'due' AND due_at_ms <= :now AND first_attempt_ms <= :oldest
"""

_SETTLED = {
    "window_ms": "bigint",
    "org_id": "text",
    "feature": "text",
    "revision": "bigint",
    "attempt": "bigint",
    "state": "text",
    "due_at_ms": "bigint",
    "outcome": "text",
    "error": "text",
}

# An answer that proves acceptance is written even where the claim has passed on; any other only by its claimer.
# The state is asked for in a way the index on what is open does not serve: statistics of an hour when nothing was open
# would have each batch read a whole backlog by it, and not its own rows by their key.
SETTLE = """
UPDATE pushes SET state = r.state, due_at_ms = r.due_at_ms, settled_ms = :now, last_error = r.error
FROM ({rows}) r
WHERE pushes.window_ms = r.window_ms AND pushes.org_id = r.org_id AND pushes.feature = r.feature
    AND pushes.revision = r.revision
    AND (pushes.state || '' IN ('due', 'queued') AND pushes.claim_owner = :claim
        OR pushes.state || '' IN ('due', 'queued', 'rejected', 'in_doubt') AND r.state = 'accepted')
"""

FINISH = """
UPDATE attempts SET finished_ms = :now, outcome = r.outcome, detail = r.error
FROM ({rows}) r
WHERE attempts.window_ms = r.window_ms AND attempts.org_id = r.org_id AND attempts.feature = r.feature
    AND attempts.revision = r.revision AND attempts.attempt = r.attempt
"""


def push(context: Context, provider: str) -> Steps[Pushed]:
    """Send everything due at one provider, batch after batch, until nothing is due or time is up."""
    capabilities = context.capabilities[provider]
    done = Pushed()
    oldest = safe_retention_ms(capabilities)
    if oldest is not None:
        values = {"provider": provider, "now": context.clock.now_ms()}
        yield Transaction("expire", partial(_expire, values=values, kept_ms=oldest))
    while not context.out_of_time() and context.breaker(provider).allows(context.clock.now_ms()):
        now, claim = context.clock.now_ms(), context.new_claim()
        batch: list[Claimed] = yield Transaction(
            "claim",
            partial(_claim, provider=provider, claim=claim, now=now, most=capabilities.batch_size, shard=context.shard),
        )
        if not batch:
            break
        outcomes = yield from _send(context, provider, batch, lease_end=now + LEASE_MS)
        settled = _settled(context, capabilities, batch, outcomes)
        yield Transaction(
            "settle", partial(_settle, batch=batch, settled=settled, claim=claim, now=context.clock.now_ms())
        )
        accepted = sum(one.state == "accepted" for one in settled)
        done.accepted += accepted
        done.other += len(settled) - accepted
        done.rounds += 1
        context.advanced("pushed", len(settled))
        log.info(
            "pushes_settled",
            provider=provider,
            accepted=accepted,
            other=len(settled) - accepted,
            first_key=batch[0].request.key,
        )
    return done


def _send(context: Context, provider: str, batch: Sequence[Claimed], *, lease_end: int) -> Steps[Sequence[Outcome]]:
    """Send a claimed batch, unless the lease ran out while we were away (P1: checked again right before)."""
    if context.clock.now_ms() >= lease_end:
        return [RetryAt(context.clock.now_ms(), "the claim ran out before sending")] * len(batch)
    try:
        outcomes: Sequence[Outcome] = yield Push(provider, [one.request for one in batch])
        assert len(outcomes) == len(batch), f"{provider} answered {len(outcomes)} outcomes for {len(batch)} pushes"
    except Exception as error:  # a provider that breaks its contract has told us nothing about what was charged
        log.exception("provider_failed", provider=provider, first_key=batch[0].request.key)
        return [Unknown(in_short(error))] * len(batch)
    return outcomes


def in_short(error: Exception) -> str:
    """An error's first line: what follows may be a statement with other customers' values."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def _settled(
    context: Context, capabilities: Capabilities, batch: Sequence[Claimed], outcomes: Sequence[Outcome]
) -> list[Settlement]:
    now = context.clock.now_ms()
    failed = all(isinstance(outcome, RetryAt | Unknown) for outcome in outcomes)
    for provider in {one for one, known in context.capabilities.items() if known is capabilities}:
        context.breaker(provider).note(failed=failed, now_ms=now)
    return [
        settle(outcome, one.request.attempt, now, capabilities) for one, outcome in zip(batch, outcomes, strict=True)
    ]


def _expire(connection: sa.Connection, *, values: dict[str, object], kept_ms: int) -> int:
    now = int(str(values["now"]))
    return connection.execute(sa.text(EXPIRE), {**values, "oldest": now - kept_ms}).rowcount


def _claim(connection: sa.Connection, *, provider: str, claim: str, now: int, most: int, shard: Shard) -> list[Claimed]:
    skip = "FOR UPDATE OF p SKIP LOCKED" if connection.dialect.name == "postgresql" else ""
    values = {
        "provider": provider,
        "claim": claim,
        "now": now,
        "lease_end": now + LEASE_MS,
        "most": most,
        "lo": shard.lo,
        "hi": shard.hi,
    }
    rows = connection.execute(sa.text(CLAIM.replace("{skip_locked}", skip)), values).all()
    if not rows:
        return []
    recorded = connection.execute(
        sa.text(ATTEMPTS), {name: values[name] for name in ("provider", "claim", "now", "lease_end")}
    ).rowcount
    assert recorded == len(rows), "every claimed push has its attempt on record before it is sent"
    claimed = [
        Claimed(
            row.window_ms,
            row.org_id,
            row.feature,
            row.revision,
            PushRequest(row.key, row.customer_id, row.feature, row.sent_qty, row.window_ms, row.attempts),
        )
        for row in rows
    ]
    return sorted(claimed, key=lambda one: (one.window_ms, one.request.key))


def _settle(
    connection: sa.Connection, *, batch: Sequence[Claimed], settled: Sequence[Settlement], claim: str, now: int
) -> None:
    rows = json.dumps(
        [
            {
                "window_ms": one.window_ms,
                "org_id": one.org_id,
                "feature": one.feature,
                "revision": one.revision,
                "attempt": one.request.attempt,
                "state": end.state,
                "due_at_ms": end.due_at_ms,
                "outcome": end.outcome,
                "error": end.error,
            }
            for one, end in zip(batch, settled, strict=True)
        ]
    )
    shape = rows_sql(connection, _SETTLED)
    connection.execute(sa.text(SETTLE.replace("{rows}", shape)), {"rows": rows, "claim": claim, "now": now})
    connection.execute(sa.text(FINISH.replace("{rows}", shape)), {"rows": rows, "now": now})
    mark_for_projection(connection, [one.org_id for one in batch], now)
