"""Drains a database once, in a process of its own, and says how much memory that took at most.

python -m tests.benchmarks.drain URL NOW_MS: prints {"rss_mb": …, "sealed": …, "accepted": …}.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import structlog

from drawdown.schema.clock import FixedClock
from drawdown.schema.database import connect
from drawdown.worker.engine import runner
from drawdown.worker.tick import tick
from tests.benchmarks.case_tick import world_of

KB = 1024


def peak_mb() -> float:
    """The most memory this program held at once. Linux counts into `ru_maxrss` what the parent held when it started us,
    so there its own high-water mark is read."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(one for one in status.read_text().splitlines() if one.startswith("VmHWM:"))
        return int(line.split()[1]) / KB
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / KB / KB if sys.platform == "darwin" else most / KB


def main() -> int:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    url, now_ms = sys.argv[1:]
    context, world = world_of(connect(url), FixedClock(int(now_ms)))
    report = runner.run(tick(context), world)
    print(json.dumps({"rss_mb": peak_mb(), "sealed": report.sealed, "accepted": report.accepted}))
    return report.exit_status


if __name__ == "__main__":
    sys.exit(main())
