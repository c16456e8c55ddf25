"""Taking a batch: the sums of a file become samples, in one transaction.

Guarantee: the same rows are taken once, whatever their file is called or how it is written, by anybody, however often.
The hash of the file is the batch's key, taken in the same transaction as the usage. Another content under a name whose
batch stands is a conflict, of which nothing is taken; so is one that shares rows with another batch, until a person
accepts it. A file is in whole, or not at all. The seal finds what went in by its arrival, as it does any
sample (S2), so late batches, and batches of windows that others sealed, need nothing of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

import sqlalchemy as sa

from drawdown.schema.audit import By, record
from drawdown.schema.clock import utc
from drawdown.schema.errors import DrawdownError, Refused
from drawdown.schema.locks import lock_buckets
from drawdown.schema.sql import queries
from drawdown.worker.batches.asking import is_asked
from drawdown.worker.batches.files import FoundFile, NotNow
from drawdown.worker.batches.overlap import Overlap, is_accepted, overlap, same_rows
from drawdown.worker.batches.reading import MAX_BATCH_SAMPLES, MAX_BATCH_SAMPLES_SQLITE, Part, Sums
from drawdown.worker.sources.events import charged
from drawdown.worker.sources.events.floors import NOT_YET_MS
from drawdown.worker.sources.events.types import known, meters
from drawdown.worker.sources.samples.made import CELL, OF_BATCHES
from drawdown.worker.sources.samples.rows import Sample
from drawdown.worker.sources.samples.store import store

SQL = queries(__file__)

Outcome = Literal["taken", "repeated", "conflict", "refused"]
BY_HAND: Final = ""
"""The source of a file that a person names."""
AFTER_ALL: Final = "to bill its rows after all, give them as another file (a CSV packed by gzip) and accept that one"
"""What a person does about a batch that was withdrawn by mistake."""
UNREAD: Final = ""
"""The batch of a file that could not be read."""


@dataclass(frozen=True)
class TakenFile:
    """What became of a file. `rows` are in, `refused` rows are set aside; of one that was repeated both are what they
    were then. `said`: why it was not taken."""

    source: str
    name: str
    batch: str
    outcome: Outcome
    rows: int = 0
    refused: int = 0
    said: str = ""
    withdrawn: bool = False
    """Of one that was repeated: nothing of it is billed, and a person may take it to be."""
    shared_rows: int | None = None
    """Of one in conflict: so many of its rows are in other batches, and a person may accept it."""

    def __str__(self) -> str:
        return f"{self.name}: {self.outcome}" + (f": {self.said}" if self.said else "")


def unread(source: str, name: str, error: DrawdownError) -> TakenFile:
    """A file that could not be read. An error names the file first, for whoever sees nothing but its text: here the
    name stands beside it."""
    return TakenFile(source, name, UNREAD, "refused", said=str(error).removeprefix(f"{name}: "))


def most_samples(connection: sa.Connection) -> int:
    """How many samples a file may come to: while they go in, nobody else writes to SQLite."""
    return MAX_BATCH_SAMPLES if connection.dialect.name == "postgresql" else MAX_BATCH_SAMPLES_SQLITE


def meet_types(connection: sa.Connection, sums: Sums, now_ms: int) -> None:
    """Give the event types of a file their meters, in a transaction of its own before `take`: who meets another type
    waits for this one alone, not for a file to go in. A type may have no room: `take` says so."""
    if sums.of_events:
        meters(connection, [str(kind) for kind in sums.kinds], now_ms)


def take(connection: sa.Connection, sums: Sums, source: str, by: By) -> TakenFile:
    """Take what a file comes to; `meet_types` comes first.

    Errors: Refused where an event type of it is charged at once, or another program gave a sample one of its ids;
    NotNow where its event types have no room, a floor was raised past it meanwhile, or what was read later than it was
    taken under its name. `by.now_ms`: before it was read.
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
    """Keep what became of a file, in place of what was said of the same before."""
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
    """The batch's row is the claim: of two that take the same at once the second waits here, and sees the first.
    `seen`: gains the batches that it was compared with."""
    name, file = sums.file.name, sums.file
    its = {"source": source, "name": name, "path": file.place, "folder": file.folder}
    SQL.run(connection, "hold_folder", its).all()
    batch = _known_as(connection, sums)
    values = {**its, "batch": batch, "now_ms": by.now_ms}
    other = SQL.run(connection, "other_of_name", values).one_or_none()
    if other is None and batch == sums.batch:
        if (found := _overlap(connection, sums, seen)) is not None:
            said = f"{found.said}. Bill all of it: `drawdown batch accept {batch}`; or move it away"
            return TakenFile(source, name, batch, "conflict", said=said, shared_rows=found.rows)
        counts = {"row_count": sums.rows, "refused": sums.refused, "samples": sums.samples, "total": sums.total}
        span = {"from_ms": sums.from_ms, "to_ms": sums.to_ms, "taken_ms": by.now_ms}
        person = {"actor": by.actor, "reason": by.reason}
        kept = {"rows_hash": sums.rows_hash, "row_labels": sums.labels, "rows_kept": sums.kept_rows()}
        if SQL.run(connection, "claim", {**values, **counts, **span, **person, **kept}).rowcount:
            return TakenFile(source, name, sums.batch, "taken", sums.rows, sums.refused)
    there = SQL.run(connection, "batch", values).one_or_none()
    if there is None:
        other = other or SQL.run(connection, "other_of_name", values).one_or_none()
        if other is None:
            raise NotNow(f"{name}: a batch of its name was taken and withdrawn this moment: try again")
        if other.is_newer:  # else a person would be told to withdraw what is right
            raise NotNow(f"{name}: what it says by now was taken while this was read: try again")
        said = f"its name stands for the batch {other.batch}, with other content: withdraw that one"
        after = ", and a tick takes what is said by then" if is_asked(file.place) else " first, or give it another name"
        return TakenFile(source, name, batch, "conflict", said=said + after)
    said, withdrawn = f"taken before, as {there.name}", there.withdrawn_ms is not None
    if withdrawn:
        said += f"; it was withdrawn, and is never taken again: {AFTER_ALL}"
    return TakenFile(source, name, batch, "repeated", int(there.row_count), int(there.refused), said, withdrawn)


def _known_as(connection: sa.Connection, sums: Sums) -> str:
    """The batch that a file is: of its own content, or one that stands and has the same rows."""
    if SQL.run(connection, "batch", {"batch": sums.batch}).first() or is_accepted(connection, sums.batch):
        return sums.batch
    same = same_rows(connection, sums)
    return sums.batch if same is None or same.is_withdrawn else same.batch


def _overlap(connection: sa.Connection, sums: Sums, seen: set[str]) -> Overlap | None:
    """Why a person has to accept a file before it is billed."""
    if SQL.run(connection, "batch", {"batch": sums.batch}).first():
        return None
    found = overlap(connection, sums, seen)
    if is_accepted(connection, sums.batch):
        return None
    same = same_rows(connection, sums)
    if same is not None and same.is_withdrawn:
        return Overlap(sums.rows, f"it has the rows of {same.name}, which was withdrawn")
    return found


def _require_no_other(connection: sa.Connection, sums: Sums, seen: set[str]) -> None:
    """Nobody else took its rows meanwhile: who records what they do waits for one another. Errors: NotNow."""
    if not is_accepted(connection, sums.batch) and overlap(connection, sums, seen) is not None:
        raise NotNow(f"{sums.file.name}: some of its rows were taken this moment, in another file: try again")


@contextmanager
def _floors_stand(connection: sa.Connection, sums: Sums, now_ms: int) -> Iterator[None]:
    """Let nobody raise a floor past old usage that goes in here until it is committed. Whoever raises one looks at what
    came in before, and does not see a take that goes on. S1's lock is taken last: seals wait for it. SQLite has one
    writer at a time.

    Errors: NotNow where a floor was raised past some of it since this began.
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
            f"{sums.file.name}: `sample prune` closed some of its time meanwhile; nothing was taken: try again"
        )


def _floors(connection: sa.Connection, above_ms: int) -> dict[str, int]:
    rows = SQL.run(connection, "floors_above", {"above_ms": above_ms})
    return {str(row.org_id): int(row.floor_ms) for row in rows}


def _require_uncharged(connection: sa.Connection, sums: Sums) -> None:
    """Errors: Refused."""
    types = [str(kind) for kind in sums.kinds]
    charged.share(connection, types)
    ever = charged.ever_charged(connection, types)
    if not ever:
        return
    spots = {(str(kind), int(window)) for parts in sums.parts() for _, _, window, kind, _ in parts if kind in ever}
    for (event_type, window_ms), metric in sorted(charged.charged(connection, spots).items()):
        raise Refused(
            f"{sums.file.name}: {event_type} is charged at once in the window of {utc(window_ms)}, by the guard as "
            f"{metric}: take its rows out, and send their use to POST /v1/guard/consume"
        )


def _put_in(connection: sa.Connection, sums: Sums, now_ms: int) -> None:
    sizes = _sizes(connection, sums)
    for parts in sums.parts():
        samples = [_sample(sums.batch, part, sizes, now_ms) for part in parts]
        inserted, _ = store(connection, samples, [sums.batch] * len(samples))
        if inserted < len(samples):
            raise Refused(
                f"{sums.file.name}: samples with ids of its own are there already: {samples[0][0]} and others"
            )


def _sizes(connection: sa.Connection, sums: Sums) -> Mapping[int | str, int]:
    """What stands for a size, or for an event type: its meter."""
    if not sums.of_events:
        return {int(size): int(size) for size in sums.kinds}
    types = [str(kind) for kind in sums.kinds]
    found: dict[int | str, int] = dict(known(connection, types).items())
    if missing := sorted(set(types) - {str(kind) for kind in found}):
        raise NotNow(f"{sums.file.name}: there is no room for its event type {missing[0]}")
    return found


def _sample(batch: str, part: Part, sizes: Mapping[int | str, int], now_ms: int) -> Sample:
    number, org_id, window_ms, kind, quantity = part
    whose = f"{OF_BATCHES}{batch}"
    return (f"{whose}:{number}", org_id, whose, CELL, sizes[kind], None, quantity, window_ms, now_ms)


def ids_of(batch: str) -> dict[str, str]:
    """Between which ids the samples of a batch are."""
    return {"first_id": f"{OF_BATCHES}{batch}:", "beyond_id": f"{OF_BATCHES}{batch};"}
