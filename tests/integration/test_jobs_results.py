"""Jobs where people look: status, the overview and the metrics tell of what waits, and of what failed."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa

from drawdown.cli.nouns.status import status_lines
from drawdown.schema.database import read
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.server.console.screens.customers.overview import needs, tiles
from drawdown.server.metrics import render
from drawdown.worker.jobs.job_payloads import ReplayJob
from drawdown.worker.jobs.run_jobs import do_jobs
from drawdown.worker.replay.plan import ReplayScope
from drawdown.worker.status.status import status
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.test_jobs import job, later, up_to
from tests.integration.test_replay import missed
from tests.world import T0, Fleet


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    return missed(Fleet(engine, extra={"fake": FakeProvider(capabilities())}), hours=1)


def told(fleet: Fleet, later_ms: int = 0) -> tuple[str, str, dict[str, str], list[float]]:
    """The headline's reason, the line of status, the tiles, the metrics."""
    now = fleet.clock.at_ms + later_ms
    found = read(fleet.engine, lambda c: status(c, now))
    lines = [" ".join(line.split()) for line in status_lines(found) if line.startswith("jobs ")]
    shown = {tile.name: tile.figure for tile in tiles(found.standing, 0) if tile.name.endswith(" jobs")}
    metrics = render(fleet.engine, now).decode()
    values = [float(value) for value in re.findall(r"^drawdown_jobs\w+ (\S+)$", metrics, re.MULTILINE)]
    return found.headline.reason, "; ".join(lines), shown, values


def test_open_and_failed_jobs_are_shown_in_status_and_metrics(fleet: Fleet) -> None:
    nothing = told(fleet)
    assert nothing[1:] == ("", {"Open jobs": "0", "Failed jobs": "0"}, [0, 0, 0])
    job(fleet)
    job(fleet, ReplayJob(ReplayScope(("acme",)), T0, T0 + DAY_MS))
    reason, line, shown, values = told(fleet, 3 * MINUTE_MS)
    assert (reason, shown, values) == (
        "2 jobs wait for a tick", {"Open jobs": "2", "Failed jobs": "0"}, [2, 180, 0]
    )  # fmt: skip
    assert line.startswith("jobs 2 open, the oldest since 3 min (")
    up_to(fleet, do_jobs(fleet.context("at work")), lambda effect: effect.name == "end_job")
    assert told(fleet)[2]["Open jobs"] == "2", "one is under way"
    fleet.write("UPDATE orgs SET floor_ms = :at WHERE org_id = 'acme'", {"at": T0 + DAY_MS})
    assert later(fleet).ended == 2
    reason, line, shown, values = told(fleet)
    assert (reason, shown, values) == (nothing[0], {"Open jobs": "0", "Failed jobs": "1"}, [0, 0, 1])
    assert line.startswith("jobs 1 failed in a day: `drawdown job list`")
    need = needs(read(fleet.engine, lambda c: status(c, fleet.clock.at_ms)))[-1]
    assert (need.word, need.what, need.href) == ("failed", "1 job failed in the last 24 hours", "/console/jobs")
    assert told(fleet, DAY_MS)[1:] == nothing[1:]
