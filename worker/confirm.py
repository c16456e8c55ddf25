"""Confirm: ask the provider what became of pushes whose answer does not prove it, once its lag is over.

Guarantee: what was never proven is neither accepted nor sent again blind (P2, P3); what is void was looked up and was
absent later than it could still have been applied (P5); a lookup that fails changes nothing but when it is repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa
import structlog

from drawdown.providers.protocol import Capabilities, LookupResult, PushRequest, ReadFailed
from drawdown.worker.actions import lock_buckets
from drawdown.worker.adopt import adopt_other
from drawdown.worker.calls import in_short
from drawdown.worker.context import LEASE_MS, Context
from drawdown.worker.corrections import void_one
from drawdown.worker.decide import Adopt, Asked, Settlement, Void, after_lookup
from drawdown.worker.effects import LookUp, Steps, Transaction
from drawdown.worker.mirror import draw, usage_of
from drawdown.worker.orgs import Said, mark_for_projection
from drawdown.worker.requests import request_of
from drawdown.worker.shard import Shard

log = structlog.get_logger()

MOST = 200
"""Lookups a batch: at a few calls a second it is over within its lease."""

_OPEN = "state IN ('due', 'queued', 'in_doubt', 'rejected')"
_SAME = (
    "{0}.window_ms = {1}.window_ms AND {0}.org_id = {1}.org_id AND {0}.feature = {1}.feature "
    "AND {0}.revision = {1}.revision"
)
CLAIM = f"""
UPDATE pushes SET claim_owner = :claim, due_at_ms = :lease_end, lookups = pushes.lookups + 1
FROM (
    SELECT p.window_ms, p.org_id, p.feature, p.revision FROM pushes p JOIN orgs o ON o.org_id = p.org_id
    WHERE p.provider = :provider AND p.{_OPEN} AND p.state IN ('queued', 'in_doubt') AND p.due_at_ms <= :now
        AND o.stopped_at_ms IS NULL AND o.bucket BETWEEN :lo AND :hi
    ORDER BY p.due_at_ms LIMIT :most {{skip_locked}}) c
WHERE {_SAME.format("pushes", "c")}
RETURNING pushes.window_ms, pushes.org_id, pushes.feature, pushes.revision
"""

# An attempt that was refused because the key is known, or proven not to have arrived, is none that may yet be applied.
CLAIMED = f"""
SELECT p.*,
    COALESCE((SELECT MAX(t.started_ms) FROM attempts t WHERE {_SAME.format("t", "p")}
        AND (t.outcome IS NULL OR t.outcome IN ('unknown', 'queued', 'accepted'))), p.first_attempt_ms,
        p.sealed_at_ms) AS last_sent_ms,
    EXISTS (SELECT 1 FROM attempts t WHERE {_SAME.format("t", "p")} AND t.outcome IN ('queued', 'duplicate')) AS claimed
FROM pushes p
WHERE p.provider = :provider AND p.{_OPEN} AND p.state IN ('queued', 'in_doubt') AND p.claim_owner = :claim
    AND p.due_at_ms = :lease_end ORDER BY p.window_ms, p.key
"""

SETTLE = """
UPDATE pushes SET state = :state, due_at_ms = :due, settled_ms = :now, last_error = :error
WHERE window_ms = :window_ms AND org_id = :org_id AND feature = :feature AND revision = :revision
    AND (state IN ('queued', 'in_doubt') AND claim_owner = :claim
        OR state IN ('due', 'queued', 'in_doubt', 'rejected') AND :state = 'accepted')
"""


@dataclass
class Confirmed:
    """What lookups came to."""

    asked: int = 0
    accepted: int = 0
    voided: int = 0
    adopted: int = 0


def confirm(context: Context, provider: str) -> Steps[Confirmed]:
    """Look up every push of one provider whose time has come."""
    done = Confirmed()
    capabilities = context.capabilities[provider]
    while capabilities.lookup and not context.out_of_time():
        now, claim = context.clock.now_ms(), context.new_claim()
        asked: list[sa.Row[tuple[object, ...]]] = yield Transaction(
            "claim_lookups", partial(_claim, provider=provider, claim=claim, now=now, shard=context.shard)
        )
        if not asked:
            break
        requests = [request_of(row, capabilities) for row in asked]
        # What a lookup proves, it proves of the time it was made: this process may sleep before it writes that down.
        asked_ms = context.clock.now_ms()
        found = yield from _look_up(provider, requests)
        yield Transaction(
            "confirm",
            partial(
                _apply,
                asked=asked,
                found=found,
                claim=claim,
                asked_ms=asked_ms,
                now=context.clock.now_ms(),
                capabilities=capabilities,
                done=done,
            ),
        )
        if all(isinstance(one, ReadFailed) for one in found):
            break
    return done


def _look_up(provider: str, requests: Sequence[PushRequest]) -> Steps[Sequence[LookupResult]]:
    try:
        found: Sequence[LookupResult] = yield LookUp(provider, requests)
        assert len(found) == len(requests), f"{provider} answered {len(found)} of {len(requests)} lookups"
    except Exception as error:  # it has told us nothing: what cannot be read is not absent
        log.exception("provider_failed", provider=provider, first_key=requests[0].key)
        return [ReadFailed(in_short(error))] * len(requests)
    return found


def _claim(
    connection: sa.Connection, *, provider: str, claim: str, now: int, shard: Shard
) -> list[sa.Row[tuple[object, ...]]]:
    skip = "FOR UPDATE OF p SKIP LOCKED" if connection.dialect.name == "postgresql" else ""
    mine = {"provider": provider, "claim": claim, "lease_end": now + LEASE_MS}
    limits = {"now": now, "most": MOST, "lo": shard.lo, "hi": shard.hi}
    if not connection.execute(sa.text(CLAIM.replace("{skip_locked}", skip)), {**mine, **limits}).all():
        return []
    return list(connection.execute(sa.text(CLAIMED), mine))


def _apply(
    connection: sa.Connection,
    *,
    asked: Sequence[sa.Row[tuple[object, ...]]],
    found: Sequence[LookupResult],
    claim: str,
    asked_ms: int,
    now: int,
    capabilities: Capabilities,
    done: Confirmed,
) -> None:
    ends = [after_lookup(one, _known(row), asked_ms, capabilities) for one, row in zip(found, asked, strict=True)]
    if any(isinstance(one, Adopt | Void) for one in ends):
        lock_buckets(connection)
    said = Said(now, "drawdown", "looked up")
    for row, end in zip(asked, ends, strict=True):
        done.asked += 1
        if isinstance(end, Settlement):
            changed = _settle(connection, row, end, claim, now)
            done.accepted += changed and end.state == "accepted"
            if changed and end.state == "accepted" and capabilities.balance_in_ledger:
                draw(connection, [usage_of(row)], now)
        elif not _still_mine(connection, row, claim):
            continue  # somebody else has settled it meanwhile, or looks it up
        elif isinstance(end, Adopt):
            adopt_other(connection, row, end.quantity, said)
            done.adopted += 1
            log.error("push_adopted", key=row.key, ours=row.sent_qty, theirs=end.quantity)
        else:
            void_one(connection, row, said, end.evidence, "absent", answered=False)
            done.voided += 1
            log.warning("push_absent", key=row.key, evidence=end.evidence)
    mark_for_projection(connection, [str(row.org_id) for row in asked], now)


def _known(row: sa.Row[tuple[object, ...]]) -> Asked:
    return Asked(
        state=str(row.state),
        sent_qty=int(row.sent_qty),
        lookups=int(row.lookups),
        last_sent_ms=int(row.last_sent_ms),
        first_sent_ms=int(row.first_attempt_ms or row.last_sent_ms),
        claimed=bool(row.claimed),
    )


def _settle(connection: sa.Connection, row: sa.Row[tuple[object, ...]], end: Settlement, claim: str, now: int) -> bool:
    values = {"state": end.state, "due": end.due_at_ms, "error": end.error, "claim": claim, "now": now}
    return connection.execute(sa.text(SETTLE), {**values, **_reference(row)}).rowcount == 1


def _still_mine(connection: sa.Connection, row: sa.Row[tuple[object, ...]], claim: str) -> bool:
    found = connection.execute(
        sa.text(
            "SELECT 1 FROM pushes WHERE window_ms = :window_ms AND org_id = :org_id AND feature = :feature "
            "AND revision = :revision AND state IN ('queued', 'in_doubt') AND claim_owner = :claim"
        ),
        {**_reference(row), "claim": claim},
    )
    return found.first() is not None


def _reference(row: sa.Row[tuple[object, ...]]) -> dict[str, object]:
    return {name: getattr(row, name) for name in ("window_ms", "org_id", "feature", "revision")}
