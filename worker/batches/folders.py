"""Take the new files of all sources, as a step of the tick.

The files are in watched folders and object stores, or are the results of queries for closed periods.

Guarantee: a tick reads at most MAX_FILES_A_TICK files and MAX_BYTES_A_TICK bytes, and the next tick reads the rest. The
first file may have more bytes, and the results of queries do not count as bytes. If a tick ends while it reads a file,
the next tick takes that file, once. After MAX_READINGS such ticks, a person must decide. Drawdown reports the outcome
of a file once. If a file cannot be read, the tick still takes the others. A file is refused for good because of its
content, or after MAX_READINGS ticks that did not complete the read. If the machine does not have enough space, the read
fails, and later ticks retry it after all other files. A tick does not read a file that was written in the last
QUIET_MS, because its writer may not have finished.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

import sqlalchemy as sa
import structlog

from drawdown.schema.audit import By
from drawdown.schema.errors import DrawdownError, Refused, UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.text import counted, typed
from drawdown.schema.units import MINUTE_MS, SECOND_MS
from drawdown.worker.batches.duck import READING_TIME_S
from drawdown.worker.batches.file_sums import Sums, add_up
from drawdown.worker.batches.files import FoundFile, NotNow, TimeUp, Unreadable, format_of, found_file
from drawdown.worker.batches.lists import BatchesDone
from drawdown.worker.batches.objects import MAX_PAGES, OBJECTS_A_PAGE, Page, is_prefix, page_of
from drawdown.worker.batches.query_source import brought, is_asked, reach
from drawdown.worker.batches.sources import (
    MAX_DUE,
    MAX_READINGS,
    BatchSource,
    begin_reading,
    due_periods,
    end_reading,
    forget_gone,
    list_sources,
    new_files,
)
from drawdown.worker.batches.take import UNREAD, TakenFile, meet_types, most_samples, note, take, unread
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import OnDisk, Steps, Transaction

log = structlog.get_logger()

MAX_FILES_A_TICK: Final = 100
"""Most files that one tick reads."""
MAX_BYTES_A_TICK: Final = 4 * 1024**3
"""Most bytes of the files that one tick reads.

A single file may have more.
"""
MAX_LISTED_FILES: Final = 10_000
"""Files of a folder that a tick looks up at a time, by name.

After it has found this many new files, it does not look up more.
"""
QUIET_MS: Final = MINUTE_MS
"""Milliseconds without a change before a tick takes a file of a watched folder."""
LEAST_READING_MS: Final = 10 * SECOND_MS
"""Milliseconds that a tick must have left to read a file or list objects."""
FULL_READING_S: Final = 60
"""Fewest seconds of a timed-out read that counts towards MAX_READINGS.

Later ticks do not have more time for a read.
"""


def take_watched(context: Context) -> Steps[BatchesDone]:
    """Take the new files of each source that is not paused, the oldest first.

    Errors: those of the database.
    """
    done, left = BatchesDone(), [MAX_FILES_A_TICK, MAX_BYTES_A_TICK]
    sources, most = yield Transaction("read_sources", _sources)
    for source in sources:
        if source.paused_ms is not None:
            continue
        quiet_ms = context.clock.now_ms() - QUIET_MS
        try:
            new = yield from _looks_into(source)(context, source, quiet_ms, done)
        except (NotNow, Unreadable, OSError) as error:
            said = getattr(error, "strerror", None) or error
            cannot = f"cannot read the folder of {source.source}" if source.query is None else source.source
            done.failures.append(f"{cannot}: {said}")
            continue
        for file in new:
            if not context.leaves(LEAST_READING_MS) or left[0] < 1 or (file.size_bytes > left[1] < MAX_BYTES_A_TICK):
                done.wait = True
                break
            left[0], left[1] = left[0] - 1, left[1] - file.size_bytes
            yield from _begin(context, source, file, most, done)
    return done


def _looks_into(source: BatchSource) -> Callable[[Context, BatchSource, int, BatchesDone], Steps[list[FoundFile]]]:
    if source.query is not None:
        return _due
    return _new_objects if is_prefix(source.folder) else _new


def _sources(connection: sa.Connection) -> tuple[list[BatchSource], int]:
    return list_sources(connection), most_samples(connection)


def _begin(context: Context, its: BatchSource, file: FoundFile, most: int, done: BatchesDone) -> Steps[None]:
    """Take a file, unless a tick reads it now, or MAX_READINGS ticks gave up on it."""
    source = its.source
    begin = partial(begin_reading, source=source, file=file, now_ms=context.clock.now_ms())
    readings: int | None = yield Transaction("begin_reading", begin)
    if readings is None:
        done.wait = True
    elif readings > MAX_READINGS:
        fix = f"Run `drawdown batch take {typed(file.place)}`, or move the file away"
        if is_asked(file.place):
            fix = (
                "To request the period again, or to skip it, repeat the `drawdown source add` of this source "
                "with `--from`"
            )
        said = f"{MAX_READINGS} ticks ended or gave up while they read the file. {fix}"
        yield from _became(context, source, file, TakenFile(source, file.name, UNREAD, "refused", said=said), done)
    else:
        yield from _take(context, its, file, most, done)


def _take(context: Context, its: BatchSource, file: FoundFile, most: int, done: BatchesDone) -> Steps[None]:
    source = its.source
    how = "result of the query" if is_asked(file.place) else "in the folder"
    by = By(context.clock.now_ms(), "drawdown", f"{how} of {source}")
    time_s = READING_TIME_S if context.deadline_ms is None else (context.deadline_ms - by.now_ms) / SECOND_MS
    try:
        whole = file if file.bring else found_file(file.path, within=file.path.parent)
        sums: Sums = yield OnDisk("add_up", partial(add_up, whole, by.now_ms, most, time_s, its.fields))
        with closing(sums):
            if sums.of_events:
                yield Transaction("meet_types", partial(meet_types, sums=sums, now_ms=by.now_ms))
            taken: TakenFile = yield Transaction("take_batch", partial(take, sums=sums, source=source, by=by))
    except (NotNow, Unreadable, OSError) as error:  # later ticks retry, but at most MAX_READINGS reads may time out
        said = str(error) if isinstance(error, DrawdownError) else f"{file.name}: {error}"
        done.failures.append(f"{source}: {said}")
        log.info("batch", source=source, name=file.name, outcome="failed", said=said)
        took_long = isinstance(error, TimeUp) and time_s >= FULL_READING_S
        end = partial(end_reading, source=source, file=file, said=said, now_ms=by.now_ms, counts=took_long)
        yield Transaction("end_reading", end)
        return
    except (Refused, UsageError) as error:
        yield from _became(context, source, file, unread(source, file.name, error), done)
        return
    _count(source, taken, done)


def _became(context: Context, source: str, file: FoundFile, taken: TakenFile, done: BatchesDone) -> Steps[None]:
    """Record that a file was refused for good."""
    note_it = partial(_note, file=file, taken=taken, now_ms=context.clock.now_ms())
    yield Transaction("note_file", note_it)
    _count(source, taken, done)


def _count(source: str, taken: TakenFile, done: BatchesDone) -> None:
    done.taken += taken.outcome == "taken"
    if taken.outcome in ("conflict", "refused") or (taken.outcome == "taken" and taken.refused):
        rows = "row was" if taken.refused == 1 else "rows were"
        aside = f"{taken.refused:,} {rows} refused. Run `{typed('drawdown', 'batch', 'show', taken.batch)}`"
        done.problems.append(f"{source}: " + (f"{taken.name}: {aside}" if taken.refused else str(taken)))
    counts = {"rows": taken.rows, "refused": taken.refused}
    log.info("batch", source=source, name=taken.name, outcome=taken.outcome, said=taken.said, **counts)


def _note(connection: sa.Connection, *, file: FoundFile, taken: TakenFile, now_ms: int) -> None:
    note(connection, file, taken, now_ms)


def _new(_context: Context, source: BatchSource, quiet_ms: int, done: BatchesDone) -> Steps[list[FoundFile]]:
    """Return a folder's files without an outcome, the oldest first.

    Files that could not be read before come last. Errors: OSError.
    """
    folder, new = Path(source.folder), list[tuple[bool, FoundFile]]()
    all_names: list[str] = yield OnDisk("list_folder", partial(_names, folder))
    names = [name for name in all_names if is_clean_id(name)]
    _set_aside(source, set(all_names) - set(names), done)
    yield Transaction("forget_gone", partial(forget_gone, source=source.source, there=frozenset(names)))
    for at in range(0, len(names), MAX_LISTED_FILES):
        some = names[at : at + MAX_LISTED_FILES]
        found: list[FoundFile] = yield OnDisk("look_at_files", partial(_find_quiet_files, folder, some, quiet_ms))
        new += yield Transaction("new_files", partial(new_files, source=source.source, found=found))
        if len(new) >= MAX_LISTED_FILES:
            break
    return _in_order(new)


def _set_aside(source: BatchSource, strange: Collection[str], done: BatchesDone) -> None:
    """Report files with invalid names as a failure.

    The tick still takes the other files.
    """
    if strange:
        some = counted(len(strange), "file has an invalid name", "files have invalid names")
        done.failures.append(f"{source.source}: {some}. Rename {min(strange)!a}")


def _new_objects(context: Context, source: BatchSource, quiet_ms: int, done: BatchesDone) -> Steps[list[FoundFile]]:
    """Return a prefix's objects without an outcome, in the order of `_new`.

    Errors: NotNow, also for a prefix with more objects than a tick lists; Unreadable.
    """
    new, names, strange = list[tuple[bool, FoundFile]](), set[str](), set[str]()
    goes_on: str | None = None
    for _ in range(MAX_PAGES):
        if not context.leaves(LEAST_READING_MS):
            done.wait = True
            break
        look = partial(page_of, context.objects, source.folder, goes_on, quiet_ms)
        page: Page = yield OnDisk("list_objects", look)
        names.update(page.names)
        strange.update(page.strange)
        new += yield Transaction("new_files", partial(new_files, source=source.source, found=page.files))
        goes_on = page.goes_on
        if goes_on is None:
            yield Transaction("forget_gone", partial(forget_gone, source=source.source, there=names))
            break
        if len(new) >= MAX_LISTED_FILES:
            break
    else:
        if not new:
            raise NotNow(
                f"{source.folder}: the prefix has more than {MAX_PAGES * OBJECTS_A_PAGE:,} objects. Move the taken "
                "objects to another prefix"
            )
    _set_aside(source, strange, done)
    return _in_order(new)


def _due(context: Context, source: BatchSource, _quiet_ms: int, done: BatchesDone) -> Steps[list[FoundFile]]:
    """Return the periods of a query that are due.

    Errors: NotNow or Unreadable if its database cannot be reached.
    """
    question, now_ms = source.question, context.clock.now_ms()
    assert question is not None
    look = partial(due_periods, source=source.source, question=question, now_ms=now_ms)
    due: list[tuple[bool, int, FoundFile]] = yield Transaction("due_periods", look)
    if due:
        yield OnDisk("reach_database", partial(reach, context.databases, question))
    done.wait = done.wait or len(due) > MAX_DUE
    first = sorted(due, key=lambda one: one[:2])[:MAX_DUE]
    return [brought(context.databases, question, start_ms, file) for _, start_ms, file in first]


def _in_order(new: list[tuple[bool, FoundFile]]) -> list[FoundFile]:
    new.sort(key=lambda one: (one[0], one[1].modified_ns, one[1].name))
    return [file for _, file in new]


def _names(folder: Path) -> list[str]:
    """Return the names of the batches in a folder, sorted.

    The function ignores names that begin with a dot, or do not end with a batch's format. Errors: OSError.
    """
    names = (path.name for path in folder.iterdir())
    return sorted(name for name in names if not name.startswith(".") and format_of(name)[0])


def _find_quiet_files(folder: Path, names: Sequence[str], quiet_ms: int) -> list[FoundFile]:
    """Return the files that were not written after `quiet_ms`.

    Other checks follow when a file is taken.
    """
    found: list[FoundFile] = []
    for name in names:
        path, (format_, packed) = folder / name, format_of(name)
        try:
            status = path.stat()
        except OSError:  # a broken link, or a file that was just deleted
            continue
        if format_ is not None and status.st_mtime_ns <= quiet_ms * 1_000_000:
            found.append(FoundFile(path, name, format_, packed, status.st_size, status.st_mtime_ns))
    return found
