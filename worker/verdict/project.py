"""Project: copy the provider's verdict to the organisation.

Guarantee: each projection reads the provider again. A projection has the time at which its read began, and an older
read never overwrites a newer read. If a customer cannot be read or does not exist, its stored figures stay, and do not
become zero. Only a new read, an operator or the end of billing resumes an organisation that was halted for lack of
credit. Within HOLD_MS after the halt, the read must show an effective balance above the use of at least a minute.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import sqlalchemy as sa
import structlog

from drawdown.providers.protocol import CustomerRead, CustomerState, ReadFailed
from drawdown.schema.database import UNSTORABLE
from drawdown.schema.sql import queries
from drawdown.schema.text import NEEDS_YOU, in_short
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.catalog.balance_parts import last_look_ms, note_parts
from drawdown.worker.catalog.mapping import read_in_use
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import ReadCustomers, Steps, Transaction
from drawdown.worker.engine.shard import Shard
from drawdown.worker.verdict.effective_balance import Used, effective_after, read_used, since_read
from drawdown.worker.verdict.holds import mature_wallets, read_held
from drawdown.worker.verdict.org_row import (
    ENDLESS_MICRO,
    Change,
    Effective,
    Moment,
    Row,
    end_overrides,
    history_of,
    is_asked_for,
    lock_rows,
    overrides_of,
    state_of,
    unchanged,
    write,
)
from drawdown.worker.verdict.rates import policies_of, policy_for
from drawdown.worker.verdict.refresh_requests import (
    NOT_ASKED,
    READ_TWICE,
    SECOND_READ_MS,
    DueProjection,
    OneRound,
    find_answer,
    mark_for_projection,
)
from drawdown.worker.verdict.rules import (
    CREDIT_REASONS,
    HOLD_MS,
    USAGE_LIMIT,
    Estimate,
    Refused,
    Verdict,
    unread_verdict,
    verdict,
)
from drawdown.worker.verdict.watch_state import ESTIMATE_WRONG, is_watched, note_reads, unless_explained

log = structlog.get_logger()

SQL = queries(__file__)

READING: Final = 7
"""Eighths of a tick's time after which further customers are not read."""
READ_AGAIN_MS: Final = MINUTE_MS
"""Milliseconds before Drawdown repeats a failed read."""
MAX_UNWRITTEN: Final = 20
"""Most unwritten verdicts that a report names. The log has all of them."""
ORGS_A_ROUND = 64
"""Concurrent reads of customers, if the provider allows several.

Fewer reads would not fully use the connection, and more would delay verdicts.
"""


@dataclass
class Projected:
    """The counts of a projection's reads and verdicts, by organisation.

    `read`: organisations with a new read. `failed`: organisations without a read or with an unwritten verdict.
    `halted`, `resumed`: changed verdicts. `wrong_estimates`: halts on an estimate that a read proved wrong.
    """

    read: int = 0
    failed: int = 0
    halted: int = 0
    resumed: int = 0
    wrong_estimates: int = 0
    calls_cut: dict[str, int] = field(default_factory=dict)
    """The fewest concurrent reads, by provider, if the provider refused reads as too many."""
    unwritten: list[str] = field(default_factory=list)
    """Organisations with a verdict that the database refused, each with the reason."""
    problems: list[str] = field(default_factory=list)
    """Reasons why a provider's customers are not read until a person fixes them."""

    def add(self, other: Projected) -> None:
        """Add the counts of another part."""
        self.read += other.read
        self.failed += other.failed
        self.halted += other.halted
        self.resumed += other.resumed
        self.wrong_estimates += other.wrong_estimates
        self.unwritten += other.unwritten[: max(MAX_UNWRITTEN - len(self.unwritten), 0)]
        self.problems += other.problems

    def note(self, org: Row, change: Change) -> None:
        """Count and log a change of the verdict."""
        if change.history is None:
            return
        halted = bool(change.history["is_halted"])
        self.halted += halted and not org.is_halted
        self.resumed += org.is_halted and not halted
        log.info("projection_changed", org=org.org_id, halted=halted, reason=change.reason)
        if change.history["reason"] == ESTIMATE_WRONG:
            self.wrong_estimates += 1
            log.error(
                "estimate_wrong",
                org=org.org_id,
                detail="Drawdown halted the organisation on an estimate, but credit is left. Drawdown resumed it",
            )


def project(context: Context, provider: str, org: str = "") -> Steps[Projected]:
    """Read customers of a provider with a due refresh, and write their verdicts.

    `org`: only this organisation, if it is not empty.
    """
    done = Projected()
    capabilities = context.capabilities[provider]
    at_most = capabilities.reads_a_call
    if capabilities.in_flight > 1:
        at_most = max(at_most, ORGS_A_ROUND)
    this = OneRound()
    matures = not org
    while not context.out_of_time(READING):
        now = context.clock.now_ms()
        which = partial(_due, provider=provider, now=now, at_most=at_most, shard=context.shard, org=org)
        found: list[DueProjection] = yield Transaction("projections_due", partial(which, passed=sorted(this.passed)))
        if not found:
            break
        due = this.to_read(found)
        if not due:
            continue  # read the next organisations, without those that were passed over
        if matures and due[0].wallets_wait:
            matures = False
            yield from mature_wallets(context)  # so that wallets are up to date before verdicts use them
            continue
        this.note(due)
        read_ms = context.clock.now_ms()
        states = yield from _read(context, provider, due, done)
        work = partial(_apply, provider=provider, context=context, states=states, read_ms=read_ms)
        yield from _write(work, due, done)
        context.advanced("projected", len(due))
    return done


def _write(work: partial[Projected], due: Sequence[DueProjection], done: Projected) -> Steps[None]:
    """Write verdicts; after a failure, halve them to find the invalid verdict (S8).

    The organisation of the invalid verdict keeps its verdict and is read again later. The other halts are not delayed.
    """
    parts = [tuple(due)]
    while parts:
        part = parts.pop()
        try:
            written: Projected = yield Transaction("project", partial(work, due=part))
        except UNSTORABLE as error:
            if len(part) > 1:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
                continue
            why = in_short(error)
            log.error("verdict_not_written", org=part[0].org_id, error=why)
            yield Transaction("project_later", partial(_put_off, due=part[0], context=work.keywords["context"]))
            written = Projected(failed=1, unwritten=[f"{part[0].org_id}: its verdict was not written: {why}"])
        done.add(written)


def _put_off(connection: sa.Connection, *, due: DueProjection, context: Context) -> None:
    again = {"projection_due_ms": context.clock.now_ms() + READ_AGAIN_MS}
    SQL.run(connection, "put_off", {"org_id": due.org_id, "refresh_requests": due.asks, **again})


def _read(
    context: Context, provider: str, due: Sequence[DueProjection], done: Projected
) -> Steps[Mapping[str, CustomerRead]]:
    wanted = [org.customer_id for org in due]
    if context.hurried and not context.reading(provider).allows(context.clock.now_ms()):
        return dict.fromkeys(wanted, NOT_ASKED)
    about: Sequence[str] = wanted  # if only one customer cannot be read, the provider is still available
    try:
        states: Mapping[str, CustomerRead] = yield ReadCustomers(
            provider,
            wanted,
            partial(context.out_of_time, READING),
            lambda at_once: done.calls_cut.update({provider: at_once}),
        )
    except Exception as error:  # a balance that cannot be read is not zero
        log.exception("provider_failed", provider=provider, first_org=due[0].org_id)
        states = {customer_id: ReadFailed(in_short(error)) for customer_id in wanted}
        about = ()
    reasons = {state.reason: None for state in states.values() if isinstance(state, ReadFailed)}
    said = [f"{provider}: {why.removeprefix(NEEDS_YOU)}" for why in reasons if why.startswith(NEEDS_YOU)]
    done.problems += [why for why in said if why not in done.problems]
    failed = all(isinstance(state, ReadFailed) for state in states.values())
    context.reading(provider).note(failed=failed, now_ms=context.clock.now_ms(), about=about)
    return states


def _due(
    connection: sa.Connection, *, provider: str, now: int, at_most: int, shard: Shard, org: str, passed: Sequence[str]
) -> list[DueProjection]:
    end_overrides(connection, shard, now)
    values = {"now_ms": now, "lo": shard.lo, "hi": shard.hi, "provider": provider, "at_most": at_most, "org_id": org}
    rows = SQL.run(connection, "projections_due", {**values, "passed": [{"org_id": one} for one in passed]})
    return [DueProjection(**row._mapping) for row in rows]


def _apply(
    connection: sa.Connection,
    *,
    provider: str,
    context: Context,
    due: Sequence[DueProjection],
    states: Mapping[str, CustomerRead],
    read_ms: int,
) -> Projected:
    done = Projected()
    now = context.clock.now_ms()  # read here, because an override may have ended since the read
    asked = {wanted.org_id: wanted for wanted in due}
    current = lock_rows(connection, asked)
    watched = context.hurried or is_watched(connection, now)
    estimated = current if watched else _spent_or_refused(connection, provider, current)
    used = _used(connection, context, provider, estimated, read_ms=read_ms, now=now)
    held = read_held(connection, provider, sorted(asked), now)
    in_use = read_in_use(connection, _with_refused(due, states), now)
    policies = policies_of(connection, provider)
    billed = _billed(connection, provider, due, now)
    changes, overtaken = list[Change](), list[str]()
    for org in current:
        wanted = asked[org.org_id]
        if (org.org_id, wanted.customer_id) not in billed:  # its provider or customer id changed, or billing ended
            changes.append(Change(unchanged(org, org.projection_due_ms)))
            continue
        state = find_answer(states, wanted.customer_id)
        fresh = isinstance(state, CustomerState)
        done.read += fresh
        done.failed += not fresh
        if (org.projection_read_ms, org.balance_read_ms) != (wanted.read_before_ms, wanted.balance_before_ms):
            # Another read, or a push's response with a balance, was written meanwhile. Clocks cannot show which is
            # newer. If the other read answered the request, do not repeat the request, because two processes could
            # repeat it forever. Otherwise, request a read again under a new number, because a round reads each request
            # once.
            overtaken += [org.org_id] if fresh and is_asked_for(org, now) else []
            same = fresh or org.refresh_requests != wanted.asks
            changes.append(Change(unchanged(org, org.projection_due_ms if same else now + READ_AGAIN_MS)))
            continue
        at = Moment(max(read_ms, wanted.before_ms + 1), now, watched)
        here = Here(used.get(org.org_id), held.get(org.org_id, 0), in_use.get(org.org_id, frozenset()))
        change = _after(connection, org, wanted, state, here, policies, at)
        changes.append(change)
        done.note(org, change)
    write(connection, changes, now)
    if context.capabilities[provider].costs:
        note_parts(connection, provider, _select_billed_states(current, asked, states, billed), now)
    if overtaken:
        mark_for_projection(connection, overtaken, now)
    _note_reads(connection, provider, [find_answer(states, wanted.customer_id) for wanted in due])
    return done


def _select_billed_states(
    current: Sequence[Row],
    asked: Mapping[str, DueProjection],
    states: Mapping[str, CustomerRead],
    billed: Collection[tuple[str, str]],
) -> dict[str, CustomerState]:
    """Return the states of the customers that these organisations are billed as."""
    found: dict[str, CustomerState] = {}
    for org in current:
        customer = asked[org.org_id].customer_id
        state = find_answer(states, customer)
        if isinstance(state, CustomerState) and (org.org_id, customer) in billed:
            found[customer] = state
    return found


def _with_refused(due: Sequence[DueProjection], states: Mapping[str, CustomerRead]) -> list[str]:
    """Return the organisations with a feature that the provider refuses."""
    read = {wanted.org_id: find_answer(states, wanted.customer_id) for wanted in due}
    return sorted(org_id for org_id, state in read.items() if isinstance(state, CustomerState) and state.refused)


def _spent_or_refused(connection: sa.Connection, provider: str, orgs: Sequence[Row]) -> list[Row]:
    """Return organisations that are halted for lack of credit or have a rejection.

    A balance does not show a rejected push.
    """
    values = {"provider": provider, "org_ids": [org.org_id for org in orgs]}
    refused = set(SQL.run(connection, "with_rejected", values).scalars())
    return [org for org in orgs if org.org_id in refused or (org.is_halted and org.halt_reason in CREDIT_REASONS)]


def _note_reads(connection: sa.Connection, provider: str, states: Sequence[CustomerRead]) -> None:
    outcomes = (_outcome(state) for state in states)
    note_reads(connection, provider, Counter(outcome for outcome in outcomes if outcome is not None))


def _after(
    connection: sa.Connection,
    org: Row,
    due: DueProjection,
    state: CustomerRead,
    here: Here,
    policies: dict[str, str],
    at: Moment,
) -> Change:
    """Return the change of an organisation after a read, or after a failed read."""
    asked_again = org.refresh_requests != due.asks
    if isinstance(state, CustomerState):
        change = after_read(org, state, here, at, asked_again=asked_again)
        return unless_explained(connection, org, change)
    reason = (
        state.reason if isinstance(state, ReadFailed) else f"the provider does not have the customer {due.customer_id}"
    )
    log.warning("customer_not_read", org=org.org_id, reason=reason)
    again = org.projection_due_ms if asked_again else at.now_ms + READ_AGAIN_MS
    return after_failed_read(org, here.used, policy_for(policies, org.plan), at, again)


def _billed(connection: sa.Connection, provider: str, due: Sequence[DueProjection], now: int) -> set[tuple[str, str]]:
    """Return the (organisation, customer) pairs that this provider bills now."""
    values = {"org_ids": [wanted.org_id for wanted in due], "provider": provider, "now_ms": now}
    return {(row.org_id, row.customer_id) for row in SQL.run(connection, "customers_billed", values)}


def _outcome(state: CustomerRead) -> str | None:
    """Return the outcome of a read for the count; None if a call was not made."""
    if state is NOT_ASKED:
        return None
    if isinstance(state, ReadFailed):
        return "failed"
    return "read" if isinstance(state, CustomerState) else "no_customer"


def _used(
    connection: sa.Connection, context: Context, provider: str, wanted: Sequence[Row], *, read_ms: int, now: int
) -> Mapping[str, Used]:
    """Return the usage of organisations beyond their balance.

    If a watch runs, `wanted` has all organisations. Otherwise it has only those that are halted for lack of credit, or
    have rejected pushes. While history is in doubt (R1), the result is empty, because a charge of a lost history would
    be subtracted twice.
    """
    if SQL.run(connection, "is_doubted").first() is not None:
        return {}
    lag = context.capabilities[provider].balance_lag_ms
    found = read_used(connection, provider, wanted, now_ms=now, read_ms=read_ms, lag_ms=lag)
    return {org.org_id: found.get(org.org_id, Used()) for org in wanted}


@dataclass(frozen=True)
class Here:
    """The facts of the database for a customer's verdict.

    `used`: the use that the balance may not show (None: without an estimate). `held_micro`: the reserved credit of the
    balance. `in_use`: the features in use now, if the provider refuses any.
    """

    used: Used | None
    held_micro: int = 0
    in_use: frozenset[str] = frozenset()


def after_read(org: Row, state: CustomerState, here: Here, at: Moment, *, asked_again: bool) -> Change:
    """Return the change of an organisation after a successful read.

    `asked_again`: True if a request came after the read began, so that the read does not answer it.
    """
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
    if used is not None and state.balance_micro is not None and org.is_halted and not new.is_halted:
        # If the balance rose, the read came after a payment, and includes the last pushes.
        found, hidden = effective_after(org, state.balance_micro, used, paid=True)
    # Since this read began, a refresh was requested, or a push set a refresh deadline. A deadline is not enough for a
    # halted organisation, so its read is due now.
    due = at.now_ms if asked_again and (new.is_halted or org.projection_due_ms is not None) else None
    written = replace(
        state_of(org, new, at, due),
        refresh_deadline_ms=org.refresh_deadline_ms if asked_again else _second_read_ms(org, state, at),
        balance_micro=state.balance_micro,
        balance_read_ms=at.read_ms,
        plan=state.plan,
        refused=json.dumps(sorted(state.refused)) if state.refused else None,
        feature_limits=json.dumps(dict(state.feature_limits), sort_keys=True) if state.feature_limits else None,
        unconfirmed_micro=hidden,
        unread_since_ms=None,
        resume_above_micro=_above(org, new, used),
    )
    return Change(
        written,
        history_of(org, new, at, state.balance_micro, found, held_micro),
        _compute_remaining_credit(state, found, used),
    )


def _second_read_ms(org: Row, state: CustomerState, at: Moment) -> int | None:
    """Return when to read the provider a second time; None: not planned.

    After a webhook, the time is SECOND_READ_MS after the start of the first read, because that read may be older than
    the reported change. Otherwise, if a part of the balance ends soon, the time is that of the last look at the part.
    """
    if org.refresh_deadline_ms == READ_TWICE:
        return min(at.read_ms, at.now_ms) + SECOND_READ_MS
    return last_look_ms([part.ends_ms for part in state.parts], at.now_ms)


def _compute_remaining_credit(state: CustomerState, found: Effective | None, used: Used | None) -> int:
    """Return the credit left by a fresh read, in micro-credits.

    Reserved credit and use without samples are not subtracted.
    """
    if state.balance_micro is None:
        return ENDLESS_MICRO
    if found is None or used is None:
        return state.balance_micro
    return found.balance - found.unaccepted - used.unsealed


def _margin(org: Row, balance: int, used: Used, at: Moment) -> int:
    """Return the credit that an organisation needs to resume.

    The credit is the use of a minute. If the balance did not rise, the credit is at least the use that was expected at
    the halt, because samples come late. After HOLD_MS, any credit is enough.
    """
    if org.halted_at is None or at.now_ms - org.halted_at >= HOLD_MS:
        return 0
    paid = org.balance_micro is not None and balance > org.balance_micro
    return used.burn_a_minute if paid else max(used.burn_a_minute, org.resume_above_micro or 0)


def _above(org: Row, new: Verdict, used: Used | None) -> int | None:
    if new.is_halted and not org.is_halted:
        return None if used is None else used.burn_a_minute + max(used.unsampled, 0)
    return org.resume_above_micro if new.is_halted else None


def after_failed_read(org: Row, used: Used | None, policy: str, at: Moment, due: int | None) -> Change:
    """Return the change of an organisation after a failed read.

    `policy`: the policy of its plan for an unavailable provider. Only a watch estimates, so its estimate applies only
    while it runs. `due`: the time of the next read.
    """
    present = Verdict(org.is_halted, org.halt_reason, org.max_concurrent_sandboxes)
    found = None if used is None else since_read(org, used)
    since = at.now_ms if org.unread_since_ms is None else org.unread_since_ms
    effective = found.value if found is not None and at.watched else None
    unread_ms = at.now_ms - since
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
