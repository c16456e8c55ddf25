"""Define the state that `status` reads, and choose its headline. Pure.

Guarantee: each field has its name in `--json`. A person is needed only if ticks cannot fix the fault. The most serious
reason comes first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from shlex import quote
from typing import Final, Literal

from drawdown.schema.clock import utc
from drawdown.schema.pending import REASONS
from drawdown.schema.text import counted, typed
from drawdown.schema.units import MINUTE_MS, show_difference
from drawdown.worker.batches.lists import FilesLeft
from drawdown.worker.cluster.lists import Cluster
from drawdown.worker.provider.shadows import InShadow
from drawdown.worker.push.backlog import Waiting
from drawdown.worker.push.unresolved import AWAITING_CREDIT, Unresolved
from drawdown.worker.reconcile.lists import Uncompared
from drawdown.worker.status.backlog import Backlog, JobsLeft, LongOpen
from drawdown.worker.topup.lists import PausedDebt
from drawdown.worker.usage.intake import NAME_ONE, ShortOfTypes
from drawdown.worker.verdict.watch_state import STOPPED_FOR_MS, WATCHED_FOR_MS, UnreadOrgs


@dataclass(frozen=True)
class Pause:
    """The start and the reason of a provider's pause."""

    since_ms: int
    reason: str


@dataclass(frozen=True)
class PendingUsage:
    """Pending usage, for one reason."""

    reason: str
    seconds: int
    orgs: int
    since_ms: int
    units: int = 0
    """Units of event types, which `seconds` of sandboxes do not include."""


def how_much(usage: PendingUsage) -> str:
    """Return the seconds and units of pending usage, for people."""
    parts = [f"{usage.seconds:,} s"] if usage.seconds or not usage.units else []
    return " and ".join([*parts, *([counted(usage.units, "unit")] if usage.units else [])])


@dataclass(frozen=True)
class HaltsDue:
    """The due halts.

    `due`: the number of halts. `since_ms`: the time of the oldest halt (None: `due` is 0). `error`: the error of one of
    them (None: without an error).
    """

    due: int
    since_ms: int | None
    error: str | None


@dataclass(frozen=True)
class UndeliveredHalts:
    """The undelivered halts of one cell and error.

    `error`: the error of the last attempt (None: before the first attempt). `needs_person`: True if each retry fails
    until a person changes a setting. `description`: the text for people. The other fields are those of `Undelivered`.
    """

    cell_id: str
    error: str | None
    halts: int
    since_ms: int
    org_id: str
    needs_person: bool
    description: str


@dataclass(frozen=True)
class IgnoredHalt:
    """A halt that a cell acknowledged and did not obey, `times` times.

    `since_ms`: the time of the first acknowledgement. `description`: the text that a person reads.
    """

    cell_id: str
    org_id: str
    times: int
    since_ms: int
    description: str


@dataclass(frozen=True)
class Differing:
    """A provider's daily totals that differ from accepted pushes, by verdict.

    `verdict`: `short` if the provider's total is lower, `over` if it is higher. `days`: the number of these totals,
    which are by organisation, customer, feature and day. `since_ms`: the first day. `compared_ms`: the time of the last
    comparison.
    """

    provider: str
    verdict: str
    days: int
    since_ms: int
    compared_ms: int


@dataclass(frozen=True)
class ToldBalance:
    """A reported difference of a balance that a person has not acknowledged.

    The fields are those of `UnacknowledgedDifference`.
    """

    provider: str
    customer_id: str
    feature: str
    org_id: str
    told_qty: int
    told_ms: int
    scale: int
    unsure_qty: int = 0


@dataclass(frozen=True)
class StoppedOrg:
    """An organisation that is stopped until a person resumes it, with the reason."""

    org_id: str
    stopped_at_ms: int
    stopped_reason: str | None


@dataclass(frozen=True)
class HaltedOrg:
    """One of the organisations that were halted last. `halted_at` is in milliseconds."""

    org_id: str
    halt_reason: str | None
    halted_at: int


@dataclass(frozen=True)
class Doubt:
    """The reason why this database may have lost history (R1).

    `doubted_ms`: the time when Drawdown found the reason.
    """

    doubted_ms: int
    doubted_reason: str


@dataclass(frozen=True)
class OpenReplay:
    """A replay that has not ended.

    `next_ms`: the window from which it continues. `pushes`: the number of pushes that it sealed. `lease_ms`: the end of
    its lease.
    """

    replay_id: int
    scope: str
    from_ms: int
    to_ms: int
    next_ms: int
    pushes: int
    actor: str
    started_ms: int
    lease_ms: int


@dataclass(frozen=True)
class LastTick:
    """The tick that ended last.

    `bucket_lo`, `bucket_hi`: the buckets of its shard. `clock_trusted`: an operator set its time (`--at`).
    `another_began_ms`: the start of the next tick, which still runs or was killed (None: without such a tick).
    """

    tick_id: int
    worker: str
    bucket_lo: int
    bucket_hi: int
    started_ms: int
    finished_ms: int
    exit_status: int
    clock_trusted: bool
    took_ms: int
    another_began_ms: int | None
    problems: list[str]
    left: str = ""
    """The first failure of this tick, or of the last tick of the first shard.

    The next tick retries the failed work.
    """


@dataclass(frozen=True)
class LateShard:
    """The buckets without a tick for the longest time.

    `ticked_ms`: the time of their last tick. If they never had one, it is the start of the first known tick.
    """

    bucket_lo: int
    bucket_hi: int
    ticked_ms: int


@dataclass(frozen=True)
class Standing:
    """The state of the whole system.

    `orgs`, `halted`, `unassigned`: numbers of organisations. `left`: the unsettled work. `providers`: the providers
    that have open pushes or are paused. `paused`: pauses by provider. `unread`: organisations with a failed last read.
    `stopped`: the first stopped organisations by id. `halted_orgs`: the organisations that were halted last.
    `open_transaction`: the oldest open transaction, if it is old enough to report. `doubted` None: the history is
    complete.
    """

    orgs: int
    halted: int
    unassigned: int
    watermark_ms: int
    """The lowest watermark of the buckets; 0: before the first seal."""
    sealed_to_ms: int
    """The highest watermark of the buckets. If it is after `at_ms`, a clock was ahead."""
    at_ms: int
    unread_samples: int
    """Samples that seals have not read yet. While hosts send samples, it is rarely 0."""
    left: Backlog
    providers: list[Waiting]
    unresolved: list[Unresolved]
    """Pushes that ticks do not send: in doubt, rejected, or waiting for credit."""
    paused: dict[str, Pause]
    pending: list[PendingUsage]
    halts: HaltsDue
    undelivered: list[UndeliveredHalts]
    watch_ms: int | None
    """The time of the watch's last round (None: before the first round)."""
    unread: list[UnreadOrgs]
    ignored: list[IgnoredHalt]
    differing: list[Differing]
    balances: list[ToldBalance]
    uncompared: list[Uncompared]
    shadow: list[InShadow]
    short_of_types: list[ShortOfTypes]
    """Owners of a reached limit of event types, and the database near its limit."""
    paused_debts: list[PausedDebt]
    """The largest debts of wallets that no organisation uses, with paused top-ups."""
    stopped: list[StoppedOrg]
    halted_orgs: list[HaltedOrg]
    doubted: Doubt | None
    clock: str | None
    """The reason why ticks refuse this machine's clock (None: ticks accept it)."""
    replays: list[OpenReplay]
    jobs: JobsLeft
    files: FilesLeft
    open_transaction: LongOpen | None
    last_tick: LastTick | None
    late_shard: LateShard | None
    """The part of the buckets that ticks neglect most (None: ticks cover all buckets alike)."""
    needs_person: bool
    cluster: Cluster | None = None
    """The workers of `drawdown worker` (None: the command was never used)."""

    def unresolved_at(self, provider: str, state: str) -> Unresolved | None:
        """Return the sum of one provider and state, or None if ticks send all its pushes."""
        return next((one for one in self.unresolved if (one.provider, one.state) == (provider, state)), None)


@dataclass(frozen=True)
class Headline:
    """The first line of `status`.

    `verdict`: settled, behind or person_needed. `reason`: the most important reason. `next`: the next step.
    """

    verdict: str
    reason: str
    next: str


@dataclass(frozen=True)
class Status:
    """The state, and its headline."""

    standing: Standing
    headline: Headline


HALTS_LATE_MS: Final = 10 * MINUTE_MS
"""Age in milliseconds from which an unacknowledged halt needs a person."""
STUCK_MS: Final = 60 * MINUTE_MS
"""Milliseconds after which failing pushes count as stuck, if other pushes of the provider settle."""
TICK_MISSED_MS: Final = 15 * MINUTE_MS
"""Milliseconds without a tick after which ticks count as stopped (three intervals)."""
NEXT_TICK: Final = "wait for the next tick, which tries again"
UNANSWERED: Final = {
    True: "sent, but no response is on record. A tick takes them up again when the sender's claim expires",
    False: "not tried yet",
}


Why = Literal[
    "lost", "clock", "undelivered", "ignored", "missed", "stopped", "problem", "refused", "in_doubt", "rejected",
    "gone", "balance",
]  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A reason why a person is needed, and the next step.

    The headline shows `reason` and `next`. A list of all calls shows `what` and `command`, if they are set. `about`:
    the organisation or provider.
    """

    why: Why
    reason: str
    next: str
    what: str = ""
    command: str = ""
    about: str = ""


def judge(found: Standing) -> Headline:
    """Return the headline of a state."""
    for call in calls(found):
        return Headline("person_needed", call.reason, call.next)
    awaiting = [one for one in found.unresolved if one.state == AWAITING_CREDIT]
    waits = "; ".join(f"{one.size} {one.waits} for credit at {one.provider}" for one in awaiting)
    return _behind(found) or Headline("settled", waits or "nothing waits", "nothing")


def calls(found: Standing) -> Iterator[Call]:
    """Yield all reasons why a person is needed, the most serious first."""
    if found.doubted is not None:
        yield Call("lost", f"this database lost history: {found.doubted.doubted_reason}", "drawdown recover")
    if found.clock is not None:
        yield Call(
            "clock", f"ticks stop at the clock check: {found.clock}", "drawdown doctor", command="drawdown doctor"
        )
    for stuck in found.undelivered:
        if stuck.needs_person:
            show = f"drawdown cell list, then fix cell {stuck.cell_id}: ops/runbooks/cell-gone.md"
            yield Call("undelivered", stuck.description, show, command="drawdown cell list", about=stuck.org_id)
    for halt in found.ignored:
        then = f"stop them on the hosts of {halt.cell_id}: ops/runbooks/cell-gone.md"
        yield Call("ignored", halt.description, then, command="ops/runbooks/cell-gone.md", about=halt.org_id)
    if missed := missed_ticks(found):
        yield Call(
            "missed",
            f"{missed}. Check that cron runs",
            "drawdown tick, then fix the program that calls it",
            command="drawdown tick",
        )
    count = found.left.stopped_orgs
    for org in found.stopped:
        reason = f"{counted(count, 'organisation is', 'organisations are')} stopped; {org.org_id}: {org.stopped_reason}"
        show, what = f"drawdown org show {typed(org.org_id)}", org.stopped_reason or "sealing is stopped"
        yield Call("stopped", reason, show, what, about=org.org_id)
    yield from _seen_by_tick(found)
    for provider in found.providers:
        yield from _at_provider(provider, found)
    for one in found.uncompared:
        if one.for_person:
            customers = counted(one.for_person, "customer")
            days = counted(one.open_days, "day")
            reason = f"no provider bills {days} of usage of {customers} at {one.provider}: {one.said_to_person}"
            check = typed("drawdown", "provider", "check", one.provider)
            yield Call(
                "gone",
                reason,
                f"{check}, then drawdown org assign ORG --provider PROVIDER, then drawdown reconcile ORG --acknowledge",
                command=check,
                about=one.provider,
            )
    for balance in found.balances:
        reason = (
            f"the balance of {balance.customer_id} at {balance.provider} differs from what was pushed by "
            f"{show_difference(balance.told_qty, balance.unsure_qty, balance.scale)} ({balance.feature})"
        )
        fix = f"drawdown reconcile {typed(balance.org_id, '--acknowledge')}"
        yield Call(
            "balance", reason, f"compare with the provider's console, then {fix}", command=fix, about=balance.org_id
        )


def _seen_by_tick(found: Standing) -> Iterator[Call]:
    """Yield problems of the last tick.

    Ignored and undelivered halts are separate calls.
    """
    last = found.last_tick
    if last is None:
        return
    known = {halt.description for halt in found.ignored} | {halt.description for halt in found.undelivered}
    names = {one.provider for one in found.providers} | {one.provider for one in found.unread}
    for problem in last.problems:
        if problem not in known:
            seen = f"{problem} (seen by the tick of {utc(last.started_ms)})"
            show = "drawdown cell list" if problem.startswith("cell ") else "drawdown provider list"
            if (name := problem.partition(":")[0]) in names:
                show = typed("drawdown", "provider", "check", name)
            yield Call("problem", seen, f"{show}; the next tick checks it again", command=show)


def _at_provider(provider: Waiting, found: Standing) -> Iterator[Call]:
    if provider.refused:
        name = provider.provider
        what = f"{name} refuses {counted(provider.refused, 'push', 'pushes')} until you change a setting"
        check = typed("drawdown", "provider", "check", name)
        yield Call(
            "refused", f"{what}: {provider.refusal}", f"{check} shows the setting to change", command=check, about=name
        )
    counts: tuple[tuple[Why, int], ...] = (("in_doubt", provider.in_doubt), ("rejected", provider.rejected))
    for state, pushes in counts:
        if pushes:
            why, name = provider.errors.get(state) or "the reason is not on record", provider.provider
            show = f"drawdown push list --state {state} --provider {quote(name)}"
            count = counted(pushes, "push", "pushes")
            what, words = f"{count} at {name}", f"{count} {state.replace('_', ' ')} at {name}"
            if state == "in_doubt" and (doubted := found.unresolved_at(name, state)) is not None:
                show, since = doubted.command, utc(doubted.oldest_window_ms)
                what = f"{doubted.size} at {name}, {doubted.worth}, the oldest of {since}"
                words = f"{doubted.size} in doubt at {name}, {doubted.worth}"
            yield Call(state, f"{words}: {why}", show, f"{what}: {why}", about=name)


def missed_ticks(found: Standing) -> str:
    """Return a text about late ticks, of all buckets or of some.

    The text is empty without late ticks, or before the first tick.
    """
    last, late = found.last_tick, found.late_shard
    if last is None:
        return ""
    age = found.at_ms - max(last.started_ms, last.another_began_ms or 0, last.finished_ms)
    if age > TICK_MISSED_MS:
        return f"no tick for {age // MINUTE_MS:,} min"
    return missed_by_shard(late, found.at_ms)


def missed_by_shard(late: LateShard | None, now_ms: int) -> str:
    """Return a text about late ticks of some buckets; '' if they are not late."""
    if late is None or now_ms - late.ticked_ms <= TICK_MISSED_MS:
        return ""
    minutes = (now_ms - late.ticked_ms) // MINUTE_MS
    return f"no tick for {minutes:,} min of buckets {late.bucket_lo} to {late.bucket_hi}"


def unwatched_minutes(found: Standing) -> int:
    """Return the minutes since the last round of a watch that stopped, else 0.

    The result is 0 if a watch runs or is not expected.
    """
    age = 0 if found.watch_ms is None else found.at_ms - found.watch_ms
    return int(age // MINUTE_MS) if WATCHED_FOR_MS <= age < STOPPED_FOR_MS else 0


def _behind(found: Standing) -> Headline | None:
    return (
        _halts_due(found)
        or _waits_at_provider(found)
        or _waits_for_tick(found)
        or _unwatched(found)
        or _unsettled(found)
    )


def _halts_due(found: Standing) -> Headline | None:
    """Return the headline of undelivered halts, or None.

    Undelivered halts come first, because sandboxes run without credit until they are delivered.
    """
    for one in found.undelivered:
        late = found.at_ms - one.since_ms > HALTS_LATE_MS
        fix = "drawdown cell list, then stop the sandboxes on its hosts or fix the cell (ops/runbooks/cell-gone.md)"
        until = f"wait until {utc(one.since_ms + HALTS_LATE_MS)} while watch and ticks retry, then drawdown cell list"
        return Headline("behind", one.description, fix if late else until)
    return None


def _waits_at_provider(found: Standing) -> Headline | None:
    for provider in found.providers:
        name, waiting = provider.provider, provider.waiting
        if provider.paused_ms is not None:
            reason = f"{name} is paused ({provider.paused_reason}); {counted(waiting, 'push waits', 'pushes wait')}"
            return Headline("behind", reason, f"drawdown provider pause {name} --undo, when it may continue")
        if waiting:
            pushes = counted(waiting, "push waits", "pushes wait")
            reason = f"{pushes} at {name}: {provider.errors.get('waiting') or UNANSWERED[provider.tried > 0]}"
            return Headline("behind", reason, _fix(provider, found.at_ms))
    return None


def _waits_for_tick(found: Standing) -> Headline | None:
    if count := found.left.dirty_windows:
        return Headline("behind", f"{counted(count, 'window waits', 'windows wait')} to be sealed again", NEXT_TICK)
    if found.unread:
        return _unread(found.unread[0])
    if count := found.left.projections_due:
        return Headline(
            "behind",
            f"{counted(count, 'organisation waits', 'organisations wait')} for a new reading of the balance",
            NEXT_TICK,
        )
    if count := found.jobs.open:
        reason = f"{counted(count, 'job waits', 'jobs wait')} for a tick"
        return Headline("behind", reason, "wait for the ticks that do them; drawdown job list shows the progress")
    return None


def _unwatched(found: Standing) -> Headline | None:
    if minutes := unwatched_minutes(found):
        reason = f"the watch stopped {minutes:,} min ago. Drawdown halts only with the next tick"
        return Headline("behind", reason, "start drawdown watch, run or worker: ops/runbooks/watch-stopped.md")
    return None


def _unsettled(found: Standing) -> Headline | None:
    if found.differing:
        first = found.differing[0]
        totals = counted(first.days, "daily total was", "daily totals were")
        reason = f"{totals} {first.verdict} at {first.provider} in the last comparison"
        since = datetime.fromtimestamp(first.since_ms // 1000, UTC).date()
        return Headline("behind", reason, f"drawdown reconcile --provider {first.provider} --from {since}")
    for one in found.uncompared:
        if one.open_days or one.is_late or one.lacks_balances(found.at_ms):
            fix = f"drawdown reconcile --provider {quote(one.provider)} --correct --reason 'not compared'"
            return Headline("behind", uncompared(one)[0], fix)
    if found.pending:
        most = max(found.pending, key=lambda usage: (usage.seconds, usage.units))
        reason = f"no provider bills {how_much(most)} of usage yet ({most.reason})"
        return Headline("behind", reason, REASONS[most.reason].fix)
    for why, samples in found.left.quarantined.items():
        reason = f"samples or events are quarantined ({why}) and not billed: {samples:,}"
        return Headline("behind", reason, f"drawdown sample quarantined --why {why}")
    if found.left.dated_ahead:
        reason = f"samples or events are dated in the future and not billed until then: {found.left.dated_ahead:,}"
        return Headline(
            "behind",
            reason,
            "fix the clock of their host or program, withdraw them with drawdown sample withdraw ID, and "
            "send them again with new ids",
        )
    if count := found.files.refused + found.files.conflicts:
        reason = f"Drawdown rejected {counted(count, 'file')} of watched folders and did not bill them"
        return Headline("behind", reason, "drawdown batch list shows the reason; fix the files, or move them away")
    if count := found.files.failing:
        reason = f"Drawdown could not read {counted(count, 'file')} of watched folders, and retries in each tick"
        return Headline("behind", reason, "drawdown batch list shows the reason")
    if found.short_of_types:
        return Headline("behind", str(found.short_of_types[0]), NAME_ONE)
    if found.last_tick is None:
        return Headline("behind", "no tick has run yet", "drawdown tick")
    if found.last_tick.left:
        return Headline("behind", f"the last tick left work undone: {found.last_tick.left}", NEXT_TICK)
    return None


def uncompared(one: Uncompared) -> list[str]:
    """Return texts for people about missing comparisons with a provider."""
    said = []
    if one.open_days:
        days, since = counted(one.open_days, "customer-day"), utc(one.open_since_ms or 0)[:10]
        said.append(f"reconcile has not compared {days} at {one.provider} since {since} ({one.said})")
    elif one.is_late:
        said.append(f"reconcile has not compared {one.provider} since {utc(one.compared_ms or 0)}")
    if one.balances:
        customers, since = counted(one.balances, "customer"), utc(one.balances_since_ms or 0)[:10]
        reason = f"reconcile has not compared the balances of {customers} at {one.provider} since {since}"
        said.append(f"{reason} ({one.said_of_balance})")
    return said


def _unread(unread: UnreadOrgs) -> Headline:
    orgs = counted(unread.orgs, "organisation")
    reason = f"Drawdown cannot read {orgs} at {unread.provider or 'their provider'}: {UNREAD}"
    return Headline(
        "behind", reason, f"drawdown provider check {unread.provider}, then drawdown org show {unread.first_org}"
    )


MENDED: Final = ("send them", "look up what may have arrived, and send the rest,")
"""The next steps of ticks for waiting pushes.

The first step is for unsent pushes. The second step is for pushes of which some may have arrived.
"""
UNREAD: Final = (
    "it is down, a setting is wrong, or it does not know the customer. "
    "The organisations run until the last balance read is used up"
)


def _fix(provider: Waiting, now_ms: int) -> str:
    stuck = provider.waiting_since_ms is not None and now_ms - provider.waiting_since_ms > STUCK_MS
    failing = provider.due and "waiting" in provider.errors and provider.tried > 0
    if stuck and failing and provider.drained_ms is not None:
        show = typed("drawdown", "push", "list", "--state", "due", "--provider", provider.provider)
        return f"{show}: these fail while others settle. Ticks send them again at {_next_try(provider, now_ms)}"
    if provider.queued and (provider.drained_ms is not None or not provider.due):
        by_ms = provider.looked_up_by_ms
        until = f" until {utc(by_ms)}" if by_ms is not None and by_ms > now_ms else ""
        return (
            f"wait{until} while ticks look up pushes that may have arrived. You must resolve those that stay unproven"
        )
    if provider.drained_ms is not None:
        return f"wait: the queue drains by about {utc(provider.drained_ms)}"
    check = f"drawdown provider check {provider.provider}"
    return f"{check}; ticks {MENDED[provider.queued > 0]} once it answers, next at {_next_try(provider, now_ms)}"


def _next_try(provider: Waiting, now_ms: int) -> str:
    """Return the text of the time at which ticks next send the first push."""
    return utc(max(provider.retry_ms or now_ms, now_ms))
