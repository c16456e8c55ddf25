"""The statements of `verify`, named and described, for both databases: each row of an answer is a breach.

Guarantee: they read raw tables alone and share nothing with the worker's statements, so that one mistake cannot hide in
both. A row says `what` is wrong (a key of FINDINGS), the organisation, window and feature, and the numbers to name.

`[x.org_id]` stands for the choice of organisations, `WIDE(x)` for a sum that cannot overflow, `{newest}` for how far
the database's own counter of arrivals has come, `SAID(a.name)` for what an operator's action `a` says of `name`.
"""

from typing import Final

from drawdown.worker.verify import ledger_queries as ledger
from drawdown.worker.verify import push_queries as push
from drawdown.worker.verify.usage_queries import USAGE
from drawdown.worker.verify.words import NONE

FINDINGS: Final[dict[str, tuple[int, str]]] = {
    "vanished": (1, "sealed {n2}, and all samples there ever were come to {n1}: some are gone"),
    "owed": (1, "samples in force {n1}, sealed {n2}"),
    "carry": (2, "sealed {sealed}, sent {sent}, carried {carry} at {provider} as {customer_id}"),
    "state": (2, "{key} is {state} and sends {sent_qty}: carried means that nothing is sent, and only that"),
    "shadow": (2, "{key} is in shadow, which ends at {live_from_ms}: it is never sent"),
    "key": (2, "the key {key} is not the one of its push, {wanted}"),
    "twice": (2, "{pushes} accepted pushes have the key {key}"),
    "revisions": (2, "{pushes} revisions up to number {highest}: some are missing"),
    "not_charged": (2, "{key} is accepted and the ledger has no entry of it"),
    "charged_otherwise": (
        2,
        "{key} says {sent_qty} of {customer_id}; the ledger charged {quantity} to {from_account}, "
        "for {to_account} at {ts}",
    ),
    "mirrored": (2, "{key} is {state} and sends {sent_qty}; its customer's wallet was drawn on for {quantity}"),
    "undrawn": (2, "{key} is accepted, and the wallet of {customer_id} was not drawn on for it"),
    "mirrored_otherwise": (2, "{key} says {sent_qty} of {customer_id}; a wallet's entries of it say something else"),
    "mirrored_elsewhere": (5, "a wallet was drawn on for {key}, and {provider} keeps its balances elsewhere"),
    "given_back": (2, "{key} moved {amount_micro} where {drawn} had been drawn"),
    "mirrored_nothing": (5, "a wallet was drawn on for {key}, and there is no such push"),
    "adopted": (6, "{key} was adopted with evidence, and is {state} after {attempts} attempts"),
    "charged_in_vain": (2, "{key} is {state} and the ledger charged {quantity} for it"),
    "balance": (2, "the account {account_id} keeps {kept}, its lines sum to {lines}"),
    "books": (2, "all balances of the ledger sum to {kept}, not to zero"),
    "priced": (2, "the ledger charged {amount_micro} for {quantity} under {key}: no rate of the feature makes that"),
    "granted": (
        2,
        "{said} to {said_account} were granted as {key}; the ledger has {amount_micro} to {to_account}, "
        "from {from_account}",
    ),
    "ungranted": (2, "the ledger has {amount_micro} to {to_account} as {key}, and no grant of it is on record"),
    "biller": (3, "{key} is billed by {provider} as {customer_id}; assigned: {assigned}"),
    "assigned_twice": (3, "the assignment from {start_ms} ends at {end_ms}, the next one starts at {next_ms}"),
    "assigned_never": (3, "nothing is assigned between {end_ms} and {next_ms}"),
    "unsaid": (3, "from {start_ms} on it is {provider} as {customer_id}; on record is {said} as {customer}"),
    "shared": (3, "the customer {customer_id} at {provider} belongs to {other} in the same windows"),
    "shared_wallet": (
        3,
        "it draws on the wallet of {customer_id} at {provider}, as {other} does at {elsewhere} in the same windows",
    ),
    "above": (4, "{key} is sealed, and the watermark is {watermark_ms}"),
    "pending_above": (4, "{memory_mb} MB is pending, and the watermark is {watermark_ms}"),
    "floor": (4, "the floor {floor_ms} lies above the watermark {watermark_ms}"),
    "floored": (4, "the floor is {floor_ms}, and nothing was ever pruned above {pruned_ms}"),
    "refloored": (4, "the sample {sample_id} came below the floor once; now the floor is {floor_ms}"),
    "watermark": (4, "bucket {bucket} was sealed up to {had}; now its watermark is {has}"),
    "ahead": (4, "the watermark of bucket {bucket} is {has}, and no seal ever came further than {had}"),
    "cursor": (4, "the cursor of bucket {bucket} had come to {had}; now it is {has}"),
    "cursor_order": (4, "seal {seal_id} of buckets {bucket_lo}..{bucket_hi} moved the cursor from {had} to {has}"),
    "beyond": (4, "the cursor of bucket {bucket} is {has}; the database has counted up to {newest} only"),
    "no_push": (5, "attempt {attempt} is of a push that is not there"),
    "other_bytes": (5, "attempt {attempt} sent {sent}, the push says {sent_qty}"),
    "sent_carried": (5, "attempt {attempt} of a push that sends nothing"),
    "numbers": (5, "{key} counts {attempts} attempts; on record are {tries}, numbered {lowest} to {highest}"),
    "early": (5, "{key} was sealed at {sealed_at_ms} and sent before, at {first_ms}"),
    "unproven": (5, "{key} is {state}, and no attempt or person settled it"),
    "charged_unsent": (5, "the ledger charged {quantity} for {key}, which was never sent"),
    "uncommitted": (5, "the ledger charged {quantity} for {key}; no such push was committed"),
    "resent": (6, "{key} was sent again (at {started_ms}), after it went in doubt (at {doubt_ms})"),
    "no_evidence": (6, "{key} is voided without evidence"),
    "not_voided": (6, "{key} has a void and is {state}"),
    "void_of_nothing": (6, "revision {revision} has a void and is not there"),
    "sent_void": (6, "{key} was sent (at {started_ms}), after it was voided (at {at_ms})"),
    "no_halt": (7, "halted at {halted_at}: cell {cell_id} has sandboxes and no halt is due or acknowledged"),
    "half_halted": (7, "is_halted is {is_halted}, halted_at is {halted_at}"),
    "halted_never": (7, "cell {cell_id} acknowledged a halt of {halted_at}; the organisation was not halted then"),
    "back": (8, "projection {projection_id} was read at {read_ms}, the one before it at {before_ms}"),
    "older": (8, "the organisation's projection is of {projection_read_ms}, its newest one of {read_ms}"),
    "verdict": (8, "is_halted is {is_halted}, its newest projection says {said}"),
    "pending": (9, "{n1} MB: used and not sealable {n2} s in {n3} samples ({t1}), pending {n4} s in {n5} ({t2})"),
    "stranger": (9, "{n1} samples of an organisation that has no row with a bucket"),
}

_KEY: Final = "p.org_id, p.window_ms, p.feature, p.key"
_PLACED: Final = "JOIN orgs o ON o.org_id = p.org_id JOIN buckets b ON b.id = o.bucket"
_REACHED: Final = "COALESCE(o.held_watermark_ms, b.watermark_ms)"

# Invariant 4. Whatever was sealed or found pending lies below the watermark, which only grows.
ABOVE: Final = f"""
SELECT 'above' AS what, {_KEY}, {_REACHED} AS watermark_ms FROM pushes p {_PLACED} WHERE p.window_ms >= {_REACHED}
"""

PENDING_ABOVE: Final = f"""
SELECT 'pending_above' AS what, p.org_id, p.window_ms, CAST(NULL AS TEXT) AS feature, p.memory_mb,
    {_REACHED} AS watermark_ms
FROM pending_usage p {_PLACED} WHERE p.window_ms >= {_REACHED}
"""

FLOOR: Final = f"""
SELECT 'floor' AS what, p.org_id, {NONE}, p.floor_ms, COALESCE(p.held_watermark_ms, b.watermark_ms) AS watermark_ms
FROM orgs p JOIN buckets b ON b.id = p.bucket WHERE p.floor_ms > COALESCE(p.held_watermark_ms, b.watermark_ms)
"""

# Only pruning raises floors, and says how far: a floor beyond that closed windows whose samples may be gone unbilled.
FLOORED: Final = f"""
SELECT 'floored' AS what, p.org_id, {NONE}, p.floor_ms, q.pruned_ms FROM orgs p CROSS JOIN (
    SELECT MAX(CAST(SAID(a.before_ms) AS BIGINT)) AS pruned_ms FROM operator_actions a WHERE a.action = 'sample_prune'
) q WHERE p.floor_ms > COALESCE(q.pruned_ms, 0)
"""

REFLOORED: Final = """
SELECT 'refloored' AS what, s.org_id, s.ts - s.ts % 300000 AS window_ms, CAST(NULL AS TEXT) AS feature, q.sample_id,
    o.floor_ms
FROM late_quarantine q CROSS JOIN usage_samples s JOIN orgs o ON o.org_id = s.org_id
WHERE s.id = q.sample_id AND s.ts >= o.floor_ms
"""

# Seals say how far marks had come; within an epoch (a recorded `recover` starts another) they are never behind that.
_MARKS: Final = """
FROM (
    SELECT b.id, b.watermark_ms, b.cursor, MAX(s.horizon_ms) AS horizon_ms, MAX(s.cursor) AS reached
    FROM buckets b JOIN (
        SELECT bucket_lo, bucket_hi, epoch, MAX(horizon_ms) AS horizon_ms, MAX(cursor) AS cursor
        FROM seals GROUP BY bucket_lo, bucket_hi, epoch
    ) s ON b.id BETWEEN s.bucket_lo AND s.bucket_hi AND s.epoch = b.epoch
    GROUP BY b.id, b.watermark_ms, b.cursor
) m LEFT JOIN orgs o ON o.bucket = m.id
"""

WATERMARK: Final = f"""
SELECT 'watermark' AS what, o.org_id, {NONE}, m.id AS bucket, m.horizon_ms AS had, m.watermark_ms AS has
{_MARKS} WHERE m.horizon_ms > m.watermark_ms
"""

# Nothing but a seal moves a watermark: replays and sweeps write theirs with horizon 0, and a `recover` keeps it.
AHEAD: Final = f"""
SELECT 'ahead' AS what, o.org_id, {NONE}, m.id AS bucket, m.reached AS had, m.watermark_ms AS has
FROM (
    SELECT b.id, b.watermark_ms, MAX(s.horizon_ms) AS reached FROM buckets b LEFT JOIN (
        SELECT bucket_lo, bucket_hi, MAX(horizon_ms) AS horizon_ms FROM seals GROUP BY bucket_lo, bucket_hi
    ) s ON b.id BETWEEN s.bucket_lo AND s.bucket_hi GROUP BY b.id, b.watermark_ms
) m LEFT JOIN orgs o ON o.bucket = m.id WHERE m.watermark_ms > COALESCE(m.reached, 0)
"""

CURSOR: Final = f"""
SELECT 'cursor' AS what, o.org_id, {NONE}, m.id AS bucket, m.reached AS had, m.cursor AS has
{_MARKS} WHERE m.reached > m.cursor
"""

CURSOR_ORDER: Final = f"""
SELECT 'cursor_order' AS what, o.org_id, {NONE}, q.seal_id, q.bucket_lo, q.bucket_hi, q.before AS had,
    q.cursor AS has
FROM (
    SELECT seal_id, bucket_lo, bucket_hi, cursor,
        LAG(cursor) OVER (PARTITION BY bucket_lo, bucket_hi, epoch ORDER BY seal_id) AS before
    FROM seals
) q LEFT JOIN orgs o ON o.bucket BETWEEN q.bucket_lo AND q.bucket_hi WHERE q.cursor < q.before
"""

BEYOND: Final = f"""
SELECT 'beyond' AS what, o.org_id, {NONE}, b.id AS bucket, b.cursor AS has, n.newest
FROM buckets b CROSS JOIN (SELECT {{newest}} AS newest) n LEFT JOIN orgs o ON o.bucket = b.id WHERE b.cursor > n.newest
"""

# Invariant 7. Wherever a halted organisation has sandboxes, its cell was told or is to be told.
NO_HALT: Final = f"""
SELECT DISTINCT 'no_halt' AS what, o.org_id, {NONE}, s.cell_id, o.halted_at
FROM orgs o JOIN sandboxes s ON s.org_id = o.org_id AND s.state <> 'stopped'
LEFT JOIN halts h ON h.org_id = s.org_id AND h.cell_id = s.cell_id AND h.halted_at = o.halted_at
WHERE o.is_halted AND (h.org_id IS NULL OR (h.due_at_ms IS NULL AND h.acked_at_ms IS NULL))
"""

HALF_HALTED: Final = f"""
SELECT 'half_halted' AS what, o.org_id, {NONE}, o.is_halted, o.halted_at FROM orgs o
WHERE o.is_halted <> (o.halted_at IS NOT NULL)
"""

# Provable where projections tell what the organisation was before that moment, and none made it halted then.
HALTED_NEVER: Final = f"""
SELECT 'halted_never' AS what, h.org_id, {NONE}, h.cell_id, h.halted_at
FROM halts h JOIN (
    SELECT x.org_id, x.cell_id, x.halted_at, MAX(j.projection_id) AS projection_id
    FROM halts x JOIN projections j ON j.org_id = x.org_id AND j.at_ms <= x.halted_at
    GROUP BY x.org_id, x.cell_id, x.halted_at
) q ON q.org_id = h.org_id AND q.cell_id = h.cell_id AND q.halted_at = h.halted_at
JOIN projections j ON j.projection_id = q.projection_id
WHERE h.acked_at_ms IS NOT NULL AND NOT j.is_halted AND NOT EXISTS (
    SELECT 1 FROM projections e WHERE e.org_id = h.org_id AND e.at_ms = h.halted_at AND e.is_halted)
"""

# Invariant 8. An older read never overwrites a newer one.
BACK: Final = f"""
SELECT 'back' AS what, q.org_id, {NONE}, q.projection_id, q.read_ms, q.before_ms FROM (
    SELECT org_id, projection_id, read_ms,
        LAG(read_ms) OVER (PARTITION BY org_id ORDER BY projection_id) AS before_ms
    FROM projections
) q WHERE q.read_ms < q.before_ms
"""

VERDICT: Final = f"""
SELECT CASE WHEN j.is_halted <> o.is_halted THEN 'verdict' ELSE 'older' END AS what, o.org_id, {NONE}, o.is_halted,
    j.is_halted AS said, o.projection_read_ms, j.read_ms
FROM orgs o JOIN (SELECT org_id, MAX(projection_id) AS projection_id FROM projections GROUP BY org_id) q
    ON q.org_id = o.org_id JOIN projections j ON j.projection_id = q.projection_id
WHERE j.is_halted <> o.is_halted OR o.projection_read_ms IS NULL OR o.projection_read_ms < j.read_ms
"""

STATEMENTS: Final = (
    USAGE,
    push.CARRY,
    push.STATE,
    push.SHADOW,
    push.KEY,
    push.TWICE,
    push.REVISIONS,
    ledger.CHARGED,
    ledger.UNCOMMITTED,
    ledger.MIRRORED,
    ledger.UNDRAWN,
    ledger.GIVEN_BACK,
    push.ADOPTED,
    ledger.BALANCE,
    ledger.BOOKS,
    ledger.PRICED,
    ledger.GRANTED,
    ledger.UNGRANTED,
    push.BILLER,
    push.ASSIGNED,
    push.UNSAID,
    push.SHARED,
    ABOVE,
    PENDING_ABOVE,
    FLOOR,
    FLOORED,
    REFLOORED,
    WATERMARK,
    AHEAD,
    CURSOR,
    CURSOR_ORDER,
    BEYOND,
    push.ATTEMPT,
    push.ATTEMPTS,
    push.RESENT,
    push.NO_EVIDENCE,
    push.VOID_OF_NOTHING,
    push.SENT_VOID,
    NO_HALT,
    HALF_HALTED,
    HALTED_NEVER,
    BACK,
    VERDICT,
)
"""Everything `verify` asks. USAGE also answers with one row that counts what it looked at."""

COUNTS: Final = {
    "pushes": "SELECT COUNT(*) FROM pushes p WHERE [p.org_id]",
    "attempts": "SELECT COUNT(*) FROM attempts t WHERE [t.org_id]",
    "entries": "SELECT COUNT(*) FROM ledger_entries",
    "actions": "SELECT COUNT(*) FROM operator_actions",
    "projections": "SELECT COUNT(*) FROM projections j WHERE [j.org_id]",
}
"""What was checked, beside samples and windows: so that "clean" cannot mean that nothing was looked at."""

OPEN: Final = {
    "dirty_windows": "SELECT COUNT(*) FROM dirty_windows d WHERE [d.org_id]",
    "stopped_orgs": "SELECT COUNT(*) FROM orgs o WHERE o.stopped_at_ms IS NOT NULL AND [o.org_id]",
}
"""Known and not settled yet, beside samples after the cursor."""

NEWEST: Final = {
    "postgresql": "pg_snapshot_xmax(pg_current_snapshot())::text::bigint",
    "sqlite": "COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'usage_samples'), 0) + 1",
}

SAID: Final = {
    "postgresql": r"(CAST(\1.details AS json) ->> '\2')",
    "sqlite": r"json_extract(\1.details, '$.\2')",
}
