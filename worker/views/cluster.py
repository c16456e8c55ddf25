"""The workers of one database: which live, what waits for them and since when, and what failed last. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import queries, together
from drawdown.worker.cluster.membership import LIVES_S

SQL = queries(__file__)
MOST_WORKERS: Final = 100
"""Workers that are told of, the newest first."""


@dataclass(frozen=True)
class WorkerRow:
    """A worker of the last day. `state`: lives, ended (it said so), gone (it did not). Ages in milliseconds."""

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
    """Jobs of one kind (tick, watch, reconcile, take_over) that wait, run, or failed at once. `oldest_ms`: for
    how long the first of them has."""

    kind: str
    state: str
    jobs: int
    oldest_ms: int


@dataclass(frozen=True)
class Cluster:
    """What all workers go by, each of them, and their jobs."""

    shards: int
    every_s: int
    workers: list[WorkerRow]
    jobs: list[JobsOfKind]

    def of(self, state: str) -> list[WorkerRow]:
        return [worker for worker in self.workers if worker.state == state]


def read_cluster(connection: sa.Connection) -> Cluster | None:
    """None where no worker ever took part. To be asked where the schema is there (`cluster.install.is_there`)."""
    found = together(
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
