"""The effect of a read of a customer, or of the failure to read it, on an organisation's row. Pure.

Guarantee: a state that cannot be read, or is none, changes no figure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from drawdown.providers.protocol import CustomerRead, CustomerState, ReadFailed
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.verdict.asks import READ_TWICE, SECOND_READ_MS
from drawdown.worker.verdict.effective_balance import Used, effective_after, since_read
from drawdown.worker.verdict.org_row import (
    ENDLESS_MICRO,
    Change,
    Effective,
    Moment,
    Row,
    history_of,
    overrides_of,
    state_of,
    unchanged,
)
from drawdown.worker.verdict.rules import (
    CREDIT_REASONS,
    USAGE_LIMIT,
    Estimate,
    Refused,
    Verdict,
    unread_verdict,
    verdict,
)

HOLD_MS: Final = 15 * MINUTE_MS
"""For how long after a halt a sliver of credit is no reason to go on: three ticks, by when late samples are in."""


def said(states: Mapping[str, CustomerRead], customer_id: str) -> CustomerRead:
    """What a provider told about one of those it was asked about."""
    return states.get(customer_id, ReadFailed("the provider said nothing of this customer"))


@dataclass(frozen=True)
class Here:
    """What the database says of an organisation as its customer's state is judged. `used` None: no estimate is made of
    it. `held_micro` of the balance is reserved. `in_use`: the features it uses now, if the provider refuses some."""

    used: Used | None
    held_micro: int = 0
    in_use: frozenset[str] = frozenset()


def after_read(org: Row, state: CustomerState, here: Here, at: Moment, *, asked_again: bool) -> Change:
    """What a fresh state makes of an organisation. `asked_again`: since the read began, so that it does not answer for
    that."""
    used, held_micro = here.used, here.held_micro
    found, hidden, judged = None, None, None
    if used is not None and state.balance_micro is not None:
        found, hidden = effective_after(org, state.balance_micro, used)
        spent = org.is_halted and org.halt_reason in CREDIT_REASONS
        may_halt = at.watched or state.balance_micro <= held_micro + used.rejected
        judged = Estimate(found.value, _margin(org, state.balance_micro, used, at), spent, may_halt)
    refused = Refused(state.refused, here.in_use, org.is_halted and org.halt_reason == USAGE_LIMIT)
    overrides = overrides_of(org)
    new = verdict(state.balance_micro, state.max_concurrent, overrides, at.now_ms, judged, held_micro, refused)
    # Asked since this read began, and so at about this time; or by pushes that left it to its turn while it ran: of the
    # halted, none is.
    due = at.now_ms if asked_again and (new.is_halted or org.projection_due_ms is not None) else None
    written = replace(
        state_of(org, new, at, due),
        read_by_ms=org.read_by_ms if asked_again else _second_read_ms(org, at),
        balance_micro=state.balance_micro,
        balance_read_ms=at.read_ms,
        plan=state.plan,
        refused=json.dumps(sorted(state.refused)) if state.refused else None,
        unseen_micro=hidden,
        unread_since_ms=None,
        resume_above_micro=_above(org, new, used),
    )
    return Change(written, history_of(org, new, at, state.balance_micro, found, held_micro), _left(state, found, used))


def _second_read_ms(org: Row, at: Moment) -> int | None:
    """When the provider is asked once more: so long after the first read began that a webhook called for, which may
    be older than the change that the webhook reported. A slow answer puts it off no further."""
    return min(at.read_ms, at.now_ms) + SECOND_READ_MS if org.read_by_ms == READ_TWICE else None


def _left(state: CustomerState, found: Effective | None, used: Used | None) -> int:
    """What is left by a fresh read, without what runs have reserved, and without a guess at what will be used next."""
    if state.balance_micro is None:
        return ENDLESS_MICRO
    if found is None or used is None:
        return state.balance_micro
    return found.balance - found.unaccepted - used.unsealed


def _margin(org: Row, balance: int, used: Used, at: Moment) -> int:
    """How much credit it takes to go on: what would be gone in a minute; and as before the halt with what was expected
    then, for samples come late, unless the balance rose. After a while any credit will do."""
    if org.halted_at is None or at.now_ms - org.halted_at >= HOLD_MS:
        return 0
    paid = org.balance_micro is not None and balance > org.balance_micro
    return used.burn_a_minute if paid else max(used.burn_a_minute, org.resume_above_micro or 0)


def _above(org: Row, new: Verdict, used: Used | None) -> int | None:
    if new.is_halted and not org.is_halted:
        return None if used is None else used.burn_a_minute + max(used.unsampled, 0)
    return org.resume_above_micro if new.is_halted else None


def after_failed_read(org: Row, used: Used | None, policy: str, at: Moment, due: int | None) -> Change:
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
    written = replace(
        state_of(org, new, at, due) if changed else unchanged(org, due),
        unread_since_ms=since,
        resume_above_micro=_above(org, new, used),
    )
    return Change(written, history_of(org, new, at, org.balance_micro, found) if changed else None)
