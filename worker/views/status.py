"""How things stand: for everything, or for one organisation. Reads only."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from drawdown.schema.audit import require_org
from drawdown.schema.units import DAY_MS
from drawdown.worker.catalog.terms import paused
from drawdown.worker.engine.effects import Witness
from drawdown.worker.engine.shard import Shard
from drawdown.worker.halts.unheeded import unheeded
from drawdown.worker.history.incarnation import difference, read_incarnation
from drawdown.worker.push.balances import told
from drawdown.worker.verdict.watch_state import last_round_ms, unread_orgs
from drawdown.worker.views.backlog import read_backlog
from drawdown.worker.views.headline import judge
from drawdown.worker.views.long_open import oldest_open
from drawdown.worker.views.org_credit import credit_status, verdict_history
from drawdown.worker.views.waiting import read_providers

COUNTS = {
    "orgs": "SELECT COUNT(*) FROM orgs",
    "halted": "SELECT COUNT(*) FROM orgs WHERE is_halted",
    "unassigned": "SELECT COUNT(*) FROM orgs o WHERE NOT EXISTS "
    "(SELECT 1 FROM assignments a WHERE a.org_id = o.org_id)",
    "watermark_ms": "SELECT MIN(watermark_ms) FROM buckets",
}
LAST_TICK = "SELECT * FROM ticks WHERE finished_ms IS NOT NULL ORDER BY tick_id DESC LIMIT 1"
RUNNING = "SELECT MAX(started_ms) FROM ticks WHERE finished_ms IS NULL AND tick_id > :last AND started_ms > :since"
PENDING = """
SELECT reason, SUM(seconds) AS seconds, COUNT(DISTINCT org_id) AS orgs, MIN(window_ms) AS since_ms FROM pending_usage
WHERE seconds <> 0 GROUP BY reason ORDER BY reason
"""
HALTS = """
SELECT COUNT(*) AS due, MIN(halted_at) AS since_ms, MAX(last_error) AS error FROM halts WHERE due_at_ms IS NOT NULL
"""
DIFFERING = """
SELECT provider, verdict, COUNT(*) AS days, MIN(day_ms) AS since_ms, MAX(at_ms) AS compared_ms FROM reconciliations
WHERE verdict IN ('short', 'over') GROUP BY provider, verdict ORDER BY provider, verdict
"""
HALTED = """
SELECT org_id, halt_reason, halted_at FROM orgs WHERE is_halted ORDER BY halted_at DESC, org_id LIMIT 3
"""
STOPPED = (
    "SELECT org_id, stopped_at_ms, stopped_reason FROM orgs WHERE stopped_at_ms IS NOT NULL ORDER BY org_id LIMIT 20"
)
DOUBTED = "SELECT doubted_ms, doubted_reason FROM incarnation WHERE doubted_ms IS NOT NULL"
REPLAYS = """
SELECT replay_id, scope, from_ms, to_ms, next_ms, pushes, actor, started_ms, lease_ms FROM replays
WHERE finished_ms IS NULL AND lease_ms > :since ORDER BY replay_id
"""


def _doubt(connection: sa.Connection, now_ms: int, witness: Witness | None) -> dict[str, Any] | None:
    why = difference(connection, read_incarnation(connection), witness)
    return None if why is None else {"doubted_ms": now_ms, "doubted_reason": why}


def status(connection: sa.Connection, now_ms: int, witness: Witness | None = None) -> dict[str, Any]:
    """What is behind, why, since when, how much it is worth, and when it will be drained; `verdict` sums it up.

    `witness`: what this host remembers of the database, so that a loss shows before the next tick writes it down."""
    found: dict[str, Any] = {
        name: int(connection.execute(sa.text(text)).scalar_one() or 0) for name, text in COUNTS.items()
    }

    def rows(text: str, **values: object) -> list[dict[str, Any]]:
        answer = connection.execute(sa.text(text), values)
        return [{name: _plain(value) for name, value in row._mapping.items()} for row in answer]

    backlog = read_backlog(connection, Shard(), now_ms)
    found |= {
        "at_ms": now_ms,
        "left": asdict(backlog),
        "providers": [asdict(one) for one in read_providers(connection, now_ms)],
        "paused": {name: {"since_ms": since, "reason": why} for name, (since, why) in paused(connection).items()},
        "pending": rows(PENDING),
        "halts": rows(HALTS)[0],
        "watch_ms": last_round_ms(connection),
        "unread": [asdict(one) for one in unread_orgs(connection)],
        "unheeded": [{**asdict(one), "said": str(one)} for one in unheeded(connection, Shard())],
        "differing": rows(DIFFERING),
        "balances": [dict(one._mapping) for one in told(connection)],
        "stopped": rows(STOPPED),
        "halted_orgs": rows(HALTED),
        "doubted": next(iter(rows(DOUBTED)), None) or _doubt(connection, now_ms, witness),
        "replays": rows(REPLAYS, since=now_ms - DAY_MS),
        "open_transaction": _open_for_long(connection),
        "last_tick": _last_tick(connection, now_ms),
        "needs_person": backlog.needs_person,
    }
    verdict = judge(found)
    return {**found, "verdict": verdict.word, "reason": verdict.reason, "next": verdict.next}


def _open_for_long(connection: sa.Connection) -> dict[str, Any] | None:
    oldest = oldest_open(connection)
    return asdict(oldest) if oldest is not None and oldest.told else None


def _last_tick(connection: sa.Connection, now_ms: int) -> dict[str, Any] | None:
    last = connection.execute(sa.text(LAST_TICK)).one_or_none()
    number = 0 if last is None else last.tick_id
    since = {"last": number, "since": now_ms - DAY_MS}
    running = connection.execute(sa.text(RUNNING), since).scalar_one()
    if last is None:
        return None
    kept = {name: value for name, value in last._mapping.items() if name != "report"}
    problems = json.loads(last.report or "{}").get("problems", [])
    return {
        **kept,
        "took_ms": last.finished_ms - last.started_ms,
        "another_began_ms": running,
        "problems": problems,
    }


ORG_PENDING = """
SELECT reason, memory_mb, SUM(seconds) AS seconds, SUM(samples) AS samples, MIN(window_ms) AS since_ms
FROM pending_usage WHERE org_id = :org AND seconds <> 0 GROUP BY reason, memory_mb ORDER BY reason, memory_mb
"""
ORG_PUSHES = """
SELECT state, provider, feature, COUNT(*) AS pushes, SUM(sent_qty) AS quantity FROM pushes
WHERE org_id = :org GROUP BY state, provider, feature ORDER BY feature, provider, state
"""
ORG_HALTS = "SELECT cell_id, halted_at, due_at_ms, acked_at_ms, attempts, last_error FROM halts WHERE org_id = :org"
ORG_ASSIGNMENTS = """
SELECT start_ms, end_ms, provider, customer_id, actor, reason FROM assignments WHERE org_id = :org ORDER BY start_ms
"""
ORG_WATERMARK = """
SELECT COALESCE(o.held_watermark_ms, b.watermark_ms) FROM orgs o JOIN buckets b ON b.id = o.bucket
WHERE o.org_id = :org
"""


def org_status(connection: sa.Connection, org_id: str, now_ms: int) -> dict[str, Any]:
    """How one organisation stands. Errors: Refused where there is none."""
    org = require_org(connection, org_id)

    def rows(text: str) -> list[dict[str, Any]]:
        found = connection.execute(sa.text(text), {"org": org_id})
        return [{name: _plain(value) for name, value in row._mapping.items()} for row in found]

    watermark = connection.execute(sa.text(ORG_WATERMARK), {"org": org_id}).scalar_one_or_none()
    return {
        **{name: value for name, value in org._mapping.items() if name not in ("held_watermark_ms", "bucket")},
        "watermark_ms": watermark,
        "assignments": rows(ORG_ASSIGNMENTS),
        "pending": rows(ORG_PENDING),
        "pushes": rows(ORG_PUSHES),
        "halts": rows(ORG_HALTS),
        "credit": credit_status(connection, org, now_ms),
        "verdicts": verdict_history(connection, org_id),
    }


def _plain(value: Any) -> Any:
    return int(value) if hasattr(value, "to_integral_value") else value
