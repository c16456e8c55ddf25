"""The one line that somebody who is woken at night needs first. Pure.

Guarantee: a person is asked for only where no tick will mend it; of several reasons the gravest comes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from drawdown.schema.clock import utc
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.verdict.watch_state import STOPPED_FOR_MS, WATCHED_FOR_MS

TICK_MISSED_MS: Final = 15 * MINUTE_MS
"""Three ticks that did not happen: nobody calls them any more."""
UNANSWERED: Final = {
    True: "sent, and no answer is on record: taken up again once the claim of whoever sent them ends",
    False: "not tried yet",
}


@dataclass(frozen=True)
class Headline:
    """`word`: settled, behind or person_needed; the most important reason; and what to do next."""

    word: str
    reason: str
    next: str


def judge(found: Mapping[str, Any]) -> Headline:
    """The verdict on what `status` read."""
    return _needs_person(found) or _behind(found) or Headline("settled", "nothing waits", "nothing")


def _needs_person(found: Mapping[str, Any]) -> Headline | None:
    def person(reason: str, then: str) -> Headline:
        return Headline("person_needed", reason, then)

    if found["doubted"]:
        return person(f"this database lost history: {found['doubted']['doubted_reason']}", "drawdown recover")
    if minutes := missed_minutes(found):
        return person(f"no tick for {minutes:,} min: is the cron running?", "drawdown tick, then mend what calls it")
    if found["stopped"]:
        first = found["stopped"][0]
        count = found["left"]["stopped_orgs"]
        text = f"{count:,} organisation{'s are' if count > 1 else ' is'} stopped; {first['org_id']}: "
        return person(text + str(first["stopped_reason"]), f"drawdown org show {first['org_id']}")
    if found["unheeded"]:
        first = found["unheeded"][0]
        return person(str(first["said"]), f"stop them on the hosts of {first['cell_id']}: ops/runbooks/cell-gone.md")
    if found["last_tick"] and found["last_tick"].get("problems"):
        seen = f"{found['last_tick']['problems'][0]} (seen by the tick of {utc(found['last_tick']['started_ms'])})"
        return person(seen, "drawdown provider list; the next tick tells whether it still holds")
    for one in found["providers"]:
        for state, word in (("in_doubt", "in doubt"), ("rejected", "rejected")):
            if one[state]:
                reason = f"{one[state]:,} pushes {word} at {one['provider']}: {one['error']}"
                return person(reason, f"drawdown push list --state {state} --provider {one['provider']}")
    if found["balances"]:
        one = found["balances"][0]
        reason = (
            f"the balance of {one['customer_id']} at {one['provider']} differs from what was pushed by "
            f"{one['told_qty']:+,} ({one['feature']})"
        )
        return person(reason, f"compare with their console, then drawdown reconcile {one['org_id']} --acknowledge")
    return None


def missed_minutes(found: Mapping[str, Any]) -> int:
    """How long ago the last tick began, where that is too long; 0 where it is not, or where none ever was."""
    last = found["last_tick"]
    if last is None:
        return 0
    newest = max(last["started_ms"], last["another_began_ms"] or 0)
    age = found["at_ms"] - max(newest, last["finished_ms"])
    return int(age // MINUTE_MS) if age > TICK_MISSED_MS else 0


def unwatched_minutes(found: Mapping[str, Any]) -> int:
    """How long ago a watch last went round, where one has stopped; 0 where one goes round, or there is none."""
    last = found["watch_ms"]
    age = 0 if last is None else found["at_ms"] - last
    return int(age // MINUTE_MS) if WATCHED_FOR_MS <= age < STOPPED_FOR_MS else 0


def _behind(found: Mapping[str, Any]) -> Headline | None:
    left = found["left"]
    for one in found["providers"]:
        name, waiting = one["provider"], one["due"] + one["queued"]
        if one["paused_ms"] is not None:
            reason = f"{name} is paused ({one['paused_reason']}); {waiting:,} pushes wait"
            return Headline("behind", reason, f"drawdown provider pause {name} --undo, once it may go on")
        if waiting:
            reason = f"{waiting:,} pushes wait at {name}: {one['error'] or UNANSWERED[one['tried'] > 0]}"
            return Headline("behind", reason, _mend(one))
    for name, words in (
        ("halts_due", "halts are due at cells"),
        ("dirty_windows", "windows are to be sealed again"),
        ("projections_due", "organisations are to be read again"),
    ):
        if name == "projections_due" and found["unread"]:
            return _unread(found["unread"][0])
        if left[name]:
            return Headline("behind", f"{left[name]:,} {words}", "nothing: the next tick tries again")
    if minutes := unwatched_minutes(found):
        reason = f"nobody watched for {minutes:,} min: halts come with the next tick"
        return Headline("behind", reason, "start drawdown watch, or drawdown run: ops/runbooks/watch-stopped.md")
    if found["differing"]:
        one = found["differing"][0]
        reason = f"{one['days']:,} organisation-days {one['verdict']} at {one['provider']}, when last compared"
        since = datetime.fromtimestamp(one["since_ms"] // 1000, UTC).date()
        return Headline("behind", reason, f"drawdown reconcile --provider {one['provider']} --from {since}")
    if found["pending"]:
        one = max(found["pending"], key=lambda part: int(part["seconds"]))
        reason = f"{one['seconds']:,} s of usage are billed by nobody yet ({one['reason']})"
        return Headline("behind", reason, PENDING.get(one["reason"], "drawdown org list"))
    for why, samples in left["quarantined"].items():
        reason = f"{samples:,} samples are quarantined ({why}) and billed to nobody"
        return Headline("behind", reason, f"drawdown sample list --quarantined --why {why}")
    if left["dated_ahead"]:
        reason = f"{left['dated_ahead']:,} samples are dated later than now, and billed only then"
        return Headline("behind", reason, "mend that host's clock; drawdown sample withdraw ID, and enter them again")
    if found["last_tick"] is None:
        return Headline("behind", "there was no tick yet", "drawdown tick")
    return None


def _unread(one: Mapping[str, Any]) -> Headline:
    reason = f"{one['orgs']:,} organisations cannot be read at {one['provider'] or 'their provider'}: {UNREAD}"
    return Headline("behind", reason, f"drawdown provider check {one['provider']}, and org show {one['first_org']}")


UNREAD: Final = "it is down, or has no such customer; they go on until the balance that was read last is used up"


PENDING: Final = {
    "unknown_org": "drawdown org assign --unassigned --from TIME",
    "no_assignment": "drawdown org assign --unassigned --from TIME",
    "no_customer": "drawdown org assign ORG --provider NAME --customer ID",
    "no_provider": "drawdown provider list",
    "no_mapping": "drawdown feature list, then drawdown feature map",
}
"""What mends usage that waits for a person, by its reason."""


def _mend(one: Mapping[str, Any]) -> str:
    if one["drained_ms"] is not None:
        return "nothing: it drains by itself"
    return f"drawdown provider check {one['provider']}; ticks send them once it answers"
