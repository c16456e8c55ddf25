"""One push, explained from its samples to the provider's answer. Reads only."""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.schema.units import WINDOW_MS
from drawdown.worker.catalog.mapping import MB_SECONDS, mapping_rows, resolve
from drawdown.worker.push.request import dated
from drawdown.worker.push.rows import find_push

SAMPLES_SHOWN = 200

SAMPLES = """
SELECT s.id, s.ts, s.memory_mb, s.interval_s, w.sample_id IS NOT NULL AS withdrawn
FROM usage_samples s LEFT JOIN withdrawals w ON w.sample_id = s.id
WHERE s.org_id = :org AND s.ts >= :window AND s.ts < :end AND s.problem IS NULL ORDER BY s.ts, s.id
"""
ATTEMPTS = """
SELECT attempt, started_ms, finished_ms, owner, outcome, detail FROM attempts
WHERE window_ms = :window AND org_id = :org AND feature = :feature AND revision = :revision ORDER BY attempt
"""
SEALED = """
SELECT COALESCE(SUM(sealed_qty), 0) FROM pushes WHERE window_ms = :window AND org_id = :org AND feature = :feature
    AND state <> 'voided'
"""
VOID = """
SELECT at_ms, evidence_kind, evidence, actor, reason FROM voids
WHERE window_ms = :window AND org_id = :org AND feature = :feature AND revision = :revision
"""


def explain_push(connection: sa.Connection, key: str) -> dict[str, object]:
    """The push, the samples of its window and feature, its attempts, and its void if it has one.

    Errors: Refused where there is no such push.
    """
    push = find_push(connection, key)
    values = {"window": push.window_ms, "org": push.org_id, "feature": push.feature, "revision": push.revision}
    rules = mapping_rows(connection)
    quantity = 0
    samples: list[dict[str, object]] = []
    window = {"window": push.window_ms, "org": push.org_id, "end": push.window_ms + WINDOW_MS}
    for row in connection.execute(sa.text(SAMPLES), window):
        rule = resolve(rules, row.memory_mb, push.window_ms)
        if rule is None or rule.feature != push.feature:
            continue
        if not row.withdrawn:
            quantity += int(row.interval_s) * (row.memory_mb if rule.unit == MB_SECONDS else 1)
        if len(samples) < SAMPLES_SHOWN:
            fields = {"id": row.id, "ts": row.ts, "memory_mb": row.memory_mb, "interval_s": int(row.interval_s)}
            samples.append({**fields, "withdrawn": bool(row.withdrawn)})
    void = connection.execute(sa.text(VOID), values).one_or_none()
    return {
        "push": dict(push._mapping),
        "sent_as": {
            "key": push.wire_key or push.key,
            "customer": push.customer_id,
            "ts": dated(push.window_ms, push.revision),
        },
        "samples": samples,
        "samples_in_force_qty": quantity,
        "sealed_qty": int(
            connection.execute(sa.text(SEALED), {n: values[n] for n in ("window", "org", "feature")}).scalar_one()
        ),
        "attempts": [dict(row._mapping) for row in connection.execute(sa.text(ATTEMPTS), values)],
        "void": None if void is None else dict(void._mapping),
    }
