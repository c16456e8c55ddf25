"""The outbox's statements: what is claimed, sent, settled.

Guarantee: each names its rows by their key or by the index on what is open, however many were settled before.
"""

from typing import Final

from drawdown.worker.push.rows import ARRIVALS

UNSENT: Final = "not sent: "

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
    pushes.sent_qty, pushes.attempts, pushes.wire_key, pushes.first_attempt_ms
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

SETTLED: Final = {
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
REFERENCE: Final = {"window_ms": "bigint", "org_id": "text", "feature": "text", "revision": "bigint"}

# An answer that proves acceptance is written even where the claim has passed on; any other only by its claimer. None is
# written over a later refusal, which has taken the claim away: the answer says what held before.
# The state is asked for in a way the index on what is open does not serve: statistics of an hour when nothing was open
# would have each batch read a whole backlog by it, and not its own rows by their key.
SETTLE = """
UPDATE pushes SET state = r.state, due_at_ms = r.due_at_ms, settled_ms = :now, last_error = r.error,
    first_attempt_ms = CASE WHEN r.unsent = 1 THEN NULL ELSE pushes.first_attempt_ms END
FROM ({rows}) r
WHERE pushes.window_ms = r.window_ms AND pushes.org_id = r.org_id AND pushes.feature = r.feature
    AND pushes.revision = r.revision
    AND (pushes.state || '' IN ('due', 'queued') AND pushes.claim_owner = :claim
        OR pushes.state || '' IN ('due', 'queued', 'rejected', 'in_doubt') AND r.state = 'accepted'
            AND NOT (pushes.state || '' = 'rejected' AND pushes.claim_owner IS NULL))
RETURNING pushes.window_ms, pushes.key, pushes.customer_id, pushes.feature, pushes.sent_qty, pushes.state
"""

# How many attempts there are by now tells whether a later one had begun: two workers' clocks cannot.
FINISH = """
UPDATE attempts SET finished_ms = :now, outcome = r.outcome, detail = r.error, attempts_then = (
    SELECT p.attempts FROM pushes p WHERE p.window_ms = r.window_ms AND p.org_id = r.org_id AND p.feature = r.feature
        AND p.revision = r.revision)
FROM ({rows}) r
WHERE attempts.window_ms = r.window_ms AND attempts.org_id = r.org_id AND attempts.feature = r.feature
    AND attempts.revision = r.revision AND attempts.attempt = r.attempt
"""


_ASKABLE = "state IN ('due', 'queued', 'in_doubt', 'rejected')"


_SAME_PUSH = (
    "{0}.window_ms = {1}.window_ms AND {0}.org_id = {1}.org_id AND {0}.feature = {1}.feature "
    "AND {0}.revision = {1}.revision"
)


CLAIM_LOOKUPS = f"""
UPDATE pushes SET claim_owner = :claim, due_at_ms = :lease_end, lookups = pushes.lookups + 1
FROM (
    SELECT p.window_ms, p.org_id, p.feature, p.revision FROM pushes p JOIN orgs o ON o.org_id = p.org_id
    WHERE p.provider = :provider AND p.{_ASKABLE} AND p.state IN ('queued', 'in_doubt') AND p.due_at_ms <= :now
        AND o.stopped_at_ms IS NULL AND o.bucket BETWEEN :lo AND :hi
    ORDER BY p.due_at_ms LIMIT :most {{skip_locked}}) c
WHERE {_SAME_PUSH.format("pushes", "c")}
RETURNING pushes.window_ms, pushes.org_id, pushes.feature, pushes.revision
"""


# An attempt that was refused because the key is known, or proven not to have arrived, is none that may yet be applied.
CLAIMED_LOOKUPS = f"""
SELECT p.*,
    COALESCE((SELECT MAX(t.started_ms) FROM attempts t WHERE {_SAME_PUSH.format("t", "p")}
        AND (t.outcome IS NULL OR t.outcome IN ('unknown', 'queued', 'accepted'))), p.first_attempt_ms,
        p.sealed_at_ms) AS last_sent_ms,
    EXISTS (SELECT 1 FROM attempts t WHERE {_SAME_PUSH.format("t", "p")}
        AND t.outcome IN ('queued', 'duplicate', 'rejected')) AS claimed,
    {ARRIVALS} AS arrivals, (SELECT o.floor_ms FROM orgs o WHERE o.org_id = p.org_id) AS floor_ms,
    (SELECT MAX(o.revision) FROM pushes o WHERE o.window_ms = p.window_ms AND o.org_id = p.org_id
        AND o.feature = p.feature) AS newest
FROM pushes p
WHERE p.provider = :provider AND p.{_ASKABLE} AND p.state IN ('queued', 'in_doubt') AND p.claim_owner = :claim
    AND p.due_at_ms = :lease_end ORDER BY p.window_ms, p.key
"""


KEEP_WIRE_KEY = """
UPDATE pushes SET wire_key = :wire_key
WHERE window_ms = :window_ms AND org_id = :org_id AND feature = :feature AND revision = :revision
"""


SETTLE_LOOKUP = """
UPDATE pushes SET state = :state, due_at_ms = :due, settled_ms = :now, last_error = :error,
    looked_up_ms = :asked_ms, lookup_answer = :said,
    first_attempt_ms = CASE WHEN :never = 1 THEN NULL ELSE COALESCE(first_attempt_ms, CAST(:first AS BIGINT)) END
WHERE window_ms = :window_ms AND org_id = :org_id AND feature = :feature AND revision = :revision
    AND (state IN ('queued', 'in_doubt') AND claim_owner = :claim
        OR (state IN ('due', 'queued', 'in_doubt') OR state = 'rejected' AND claim_owner IS NOT NULL)
            AND :state = 'accepted')
"""


NOTE_LOOKUP = """
UPDATE pushes SET looked_up_ms = :asked_ms, lookup_answer = :said
WHERE window_ms = :window_ms AND org_id = :org_id AND feature = :feature AND revision = :revision
"""
