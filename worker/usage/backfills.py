"""Stage usage events of the past in backfills, and show their sums.

The events become usage when a person closes the backfill.

Guarantee: a staged event is not usage yet, so seals, the watch and proofs do not read it. To close a backfill, a person
passes the hash of the shown effect. One transaction applies exactly that effect, or the call is refused. A revert
withdraws all events that the backfill added, and the seal refunds the charges. If a revert is interrupted, a repeated
command completes it. The ids of reverted events are never accepted again. A backfill affects only its organisation,
because another organisation may have used the same id.

A file has one event on each line: the envelope, or CloudEvents. Each line that is not blank gives one event, or one
error, with the number of the line. Each event in a file must have a time. Otherwise, a second read of the file would
give a different event.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import sqlalchemy as sa

from drawdown.events import cloudevents
from drawdown.events.body_items import Unreadable
from drawdown.events.envelope import Unfit, UsageEvent
from drawdown.events.values import EventValue
from drawdown.ledger.wallet import read_ahead
from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema import ids
from drawdown.schema.audit import By, record, require_org
from drawdown.schema.clock import utc
from drawdown.schema.errors import Refused, UsageError, explain_race
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import queries
from drawdown.schema.text import quote_value
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import DAY_MS, EXEMPT_PROVIDERS, WINDOW_MS
from drawdown.worker.catalog.wallets import add, rate_card
from drawdown.worker.engine.witness import Witness
from drawdown.worker.sources.events import store
from drawdown.worker.sources.events.store import (
    WITHDRAWN,
    EventResult,
    charged_at_once,
    keep_above_floor,
    names_of,
    take,
)
from drawdown.worker.sources.events.types import charged, spot_of
from drawdown.worker.sources.samples.importer import NumberedLines, is_blank
from drawdown.worker.usage.withdrawals import withdraw
from drawdown.worker.verdict.effective_balance import unbilled_micro
from drawdown.worker.verdict.rules import Overrides, verdict

SQL = queries(__file__)

MAX_RANGE_MS: Final = 31 * DAY_MS
"""Longest range of one backfill, in milliseconds."""
MOST_STAGED: Final = 100_000
"""Most events of one backfill.

One transaction adds all of them when the backfill is closed.
"""
TAKEN_AT_ONCE: Final = 1_000
"""Events that one step adds, in the transaction that closes a backfill."""
REVERTED_AT_ONCE: Final = 500
"""Events that one transaction withdraws."""
_REPEATED: Final = EventResult("duplicate")
_OTHER: Final = EventResult(
    "conflict", "other_content", "this backfill has an event with its source and id, but different content"
)


@dataclass(frozen=True)
class Backfill:
    """A row of `backfills`, with events of one organisation in [from_ms, to_ms).

    `closed_ms`, `reverted_ms` None: that did not happen. `diff_hash`: the hash of the effect that a person confirmed
    (None: it was never closed).
    """

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
    """The usage of a feature or event type that closing a backfill would add.

    `what`: a feature, or an event type without a feature. `quantity`: the base units of the usage. `provider`: the
    provider that would bill (None: the organisation is not assigned). `windows`: the number of windows. `code`: why the
    usage would be pending, `unmapped` or `unassigned` (None: it would be billed, or is exempt). `price_micro`: the
    charge by the ledger's rate card, in micro-credits (None: the card lacks a price; 0: the usage would not be billed).
    """

    what: str
    provider: str | None
    code: str | None
    events: int
    quantity: int
    windows: int
    price_micro: int | None

    @property
    def is_exempt(self) -> bool:
        """Return True if the usage would be neither billed nor pending."""
        return self.provider in EXEMPT_PROVIDERS


@dataclass(frozen=True)
class Diff:
    """The effect of closing a backfill.

    `counts`: the number of events by outcome. A `new` event becomes usage. A `duplicate` event is usage already. A
    `conflict` event has the key of another event. A `too_late`, `withdrawn` or `charged_at_once` event never becomes
    usage. `price_micro`: the total charge (None: a feature lacks a price). `hash`: the hash that closes the backfill.
    """

    backfill: Backfill
    counts: dict[str, int]
    lines: list[DiffLine]
    price_micro: int | None
    hash: str


def open_backfill(connection: sa.Connection, name: str, org_id: str, from_ms: int, to_ms: int, by: By) -> Backfill:
    """Open a backfill. While it is open, a repeated call returns the same backfill.

    Errors: UsageError for an invalid name or range. UnknownId for the organisation. Refused if a backfill with this
    name has another organisation or range, or is not open. Refused if the range begins below the floor, if the
    organisation has another open backfill, or if only its samples are known.
    """
    if not is_clean_id(name):
        raise UsageError(
            f"invalid backfill name {quote_value(name)}: expected 1 to 200 characters without control characters"
        )
    floor = int(require_org(connection, org_id).floor_ms)
    if from_ms % WINDOW_MS or to_ms % WINDOW_MS:
        raise UsageError(
            f"invalid range {show_time(from_ms)} to {show_time(to_ms)}: expected window boundaries (multiples of five "
            "minutes)"
        )
    if not 0 < to_ms - from_ms <= MAX_RANGE_MS:
        raise UsageError(
            f"invalid range {show_time(from_ms)} to {show_time(to_ms)}: --to must be later than --from, by at most "
            f"{MAX_RANGE_MS // DAY_MS} days"
        )
    if to_ms > by.now_ms:
        raise UsageError(
            f"invalid --to {show_time(to_ms)}: it is in the future, but a backfill is for past events. Pass an earlier "
            "time"
        )
    if from_ms < floor:
        raise Refused(f"windows of {org_id} before {utc(floor)} are closed for good. Pass --from {utc(floor)}")
    values = {"backfill": name, "org_id": org_id, "from_ms": from_ms, "to_ms": to_ms, "at_ms": by.now_ms}
    new = SQL.run(connection, "open", {**values, "actor": by.actor, "reason": by.reason}).first()
    found = _read(connection, name)
    if new is not None and found is not None:
        record(connection, "backfill_open", name, {"org_id": org_id, "from_ms": from_ms, "to_ms": to_ms}, by)
        return found
    if found is None:
        other = SQL.run(connection, "open_of", {"org_id": org_id}).scalar()
        why = "another call just closed its open backfill. Try again"
        why = why if other is None else f"it has the open backfill {other}. Close or revert {other} first"
        raise Refused(f"cannot open a backfill of {org_id}: {why}")
    if (found.org_id, found.from_ms, found.to_ms) != (org_id, from_ms, to_ms):
        raise Refused(
            f"cannot open backfill {name}: the name is used for another organisation or range. Choose another name"
        )
    _require_open(found)
    return found


def stage(connection: sa.Connection, name: str, events: Sequence[UsageEvent], now_ms: int) -> list[EventResult]:
    """Add events to an open backfill. Return an answer for each.

    The events are not usage yet.

    Errors: UnknownId; Refused if the backfill is not open, or would exceed MOST_STAGED events.
    """
    found = _require_open(_hold(connection, name))
    names = names_of(events, own=True)
    gone = _find_pruned(connection, names, events)
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
        raise Refused(
            f"with these events, the backfill {name} would exceed the limit of {MOST_STAGED:,} events. Close the "
            "backfill, and open another backfill for the rest"
        )
    values = {"backfill": name, "sample_ids": list(rows)}
    stored = {row["sample_id"]: dict(row) for row in SQL.run(connection, "staged_before", values).mappings()}
    return [no or _staged(row, stored[row["sample_id"]], new) for row, no in zip(asked, wrong, strict=True)]


def _staged(row: Mapping[str, Any], stored: Mapping[str, Any], new: set[str]) -> EventResult:
    """Return the answer to an event by the stored event with its key.

    The first event of a `new` key is accepted.
    """
    if stored != row:
        return _OTHER
    if row["sample_id"] not in new:
        return _REPEATED
    new.remove(row["sample_id"])
    return EventResult("accepted")


def _find_pruned(connection: sa.Connection, names: Sequence[str], events: Sequence[UsageEvent]) -> set[str]:
    """Return the sample ids of withdrawn events with pruned samples."""
    asked = store.keyed(names, events, own=True)
    gone = store.withdrawn_among(connection, asked)
    return gone - {name for name, _ in store.stored(connection, asked)} if gone else gone


def _outside(found: Backfill, event: UsageEvent) -> EventResult | None:
    if event.org_id != found.org_id:
        return EventResult("invalid", "foreign_org", f"this backfill is for {found.org_id}")
    if not found.from_ms <= event.occurred_ms < found.to_ms:
        return EventResult("invalid", "outside", f"this backfill is for {utc(found.from_ms)} to {utc(found.to_ms)}")
    return None


def diff(connection: sa.Connection, name: str) -> Diff:
    """Return the effect that closing a backfill would have now.

    Errors: UnknownId; Refused if the backfill is not open.
    """
    return _diff(connection, _require_open(_require(connection, name)))


def close(connection: sa.Connection, name: str, shown: str, by: By) -> Diff:
    """Close a backfill, so that the shown events become usage.

    `shown`: the hash of the shown effect.

    A repeated call has no further effect, and returns an effect without counts, lines and price.

    Errors: UnknownId. Refused for another hash, if the backfill was reverted, or if some of its windows were closed for
    good. Refused if another call sent an event of the backfill in the meantime.
    """
    found = _hold(connection, name)
    if found.state == "closed" and found.diff_hash == shown:
        return Diff(found, {}, [], None, shown)
    _require_open(found)
    now = _diff(connection, found)
    if now.hash != shown:
        raise Refused(f"the hash does not match the present content of {name}. Run `drawdown backfill show {name}`")
    SQL.run(connection, "drop_others", _of(found))
    events = [_event(found.org_id, row) for row in SQL.run(connection, "held", {"backfill": name}).mappings()]
    if len(events) != now.counts.get("new", 0):
        raise Refused(
            f"cannot close {name}: other calls just sent some of its events. Run `drawdown backfill show {name}`"
        )
    for start in range(0, len(events), TAKEN_AT_ONCE):
        for answer in take(connection, events[start : start + TAKEN_AT_ONCE], by.now_ms, own=True):
            if answer.status not in ("accepted", "pending"):
                raise Refused(
                    f"cannot close {name}: an event has the status {answer.status} "
                    f"({answer.message or 'the event is already stored'}). Run `drawdown backfill show {name}`"
                )
    keep_above_floor(connection, found.org_id, events)
    SQL.run(connection, "close", {"backfill": name, "now_ms": by.now_ms, "diff_hash": shown})
    details = {"org_id": found.org_id, "hash": shown, "events": len(events), "price_micro": now.price_micro}
    record(connection, "backfill_close", name, details, by)
    return now


def revert(connection: sa.Connection, name: str, by: By, judged: Witness | None = None) -> tuple[int, bool]:
    """Withdraw a portion of a backfill's events.

    Return the number of withdrawn events, and True after the last portion. Call it until it returns True. If the
    backfill is open, the first call deletes all its events. `judged`: the result of `judge_backfill` before the first
    portion.

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
        what, code = _resolve_feature(row)
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


def _resolve_feature(row: Any) -> tuple[str, str | None]:
    """Return the feature or event type of usage, and the reason if it stays pending.

    The reason is None for billed or exempt usage.
    """
    if row.feature is None:
        return str(row.event_type), None if row.provider in EXEMPT_PROVIDERS else "unmapped"
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
        raise Refused(explain_race("backfill", name))
    return found


def _hold(connection: sa.Connection, name: str) -> Backfill:
    return _require(connection, name, "for_update")


def _require_open(found: Backfill) -> Backfill:
    if found.state != "open":
        raise Refused(f"the backfill {found.backfill!r} is {found.state}, not open. Open a backfill with a new name")
    return found


OPEN_MS: Final = 7 * DAY_MS
"""Milliseconds that a backfill may stay open before Drawdown notifies a person."""
MOST_OPEN: Final = 1_000
"""Open backfills that one check reads.

An organisation has one open backfill at most.
"""


@dataclass(frozen=True)
class BackfillRow:
    """A backfill of usage events with times in [from_ms, to_ms).

    `events`: the number of staged events, or of added events once it is closed. `withdrawn`: how many of the added
    events were withdrawn. `closed_ms`, `reverted_ms` None: that did not happen. `diff_hash`: the hash of the effect
    that a person confirmed (None: it was never closed).
    """

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
    events: int
    withdrawn: int

    @property
    def went_in(self) -> str:
        """Return the result of a closed backfill in words."""
        back = f" (withdrawn since: {self.withdrawn:,})" if self.withdrawn else ""
        return f"added events: {self.events:,}{back}"


@dataclass(frozen=True)
class WalletForecast:
    """A wallet's unreserved credit now and after the charge of a backfill.

    `has_micro`: the credit now, without usage that is not charged yet. `remaining_micro`: the same after the charge.
    Both are in micro-credits, without the overdraft. `halts`: the wallet pays for the organisation now, and the
    organisation is not halted, but these charges would halt it.
    """

    org_id: str
    customer_id: str
    has_micro: int
    remaining_micro: int
    halts: bool


@dataclass(frozen=True)
class Overdue:
    """An open backfill that waits for a person's decision.

    `why`: `open_long` (it is open for longer than the check allows) or `below_floor`. In the latter case, a part of its
    range is below its organisation's floor and can never become usage.
    """

    backfill: str
    org_id: str
    at_ms: int
    actor: str
    why: Literal["open_long", "below_floor"]


@dataclass(frozen=True)
class OpenBackfills:
    """The number of open backfills, and the time when the oldest was opened.

    `since_ms`: that time, in milliseconds (None: `count` is 0).
    """

    count: int
    since_ms: int | None


def overdue(connection: sa.Connection, now_ms: int, open_ms: int = OPEN_MS) -> list[Overdue]:
    """Return open backfills that need a person's decision, the oldest first."""
    found = []
    for row in SQL.run(connection, "open_lists", {"at_most": MOST_OPEN}):
        is_below = int(row.floor_ms) > int(row.from_ms)
        if is_below or now_ms - int(row.at_ms) > open_ms:
            why: Literal["open_long", "below_floor"] = "below_floor" if is_below else "open_long"
            found.append(Overdue(row.backfill, row.org_id, int(row.at_ms), row.actor, why))
    return found


def open_backfills(connection: sa.Connection) -> OpenBackfills:
    """Return the number of open backfills, and the time of the oldest."""
    row = SQL.run(connection, "figures").one()
    return OpenBackfills(int(row.backfills), None if row.since_ms is None else int(row.since_ms))


def list_backfills(connection: sa.Connection, *, org_id: str = "", most: int = 100) -> list[BackfillRow]:
    """Return backfills, newest first.

    `org_id`: return only backfills of this organisation ('': of all organisations). Errors: UnknownId.
    """
    if org_id:
        ids.require(connection, ids.ORG, org_id)
    return _rows(connection, org_id, "", most)


def show_backfill(connection: sa.Connection, backfill: str) -> BackfillRow:
    """Return one backfill. Errors: UnknownId."""
    found = _rows(connection, "", backfill, 1)
    if not found:
        ids.require(connection, ids.BACKFILL, backfill)
        raise Refused(explain_race("backfill", backfill))
    return found[0]


def uncharged(connection: sa.Connection, found: BackfillRow, now_ms: int) -> int:
    """Return the uncharged usage of the wallet that pays for a backfill.

    The result is in micro-credits. Call it before you close the backfill: afterwards, it may include the backfill. It
    is 0 unless exactly one wallet of the embedded ledger pays for the range.
    """
    org = _payer_of(connection, found, now_ms)
    return 0 if org is None else unbilled_micro(connection, str(org.customer_id), now_ms)


def left_after(
    connection: sa.Connection, found: BackfillRow, price_micro: int, uncharged_micro: int, now_ms: int
) -> WalletForecast | None:
    """Return the forecast of the wallet that pays for a backfill's range.

    `price_micro`: the charge of the backfill, in micro-credits. `uncharged_micro`: the result of `uncharged`. Returns
    None unless exactly one wallet of the embedded ledger pays for the range.
    """
    org = _payer_of(connection, found, now_ms)
    if org is None:
        return None
    wallet = read_ahead(connection, [org.customer_id], now_ms)[org.customer_id]
    has = wallet.payable_micro - uncharged_micro
    left = has - price_micro
    halted = None if org.override_halted is None else bool(org.override_halted)
    said = Overrides(bool(org.operator_halt), halted, until_ms=org.override_until_ms)
    then = verdict(left, wallet.max_concurrent, said, now_ms, held_micro=wallet.held_micro)
    halts = bool(org.bills_now) and then.is_halted and not org.is_halted
    return WalletForecast(found.org_id, org.customer_id, has - wallet.held_micro, left - wallet.held_micro, halts)


def _payer_of(connection: sa.Connection, found: BackfillRow, now_ms: int) -> sa.Row[Any] | None:
    span = {"org_id": found.org_id, "from_ms": found.from_ms, "to_ms": found.to_ms}
    rows = SQL.run(connection, "wallets", {**span, "provider": EMBEDDED, "now_ms": now_ms}).all()
    return rows[0] if len(rows) == 1 else None


def _rows(connection: sa.Connection, org_id: str, backfill: str, most: int) -> list[BackfillRow]:
    values = {"org_id": org_id, "backfill": backfill, "at_most": most}
    return [BackfillRow(**row) for row in SQL.run(connection, "list", values).mappings()]


def read_events(
    lines: NumberedLines, org_id: str, now_ms: int, values: Mapping[str, EventValue]
) -> Iterator[tuple[int, UsageEvent | Unfit]]:
    """Yield the events of one organisation, or the reasons why lines are invalid.

    Each event or reason has the number of its line. `values`: the declared values of event types, by type. Errors:
    DrawdownError if the file cannot be read to its end.
    """
    for number, raw in lines:
        if not is_blank(raw):
            yield number, _of_line(raw, org_id, now_ms, values)


def _of_line(raw: bytes, org_id: str, now_ms: int, values: Mapping[str, EventValue]) -> UsageEvent | Unfit:
    try:
        for found in cloudevents.parse_events(raw, cloudevents.LINES, {}, org_id, now_ms):
            if isinstance(found, Unfit):
                mine = found.code == "foreign_org"
                return Unfit(found.code, f"this file is for events of {org_id}", found.at) if mine else found
            one = found.counted(values.get(found.event.event_type))
            if isinstance(one, Unfit):
                return one
            return one.event if one.has_time else Unfit("no_time", "missing time of use", "time")
    except Unreadable as error:
        return Unfit(error.code, str(error))
    return Unfit("not_json", "the line is not a JSON object")
