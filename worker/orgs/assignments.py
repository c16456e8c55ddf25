"""Assign organisations to the provider that bills them from a window on.

Guarantee: an assignment starts at or after the watermark, or fills a gap without an assignment (P4). The windows with
pending usage that it fixes become dirty, so that the next tick seals them (S6).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TypeAlias

import sqlalchemy as sa

from drawdown.schema.audit import By, record, require_org
from drawdown.schema.clock import utc
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.locks import lock_buckets, make_windows_dirty
from drawdown.schema.sql import queries
from drawdown.schema.text import typed
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import EXEMPT_PROVIDERS, WINDOW_MS, next_window
from drawdown.worker.catalog.mapping import mapping_rows, segments
from drawdown.worker.catalog.wallets import Claim, one_wallet_at, other_owner
from drawdown.worker.orgs.actions import register
from drawdown.worker.seal.arrivals import seen_by_seals
from drawdown.worker.verdict.org_row import apply_now

SQL = queries(__file__)

Unseen: TypeAlias = Mapping[str, Sequence[int]]
"""Windows with samples that seals have not read yet, by organisation."""


@dataclass(frozen=True)
class Waited:
    """Usage that was pending for lack of an assignment.

    `resolved_s`, `resolved_units`: usage from the assignment's start on. `before_start_s`, `before_start_units`: usage
    before that start. Seconds of sandboxes (`_s`) and units of event types (`_units`) are never added together.
    """

    resolved_s: int = 0
    resolved_units: int = 0
    before_start_s: int = 0
    before_start_units: int = 0


@dataclass(frozen=True)
class Assigned:
    """A new assignment, and the pending usage that it resolves or leaves.

    `note`: a warning about the assignment (None: without a warning).
    """

    org_id: str
    provider: str
    customer_id: str
    start_ms: int
    waited: Waited
    note: str | None = None


@dataclass(frozen=True)
class _Biller:
    """A customer at a provider.

    `one_wallet`: the providers that bill this customer from the same wallet.
    """

    provider: str
    customer_id: str
    one_wallet: Sequence[str]


def assign(
    connection: sa.Connection,
    org_ids: Sequence[str],
    provider: str,
    by: By,
    *,
    customer_id: str | None = None,
    from_ms: int | None = None,
) -> list[Assigned]:
    """Assign organisations to a provider from a time on.

    `from_ms`: the time (None: the next window boundary).

    Errors: Refused if the assignment would change sealed windows, or windows below a floor. Refused if the organisation
    already has an assignment that starts at that time. Refused if it has a later assignment that is not its first.
    Refused if another organisation has the customer or its wallet. UsageError for a time that is not a window boundary,
    or a customer of several organisations.
    """
    if customer_id is not None and len(org_ids) != 1:
        raise UsageError(
            f"--customer applies to a single organisation, and you named {len(org_ids):,}. Name exactly one"
        )
    customers = {org: org if customer_id is None else customer_id for org in org_ids}
    return assign_each(connection, customers, provider, by, from_ms=from_ms)


def assign_each(
    connection: sa.Connection,
    customers: Mapping[str, str],
    provider: str,
    by: By,
    *,
    from_ms: int | None = None,
    in_ledger: Collection[str] = (),
) -> list[Assigned]:
    """Assign organisations, each with its customer.

    Errors: as `assign`. `in_ledger`: as in `assign_one`.
    """
    lock_for_assignments(connection, customers)
    make = partial(assign_one, connection, unseen=unseen_windows(connection, customers), in_ledger=in_ledger)
    made = [make(org_id, provider, customer_id, from_ms, by) for org_id, customer_id in customers.items()]
    stops = stops_of(connection, {one.org_id: one.start_ms for one in made})
    return [replace(one, note=joined(one.note, stops.get(one.org_id))) for one in made]


def joined(*notes: str | None) -> str | None:
    """Join the notes that exist into one text. If all notes are None, return None."""
    return "; ".join(note for note in notes if note) or None


def unassigned(connection: sa.Connection) -> list[str]:
    """Return organisations without any assignment.

    The result includes organisations that only samples name.
    """
    return [str(org_id) for org_id in SQL.run(connection, "unassigned").scalars()]


def lock_for_assignments(connection: sa.Connection, org_ids: Collection[str]) -> None:
    """Take S1's lock, and lock these organisations in the order of their ids.

    Without this order, two such transactions could deadlock.
    """
    lock_buckets(connection)
    SQL.run(connection, "lock_org_rows", {"orgs": [{"org_id": org_id} for org_id in sorted(set(org_ids))]}).all()


def unseen_windows(connection: sa.Connection, org_ids: Collection[str]) -> Unseen:
    """Return, by organisation, the sealed windows with samples that no seal has read.

    The caller must have S1's lock. Call it once for all organisations, because each call reads all unread arrivals.
    """
    found: dict[str, list[int]] = defaultdict(list)
    seen = seen_by_seals(connection)
    values = {"orgs": [{"org_id": org_id} for org_id in org_ids], **seen.values}
    for row in SQL.run(connection, "unseen", values, later=seen.piece):
        found[row.org_id].append(int(row.window_ms))
    return found


def start_of(from_ms: int | None, by: By) -> int:
    """Return the start of an assignment in milliseconds.

    The start is `from_ms`, or without it, the next window boundary.

    Errors: UsageError for a time that is not a window boundary.
    """
    start = next_window(by.now_ms) if from_ms is None else from_ms
    if start % WINDOW_MS:
        raise UsageError(f"invalid --from {show_time(start)}: expected a window boundary (a multiple of five minutes)")
    return start


def assign_one(
    connection: sa.Connection,
    org_id: str,
    provider: str,
    customer_id: str,
    from_ms: int | None,
    by: By,
    *,
    unseen: Unseen,
    in_ledger: Collection[str] = (),
) -> Assigned:
    """Assign one organisation, under S1's lock.

    Errors: as `assign`. The caller adds the notes of `stops_of`.

    If the organisation already has an assignment to the provider without a customer, the call adds the customer to that
    assignment instead. In this case, `from_ms` must not be earlier than the start of that assignment.

    `unseen`: the result of `unseen_windows`. `in_ledger`: providers that declare that the embedded ledger keeps their
    customers' balances, even if a tick has not recorded them yet.
    """
    start = start_of(from_ms, by)
    register(connection, org_id)
    biller = _Biller(provider, customer_id, one_wallet_at(connection, provider, in_ledger))
    if customer_id and (filled := _fill_customer(connection, org_id, biller, from_ms, by, unseen)) is not None:
        return filled
    later = _require_free(connection, org_id, start)
    _check_customer(connection, org_id, biller, start, later)
    _insert(connection, org_id, biller, start, later, by)
    _take_effect(connection, org_id, start, later, by.now_ms)
    if provider in EXEMPT_PROVIDERS and start <= by.now_ms:
        apply_now(connection, [org_id], by.now_ms)  # no later tick refreshes an exempt organisation
    details = {"provider": provider, "customer": customer_id, "start_ms": start}
    record(connection, "org_assign", org_id, details, by)
    note = None if later is None else _until(connection, org_id, later)
    return Assigned(org_id, provider, customer_id, start, _fix(connection, org_id, start, unseen), note)


def _until(connection: sa.Connection, org_id: str, later: int) -> str:
    """Return a note about the later assignment that ends a new assignment."""
    then = SQL.run(connection, "starting", {"org_id": org_id, "start_ms": later}).one()
    customer = f" as {then.customer_id}" if then.customer_id else ""
    return f"it ends at {utc(later)}, when the later assignment to {then.provider}{customer} begins"


def stops_of(connection: sa.Connection, starts: Mapping[str, int]) -> dict[str, str]:
    """Return notes about tiers and automatic top-ups that stop, by organisation.

    `starts`: the starts of new assignments by organisation, in order. If several organisations leave a wallet, the last
    of them gets the note.
    """
    together: dict[int, list[str]] = defaultdict(list)
    for org_id, start_ms in starts.items():
        together[start_ms].append(org_id)
    found: dict[str, str | None] = {}
    for start_ms, org_ids in together.items():
        left = {org_id: org_id for org_id in org_ids}
        values = {"org_ids": org_ids, "start_ms": start_ms}
        left |= {row.customer_id: row.org_id for row in SQL.run(connection, "left_customers", values)}
        for wallet, note in _stopped(connection, sorted(left), start_ms).items():
            found[left[wallet]] = joined(found.get(left[wallet]), note)
    return {org_id: note for org_id, note in found.items() if note}


def _stopped(connection: sa.Connection, customers: Sequence[str], start_ms: int) -> dict[str, str]:
    """Return notes about the tiers and automatic top-ups of unused wallets.

    These wallets are not in use from `start_ms` on.
    """
    found: dict[str, list[str | None]] = {}
    for row in SQL.run(connection, "stopped", {"customers": customers, "now_ms": start_ms}):
        found.setdefault(row.customer_id, []).append(row.tier)
    notes = {}
    for customer, stops in found.items():
        tiers = ", ".join(tier for tier in stops if tier is not None)
        parts = [f"its tiers end with their paid month ({tiers})"] if tiers else []
        parts += ["its automatic top-ups pause"] if None in stops else []
        debt = ". Usage before then can still put it in debt, which `drawdown status` shows" if None in stops else ""
        said = f"does not pay for an organisation from then on: {' and '.join(parts)}{debt}"
        notes[customer] = f"the wallet {customer} {said}"
    return notes


def _require_free(connection: sa.Connection, org_id: str, start: int) -> int | None:
    """Check that an assignment may start at a time.

    If the organisation's only assignment is later, return its start, else None. Errors: Refused.
    """
    floor = require_org(connection, org_id).floor_ms
    if start < floor:
        raise Refused(
            f"cannot assign {org_id}: windows before its floor are closed for good. Start at {utc(floor)} or later"
        )
    there = SQL.run(connection, "first_and_later", {"org_id": org_id, "start_ms": start}).one()
    first, later = there.first_start_ms, there.later_start_ms
    if later == start:
        raise Refused(
            f"{org_id} already has an assignment that starts at {utc(start)}. See `drawdown org show {typed(org_id)}`. "
            f"To cancel it before it begins, run `drawdown org assign {typed(org_id, '--undo', '--from', utc(start))}`"
        )
    if later is not None and first != later:
        raise Refused(
            f"{org_id} already has a later assignment, from {utc(later)} on. See `drawdown org show {typed(org_id)}`"
        )
    if first is not None and first < start:
        _require_unsealed(connection, org_id, start)
    return None if later is None else int(later)


def _insert(connection: sa.Connection, org_id: str, biller: _Biller, start: int, end: int | None, by: By) -> None:
    """Insert an assignment, and end the previous assignment at the new start."""
    values = {"org_id": org_id, "start_ms": start}
    SQL.run(connection, "end_the_one_before", values)
    person = {"at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    billed = {"end_ms": end, "provider": biller.provider, "customer_id": biller.customer_id}
    SQL.run(connection, "insert_assignment", {**values, **billed, **person})


def _fill_customer(
    connection: sa.Connection, org_id: str, biller: _Biller, from_ms: int | None, by: By, unseen: Unseen
) -> Assigned | None:
    """Add the customer to the latest assignments without a customer.

    No window is sealed yet for these assignments. Return None if the organisation does not have such an assignment.
    Errors: Refused if `from_ms` is before the start of the first such assignment.
    """
    provider, customer_id = biller.provider, biller.customer_id
    found = SQL.run(connection, "without_customer", {"org_id": org_id, "provider": provider}).scalars().all()
    if not found:
        return None
    start = int(found[0])
    if from_ms is not None and from_ms < start:
        raise Refused(
            f"{org_id} has an assignment to {provider} without a customer, from {utc(start)} on. To name its customer, "
            "omit --from"
        )
    _check_customer(connection, org_id, biller, start, None)
    for start_ms in found:
        SQL.run(connection, "fill_customer", {"customer_id": customer_id, "org_id": org_id, "start_ms": start_ms})
        details = {"provider": provider, "customer": customer_id, "start_ms": int(start_ms)}
        record(connection, "org_customer", org_id, details, by)
    _take_effect(connection, org_id, start, None, by.now_ms)
    note = f"it was already assigned to {provider}, and now has a customer there"
    return Assigned(org_id, provider, customer_id, start, _fix(connection, org_id, start, unseen), note)


def to_come_ms(connection: sa.Connection, org_id: str, now_ms: int) -> int | None:
    """Return the start of an organisation's latest assignment, in milliseconds.

    Returns None if that assignment does not exist, or starts at `now_ms` or earlier.
    """
    found = SQL.run(connection, "latest_two", {"org_id": org_id}).first()
    return int(found.start_ms) if found is not None and found.start_ms > now_ms else None


def cancel(
    connection: sa.Connection,
    org_id: str,
    by: By,
    start_ms: int | None = None,
    *,
    provider: str | None = None,
    customer_id: str | None = None,
) -> Assigned:
    """Cancel an assignment that has not begun. The former provider continues to bill.

    Without a former assignment, the organisation is unassigned again.

    `start_ms`: the start of the assignment, so that a repeated call does not cancel another assignment. `provider`,
    `customer_id`: those of the assignment. None: any.

    Errors: UnknownId. Refused if the latest assignment does not exist, has begun, is sealed, or is another assignment.
    Refused if another organisation or a pool has the customer of the former assignment, or its wallet.
    """
    lock_buckets(connection)
    require_org(connection, org_id)
    found = SQL.run(connection, "latest_two", {"org_id": org_id}).all()
    if not found or found[0].start_ms <= by.now_ms:
        raise Refused(
            f"cannot cancel the assignment of {org_id}: it has already begun, or does not exist. See `drawdown org "
            "scheduled`"
        )
    latest = found[0]
    if start_ms not in (None, latest.start_ms):
        raise Refused(
            f"cannot cancel: the latest assignment of {org_id} begins at {utc(latest.start_ms)}, not at "
            f"{utc(start_ms)}. See `drawdown org scheduled`"
        )
    if provider not in (None, latest.provider) or customer_id not in (None, latest.customer_id):
        customer = f" as {latest.customer_id}" if latest.customer_id else ""
        raise Refused(
            f"cannot cancel: the latest assignment of {org_id} is to {latest.provider}{customer}. See `drawdown org "
            "scheduled`"
        )
    # A machine with a faster clock may have sealed windows of this assignment.
    _require_unsealed(connection, org_id, latest.start_ms, "cancel the assignment of", "Assign it again from then on")
    SQL.run(connection, "delete_assignment", {"org_id": org_id, "start_ms": latest.start_ms})
    if len(found) == 2:
        before = found[1]
        biller = _Biller(before.provider, before.customer_id, one_wallet_at(connection, before.provider))
        _require_own_again(connection, org_id, biller, latest.start_ms)
        SQL.run(connection, "go_on", {"org_id": org_id, "start_ms": before.start_ms})
    details = {"provider": latest.provider, "customer": latest.customer_id, "start_ms": latest.start_ms}
    record(connection, "org_assign_cancel", org_id, details, by)
    return Assigned(org_id, latest.provider, latest.customer_id, latest.start_ms, Waited())


def provider_after_cancel(connection: sa.Connection, org_id: str) -> str | None:
    """Return the provider that bills after the cancellation of the latest assignment.

    None: the organisation then has no assignment. Errors: UnknownId.
    """
    require_org(connection, org_id)
    found = SQL.run(connection, "latest_two", {"org_id": org_id}).all()
    return str(found[1].provider) if len(found) == 2 else None


def _require_own_again(connection: sa.Connection, org_id: str, biller: _Biller, start: int) -> None:
    """Refuse to return to a customer that another owner has. Errors: Refused."""
    try:
        _check_customer(connection, org_id, biller, start, None)
    except Refused as error:
        why, _, _ = str(error).partition(". ")  # omit the next step, which is for a new assignment
        command = typed(org_id, "--provider", biller.provider, "--customer", "CUSTOMER", "--from", "TIME")
        raise Refused(
            f"cannot cancel the assignment of {org_id}: {why}. Let it begin, and assign another customer from a time "
            f"after {utc(start)} with `drawdown org assign {command}`"
        ) from None


def _check_customer(connection: sa.Connection, org_id: str, biller: _Biller, start: int, end: int | None) -> None:
    """Refuse a customer that belongs to another organisation or a pool at that time.

    Also refuse a customer if another organisation draws on the same wallet at another provider. Errors: Refused.
    """
    provider, customer_id = biller.provider, biller.customer_id
    if provider in EXEMPT_PROVIDERS or not customer_id:
        return
    other = other_owner(connection, Claim(org_id, customer_id, start, end), biller.one_wallet)
    if other is None:
        return
    if other.org_id is None:
        raise Refused(
            f"{customer_id} is a pool, and Drawdown cannot bill an organisation as a pool. Give {org_id} another "
            f"customer (--customer), and allot credits to it with `drawdown pool allot {typed(customer_id)} CUSTOMER "
            "CREDITS --expires TIME`"
        )
    if other.provider == provider:
        raise Refused(
            f"the customer {customer_id} at {provider} belongs to the organisation {other.org_id} during this "
            "assignment. Name another customer"
        )
    raise Refused(
        f"{org_id} at {provider} and {other.org_id} at {other.provider} would both draw on the wallet of the customer "
        f"{customer_id}. Give {org_id} another customer (--customer), or first assign {other.org_id} to another "
        "provider"
    )


def _require_unsealed(
    connection: sa.Connection, org_id: str, start: int, act: str = "assign", step: str = "Start then or later"
) -> None:
    watermark = SQL.run(connection, "watermark", {"org_id": org_id}).scalar_one()
    if start < watermark:
        raise Refused(
            f"cannot {act} {org_id}: windows up to {utc(watermark)} are sealed for its present provider. {step}"
        )


def _take_effect(connection: sa.Connection, org_id: str, start: int, end: int | None, now_ms: int) -> None:
    values = {"org_id": org_id, "now_ms": now_ms, "projection_due_ms": min(now_ms, start)}
    SQL.run(connection, "take_effect", values)
    if start <= now_ms and (end is None or now_ms < end):
        SQL.run(connection, "forget_balance", {"org_id": org_id})


def _fix(connection: sa.Connection, org_id: str, start: int, unseen: Unseen) -> Waited:
    """Mark the windows with usage that was pending for an assignment.

    Return that usage, counted before the marks.
    """
    values = {"org_id": org_id, "start_ms": start}
    mapped = [asdict(segment) for segment in segments(mapping_rows(connection))]
    late = [{"window_ms": window_ms} for window_ms in unseen.get(org_id, ())]
    waiting = SQL.run(connection, "waiting", {**values, "segments": mapped, "unseen": late}).mappings().one()
    make_windows_dirty(connection, SQL, "waiting_windows", values)
    return Waited(**{name: int(amount) for name, amount in waiting.items()})
