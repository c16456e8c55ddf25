"""List jobs for people. This module only reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import sqlalchemy as sa

from drawdown.schema.declare import Column, Listing, Look, Page, whole
from drawdown.schema.sql import queries
from drawdown.schema.text import counted, typed
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.jobs.job_payloads import ReplayJob, read_job

SQL = queries(__file__)


@dataclass(frozen=True)
class JobRow:
    """A job.

    `windows_done`, `windows`: the done windows and all windows of its latest replay (0: another kind of job). `what`:
    the job in words. `began_ms` None: a tick has not begun it. `ended_ms` None: it is open. `pushes`: the number of
    pushes that it has sealed. `result`: its result, or the reason why it waits. `command`: the arguments of the command
    that does the same.
    """

    job_id: int
    kind: str
    what: str
    state: str
    actor: str
    reason: str
    via: str
    at_ms: int
    began_ms: int | None
    ended_ms: int | None
    windows: int
    windows_done: int
    pushes: int
    result: str
    command: list[str]

    @property
    def state_in_words(self) -> str:
        return self.state.replace("_", " ")

    @property
    def progress(self) -> str:
        """Return a text about the progress; '' if the job does not have windows."""
        return f"{self.windows_done:,} of {counted(self.windows, 'window')}" if self.windows else ""


def list_jobs(connection: sa.Connection, *, most: int, before: int | None = None) -> list[JobRow]:
    """Return jobs, newest first.

    `before`: the number of a job; return only jobs that were queued before it.
    """
    values = {"at_most": most} if before is None else {"at_most": most, "before": before}
    return [_row(row) for row in SQL.run(connection, "list", values, only="" if before is None else "only_before")]


def count_open(connection: sa.Connection) -> int:
    """Return the number of open jobs."""
    return int(SQL.run(connection, "count_open").scalar_one())


def _row(row: sa.Row[tuple[object, ...]]) -> JobRow:
    asked = read_job(row.kind, row.payload)
    begun = row.from_ms is not None
    windows = asked.windows if isinstance(asked, ReplayJob) else 0
    return JobRow(
        row.job_id, row.kind, str(asked), row.state, row.actor, row.reason, row.via, row.at_ms, row.began_ms,
        row.ended_ms,
        windows=(row.to_ms - row.from_ms) // WINDOW_MS if begun else windows,
        windows_done=max(row.next_ms - row.from_ms, 0) // WINDOW_MS if begun else 0,
        pushes=int(row.pushes), result=row.said, command=asked.command(),
    )  # fmt: skip


@dataclass(frozen=True)
class ListedJob:
    """A job.

    `windows_done`, `windows`: the done windows and all windows of its latest replay (0: another kind of job). `what`:
    the job in words. `began_ms` null: a tick has not begun it. `ended_ms` null: it is open. `pushes`: the number of
    pushes that it has sealed. `result`: its result, or the reason why it waits. `command`: the command that does the
    same.
    """

    job_id: int
    kind: str
    state: str
    what: str
    actor: str
    reason: str
    via: str
    at_ms: int
    began_ms: int | None
    ended_ms: int | None
    windows: int
    windows_done: int
    pushes: int
    result: str
    command: str


Number = Annotated[int, whole(1, 2**63 - 1, 1), "Number of the job"]


def _jobs(
    connection: sa.Connection,
    look: Look,
    *,
    before: Annotated[int | None, whole(1, 2**63 - 1, 1), "Number of the job before which the page starts"] = None,
) -> Page[ListedJob]:
    found = list_jobs(connection, most=look.most, before=before)
    return Page([ListedJob(**{**vars(one), "command": typed("drawdown", *one.command)}) for one in found])


def _words(text: str) -> str:
    return text.replace("_", " ")


LISTS: Final = (
    Listing(
        "job list",
        "Jobs",
        "List jobs, newest first. You queue jobs with `--queue` or in the console, and ticks run them.",
        _jobs,
        (Column("job_id", "#job"), "kind", Column("state", show=_words), Column("what", "task"), Column("actor", "by"),
         "reason", Column("at_ms", "since"), Column("windows_done", "#done"), Column("windows", "#windows"),
         "result"),
        holds="jobs",
        path="/v1/jobs",
        scope="jobs:read",
    ),
)  # fmt: skip
