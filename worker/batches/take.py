"""Take a batch, and withdraw it.

One transaction stores the sums of a file as samples.

Guarantee: Drawdown takes the same rows once, even if their files have different names or formats. The hash of the file
is the batch's key. The transaction that inserts the usage also inserts the key. If a file has the name of a batch in
force and different content, it is a conflict, and Drawdown does not take it. If Drawdown finds rows of a file in
another batch, the file waits until a person accepts it, because rows without ids do not show whether they are the same
use. Drawdown compares a file with the MAX_BATCHES_COMPARED newest batches of the same time. It stores the hashes of up
to MAX_ROWS_KEPT rows of each batch. From a larger batch, it stores the smallest hashes, so it may miss shared rows.
The seal finds the samples by their arrival, as it finds other samples (S2).

A withdrawal does not edit samples (S7). Each sample gets its own withdrawal row, and the next tick refunds the charges.
A withdrawal works in portions, because each portion holds S1's lock, for which seals wait. The batch stays in force
until the last portion is done. Usage below a floor is closed for good, so its charges stay. Drawdown never takes a
withdrawn batch again, but different content can have its name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.clock import utc
from drawdown.schema.errors import DrawdownError, Refused, explain_race
from drawdown.schema.locks import lock_buckets, make_windows_dirty
from drawdown.schema.sql import queries
from drawdown.schema.text import clean, counted, quote_value, typed
from drawdown.worker.batches.file_sums import (
    MAX_BATCH_SAMPLES,
    MAX_BATCH_SAMPLES_SQLITE,
    MAX_ROWS_KEPT,
    MAX_SAID_CHARS,
    Part,
    Shared,
    Sums,
)
from drawdown.worker.batches.files import FoundFile, NotNow
from drawdown.worker.batches.query_source import is_asked
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import present, read_losses, require_same
from drawdown.worker.push.void import void_rejected
from drawdown.worker.sources.events import types as charged
from drawdown.worker.sources.events.store import NOT_YET_MS
from drawdown.worker.sources.events.types import find_meters, meters
from drawdown.worker.sources.field_map import from_text
from drawdown.worker.sources.samples.rows import OF_BATCHES, Sample, own_sample
from drawdown.worker.sources.samples.store import store

SQL = queries(__file__)

Outcome = Literal["taken", "repeated", "conflict", "refused"]
BY_HAND: Final = ""
"""The source of a file that a person names."""
AFTER_ALL: Final = "To bill its rows anyway, take them as another file (a CSV packed by gzip) and accept that file"
"""Advice for a person who withdrew a batch by mistake."""
OTHER_COLUMNS: Final = (
    "If that was wrong, withdraw that batch, and take the rows as another file (a CSV packed by gzip)"
)
"""Advice for a file that was taken before with other columns."""
UNREAD: Final = ""
"""The batch of a file that could not be read."""


@dataclass(frozen=True)
class TakenFile:
    """The outcome of a file.

    `rows`: the number of taken rows. `refused`: the number of refused rows. For a repeated file, both are the numbers
    of the first time. `said`: the reason why the file was not taken.
    """

    source: str
    name: str
    batch: str
    outcome: Outcome
    rows: int = 0
    refused: int = 0
    said: str = ""
    withdrawn: bool = False
    """True if the file is repeated, and its batch was withdrawn.

    The file is then not billed, although a person may expect that.
    """
    shared_rows: int | None = None
    """The number of rows that the file shares with other batches.

    If it is not None, the file is a conflict that you can accept.
    """

    def __str__(self) -> str:
        return f"{self.name}: {self.outcome}" + (f": {self.said}" if self.said else "")


def unread(source: str, name: str, error: DrawdownError) -> TakenFile:
    """Return the outcome of a file that could not be read.

    The error begins with the file's name. The outcome has a field for the name, so its text omits the name.
    """
    return TakenFile(source, name, UNREAD, "refused", said=str(error).removeprefix(f"{name}: "))


def most_samples(connection: sa.Connection) -> int:
    """Return the maximum number of samples of a file.

    The maximum is lower in SQLite, which has one writer at a time.
    """
    return MAX_BATCH_SAMPLES if connection.dialect.name == "postgresql" else MAX_BATCH_SAMPLES_SQLITE


def meet_types(connection: sa.Connection, sums: Sums, now_ms: int) -> None:
    """Create the meters of a file's event types.

    Call it in a separate transaction before `take`. If another file has a new type, it then waits only for this short
    transaction, and not for the whole file. If the limit of event types is reached, `take` reports it.
    """
    if sums.of_events:
        meters(connection, [str(kind) for kind in sums.kinds], now_ms)


def take(connection: sa.Connection, sums: Sums, source: str, by: By) -> TakenFile:
    """Take the sums of a file as samples.

    Call `meet_types` first. `by.now_ms`: a time before the file was read.

    Errors: Refused if the guard charges one of its event types at once, or if another program used one of its sample
    ids. NotNow if the limit of event types is reached. NotNow if meanwhile a floor was raised past its usage, or
    another process took some of its rows, its content, or a batch with its name.
    """
    seen: set[str] = set()
    taken = _claim(connection, sums, source, by, seen)
    if taken.outcome == "taken":
        if sums.of_events:
            _require_uncharged(connection, sums)
        with _floors_stand(connection, sums, by.now_ms):
            _put_in(connection, sums, by.now_ms)
        rows = [{"number": row.number, "wrong_column": row.column, "said": row.said} for row in sums.first_refused]
        SQL.run(connection, "keep_refused_rows", {"batch": sums.batch, "refused_rows": rows})
        details = {"source": source, "name": taken.name, "rows": sums.rows, "refused": sums.refused}
        record(connection, "batch_take", sums.batch, details, by)
        _require_no_other(connection, sums, seen)
    note(connection, sums.file, taken, by.now_ms)
    return taken


def note(connection: sa.Connection, file: FoundFile, taken: TakenFile, now_ms: int) -> None:
    """Record the outcome of a file, in place of an earlier outcome.

    An earlier outcome `taken` stays. If the new outcome is `taken` or `repeated`, earlier conflicts of the file end.
    """
    its = {"source": taken.source, "name": taken.name, "batch": taken.batch, "path": file.place}
    stood = {"size_bytes": file.size_bytes, "modified_ns": file.modified_ns}
    SQL.run(
        connection,
        "note",
        {
            **its,
            **stood,
            "outcome": taken.outcome,
            "said": taken.said,
            "shared_rows": taken.shared_rows,
            "seen_ms": now_ms,
        },
    )
    if taken.batch != UNREAD:
        SQL.run(connection, "forget_readings", its)
    if taken.outcome in ("taken", "repeated"):
        SQL.run(connection, "end_conflicts", its)
        SQL.run(connection, "settle_elsewhere", {**its, **stood, "seen_ms": now_ms})


def _claim(connection: sa.Connection, sums: Sums, source: str, by: By, seen: set[str]) -> TakenFile:
    """Insert the batch's row, and return the file's outcome.

    If two processes take the same file at the same time, the second process waits here, and then finds the row of the
    first. `seen`: the set to which the function adds the compared batches. Errors: NotNow.
    """
    name, file = sums.file.name, sums.file
    its = {"source": source, "name": name, "path": file.place, "folder": file.folder}
    SQL.run(connection, "hold_folder", its).all()
    batch = _known_as(connection, sums)
    values = {**its, "batch": batch, "now_ms": by.now_ms}
    other = SQL.run(connection, "other_of_name", values).one_or_none()
    if other is None and batch == sums.batch:
        if (found := _overlap(connection, sums, seen)) is not None:
            said = (
                f"{found.detail}. To bill all of it, run `drawdown batch accept {batch}`. Otherwise move the file away"
            )
            return TakenFile(source, name, batch, "conflict", said=said, shared_rows=found.rows)
        counts = {"row_count": sums.rows, "refused": sums.refused, "samples": sums.samples, "total": sums.total}
        span = {"from_ms": sums.from_ms, "to_ms": sums.to_ms, "taken_ms": by.now_ms}
        person = {"actor": by.actor, "reason": by.reason}
        kept = {"rows_hash": sums.rows_hash, "row_labels": sums.labels, "rows_kept": sums.kept_rows()}
        kept["field_map"] = sums.fields.text
        if SQL.run(connection, "claim", {**values, **counts, **span, **person, **kept}).rowcount:
            return TakenFile(source, name, sums.batch, "taken", sums.rows, sums.refused)
    there = SQL.run(connection, "batch", values).one_or_none()
    if there is None:
        other = other or SQL.run(connection, "other_of_name", values).one_or_none()
        if other is None:
            raise NotNow(f"{name}: another process just took and withdrew a batch with this name. Try again")
        if other.is_newer:  # the text below would advise a person to withdraw the right batch
            raise NotNow(f"{name}: another process just took a file with the same content. Try again")
        said = f"the batch {other.batch} has this name and different content. Withdraw that batch"
        after = ", and a tick takes the new result" if is_asked(file.place) else " first, or rename the file"
        return TakenFile(source, name, batch, "conflict", said=said + after)
    if there.batch == sums.batch and there.field_map != sums.fields.text:
        before = str(from_text(there.field_map)) or "the default columns"
        said = f"taken before, as {there.name}, with {before}. {OTHER_COLUMNS}"
        return TakenFile(source, name, batch, "conflict", said=said)
    said, withdrawn = f"taken before, as {there.name}", there.withdrawn_ms is not None
    if withdrawn:
        said += f". It was withdrawn, and is never taken again. {AFTER_ALL}"
    return TakenFile(source, name, batch, "repeated", int(there.row_count), int(there.refused), said, withdrawn)


def _known_as(connection: sa.Connection, sums: Sums) -> str:
    """Return the batch id of a file.

    The result is the id of the content, or the id of a batch in force with the same rows.
    """
    if SQL.run(connection, "batch", {"batch": sums.batch}).first() or is_accepted(connection, sums.batch):
        return sums.batch
    same = same_rows(connection, sums)
    return sums.batch if same is None or same.is_withdrawn else same.batch


def _overlap(connection: sa.Connection, sums: Sums, seen: set[str]) -> Overlap | None:
    """Return the overlap that a person must accept before Drawdown bills a file.

    Return None if Drawdown can bill the file without acceptance.
    """
    if SQL.run(connection, "batch", {"batch": sums.batch}).first():
        return None
    found = overlap(connection, sums, seen)
    if is_accepted(connection, sums.batch):
        return None
    same = same_rows(connection, sums)
    if same is not None and same.is_withdrawn:
        return Overlap(sums.rows, f"the file has the same rows as {same.name}, which was withdrawn")
    return found


def _require_no_other(connection: sa.Connection, sums: Sums, seen: set[str]) -> None:
    """Check that another process did not take the same rows meanwhile. Errors: NotNow.

    Audit records are written one after another, so the second transaction sees the rows of the first.
    """
    if not is_accepted(connection, sums.batch) and overlap(connection, sums, seen) is not None:
        raise NotNow(f"{sums.file.name}: another process just took some of its rows, in another file. Try again")


@contextmanager
def _floors_stand(connection: sa.Connection, sums: Sums, now_ms: int) -> Iterator[None]:
    """Refuse a batch with usage that falls below a floor before the commit.

    A transaction that raises a floor checks earlier usage, and does not see a batch that has not committed. The
    function takes S1's lock last, because seals wait for it. SQLite has one writer at a time, so it does not need this
    check.

    Errors: NotNow if, during the block, another transaction raised a floor past some of the batch's usage.
    """
    if connection.dialect.name != "postgresql" or sums.from_ms is None or sums.from_ms >= now_ms - NOT_YET_MS:
        yield
        return
    before = _floors(connection, sums.from_ms)
    yield
    lock_buckets(connection)
    after = _floors(connection, sums.from_ms)
    rose = [
        {"org_id": org_id, "was_ms": before.get(org_id, sums.from_ms), "floor_ms": floor}
        for org_id, floor in after.items()
        if floor > before.get(org_id, sums.from_ms)
    ]
    if rose and SQL.run(connection, "closed_meanwhile", {**ids_of(sums.batch), "rose": rose}).first():
        raise NotNow(
            f"{sums.file.name}: `sample prune` closed some of its windows meanwhile, so Drawdown did not take the "
            "file. Try again"
        )


def _floors(connection: sa.Connection, above_ms: int) -> dict[str, int]:
    rows = SQL.run(connection, "floors_above", {"above_ms": above_ms})
    return {str(row.org_id): int(row.floor_ms) for row in rows}


def _require_uncharged(connection: sa.Connection, sums: Sums) -> None:
    """Refuse a file with an event type that the guard charges at once.

    Only the windows of the file count. Errors: Refused.
    """
    types = [str(kind) for kind in sums.kinds]
    charged.share(connection, types)
    ever = charged.ever_charged(connection, types)
    if not ever:
        return
    spots = {(str(kind), int(window)) for parts in sums.parts() for _, _, window, kind, _ in parts if kind in ever}
    for (event_type, window_ms), metric in sorted(charged.charged(connection, spots).items()):
        raise Refused(
            f"{sums.file.name}: the guard charges {event_type} at once, as {metric}, in the window of "
            f"{utc(window_ms)}. Remove the rows of this type in this window. If the guard has not charged their use, "
            "send the use to POST /v1/guard/consume"
        )


def _put_in(connection: sa.Connection, sums: Sums, now_ms: int) -> None:
    sizes = _sizes(connection, sums)
    for parts in sums.parts():
        samples = [_sample(sums.batch, part, sizes, now_ms) for part in parts]
        inserted, _ = store(connection, samples, [sums.batch] * len(samples))
        if inserted < len(samples):
            raise Refused(
                f"{sums.file.name}: some of its sample ids, from {samples[0][0]} on, already exist. Run `drawdown "
                "batch list`, and compare the batches"
            )


def _sizes(connection: sa.Connection, sums: Sums) -> Mapping[int | str, int]:
    """Return the number that samples store for each memory size or event type.

    The number is the memory size itself, or the meter of the event type. Errors: NotNow if an event type does not have
    a meter.
    """
    if not sums.of_events:
        return {int(size): int(size) for size in sums.kinds}
    types = [str(kind) for kind in sums.kinds]
    found: dict[int | str, int] = dict(find_meters(connection, types).items())
    if missing := sorted(set(types) - {str(kind) for kind in found}):
        raise NotNow(
            f"{sums.file.name}: the limit of event types is reached, so Drawdown cannot add the new event type "
            f"{missing[0]}. Use an event type that `drawdown feature list` shows"
        )
    return found


def _sample(batch: str, part: Part, sizes: Mapping[int | str, int], now_ms: int) -> Sample:
    number, org_id, window_ms, kind, quantity = part
    whose = f"{OF_BATCHES}{batch}"
    return own_sample(f"{whose}:{number}", org_id, whose, sizes[kind], quantity, window_ms, now_ms)


def ids_of(batch: str) -> dict[str, str]:
    """Return the bounds of the ids of a batch's samples."""
    return {"first_id": f"{OF_BATCHES}{batch}:", "beyond_id": f"{OF_BATCHES}{batch};"}


MAX_BATCHES_COMPARED: Final = 500
"""Batches of the same time with which Drawdown compares one file, newest first."""
_SHOWN: Final = 3


@dataclass(frozen=True)
class Overlap:
    """The rows that a file shares with other batches.

    `rows`: the number of these rows. `detail`: the other batches and the shared use, as a text.
    """

    rows: int
    detail: str


@dataclass(frozen=True)
class SameRows:
    """A batch with the same rows as a file. `name`: the batch's file."""

    batch: str
    name: str
    is_withdrawn: bool


def same_rows(connection: sa.Connection, sums: Sums) -> SameRows | None:
    """Return a batch with the same rows as a file, in any format of its file.

    If several batches have these rows, return one in force rather than a withdrawn batch. Return None if such a batch
    does not exist.
    """
    if sums.rows_hash is None:
        return None
    found = SQL.run(connection, "same_rows", {"rows_hash": sums.rows_hash}).one_or_none()
    return None if found is None else SameRows(found.batch, found.name, found.withdrawn_ms is not None)


def is_accepted(connection: sa.Connection, batch: str) -> bool:
    """Return True if a person accepted the batch although it shares rows with others."""
    return SQL.run(connection, "accepted", {"batch": batch}).first() is not None


def overlap(connection: sa.Connection, sums: Sums, seen: set[str]) -> Overlap | None:
    """Return the overlap of a file with batches in force.

    The function skips the batches in `seen`, and adds the batches that it compares to `seen`.
    """
    if sums.rows_hash is None:
        return None
    its = {"batch": sums.batch, "from_ms": sums.from_ms, "to_ms": sums.to_ms, "row_count": sums.rows}
    more = {"samples": sums.samples, "total": sums.total, "at_most": MAX_BATCHES_COMPARED}
    near = [row for row in SQL.run(connection, "near", {**its, **more}) if row.batch not in seen]
    seen.update(str(row.batch) for row in near)
    names = {str(row.batch): str(row.name) for row in near}
    for row in near:
        if row.is_unknown:
            said = f"it has the same total as {row.name}, and the rows of {row.name} are not on record"
            return Overlap(sums.rows, said)
    found = sums.shared([(str(row.batch), str(row.row_labels), str(row.rows_kept)) for row in near])
    is_exact = sums.is_whole and all(row.row_count <= MAX_ROWS_KEPT for row in near)
    return _find_overlap(sums, found, names, is_exact=is_exact)


def _find_overlap(sums: Sums, found: Collection[Shared], names: dict[str, str], *, is_exact: bool) -> Overlap | None:
    if not found:
        return None
    by_use: dict[tuple[str, str], int] = {}
    by_batch: dict[str, int] = {}
    for batch, org_id, kind, rows, quantity in found:
        by_use[org_id, kind] = by_use.get((org_id, kind), 0) + quantity
        by_batch[batch] = by_batch.get(batch, 0) + rows
    first, *others = sorted(by_batch, key=lambda batch: (-by_batch[batch], batch))
    uses = sorted(by_use, key=lambda use: (-by_use[use], use))
    shown = [_amount(sums, *use, by_use[use]) for use in uses[:_SHOWN]]
    if len(uses) > _SHOWN:
        shown.append(f"and {len(uses) - _SHOWN:,} more")
    rows = sum(by_batch.values())
    about = "" if is_exact else "at least "
    where = names[first] + (f" and {counted(len(others), 'more batch', 'more batches')}" if others else "")
    taken = "was" if rows == 1 else "were"
    said = f"{about}{rows:,} of its {counted(sums.rows, 'row')} {taken} taken before, in {where}: {', '.join(shown)}"
    return Overlap(rows, said)


def _amount(sums: Sums, org_id: str, kind: str, quantity: int) -> str:
    of = f"units of {kind}" if sums.of_events else f"s of {kind} MB"
    return clean(f"{quantity:,} {of} for {org_id}")[:MAX_SAID_CHARS]


def accept(connection: sa.Connection, batch: str, by: By) -> int:
    """Accept a file although it shares rows with others.

    The next tick or `drawdown batch take` then takes all of its rows.

    Return the number of files with this content. Errors: UnknownId; Refused if a file with this content does not wait.
    """
    ids.require(connection, ids.SHARING_BATCH, batch)
    files = SQL.run(connection, "accept", {"batch": batch, "now_ms": by.now_ms}).rowcount
    if not files:
        raise Refused(
            f"cannot accept the batch {quote_value(batch)}: its file does not wait for acceptance. Run `drawdown "
            "batch list`"
        )
    record(connection, "batch_accept", batch, {"files": files}, by)
    return files


WITHDRAWN_AT_ONCE: Final = 5_000
"""Samples of a batch that one transaction withdraws."""


@dataclass(frozen=True)
class WithdrawnBatch:
    """The result of a withdrawal.

    `samples`: the number of withdrawn samples. `closed`: the number of samples below their organisation's floor. The
    charges of these samples stay. `already`: the batch was withdrawn before.
    """

    batch: str
    samples: int
    closed: int
    already: bool


def withdraw_some(
    connection: sa.Connection,
    batch: str,
    by: By,
    after: str,
    at_most: int = WITHDRAWN_AT_ONCE,
    judged: Witness | None = None,
) -> str | WithdrawnBatch:
    """Withdraw up to `at_most` samples of a batch, and record their count.

    The portion begins after the sample id `after` ('' for the first portion).

    Return the id of the last sample of the portion, or the result after the last portion. `judged`: the result of
    `judge_batch` before the first portion.

    Errors: UnknownId. Refused if some of the portion was not sealed again since history was lost. HistoryDoubted while
    a recovery is needed, or if the database is not the database of `judged`.
    """
    lock_buckets(connection)
    require_same(connection, judged)
    row = SQL.run(connection, "standing", {"batch": batch}).one_or_none()
    if row is None:
        ids.require(connection, ids.BATCH, batch)
        raise Refused(explain_race("batch", batch))
    if row.withdrawn_ms is not None:
        return WithdrawnBatch(batch, 0, 0, already=True)
    its = ids_of(batch)
    after, withdrawn = max(after, its["first_id"]), 0
    portion = SQL.run(connection, "portion", {**its, "after": after, "at_most": at_most}).one()
    if portion.samples:
        its_own = {"after": after, "last": str(portion.last)}
        if judged is None:
            _require_sealed(connection, batch, its_own)
        withdrawn = _withdraw(connection, its_own, by)
    if portion.samples == at_most:
        if withdrawn:
            record(connection, "batch_withdraw", batch, {"name": row.name, "samples": withdrawn}, by)
        return str(portion.last)
    samples = int(SQL.run(connection, "count_withdrawn", its).scalar_one())
    done = WithdrawnBatch(batch, samples, int(row.samples) - samples, already=False)
    SQL.run(connection, "mark_withdrawn", {"batch": batch, "now_ms": by.now_ms})
    # Run this after the mark. The mark waits for transactions that note a conflict, because they lock the batch.
    SQL.run(connection, "look_again", {"batch": batch})
    record(connection, "batch_withdraw", batch, {"name": row.name, "samples": withdrawn, "closed": done.closed}, by)
    return done


def judge_batch(connection: sa.Connection, batch: str) -> Witness:
    """Check that a batch was sealed in full since history was lost.

    Call it before you withdraw the first portion. Each portion makes its windows dirty, and dirty windows look the same
    as windows that were not sealed.

    Errors: Refused if some of it was not sealed since then. HistoryDoubted while a recovery is needed.
    """
    found, its = present(connection), ids_of(batch)
    _require_sealed(connection, batch, {"after": its["first_id"], "last": its["beyond_id"]})
    return found


def _require_sealed(connection: sa.Connection, batch: str, portion: dict[str, str]) -> None:
    until = max((loss.until_ms for loss in read_losses(connection)), default=0)
    if until and SQL.run(connection, "unsealed", {**portion, "until_ms": until}).first():
        # The lost history may have billed this usage (R1). Drawdown looks such a charge up only after it seals the
        # usage again.
        went = int(SQL.run(connection, "count_withdrawn", ids_of(batch)).scalar_one())
        raise Refused(
            f"cannot withdraw batch {batch}: some of its usage from the lost history is not sealed again yet. "
            f"{counted(went, 'sample is', 'samples are')} withdrawn so far. Run `drawdown batch withdraw "
            f"{typed(batch)}` again after the next tick, or when the open pushes of its organisations are settled"
        )


def _withdraw(connection: sa.Connection, portion: dict[str, str], by: By) -> int:
    """Withdraw a portion.

    Return the number of samples that were not withdrawn before.
    """
    person = {"at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    withdrawn = SQL.run(connection, "withdraw", {**portion, **person}).rowcount
    void_rejected(connection, SQL.run(connection, "windows", portion).all(), by)
    make_windows_dirty(connection, SQL, "windows_of_portion", portion)
    return withdrawn
