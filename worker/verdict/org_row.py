"""Write organisations' verdicts, their history, and notices of changes.

Guarantee: `halted_at` changes only when the verdict does. Each change of the verdict is stored with its reason and
figures. Drawdown notifies the operator's product once of a halt, and once of its end. It reports a low or exhausted
balance once, and again only after a read above the level. It compares the level with the balance minus usage that the
balance does not include yet, without subtracting reserved credit. Without a watch, it subtracts that usage only if the
organisation is halted for lack of credit or has a rejected push. Unless an endpoint subscribes to these events, their
rows are not read or written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, NamedTuple, TypeAlias

import sqlalchemy as sa

from drawdown.schema.messages import (
    BALANCE_EXHAUSTED,
    BALANCE_LOW,
    ORG_HALTED,
    ORG_RESUMED,
    Message,
    amount,
    find_wanted_events,
    tell,
)
from drawdown.schema.sql import queries
from drawdown.schema.units import EXEMPT_PROVIDERS
from drawdown.worker.engine.shard import Shard
from drawdown.worker.verdict.rules import CREDIT_REASONS, Overrides, Verdict, told_verdict
from drawdown.worker.verdict.watch_state import ESTIMATE_WRONG

SQL = queries(__file__)

Row: TypeAlias = sa.Row[tuple[object, ...]]
"""A row, usually of `orgs`."""

ENDLESS_MICRO: Final = 2**62
"""The number for an unlimited balance: larger than any balance of a wallet."""
EXEMPT: Final = "exempt"
"""The reason of a resume after a halt for lack of credit, if the organisation is not billed now."""


def lock_rows(connection: sa.Connection, org_ids: Collection[str]) -> Sequence[Row]:
    """Return these organisations' rows, locked in the order of their ids."""
    from drawdown.schema.tables.orgs import orgs  # imported here, because it loads PostgreSQL's dialect

    if connection.dialect.name == "postgresql":  # one array, because thousands of parameters are slow
        is_wanted = orgs.c.org_id == sa.any_(sa.literal(list(org_ids), sa.ARRAY(sa.Text)))
    else:
        is_wanted = orgs.c.org_id.in_(org_ids)
    return connection.execute(sa.select(orgs).where(is_wanted).order_by(orgs.c.org_id).with_for_update()).all()


def is_asked_for(org: Row, now_ms: int) -> bool:
    """Return True if a read is requested, or if the organisation's turn has come.

    After a failed read, the request stays. A read that answers all requests ends the request and the turn.
    """
    return org.projection_due_ms is not None or (
        org.refresh_deadline_ms is not None and org.refresh_deadline_ms <= now_ms
    )


class Effective(NamedTuple):
    """An effective balance with its parts, in micro-credits.

    `unaccepted`: the sealed usage, sent or not, that the balance may not show. `unsealed`: the usage of samples that is
    not sealed. If the organisation is not halted, `unsealed` also includes the use since the last samples.
    `held_micro`: the credit that executions have reserved.
    """

    balance: int
    unaccepted: int
    unsealed: int
    held_micro: int = 0

    @property
    def value(self) -> int:
        return self.balance - self.unaccepted - self.unsealed - self.held_micro


@dataclass(frozen=True)
class OrgState:
    """The columns of `orgs` that a verdict writes.

    `projection_read_ms`, `balance_read_ms`: the start of the last read of the verdict and of the balance.
    `projection_due_ms`: the time of the requested read. `refresh_deadline_ms`: the time of the next turn, or READ_TWICE
    for two reads. `unconfirmed_micro`: the sent use that the balance does not show yet. `unread_since_ms`: the start of
    failing reads. `watch_due_ms`: when the watch looks again. `resume_above_micro`: the credit above which the
    organisation resumes. `refused`: features that a limit of the provider refuses, as JSON. `feature_limits`: the base
    units that usage limits leave, by feature, as JSON. A column is None if its value is unknown or unlimited, or if it
    does not apply.
    """

    org_id: str
    is_halted: bool
    halted_at: int | None
    halt_reason: str | None
    max_concurrent_sandboxes: int | None
    projection_read_ms: int | None
    projection_due_ms: int | None
    balance_micro: int | None
    balance_read_ms: int | None
    plan: str | None
    unconfirmed_micro: int | None
    unread_since_ms: int | None
    watch_due_ms: int | None
    resume_above_micro: int | None
    refresh_deadline_ms: int | None
    refused: str | None
    feature_limits: str | None


WRITTEN: Final = tuple(column.name for column in fields(OrgState))
"""Columns of `orgs` that a verdict writes."""


@dataclass(frozen=True)
class Change:
    """The new state of an organisation.

    `history`: its row of `projections` if the verdict changed, else None.
    """

    state: OrgState
    history: dict[str, object] | None = None
    left_micro: int | None = None
    """The balance by the read, minus usage that it does not include, in micro-credits. None: the balance was not read.
    """

    @property
    def reason(self) -> str | None:
        reason = None if self.history is None else self.history["reason"]
        return None if reason is None else str(reason)


@dataclass(frozen=True)
class Moment:
    """The times of a read.

    `read_ms`: when the read began. `now_ms`: when its result is applied. `watched`: True if a watch runs, so that an
    estimate alone may halt an organisation.
    """

    read_ms: int
    now_ms: int
    watched: bool


def after_operator(org: Row, now_ms: int) -> Change:
    """Return the change of an organisation after an operator's decision.

    The end of a decision, and the end of billing, count as decisions.
    """
    present = Verdict(org.is_halted, org.halt_reason, org.max_concurrent_sandboxes)
    billed = org.billing_provider is not None and org.billing_provider not in EXEMPT_PROVIDERS
    spent = org.balance_micro is not None and org.balance_micro <= 0
    new = told_verdict(present, overrides_of(org), now_ms, billed=billed, spent=spent)
    read = org.projection_read_ms
    at = Moment(max(now_ms, read or 0), now_ms, watched=False)
    if new.is_halted == present.is_halted and read is None:  # `projection_read_ms` stays None
        state = replace(unchanged(org, org.projection_due_ms), max_concurrent_sandboxes=new.max_concurrent)
        return Change(state if billed else _exempt(state))
    state = state_of(org, new, at, org.projection_due_ms)
    state = replace(state, resume_above_micro=org.resume_above_micro if new.is_halted else None)
    history = history_of(org, new, at, org.balance_micro, None)
    if history is not None and not billed and not new.is_halted and org.halt_reason in CREDIT_REASONS:
        history["reason"] = EXEMPT
    return Change(state if billed else _exempt(state), history)


def _exempt(state: OrgState) -> OrgState:
    """Return the state, without planned reads, of an organisation without a biller."""
    return replace(state, projection_due_ms=None, unread_since_ms=None, refresh_deadline_ms=None)


def overrides_of(org: Row) -> Overrides:
    return Overrides(org.operator_halt, org.override_halted, org.override_max_concurrent, org.override_until_ms)


def unchanged(org: Row, due: int | None) -> OrgState:
    """Return the present state, with the next read at `due`.

    `due` None: a read is not requested.
    """
    kept = {name: getattr(org, name) for name in WRITTEN}
    return OrgState(**{**kept, "projection_due_ms": due})


def state_of(org: Row, new: Verdict, at: Moment, due: int | None) -> OrgState:
    """Return the state with a new verdict."""
    since = org.halted_at if org.is_halted else at.now_ms  # only a change sets it, so that a grace period can end
    return replace(
        unchanged(org, due),
        is_halted=new.is_halted,
        halted_at=since if new.is_halted else None,
        halt_reason=new.reason,
        max_concurrent_sandboxes=new.max_concurrent,
        projection_read_ms=at.read_ms,
        watch_due_ms=at.now_ms if org.is_halted and not new.is_halted else org.watch_due_ms,
    )


def history_of(
    org: Row, new: Verdict, at: Moment, balance: int | None, found: Effective | None, held_micro: int | None = None
) -> dict[str, object] | None:
    present = (org.is_halted, org.max_concurrent_sandboxes, org.halt_reason)
    if present == (new.is_halted, new.max_concurrent, new.reason):
        return None
    return {
        "org_id": org.org_id,
        "read_ms": at.read_ms,
        "at_ms": at.now_ms,
        "is_halted": new.is_halted,
        "was_halted": org.is_halted,
        "was_halted_at": org.halted_at,
        "max_concurrent_sandboxes": new.max_concurrent,
        "reason": ESTIMATE_WRONG if _was_wrong(org, new, balance) else new.reason,
        "balance_micro": balance,
        "unaccepted_micro": None if found is None else found.unaccepted,
        "unsealed_micro": None if found is None else found.unsealed,
        "held_micro": held_micro if found is None else found.held_micro,
    }


def _was_wrong(org: Row, new: Verdict, balance: int | None) -> bool:
    """Return True if an organisation was halted on an estimate, but has credit.

    If the balance has risen since the halt, return False, because the credit may be a grant.
    """
    no_more = balance is not None and org.balance_micro is not None and balance <= org.balance_micro
    return bool(org.halt_reason == "estimate" and not new.is_halted and org.override_halted is None and no_more)


def write(connection: sa.Connection, changes: Sequence[Change], now_ms: int) -> None:
    """Write organisations' states, the history of their verdicts, and notices."""
    states, at_once = [vars(change.state) for change in changes], connection.dialect.name == "postgresql"
    if states:
        SQL.run(connection, "write_verdicts", {"verdicts": states} if at_once else states)
    history = [change.history for change in changes if change.history is not None]
    if history:
        SQL.run(connection, "note_verdict", history)
    left = {change.state.org_id: change.left_micro for change in changes if change.left_micro is not None}
    tell_verdicts(connection, history, left, now_ms)


LEVELS: Final = {"low": BALANCE_LOW, "exhausted": BALANCE_EXHAUSTED}


def tell_verdicts(
    connection: sa.Connection, verdicts: Sequence[Mapping[str, Any]], left: Mapping[str, int], now_ms: int
) -> None:
    """Queue notices of changed verdicts and of low or exhausted credit.

    `verdicts`: rows of the history, with the earlier verdicts. `left`: the micro-credits left by organisation, from a
    read that was just written. The caller must have locked the organisations' rows.
    """
    turned = [verdict for verdict in verdicts if bool(verdict["is_halted"]) != bool(verdict["was_halted"])]
    if not turned and not left:
        return
    events = find_wanted_events(connection)
    turned = turned if events & {ORG_HALTED, ORG_RESUMED} else []
    levels = {level: event for level, event in LEVELS.items() if event in events}
    if not turned and not levels:
        return
    org_ids = {*(str(verdict["org_id"]) for verdict in turned), *(left if levels else ())}
    values = {"orgs": [{"org_id": org_id} for org_id in sorted(org_ids)], "now_ms": now_ms}
    found = {row.org_id: row for row in SQL.run(connection, "standing", values)}
    messages = [_of_verdict(verdict, found[verdict["org_id"]]) for verdict in turned]
    for org_id in sorted(left) if levels else ():
        messages += _of_levels(connection, found[org_id], left[org_id], levels, now_ms)
    tell(connection, messages)


def _of_verdict(verdict: Mapping[str, Any], org: sa.Row[Any]) -> Message:
    """Return the notice of a halt or resume. Both name the halt by its start."""
    halted = bool(verdict["is_halted"])
    since_ms = verdict["at_ms"] if halted else verdict["was_halted_at"]
    event = ORG_HALTED if halted else ORG_RESUMED
    data = {
        "provider": org.provider,
        "halted_at_ms": since_ms,
        "reason": verdict["reason"],
        **amount("balance", verdict["balance_micro"]),
        "max_concurrent_sandboxes": verdict["max_concurrent_sandboxes"],
    }
    fact = f"{event}:{org.org_id}:{since_ms}"
    return Message(event, fact, verdict["at_ms"], data, org.org_id, org.customer_id or None)


def _of_levels(
    connection: sa.Connection, org: sa.Row[Any], left_micro: int, levels: Mapping[str, str], now_ms: int
) -> list[Message]:
    """Start and end an organisation's episodes, and return notices of new episodes."""
    messages = []
    for level, event in levels.items():
        at_micro = org.low_micro if level == "low" else 0
        is_there = at_micro is not None and left_micro <= at_micro
        is_open = bool(org.is_low if level == "low" else org.is_exhausted)
        values = {"org_id": org.org_id, "level": level, "now_ms": now_ms}
        if is_open and not is_there:
            SQL.run(connection, "end_episode", values)
        elif is_there and not is_open:
            episode = SQL.run(connection, "begin_episode", values).scalar_one()
            data = {
                "provider": org.provider,
                **amount("balance", left_micro),
                **amount("level", at_micro),
                "episode": episode,
            }
            fact = f"{event}:{org.org_id}:{episode}"
            messages.append(Message(event, fact, now_ms, data, org.org_id, org.customer_id or None))
    return messages


APPLIED_AT_ONCE: Final = 500
"""Most organisations for which one transaction writes verdicts from the stored facts."""


def end_overrides(connection: sa.Connection, shard: Shard, now_ms: int) -> None:
    """Clear org overrides that have expired, and apply the changed verdicts."""
    values = {"now_ms": now_ms, "lo": shard.lo, "hi": shard.hi}
    apply_now(connection, SQL.run(connection, "end_overrides", values).scalars().all(), now_ms)


def resume_exempt(connection: sa.Connection, shard: Shard, now_ms: int) -> None:
    """Resume organisations that an earlier biller's verdict halted.

    These organisations are not billed now, and an operator did not halt them. A read would never resume them.
    """
    found = SQL.run(connection, "halted_and_exempt", {"lo": shard.lo, "hi": shard.hi})
    apply_now(connection, found.scalars().all(), now_ms)


def apply_now(connection: sa.Connection, org_ids: Sequence[str], now_ms: int) -> None:
    """Write verdicts from the stored facts, because a provider may be unavailable."""
    ordered = sorted(set(org_ids))
    for start in range(0, len(ordered), APPLIED_AT_ONCE):
        some = ordered[start : start + APPLIED_AT_ONCE]
        rows = lock_rows(connection, some)
        write(connection, [after_operator(org, now_ms) for org in rows], now_ms)
