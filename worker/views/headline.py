"""The headline: the one line that a person woken at night needs first. Pure.

Guarantee: a person is asked for only where no tick will mend it. Of several reasons the gravest comes first.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from drawdown.schema.clock import utc
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.verdict.watch_state import STOPPED_FOR_MS, WATCHED_FOR_MS, UnreadOrgs
from drawdown.worker.views.standing import Headline, Standing, how_much
from drawdown.worker.views.waiting import Waiting

TICK_MISSED_MS: Final = 15 * MINUTE_MS
"""Three ticks that did not happen: nobody calls them any more."""
NEXT_TICK: Final = "nothing: the next tick tries again"
UNANSWERED: Final = {
    True: "sent, and no answer is on record: taken up again once the claim of whoever sent them ends",
    False: "not tried yet",
}


def judge(found: Standing) -> Headline:
    """The verdict on what `status` read."""
    return _needs_person(found) or _behind(found) or Headline("settled", "nothing waits", "nothing")


def _needs_person(found: Standing) -> Headline | None:
    def person(reason: str, then: str) -> Headline:
        return Headline("person_needed", reason, then)

    if found.doubted is not None:
        return person(f"this database lost history: {found.doubted.doubted_reason}", "drawdown recover")
    if minutes := missed_minutes(found):
        return person(f"no tick for {minutes:,} min: is the cron running?", "drawdown tick, then mend what calls it")
    if found.stopped:
        first, count = found.stopped[0], found.left.stopped_orgs
        text = f"{count:,} organisation{'s are' if count > 1 else ' is'} stopped; {first.org_id}: "
        return person(text + str(first.stopped_reason), f"drawdown org show {first.org_id}")
    if found.unheeded:
        halt = found.unheeded[0]
        return person(halt.said, f"stop them on the hosts of {halt.cell_id}: ops/runbooks/cell-gone.md")
    if found.last_tick is not None and found.last_tick.problems:
        seen = f"{found.last_tick.problems[0]} (seen by the tick of {utc(found.last_tick.started_ms)})"
        return person(seen, "drawdown provider list; the next tick tells whether it still holds")
    for provider in found.providers:
        for state, word, pushes in (
            ("in_doubt", "in doubt", provider.in_doubt),
            ("rejected", "rejected", provider.rejected),
        ):
            if pushes:
                why = provider.errors.get(state) or "no reason is on record"
                reason = f"{pushes:,} pushes {word} at {provider.provider}: {why}"
                return person(reason, f"drawdown push list --state {state} --provider {provider.provider}")
    if found.balances:
        balance = found.balances[0]
        reason = (
            f"the balance of {balance.customer_id} at {balance.provider} differs from what was pushed by "
            f"{balance.told_qty:+,} ({balance.feature})"
        )
        return person(reason, f"compare with their console, then drawdown reconcile {balance.org_id} --acknowledge")
    return None


def missed_minutes(found: Standing) -> int:
    """How long ago the last tick began, where that is too long; 0 where it is not, or where none ever was."""
    last = found.last_tick
    if last is None:
        return 0
    age = found.at_ms - max(last.started_ms, last.another_began_ms or 0, last.finished_ms)
    return int(age // MINUTE_MS) if age > TICK_MISSED_MS else 0


def unwatched_minutes(found: Standing) -> int:
    """How long ago a watch last went round, where one has stopped; 0 where one goes round, or there is none."""
    age = 0 if found.watch_ms is None else found.at_ms - found.watch_ms
    return int(age // MINUTE_MS) if WATCHED_FOR_MS <= age < STOPPED_FOR_MS else 0


def _behind(found: Standing) -> Headline | None:
    return _waits_at_provider(found) or _waits_for_tick(found) or _unwatched(found) or _unsettled(found)


def _waits_at_provider(found: Standing) -> Headline | None:
    for provider in found.providers:
        name, waiting = provider.provider, provider.waiting
        if provider.paused_ms is not None:
            reason = f"{name} is paused ({provider.paused_reason}); {waiting:,} pushes wait"
            return Headline("behind", reason, f"drawdown provider pause {name} --undo, once it may go on")
        if waiting:
            reason = (
                f"{waiting:,} pushes wait at {name}: {provider.errors.get('waiting') or UNANSWERED[provider.tried > 0]}"
            )
            return Headline("behind", reason, _mend(provider))
    return None


def _waits_for_tick(found: Standing) -> Headline | None:
    for count, words in (
        (found.left.halts_due, "halts are due at cells"),
        (found.left.dirty_windows, "windows are to be sealed again"),
    ):
        if count:
            return Headline("behind", f"{count:,} {words}", NEXT_TICK)
    if found.unread:
        return _unread(found.unread[0])
    if count := found.left.projections_due:
        return Headline("behind", f"{count:,} organisations are to be read again", NEXT_TICK)
    if count := found.orders.open:
        reason = f"{count:,} order{' waits' if count == 1 else 's wait'} for a tick"
        return Headline("behind", reason, "nothing: ticks do them; drawdown order list shows how far each is")
    return None


def _unwatched(found: Standing) -> Headline | None:
    if minutes := unwatched_minutes(found):
        reason = f"nobody watched for {minutes:,} min: halts come with the next tick"
        return Headline("behind", reason, "start drawdown watch, run or worker: ops/runbooks/watch-stopped.md")
    return None


def _unsettled(found: Standing) -> Headline | None:
    if found.differing:
        first = found.differing[0]
        reason = f"{first.days:,} organisation-days {first.verdict} at {first.provider}, when last compared"
        since = datetime.fromtimestamp(first.since_ms // 1000, UTC).date()
        return Headline("behind", reason, f"drawdown reconcile --provider {first.provider} --from {since}")
    if found.pending:
        most = max(found.pending, key=lambda usage: (usage.seconds, usage.units))
        reason = f"{how_much(most)} of usage are billed by nobody yet ({most.reason})"
        return Headline("behind", reason, PENDING.get(most.reason, "drawdown org list"))
    for why, samples in found.left.quarantined.items():
        reason = f"{samples:,} samples or events are quarantined ({why}) and billed to nobody"
        return Headline("behind", reason, f"drawdown sample list --quarantined --why {why}")
    if found.left.dated_ahead:
        reason = f"{found.left.dated_ahead:,} samples or events are dated later than now, and billed only then"
        return Headline("behind", reason, "mend that host's clock; drawdown sample withdraw ID, and enter them again")
    if count := found.files.refused + found.files.conflicts:
        reason = f"{count:,} file{'s' if count > 1 else ''} of watched folders cannot be taken, and are not billed"
        return Headline("behind", reason, "drawdown batch list says why; mend them, or move them away")
    if count := found.files.failing:
        reason = f"{count:,} file{'s' if count > 1 else ''} of watched folders could not be read: each tick tries again"
        return Headline("behind", reason, "drawdown batch list says why")
    if found.last_tick is None:
        return Headline("behind", "there was no tick yet", "drawdown tick")
    if found.last_tick.left:
        return Headline("behind", f"the last tick left something: {found.last_tick.left}", NEXT_TICK)
    return None


def _unread(unread: UnreadOrgs) -> Headline:
    reason = f"{unread.orgs:,} organisations cannot be read at {unread.provider or 'their provider'}: {UNREAD}"
    return Headline("behind", reason, f"drawdown provider check {unread.provider}, and org show {unread.first_org}")


UNREAD: Final = "it is down, or has no such customer; they go on until the balance that was read last is used up"


PENDING: Final = {
    "unknown_org": "drawdown org assign --unassigned --from TIME",
    "no_assignment": "drawdown org assign --unassigned --from TIME",
    "no_customer": "drawdown org assign ORG --provider NAME --customer ID",
    "no_provider": "drawdown provider list",
    "no_mapping": "drawdown feature list, then drawdown feature map or map-event",
}
"""What mends usage that waits for a person, by its reason."""


def _mend(provider: Waiting) -> str:
    if provider.drained_ms is not None:
        return "nothing: it drains by itself"
    return f"drawdown provider check {provider.provider}; ticks send them once it answers"
