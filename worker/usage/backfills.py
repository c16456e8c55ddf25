"""Backfills: usage events of the past are staged, shown with what they come to, and put in by a person's word.

Guarantee: what is staged is no usage: no seal, watch or proof sees it. Closing names the hash of the difference that
was shown, and puts in exactly that, in one transaction, or nothing. Reverting withdraws all that went in by it, and the
seal gives the money back; whoever is interrupted gives the same command again. The ids of what was reverted are never
taken again. A backfill speaks for its organisation alone: an id that another one used is no matter to it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.schema import ids
from drawdown.schema.audit import By, record, require_org
from drawdown.schema.clock import utc
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS, EXEMPT_PROVIDERS, WINDOW_MS
from drawdown.worker.catalog.prices import add, rate_card
from drawdown.worker.engine.witness import Witness
from drawdown.worker.sources.events import keys
from drawdown.worker.sources.events.charged import charged, spot_of
from drawdown.worker.sources.events.store import WITHDRAWN, Taken, charged_at_once, keep_above_floor, names_of, take
from drawdown.worker.usage.withdrawals import withdraw

SQL = queries(__file__)

MAX_RANGE_MS: Final = 31 * DAY_MS
MOST_STAGED: Final = 100_000
"""Events of one backfill: closing puts them in by one transaction."""
TAKEN_AT_ONCE: Final = 1_000
"""Events of one batch, within that transaction."""
REVERTED_AT_ONCE: Final = 500
"""Events that one transaction withdraws."""
_REPEATED: Final = Taken("duplicate")
_OTHER: Final = Taken("conflict", "other_content", "its source and id stand in this backfill, with other content")


@dataclass(frozen=True)
class Backfill:
    """A row of `backfills`: it holds events in [from_ms, to_ms) of one organisation."""

    backfill: str
    org_id: str
    from_ms: int
    to_ms: int
    state: str
    at_ms: int
    closed_ms: int | None
    reverted_ms: int | None
    diff_hash: str | None
    actor: str
    reason: str


@dataclass(frozen=True)
class DiffLine:
    """What would be used: `quantity` of a feature, or of an event type that makes none (`code` says why it would wait),
    in `windows`; `price_micro` by the ledger's rate card, None without a price; 0 where nobody bills here."""

    what: str
    provider: str | None
    code: str | None
    events: int
    quantity: int
    windows: int
    price_micro: int | None


@dataclass(frozen=True)
class Diff:
    """What closing would do. `counts`: events by what would become of them: `new` ones go in; a `duplicate` is usage
    already; a `conflict` has another event's key; a `too_late`, `withdrawn` or `charged_at_once` one never goes in."""

    backfill: Backfill
    counts: dict[str, int]
    lines: list[DiffLine]
    price_micro: int | None
    hash: str


def open_backfill(connection: sa.Connection, name: str, org_id: str, from_ms: int, to_ms: int, by: By) -> Backfill:
    """Begin one. Given again while it is open, it is the same.

    Errors: UsageError for a name or range that is none; UnknownId; Refused for a name that was used otherwise or has
    ended, a range below the organisation's floor, or where another one is open.
    """
    if not is_clean_id(name):
        raise UsageError("a backfill's name has 1 to 200 characters, none of them control characters")
    floor = int(require_org(connection, org_id).floor_ms)
    if from_ms % WINDOW_MS or to_ms % WINDOW_MS:
        raise UsageError("--from and --to must lie on a window boundary (a multiple of five minutes)")
    if not 0 < to_ms - from_ms <= MAX_RANGE_MS:
        raise UsageError(f"a backfill is of {MAX_RANGE_MS // DAY_MS} days at most, and --to lies after --from")
    if to_ms > by.now_ms:
        raise UsageError("--to lies ahead: a backfill is of the past")
    if from_ms < floor:
        raise Refused(f"{org_id}: windows before {utc(floor)} are closed for good; give --from {utc(floor)}")
    values = {"backfill": name, "org_id": org_id, "from_ms": from_ms, "to_ms": to_ms, "at_ms": by.now_ms}
    new = SQL.run(connection, "open", {**values, "actor": by.actor, "reason": by.reason}).first()
    found = _read(connection, name)
    if new is not None and found is not None:
        record(connection, "backfill_open", name, {"org_id": org_id, "from_ms": from_ms, "to_ms": to_ms}, by)
        return found
    if found is None:
        other = SQL.run(connection, "open_of", {"org_id": org_id}).scalar()
        first = "it was ended this moment: try again" if other is None else f"close or revert {other} first"
        raise Refused(f"{org_id} has a backfill open: {first}")
    if (found.org_id, found.from_ms, found.to_ms) != (org_id, from_ms, to_ms):
        raise Refused(f"there is a backfill {name} of {found.org_id}, of another range: give this one another name")
    _require_open(found)
    return found


def stage(connection: sa.Connection, name: str, events: Sequence[UsageEvent], now_ms: int) -> list[Taken]:
    """Add events to one that is open; an answer for each. Nothing of them is usage yet.

    Errors: UnknownId; Refused where it is not open, or would hold more than MOST_STAGED.
    """
    found = _require_open(_hold(connection, name))
    names = names_of(events, own=True)
    gone = _gone(connection, names, events)
    at_once = charged(connection, {spot_of(event) for event in events})
    wrong = [
        _outside(found, event) or (WITHDRAWN if name in gone else charged_at_once(event, at_once))
        for name, event in zip(names, events, strict=True)
    ]
    asked = [_row(name, event) for name, event in zip(names, events, strict=True)]
    rows: dict[str, dict[str, Any]] = {}
    for row in (row for row, no in zip(asked, wrong, strict=True) if no is None):
        rows.setdefault(row["sample_id"], row)
    new = set(SQL.run(connection, "stage", {"backfill": name, "events": list(rows.values())}).scalars())
    if int(SQL.run(connection, "staged", {"backfill": name}).scalar_one()) > MOST_STAGED:
        raise Refused(f"a backfill holds {MOST_STAGED:,} events at most: close this one, and open another for the rest")
    values = {"backfill": name, "sample_ids": list(rows)}
    stored = {row["sample_id"]: dict(row) for row in SQL.run(connection, "staged_before", values).mappings()}
    return [no or _staged(row, stored[row["sample_id"]], new) for row, no in zip(asked, wrong, strict=True)]


def _staged(row: Mapping[str, Any], stored: Mapping[str, Any], new: set[str]) -> Taken:
    """The answer to an event, by what stands under its key. Of those that are `new` the first is accepted."""
    if stored != row:
        return _OTHER
    if row["sample_id"] not in new:
        return _REPEATED
    new.remove(row["sample_id"])
    return Taken("accepted")


def _gone(connection: sa.Connection, names: Sequence[str], events: Sequence[UsageEvent]) -> set[str]:
    """Those that were withdrawn, and pruned since: nothing shows them."""
    asked = keys.keyed(names, events, own=True)
    gone = keys.withdrawn(connection, asked)
    return gone - {name for name, _ in keys.stored(connection, asked)} if gone else gone


def _outside(found: Backfill, event: UsageEvent) -> Taken | None:
    if event.org_id != found.org_id:
        return Taken("invalid", "foreign_org", f"this backfill is of {found.org_id}")
    if not found.from_ms <= event.occurred_ms < found.to_ms:
        return Taken("invalid", "outside", f"this backfill is of {utc(found.from_ms)} to {utc(found.to_ms)}")
    return None


def diff(connection: sa.Connection, name: str) -> Diff:
    """What closing would do now. Errors: UnknownId; Refused where it is not open."""
    return _diff(connection, _require_open(_require(connection, name)))


def close(connection: sa.Connection, name: str, shown: str, by: By) -> Diff:
    """Put in what was shown: `shown` is its hash. Given again once it is done, it does nothing.

    Errors: UnknownId; Refused for a hash of something else, where it was reverted, or windows were closed for good.
    """
    found = _hold(connection, name)
    if found.state == "closed" and found.diff_hash == shown:
        return Diff(found, {}, [], None, shown)
    _require_open(found)
    now = _diff(connection, found)
    if now.hash != shown:
        raise Refused(f"that is no hash of what {name} comes to now: look at it with `drawdown backfill show {name}`")
    SQL.run(connection, "drop_others", _of(found))
    events = [_event(found.org_id, row) for row in SQL.run(connection, "held", {"backfill": name}).mappings()]
    if len(events) != now.counts.get("new", 0):
        raise Refused(f"events of {name} came in otherwise meanwhile: look at it again")
    for start in range(0, len(events), TAKEN_AT_ONCE):
        for answer in take(connection, events[start : start + TAKEN_AT_ONCE], by.now_ms, own=True):
            if answer.status not in ("accepted", "pending"):
                raise Refused(f"an event of {name} came in otherwise meanwhile ({answer.code}): look at it again")
    keep_above_floor(connection, found.org_id, events)
    SQL.run(connection, "close", {"backfill": name, "now_ms": by.now_ms, "diff_hash": shown})
    details = {"org_id": found.org_id, "hash": shown, "events": len(events), "price_micro": now.price_micro}
    record(connection, "backfill_close", name, details, by)
    return now


def revert(connection: sa.Connection, name: str, by: By, judged: Witness | None = None) -> tuple[int, bool]:
    """Withdraw a part of what went in; how many events, and whether it is done. It is called until that is so. What was
    never closed is forgotten at once. `judged`: by `judge_backfill`, before the first part.

    Errors: UnknownId; Refused and HistoryDoubted as for `withdraw`.
    """
    found = _hold(connection, name)
    if found.state == "reverted":
        return 0, True
    taken: Sequence[str] = ()
    if found.state == "open":
        SQL.run(connection, "drop_all", {"backfill": name})
    else:
        taken = SQL.run(connection, "in_force", {"backfill": name, "at_most": REVERTED_AT_ONCE}).scalars().all()
        withdraw(connection, taken, by, judged)
        if len(taken) == REVERTED_AT_ONCE:
            return len(taken), False
    SQL.run(connection, "revert", {"backfill": name, "now_ms": by.now_ms})
    record(connection, "backfill_revert", name, {"org_id": found.org_id, "was": found.state}, by)
    return len(taken), True


def _diff(connection: sa.Connection, found: Backfill) -> Diff:
    counts = {str(row.standing): int(row.events) for row in SQL.run(connection, "counts", _of(found))}
    card, said = rate_card(connection), hashlib.sha256()
    sums: dict[tuple[str, str | None, str | None], list[Any]] = {}
    by_window: dict[tuple[int, str, str | None, str | None], list[int]] = {}
    for row in SQL.run(connection, "windows", _of(found)):
        what, code = _made(row)
        part = by_window.setdefault((int(row.window_ms), what, row.provider, code), [0, 0])
        part[0], part[1] = part[0] + int(row.events), part[1] + int(row.quantity)
    for (window_ms, what, provider, code), (events, quantity) in by_window.items():
        billed = code is None and provider not in EXEMPT_PROVIDERS
        price = card.price(what, window_ms, quantity) if billed else 0
        said.update(json.dumps([window_ms, what, provider, code, events, quantity, price]).encode())
        line = sums.setdefault((what, provider, code), [0, 0, 0, 0])
        line[:] = line[0] + events, line[1] + quantity, line[2] + 1, add(line[3], price)
    for content in _contents(connection, found):
        said.update(content)
    said.update(json.dumps([found.backfill, sorted(counts.items())]).encode())
    lines = [DiffLine(*key, *values) for key, values in sorted(sums.items(), key=lambda one: str(one[0]))]
    total: int | None = 0
    for one in lines:
        total = add(total, one.price_micro)
    return Diff(found, counts, lines, total, said.hexdigest()[:32])


def _made(row: Any) -> tuple[str, str | None]:
    """A feature; or the type that makes none that is billed, and why it would wait."""
    if row.feature is None:
        return str(row.event_type), "unmapped"
    return str(row.feature), "unassigned" if row.provider is None else None


def _contents(connection: sa.Connection, found: Backfill) -> Iterator[bytes]:
    for row in SQL.run(connection, "new_events", _of(found)).mappings():
        yield json.dumps(list(row.values())).encode()


def _of(found: Backfill) -> dict[str, object]:
    return {"backfill": found.backfill, "org_id": found.org_id}


def _row(sample_id: str, event: UsageEvent) -> dict[str, Any]:
    fields = ("source", "event_id", "event_type", "quantity", "subject", "project", "plan_key")
    said = {name: getattr(event, name) for name in fields}
    return {"sample_id": sample_id, **said, "ts": event.occurred_ms, "properties": event.properties_json}


def _event(org_id: str, row: Mapping[Any, Any]) -> UsageEvent:
    said = {name: row[name] for name in ("source", "event_id", "event_type", "subject", "project", "plan_key")}
    said |= {"quantity": int(row["quantity"]), "occurred_ms": int(row["ts"])}
    return UsageEvent(**said, org_id=org_id, properties=json.loads(row["properties"]))


def _read(connection: sa.Connection, name: str, held: str = "") -> Backfill | None:
    row = SQL.run(connection, "read", {"backfill": name}, held=held).mappings().one_or_none()
    return None if row is None else Backfill(**row)


def _require(connection: sa.Connection, name: str, held: str = "") -> Backfill:
    found = _read(connection, name, held)
    if found is None:
        ids.require(connection, ids.BACKFILL, name)
        raise Refused(f"the backfill {name} appeared this moment: try again")
    return found


def _hold(connection: sa.Connection, name: str) -> Backfill:
    return _require(connection, name, "for_update")


def _require_open(found: Backfill) -> Backfill:
    if found.state != "open":
        raise Refused(f"the backfill {found.backfill} is {found.state}: open another, with a name of its own")
    return found
