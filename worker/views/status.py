"""The status of everything, or of one organisation. Reads only."""

from __future__ import annotations

import json

import sqlalchemy as sa

from drawdown.schema.audit import require_org
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS
from drawdown.worker.catalog.terms import paused
from drawdown.worker.engine.effects import Witness
from drawdown.worker.engine.shard import Shard
from drawdown.worker.halts.unheeded import unheeded
from drawdown.worker.history.incarnation import difference, read_incarnation
from drawdown.worker.push.balances import told
from drawdown.worker.verdict.watch_state import last_round_ms, unread_orgs
from drawdown.worker.views import standing as parts
from drawdown.worker.views.backlog import read_backlog
from drawdown.worker.views.headline import judge
from drawdown.worker.views.long_open import LongOpen, oldest_open
from drawdown.worker.views.org_credit import credit_status, verdict_history
from drawdown.worker.views.org_standing import AssignmentRow, HaltRow, OrgStatus, PendingSize, PushState
from drawdown.worker.views.waiting import read_providers

SQL = queries(__file__)
NOT_SHOWN = frozenset({"held_watermark_ms", "bucket"})
"""Of an organisation's row: what only the seal uses; how far it is sealed says both."""


def status(connection: sa.Connection, now_ms: int, witness: Witness | None = None) -> parts.Status:
    """What is behind, why, since when, how much it is worth, and when it will be drained; the headline sums it up.

    `witness`: what this host remembers of the database, so that a loss shows before the next tick writes it down."""
    counts = {name: int(SQL.run(connection, name).scalar_one() or 0) for name in ("orgs", "halted", "unassigned")}
    watermark_ms = int(SQL.run(connection, "watermark_ms").scalar_one() or 0)
    backlog = read_backlog(connection, Shard(), now_ms)
    found = parts.Standing(
        **counts,
        watermark_ms=watermark_ms,
        at_ms=now_ms,
        left=backlog,
        providers=read_providers(connection, now_ms),
        paused={name: parts.Pause(since, why) for name, (since, why) in paused(connection).items()},
        pending=_pending(connection),
        halts=parts.HaltsDue(**SQL.run(connection, "halts").one()._mapping),
        watch_ms=last_round_ms(connection),
        unread=unread_orgs(connection),
        unheeded=[
            parts.UnheededHalt(halt.cell_id, halt.org_id, halt.times, halt.since_ms, str(halt))
            for halt in unheeded(connection, Shard())
        ],
        differing=[parts.Differing(**row._mapping) for row in SQL.run(connection, "differing")],
        balances=[parts.ToldBalance(**row._mapping) for row in told(connection)],
        stopped=[parts.StoppedOrg(**row._mapping) for row in SQL.run(connection, "stopped")],
        halted_orgs=[parts.HaltedOrg(**row._mapping) for row in SQL.run(connection, "halted_orgs")],
        doubted=_doubt(connection, now_ms, witness),
        replays=[
            parts.OpenReplay(**row._mapping) for row in SQL.run(connection, "replays", {"since_ms": now_ms - DAY_MS})
        ],
        open_transaction=_open_for_long(connection),
        last_tick=_last_tick(connection, now_ms),
        needs_person=backlog.needs_person,
    )
    return parts.Status(found, judge(found))


def _pending(connection: sa.Connection) -> list[parts.PendingUsage]:
    return [
        parts.PendingUsage(row.reason, int(row.seconds), row.orgs, row.since_ms, int(row.units))
        for row in SQL.run(connection, "pending")
    ]


def _replays(connection: sa.Connection, now_ms: int) -> list[parts.OpenReplay]:
    rows = SQL.run(connection, "replays", {"since_ms": now_ms - DAY_MS})
    return [parts.OpenReplay(**row._mapping) for row in rows]


def _doubt(connection: sa.Connection, now_ms: int, witness: Witness | None) -> parts.Doubt | None:
    for row in SQL.run(connection, "doubted"):
        return parts.Doubt(**row._mapping)
    why = difference(connection, read_incarnation(connection), witness)
    return None if why is None else parts.Doubt(now_ms, why)


def _open_for_long(connection: sa.Connection) -> LongOpen | None:
    oldest = oldest_open(connection)
    return oldest if oldest is not None and oldest.told else None


def _last_tick(connection: sa.Connection, now_ms: int) -> parts.LastTick | None:
    last = SQL.run(connection, "last_tick").one_or_none()
    since = {"last_tick_id": 0 if last is None else last.tick_id, "since_ms": now_ms - DAY_MS}
    running = SQL.run(connection, "running_tick", since).scalar_one()
    if last is None:
        return None
    return parts.LastTick(
        tick_id=last.tick_id,
        worker=last.worker,
        bucket_lo=last.bucket_lo,
        bucket_hi=last.bucket_hi,
        started_ms=last.started_ms,
        finished_ms=last.finished_ms,
        exit_status=last.exit_status,
        clock_trusted=last.clock_trusted,
        took_ms=last.finished_ms - last.started_ms,
        another_began_ms=running,
        problems=json.loads(last.report or "{}").get("problems", []),
    )


def org_status(connection: sa.Connection, org_id: str, now_ms: int) -> OrgStatus:
    """How one organisation stands. Errors: Refused where there is none."""
    org = require_org(connection, org_id)
    of_org = {"org_id": org_id}
    return OrgStatus(
        **{str(name): value for name, value in org._mapping.items() if name not in NOT_SHOWN},
        watermark_ms=SQL.run(connection, "org_watermark", of_org).scalar_one_or_none(),
        assignments=[AssignmentRow(**row._mapping) for row in SQL.run(connection, "org_assignments", of_org)],
        pending=[
            PendingSize(row.reason, row.memory_mb, int(row.seconds), int(row.samples), row.since_ms, row.event_type)
            for row in SQL.run(connection, "org_pending", of_org)
        ],
        pushes=[
            PushState(row.state, row.provider, row.feature, row.pushes, int(row.quantity))
            for row in SQL.run(connection, "org_pushes", of_org)
        ],
        halts=[HaltRow(**row._mapping) for row in SQL.run(connection, "org_halts", of_org)],
        credit=credit_status(connection, org, now_ms),
        verdicts=verdict_history(connection, org_id),
    )
