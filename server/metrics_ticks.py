"""How ticks went, by shard.

Guarantee: reads only, the ticks of one day by their key. A shard that fails or is missing is not hidden by another, and
one that is no longer used, since others tick all of it by now, is not told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import sqlalchemy as sa
from prometheus_client.metrics_core import Metric

from drawdown.schema.units import BUCKETS, DAY_MS
from drawdown.server.families import gauge, seconds

# From the newest back to the first that is older than a day: there is no index on time, and none is needed for that.
LAST_OF_EACH: Final = """
WITH recent AS MATERIALIZED (
    SELECT tick_id, bucket_lo, bucket_hi, finished_ms, exit_status FROM ticks WHERE finished_ms >= :since
        AND tick_id > COALESCE((SELECT tick_id FROM ticks WHERE started_ms < :since ORDER BY tick_id DESC LIMIT 1), 0))
SELECT t.bucket_lo, t.bucket_hi, t.started_ms, t.finished_ms, t.exit_status, s.success_ms FROM (
    SELECT MAX(tick_id) AS tick_id, MAX(CASE WHEN exit_status IN (0, 75) THEN finished_ms END) AS success_ms
    FROM recent GROUP BY bucket_lo, bucket_hi) s
JOIN ticks t ON t.tick_id = s.tick_id ORDER BY t.tick_id DESC
"""
ANY: Final = "SELECT tick_id FROM ticks WHERE finished_ms IS NOT NULL ORDER BY tick_id DESC LIMIT 1"
SHARD: Final = ("shard",)


def ticking(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """The last tick that ended, of each shard of which one ended in the last day."""
    if connection.execute(sa.text(ANY)).first() is None:  # where nobody ever ticked, nobody has stopped
        return
    rows, missing = _in_use(connection.execute(sa.text(LAST_OF_EACH), {"since": now_ms - DAY_MS}).all())
    of = [((f"{row.bucket_lo}-{row.bucket_hi}",), row) for row in rows]
    yield gauge("unticked_buckets", f"Of {BUCKETS}: those of which no tick ended for a day.", [((), missing)])
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
        [(shard, seconds(row.success_ms)) for shard, row in of if row.success_ms is not None], SHARD,
    )  # fmt: skip


def _in_use(newest_first: Sequence[Any]) -> tuple[list[Any], int]:
    """The shards that are the last to have ticked some bucket, and how many buckets none of them ticked."""
    kept, left = [], set(range(BUCKETS))
    for row in newest_first:
        own = left & set(range(row.bucket_lo, row.bucket_hi + 1))
        if own:
            kept.append(row)
            left -= own
    return kept, len(left)
