"""Count the files of all sources that wait, and define a tick's result.

This module only reads. It does not import the readers of files, because `status` and each tick import it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa

from drawdown.schema.sql import Part, queries, read_together

SQL = queries(__file__)


@dataclass(frozen=True)
class FilesLeft:
    """The numbers of files of all sources that wait for a person or a retry.

    A file that a person named by hand does not count.

    `refused`, `conflicts`: the files with that outcome. `failing`: the files that each tick fails to read. `since_ms`:
    the time of the oldest of these outcomes (None: the three numbers are 0).
    """

    refused: int
    conflicts: int
    failing: int
    since_ms: int | None


def files_part() -> Part:
    """Return the query of the waiting files of all sources."""
    return SQL.part("files_left")


def files_left(connection: sa.Connection) -> FilesLeft:
    """Return the numbers of files that wait, in one read."""
    (row,) = read_together(connection, files=files_part())["files"]
    return FilesLeft(**vars(row))


@dataclass
class BatchesDone:
    """The batches of one tick.

    `taken`: the number of files that the tick took. `problems`: texts about files that it did not take, or took without
    some rows. `failures`: texts about files and sources that it could not read. `wait`: some files wait for the next
    tick.
    """

    taken: int = 0
    wait: bool = False
    problems: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
