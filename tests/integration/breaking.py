"""Ways to break a busy database, and what `verify` must say of each: the invariant, the place and the numbers."""

from __future__ import annotations

from dataclasses import dataclass

from drawdown.schema.migrate import bucket_of
from drawdown.schema.units import WINDOW_MS
from tests.integration.verifying import NEXT, ONE
from tests.world import T0


def push(org: str, window: int = T0, feature: str = ONE, revision: int = 0) -> str:
    return f"org_id = '{org}' AND window_ms = {window} AND feature = '{feature}' AND revision = {revision}"


def more_push(org: str, quantity: int, revision: int, state: str = "due") -> str:
    """A push that no seal wrote, alike in all else to the first one of the window."""
    return (
        "INSERT INTO pushes (window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, key, "
        "sealed_at_ms, seal_id, state, due_at_ms) SELECT window_ms, org_id, feature, "
        f"{revision}, provider, customer_id, {quantity}, {quantity}, key || ':r{revision}', sealed_at_ms, seal_id, "
        f"'{state}', due_at_ms FROM pushes WHERE {push(org, NEXT)}"
    )


def sample(org: str, ts: int, seconds: int, memory_mb: int) -> str:
    """A sample that every cursor has passed already."""
    return (
        "INSERT INTO usage_samples (arrival, id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
        f"VALUES (-1, 'lost', '{org}', 'b', 'cell-1', {memory_mb}, {seconds}, {ts}, {ts})"
    )


def attempt(org: str, number: int, started_ms: int, where: str) -> str:
    return (
        "INSERT INTO attempts (window_ms, org_id, feature, revision, attempt, started_ms, owner, sent_qty) "
        f"SELECT window_ms, org_id, feature, revision, {number}, {started_ms}, 'w', sent_qty FROM pushes WHERE {where}"
    )


def entry(key: str) -> str:
    return (
        "INSERT INTO ledger_entries (key, kind, from_account, to_account, amount_micro, feature, quantity, ts, at_ms, "
        f"actor, reason) VALUES ('{key}', 'usage', 'wallet:acme', "
        f"'revenue:{ONE}', 0, '{ONE}', 0, {NEXT}, {NEXT}, 't', 't')"
    )


@dataclass(frozen=True)
class Broken:
    """One way to break a database, and what `verify` must say: the invariant, where, and a part of the text."""

    invariant: int
    statements: tuple[str, ...]
    text: str
    window_ms: int | None = None
    feature: str | None = None
    org: str | None = "acme"
    """None: of no single organisation."""
    also: tuple[int, ...] = ()
    """Other invariants that the same is a breach of."""
    beside: str | None = None
    """Another organisation of which the same is said."""


LATER = T0 + 1000 * WINDOW_MS
ACME = bucket_of("acme")

BROKEN = {
    "a late sample nobody looked at": Broken(
        1, (sample("acme", NEXT + 9, 20, 1024),), "samples in force sum to 120, but pushes sealed 100", NEXT, ONE
    ),
    "a sample that went away": Broken(
        1,
        (f"DELETE FROM usage_samples WHERE org_id = 'acme' AND ts = {NEXT + 1}",),
        "to 0, but pushes sealed 100",
        NEXT,
        ONE,
    ),
    "a push sealed twice": Broken(
        1, (more_push("acme", 100, 1),), "samples in force sum to 100, but pushes sealed 200", NEXT, ONE
    ),
    "a changed quantity, with a carry to hide it": Broken(
        1,
        (
            f"UPDATE pushes SET sealed_qty = sealed_qty + 5 WHERE {push('acme', NEXT)}",
            f"INSERT INTO carries (org_id, provider, customer_id, feature, carry_qty) "
            f"VALUES ('acme', 'embedded', 'acme', '{ONE}', 5)",
        ),
        "samples in force sum to 100, but pushes sealed 105",
        NEXT,
        ONE,
    ),
    "a mapping rewritten": Broken(
        1,
        ("UPDATE mappings SET unit = 'mb_s' WHERE feature = 'compute_2gb'",),
        "22528, but pushes sealed 11",
        T0,
        "compute_2gb",
    ),
    "a carry that is off by one": Broken(
        2, ("UPDATE carries SET carry_qty = carry_qty + 1 WHERE org_id = 'rest'",), "carried", None, ONE, "rest"
    ),
    "a carried push that is due": Broken(
        2, ("UPDATE pushes SET state = 'due' WHERE state = 'carried'",), "is due and sends 0", T0, ONE, "rest"
    ),
    "another key": Broken(
        2,
        (f"UPDATE pushes SET key = key || 'x' WHERE {push('rest', NEXT)}",),
        "does not match its push",
        NEXT,
        ONE,
        "rest",
    ),
    "a revision left out": Broken(
        2, (more_push("acme", 0, 2, "carried"),), "found 2, numbered from 0 up to 2", NEXT, ONE
    ),
    "a balance off by one": Broken(
        2,
        ("UPDATE ledger_accounts SET balance_micro = balance_micro + 1 WHERE account_id = 'wallet:acme'",),
        "the balance of wallet:acme is",
        also=(10,),
    ),
    "a charge of another quantity": Broken(
        2,
        (f"UPDATE ledger_entries SET quantity = 101 WHERE key = 'usage:acme:{NEXT}:{ONE}'",),
        "bills 100 to acme, but the ledger charged 101 to wallet:acme",
        NEXT,
        ONE,
    ),
    "samples deleted under a dirty window of a stopped organisation": Broken(
        1,
        (
            f"INSERT INTO dirty_windows (org_id, window_ms) VALUES ('stuck', {NEXT})",
            f"DELETE FROM usage_samples WHERE org_id = 'stuck' AND ts = {NEXT + 1}",
        ),
        "sealed 100, but all samples ever received sum to 0",
        NEXT,
        ONE,
        "stuck",
    ),
    "a charge that went away": Broken(
        2,
        (f"DELETE FROM ledger_entries WHERE key = 'usage:acme:{NEXT}:{ONE}'",),
        "does not have an entry for it",
        NEXT,
        ONE,
        also=(10,),
    ),
    "another customer": Broken(
        3,
        ("UPDATE assignments SET customer_id = 'zoe' WHERE org_id = 'acme'",),
        "is billed by embedded as acme, but the assignment of its window is embedded as zoe",
        NEXT,
        ONE,
    ),
    "two assignments at once": Broken(
        3,
        (
            "INSERT INTO assignments (org_id, start_ms, provider, customer_id, at_ms, actor, reason) "
            f"VALUES ('acme', {LATER}, 'minutes', 'acme', 0, 't', 't')",
        ),
        "ends at none, but the next one starts at",
    ),
    "a watermark moved back": Broken(
        4,
        (f"UPDATE buckets SET watermark_ms = {NEXT} WHERE id = {ACME}",),
        "is not below the watermark",
        NEXT,
        ONE,
    ),
    "a watermark moved ahead without a seal": Broken(
        4,
        (f"UPDATE buckets SET watermark_ms = watermark_ms + {WINDOW_MS} WHERE id = {ACME}",),
        "but its furthest seal reached",
    ),
    "a watermark moved ahead, and the seal is of other buckets": Broken(
        4,
        (
            "INSERT INTO seals (at_ms, bucket_lo, bucket_hi, horizon_ms, cursor, epoch) "
            f"SELECT at_ms, {ACME + 1}, {ACME + 1}, {LATER}, cursor, epoch + 1 FROM seals WHERE seal_id = 1",
            f"UPDATE buckets SET watermark_ms = {LATER} WHERE id = {ACME}",
        ),
        f"is {LATER}, but its furthest seal reached",
    ),
    "a cursor moved back": Broken(
        4, (f"UPDATE buckets SET cursor = 0 WHERE id = {ACME}",), f"the cursor of bucket {ACME} had reached"
    ),
    "a cursor beyond the counter": Broken(
        4, (f"UPDATE buckets SET cursor = 1000000000 WHERE id = {ACME}",), "has counted only up to"
    ),
    "a floor above the watermark": Broken(
        4, (f"UPDATE orgs SET floor_ms = {LATER} WHERE org_id = 'other'",), "the floor", org="other"
    ),
    "a floor raised beyond what was pruned, and its samples deleted": Broken(
        4,
        (
            f"UPDATE orgs SET floor_ms = {NEXT} WHERE org_id = 'other'",
            f"DELETE FROM usage_samples WHERE org_id = 'other' AND ts < {NEXT}",
        ),
        f"the floor is {NEXT}, but the highest prune in the audit log is {T0}",
        org="other",
    ),
    "an attempt off the record": Broken(
        5, (f"DELETE FROM attempts WHERE {push('acme', NEXT)}",), "counted 1, on record 0", NEXT, ONE
    ),
    "other bytes sent": Broken(
        5,
        (f"UPDATE attempts SET sent_qty = 99 WHERE {push('acme', NEXT)}",),
        "sent 99, but the quantity of its push is 100",
        NEXT,
        ONE,
    ),
    "an attempt at nothing": Broken(
        5,
        (f"UPDATE attempts SET feature = 'none' WHERE {push('rest', NEXT)}",),
        "belongs to a push that does not exist",
        NEXT,
        "none",
        "rest",
    ),
    "accepted and never sent": Broken(
        5,
        (
            f"DELETE FROM attempts WHERE {push('rest', NEXT)}",
            f"UPDATE pushes SET attempts = 0 WHERE {push('rest', NEXT)}",
        ),
        "neither an attempt nor a person settled it",
        NEXT,
        ONE,
        "rest",
    ),
    "accepted though no answer said so": Broken(
        5,
        (f"UPDATE attempts SET outcome = 'unknown' WHERE {push('acme', NEXT)}",),
        "neither an attempt nor a person settled it",
        NEXT,
        ONE,
    ),
    "accepted though it was only queued": Broken(
        5,
        (f"UPDATE attempts SET outcome = 'queued' WHERE {push('rest', NEXT)}",),
        "neither an attempt nor a person settled it",
        NEXT,
        ONE,
        "rest",
    ),
    "sent before it was sealed": Broken(
        5,
        (f"UPDATE attempts SET started_ms = 5 WHERE {push('acme', NEXT)}",),
        "but was first sent before that, at 5",
        NEXT,
        ONE,
    ),
    "a charge of no push": Broken(5, (entry("usage:acme:1:x"),), "but that push does not exist", NEXT, ONE),
    "a void without evidence": Broken(6, ("UPDATE voids SET evidence = ' '",), "without evidence", T0, "compute_2gb"),
    "sent after it was voided": Broken(
        6,
        (
            attempt("acme", 2, LATER, push("acme", T0, "compute_2gb")),
            f"UPDATE pushes SET attempts = 2 WHERE {push('acme', T0, 'compute_2gb')}",
        ),
        "after it was voided",
        T0,
        "compute_2gb",
    ),
    "sent again after it went in doubt": Broken(
        6,
        (
            attempt("acme", 2, LATER, push("acme", NEXT)),
            f"UPDATE attempts SET outcome = 'duplicate' WHERE attempt = 1 AND {push('acme', NEXT)}",
            f"UPDATE pushes SET attempts = 2 WHERE {push('acme', NEXT)}",
        ),
        "after it went in doubt",
        NEXT,
        ONE,
    ),
    "a halt that went away": Broken(
        7, ("DELETE FROM halts WHERE halted_at = (SELECT halted_at FROM orgs WHERE org_id = 'acme')",), "cell cell-1"
    ),
    "a halt of nobody": Broken(
        7,
        (
            "UPDATE halts SET halted_at = (SELECT at_ms + 1 FROM projections WHERE org_id = 'acme' AND NOT is_halted) "
            "WHERE halted_at = (SELECT MIN(halted_at) FROM halts)",
        ),
        "was not halted then",
    ),
    "an older projection on top": Broken(
        8,
        (
            f"UPDATE projections SET read_ms = {T0} WHERE projection_id = (SELECT MAX(projection_id) FROM "
            "projections WHERE org_id = 'acme')",
        ),
        f"was read at {T0}, but the previous projection at",
    ),
    "a newer projection overwritten": Broken(
        8, ("UPDATE orgs SET projection_read_ms = 1 WHERE org_id = 'acme'",), "projection was read at 1, but its newest"
    ),
    "a halt lifted by nobody": Broken(
        8,
        ("UPDATE orgs SET is_halted = false, halted_at = NULL WHERE org_id = 'acme'",),
        "but the newest projection has",
    ),
    "a limit that no projection says": Broken(
        8, ("UPDATE orgs SET max_concurrent_sandboxes = 77 WHERE org_id = 'acme'",), "the limit 77, but the newest"
    ),
    "a verdict noted twice": Broken(
        8,
        (
            "INSERT INTO projections (org_id, read_ms, at_ms, is_halted, max_concurrent_sandboxes, reason) SELECT "
            "org_id, read_ms, at_ms, is_halted, max_concurrent_sandboxes, reason FROM projections WHERE projection_id "
            "= (SELECT MAX(projection_id) FROM projections WHERE org_id = 'acme')",
        ),
        "repeats the previous one",
    ),
    "a halt without any history": Broken(
        8,
        ("DELETE FROM projections WHERE org_id = 'acme'",),
        "but the organisation does not have a projection",
    ),
    "a pending row that went away": Broken(
        9,
        ("DELETE FROM pending_usage WHERE org_id = 'acme'",),
        "usage of 3000 MB that cannot be sealed is 20 s (samples: 1",
        T0,
    ),
    "a pending row of other seconds": Broken(
        9, ("UPDATE pending_usage SET seconds = 21 WHERE org_id = 'acme'",), "record is 21 s (samples: 1", T0
    ),
    "a pending row of other reason": Broken(
        9, ("UPDATE pending_usage SET reason = 'unknown_org' WHERE org_id = 'acme'",), "reason: unknown_org)", T0
    ),
    "pending usage of nothing": Broken(
        9, (f"UPDATE pending_usage SET window_ms = {NEXT} WHERE org_id = 'acme'",), "is 0 s (samples: 0", NEXT
    ),
    "a lost sample of a stranger": Broken(
        9,
        (sample("stranger", T0 + 1, 10, 1024),),
        "an organisation without a row and a bucket has samples: 1",
        T0,
        org="stranger",
    ),
}
