"""Plan a replay, and refuse it if its range or scope is impossible.

A replay makes its plan before the first seal.

Guarantee: an error names the fault and the next step. This module only reads.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import sqlalchemy as sa

from drawdown.schema.audit import require_org
from drawdown.schema.clock import utc
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.sql import NOTHING, Values, queries
from drawdown.schema.text import counted
from drawdown.schema.typed.parsing import require_range, show_time
from drawdown.schema.units import EXEMPT_PROVIDERS, WINDOW_MS, horizon, window_of

SQL = queries(__file__)
Row: TypeAlias = sa.Row[tuple[object, ...]]
FLIPS_SHOWN: Final = 200


class ReplayAtWork(Refused):
    """Raised if another replay of some of these windows runs, or took this one over.

    A retry can succeed once the other replay has ended.
    """


class ReplayAhead(Refused):
    """Raised if a replay has reached the end of the plan, but its range continues.

    Another clock closed more windows than this clock, and an earlier run sealed them. A retry can succeed once this
    clock has closed these windows.
    """


@dataclass(frozen=True)
class ReplayScope:
    """The scope of a replay.

    It is the organisations `orgs`, or the usage that `provider` bills. If both are empty, it is all organisations.
    """

    orgs: tuple[str, ...] = ()
    provider: str | None = None

    def __str__(self) -> str:
        if self.provider is not None:
            return f"the usage that {self.provider} bills"
        if not self.orgs:
            return "all organisations"
        more = f" and {len(self.orgs) - 3:,} more" if len(self.orgs) > 3 else ""
        return ", ".join(self.orgs[:3]) + more

    def text(self) -> str:
        """Return the scope as it is stored. Equal scopes have equal texts."""
        return json.dumps({"orgs": sorted(set(self.orgs)), "provider": self.provider}, sort_keys=True)

    @classmethod
    def of(cls, text: str) -> ReplayScope:
        kept = json.loads(text)
        return cls(tuple(kept["orgs"]), kept["provider"])


@dataclass(frozen=True)
class PlannedFlip:
    """A change of the biller inside the range, from `was` to `becomes`."""

    org_id: str
    at_ms: int
    was: str
    becomes: str


@dataclass(frozen=True)
class ReplayPlan:
    """The plan of a replay: the windows in [from_ms, to_ms) of `scope`.

    [asked_from_ms, asked_to_ms): the requested range, in whole windows. `orgs`: None for all organisations.
    `cut_at_horizon`: the end was moved to the end of the last closed window. `cut_at_first_use`: the start was moved to
    the first sample or push. `stopped`: stopped organisations, which the replay excludes. `flips`: the first
    FLIPS_SHOWN changes of the biller in the range. `flip_count`: the number of all changes of the biller in the range.
    """

    scope: ReplayScope
    asked_from_ms: int
    asked_to_ms: int
    from_ms: int
    to_ms: int
    orgs: tuple[str, ...] | None
    cut_at_horizon: bool
    cut_at_first_use: bool
    open_from_ms: int | None
    """The start of the windows that are not sealed yet. Ticks seal these windows, and the replay does not.

    None: all windows of the range are sealed.
    """
    floored: int
    """The number of organisations with a floor above the start. Their replay begins at the floor."""
    stopped: tuple[str, ...]
    flips: tuple[PlannedFlip, ...]
    flip_count: int


def plan(connection: sa.Connection, scope: ReplayScope, from_ms: int, to_ms: int, now_ms: int) -> ReplayPlan:
    """Check the range and scope of a replay, and return its plan.

    Errors: UsageError for a range that is empty, not closed yet or before the first sample. UsageError if samples do
    not exist, or the range begins below the floor of a named organisation. UnknownId for an unknown organisation.
    Refused if the provider does not have an assignment in the range, or is in EXEMPT_PROVIDERS.
    """
    require_range(from_ms, to_ms)
    start, end, last = window_of(from_ms), window_of(to_ms + WINDOW_MS - 1), horizon(now_ms)
    if start >= last:
        raise UsageError(
            f"the range begins at {utc(start)}, in windows that are not closed yet. Ticks seal them once they are "
            f"closed. You can replay windows up to {utc(last)}"
        )
    orgs = _orgs_of(connection, scope, start, end)
    _above_floor(connection, scope, start)
    first = _first_use(connection, scope, orgs, end)
    begin = max(start, min(window_of(first), _first_push(connection)))
    if begin >= last:
        raise UsageError(
            f"the first sample of {scope} ({utc(first)}) is in a window that is not closed yet. A tick seals it "
            f"once it is closed. You can replay windows up to {utc(last)}"
        )
    values = {"start_ms": begin, "end_ms": end}
    flips = [PlannedFlip(row.org_id, row.at_ms, row.was, row.becomes) for row in _of(connection, "flips", orgs, values)]
    return ReplayPlan(
        scope=scope,
        asked_from_ms=start,
        asked_to_ms=end,
        from_ms=begin,
        to_ms=min(end, last),
        orgs=orgs,
        cut_at_horizon=end > last,
        cut_at_first_use=begin > start,
        open_from_ms=_open_from(connection, min(end, last)),
        floored=len(_of(connection, "floored", orgs, values)),
        stopped=tuple(str(row.org_id) for row in _of(connection, "stopped", orgs, NOTHING)),
        flips=tuple(flips[:FLIPS_SHOWN]),
        flip_count=len(flips),
    )


def _of(connection: sa.Connection, name: str, orgs: Sequence[str] | None, values: Values) -> Sequence[Row]:
    """Return the rows of a statement for these organisations; None: for all."""
    if orgs is None:
        return SQL.run(connection, name, values, only="").all()
    these = {**values, "orgs": [{"org_id": org_id} for org_id in orgs]}
    return SQL.run(connection, name, these, only="only_these").all()


def _orgs_of(connection: sa.Connection, scope: ReplayScope, start: int, end: int) -> tuple[str, ...] | None:
    for org_id in scope.orgs:
        require_org(connection, org_id)
    if scope.provider is None:
        return tuple(sorted(set(scope.orgs))) or None
    if scope.provider in EXEMPT_PROVIDERS:
        raise Refused(f"cannot replay: {scope.provider} does not bill usage here. Name another provider")
    values = {"provider": scope.provider, "start_ms": start, "end_ms": end}
    found = tuple(str(org_id) for org_id in SQL.run(connection, "billed_by", values).scalars())
    if not found:
        ever = SQL.run(connection, "billed_from", {"provider": scope.provider}).scalar_one()
        if ever is None:
            raise Refused(f"{scope.provider!r} never billed an organisation here. See `drawdown provider list`")
        raise Refused(
            f"{scope.provider} does not bill any organisation in that range. Its first assignment begins at "
            f"{utc(ever)}. Pass another range, or another provider"
        )
    return found


def _first_use(connection: sa.Connection, scope: ReplayScope, orgs: tuple[str, ...] | None, end: int) -> int:
    first = _of(connection, "first_sample", orgs, NOTHING)[0].first_sample_ms
    if first is None:
        raise UsageError(
            f"cannot replay {scope}: it does not have valid samples. Check the organisation and its quarantined samples"
        )
    if end <= window_of(first):
        raise UsageError(
            f"the range ends at {utc(end)}, before the first sample of {scope} ({utc(first)}). Pass a range that "
            "ends later"
        )
    return int(first)


def _first_push(connection: sa.Connection) -> int:
    found = SQL.run(connection, "first_push").scalar_one()
    return 2**62 if found is None else int(found)


def _above_floor(connection: sa.Connection, scope: ReplayScope, start: int) -> None:
    """Refuse a named organisation with a floor above the start.

    Without named organisations, each organisation begins at its floor.
    """
    for org_id in scope.orgs:
        floor = require_org(connection, org_id).floor_ms
        if start < floor:
            raise UsageError(
                f"cannot replay {org_id}: windows before {utc(floor)} are closed for good. Pass --from {utc(floor)}"
            )


def _open_from(connection: sa.Connection, end: int) -> int | None:
    watermark = SQL.run(connection, "sealed_to").scalar_one()
    return int(watermark) if int(watermark) < end else None


def overlaps(connection: sa.Connection, scope: ReplayScope, other: ReplayScope) -> bool:
    """Return False only if two scopes cannot contain the same window."""
    if not (scope.orgs or scope.provider) or not (other.orgs or other.provider):
        return True
    if scope.provider is not None and other.provider is not None:
        return scope.provider == other.provider
    if scope.provider is None and other.provider is None:
        return bool(set(scope.orgs) & set(other.orgs))
    orgs, provider = (scope.orgs, other.provider) if scope.orgs else (other.orgs, scope.provider)
    return bool(_of(connection, "assigned_at", orgs, {"provider": provider}))


def notes(made: ReplayPlan) -> list[tuple[str, str]]:
    """Return the notes on a plan, each as its kind and a line for people.

    The kind is `floor`, `stopped`, `flip` or empty.
    """
    lines = []
    if made.cut_at_first_use:
        lines.append(("", "the replay begins with the first sample"))
    if made.cut_at_horizon:
        lines.append(("", f"the range ends at {show_time(made.to_ms)}, because later windows are not closed yet"))
    if made.open_from_ms is not None:
        lines.append(
            ("", f"windows from {show_time(made.open_from_ms)} on are not sealed yet. The next tick seals them")
        )
    if made.floored:
        lines.append(
            ("floor", f"{_orgs(made.floored)} replayed only from the floor on. Earlier windows are closed for good")
        )
    if made.stopped:
        names = ", ".join(made.stopped[:3]) + (" …" if len(made.stopped) > 3 else "")
        lines.append(
            (
                "stopped",
                f"{_orgs(len(made.stopped))} skipped ({names}). To include an organisation, run `drawdown org "
                "resume ORG`",
            )
        )
    lines += [
        ("flip", f"{flip.org_id} at {show_time(flip.at_ms)}: {flip.was} before, {flip.becomes} from then on")
        for flip in made.flips[:5]
    ]
    if made.flip_count > 5:
        lines.append(("flip", f"… {made.flip_count - 5:,} more; each window goes to the provider that bills it"))
    return lines


def _orgs(count: int) -> str:
    return counted(count, "organisation is", "organisations are")


def in_the_way(row: Row) -> str:
    """Return the text that refuses a second replay of the same windows.

    `row`: the row of the replay that is running.
    """
    return (
        f"another replay of some of these windows is running: {row.actor} ({row.worker}) started it at "
        f"{utc(row.started_ms)} for {ReplayScope.of(row.scope)}, {utc(row.from_ms)} to {utc(row.to_ms)}, "
        f"and it has reached {utc(row.next_ms)}. Wait for that replay. If its process died, repeat this command "
        f"after {utc(row.lease_ms)}: it continues there"
    )
