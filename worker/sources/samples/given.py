"""From one JSON object, as a host sends it, to one sample, or the reason why not.

Guarantee: pure. The reasons are those of files (`values.REASONS`), and a sample that is given here is never quarantined
by the database. What a sender is bound to stands in for what the object leaves out, and nothing else is taken from it.
No id is that of a sample which an event or a run has: whoever took it would keep those from being billed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Final, TypeVar

from drawdown.events.envelope import Unfit
from drawdown.events.fields import moment_of
from drawdown.events.reading import Item
from drawdown.schema.units import EARLIEST_TS, FUTURE_SLACK_MS
from drawdown.worker.sources.samples.rows import FIELDS, Sample, meaning
from drawdown.worker.sources.samples.values import (
    BadRow,
    id_reader,
    read_cpu_count,
    read_interval_s,
    read_memory_mb,
    read_sample_id,
)

T = TypeVar("T")

_READ_ID: Final = {"id": read_sample_id, **{name: id_reader(name) for name in FIELDS[1:4]}}


def sample_of(item: Item, org_id: str | None, cell_id: str | None, now_ms: int) -> Sample:
    """Errors: Unfit `unknown_field`, `…_missing` of an id, `reserved_id`, `foreign_org`, `foreign_cell`, or a reason of
    `values.REASONS`."""
    for name in item:
        if name not in FIELDS:
            raise Unfit("unknown_field", f"a sample has no {name}: its names are {', '.join(FIELDS)}", name)
    given = {
        **_bound("org_id", org_id),
        **_bound("cell_id", cell_id),
        **{n: v for n, v in item.items() if v is not None},
    }
    try:
        return (
            _id(given, "id"),
            _own(given, "org_id", org_id, "foreign_org"),
            _id(given, "sandbox_id"),
            _own(given, "cell_id", cell_id, "foreign_cell"),
            _number(given, "memory_mb", read_memory_mb),
            _number(given, "cpu_count", read_cpu_count),
            _number(given, "interval_s", read_interval_s),
            _moment(given, now_ms),
            now_ms,
        )
    except BadRow as bad:
        raise Unfit(bad.reason, f"{bad.column} {meaning(bad.reason)}", bad.column) from None


def _bound(name: str, to: str | None) -> Item:
    return {} if to is None else {name: to}


def _id(item: Item, name: str) -> str:
    if name not in item:
        raise Unfit(f"{name}_missing", f"{name} is missing", name)
    found = item[name]
    if not isinstance(found, str):
        raise Unfit(f"bad_{name}", f"{name} is a text", name)
    return _READ_ID[name](found)


def _own(item: Item, name: str, bound: str | None, code: str) -> str:
    found = _id(item, name)
    if bound is not None and found != bound:
        raise Unfit(code, f"this key is bound to {bound}: name that, or use another key", name)
    return found


def _number(item: Item, name: str, read: Callable[[str], T]) -> T:
    """Of a number, or of the text of one."""
    found = item.get(name, "")
    if isinstance(found, str):
        return read(found)
    plain = isinstance(found, int | Decimal) and not isinstance(found, bool)
    return read(str(found) if plain else json.dumps(None))


def _moment(item: Item, now_ms: int) -> int:
    if "ts" not in item:
        raise BadRow("ts", "ts_missing")
    try:
        found = moment_of(item["ts"], "ts")
    except Unfit as error:
        raise Unfit("ts_unreadable", str(error), "ts") from None
    if found < EARLIEST_TS:
        raise Unfit("ts_before_2000", "ts is before the year 2000: a number counts milliseconds, not seconds", "ts")
    if found > now_ms + FUTURE_SLACK_MS:
        raise BadRow("ts", "ts_in_the_future")
    return found
