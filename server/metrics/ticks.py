"""The results of ticks, by shard; and what people ordered of them.

Guarantee: reads only, the newest ticks by their key. A shard that fails or is missing is not hidden by another. A shard
that is no longer used, since others tick all of it by now, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import sqlalchemy as sa
from prometheus_client.metrics_core import Metric

from drawdown.schema.units import BUCKETS, DAY_MS, MINUTE_MS
from drawdown.server.metrics.metric_kinds import gauge, seconds
from drawdown.worker.batches.sources import files_left
from drawdown.worker.reconcile.lists import read_uncompared
from drawdown.worker.status.backlog import orders_left
from drawdown.worker.status.metrics import EndedTick, calls_cut, ended_ticks

SHARD: Final = ("shard",)
CUT_LATELY_MS: Final = 15 * MINUTE_MS


def ticking(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """The last tick that ended, of each shard of which one ended in the last day."""
    newest = ended_ticks(connection, now_ms - DAY_MS)
    if newest is None:  # where nobody ever ticked, nobody has stopped
        return
    ended: dict[tuple[int, int], list[EndedTick]] = {}
    for tick in newest:
        ended.setdefault((tick.bucket_lo, tick.bucket_hi), []).append(tick)
    shards, missing = _in_use(list(ended))
    of = [((f"{lo}-{hi}",), ended[lo, hi][0]) for lo, hi in shards]
    well = [next((tick.finished_ms for tick in ended[shard] if tick.exit_status in (0, 75)), None) for shard in shards]
    yield gauge("unticked_buckets", f"Of {BUCKETS}: those of which no tick ended for a day.", [((), missing)])
    yield _cut(connection, now_ms)
    yield gauge(
        "tick_duration_seconds", "Of the last tick that ended, by shard (its buckets).",
        [(shard, seconds(row.finished_ms - row.started_ms)) for shard, row in of], SHARD,
    )  # fmt: skip
    yield gauge(
        "tick_last_exit_status", "0 settled, 75 something is left, 1 a person is needed.",
        [(shard, row.exit_status) for shard, row in of], SHARD,
    )  # fmt: skip
    yield gauge(
        "tick_last_end_timestamp_seconds", "When it ended.",
        [(shard, seconds(row.finished_ms)) for shard, row in of], SHARD,
    )  # fmt: skip
    yield gauge(
        "tick_last_success_timestamp_seconds", "When one last ended with 0 or 75, in the last day.",
        [(shard, seconds(at)) for (shard, _), at in zip(of, well, strict=True) if at is not None], SHARD,
    )  # fmt: skip


def _cut(connection: sa.Connection, now_ms: int) -> Metric:
    """A series ends once ticks make all calls at once that a provider declares."""
    found = calls_cut(connection, now_ms - CUT_LATELY_MS)
    return gauge(
        "calls_cut_to",
        "The fewest calls at once, in a quarter of an hour, at a provider that turned customers away.",
        [((provider,), at_once) for provider, at_once in found.items()],
        ("provider",),
    )


def ordering(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """What people ordered of ticks. Zeros included: an alert on a change does not see a series begin."""
    found = orders_left(connection, now_ms)
    age = 0 if found.since_ms is None else now_ms - found.since_ms
    yield gauge("orders_open", "Orders that wait, or are under way.", [((), found.open)])
    yield gauge("orders_oldest_age_seconds", "Since the oldest of them was placed.", [((), seconds(age))])
    yield gauge("orders_failed", "Orders that failed in the last day.", [((), found.failed)])


def filing(connection: sa.Connection) -> Iterator[Metric]:
    """Files of watched folders that nobody took."""
    found = files_left(connection)
    of = (("refused", found.refused), ("conflict", found.conflicts), ("failed", found.failing))
    yield gauge(
        "batch_files_left",
        "Files of watched folders that are not taken.",
        [((state,), n) for state, n in of],
        ["state"],
    )


def uncompared(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """What was settled at a provider and is not compared with it."""
    found = read_uncompared(connection, now_ms)
    days = [((one.provider,), one.open_days) for one in found]
    yield gauge(
        "uncompared_days", "Days of customers that were settled over a day ago and not compared.", days, ["provider"]
    )
    ages = [((one.provider,), seconds(now_ms - one.compared_ms)) for one in found if one.compared_ms is not None]
    yield gauge("compared_age_seconds", "Since up to when a provider's totals were compared.", ages, ["provider"])


def _in_use(newest_first: Sequence[tuple[int, int]]) -> tuple[list[tuple[int, int]], int]:
    """The shards that are the last to have ticked some bucket, and how many buckets none of them ticked."""
    kept, left = [], set(range(BUCKETS))
    for lo, hi in newest_first:
        own = left & set(range(lo, hi + 1))
        if own:
            kept.append((lo, hi))
            left -= own
    return kept, len(left)
