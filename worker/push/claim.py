"""Claim due pushes, record their attempts (P1), and claim due lookups.

Guarantee: Drawdown commits an attempt before it sends a byte. A backlog does not delay new usage. A claim takes the
newest windows first. Organisations take turns, because each has one push per window and feature. A claim also takes a
few pushes that have waited longest, so that each push is sent eventually.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from zlib import crc32

import sqlalchemy as sa

from drawdown.providers.protocol import Capabilities, PushRequest
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS
from drawdown.worker.catalog.terms import require_terms
from drawdown.worker.engine.context import LEASE_MS
from drawdown.worker.engine.shard import Shard
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import count_sends, loss_of, read_losses, require_same
from drawdown.worker.push.evidence import NEXT_REVISIONS, Sought
from drawdown.worker.push.outcome import safe_retention_ms
from drawdown.worker.push.rows import PushRow, plan, push_id_of, request_of, window_of_push

SQL = queries(__file__)

MAX_CLAIM: Final = 2_048
"""Most pushes of a claim, unless one call of the provider takes more.

A worker has at most two claims of a provider at a time. If the worker is killed, its unsent pushes wait for the end of
the lease.
"""
CALLS_A_CLAIM: Final = 2
"""Calls of a claim for each call that may be in flight.

When a call ends, the next call of the claim can then begin immediately.

If a process dies, its claimed and unsent pushes wait for the claim's lease to end.
"""

LONGEST_DUE: Final = 16
"""Pushes of a claim that are chosen by the longest wait.

In a small claim, the number is a quarter of the claim. It is small, because all these pushes may belong to one
customer, and a customer's pushes are sent a few at a time.
"""

MOST_READ_WAIT_MS: Final = DAY_MS
"""Longest wait of a push for a read of its customer, in milliseconds after its seal.

Afterwards Drawdown sends the push, even if it can never read the customer.
"""

MOST_LOOKUPS: Final = 1_000
"""Most lookups of a batch, enough for customers to take turns.

If a lookup has not begun when its lease ends, a worker claims it again.
"""
MOST_TOGETHER: Final = 1_000
"""Most lookups of the same customers that Drawdown adds to a batch.

One balance then covers all pushes of a customer in the batch. If a customer has at least this many absent pushes, a
push without proof is in doubt.
"""
MOST_LOST = 200 // (1 + NEXT_REVISIONS)
"""Most lookups of a batch after a loss of history.

Each lookup may take several calls.
"""


@dataclass(frozen=True)
class Claimed:
    """A push that this worker may send until its lease ends."""

    window_ms: int
    org_id: str
    feature: str
    revision: int
    request: PushRequest
    sent_before: bool = False
    """True if an earlier attempt may have arrived at the provider."""
    first: bool = True
    """True if each earlier attempt is proven not to have brought the key to the provider.

    Attempts of a lost history do not count.
    """
    read_before_ms: int | None = None
    """When the customer of its organisation was last read before the claim; None: never."""
    read_by_ms: int | None = None
    """The time until which the push waits for a read of its customer; None: no wait.

    If the provider reports costs, a read comes first in three cases. The organisation lacks credit, was not read since
    its assignment, or has another customer now.
    """


@dataclass(frozen=True)
class Claim:
    """The pushes of a claim, and the local checkpoint to save before they are sent.

    `witness` None: the claim is empty, or this machine does not have a checkpoint.
    """

    pushes: Sequence[Claimed]
    witness: Witness | None


def claim_size(capabilities: Capabilities) -> int:
    """Return the largest number of pushes that a claim takes."""
    calls = 1 if capabilities.in_flight == 1 else CALLS_A_CLAIM * capabilities.in_flight
    return min(max(MAX_CLAIM, capabilities.batch_size), capabilities.batch_size * calls)


def claim_due(
    connection: sa.Connection,
    *,
    provider: str,
    claim: str,
    now: int,
    capabilities: Capabilities,
    shard: Shard,
    witness: Witness | None,
) -> Claim:
    """Claim at most `claim_size` due pushes, and count them as sends (R1).

    Errors: HistoryDoubted if the history changed, or a recovery is needed. TermsChanged if other terms were
    accepted.
    """
    mine = {"provider": provider, "claim_owner": claim, "lease_end_ms": now + LEASE_MS}
    kept = safe_retention_ms(capabilities)
    limits = {"now_ms": now, "at_most": claim_size(capabilities), "lo": shard.lo, "hi": shard.hi}
    limits["oldest_attempt_ms"] = -1 if kept is None else now - kept
    rows = _take(connection, {**mine, **limits})
    if not rows:
        return Claim([], None)
    require_terms(connection, provider, capabilities)
    recorded = SQL.run(connection, "begin_attempts", {**mine, "now_ms": now}).rowcount
    assert recorded == len(rows), "every claimed push has its attempt on record before it is sent"
    before = set()
    if any(row.attempts > 1 for row in rows):
        before = {tuple(row) for row in SQL.run(connection, "sent_before", mine)}
    found = SQL.run(
        connection,
        "reads_before",
        {"org_ids": sorted({row.org_id for row in rows}), "provider": provider, "now_ms": now},
    ).all()
    reads = {row.org_id: row for row in found}
    claimed = [_claimed(row, capabilities, before, now, reads[row.org_id]) for row in rows]
    _keep_wire_keys(connection, [push for push, row in zip(claimed, rows, strict=True) if push.request.key != row.key])
    require_same(connection, witness)
    ends = {row.org_id: (0, row.runs_out_ms) for row in found if row.runs_out_ms is not None}
    # Organisations with the earliest end of credit come first, then the newest pushes.
    claimed.sort(key=lambda push: (ends.get(push.org_id, (1, 0)), -push.window_ms, push.request.key))
    # Count the sends last, because all workers share one row, which stays locked until the commit.
    return Claim(claimed, count_sends(connection, len(rows), witness))


def longest_due(most: int, claim: str) -> int:
    """Return how many pushes a claim takes because they have waited longest.

    If a claim has fewer than four pushes, this is 1 for about a quarter of claims, else 0.
    """
    return min(LONGEST_DUE, most // 4) if most >= 4 else int(crc32(claim.encode()) % 4 == 0)


def _take(connection: sa.Connection, values: dict[str, object]) -> list[sa.Row[tuple[object, ...]]]:
    """Claim pushes in three steps, until `at_most` are claimed.

    The steps claim a few pushes that wait longest, then the newest that were never sent, then other due pushes.
    """
    most = values["at_most"]
    assert isinstance(most, int)
    rows: list[sa.Row[tuple[object, ...]]] = []
    few = longest_due(most, str(values["claim_owner"]))
    plan(connection, "by_key", "by_turn")
    for first, share in (("longest_due", few), ("newest_unsent", most), ("longest_due", most)):
        wanted = min(share, most - len(rows))
        found = SQL.run(connection, "claim", {**values, "at_most": wanted}, first=first).all() if wanted else []
        rows += found
        if first == "longest_due" and len(found) < wanted:  # all due pushes are claimed
            break
    plan(connection, "end_by_turn")
    return rows


def _claimed(
    row: sa.Row[tuple[object, ...]],
    capabilities: Capabilities,
    before: set[tuple[object, ...]],
    now: int,
    read: sa.Row[tuple[object, ...]],
) -> Claimed:
    reference = (row.window_ms, row.org_id, row.feature, row.revision)
    request = request_of(row, capabilities)
    unread = capabilities.costs and (bool(read.unread) or read.customer_id != row.customer_id)
    return Claimed(
        *reference,
        request,
        reference in before,
        first=row.first_attempt_ms == now,
        read_before_ms=read.projection_read_ms,
        read_by_ms=row.sealed_at_ms + MOST_READ_WAIT_MS if unread else None,
    )


def _keep_wire_keys(connection: sa.Connection, hashed: Sequence[Claimed]) -> None:
    """Store the short keys that replace long keys, before the pushes are sent.

    A late error of the provider names a push only by the short key.
    """
    if not hashed:
        return
    rows = [
        {
            "window_ms": push.window_ms,
            "org_id": push.org_id,
            "feature": push.feature,
            "revision": push.revision,
            "wire_key": push.request.key,
        }
        for push in hashed
    ]
    SQL.run(connection, "keep_wire_keys", {"wire_keys": rows})


def claim_lookups(
    connection: sa.Connection,
    *,
    provider: str,
    claim: str,
    now: int,
    capabilities: Capabilities,
    shard: Shard,
    witness: Witness | None,
) -> list[Sought]:
    """Claim pushes that are due for a lookup.

    If the provider shows what each customer drew, also claim the other due pushes of the same customers.

    Errors: as `claim_due`. On other terms, Drawdown would look up a push in another place than it was sent to, and bill
    it twice.
    """
    require_same(connection, witness)
    mine = {"provider": provider, "claim_owner": claim, "lease_end_ms": now + LEASE_MS}
    losses = read_losses(connection)
    limits = {"now_ms": now, "at_most": MOST_LOST if losses else MOST_LOOKUPS, "lo": shard.lo, "hi": shard.hi}
    claimed = len(SQL.run(connection, "claim_lookups", {**mine, **limits}).all())
    if not claimed:
        return []
    require_terms(connection, provider, capabilities)
    if capabilities.drawn and (claimed == limits["at_most"] or shard != Shard()):  # if not, all due lookups are claimed
        SQL.run(connection, "claim_with_them", {**mine, "now_ms": now, "at_most": MOST_TOGETHER})
    rows = SQL.run(connection, "claimed_lookups", mine).all()
    voided = _voided_of(connection, mine, capabilities) if losses else {}
    sought = [Sought(row, loss_of(int(row.window_ms), losses)) for row in rows]
    return [it if it.loss is None else replace(it, voided=voided.get(_place_of(it.row), ())) for it in sought]


def _voided_of(
    connection: sa.Connection, mine: dict[str, object], capabilities: Capabilities
) -> Mapping[tuple[object, ...], Sequence[PushRow]]:
    """Return the voided revisions to look up again with a claimed push.

    A backup may come from a history that an earlier restore replaced. Then a push that was voided before the backup may
    have been sent in the other history.
    """
    found: dict[tuple[object, ...], list[PushRow]] = defaultdict(list)
    for row in SQL.run(connection, "voided_of_claimed", mine).all():
        adopted = SQL.run(connection, "adopted_keys", window_of_push(row)).scalars()
        if request_of(row, capabilities).key not in set(adopted):
            found[row.window_ms, row.org_id, row.feature, row.of_revision].append(row)
    return found


def _place_of(row: PushRow) -> tuple[object, ...]:
    return tuple(push_id_of(row).values())
