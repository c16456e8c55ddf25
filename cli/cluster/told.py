"""What `drawdown status` says of workers."""

from __future__ import annotations

from typing import Final

from drawdown.schema.typed.parsing import lasting
from drawdown.worker.views.cluster import Cluster, WorkerRow

MOST_TOLD: Final = 3


def worker_lines(found: Cluster) -> list[tuple[str, str]]:
    """Labels and texts: which live, which went without a word, what waits and since when, what failed last."""
    living, gone = found.of("lives"), found.of("gone")
    text = f"{len(living):,} live{_named(living)}; {found.shards:,} shards, a tick every {found.every_s:,} s"
    if len({one.version for one in living}) > 1:
        text += f"; versions {', '.join(sorted({one.version for one in living}))}"
    lines = [("workers", text)]
    if gone:
        lines.append(
            ("gone", f"{len(gone):,}{_named(gone)}, the last seen {lasting(min(w.seen_ms for w in gone))} ago")
        )
    waiting = [one for one in found.jobs if one.state != "runs"]
    if waiting:
        each = (f"{one.jobs:,} {one.kind} {one.state}, the oldest since {lasting(one.oldest_ms)}" for one in waiting)
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
