"""The pages for on-call: pushes, executions, halts, providers, cells and ticks."""

from __future__ import annotations

from typing import Final

from drawdown.server.console.page import Page
from drawdown.server.console.screens.oncall import (
    backfills,
    cells,
    halts,
    jobs,
    pending,
    providers,
    pushes,
    runs,
    ticks,
)

ACTIONS: Final = (
    *halts.ACTIONS,
    *pushes.ACTIONS,
    *runs.ACTIONS,
    *pending.ACTIONS,
    *jobs.ACTIONS,
    *jobs.PROVIDER_ACTIONS,
)
EXAMPLE: Final = "?key=usage%3Aacme%3A1767229200000%3Acompute_1gb"
"""Address of the push of acme's first hour of use, in the tests of all pages."""

PAGES: Final[tuple[Page, ...]] = (
    Page(pushes.PATH, "Pushes", "list.html", pushes.read, lines=pushes.csv_lines),
    Page(pushes.PUSH_PATH, "Push", "list.html", pushes.read_one, menu=False, example=EXAMPLE),
    Page(pending.PATH, "Pending", "list.html", pending.read),
    Page(runs.PATH, "Executions", "list.html", runs.read, lines=runs.csv_lines),
    Page(runs.RUN_PATH, "Execution", "list.html", runs.read_one, menu=False, example="?key=run-1"),
    Page(halts.PATH, "Halts", "list.html", halts.read, lines=halts.csv_lines),
    Page(providers.PATH, "Providers", "list.html", providers.read),
    Page(cells.PATH, "Cells", "list.html", cells.read),
    Page(ticks.PATH, "Ticks", "list.html", ticks.read),
    Page("/console/tick", "Tick", "list.html", ticks.read_one, menu=False, example="?id=1"),
    Page(jobs.PATH, "Jobs", "list.html", jobs.read),
    Page(backfills.PATH, "Backfills", "list.html", backfills.read),
    Page("/console/backfill", "Backfill", "list.html", backfills.read_one, menu=False, example="?key=june"),
)
