"""Workers of `drawdown worker`, and their jobs. Guarantee: where none ever took part, nothing is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa
from prometheus_client.metrics_core import Metric

from drawdown.server.metrics.metric_kinds import gauge, seconds
from drawdown.worker.cluster.install import is_there
from drawdown.worker.cluster.lists import Cluster, read_cluster

STATES: Final = ("lives", "gone")
KINDS: Final = ("tick", "watch", "reconcile", "take_over")


def working(connection: sa.Connection) -> Iterator[Metric]:
    """Which live, what waits, and when work of one failed last."""
    found = read_cluster(connection) if is_there(connection) else None
    if found is not None:
        yield from of_workers(found)


def of_workers(found: Cluster) -> Iterator[Metric]:
    """The same, of what was read."""
    counts = dict.fromkeys(STATES, 0) | Counter(one.state for one in found.workers if one.state in STATES)
    yield gauge("workers", "Workers of the last day: that live, or went without a word.",
                [((state,), count) for state, count in sorted(counts.items())], ("state",))  # fmt: skip
    alive = found.of("lives")
    yield gauge("worker_jobs_done", "Jobs that each worker that lives has done.",
                [((one.name,), one.done) for one in alive], ("worker",))  # fmt: skip
    yield gauge("worker_seen_age_seconds", "Since each worker that lives told of itself.",
                [((one.name,), seconds(one.seen_ms)) for one in alive], ("worker",))  # fmt: skip
    jobs = {(kind, state): 0 for kind in KINDS for state in ("waits", "runs")}
    jobs |= {(one.kind, one.state): one.jobs for one in found.jobs if one.kind in KINDS}
    yield gauge("worker_jobs", "Jobs of workers.", sorted(jobs.items()), ("kind", "state"))
    ages = dict.fromkeys(KINDS, 0.0) | {one.kind: seconds(one.oldest_ms) for one in found.jobs if one.state == "waits"}
    yield gauge("worker_jobs_oldest_age_seconds", "Since the job that has waited longest.",
                [((kind,), ages[kind]) for kind in KINDS], ("kind",))  # fmt: skip
    failed = [one.failed_ms for one in found.workers if one.failed_ms is not None]
    yield gauge("worker_last_failure_age_seconds", "Since work of a worker failed last, in the last day.",
                [((), seconds(min(failed)))] if failed else [])  # fmt: skip
