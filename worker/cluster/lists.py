"""List the workers of a database, their jobs and their last failure.

Guarantee: this module only reads. The command line and the console use the same texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import queries, read_together
from drawdown.schema.text import counted
from drawdown.schema.typed.parsing import lasting
from drawdown.schema.units import SECOND_MS
from drawdown.worker.cluster.membership import LIVES_S

SQL = queries(__file__)
MOST_WORKERS: Final = 100
"""Workers that a list shows, newest first."""
MOST_TOLD: Final = 3
"""Workers that a message names."""


@dataclass(frozen=True)
class WorkerRow:
    """A worker that was alive in the last day. Ages are in milliseconds.

    `state`: `lives`, `ended`, or `gone` (it died without notice). `up_ms`: the time since its start. `seen_ms`: the
    time since its last heartbeat. `done`: the number of jobs that it finished. `failed_ms`, `failure`: the age and the
    text of its last failure (None: it never failed).
    """

    name: str
    version: str
    state: str
    up_ms: int
    seen_ms: int
    done: int
    failed_ms: int | None
    failure: str | None


@dataclass(frozen=True)
class JobsOfKind:
    """The number of jobs of one kind in one state.

    `kind`: `tick`, `watch`, `reconcile` or `take_over`. `state`: `waits`, `runs` or `failed`. `oldest_ms`: the age of
    the oldest of these jobs, in milliseconds.
    """

    kind: str
    state: str
    jobs: int
    oldest_ms: int


@dataclass(frozen=True)
class Cluster:
    """The terms of all workers, the workers, and their jobs.

    `shards`: the number of parts of a tick. `every_s`: seconds between two ticks.
    """

    shards: int
    every_s: int
    workers: list[WorkerRow]
    jobs: list[JobsOfKind]

    def of(self, state: str) -> list[WorkerRow]:
        return [worker for worker in self.workers if worker.state == state]

    def is_late(self, jobs: JobsOfKind) -> bool:
        """Return True if a tick still runs when the next tick is due.

        The next tick leaves the remaining work to the late tick, unless the late tick hangs.
        """
        return (jobs.kind, jobs.state) == ("tick", "runs") and jobs.oldest_ms > self.every_s * SECOND_MS


def read_cluster(connection: sa.Connection) -> Cluster | None:
    """Return the workers and their jobs; None if there was never a worker.

    The schema must exist (`cluster.install.is_there`).
    """
    found = read_together(
        connection,
        terms=SQL.part("terms"),
        workers=SQL.part("workers", {"lives_s": LIVES_S, "most": MOST_WORKERS}),
        jobs=SQL.part("jobs"),
    )
    for terms in found["terms"]:
        return Cluster(
            terms.shards,
            terms.every_s,
            [WorkerRow(**vars(row)) for row in found["workers"]],
            [JobsOfKind(row.kind, row.state, row.jobs, row.oldest_ms or 0) for row in found["jobs"]],
        )
    return None


def worker_lines(found: Cluster) -> list[tuple[str, str]]:
    """Return labels and texts about the workers, for people.

    The texts name living and gone workers, waiting jobs, late ticks, and the last failure.
    """
    living, gone = found.of("lives"), found.of("gone")
    text = f"{len(living):,} live{_named(living)}; {counted(found.shards, 'shard')}, a tick every {found.every_s:,} s"
    if len({one.version for one in living}) > 1:
        text += f"; versions {', '.join(sorted({one.version for one in living}))}"
    lines = [("workers", text)]
    if gone:
        lines.append(
            ("gone", f"{len(gone):,}{_named(gone)}, the last seen {lasting(min(w.seen_ms for w in gone))} ago")
        )
    told = [one for one in found.jobs if one.state != "runs" or found.is_late(one)]
    if told:
        each = (f"{one.jobs:,} {one.kind} {one.state}, the oldest for {lasting(one.oldest_ms)}" for one in told)
        lines.append(("jobs", "; ".join(each)))
    failed = [(one.failed_ms, one) for one in found.workers if one.failed_ms is not None]
    if failed:
        age, one = min(failed, key=lambda each: each[0])
        lines.append(("failed", f"{lasting(age)} ago at {one.name}: {one.failure}"))
    return lines


def _named(workers: list[WorkerRow]) -> str:
    if not workers:
        return ""
    more = ", …" if len(workers) > MOST_TOLD else ""
    return f" ({', '.join(one.name for one in workers[:MOST_TOLD])}{more})"
