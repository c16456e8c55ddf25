"""List organisations, and the rows that refer to one organisation.

The lists show the state, credit, end of credit and provider. Reads only.

Guarantee: a page has at most MAX_ROWS rows, and continues after the last row of the previous page. So new rows do not
shift other rows. By name, a row is not shown twice. In another order, a row can be shown twice, or not at all, if its
value or that of the last row changes between two pages. The cost of a page by name does not depend on the number of
organisations. Drawdown estimates the remaining credit only for organisations on the page, as of one moment, in the same
way as the watch (`effective_balance`). The number of statements does not depend on the number of organisations.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, NamedTuple, Protocol, TypeAlias, get_args

import sqlalchemy as sa

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema import ids
from drawdown.schema.declare import FLAG, ID, LENGTH, Column, Listing, Look, Page
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries, read_together
from drawdown.schema.text import counted, escape_like
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import DAY_MS, EXEMPT_PROVIDERS, WINDOW_MS
from drawdown.worker.verdict.effective_balance import BalancedOrg, Used, read_used_now, since_read
from drawdown.worker.verdict.org_state import AssignmentRow, HaltRow
from drawdown.worker.verdict.rules import end_ms
from drawdown.worker.verdict.watch_state import is_watched

SQL = queries(__file__)

MAX_ROWS: Final = 10_000
"""Organisations that one list returns."""
MOST_AT_ONCE: Final = 4_000
"""Rows of a download that Drawdown reads into memory at a time."""
MOST_LOOKED_AT: Final = 10_000
"""Organisations that a filter searches for the plans of other providers."""
State: TypeAlias = Literal["active", "halted", "stopped", "scheduled", "unassigned"]
"""The state of an organisation.

`stopped`: a broken invariant prevents its billing. `scheduled`: its first assignment begins later. `unassigned`: it
lacks an assignment. `active`: any other organisation that is not halted. If several states apply, the organisation is
listed under each, and its `state` is the most severe.
"""
STATES: Final[tuple[State, ...]] = get_args(State)
SORTS: Final = {
    "name": "ascending",
    "balance": "ascending",
    "halted": "descending",
    "plan": "ascending",
    "end": "ascending",
}
"""The sort orders of a list, each with its direction."""


@dataclass(frozen=True)
class OrgFilter:
    """A filter of organisations. An empty field matches any organisation.

    `search`: a part of the id. `state`: one of STATES. `runs_out_by_ms`: the latest end of the credit, by the watch's
    last estimate (None: any).
    """

    provider: str = ""
    plan: str = ""
    search: str = ""
    state: str = ""
    runs_out_by_ms: int | None = None
    overridden: bool = False
    """True: only organisations with an org override."""


class OrgColumns(NamedTuple):
    """A row of the query `list`, with columns of `orgs`.

    `running`: the number of running sandboxes. `is_scheduled`: the organisation's first assignment begins later.

    This class replaces the driver's own rows, which are ten times slower, because a download may have 100,000 rows.
    """

    org_id: str
    billing_provider: str | None
    plan: str | None
    is_halted: bool
    halted_at: int | None
    halt_reason: str | None
    max_concurrent_sandboxes: int | None
    balance_micro: int | None
    balance_read_ms: int | None
    unconfirmed_micro: int | None
    stopped_at_ms: int | None
    stopped_reason: str | None
    runs_out_ms: int | None
    override_halted: bool | None
    override_max_concurrent: int | None
    override_until_ms: int | None
    running: int
    is_scheduled: bool | None


@dataclass(frozen=True, slots=True)
class OrgRow:
    """An organisation in a list. Credit is in millionths of its provider's credits.

    `billing_provider`: its provider (None: it has no assignment now). `plan`, `balance_micro`: as last read (None:
    unknown). `left_now_micro` to `runs_out_ms`: as in `CreditForecast`. `since_ms`, `why`: the start of a halt or stop,
    and the reason for it (None: neither applies). `running`: the number of its running sandboxes.
    `max_concurrent_sandboxes` None: unlimited. `override_halted` to `override_until_ms`: its org override (see
    `Override`).
    """

    org_id: str
    billing_provider: str | None
    plan: str | None
    state: State
    since_ms: int | None
    is_halted: bool
    halt_reason: str | None
    stopped_reason: str | None
    running: int
    max_concurrent_sandboxes: int | None
    balance_micro: int | None
    override_halted: bool | None
    override_max_concurrent: int | None
    override_until_ms: int | None
    left_now_micro: int | None
    used_a_minute_micro: int | None
    runs_out_ms: int | None
    why: str | None


@dataclass(frozen=True)
class Place:
    """The organisation after which a list continues.

    `ends_ms`: if the list is sorted by end, the end of the organisation's credit when the page was read (None: use its
    present value).
    """

    org_id: str = ""
    ends_ms: int | None = None


@dataclass(frozen=True)
class OrgPage:
    """A page of organisations.

    `following`: the start of the next page (None: this is the last page).
    """

    orgs: list[OrgRow]
    following: Place | None


@dataclass(frozen=True)
class ScheduledFlip:
    """An assignment that begins later.

    `billing_provider`: the present provider (None: the organisation has no assignment now).
    """

    org_id: str
    billing_provider: str | None
    provider: str
    customer_id: str
    start_ms: int
    actor: str
    reason: str


START: Final = Place()


def list_orgs(
    connection: sa.Connection,
    chosen: OrgFilter,
    now_ms: int,
    *,
    sort: str = "name",
    after: Place = START,
    most: int = 100,
) -> OrgPage:
    """Return a page of organisations after `after`.

    Errors: UsageError for an unknown state or order, or a page size outside 1 to MAX_ROWS. UnknownId for an
    unknown plan. An unknown provider gives an empty page, because only this machine's settings may have it.
    """
    if sort not in SORTS:
        raise UsageError(f"invalid sort {sort!r}: expected {', '.join(SORTS)}")
    if not 0 < most <= MAX_ROWS:
        raise UsageError(
            f"invalid page size {most}: expected 1 to {MAX_ROWS:,} rows. For the next page, pass `--after`"
        )
    _require(connection, chosen)
    rows = _read_rows(connection, chosen, now_ms, sort, after, most + 1)
    return OrgPage(_rows(connection, rows[:most], now_ms), _place(rows[most - 1]) if len(rows) > most else None)


def every_org(connection: sa.Connection, chosen: OrgFilter, now_ms: int, sort: str) -> Iterator[OrgRow]:
    """Yield all chosen organisations, in the order and with the figures of the pages.

    Errors: UsageError for an unknown state; UnknownId for an unknown plan.
    """
    _require(connection, chosen)
    after = START
    while rows := _read_rows(connection, chosen, now_ms, sort, after, MOST_AT_ONCE):
        yield from _rows(connection, rows, now_ms)
        after = _place(rows[-1])


def chosen_orgs(connection: sa.Connection, chosen: OrgFilter, most: int, now_ms: int) -> list[str]:
    """Return the ids of all organisations that match a filter, sorted.

    Errors: UsageError for more than `most` organisations.
    """
    found = SQL.run(connection, "ids", {**_values(chosen, now_ms), "at_most": most + 1}, **_slots(chosen)).scalars()
    names = [str(org) for org in found]
    if len(names) > most:
        raise UsageError(f"more than {most:,} organisations match. Use a narrower filter")
    return names


@dataclass(frozen=True)
class NeverHalted:
    """Organisations that an org override protects from halts.

    `orgs`: the number of organisations. `first`: the first of them, each with the end of its org override in
    milliseconds (None: it does not end).
    """

    orgs: int
    first: list[tuple[str, int | None]]


def never_halted(connection: sa.Connection, now_ms: int, most: int) -> NeverHalted:
    """Return the organisations that an org override protects from halts."""
    rows = SQL.run(connection, "never_halted", {"now_ms": now_ms, "at_most": most}).all()
    return NeverHalted(int(rows[0].orgs) if rows else 0, [(row.org_id, row.until_ms) for row in rows])


@dataclass(frozen=True)
class RunningOut:
    """Organisations with credit that ends within a day, by the watch's last estimate.

    `orgs`: the number of organisations. `first`: the first of them, each with the end of its credit in milliseconds.
    """

    orgs: int = 0
    first: Sequence[tuple[str, int]] = ()


def running_out(connection: sa.Connection, now_ms: int, most: int) -> RunningOut:
    """Return the organisations with credit that ends within a day.

    The result has the number of all these organisations, and names the first `most` of them (1 or more).
    """
    rows = SQL.run(connection, "running_out", {"runs_out_by_ms": now_ms + DAY_MS, "at_most": most}).all()
    first = [(str(row.org_id), int(row.runs_out_ms)) for row in rows]
    return RunningOut(int(rows[0].orgs) if rows else 0, first)


def scheduled_flips(connection: sa.Connection, provider: str, now_ms: int, most: int) -> list[ScheduledFlip]:
    """Return the assignments that begin later, the earliest first.

    `provider`: return only assignments to this provider ('': to any provider).
    """
    values = {"now_ms": now_ms, "provider": provider, "at_most": min(most, MAX_ROWS)}
    return [ScheduledFlip(**row._mapping) for row in SQL.run(connection, "scheduled_flips", values)]


def providers_and_plans(connection: sa.Connection) -> tuple[list[str], list[str]]:
    """Return the providers and the plans that a filter can choose.

    A provider is included if an organisation is assigned to it. The plans are those of the ledger and of other
    providers.
    """
    plans = SQL.part("plans", {"looked_at": MOST_LOOKED_AT})
    found = read_together(connection, providers=SQL.part("providers"), plans=plans)
    return [str(row.provider) for row in found["providers"]], [str(row.plan) for row in found["plans"]]


def _require(connection: sa.Connection, chosen: OrgFilter) -> None:
    """Refuse a filter with an unknown state or plan. Errors: UsageError, UnknownId."""
    if chosen.state and chosen.state not in STATES:
        raise UsageError(f"invalid state {chosen.state!r}: expected {', '.join(STATES)}")
    if chosen.plan:
        ids.require(connection, ids.ANY_PLAN, chosen.plan)


def _read_rows(
    connection: sa.Connection, chosen: OrgFilter, now_ms: int, sort: str, after: Place, most: int
) -> list[OrgColumns]:
    values = {**_values(chosen, now_ms), "after_org_id": after.org_id, "after_ms": after.ends_ms, "at_most": most}
    slots = {**_slots(chosen), **_order(sort, after, known_end=chosen.runs_out_by_ms is not None)}
    return list(map(OrgColumns._make, SQL.run(connection, "list", values, **slots)))


def _order(sort: str, after: Place, *, known_end: bool) -> dict[str, str]:
    """Return the query fragments that sort a list.

    `known_end`: True if all organisations of the list have an estimated end, so that an index applies.
    """
    if sort == "name":
        return {"order": "by_name", "later": "after_name"}
    way, known_end = SORTS[sort], known_end and sort == "end"
    slots = {"value": "by_known_end" if known_end else f"by_{sort}", "order": way}
    if not after.org_id:
        return {**slots, "later": "any"}
    as_read = known_end and after.ends_ms is not None
    return {**slots, "later": f"after_{way}", "last": "as_read" if as_read else "by_now"}


def _place(row: OrgColumns) -> Place:
    """Return the place after a row."""
    return Place(row.org_id, row.runs_out_ms)


def _slots(chosen: OrgFilter) -> dict[str, str]:
    """Return the query fragments for the state and the end of a filter."""
    return {
        "of_state": f"is_{chosen.state}" if chosen.state else "any",
        "ending": "any" if chosen.runs_out_by_ms is None else "ends_by",
    }


def _values(chosen: OrgFilter, now_ms: int) -> dict[str, object]:
    return {
        "provider": chosen.provider,
        "plan": chosen.plan,
        "search": chosen.search,
        "like": f"%{escape_like(chosen.search)}%",
        "runs_out_by_ms": chosen.runs_out_by_ms,
        "overridden": int(chosen.overridden),
        "now_ms": now_ms,
    }


def _rows(connection: sa.Connection, found: Sequence[OrgColumns], now_ms: int) -> list[OrgRow]:
    return [_row(*pair, now_ms) for pair in zip(found, left_of(connection, found, now_ms), strict=True)]


def _row(row: OrgColumns, left: CreditForecast, now_ms: int) -> OrgRow:
    state: State = "active" if row.billing_provider is not None else "scheduled" if row.is_scheduled else "unassigned"
    since_ms = None
    if row.stopped_at_ms is not None:
        state, since_ms = "stopped", row.stopped_at_ms
    elif row.is_halted:
        state, since_ms = "halted", row.halted_at
    word: tuple[bool | None, int | None, int | None] = (None, None, None)
    if (
        row.override_until_ms is None or row.override_until_ms > now_ms
    ):  # an ended override stays until a tick deletes it
        halted = None if row.override_halted is None else bool(row.override_halted)
        word = halted, row.override_max_concurrent, row.override_until_ms
    return OrgRow(
        row.org_id, row.billing_provider, row.plan,
        state, since_ms, bool(row.is_halted), row.halt_reason, row.stopped_reason,
        row.running, row.max_concurrent_sandboxes, row.balance_micro,
        *word, *left,
        row.stopped_reason if state == "stopped" else row.halt_reason if state == "halted" else None,
    )  # fmt: skip


MOST_HISTORY: Final = 200
"""Rows of each history on an organisation's page."""


@dataclass(frozen=True)
class PushLine:
    """A push of an organisation.

    `sealed_qty`: the base units that were sealed. `sent_qty`: the part to send, in base units. The seal sets it, so an
    unsent push has it, too.
    """

    key: str
    window_ms: int
    feature: str
    revision: int
    provider: str
    sealed_qty: int
    sent_qty: int
    state: str
    attempts: int
    last_error: str | None


def pushes_between(connection: sa.Connection, org_id: str, from_ms: int, to_ms: int) -> list[PushLine]:
    """Return an organisation's pushes of windows in [from_ms, to_ms), latest first.

    At most MOST_HISTORY pushes. `from_ms` is rounded down to the start of its window.
    """
    values = {"org_id": org_id, "from_ms": from_ms - from_ms % WINDOW_MS, "to_ms": to_ms, "at_most": MOST_HISTORY}
    return [PushLine(**row._mapping) for row in SQL.run(connection, "pushes", values)]


def halts_of(connection: sa.Connection, org_id: str) -> list[HaltRow]:
    """Return the halts of an organisation at its cells, newest first."""
    values = {"org_id": org_id, "at_most": MOST_HISTORY}
    return [HaltRow(**row._mapping) for row in SQL.run(connection, "halts", values)]


def assignments_of(connection: sa.Connection, org_id: str) -> list[AssignmentRow]:
    """Return an organisation's assignments, newest first."""
    values = {"org_id": org_id, "at_most": MOST_HISTORY}
    return [AssignmentRow(**row._mapping) for row in SQL.run(connection, "assignments", values)]


class Billed(BalancedOrg, Protocol):
    """A row of `orgs` with the organisation's provider."""

    @property
    def billing_provider(self) -> str | None: ...


class CreditForecast(NamedTuple):
    """The credit of one organisation, in micro-credits of its provider.

    A value is None if it is unknown or unlimited.

    `left_now_micro`: the organisation's effective balance, or if no provider bills it, its last read balance.
    `used_a_minute_micro`: the average use per minute, in the last minutes. `runs_out_ms`: the time when the credit ends
    at that rate.
    """

    left_now_micro: int | None
    used_a_minute_micro: int | None
    runs_out_ms: int | None


UNBILLED: Final = frozenset((None, *EXEMPT_PROVIDERS))
NOTHING: Final = Used()
"""Zero usage outside the balance, for an organisation with a balance that includes all its usage."""


def left_of(connection: sa.Connection, rows: Sequence[Billed], now_ms: int) -> list[CreditForecast]:
    """Return the credit of each of these organisations (rows of `orgs`)."""
    by_provider: dict[str, list[Billed]] = defaultdict(list)
    for row in rows:
        provider = row.billing_provider
        if provider is not None and provider not in UNBILLED:
            by_provider[provider].append(row)
    used = read_used_now(connection, by_provider, now_ms)
    return [
        _forecast_credit(row, None if row.billing_provider in UNBILLED else used.get(row.org_id, NOTHING), now_ms)
        for row in rows
    ]


def _forecast_credit(row: Billed, used: Used | None, now_ms: int) -> CreditForecast:
    effective = None if used is None else since_read(row, used)
    burn = None if used is None or (used.unpriced and not used.burn_a_minute) else used.burn_a_minute
    ends_ms = end_ms(effective.value, burn, now_ms) if effective and burn else None
    return CreditForecast(row.balance_micro if effective is None else effective.value, burn, ends_ms)


# Lists.


def override_in_words(halted: bool | None, max_concurrent: int | None, until_ms: int | None) -> str | None:
    """Return an org override in words; None if it sets neither a halt nor a limit."""
    if halted is None and max_concurrent is None:
        return None
    parts = []
    if halted is not None:
        parts.append("halted whatever the balance" if halted else "not halted whatever the balance")
    if max_concurrent is not None:
        parts.append(f"{counted(max_concurrent, 'concurrent sandbox', 'concurrent sandboxes')} whatever the plan")
    return f"{' and '.join(parts)}, {f'until {show_time(until_ms)}' if until_ms else 'until it is undone'}"


def _word_of(row: OrgRow) -> str | None:
    return override_in_words(row.override_halted, row.override_max_concurrent, row.override_until_ms)


OfProvider = Annotated[str, ID, "Provider that bills the organisations now"]
OfPlan = Annotated[str, ID, "Plan of the organisations"]
WithText = Annotated[str, ID, "Text in the organisations' ids"]


def require_provider(connection: sa.Connection, provider: str) -> None:
    """Refuse a provider that never had an assignment. Errors: UnknownId.

    The embedded ledger and exempt providers are always known.
    """
    if provider and provider not in (EMBEDDED, *EXEMPT_PROVIDERS):
        ids.require(connection, ids.PROVIDER, provider)


def _list(
    connection: sa.Connection,
    look: Look,
    *,
    provider: OfProvider = "",
    plan: OfPlan = "",
    search: WithText = "",
    state: Annotated[State | None, "State of the organisations"] = None,
    overridden: Annotated[bool, FLAG, "Organisations with an org override"] = False,
    runs_out_within_ms: Annotated[
        int | None, LENGTH, "Time within which the credit ends by the watch's last estimate: 6h, 7d"
    ] = None,
    sort: Annotated[Literal["name", "balance", "halted", "plan", "end"], "Sort order"] = "name",
) -> Page[OrgRow]:
    require_provider(connection, provider)
    by_ms = None if runs_out_within_ms is None else look.now_ms + runs_out_within_ms
    after = _behind(look.after, sort)
    if look.after:
        ids.require(connection, ids.ORG, after.org_id)
    chosen = OrgFilter(provider, plan, search, state or "", by_ms, overridden)
    found = list_orgs(connection, chosen, look.now_ms, sort=sort, after=after, most=look.most)
    following = None if found.following is None else found.following.org_id
    if found.following is not None and sort == "end" and by_ms is not None:  # a top-up must not shift the page
        following = f"{found.following.ends_ms}:{following}"
    notes = [] if by_ms is None or is_watched(connection, look.now_ms) else [UNWATCHED]
    return Page(found.orgs, following, notes)


UNWATCHED: Final = (
    "no watch is running, so this list does not have current estimates. Start `drawdown watch`, `run` or `worker`"
)


def _behind(after: str, sort: str) -> Place:
    """Return the place that a page's `next` names.

    If the list is sorted by end, the place also has the end of the credit.
    """
    ends = re.fullmatch(r"([0-9]{1,16}):(.+)", after, re.DOTALL) if sort == "end" else None
    return Place(after) if ends is None else Place(ends[2], int(ends[1]))


def _scheduled(
    connection: sa.Connection,
    look: Look,
    *,
    provider: Annotated[str, ID, "Provider of the future assignments"] = "",
) -> Page[ScheduledFlip]:
    require_provider(connection, provider)
    return Page(scheduled_flips(connection, provider, look.now_ms, look.most))


SCOPE: Final = "orgs:read"
LISTS: Final = (
    Listing(
        "org list",
        "Organisations",
        "List organisations with provider, plan, state and credit.",
        _list,
        (
            Column("org_id", "org"), Column("billing_provider", "billed by"), "plan", "state", "since_ms", "why",
            Column("running", "#running"), Column("max_concurrent_sandboxes", "#at once"), "balance_micro",
            "left_now_micro", "used_a_minute_micro", Column("runs_out_ms", "runs out", rare=True),
            Column("override_halted", "override", of_row=_word_of, rare=True),
        ),
        "orgs",
        path="/v1/orgs",
        scope=SCOPE,
        paged=True,
    ),
    Listing(
        "org scheduled",
        "Scheduled assignments",
        "List future assignments, the next first.",
        _scheduled,
        (
            Column("org_id", "org"), Column("billing_provider", "billed by"), Column("provider", "next provider"),
            Column("customer_id", "customer"), Column("start_ms", "from"), "actor", "reason",
        ),
        "scheduled",
        path="/v1/assignments",
        scope=SCOPE,
    ),
)  # fmt: skip
