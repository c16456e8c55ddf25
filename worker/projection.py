"""What a read of a customer, or the failure to read it, makes of an organisation's row. Pure, but for `write`.

Guarantee: `halted_at` changes only when the verdict does; a state that cannot be read, or is none, changes no figure;
each transition is kept with its reason and the figures it rests on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.providers.protocol import CustomerRead, CustomerState, ReadFailed
from drawdown.schema.tables import orgs, projections
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.decide import CREDIT_REASONS, Estimate, Overrides, Verdict, unread_verdict, verdict
from drawdown.worker.effective import Effective, Used, after_read, since_read

MAX_BALANCE_MICRO: Final = 9 * 10**18
HOLD_MS: Final = 15 * MINUTE_MS
"""For how long after a halt a sliver of credit is no reason to go on: three ticks, by when late samples are in."""
ESTIMATE_WRONG: Final = "estimate_wrong"


@dataclass(frozen=True)
class Change:
    """The new row of an organisation, and of `projections` where the verdict changed."""

    row: dict[str, object]
    history: dict[str, object] | None = None

    @property
    def reason(self) -> str | None:
        return None if self.history is None else str(self.history["reason"])


@dataclass(frozen=True)
class Moment:
    """When the read began, when it is judged, and whether estimates are made."""

    read_ms: int
    now_ms: int
    watched: bool


def sound(state: CustomerRead) -> CustomerRead:
    """A provider's answer, if it is one: text, fractions and figures beyond all bounds have told nothing."""
    if not isinstance(state, CustomerState):
        return state
    balance, limit, plan = state.balance_micro, state.max_concurrent, state.plan
    if balance is not None and (type(balance) is not int or abs(balance) > MAX_BALANCE_MICRO):
        return ReadFailed(f"the balance {str(balance)[:40]!r} is no number of micro-credits")
    if limit is not None and (type(limit) is not int or not 0 <= limit < 2**31):
        return ReadFailed(f"{str(limit)[:40]!r} is no number of sandboxes")
    if plan is not None and not isinstance(plan, str):
        return ReadFailed(f"{str(plan)[:40]!r} is no plan")
    return state


def said(states: Mapping[str, CustomerRead], customer_id: str) -> CustomerRead:
    """What a provider told about one of those it was asked about."""
    return sound(states.get(customer_id, ReadFailed("the provider said nothing of this customer")))


def read_to(org: Any, state: CustomerState, used: Used | None, at: Moment, due: int | None) -> Change:
    """What a fresh state makes of an organisation. `used` None: no estimate is made of it."""
    found, hidden, judged = None, None, None
    if used is not None and state.balance_micro is not None:
        found, hidden = after_read(org, state.balance_micro, used)
        spent = org.is_halted and org.halt_reason in CREDIT_REASONS
        judged = Estimate(found.value, _margin(org, state.balance_micro, used, at), spent, at.watched)
    new = verdict(state.balance_micro, state.max_concurrent, overrides_of(org), at.now_ms, judged)
    row = _row(org, new, at, due) | {
        "balance": state.balance_micro,
        "balance_read": at.read_ms,
        "plan_": state.plan,
        "unseen": hidden,
        "unread_since": None,
        "above": _above(org, new, used),
    }
    return Change(row, _history(org, new, at, state.balance_micro, found))


def _margin(org: Any, balance: int, used: Used, at: Moment) -> int:
    """How much credit it takes to go on: what would be gone in a minute; and as before the halt with what was expected
    then, for samples come late, unless the balance rose. After a while any credit will do."""
    if org.halted_at is None or at.now_ms - org.halted_at >= HOLD_MS:
        return 0
    paid = org.balance_micro is not None and balance > org.balance_micro
    return used.burn_a_minute if paid else max(used.burn_a_minute, org.resume_above_micro or 0)


def _above(org: Any, new: Verdict, used: Used | None) -> int | None:
    if new.is_halted and not org.is_halted:
        return None if used is None else used.burn_a_minute + max(used.unsampled, 0)
    return org.resume_above_micro if new.is_halted else None


def unread_to(org: Any, used: Used | None, policy: str, at: Moment, due: int | None) -> Change:
    """What holds where the provider could not be read."""
    present = Verdict(org.is_halted, org.halt_reason, org.max_concurrent_sandboxes)
    found = None if used is None else since_read(org, used)
    since = at.now_ms if org.unread_since_ms is None else org.unread_since_ms
    new = present
    if org.operator_halt or org.override_halted is not None or at.watched:
        effective = None if found is None else found.value
        unread_ms = at.now_ms - since if at.watched else 0
        new = unread_verdict(
            present, overrides_of(org), at.now_ms, policy=policy, unread_ms=unread_ms, effective_micro=effective
        )
    changed = new.is_halted != present.is_halted
    row = (_row(org, new, at, due) if changed else unchanged(org, due)) | {
        "unread_since": since,
        "above": _above(org, new, used),
    }
    return Change(row, _history(org, new, at, org.balance_micro, found) if changed else None)


def overrides_of(org: Any) -> Overrides:
    return Overrides(org.operator_halt, org.override_halted, org.override_max_concurrent, org.override_until_ms)


def unchanged(org: Any, due: int | None) -> dict[str, object]:
    """The row as it is, asked again when `due` says."""
    return {
        "name": org.org_id,
        "halted": org.is_halted,
        "since": org.halted_at,
        "why": org.halt_reason,
        "most": org.max_concurrent_sandboxes,
        "read": org.projection_read_ms,
        "due": due,
        "balance": org.balance_micro,
        "balance_read": org.balance_read_ms,
        "plan_": org.plan,
        "unseen": org.unseen_micro,
        "unread_since": org.unread_since_ms,
        "look": org.watch_due_ms,
        "above": org.resume_above_micro,
    }


def _row(org: Any, new: Verdict, at: Moment, due: int | None) -> dict[str, object]:
    since = org.halted_at if org.is_halted else at.now_ms  # a transition only: a grace period must be able to end
    return unchanged(org, due) | {
        "halted": new.is_halted,
        "since": since if new.is_halted else None,
        "why": new.reason,
        "most": new.max_concurrent,
        "read": at.read_ms,
        "look": at.now_ms if org.is_halted and not new.is_halted else org.watch_due_ms,
    }


def _history(
    org: Any, new: Verdict, at: Moment, balance: int | None, found: Effective | None
) -> dict[str, object] | None:
    known = (org.is_halted, org.max_concurrent_sandboxes, org.halt_reason)
    if known == (new.is_halted, new.max_concurrent, new.reason):
        return None
    return {
        "org_id": org.org_id,
        "read_ms": at.read_ms,
        "at_ms": at.now_ms,
        "is_halted": new.is_halted,
        "max_concurrent_sandboxes": new.max_concurrent,
        "reason": ESTIMATE_WRONG if _was_wrong(org, new, balance) else new.reason,
        "balance_micro": balance,
        "unaccepted_micro": None if found is None else found.unaccepted,
        "unsealed_micro": None if found is None else found.unsealed,
    }


def _was_wrong(org: Any, new: Verdict, balance: int | None) -> bool:
    """Halted on an estimate, and there is credit after all though nobody gave any: the balance never rose."""
    no_more = balance is not None and org.balance_micro is not None and balance <= org.balance_micro
    return bool(org.halt_reason == "estimate" and not new.is_halted and org.override_halted is None and no_more)


def write(connection: sa.Connection, changes: Sequence[Change]) -> None:
    """Write organisations' new rows and the history of their verdicts."""
    if changes:
        connection.execute(
            orgs.update()
            .where(orgs.c.org_id == sa.bindparam("name"))
            .values(
                is_halted=sa.bindparam("halted"),
                halted_at=sa.bindparam("since"),
                halt_reason=sa.bindparam("why"),
                max_concurrent_sandboxes=sa.bindparam("most"),
                projection_read_ms=sa.bindparam("read"),
                projection_due_ms=sa.bindparam("due"),
                balance_micro=sa.bindparam("balance"),
                balance_read_ms=sa.bindparam("balance_read"),
                plan=sa.bindparam("plan_"),
                unseen_micro=sa.bindparam("unseen"),
                unread_since_ms=sa.bindparam("unread_since"),
                watch_due_ms=sa.bindparam("look"),
                resume_above_micro=sa.bindparam("above"),
            ),
            [one.row for one in changes],
        )
    history = [one.history for one in changes if one.history is not None]
    if history:
        connection.execute(projections.insert(), history)
