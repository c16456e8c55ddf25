"""Read the status of the whole system or of one organisation.

The status includes pending usage, with the command that fixes it. This module only reads.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from drawdown.schema.audit import require_org
from drawdown.schema.errors import ClockDoubted, Exit, UsageError
from drawdown.schema.pending import REASONS
from drawdown.schema.sql import queries, read_together
from drawdown.schema.text import quote_value
from drawdown.schema.units import BUCKETS, DAY_MS, FUTURE_SLACK_MS
from drawdown.worker.batches.lists import FilesLeft, files_part
from drawdown.worker.catalog import terms
from drawdown.worker.cluster.install import there_part
from drawdown.worker.cluster.lists import read_cluster
from drawdown.worker.engine.clock_check import database_now, doubt_the_clock, last_doubted_clock
from drawdown.worker.engine.shard import Shard
from drawdown.worker.halts.ignored_halts import Ignored, Undelivered, ignored_part, undelivered_part
from drawdown.worker.history.incarnation import difference, read_incarnation
from drawdown.worker.provider.shadows import InShadow, shadow_part
from drawdown.worker.push.backlog import read_providers
from drawdown.worker.push.unresolved import unresolved_of, unresolved_parts
from drawdown.worker.reconcile.lists import uncompared_of, uncompared_part
from drawdown.worker.seal.arrivals import buckets_part, seen_by_all
from drawdown.worker.status import system_state as parts
from drawdown.worker.status.backlog import JobsLeft, LongOpen, jobs_part, oldest_open, read_backlog
from drawdown.worker.status.system_state import PendingUsage, judge
from drawdown.worker.topup.lists import PausedDebt, paused_debts_part
from drawdown.worker.usage.intake import ShortOfTypes, short_of_types_part
from drawdown.worker.verdict import watch_state
from drawdown.worker.verdict.watch_state import UnreadOrgs

if TYPE_CHECKING:
    from drawdown.worker.engine.witness import Witness
    from drawdown.worker.verdict.org_state import OrgStatus

SQL = queries(__file__)

WHOLE: Final = (
    "counts",
    "pending",
    "halts",
    "differing",
    "stopped",
    "halted_orgs",
    "doubted",
    "balances",
    "last_of_first_shard",
)
"""Queries of the whole status without parameters."""
MOST_TICKS: Final = 1_000
"""Newest ticks among which Drawdown finds the tick that ended last, and the last tick of each shard."""
FILES_WAIT: Final = "files of watched folders wait for a tick"
NOT_SHOWN = frozenset({"held_watermark_ms", "bucket", "runs_out_ms", "feature_limits"})
"""Columns of an organisation's row that only the seal, lists or responses to pushes use, and are hidden."""


def status(
    connection: sa.Connection, now_ms: int, witness: Witness | None = None, *, is_trusted: bool = True
) -> parts.Status:
    """Return the status of the whole system, with its headline.

    `witness`: this machine's checkpoint of the database, so that a loss shows before the next tick records it.
    `is_trusted`: a person set `now_ms`. If False, the call checks the clock as a tick does.
    """
    read = read_together(
        connection,
        **{name: SQL.part(name) for name in WHOLE},
        **{name: SQL.part(name, {"since_ms": now_ms - DAY_MS}) for name in ("replays", "running_tick")},
        last_tick=SQL.part("last_tick", {"now_ms": now_ms, "most_ticks": MOST_TICKS}),
        shards=SQL.part("shards", _of_shards(now_ms)),
        jobs=jobs_part(now_ms),
        files=files_part(),
        uncompared=uncompared_part(now_ms),
        shadow=shadow_part(now_ms),
        short_of_types=short_of_types_part(),
        paused_debts=paused_debts_part(now_ms),
        paused=terms.SQL.part("paused"),
        watch=watch_state.SQL.part("rounds"),
        unread=watch_state.SQL.part("unread_orgs"),
        ignored=ignored_part(Shard()),
        undelivered=undelivered_part(Shard()),
        there=there_part(),
        buckets=buckets_part(),
        **unresolved_parts(),
    )
    found = parts.Standing(
        **vars(read["counts"][0]),
        at_ms=now_ms,
        unread_samples=_unread_samples(connection, read["buckets"]),
        left=(backlog := read_backlog(connection, Shard(), now_ms)),
        providers=read_providers(connection, now_ms),
        unresolved=unresolved_of(connection, read["unresolved"], read["unresolved_orgs"]),
        paused={row.provider: parts.Pause(int(row.paused_ms), str(row.paused_reason)) for row in read["paused"]},
        pending=[_pending(row) for row in read["pending"]],
        halts=parts.HaltsDue(**vars(read["halts"][0])),
        watch_ms=read["watch"][0].round_ms,
        unread=[UnreadOrgs(**vars(row)) for row in read["unread"]],
        undelivered=[_undelivered(Undelivered(**vars(row))) for row in read["undelivered"]],
        ignored=[_ignored(Ignored(**vars(row))) for row in read["ignored"]],
        differing=[parts.Differing(**vars(row)) for row in read["differing"]],
        uncompared=uncompared_of(read["uncompared"]),
        shadow=[InShadow(**vars(row)) for row in read["shadow"]],
        short_of_types=[ShortOfTypes(**vars(row)) for row in read["short_of_types"]],
        paused_debts=[PausedDebt(**vars(row)) for row in read["paused_debts"]],
        balances=[parts.ToldBalance(**vars(row)) for row in read["balances"]],
        stopped=[parts.StoppedOrg(**vars(row)) for row in read["stopped"]],
        halted_orgs=[parts.HaltedOrg(**vars(row)) for row in read["halted_orgs"]],
        doubted=_doubt(connection, read["doubted"], now_ms, witness),
        clock=None if is_trusted else _clock_doubt(connection, now_ms),
        replays=[parts.OpenReplay(**vars(row)) for row in read["replays"]],
        jobs=JobsLeft(**vars(read["jobs"][0])),
        files=FilesLeft(**vars(read["files"][0])),
        open_transaction=_open_for_long(connection),
        last_tick=_last_tick(read["last_tick"], read["running_tick"], read["last_of_first_shard"]),
        late_shard=_least_ticked(read["shards"]),
        needs_person=backlog.needs_person,
        cluster=read_cluster(connection) if read["there"] else None,
    )
    return parts.Status(found, judge(found))


def _unread_samples(connection: sa.Connection, buckets: Sequence[Any]) -> int:
    """Return the number of samples that seals have not read yet (S2)."""
    seen = seen_by_all(buckets)
    return int(SQL.run(connection, "unread_samples", seen.values, later=seen.piece).scalar_one())


def last_tick_ms(connection: sa.Connection, now_ms: int) -> int | None:
    """Return the end of the last tick by this clock; None before the first end."""
    rows = SQL.run(connection, "last_tick", {"now_ms": now_ms, "most_ticks": MOST_TICKS}).all()
    return int(rows[0].finished_ms) if rows else None


def late_shard(connection: sa.Connection, now_ms: int) -> parts.LateShard | None:
    """Return the buckets without a tick for the longest time.

    Return None if ticks cover all buckets alike.
    """
    return _least_ticked(SQL.run(connection, "shards", _of_shards(now_ms)).all())


def newest_tick_ms(connection: sa.Connection) -> int | None:
    """Return the end of the newest tick by its own clock; None before the first end."""
    return SQL.run(connection, "newest_tick").scalar_one_or_none()


def sealed_to_ms(connection: sa.Connection) -> int:
    """Return the highest watermark of the buckets; 0 before the first seal."""
    return int(SQL.run(connection, "sealed_to").scalar_one())


def _pending(row: Any) -> parts.PendingUsage:
    return parts.PendingUsage(row.reason, int(row.seconds), row.orgs, row.since_ms, int(row.units))


def _undelivered(found: Undelivered) -> parts.UndeliveredHalts:
    return parts.UndeliveredHalts(**vars(found), needs_person=found.needs_person, description=str(found))


def _ignored(halt: Ignored) -> parts.IgnoredHalt:
    return parts.IgnoredHalt(halt.cell_id, halt.org_id, halt.times, halt.since_ms, str(halt))


def _doubt(
    connection: sa.Connection, doubted: Sequence[Any], now_ms: int, witness: Witness | None
) -> parts.Doubt | None:
    for row in doubted:
        return parts.Doubt(**vars(row))
    why = difference(connection, read_incarnation(connection), witness)
    return None if why is None else parts.Doubt(now_ms, why)


def _clock_doubt(connection: sa.Connection, now_ms: int) -> str | None:
    try:
        doubt_the_clock(now_ms, database_now(connection, now_ms), last_doubted_clock(connection))
    except ClockDoubted as error:
        return str(error)
    return None


def _open_for_long(connection: sa.Connection) -> LongOpen | None:
    oldest = oldest_open(connection)
    return oldest if oldest is not None and oldest.is_long else None


def _last_tick(found: Sequence[Any], running: Sequence[Any], firsts: Sequence[Any]) -> parts.LastTick | None:
    if not found:
        return None
    last, report = found[0], json.loads(found[0].report or "{}")
    left = next((text for tick in (last, *firsts) if (text := _first_failure(tick))), "")
    return parts.LastTick(
        tick_id=last.tick_id,
        worker=last.worker,
        bucket_lo=last.bucket_lo,
        bucket_hi=last.bucket_hi,
        started_ms=last.started_ms,
        finished_ms=last.finished_ms,
        exit_status=last.exit_status,
        clock_trusted=bool(last.clock_trusted),
        took_ms=last.finished_ms - last.started_ms,
        another_began_ms=running[0].began_ms,
        problems=report.get("problems", []),
        left=left,
    )


def _of_shards(now_ms: int) -> dict[str, int]:
    return {"now_ms": now_ms, "most_ticks": MOST_TICKS, "since_ms": now_ms - DAY_MS}


def _least_ticked(shards: Sequence[Any]) -> parts.LateShard | None:
    first_ms = min((int(row.first_ms) for row in shards), default=0)
    ticked = [first_ms] * BUCKETS
    for row in shards:
        at_ms = max(row.ended_ms or first_ms, row.began_ms or first_ms)
        ticked[row.bucket_lo : row.bucket_hi + 1] = [max(ms, at_ms) for ms in ticked[row.bucket_lo : row.bucket_hi + 1]]
    least = min(ticked)
    low = ticked.index(least)
    high = next((bucket - 1 for bucket in range(low, BUCKETS) if ticked[bucket] != least), BUCKETS - 1)
    return None if (low, high) == (0, BUCKETS - 1) else parts.LateShard(low, high, least)


def _first_failure(tick: Any) -> str:
    """Return the first failure that a tick leaves to the next tick; '' without one."""
    report = json.loads(tick.report or "{}") if tick.exit_status == Exit.LEFT else {}
    return str(next(iter(report.get("failures", [])), FILES_WAIT if report.get("batches_wait") else ""))


def org_status(connection: sa.Connection, org_id: str, now_ms: int) -> OrgStatus:
    """Return the state of one organisation.

    Errors: UnknownId if it does not exist; Refused if only its samples are known.
    """
    # imported here, because the status of the whole system does not need these modules
    from drawdown.worker.verdict.effective_balance import credit_status, verdict_history
    from drawdown.worker.verdict.org_state import AssignmentRow, HaltRow, OrgStatus, PendingSize, PushState

    org = require_org(connection, org_id)
    of_org = {"org_id": org_id}
    row = {str(name): value for name, value in org._mapping.items() if name not in NOT_SHOWN}
    return OrgStatus(
        **{**row, "refresh_deadline_ms": org.refresh_deadline_ms or None},  # READ_TWICE is not a time
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


PAGE_ROWS: Final = 50


@dataclass(frozen=True)
class PendingOrg:
    """The pending usage of one organisation, for one reason.

    `seconds`: its usage of sandboxes. `units`: its usage of event types. `sizes`: the number of memory sizes and event
    types.
    """

    org_id: str
    reason: str
    seconds: int
    units: int
    samples: int
    sizes: int
    since_ms: int


@dataclass(frozen=True)
class PendingPage:
    """A page of pending usage.

    `next_after`: the id after which the next page begins (None: this is the last page).
    """

    orgs: list[PendingOrg]
    next_after: str | None


@dataclass(frozen=True)
class Beside:
    """The counts of windows and samples that pending usage does not include.

    `dirty_windows`: windows that must be sealed again, also of stopped organisations. `late`: quarantined samples below
    a floor that are not closed. `dated_ahead`: samples dated in the future.
    """

    dirty_windows: int
    late: int
    dated_ahead: int


def reasons(connection: sa.Connection) -> list[PendingUsage]:
    """Return pending usage by reason, as in `status`."""
    return [
        PendingUsage(row.reason, int(row.seconds), row.orgs, row.since_ms, int(row.units))
        for row in SQL.run(connection, "reasons")
    ]


def page(connection: sa.Connection, reason: str = "", after: str = "", most: int = PAGE_ROWS) -> PendingPage:
    """Return pending usage of organisations after `after`, by id.

    `reason`: return only usage with this reason ('': with any reason). Errors: UsageError for an invalid reason.
    """
    if reason and reason not in REASONS:
        raise UsageError(f"invalid reason {quote_value(reason)}: expected {', '.join(REASONS)}")
    values = {"reason": reason, "after": after, "at_most": most + len(REASONS)}
    found = [
        PendingOrg(row.org_id, row.reason, int(row.seconds), int(row.units), int(row.samples), row.sizes, row.since_ms)
        for row in SQL.run(connection, "orgs", values)
    ]
    if len(found) <= most:
        return PendingPage(found, None)
    last = found[most - 1].org_id
    shown = [one for one in found if one.org_id <= last]
    return PendingPage(shown, last if len(found) > len(shown) else None)


def beside(connection: sa.Connection, now_ms: int) -> Beside:
    """Return the counts of dirty windows, late samples and samples dated ahead."""
    row = SQL.run(connection, "windows", {"ahead_ms": now_ms + FUTURE_SLACK_MS}).one()
    return Beside(int(row.dirty), int(row.late), int(row.ahead))
