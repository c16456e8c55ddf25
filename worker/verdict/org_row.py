"""How an organisation stands: its row, what an operator's word makes of it, and the history of its verdicts.

Guarantee: `halted_at` changes only when the verdict does; each transition is kept with its reason and the figures it
rests on. Pure, but for `write`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.tables import orgs, projections
from drawdown.schema.units import EXEMPT_PROVIDERS
from drawdown.worker.verdict.rules import CREDIT_REASONS, Overrides, Verdict, told_verdict

ESTIMATE_WRONG: Final = "estimate_wrong"
EXEMPT: Final = "exempt"
"""Why somebody goes on who was halted for lack of credit, and is billed by nobody now."""


@dataclass(frozen=True)
class Effective:
    """An effective balance with its parts, in micro-credits. Unsealed is what samples tell, and for whoever is not
    halted what they will tell next."""

    balance: int
    unaccepted: int
    unsealed: int

    @property
    def value(self) -> int:
        return self.balance - self.unaccepted - self.unsealed


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


def after_operator(org: Any, now_ms: int) -> Change:
    """What an operator's word, the end of it, or of being billed makes of an organisation, by what is known already."""
    present = Verdict(org.is_halted, org.halt_reason, org.max_concurrent_sandboxes)
    billed = org.billing_provider is not None and org.billing_provider not in EXEMPT_PROVIDERS
    spent = org.balance_micro is not None and org.balance_micro <= 0
    new = told_verdict(present, overrides_of(org), now_ms, billed=billed, spent=spent)
    asked: dict[str, object] = {} if billed else {"due": None, "unread_since": None}
    if new.is_halted == present.is_halted and org.projection_read_ms is None:  # that it was never read stays known
        return Change(unchanged(org, org.projection_due_ms) | {"most": new.max_concurrent} | asked)
    at = Moment(max(now_ms, org.projection_read_ms or 0), now_ms, watched=False)
    row = row_of(org, new, at, org.projection_due_ms) | asked
    history = history_of(org, new, at, org.balance_micro, None)
    if history is not None and not billed and not new.is_halted and org.halt_reason in CREDIT_REASONS:
        history["reason"] = EXEMPT
    return Change(row | {"above": org.resume_above_micro if new.is_halted else None}, history)


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


def row_of(org: Any, new: Verdict, at: Moment, due: int | None) -> dict[str, object]:
    since = org.halted_at if org.is_halted else at.now_ms  # a transition only: a grace period must be able to end
    return unchanged(org, due) | {
        "halted": new.is_halted,
        "since": since if new.is_halted else None,
        "why": new.reason,
        "most": new.max_concurrent,
        "read": at.read_ms,
        "look": at.now_ms if org.is_halted and not new.is_halted else org.watch_due_ms,
    }


def history_of(
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
