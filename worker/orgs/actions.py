"""Change an organisation for a person.

A person can register, halt or resume an organisation, and set an org override.

Guarantee: an org override immediately takes precedence over the provider's verdict, even if the provider is
unreachable. Drawdown records the org override with actor and reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import By, record, record_many, require_org
from drawdown.schema.declare import (
    AHEAD,
    AT_ONCE,
    FLAG,
    ID,
    ORG,
    Action,
    Fact,
    Invocation,
    Label,
    OrgId,
    Size,
    Undo,
    Values,
    whole,
)
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.migrate import bucket_of
from drawdown.schema.sql import queries
from drawdown.schema.text import counted, quote_value, typed
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import MAX_ID_CHARS
from drawdown.worker.halts.lists import running_of, told_in_words
from drawdown.worker.orgs.lists import OrgFilter, chosen_orgs, override_in_words, require_provider
from drawdown.worker.seal import stops
from drawdown.worker.verdict.org_row import apply_now, lock_rows
from drawdown.worker.verdict.refresh_requests import mark_for_projection

SQL = queries(__file__)
MAX_HALTED: Final = 10_000
"""Organisations that one command may halt, in one transaction."""


def register(connection: sa.Connection, org_id: str) -> None:
    """Register an organisation. Errors: UsageError for an invalid id."""
    if not is_clean_id(org_id):
        raise UsageError(
            f"invalid organisation id {quote_value(org_id)}: expected 1 to {MAX_ID_CHARS} characters "
            "without control characters"
        )
    SQL.run(connection, "register", {"org_id": org_id, "bucket": bucket_of(org_id)})


@dataclass(frozen=True)
class Halted:
    """The effect of an operator's halt, or of its end, on an organisation.

    `before`: True if an operator had already halted the organisation. `halt_reason`: the reason for the present halt.
    """

    org_id: str
    before: bool
    was_halted: bool
    is_halted: bool
    halt_reason: str | None


def halt(connection: sa.Connection, org_ids: Sequence[str], by: By, *, undo: bool = False) -> list[Halted]:
    """Halt organisations in one transaction, or undo the operator's halt.

    Return a result for each organisation. After an undo, the provider's verdict counts again.

    Errors, without any change: UnknownId if an organisation is unknown. Refused if only samples of an organisation are
    known. UsageError for more than MAX_HALTED organisations.
    """
    if len(org_ids) > MAX_HALTED:
        raise UsageError(f"too many organisations: {len(org_ids):,}. You can halt at most {MAX_HALTED:,} at once")
    action = "org_halt_lift" if undo else "org_halt"
    before = {org: require_org(connection, org) for org in sorted(set(org_ids))}
    done = [(org, {"was_halted": bool(row.is_halted)}) for org, row in before.items()]
    record_many(connection, action, done, by)
    # Mark the organisations first, because the mark locks them in the order of their ids.
    mark_for_projection(connection, list(before), by.now_ms)
    SQL.run(connection, "set_operator_halt", {"operator_halt": not undo, "orgs": [{"org_id": org} for org in before]})
    apply_now(connection, list(before), by.now_ms)
    found = []
    for org, row in before.items():
        now = require_org(connection, org)
        found.append(Halted(org, bool(row.operator_halt), bool(row.is_halted), bool(now.is_halted), now.halt_reason))
    return found


@dataclass(frozen=True)
class Override:
    """An org override of the concurrent sandboxes, of the halt, or of both.

    `max_concurrent`: the limit of concurrent sandboxes. `halted`: True halts, and False prevents a halt.

    If one of these is None, the provider's verdict counts in its place. `until_ms`: the end of the org override (None:
    it does not end).
    """

    max_concurrent: int | None = None
    halted: bool | None = None
    until_ms: int | None = None

    @property
    def says_something(self) -> bool:
        return self.max_concurrent is not None or self.halted is not None


@dataclass(frozen=True)
class Overridden:
    """The org override before and now, and the organisation's present state.

    `max_concurrent_sandboxes` null: unlimited.
    """

    org_id: str
    was: Override
    now: Override
    is_halted: bool
    max_concurrent_sandboxes: int | None


def override(
    connection: sa.Connection,
    org_id: str,
    by: By,
    *,
    max_concurrent: int | None = None,
    halted: bool | None = None,
    until_ms: int | None = None,
) -> Overridden:
    """Set an org override.

    The org override takes precedence over the provider's verdict until it ends or is undone. If a value is None, its
    former setting stays.

    Errors: UnknownId; Refused if only its samples are known. UsageError for a limit below zero, for an end in the past,
    or if the org override would have neither a limit nor a halt.
    """
    if max_concurrent is not None and max_concurrent < 0:
        raise UsageError(f"invalid --max-concurrent {max_concurrent}: expected 0 or more")
    if until_ms is not None and until_ms <= by.now_ms:
        raise UsageError(f"invalid --until {show_time(until_ms)}: it is in the past. Pass a later time")
    was = _override_of(connection, org_id, by.now_ms)
    now = Override(
        was.max_concurrent if max_concurrent is None else max_concurrent,
        was.halted if halted is None else halted,
        was.until_ms if until_ms is None else until_ms,
    )
    if not now.says_something:
        raise UsageError(
            f"invalid --until: {org_id} does not have an org override. Pass --max-concurrent or --never-halt, too"
        )
    return _say(connection, org_id, was, now, by)


def end_override(connection: sa.Connection, org_id: str, by: By) -> Overridden:
    """End an org override, so that the provider's verdict counts again.

    Errors: UnknownId; Refused if only its samples are known.
    """
    return _say(connection, org_id, _override_of(connection, org_id, by.now_ms), Override(), by)


def _override_of(connection: sa.Connection, org_id: str, now_ms: int) -> Override:
    """Lock an organisation and return its org override.

    If the override has ended, return an empty override.
    """
    require_org(connection, org_id)
    (row,) = lock_rows(connection, [org_id])
    if row.override_until_ms is not None and row.override_until_ms <= now_ms:
        return Override()
    return Override(row.override_max_concurrent, row.override_halted, row.override_until_ms)


def _say(connection: sa.Connection, org_id: str, was: Override, now: Override, by: By) -> Overridden:
    from drawdown.schema.tables.orgs import orgs  # imported here, because it loads PostgreSQL's dialect

    connection.execute(
        orgs.update()
        .where(orgs.c.org_id == org_id)
        .values(override_max_concurrent=now.max_concurrent, override_halted=now.halted, override_until_ms=now.until_ms)
    )
    mark_for_projection(connection, [org_id], by.now_ms)
    apply_now(connection, [org_id], by.now_ms)
    details = {**asdict(now), "was": asdict(was)}
    record(connection, "org_override", org_id, details, by)
    org = require_org(connection, org_id)
    return Overridden(org_id, was, now, bool(org.is_halted), org.max_concurrent_sandboxes)


# Actions.

MOST_SAID: Final = 50
"""Organisations that the text of a result names."""


@dataclass(frozen=True)
class OrgOverridden(Overridden):
    """The org override before and now, and the organisation's present state.

    `cleared`: the call ended the org override, so the provider's verdict counts again.
    """

    cleared: bool


def _override(
    connection: sa.Connection,
    asked: Invocation,
    org_id: OrgId,
    *,
    max_concurrent: Annotated[
        int | None,
        AT_ONCE,
        "Maximum number of concurrent sandboxes, in place of the plan's limit",
        Label("Maximum concurrent sandboxes"),
    ] = None,
    never_halt: Annotated[bool, FLAG, "Exemption from halts, whatever the balance"] = False,
    until_ms: Annotated[int | None, AHEAD, "End of the org override (none if omitted)"] = None,
    undo: Undo = False,
) -> OrgOverridden:
    says = max_concurrent is not None or never_halt or until_ms is not None
    if undo == says:
        raise UsageError("specify --max-concurrent, --never-halt or --until, or --undo alone")
    if undo:
        done = end_override(connection, org_id, asked.by)
    else:
        halted = False if never_halt else None
        done = override(connection, org_id, asked.by, max_concurrent=max_concurrent, halted=halted, until_ms=until_ms)
    return OrgOverridden(**vars(done), cleared=undo)


def _word(said: Override) -> str:
    return override_in_words(said.halted, said.max_concurrent, said.until_ms) or "no org override"


def _overridden(done: OrgOverridden) -> list[str]:
    most = done.max_concurrent_sandboxes
    limit = "no limit" if most is None else f"{most:,}"
    stands = f"{'halted' if done.is_halted else 'running'}; concurrent sandboxes: {limit}"
    return [
        f"{done.org_id}: {_word(done.now)}; before: {_word(done.was)}",
        f"{done.org_id}: {stands}{'; the next tick asks the provider again' if done.cleared else ''}",
    ]


def _limits(connection: sa.Connection, _asked: Invocation, values: Values) -> Sequence[Fact]:
    row = require_org(connection, values["org_id"])
    most, halted = row.override_max_concurrent, row.override_halted
    says = halted is not None or most is not None
    until = "when it is undone" if row.override_until_ms is None else f"{show_time(row.override_until_ms)}"
    at_once = row.max_concurrent_sandboxes
    return [
        Fact("Halted", f"yes: {row.halt_reason}" if row.is_halted else "no"),
        Fact("Concurrent sandboxes", "no limit" if at_once is None else f"{at_once:,}"),
        Fact("Org override of halts", "-" if halted is None else "not halted, whatever the balance"),
        Fact("Org override of the limit", "-" if most is None else f"{most:,}"),
        Fact("Org override ends", until if says else "-"),
    ]


def _size_of_override(connection: sa.Connection, asked: Invocation, values: Values) -> Size:
    """Return the size of an org override.

    An override that prevents halts is unbounded, because use without credit has no bound.
    """
    is_longer = values["until_ms"] is not None and not values["undo"]
    kept = is_longer and _override_of(connection, values["org_id"], asked.by.now_ms).halted is False
    return Size(unbounded=values["never_halt"] or kept)


@dataclass(frozen=True)
class HaltsMade:
    """The outcome of a halt, or of its undo, for each organisation.

    `undo`: True if the call ended the operator's halts. `cells`: the number of running sandboxes of the organisations,
    by cell that Drawdown notifies.
    """

    undo: bool
    halts: list[Halted]
    cells: dict[str, int]


def _halt(
    connection: sa.Connection,
    asked: Invocation,
    org_id: Annotated[list[str] | None, ORG, "Organisations"] = None,
    *,
    provider: Annotated[str, ID, "Provider that bills the organisations now"] = "",
    plan: Annotated[str, ID, "Plan of the organisations"] = "",
    search: Annotated[str, ID, "Text in the organisations' ids"] = "",
    undo: Undo = False,
    expect: Annotated[int | None, whole(0, MAX_HALTED), "Expected count, as the dry run showed"] = None,
) -> HaltsMade:
    found = _chosen(connection, asked, org_id, OrgFilter(provider, plan, search))
    if expect not in (None, len(found)):
        raise Refused(
            f"the number of organisations differs: expected {expect:,}, but found {len(found):,}. Check again with "
            "--dry-run, without --expect"
        )
    told = {} if undo else running_of(connection, found)
    return HaltsMade(undo, halt(connection, found, asked.by, undo=undo), told)


def _chosen(
    connection: sa.Connection, asked: Invocation, org_ids: Sequence[str] | None, chosen: OrgFilter
) -> list[str]:
    """Return the chosen organisations.

    Errors: UsageError unless either ids or a filter is given; UnknownId.
    """
    if bool(org_ids) == (chosen != OrgFilter()):
        raise UsageError(
            "specify either organisations (or --file) or a filter (--provider, --plan, --search), not both"
        )
    if org_ids:
        return list(dict.fromkeys(org_ids))
    require_provider(connection, chosen.provider)
    if chosen.plan:
        ids.require(connection, ids.ANY_PLAN, chosen.plan)
    return chosen_orgs(connection, chosen, MAX_HALTED, asked.by.now_ms)


def _of_values(connection: sa.Connection, asked: Invocation, values: Values) -> list[str]:
    chosen = OrgFilter(values["provider"], values["plan"], values["search"])
    return _chosen(connection, asked, values["org_id"], chosen)


def _halts(done: HaltsMade) -> list[str]:
    lines = [_sentence(one, done.undo) for one in done.halts[:MOST_SAID]]
    if len(done.halts) > MOST_SAID:
        lines.append(f"… and {len(done.halts) - MOST_SAID:,} more")
    count = counted(len(done.halts), "organisation")
    if done.undo:
        return [*lines, f"{count}; the next tick asks the provider again"]
    one = len(done.halts) == 1
    lift = f"`drawdown org halt {typed(done.halts[0].org_id, '--undo')}`" if one else "The same command with --undo"
    told = f"cells to notify: {told_in_words(done.cells)}"
    return [*lines, f"{count}. To notify the cells now, run `drawdown tick`. {lift} ends the halt", told]


def _sentence(one: Halted, undo: bool) -> str:
    before = "halted" if one.was_halted else "running"
    now = f"halted ({one.halt_reason})" if one.is_halted else "running"
    # After an undo, a billed organisation stays halted, with the same reason, until its provider is read.
    lifted = undo and one.is_halted and (one.before or one.halt_reason == "operator")
    if lifted:
        now = "no longer halted by an operator, but halted until its provider is asked"
    note = "; nothing changes" if lifted else "; it had no operator's halt"
    note = note if undo and not one.before else ""
    note = "; an operator had already halted it" if one.before and not undo else note
    return f"{one.org_id}: {now}; before: {before}{note}"


def _standing(connection: sa.Connection, asked: Invocation, values: Values) -> Sequence[Fact]:
    names = sorted(_of_values(connection, asked, values))
    shown = [Fact(org, _state(require_org(connection, org))) for org in names[:MOST_SAID]]
    return [*shown, Fact("Organisations", f"{len(names):,}")]


def _state(row: sa.Row[tuple[object, ...]]) -> str:
    if not row.is_halted:
        return "running, under an operator's halt" if row.operator_halt else "running"
    if row.halt_reason == "operator":
        return "halted by an operator" if row.operator_halt else "halted until the next read at its provider"
    return f"halted: {row.halt_reason}" + (", and by an operator" if row.operator_halt else "")


def _size_of_halt(connection: sa.Connection, asked: Invocation, values: Values) -> Size:
    return Size(rows=len(_of_values(connection, asked, values)))


@dataclass(frozen=True)
class OrgResumed:
    """An organisation that Drawdown seals and pushes again.

    `was`: the reason for its stop.
    """

    org_id: str
    was: str


def _resume(connection: sa.Connection, asked: Invocation, org_id: OrgId) -> OrgResumed:
    by = asked.by
    was = stops.resume_org(connection, org_id=org_id, reason=by.reason, now_ms=by.now_ms, actor=by.actor, via=by.via)
    return OrgResumed(org_id, was)


def _stopped(connection: sa.Connection, _asked: Invocation, values: Values) -> Sequence[Fact]:
    row = require_org(connection, values["org_id"])
    return [Fact("Stopped", "no" if row.stopped_at_ms is None else f"yes: {row.stopped_reason}")]


SCOPE: Final = "orgs:write"
OVERRIDE: Final = Action(
    "org override",
    "Override limits",
    "Set an org override, in place of the provider's verdict. Drawdown keeps the values that you omit. "
    "--undo removes the org override, so that the provider's verdict counts again.",
    _override,
    _overridden,
    path="/v1/orgs/{org_id}/override",
    scope=SCOPE,
    facts=_limits,
    size=_size_of_override,
    place="/console/org?id={org_id}&tab=halts",
)
ACTIONS: Final = (
    OVERRIDE,
    Action(
        "org halt",
        "Halt organisations",
        "Halt organisations at once. The next round of the watch, or the next tick, notifies their cells. --undo "
        "ends the halt, so that the provider's verdict counts again. To halt by a filter, first use --dry-run, and "
        "then "
        "confirm the number with --expect.",
        _halt,
        _halts,
        path="/v1/orgs/halt",
        scope=SCOPE,
        facts=_standing,
        size=_size_of_halt,
    ),
    Action(
        "org resume",
        "Resume an organisation",
        "Resume sealing and pushing for a stopped organisation. Fix the fault first.",
        _resume,
        lambda done: f"{done.org_id}: resumed; it had been stopped: {done.was}",
        path="/v1/orgs/{org_id}/resume",
        scope=SCOPE,
        facts=_stopped,
    ),
)
