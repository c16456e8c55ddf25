"""Push: send what is due to its provider and write down what became of it.

Guarantee: claim and attempt are committed before a byte leaves (P1); what is sent is what the outbox row says; an
answer that was never seen leaves the push due again under the same key, or to be looked up, never forgotten.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import sqlalchemy as sa
import structlog

from drawdown.providers.protocol import Capabilities, Outcome, PushRequest, RetryAt, Unknown
from drawdown.schema.database import rows_sql
from drawdown.schema.units import DAY_MS, MINUTE_MS, OWN_MINUTES
from drawdown.worker.calls import in_short
from drawdown.worker.context import LEASE_MS, Context
from drawdown.worker.decide import Settlement, safe_retention_ms, settle
from drawdown.worker.effects import Push, Steps, Transaction
from drawdown.worker.mirror import draw, usage_of
from drawdown.worker.orgs import mark_for_projection
from drawdown.worker.shard import Shard

log = structlog.get_logger()

MAX_CLAIM: Final = 2_048
CALLS_A_CLAIM: Final = 8
"""A claim is worth so many rounds of calls: enough to keep all of them busy, few enough to be over within its lease."""
UNSENT: Final = "not sent: "


@dataclass(frozen=True)
class Claimed:
    """One push that this worker may send until its lease ends."""

    window_ms: int
    org_id: str
    feature: str
    revision: int
    request: PushRequest
    sent_before: bool = False
    """Whether an earlier attempt may have reached the provider."""


@dataclass
class Pushed:
    """How many pushes ended how."""

    accepted: int = 0
    other: int = 0
    rounds: int = 0


# Word for word the condition of the index on what is open, or SQLite reads all pushes there ever were.
_OPEN = "state IN ('due', 'queued', 'in_doubt', 'rejected')"

PAUSED = "(SELECT COUNT(*) FROM provider_states s WHERE s.provider = :provider AND s.paused_ms IS NOT NULL)"

# `due_at_ms` is the lease too: a claimed push is due again when its claimer has not settled it by then.
# Rule P2 is asked for here as well: a process may have slept since it expired what was too old.
CLAIM = f"""
UPDATE pushes SET claim_owner = :claim, due_at_ms = :lease_end, attempts = pushes.attempts + 1,
    first_attempt_ms = COALESCE(pushes.first_attempt_ms, :now)
FROM (
    SELECT p.window_ms, p.org_id, p.feature, p.revision FROM pushes p JOIN orgs o ON o.org_id = p.org_id
    WHERE p.provider = :provider AND p.{_OPEN} AND p.state = 'due' AND p.due_at_ms <= :now
        AND o.stopped_at_ms IS NULL AND o.bucket BETWEEN :lo AND :hi AND {PAUSED} = 0
        AND (p.first_attempt_ms IS NULL OR p.first_attempt_ms > :oldest_attempt)
    ORDER BY p.due_at_ms LIMIT :most {{skip_locked}}) c
WHERE pushes.window_ms = c.window_ms AND pushes.org_id = c.org_id AND pushes.feature = c.feature
    AND pushes.revision = c.revision
RETURNING pushes.window_ms, pushes.org_id, pushes.feature, pushes.revision, pushes.key, pushes.customer_id,
    pushes.sent_qty, pushes.attempts, pushes.wire_key
"""

ATTEMPTS = f"""
INSERT INTO attempts (window_ms, org_id, feature, revision, attempt, started_ms, owner, sent_qty)
SELECT window_ms, org_id, feature, revision, attempts, :now, :claim, sent_qty FROM pushes
WHERE provider = :provider AND {_OPEN} AND state = 'due' AND due_at_ms = :lease_end AND claim_owner = :claim
"""

# Rule P2: past this a key may be forgotten over there, and sending it again could bill twice. The same where the window
# has meanwhile grown too old to be sent at all.
EXPIRE = f"""
UPDATE pushes SET state = :state, settled_ms = :now, due_at_ms = :now,
    last_error = 'the provider may have forgotten the key: it is looked up, and never sent blind'
WHERE provider = :provider AND {_OPEN} AND state = 'due' AND due_at_ms <= :now AND first_attempt_ms IS NOT NULL
    AND (first_attempt_ms <= :oldest_attempt OR window_ms < :oldest_window)
"""

# What the provider declares it will not take is not offered to it. Nothing of it was sent, so a person can decide.
UNSENDABLE = f"""
UPDATE pushes SET state = 'rejected', settled_ms = :now, last_error = CASE WHEN window_ms < :oldest_window
    THEN '{UNSENT}the provider takes nothing dated more than ' || :days || ' days back'
    ELSE '{UNSENT}the provider takes no quantity above ' || :largest END
WHERE provider = :provider AND {_OPEN} AND state = 'due' AND due_at_ms <= :now AND first_attempt_ms IS NULL
    AND (window_ms < :oldest_window OR sent_qty > :largest OR sent_qty < -:largest)
"""

# Whether an earlier attempt may have arrived: one never answered, or answered in a way that does not exclude it.
SENT_BEFORE = """
SELECT t.window_ms, t.org_id, t.feature, t.revision FROM attempts t JOIN pushes p ON p.window_ms = t.window_ms
    AND p.org_id = t.org_id AND p.feature = t.feature AND p.revision = t.revision
WHERE p.provider = :provider AND p.state IN ('due', 'queued', 'in_doubt', 'rejected') AND p.state = 'due'
    AND p.due_at_ms = :lease_end AND p.claim_owner = :claim AND t.attempt < p.attempts
    AND (t.outcome IS NULL OR t.outcome NOT IN ('retry', 'rejected', 'absent'))
"""

WIRE_KEYS = """
UPDATE pushes SET wire_key = r.wire_key FROM ({rows}) r WHERE pushes.window_ms = r.window_ms
    AND pushes.org_id = r.org_id AND pushes.feature = r.feature AND pushes.revision = r.revision
    AND pushes.wire_key IS NULL
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
    "unsent": "bigint",
}
_REFERENCE = {"window_ms": "bigint", "org_id": "text", "feature": "text", "revision": "bigint"}

# An answer that proves acceptance is written even where the claim has passed on; any other only by its claimer.
# The state is asked for in a way the index on what is open does not serve: statistics of an hour when nothing was open
# would have each batch read a whole backlog by it, and not its own rows by their key.
SETTLE = """
UPDATE pushes SET state = r.state, due_at_ms = r.due_at_ms, settled_ms = :now, last_error = r.error,
    first_attempt_ms = CASE WHEN r.unsent = 1 THEN NULL ELSE pushes.first_attempt_ms END
FROM ({rows}) r
WHERE pushes.window_ms = r.window_ms AND pushes.org_id = r.org_id AND pushes.feature = r.feature
    AND pushes.revision = r.revision
    AND (pushes.state || '' IN ('due', 'queued') AND pushes.claim_owner = :claim
        OR pushes.state || '' IN ('due', 'queued', 'rejected', 'in_doubt') AND r.state = 'accepted')
RETURNING pushes.window_ms, pushes.key, pushes.customer_id, pushes.feature, pushes.sent_qty, pushes.state
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
    now = context.clock.now_ms()
    yield Transaction("expire", partial(_expire, provider=provider, capabilities=capabilities, now=now))
    while not context.out_of_time() and context.breaker(provider).allows(context.clock.now_ms()):
        now, claim = context.clock.now_ms(), context.new_claim()
        batch: list[Claimed] = yield Transaction(
            "claim",
            partial(_claim, provider=provider, claim=claim, now=now, capabilities=capabilities, shard=context.shard),
        )
        if not batch:
            break
        outcomes = yield from _send(context, provider, batch, lease_end=now + LEASE_MS)
        settled = _settled(context, provider, batch, outcomes)
        yield Transaction(
            "settle",
            partial(
                _settle,
                batch=batch,
                settled=settled,
                claim=claim,
                now=context.clock.now_ms(),
                in_ledger=capabilities.balance_in_ledger,
            ),
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
        outcomes: Sequence[Outcome] = yield Push(provider, [one.request for one in batch], lease_end)
        assert len(outcomes) == len(batch), f"{provider} answered {len(outcomes)} outcomes for {len(batch)} pushes"
    except Exception as error:  # a provider that breaks its contract has told us nothing about what was charged
        log.exception("provider_failed", provider=provider, first_key=batch[0].request.key)
        return [Unknown(in_short(error))] * len(batch)
    return outcomes


def _settled(
    context: Context, provider: str, batch: Sequence[Claimed], outcomes: Sequence[Outcome]
) -> list[Settlement]:
    now, capabilities = context.clock.now_ms(), context.capabilities[provider]
    failed = all(isinstance(outcome, RetryAt | Unknown) for outcome in outcomes)
    context.breaker(provider).note(failed=failed, now_ms=now)
    return [
        settle(outcome, one.request.attempt, now, capabilities, sent_before=one.sent_before)
        for one, outcome in zip(batch, outcomes, strict=True)
    ]


def _expire(connection: sa.Connection, *, provider: str, capabilities: Capabilities, now: int) -> None:
    kept = safe_retention_ms(capabilities)
    oldest = 0 if capabilities.oldest_ms is None else now - capabilities.oldest_ms
    values = {"provider": provider, "now": now, "oldest_window": oldest}
    if kept is not None or oldest:
        limits = {"oldest_attempt": -1 if kept is None else now - kept}
        state = "queued" if capabilities.lookup else "in_doubt"
        connection.execute(sa.text(EXPIRE), {**values, **limits, "state": state})
    if oldest or capabilities.max_quantity is not None:
        words = {
            # Rounded up: a provider may declare a little less than it takes, for a call that is late.
            "days": str(-(-(capabilities.oldest_ms or 0) // DAY_MS)),
            "largest": capabilities.max_quantity or 2**63 - 1,
        }
        connection.execute(sa.text(UNSENDABLE), {**values, **words})


def claim_size(capabilities: Capabilities) -> int:
    """How many pushes one claim takes."""
    rounds = 1 if capabilities.in_flight == 1 else CALLS_A_CLAIM * capabilities.in_flight
    return min(max(MAX_CLAIM, capabilities.batch_size), capabilities.batch_size * rounds)


def wire_key(key: str, capabilities: Capabilities) -> str:
    """What a push is known by over there: its key, or a stable hash of it where that is too long."""
    if capabilities.max_key_chars is None or len(key) <= capabilities.max_key_chars:
        return key
    return f"usage:{hashlib.sha256(key.encode()).hexdigest()}"


def dated(window_ms: int, revision: int) -> int:
    """The moment a push is dated at: within its window, in the middle of a minute, whatever sums take for its ends."""
    return window_ms + min(revision, OWN_MINUTES) * MINUTE_MS + MINUTE_MS // 2


def _claim(
    connection: sa.Connection, *, provider: str, claim: str, now: int, capabilities: Capabilities, shard: Shard
) -> list[Claimed]:
    skip = "FOR UPDATE OF p SKIP LOCKED" if connection.dialect.name == "postgresql" else ""
    mine = {"provider": provider, "claim": claim, "lease_end": now + LEASE_MS}
    kept = safe_retention_ms(capabilities)
    limits = {"now": now, "most": claim_size(capabilities), "lo": shard.lo, "hi": shard.hi}
    limits["oldest_attempt"] = -1 if kept is None else now - kept
    rows = connection.execute(sa.text(CLAIM.replace("{skip_locked}", skip)), {**mine, **limits}).all()
    if not rows:
        return []
    recorded = connection.execute(sa.text(ATTEMPTS), {**mine, "now": now}).rowcount
    assert recorded == len(rows), "every claimed push has its attempt on record before it is sent"
    before = set()
    if any(row.attempts > 1 for row in rows):
        before = {tuple(row) for row in connection.execute(sa.text(SENT_BEFORE), mine)}
    claimed = [_claimed(row, capabilities, before) for row in rows]
    _keep_wire_keys(connection, [one for one, row in zip(claimed, rows, strict=True) if one.request.key != row.key])
    return sorted(claimed, key=lambda one: (one.window_ms, one.request.key))


def _claimed(row: sa.Row[tuple[object, ...]], capabilities: Capabilities, before: set[tuple[object, ...]]) -> Claimed:
    reference = (row.window_ms, row.org_id, row.feature, row.revision)
    return Claimed(*reference, request_of(row, capabilities), reference in before)


def request_of(row: sa.Row[tuple[object, ...]], capabilities: Capabilities) -> PushRequest:
    """What is sent, or asked about, for a row of `pushes`."""
    key = row.wire_key or wire_key(row.key, capabilities)
    ts = dated(row.window_ms, row.revision)
    return PushRequest(key, row.customer_id, row.feature, row.sent_qty, ts, row.attempts)


def _keep_wire_keys(connection: sa.Connection, hashed: Sequence[Claimed]) -> None:
    """A key that is sent as something else is stored as that, before it is sent: late errors name it alone."""
    if not hashed:
        return
    rows = [
        {
            "window_ms": one.window_ms,
            "org_id": one.org_id,
            "feature": one.feature,
            "revision": one.revision,
            "wire_key": one.request.key,
        }
        for one in hashed
    ]
    shape = rows_sql(connection, {**_REFERENCE, "wire_key": "text"})
    connection.execute(sa.text(WIRE_KEYS.replace("{rows}", shape)), {"rows": json.dumps(rows)})


def _settle(
    connection: sa.Connection,
    *,
    batch: Sequence[Claimed],
    settled: Sequence[Settlement],
    claim: str,
    now: int,
    in_ledger: bool,
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
                # Proven not to have arrived, and nothing before it may have: the key is not known there yet (P2).
                "unsent": int(end.outcome == "retry" and not one.sent_before),
            }
            for one, end in zip(batch, settled, strict=True)
        ]
    )
    shape = rows_sql(connection, _SETTLED)
    values = {"rows": rows, "claim": claim, "now": now}
    changed = connection.execute(sa.text(SETTLE.replace("{rows}", shape)), values).all()
    connection.execute(sa.text(FINISH.replace("{rows}", shape)), {"rows": rows, "now": now})
    if in_ledger:
        draw(connection, [usage_of(row) for row in changed if row.state == "accepted"], now)
    mark_for_projection(connection, [one.org_id for one in batch], now)
