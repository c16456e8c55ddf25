"""Withdraw wrong samples and events.

This module also returns the worth of usage that a person is about to correct.

Guarantee: samples are not edited (S7). A withdrawal is a separate row with actor and reason. The withdrawal makes the
window dirty, so that the next tick seals the difference. An event is billed by its sample, and its id is never accepted
again. A worth uses the rates in force at the time of use, as a charge does. If usage lacks a rate, the worth names its
features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import By, record_many, require_org
from drawdown.schema.declare import ID, ORG, Action, Fact, Invocation, Label, Size, Values
from drawdown.schema.errors import Refused, explain_race
from drawdown.schema.locks import lock_buckets
from drawdown.schema.sql import queries
from drawdown.schema.text import counted, typed
from drawdown.schema.units import window_of
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import Loss, loss_of, present, read_losses, require_same
from drawdown.worker.push.rows import find_pushes
from drawdown.worker.push.void import seal_again, void_rejected
from drawdown.worker.sources.events.store import samples_of
from drawdown.worker.usage.intake import EventSource, show_event
from drawdown.worker.verdict.rates import Prices, Quantity, Worth, size_of

SQL = queries(__file__)


@dataclass(frozen=True)
class Withdrawn:
    """One withdrawn sample.

    `interval_s`: its seconds or units. `already`: it was withdrawn before.
    """

    sample_id: str
    org_id: str
    window_ms: int
    interval_s: int
    already: bool


def withdraw(
    connection: sa.Connection, sample_ids: Sequence[str], by: By, judged: Witness | None = None
) -> list[Withdrawn]:
    """Withdraw samples, so that they no longer count as owed usage.

    Rejected pushes of their windows are sealed again without them. `judged`: the result of `judge_backfill`, which
    proves that the samples were sealed since history was lost.

    Errors, without any change: UnknownId if one sample is unknown. Refused if one sample is quarantined (it was never
    billed), is below the floor, or was not sealed since history was lost. HistoryDoubted while the database is stopped,
    or if it is not the judged database.
    """
    lock_buckets(connection)
    require_same(connection, judged)
    losses = read_losses(connection) if judged is None else ()
    done = [_withdraw_one(connection, sample_id, by, losses) for sample_id in sample_ids]
    taken = [sample for sample in done if not sample.already]
    void_rejected(connection, taken, by)
    seal_again(connection, taken)  # call it after all checks, because it makes the windows unsealed
    if taken:  # record last, because other transactions lock their rows before they record
        record_many(connection, "sample_withdraw", [(one.sample_id, _details(one)) for one in taken], by)
    return done


def _details(sample: Withdrawn) -> dict[str, object]:
    return {"org_id": sample.org_id, "window_ms": sample.window_ms, "interval_s": sample.interval_s}


def judge_backfill(connection: sa.Connection, backfill: str) -> Witness | None:
    """Check that all events of a backfill can be withdrawn.

    Call it before the first portion, because each portion makes its windows dirty. Dirty windows look the same as
    windows that were not sealed since history was lost. Returns None if the backfill is not closed, because its events
    are then not usage.

    Errors: Refused if an event was not sealed since history was lost, or is below the floor. HistoryDoubted while a
    recovery is needed.
    """
    found = present(connection)
    until_ms = max((loss.until_ms for loss in read_losses(connection)), default=0)
    left = SQL.run(connection, "left_of_backfill", {"backfill": backfill, "until_ms": until_ms}).one()
    went = f"{left.withdrawn:,} of {counted(left.events, 'event')} withdrawn"
    if left.unsealed:
        raise Refused(
            f"cannot withdraw all events of {backfill}: usage from the lost history is not sealed again yet ({went}). "
            "Repeat the command after the next tick, or when the open pushes of the backfill's organisation are "
            "settled. If the organisation is stopped, resume it first"
        )
    if left.below_floor:
        raise Refused(
            f"cannot withdraw all events of {backfill}: windows below a floor are closed for good (events: "
            f"{left.below_floor:,}). {went}. To withdraw the other events, run `drawdown event withdraw`"
        )
    return found if left.events else None


def _withdraw_one(connection: sa.Connection, sample_id: str, by: By, losses: Sequence[Loss]) -> Withdrawn:
    sample = SQL.run(connection, "sample", {"sample_id": sample_id}).one_or_none()
    if sample is None:
        ids.require(connection, ids.USED_SAMPLE, sample_id)
        raise Refused(explain_race("sample", sample_id))
    if sample.problem is not None:
        if sample.new_id is not None:
            raise Refused(
                f"cannot withdraw {sample_id}: it was repaired, and is billed as {sample.new_id}. Run `drawdown sample "
                f"withdraw {typed(sample.new_id)}`"
            )
        if sample.is_closed:
            raise Refused(f"cannot withdraw {sample_id}: it was dismissed, so it was never billed")
        raise Refused(
            f"cannot withdraw {sample_id}: it is quarantined ({sample.problem}), so it was never billed. Run `drawdown "
            f"sample dismiss {typed(sample_id)}`"
        )
    window = window_of(sample.ts)
    found = Withdrawn(sample_id, sample.org_id, window, int(sample.interval_s), sample.withdrawn is not None)
    if found.already:
        return found
    if loss_of(window, losses) and SQL.run(connection, "unsealed", {"sample_id": sample_id}).first():
        # The lost history may have billed this usage (R1). Drawdown looks such a charge up only after it seals the
        # usage again.
        raise Refused(
            f"cannot withdraw {sample_id}: it is from the lost history, and is not sealed again yet. Withdraw the "
            "sample after the next tick, or when the open pushes of its organisation are settled. To list these "
            f"pushes, run `drawdown push list {typed('--org', sample.org_id)}`. If the organisation is stopped, resume "
            "it first"
        )
    if sample.ts < sample.floor_ms:
        raise Refused(
            f"cannot withdraw {sample_id}: it is below the floor of {sample.org_id}, so its window is closed for good"
        )
    taken = {"ts": sample.ts, "memory_mb": sample.memory_mb, "interval_s": int(sample.interval_s)}
    person = {"at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    SQL.run(connection, "insert_withdrawal", {"sample_id": sample_id, "org_id": sample.org_id, **taken, **person})
    return found


def withdraw_events(
    connection: sa.Connection, source: str, event_ids: Sequence[str], by: By, org_id: str | None = None
) -> list[Withdrawn]:
    """Withdraw events of a source.

    `org_id`: withdraw only events of this organisation. Errors: as `withdraw` and `samples_of`.
    """
    return withdraw(connection, list(samples_of(connection, source, event_ids, org_id).values()), by)


def worth_of_pushes(connection: sa.Connection, keys: Sequence[str]) -> Worth:
    """Return the worth of pushes, by their keys. Unknown keys are ignored."""
    found = find_pushes(connection, keys).values()
    return Prices(connection).worth(
        Quantity(one.provider, one.feature, one.window_ms, abs(int(one.sealed_qty))) for one in found
    )


def worth_of_events(connection: sa.Connection, source: str, event_ids: Sequence[str], org_id: str | None) -> Worth:
    """Return the worth of the events that were not withdrawn.

    Errors: as `samples_of`.
    """
    samples = list(samples_of(connection, source, event_ids, org_id).values())
    return _worth(connection, "these", {"samples": [{"sample_id": one} for one in samples]})


def _worth(connection: sa.Connection, chosen: str, values: dict[str, object]) -> Worth:
    rows = SQL.run(connection, "used", values, chosen=chosen)
    return Prices(connection).worth(Quantity(one.provider, one.feature, one.window_ms, int(one.qty)) for one in rows)


MOST_FACTS: Final = 20
"""Events to withdraw that a dry run names."""


@dataclass(frozen=True)
class EventsWithdrawn:
    """Withdrawn events of a source, by their samples.

    The events no longer count.
    """

    source: str
    withdrawn: list[Withdrawn]


def _withdraw_events(
    connection: sa.Connection,
    asked: Invocation,
    source: EventSource,
    event_id: Annotated[list[str], ID, "Ids of events", Label("Events")],
    *,
    org_id: Annotated[str | None, ORG, "Organisation of the events, if several organisations used the ids"] = None,
) -> EventsWithdrawn:
    own = None if asked.reach is None else asked.reach.source
    if own is not None and own != source:
        raise Refused(f"your key is bound to the source {own}. Use a key that may withdraw events of {source}")
    if org_id is not None:
        require_org(connection, org_id)
    return EventsWithdrawn(source, withdraw_events(connection, source, event_id, asked.by, org_id))


def _sentence(done: EventsWithdrawn) -> str:
    new = sum(not one.already for one in done.withdrawn)
    before = len(done.withdrawn) - new
    more = f", {counted(before, 'was', 'were')} withdrawn before" if before else ""
    return f"{new:,} withdrawn{more}. The next tick refunds the charges. Drawdown never accepts their ids again"


def _standing(connection: sa.Connection, _asked: Invocation, values: Values) -> Sequence[Fact]:
    source, org, given = values["source"], values["org_id"], sorted(values["event_id"])
    events = [show_event(connection, source, one, org) for one in given[:MOST_FACTS]]
    return [
        Fact(
            one.event_id,
            f"{one.quantity:,} of {one.event_type}, "
            + ("counts" if one.withdrawn is None else f"withdrawn: {one.withdrawn}"),
        )
        for one in events
    ]


def _size(connection: sa.Connection, _asked: Invocation, values: Values) -> Size:
    given = values["event_id"]
    return size_of(worth_of_events(connection, values["source"], given, values["org_id"]), len(given))


ACTIONS: Final = (
    Action(
        "event withdraw",
        "Withdraw events",
        "Withdraw wrong events. The next tick refunds the charges. Drawdown never accepts the ids again.",
        _withdraw_events,
        _sentence,
        path="/v1/events/withdraw",
        scope="usage:write",
        facts=_standing,
        size=_size,
        place="/console/events?source={source}",
    ),
)
