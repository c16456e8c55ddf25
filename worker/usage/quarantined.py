"""Fix quarantined samples with the intended time, or dismiss them.

Guarantee: samples are not edited (S7). A fixed sample is inserted once, with the same content except its time, under a
new id that contains the original id or its hash. It arrives like any other sample, and the next tick seals it. A sample
stays quarantined, with the reason, if a correct sample has arrived, if a different sample has the new id, if it is
below the floor, if its time cannot be read, or if its fault is not its time. Both commands choose and check samples
under rule S1's lock, so several people can use them at the same time. If several samples mean the same sandbox and
moment, one of them is inserted. A dismissed sample is not billed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TypeAlias, cast

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import By, record_many
from drawdown.schema.errors import DatabaseBusy, Refused, UsageError
from drawdown.schema.locks import lock_buckets
from drawdown.schema.sql import queries
from drawdown.schema.text import quote_value
from drawdown.schema.units import EARLIEST_TS, FUTURE_SLACK_MS, MAX_ID_CHARS
from drawdown.worker.sources.samples.quarantine import (
    CUT_AT,
    TIME_REASON,
    UNITS,
    QuarantineFilter,
    SampleRow,
    cut,
    is_cut,
    list_quarantined,
    time_of,
    values_of,
)
from drawdown.worker.sources.samples.quarantine import SQL as QUARANTINE
from drawdown.worker.sources.samples.rows import COLUMNS, Sample, plain
from drawdown.worker.sources.samples.store import differing, store

MAX_MENDED: Final = 5_000
"""Samples that one command fixes or dismisses, in one transaction."""
AS: Final = ("auto", *UNITS, "iso")
_SUFFIX: Final = ":fixed"
SandboxMoment: TypeAlias = tuple[str, str, int]
"""An organisation, its sandbox, and a moment in milliseconds."""
Row: TypeAlias = sa.Row[tuple[object, ...]]
SQL = queries(__file__)


@dataclass(frozen=True)
class Mended:
    """The outcome for one sample.

    `ts`: the original time as text. `new_id`, `ts_ms`, `unit`: the id of the new sample, its time, and the unit in
    which `ts` was read (None: not inserted). `interval_s`: the seconds of the new sample (0: not inserted). `why_not`:
    the reason why it was not inserted (None: it was inserted).
    """

    sample_id: str
    org_id: str
    ts: str
    new_id: str | None = None
    ts_ms: int | None = None
    unit: str | None = None
    interval_s: int = 0
    why_not: str | None = None


def fix(connection: sa.Connection, chosen: QuarantineFilter, by: By, *, unit: str = "auto") -> list[Mended]:
    """Insert quarantined samples again if only their time is wrong.

    The new time is the stored text, read in `unit`. `unit` `auto`: the unit in which the text is a time between 2000
    and now. If several samples mean the same sandbox and moment, the first by id is inserted.

    Errors: UsageError for an unknown unit, or more than MAX_MENDED samples. UnknownId for an unknown id. Refused for
    the id of a sample that is not quarantined. DatabaseBusy if a concurrent sample used a new id.
    """
    if unit not in AS:
        raise UsageError(f"invalid --as {quote_value(unit)}: expected one of {', '.join(AS)}")
    lock_buckets(connection)  # so that this call sees the samples of a concurrent fix, and a raised floor
    rows = _chosen(connection, chosen, by)
    wrong_time = [row.sample_id for row in rows if _is_of_its_time(row)]
    asked = {"sample_ids": wrong_time}
    whole = {row.id: row for row in SQL.run(connection, "whole_samples", asked)} if wrong_time else {}
    found: list[Mended] = []
    entered: dict[SandboxMoment, str] = {}
    for row in rows:
        fixed = _judge(connection, row, whole.get(row.sample_id), unit, by.now_ms, entered)
        if fixed.new_id is not None and fixed.ts_ms is not None:
            entered[(row.org_id, row.sandbox_id, fixed.ts_ms)] = fixed.new_id
        found.append(fixed)
    good = [fixed for fixed in found if fixed.new_id is not None]
    if good:
        samples = [_sample(fixed, whole[fixed.sample_id], by.now_ms) for fixed in good]
        _, conflicts = store(connection, samples, [f"fixed:{fixed.sample_id}" for fixed in good])
        if conflicts:
            raise DatabaseBusy(
                "cannot fix the samples: another call just stored a sample with the new id of one of them. Try again"
            )
        _close(connection, {fixed.sample_id: fixed.new_id for fixed in good}, by)
        record_many(connection, "sample_repair", [(fixed.sample_id, _details(fixed)) for fixed in good], by)
    return found


def _details(fixed: Mended) -> dict[str, object]:
    return {"new_id": fixed.new_id, "ts": fixed.ts, "ts_ms": fixed.ts_ms, "as": fixed.unit}


def dismiss(connection: sa.Connection, chosen: QuarantineFilter, by: By) -> list[str]:
    """Dismiss quarantined samples.

    Return their ids. Dismissed samples are neither billed nor counted as quarantined. An id that is too long is
    returned cut, once for each sample.

    Errors: UsageError for more than MAX_MENDED samples. UnknownId for an unknown id. Refused for the id of a sample
    that is not quarantined.
    """
    lock_buckets(connection)  # a sample that was fixed meanwhile is billed, and must not be dismissed
    rows = _chosen(connection, chosen, by)
    names = list(dict.fromkeys(row.sample_id for row in rows if row.id_bytes is None))
    _close(connection, dict.fromkeys(names), by)
    done: list[tuple[str, dict[str, object]]] = [(name, {}) for name in names]
    for name in dict.fromkeys(row.sample_id for row in rows if row.id_bytes is not None):
        closed = _close_long(connection, name, chosen, by)
        done.append((name, {"samples": closed}))
        names += [name] * closed
    record_many(connection, "sample_dismiss", done, by)
    return names


def undo_dismiss(connection: sa.Connection, sample_ids: Sequence[str], by: By, only: str | None = None) -> list[str]:
    """Quarantine dismissed samples again.

    `only`: the organisation to which the samples must belong (None: any).

    Errors, without any change: UnknownId if a sample is unknown, or does not belong to `only`. Refused if a sample is
    not dismissed.
    """
    for name in sample_ids:
        its_id = "cut_id" if is_cut(name) else "whole_id"
        values = {"sample_id": name, "org_id": only or "", **CUT_AT}
        if not QUARANTINE.run(connection, "undo_dismiss", values, its_id=its_id).rowcount:
            if only is not None:
                raise ids.not_of(ids.SAMPLE, name, only)
            ids.require(connection, ids.SAMPLE, name)
            raise Refused(
                f"cannot undo the dismissal of sample {name}: the sample is not dismissed. Drawdown did not change any "
                "sample. To list dismissals, run `drawdown audit list --action sample_dismiss`"
            )
    record_many(connection, "sample_dismiss_undo", [(name, {}) for name in sample_ids], by)
    return list(sample_ids)


def _chosen(connection: sa.Connection, chosen: QuarantineFilter, by: By) -> list[SampleRow]:
    """Return the chosen quarantined samples, each once.

    Errors: UsageError for more than MAX_MENDED; UnknownId, or Refused, for a named sample that is not quarantined.
    """
    page = list_quarantined(connection, chosen, by.now_ms, most=MAX_MENDED)
    if page.next_after is not None:
        raise UsageError(f"more than {MAX_MENDED:,} samples match. Choose fewer with --org, --why, --from and --to")
    there = {row.sample_id for row in page.samples}
    for name in chosen.ids:
        if cut(name) not in there:
            if chosen.org:
                raise ids.not_of(ids.SAMPLE, name, chosen.org)
            ids.require(connection, ids.SAMPLE, name)
            raise Refused(
                f"the sample {name} is not quarantined. To list quarantined samples, run `drawdown sample quarantined`"
            )
    return page.samples


def _judge(
    connection: sa.Connection,
    row: SampleRow,
    whole: Row | None,
    unit: str,
    now_ms: int,
    entered: Mapping[SandboxMoment, str],
) -> Mended:
    no = Mended(row.sample_id, row.org_id, row.ts)
    if whole is None or not _is_of_its_time(row):
        return Mended(
            row.sample_id, row.org_id, row.ts, why_not=f"the fault of the sample is not its time, but {row.reason}"
        )
    moment, read_as = (row.meant_ms, row.meant_as) if unit == "auto" else (time_of(row.ts, unit), unit)
    if moment is None:
        why = "Drawdown cannot read its time in this unit"
    elif not EARLIEST_TS <= moment <= now_ms + FUTURE_SLACK_MS:
        why = f"read as {read_as}, its time is before the year 2000 or in the future"
    elif moment < whole.floor_ms:
        why = "the window of the sample is below the floor, and closed for good"
    elif (twin := _twin(connection, row, moment, entered)) is not None:
        why = f"its sandbox already has a sample of that time: {twin}"
    else:
        new_id = _new_id(row.sample_id)
        fixed = Mended(row.sample_id, row.org_id, row.ts, new_id, moment, read_as, int(whole.interval_s))
        if not differing(connection, [_sample(fixed, whole, now_ms)]):
            return fixed
        why = f"a different sample already has its new id {new_id}"
    return Mended(no.sample_id, no.org_id, no.ts, why_not=why)


def _is_of_its_time(row: SampleRow) -> bool:
    return row.reason is not None and row.reason.startswith(TIME_REASON)


def _twin(connection: sa.Connection, row: SampleRow, moment: int, entered: Mapping[SandboxMoment, str]) -> str | None:
    """Return the id of a sample in force of the same sandbox and moment, or None.

    If such a sample exists, a second insert would bill the use twice. Samples that this command is about to insert also
    count as in force. So one command for all samples bills the same as one command for each sample.
    """
    if (before := entered.get((row.org_id, row.sandbox_id, moment))) is not None:
        return before
    values = {"org_id": row.org_id, "ts": moment, "sandbox_id": row.sandbox_id, "new_id": _new_id(row.sample_id)}
    found = SQL.run(connection, "twin", values).scalar()
    return None if found is None else str(found)


def _new_id(sample_id: str) -> str:
    """Return the id for the fixed sample, which is the same in each call."""
    if len(sample_id) + len(_SUFFIX) <= MAX_ID_CHARS:
        return f"{sample_id}{_SUFFIX}"
    return f"{sample_id[:100]}…{hashlib.sha256(sample_id.encode()).hexdigest()[:32]}{_SUFFIX}"


def _sample(fixed: Mended, whole: Row, now_ms: int) -> Sample:
    """Return a sample with its new id and time. Its other fields are valid."""
    assert fixed.new_id is not None and fixed.ts_ms is not None
    cpu = None if whole.cpu_count is None else plain(Decimal(str(whole.cpu_count)))
    new = {"id": fixed.new_id, "interval_s": fixed.interval_s, "ts": fixed.ts_ms, "ingested_at": now_ms}
    values = {**whole._mapping, **new, "memory_mb": int(whole.memory_mb), "cpu_count": cpu}
    return cast(Sample, tuple(values[name] for name in COLUMNS))


def _close_long(connection: sa.Connection, name: str, chosen: QuarantineFilter, by: By) -> int:
    """Dismiss the samples with long ids that begin like `name`. Return their number."""
    person = {"at_ms": by.now_ms, "actor": by.actor, "reason_given": by.reason}
    values = {**values_of(chosen), **CUT_AT, **person, "sample_id": name}
    return QUARANTINE.run(connection, "close_long", values).rowcount


def _close(connection: sa.Connection, closed: dict[str, str | None], by: By) -> None:
    rows = [{"sample_id": sample_id, "new_id": new_id} for sample_id, new_id in sorted(closed.items())]
    person = {"at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    SQL.run(connection, "close", {"closed": rows, **person})
