"""Define and read the reports of ticks.

A report has the work and the backlog of a tick. The tick's row stores the report as JSON.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa
import structlog

from drawdown.schema.errors import DatabaseBusy, DatabaseNotReady, LockHeld, UnknownId
from drawdown.schema.sql import queries
from drawdown.schema.text import in_short
from drawdown.worker.batches.lists import BatchesDone
from drawdown.worker.engine.context import Context
from drawdown.worker.halts.dispatch import Dispatched
from drawdown.worker.hooks.deliver import Deliveries
from drawdown.worker.push.confirm import Confirmed
from drawdown.worker.push.outcome import applied_within
from drawdown.worker.push.push import Pushed
from drawdown.worker.status.backlog import Backlog
from drawdown.worker.topup.fill import Filled
from drawdown.worker.verdict.project import Projected

log = structlog.get_logger()

SQL = queries(__file__)

PAGE_ROWS: Final = 300
"""Ticks of a page: 25 hours of one worker, so that whole hours are shown."""
LAST_TICK: Final = 2**62


@dataclass(frozen=True)
class TickCounts:
    """The number of ticks that began in a span of time, and of those with a result.

    `begin_ms`: the begin of the span. `unended`: ticks that run, or have a dead worker.
    """

    begin_ms: int
    ticks: int
    person_needed: int
    work_left: int
    unended: int


@dataclass(frozen=True)
class TickDone:
    """A tick with its report, which is empty until the tick has ended.

    `bucket_lo`, `bucket_hi`: the buckets of its shard. `finished_ms`, `exit_status`: None until it ends, or if its
    worker died.
    """

    tick_id: int
    worker: str
    bucket_lo: int
    bucket_hi: int
    started_ms: int
    finished_ms: int | None
    exit_status: int | None
    clock_trusted: bool
    report: dict[str, object] = field(default_factory=dict)

    def count(self, name: str) -> int | None:
        """Return a figure of the tick's report, or None if the figure is missing."""
        found = self.report.get(name)
        return found if isinstance(found, int) else None

    def report_lines(self, name: str) -> list[str]:
        """Return the lines of a field of the report; an empty list without the field."""
        found = self.report.get(name)
        return [str(line) for line in found] if isinstance(found, list) else []


def latest_ticks(connection: sa.Connection, before: int = LAST_TICK, most: int = PAGE_ROWS) -> list[TickDone]:
    """Return the ticks with numbers below `before`, newest first."""
    rows = SQL.run(connection, "page", {"before": before, "at_most": most})
    return [
        TickDone(**{**row._mapping, "clock_trusted": bool(row.clock_trusted), "report": _report(row.report)})
        for row in rows
    ]


def one_tick(connection: sa.Connection, tick_id: int) -> TickDone:
    """Return a tick by its number. Errors: UnknownId if it does not exist."""
    found = [one for one in latest_ticks(connection, tick_id + 1, 1) if one.tick_id == tick_id]
    if not found:
        raise UnknownId(f"unknown tick {tick_id}. See the list at `/console/ticks`", "tick")
    return found[0]


def _report(text: str | None) -> dict[str, object]:
    found = json.loads(text) if text else {}
    return found if isinstance(found, dict) else {}


def tick_counts(connection: sa.Connection, since_ms: int, span_ms: int) -> list[TickCounts]:
    """Return the counts of the ticks since `since_ms`, by multiples of `span_ms`."""
    rows = SQL.run(connection, "counts", {"since_ms": since_ms, "span_ms": span_ms})
    return [TickCounts(**row._mapping) for row in rows]


@dataclass
class Report:
    """The work of a tick, and the backlog that it left.

    `horizon_ms`: the end of the sealed windows. `sealed`: sealed pushes. `swept`: sealed pushes of usage that the
    arrival cursor had missed. The other figures are numbers of pushes, organisations, halts, top-ups, messages, jobs
    and batches. `projected`: organisations that were read at their provider.
    """

    tick_id: int
    at_ms: int
    horizon_ms: int
    sealed: int = 0
    swept: int = 0
    accepted: int = 0
    accepted_at: dict[str, int] = field(default_factory=dict)
    """Accepted pushes by provider, for the rate of each backlog."""
    applied_within_ms: dict[str, int] = field(default_factory=dict)
    """Milliseconds, by provider, in which the provider may still apply a send.

    Drawdown looks up a push for this time.
    """
    calls_cut: dict[str, int] = field(default_factory=dict)
    """The lowest number of concurrent calls, by provider that refused calls as too many."""
    not_accepted: int = 0
    looked_up: int = 0
    voided: int = 0
    adopted: int = 0
    projected: int = 0
    halted: int = 0
    resumed: int = 0
    halts_acknowledged: int = 0
    halts_failed: int = 0
    topped_up: int = 0
    charges_declined: int = 0
    messages_delivered: int = 0
    messages_failed: int = 0
    jobs_ended: int = 0
    jobs_wait: bool = False
    """True if a job waits, as read at the start and at the end of the tick."""
    batches_taken: int = 0
    batches_wait: bool = False
    """True if files in watched folders wait for the next tick. At the start of a tick, True if a folder is watched."""
    stopped_orgs: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    doubted: str | None = None
    """The reason why the database's history is in doubt (R1).

    Ticks do not seal or send until a person runs `drawdown recover`.
    """
    problems: list[str] = field(default_factory=list)
    """Problems that a person must fix: providers that cannot be used, and cells that do not obey."""
    left: Backlog = field(default_factory=Backlog)

    @property
    def exit_status(self) -> int:
        """Return 0 if all work is settled, 75 if work is left, 1 if a person is needed."""
        if self.left.needs_person or self.problems or self.doubted is not None:
            return 1
        return 75 if self.failures or self.jobs_wait or self.batches_wait or self.left.waits_for_tick else 0


def summed(reports: Sequence[Report], left: Backlog) -> Report:
    """Sum up the reports of a tick's shards.

    `left`: the backlog of all shards. Errors: ValueError if `reports` is empty.
    """
    counts: Counter[str] = Counter()
    for report in reports:
        counts.update({name: value for name, value in vars(report).items() if type(value) is int})
    accepted_at: Counter[str] = Counter()
    for report in reports:
        accepted_at.update(report.accepted_at)
    return Report(
        **counts
        | {"tick_id": min(one.tick_id for one in reports)}
        | {"at_ms": min(one.at_ms for one in reports), "horizon_ms": min(one.horizon_ms for one in reports)},
        jobs_wait=any(one.jobs_wait for one in reports),
        batches_wait=any(one.batches_wait for one in reports),
        accepted_at=dict(accepted_at),
        applied_within_ms={name: ms for report in reports for name, ms in report.applied_within_ms.items()},
        calls_cut=least_of([report.calls_cut for report in reports]),
        stopped_orgs=[org for report in reports for org in report.stopped_orgs],
        failures=[failure for report in reports for failure in report.failures],
        doubted=next((report.doubted for report in reports if report.doubted is not None), None),
        problems=list(dict.fromkeys(problem for report in reports for problem in report.problems)),
        left=left,
    )


def least_of(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Return the smallest count of each name."""
    names = sorted({name for count in counts for name in count})
    return {name: min(count[name] for count in counts if name in count) for name in names}


def collect(report: Report, results: Sequence[object]) -> None:
    """Add the results of a tick's queues to its report.

    Errors: DatabaseBusy or DatabaseNotReady, which end the tick.
    """
    for result in results:
        match result:
            case list():
                collect(report, result)
            case Confirmed():
                report.looked_up += result.lookups
                report.accepted += result.accepted
                report.voided += result.voided
                report.adopted += result.adopted
            case Pushed():
                report.accepted += result.accepted
                report.not_accepted += result.other
                report.calls_cut = least_of([report.calls_cut, result.calls_cut])
            case Projected():
                report.projected += result.read
                report.halted += result.halted
                report.resumed += result.resumed
                report.failures += result.unwritten
                report.problems += [why for why in result.problems if why not in report.problems]
                report.calls_cut = least_of([report.calls_cut, result.calls_cut])
            case Filled():
                report.topped_up += result.credited
                report.charges_declined += result.declined
            case Dispatched():
                report.halts_acknowledged += result.acknowledged
                report.halts_failed += result.failed
            case Deliveries():
                report.messages_delivered += result.delivered
                report.messages_failed += result.failed
            case BatchesDone():
                report.batches_taken, report.batches_wait = result.taken, result.wait
                report.problems += result.problems
                report.failures += result.failures
            case LockHeld():  # only this queue fails, because the others lock other rows
                log.error("lane_failed", error=str(result))
                report.failures.append(str(result))
            case DatabaseBusy() | DatabaseNotReady():
                raise result
            case Exception():
                log.error("lane_failed", error=in_short(result))
                report.failures.append(in_short(result))
            case _:
                raise AssertionError(f"unexpected result of a queue: {result!r}")


def add_lanes(report: Report, context: Context, lanes: Mapping[str, object]) -> None:
    """Add accepted pushes, and the time in which a send may apply, by provider."""
    # If a provider cannot be used, count 0 accepted pushes, so that its earlier rate does not predict the end of its
    # backlog.
    report.accepted_at = dict.fromkeys({**context.broken, **context.changed}, 0)
    report.accepted_at |= {provider: accepted_of(lane) for provider, lane in lanes.items()}
    report.applied_within_ms = applied_within(context.capabilities)


def accepted_of(done: object) -> int:
    """Return the number of pushes that the provider of a queue accepted."""
    if isinstance(done, list):
        return sum(accepted_of(part) for part in done)
    return done.accepted if isinstance(done, Confirmed | Pushed) else 0
