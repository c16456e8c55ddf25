"""Accept, withdraw and list batches, and pause and remove their sources.

Guarantee: a withdrawal includes all samples of a batch that are not below a floor, in portions of `take.withdraw_some`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final

import sqlalchemy as sa

from drawdown.schema.declare import (
    ID,
    Action,
    Column,
    Fact,
    Invocation,
    Listing,
    Look,
    More,
    Page,
    Showing,
    Size,
    Undo,
    Values,
)
from drawdown.schema.errors import Refused, explain_race
from drawdown.schema.sql import queries
from drawdown.schema.text import counted
from drawdown.worker.batches import sources
from drawdown.worker.batches.sources import BatchRow, BatchSource, RefusedRowOf
from drawdown.worker.batches.take import WithdrawnBatch, accept, ids_of, is_accepted, judge_batch, withdraw_some
from drawdown.worker.engine.witness import Witness
from drawdown.worker.usage import affected

SQL = queries(__file__)

Batch = Annotated[str, ID, "Batch's id, as `batch list` shows it"]
Source = Annotated[str, ID, "Name of the source"]
MOST_WITHDRAWN: Final = 20_000
"""Samples that a form, a call or a dry run may withdraw in one transaction.

Seals wait for that transaction.
"""


@dataclass(frozen=True)
class BatchAccepted:
    """A batch that a person accepted although it shares rows with others.

    `files`: the number of its files.
    """

    batch: str
    files: int


def _accept(connection: sa.Connection, asked: Invocation, batch: Batch) -> BatchAccepted:
    return BatchAccepted(batch, accept(connection, batch, asked.by))


def _shared(connection: sa.Connection, _asked: Invocation, values: Values) -> Sequence[Fact]:
    """Return the facts of a file that waits for acceptance, for a dry run.

    The facts include the rows that the file shares with other batches. They exclude the billed amount, because Drawdown
    would first have to read the file.
    """
    found = sources.files_of(connection, values["batch"])
    waits = [one for one in found if one.outcome == "conflict"]
    accepted = is_accepted(connection, values["batch"])
    return [
        Fact("State", "accepted, for the next tick" if accepted else found[0].outcome if found else "unknown"),
        Fact("Files", ", ".join(sorted({one.name for one in waits})) or "none"),
        Fact("Billed again", waits[0].said.partition(". To bill all of it")[0] if waits else "none"),
    ]


@dataclass(frozen=True)
class _Going:
    """The state of a withdrawal between portions.

    `after`: the last withdrawn sample. `witness`: the state of the database before the first portion.
    """

    after: str
    witness: Witness


def _withdraw(connection: sa.Connection, asked: Invocation, batch: Batch) -> WithdrawnBatch | More:
    going: _Going = asked.state or _Going("", judge_batch(connection, batch))
    done = withdraw_some(connection, batch, asked.by, going.after, judged=going.witness)
    return More(replace(going, after=done)) if isinstance(done, str) else done


def _withdrawn(done: WithdrawnBatch) -> str:
    if done.already:
        return f"{done.batch}: already withdrawn"
    said = f"{done.batch}: {counted(done.samples, 'sample')} withdrawn"
    if done.closed:
        more = "sample is" if done.closed == 1 else "samples are"
        said += f"; {done.closed:,} {more} below a floor, in windows closed for good, so their charges stay"
    return said


def _given_back(connection: sa.Connection, _asked: Invocation, values: Values) -> Sequence[Fact]:
    its = ids_of(values["batch"])
    return affected.of_batch(connection, its["first_id"], its["beyond_id"]).facts()


def _size(connection: sa.Connection, _asked: Invocation, values: Values) -> Size:
    its = ids_of(values["batch"])
    rows = int(SQL.run(connection, "samples", its).scalar_one())
    return affected.of_batch(connection, its["first_id"], its["beyond_id"]).size(rows)


@dataclass(frozen=True)
class SourcePaused:
    """The state of a source after a pause or a resume.

    `paused`: True if ticks do not take files from the source.
    """

    source: str
    paused: bool


def _pause(connection: sa.Connection, asked: Invocation, source: Source, *, undo: Undo = False) -> SourcePaused:
    sources.pause_source(connection, source, asked.by, resume=undo)
    return SourcePaused(source, not undo)


@dataclass(frozen=True)
class SourceRemoved:
    """A source that never took a batch, and was removed."""

    source: str
    removed: bool


def _remove(connection: sa.Connection, asked: Invocation, source: Source) -> SourceRemoved:
    sources.remove_source(connection, source, asked.by)
    return SourceRemoved(source, removed=True)


def _standing(connection: sa.Connection, _asked: Invocation, values: Values) -> Sequence[Fact]:
    found = next((one for one in sources.list_sources(connection) if one.source == values["source"]), None)
    if found is None:
        return [Fact("State", "unknown")]
    return [
        Fact("State", "watched" if found.paused_ms is None else "paused"),
        Fact("Batches in force", f"{found.batches:,}"),
    ]


@dataclass(frozen=True)
class ShownBatch(BatchRow):
    """A batch by its newest file, with all its files and its first refused rows."""

    files: list[BatchRow]
    refused_rows: list[RefusedRowOf]


def _list(
    connection: sa.Connection,
    look: Look,
    *,
    source: Annotated[str | None, ID, "Id of the source: a watched folder or a query"] = None,
) -> Page[BatchRow]:
    return Page(sources.list_batches(connection, source=source, most=look.most))


def _show(connection: sa.Connection, _look: Look, batch: Batch) -> ShownBatch:
    refused = sources.refused_rows(connection, batch)
    found = sources.files_of(connection, batch)
    if not found:
        raise Refused(explain_race("batch", batch))
    return ShownBatch(**vars(found[0]), files=found, refused_rows=refused)


def _sources(connection: sa.Connection, _look: Look) -> Page[BatchSource]:
    return Page(sources.list_sources(connection))


def _state(one: BatchRow) -> str:
    return "withdrawn" if one.withdrawn_ms is not None else one.outcome


def _fields(one: BatchSource) -> str:
    return str(one.fields)


FILES: Final = (
    "batch", "source", Column("name", "file"), Column("outcome", "state", of_row=_state), Column("seen_ms", "seen"),
    Column("rows", "#rows"), Column("refused", "#refused"), Column("from_ms", "from"), Column("to_ms", "to"),
    Column("said", "note"),
)  # fmt: skip
READ: Final = "usage:read"
WRITE: Final = "usage:write"
ACTIONS: Final = (
    Action(
        "batch accept",
        "Accept a batch",
        "Accept a file that shares rows with an earlier batch. The next tick takes the file if it is in a watched "
        "folder. If you named the file yourself, repeat `batch take`.",
        _accept,
        lambda done: f"{done.batch}: the next tick takes it, with all its rows",
        path="/v1/batches/{batch}/accept",
        scope=WRITE,
        facts=_shared,
    ),
    Action(
        "batch withdraw",
        "Withdraw a batch",
        "Withdraw all usage of a file for good. The next tick refunds the charges. If the command is interrupted, "
        "repeat it.",
        _withdraw,
        _withdrawn,
        path="/v1/batches/{batch}/withdraw",
        scope=WRITE,
        facts=_given_back,
        size=_size,
        at_once=MOST_WITHDRAWN,
    ),
    Action(
        "source pause",
        "Pause a source",
        "Pause a source, so that ticks do not read it. Usage that was taken stays. --undo resumes the source.",
        _pause,
        lambda done: f"{done.source}: {'paused' if done.paused else 'watched'}",
        path="/v1/sources/{source}/pause",
        scope=WRITE,
        facts=_standing,
    ),
    Action(
        "source remove",
        "Remove a source",
        "Remove a source from which Drawdown never took a batch. Pause any other source.",
        _remove,
        lambda done: f"{done.source}: removed",
        path="/v1/sources/{source}/remove",
        scope=WRITE,
        facts=_standing,
    ),
)
LISTS: Final = (
    Listing(
        "batch list",
        "Batches",
        "List files and their outcome, newest first.",
        _list,
        FILES,
        holds="batches",
        path="/v1/batches",
        scope=READ,
    ),
    Showing(
        "batch show",
        "Batch",
        "Show a batch: its files and its first refused rows.",
        _show,
        path="/v1/batches/{batch}",
        scope=READ,
        parts={
            "files": ("Files", FILES),
            "refused_rows": (
                "Refused rows", (Column("number", "#row"), Column("wrong_column", "column"), Column("said", "value")),
            ),
        },
        most=0,
    ),
    Listing(
        "source list",
        "Watched folders and queries",
        "List watched folders and queries.",
        _sources,
        ("source", "folder", Column("asked_of", "database"), Column("batches", "#batches"), Column("at_ms", "since"),
         Column("next_ms", "next period"), Column("paused_ms", "paused"), Column("actor", "by"),
         Column("field_map", "columns", of_row=_fields)),
        holds="sources",
        path="/v1/sources",
        scope=READ,
    ),
)  # fmt: skip
