"""Drains a database once, in a process of its own, and says how much memory that took at most.

python -m tests.benchmarks.drain URL NOW_MS: prints {"rss_mb": …, "sealed": …, "accepted": …}.
"""

from __future__ import annotations

import json
import resource
import sys

import structlog

from drawdown.schema.clock import FixedClock
from drawdown.schema.database import connect
from drawdown.worker import runner
from drawdown.worker.tick import tick
from tests.benchmarks.case_tick import world_of

KB = 1024


def main() -> int:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    url, now_ms = sys.argv[1:]
    context, world = world_of(connect(url), FixedClock(int(now_ms)))
    report = runner.run(tick(context), world)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rss_mb = most / KB if sys.platform != "darwin" else most / KB / KB
    print(json.dumps({"rss_mb": rss_mb, "sealed": report.sealed, "accepted": report.accepted}))
    return report.exit_status


if __name__ == "__main__":
    sys.exit(main())
