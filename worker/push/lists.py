"""Lists and sums of pushes: a page at a time, what no tick sends, and what waits at each provider. Reads only.

Guarantee: a page costs the same however many pushes there are: each kind of question goes by an index that holds it in
its order, and looks at MOST_LOOKED_AT rows at most. Where none of those is like what was asked for, the page says where
it goes on. Sums read only open pushes, by their own index. Amounts are in credits by the provider's rates; quantities
of different features are never added up.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger.rates import RateCard, rate_card, rates_part
from drawdown.schema import ids
from drawdown.schema.audit import require_org
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import Part, queries, together
from drawdown.schema.text import NEEDS_YOU, typed
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS, parse_push_key, push_key
from drawdown.worker.push.rows import find_push
from drawdown.worker.verdict.rates import Prices, Quantity, Worth

SQL = queries(__file__)

PAGE_ROWS: Final = 50
MOST_AT_ONCE: Final = 1_000
"""Rows of a file that are read, and held, together."""
MOST_LOOKED_AT: Final = 5_000
"""Pushes that one page goes through."""
MOST_ORG_MS: Final = 31 * DAY_MS
"""How much time of one organisation is looked through, a look for each window."""
AWAITING_CREDIT: Final = "awaiting_credit"
"""The state of a rejected push that is billed again once the provider shows credit."""
OPEN: Final = ("due", "queued", "in_doubt", "rejected", AWAITING_CREDIT)
FOR_PEOPLE: Final = ("in_doubt", "rejected")
UNSENT: Final = (*FOR_PEOPLE, AWAITING_CREDIT)
"""States that no tick sends: by the index on what a person is needed for."""
RANKS: Final = {"in_doubt": -3, "rejected": -2}
"""What stands for the time in the place of a push that no tick tries again: they come before those that one does."""
NO_ERROR: Final = "no error on record"
STATES: Final = ("open", *OPEN, "accepted", "voided", "carried", "shadow", "any")
"""By what a list may be narrowed: `open` is what is not decided."""
FIRST: Final = -1
LAST: Final = 2**62
"""Windows before and behind each that there is."""


@dataclass(frozen=True)
class PushFilter:
    """Which pushes: in one of STATES; of windows in [from_ms, to_ms); `why`: whose last error this is, by its first
    160 characters, or NO_ERROR. Empty: any."""

    state: str = "open"
    provider: str = ""
    org: str = ""
    feature: str = ""
    from_ms: int | None = None
    to_ms: int | None = None
    why: str = ""

    @property
    def is_open(self) -> bool:
        """Whether these are some of what is not decided."""
        return self.state in ("open", *OPEN)

    @property
    def narrows(self) -> bool:
        """Whether some that lie in the order of their index may be left out: of what is open, those for people are."""
        return self.state != "any" or bool(
            self.provider or self.feature or self.why or self.from_ms is not None or self.to_ms is not None
        )

    @property
    def values(self) -> dict[str, object]:
        """What the pieces `narrowed`, `of_org` and `customer_sums` are bound to."""
        return {
            "state": "" if self.state == "any" else self.state,
            "provider": self.provider,
            "org": self.org,
            "feature": self.feature,
            "from_ms": self.from_ms or 0,
            "to_ms": LAST if self.to_ms is None else self.to_ms,
            "why": self.why,
            "no_error": NO_ERROR,
        }


@dataclass(frozen=True)
class PushLine:
    """A push: base units of its feature that were sealed, and what is sent of them in its provider's terms."""

    key: str
    window_ms: int
    org_id: str
    feature: str
    revision: int
    provider: str
    customer_id: str
    sealed_qty: int
    sent_qty: int
    state: str
    attempts: int
    due_at_ms: int | None
    sealed_at_ms: int
    last_error: str | None

    @property
    def place(self) -> str:
        """Where the next page begins behind it."""
        return _said(RANKS.get(self.state, self.due_at_ms or 0), vars(self))


@dataclass(frozen=True)
class PushPage:
    """`next_after`: where the next page begins; None where there is no more. `is_cut`: it ended
    there for having gone through as much as one page may."""

    lines: list[PushLine]
    next_after: str | None
    is_cut: bool = False


def list_pushes(
    connection: sa.Connection, chosen: PushFilter, now_ms: int, after: str = "", most: int = PAGE_ROWS
) -> PushPage:
    """Those behind `after`. Open ones: first those that need a person, in doubt before rejected, the oldest window
    first; then those that ticks try, by provider, the next to be tried first. All others, and those of one
    organisation: the latest window first. Errors: UsageError for a state there is not, no such place, or a first page
    of open ones of which none waits for `why`; UnknownId. A provider that billed nobody is no error: it may be known
    to the machine alone."""
    if chosen.state not in STATES:
        raise UsageError(f"state {chosen.state!r}: there is {', '.join(STATES)}")
    if chosen.from_ms is not None and chosen.to_ms is not None and chosen.from_ms >= chosen.to_ms:
        raise UsageError("the range is empty: it ends before it begins")
    if chosen.feature:
        ids.require(connection, ids.FEATURE, chosen.feature)
    if chosen.org:
        require_org(connection, chosen.org)
    values = {**chosen.values, "at_most": most + 1, "looked_at": MOST_LOOKED_AT}
    if chosen.why and chosen.is_open and not after and SQL.run(connection, "one_that_waits", values).first() is None:
        raise UsageError("why: there is no open push that waits for this reason")
    if chosen.org:
        return _of_org(connection, chosen, {**values, **_place(after, LAST)}, now_ms, most)
    if chosen.state in UNSENT:
        return _for_people(connection, chosen, values, after, most)
    if chosen.is_open:
        return _open(connection, chosen, values, after, most)
    return _looked(connection, chosen, {**values, **_place(after, LAST)}, most, "latest", "down_to")


def every_push(connection: sa.Connection, chosen: PushFilter, now_ms: int) -> Iterator[PushLine]:
    """All of them, in the order of pages."""
    after: str | None = ""
    while after is not None:
        found = list_pushes(connection, chosen, now_ms, after, MOST_AT_ONCE)
        yield from found.lines
        after = found.next_after


def _open(
    connection: sa.Connection, chosen: PushFilter, values: Mapping[str, object], after: str, most: int
) -> PushPage:
    """Those that need a person, and behind the last of them those that ticks try."""
    people = PushPage([], None)
    if chosen.state == "open" and not _is_tried(after):
        people, after = _for_people(connection, chosen, values, after, most), ""
    room = most - len(people.lines)
    if people.next_after is not None:
        return people
    values = {**values, **_due_place(connection, after), "at_most": max(room, 1) + 1}
    rest = _looked(connection, chosen, values, max(room, 1), "open", "due_to")
    if not room:
        return PushPage(people.lines, people.lines[-1].place if rest.lines or rest.is_cut else None)
    return PushPage(people.lines + rest.lines, rest.next_after, rest.is_cut)


def _for_people(
    connection: sa.Connection, chosen: PushFilter, values: Mapping[str, object], after: str, most: int
) -> PushPage:
    """What needs a person: in doubt before rejected, the oldest window first."""
    stored = "rejected" if chosen.state == AWAITING_CREDIT else chosen.state
    first, last = (stored,) * 2 if stored in FOR_PEOPLE else FOR_PEOPLE
    place = _place(after, FIRST)
    begin = next((state for state, rank in RANKS.items() if rank == place["due_at_ms"]), first)
    return _paged(
        connection, "needing_person", {**values, **place, "state_after": max(begin, first), "last_state": last}, most
    )


def _is_tried(after: str) -> bool:
    """Whether a page of what is open begins behind one that ticks try: behind all that needs a person."""
    return int(_place(after, FIRST)["due_at_ms"]) >= 0


def _looked(
    connection: sa.Connection, chosen: PushFilter, values: Mapping[str, object], most: int, name: str, bound: str
) -> PushPage:
    """In the order of an index, of which some may be passed over: no further than MOST_LOOKED_AT rows."""
    if not chosen.narrows:
        return _paged(connection, name, values, most, **{bound: ""})
    last = SQL.run(connection, f"{name}_last", values).mappings().one_or_none()
    if last is None:
        return PushPage([], None)
    bounds = {f"last_{part}": value for part, value in last.items()}
    found = _paged(connection, name, {**values, **bounds}, most, **{bound: bound})
    if found.next_after is not None or int(last["looked"]) < MOST_LOOKED_AT:
        return found
    return PushPage(found.lines, _said(int(last.get("due_at_ms", 0)), dict(last)), is_cut=True)


def _of_org(
    connection: sa.Connection, chosen: PushFilter, values: Mapping[str, Any], now_ms: int, most: int
) -> PushPage:
    """One organisation's, the latest first: a look for each window, those of MOST_ORG_MS at most."""
    first = SQL.run(connection, "first_window").scalar()
    to_ms = min(values["to_ms"], now_ms + WINDOW_MS, values["window_ms"] + WINDOW_MS)
    asked_ms = -(-max(values["from_ms"], first or 0) // WINDOW_MS) * WINDOW_MS
    from_ms = max(asked_ms, to_ms - MOST_ORG_MS) // WINDOW_MS * WINDOW_MS
    if first is None or from_ms >= to_ms:
        return PushPage([], None)
    found = _paged(connection, "of_org", {**values, "from_ms": from_ms, "to_ms": to_ms}, most)
    if found.next_after is not None or from_ms <= asked_ms:
        return found
    begin = {"org_id": chosen.org, "window_ms": from_ms, "feature": "", "revision": 0}
    return PushPage(found.lines, _said(0, begin), is_cut=True)


def _paged(connection: sa.Connection, name: str, values: Mapping[str, object], most: int, **slots: str) -> PushPage:
    rows = [PushLine(**row._mapping) for row in SQL.run(connection, name, values, **slots)]
    return PushPage(rows[:most], rows[most - 1].place if len(rows) > most else None)


def _said(due_at_ms: int, row: Mapping[str, Any]) -> str:
    """A place, as PushLine.place says it."""
    return f"{due_at_ms}:{push_key(row['org_id'], row['window_ms'], row['feature'], row['revision'])}"


def _place(after: str, begin: int) -> dict[str, Any]:
    """Behind which push a page begins. Errors: UsageError."""
    if not after:
        return {"due_at_ms": -1, "window_ms": begin, "org_id": "", "feature_after": "", "revision": -1}
    due, _, key = after.partition(":")
    push_id = parse_push_key(key)
    if push_id is None or not re.fullmatch("-?[0-9]{1,18}", due):
        raise UsageError("after: no page begins there: begin at the first one")
    return {"due_at_ms": int(due), "feature_after": push_id.pop("feature"), **push_id}


def _due_place(connection: sa.Connection, after: str) -> dict[str, object]:
    """The same for what goes by provider. Errors: UsageError, UnknownId."""
    found = _place(after, FIRST)
    provider = str(find_push(connection, after.partition(":")[2]).provider) if after else ""
    return {**found, "provider_after": provider}


MOST_REASONS: Final = 20
"""Reasons that are told apart in one sum."""


@dataclass(frozen=True)
class OpenSum:
    """All open pushes of one provider, state and feature; since when the oldest of them is sealed."""

    provider: str
    state: str
    feature: str
    pushes: int
    quantity: int
    oldest_ms: int


@dataclass(frozen=True)
class PushSum:
    """All open pushes of one customer, feature and state; their quantity in their provider's terms, as it is sent."""

    provider: str
    customer_id: str
    feature: str
    state: str
    pushes: int
    quantity: int


@dataclass(frozen=True)
class WaitSum:
    """All open pushes of one provider and state with the same last error, or NO_ERROR: how many, their oldest
    window, and when one of them is tried next (None: no tick tries them)."""

    provider: str
    state: str
    error: str
    pushes: int
    oldest_ms: int
    next_ms: int | None


@dataclass(frozen=True)
class WaitSums:
    """MOST_REASONS of them at most; `more`: whether there are others."""

    sums: list[WaitSum]
    more: bool


def sum_pushes(connection: sa.Connection, chosen: PushFilter) -> list[PushSum]:
    """Those of a filter that are open, on whichever page: by provider, customer, feature and state."""
    return [PushSum(**row._mapping) for row in SQL.run(connection, "customer_sums", chosen.values)]


def open_sums(connection: sa.Connection) -> list[OpenSum]:
    """Of all that is not decided, by provider, state and feature."""
    return [OpenSum(**row._mapping) for row in SQL.run(connection, "sums")]


def wait_sums(connection: sa.Connection) -> WaitSums:
    """Of all that is not decided, by provider, state and reason: those for people first, then by how many."""
    values = {"no_error": NO_ERROR, "at_most": MOST_REASONS + 1}
    found = [WaitSum(**row._mapping) for row in SQL.run(connection, "wait_sums", values)]
    return WaitSums(found[:MOST_REASONS], len(found) > MOST_REASONS)


UNTIL_CREDIT: Final = "billed once the provider shows credit"


@dataclass(frozen=True)
class Unresolved:
    """All pushes of one provider and state: `in_doubt`, `rejected` or AWAITING_CREDIT.

    `oldest_window_ms`: start of the oldest window; `oldest_ms`: when the oldest push was sealed. `looked_up_ms`: when
    Drawdown has looked up each of them again; None if it looks up none.
    """

    provider: str
    state: str
    pushes: int
    orgs: int
    oldest_window_ms: int
    oldest_ms: int
    worth: Worth
    looked_up_ms: int | None = None

    @property
    def size(self) -> str:
        """Pushes and organisations, for people."""
        return f"{counted(self.pushes, 'push', 'pushes')} of {counted(self.orgs, 'organisation', 'organisations')}"

    @property
    def waits(self) -> str:
        """The verb after `size`."""
        return "waits" if self.pushes == 1 else "wait"

    @property
    def command(self) -> str:
        """The one command for all of them: its dry run, where a person decides; else the list."""
        if self.state == "in_doubt":
            return resolve_all(self.provider)
        return typed("drawdown", "push", "list", "--state", self.state, "--provider", self.provider)


def counted(count: int, one: str, many: str) -> str:
    """A number and its noun."""
    return f"{count:,} {one if count == 1 else many}"


def resolve_all(provider: str) -> str:
    """The dry run for all pushes in doubt at a provider."""
    return typed("drawdown", "push", "resolve", "--all-in-doubt", "--provider", provider, "--dry-run")


def unresolved_parts() -> dict[str, Part]:
    """Both questions, for whoever reads more in one statement."""
    return {"unresolved": SQL.part("unresolved_sums"), "unresolved_orgs": SQL.part("orgs")}


def unresolved_of(connection: sa.Connection, sums: Iterable[Any], orgs: Iterable[Any]) -> list[Unresolved]:
    """Return them by provider and state, from rows that were read."""
    groups: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for row in sums:
        groups[row.provider, row.state].append(row)
    concerned = {(row.provider, row.state): int(row.orgs) for row in orgs}
    prices = Prices(connection)
    return [_unresolved(where, rows, concerned[where], prices) for where, rows in sorted(groups.items())]


def _unresolved(where: tuple[str, str], rows: Sequence[Any], orgs: int, prices: Prices) -> Unresolved:
    provider, state = where
    due = [int(row.due_ms) for row in rows if row.due_ms is not None]
    return Unresolved(
        provider,
        state,
        pushes=sum(int(row.pushes) for row in rows),
        orgs=orgs,
        oldest_window_ms=min(int(row.window_ms) for row in rows),
        oldest_ms=min(int(row.oldest_ms) for row in rows),
        worth=prices.worth(Quantity(provider, row.feature, row.window_ms, int(row.quantity)) for row in rows),
        looked_up_ms=max(due) if due and state == "in_doubt" else None,
    )


RATE_SPAN_MS: Final = 15 * MINUTE_MS
TICKS_LOOKED_AT: Final = 1_000
"""The newest ticks of all shards: more than end in a quarter of an hour."""
RANK_STATES: Final = {1: "in_doubt", 2: "rejected", 3: "waiting"}


@dataclass(frozen=True)
class Waiting:
    """One provider's open pushes. Prices are micro-credits by the provider's own rates, or else by the embedded
    ledger's rate card. What has no rate is in `unpriced` alone; so is all of it if several balances pay for it."""

    provider: str
    due: int = 0
    queued: int = 0
    in_doubt: int = 0
    rejected: int = 0
    awaiting_credit: int = 0
    """Rejected, and billed again once the provider shows credit: no person decides about it."""
    oldest_ms: int = 0
    """When the oldest of them was sealed."""
    waiting_since_ms: int | None = None
    """When the oldest of those was sealed that ticks will settle by themselves."""
    oldest_window_ms: int = 0
    error: str | None = None
    errors: dict[str, str] = field(default_factory=dict)
    """The one of most pushes, by state: in_doubt, rejected, waiting. `error` is the first of these."""
    other_errors: dict[str, int] = field(default_factory=dict)
    """How many others there are of that state, where there are any."""
    error_pushes: int = 0
    refused: int = 0
    """Of those that are due: refused until a person changes a setting."""
    refusal: str | None = None
    """Why, of the most of those."""
    retry_ms: int | None = None
    """When the first of those that are due is sent again."""
    tried: int = 0
    """Of the open ones, how many were ever sent, or tried to be."""
    units: dict[str, int] = field(default_factory=dict)
    price_micro: int = 0
    unpriced: dict[str, int] = field(default_factory=dict)
    paused_ms: int | None = None
    paused_by: str | None = None
    paused_reason: str | None = None
    settled_per_min: int = 0
    drained_ms: int | None = None
    """When those that are due are sent, at the present rate; None: never, or none is."""
    looked_up_by_ms: int | None = None
    """When the queued ones can no longer be applied: by then each was looked up for the last time. None: none is
    queued, or no tick has told how long its provider takes."""

    @property
    def waiting(self) -> int:
        """What ticks will settle by themselves."""
        return self.due + self.queued

    @property
    def order(self) -> tuple[int, int, str]:
        """Where it stands among others: first what a person is needed for, then what waits."""
        return (-(self.in_doubt + self.rejected), -self.waiting, self.provider)


@dataclass(frozen=True)
class _Open:
    """Open pushes of one provider, state and feature, at one rate."""

    provider: str
    state: str
    feature: str
    rated_ms: int
    there_ms: int
    pushes: int
    quantity: int
    tried: int
    oldest_ms: int
    window_ms: int
    last_sent_ms: int | None
    due_ms: int


def read_providers(connection: sa.Connection, now_ms: int) -> list[Waiting]:
    """Each provider where something waits, or that a person paused; the one with most of it first. One statement, and
    one more for the rates of providers that have some."""
    read = together(
        connection,
        rates=rates_part(),
        open=SQL.part("waiting"),
        errors=SQL.part("errors"),
        paused=SQL.part("paused"),
        ticks=SQL.part("ticks", {"at_most": TICKS_LOOKED_AT, "since_ms": now_ms - RATE_SPAN_MS}),
    )
    card = rate_card(read["rates"])
    waiting: dict[str, list[_Open]] = defaultdict(list)
    for row in read["open"]:
        waiting[row.provider].append(_Open(**vars(row)))
    errors: dict[str, dict[str, list[tuple[str, int]]]] = defaultdict(dict)
    refusals: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for row in read["errors"]:
        of_state = errors[row.provider].setdefault(RANK_STATES[row.rank], [])
        of_state.append((str(row.error).removeprefix(NEEDS_YOU), int(row.pushes)))
        refused = str(row.error).startswith(NEEDS_YOU)
        if refused and RANK_STATES[row.rank] == "waiting":
            refusals[row.provider].append((str(row.error).removeprefix(NEEDS_YOU), int(row.pushes)))
    prices = Prices(connection)
    found = {
        name: _in_all(name, some, errors[name], _worth(name, some, card, prices)) for name, some in waiting.items()
    }
    for name, some in refusals.items():
        if name in found:
            found[name] = replace(found[name], refused=sum(pushes for _, pushes in some), refusal=some[0][0])
    for row in read["paused"]:
        before = found.get(row.provider, Waiting(row.provider))
        found[row.provider] = replace(
            before, paused_ms=int(row.paused_ms), paused_reason=str(row.paused_reason), paused_by=row.paused_by
        )
    settled, within = settled_per_minute(read["ticks"], now_ms), applied_within(read["ticks"])
    predicted = [
        _predicted(provider, settled.get(name, 0.0), now_ms, _last_lookup(waiting.get(name, ()), within.get(name)))
        for name, provider in found.items()
    ]
    return sorted(predicted, key=lambda provider: provider.order)


def _worth(name: str, some: Sequence[_Open], card: RateCard, prices: Prices) -> tuple[int, dict[str, int]]:
    """The price of what waits at one provider, and the quantities that have none."""
    if any(part.there_ms >= 0 for part in some):
        worth = prices.worth(Quantity(name, part.feature, part.window_ms, int(part.quantity)) for part in some)
        if len(worth.credits_micro) > 1:
            return 0, worth.quantities
        return sum(worth.credits_micro.values()), worth.unpriced
    unpriced: dict[str, int] = defaultdict(int)
    price_micro = 0
    for part in some:
        price = card.price(part.feature, part.rated_ms, int(part.quantity))
        if price is None:
            unpriced[part.feature] += int(part.quantity)
        else:
            price_micro += price
    return price_micro, dict(unpriced)


def _in_all(
    name: str, some: Sequence[_Open], errors: Mapping[str, list[tuple[str, int]]], worth: tuple[int, dict[str, int]]
) -> Waiting:
    """What waits at one provider, added up."""
    states: dict[str, int] = defaultdict(int)
    units: dict[str, int] = defaultdict(int)
    error = next((of_state[0] for of_state in errors.values()), None)
    for part in some:
        states[part.state] += int(part.pushes)
        units[part.feature] += int(part.quantity)
    return Waiting(
        name,
        due=states["due"],
        queued=states["queued"],
        in_doubt=states["in_doubt"],
        rejected=states["rejected"],
        awaiting_credit=states["awaiting_credit"],
        oldest_ms=min(part.oldest_ms for part in some),
        waiting_since_ms=min((part.oldest_ms for part in some if part.state in ("due", "queued")), default=None),
        oldest_window_ms=min(part.window_ms for part in some),
        error=None if error is None else error[0],
        errors={state: of_state[0][0] for state, of_state in errors.items()},
        other_errors={state: len(of_state) - 1 for state, of_state in errors.items() if len(of_state) > 1},
        error_pushes=0 if error is None else error[1],
        tried=sum(int(part.tried) for part in some),
        retry_ms=min((int(part.due_ms) for part in some if part.state == "due"), default=None),
        units=dict(units),
        price_micro=worth[0],
        unpriced=worth[1],
    )


def _predicted(provider: Waiting, per_minute: float, now_ms: int, looked_up_by_ms: int | None) -> Waiting:
    """Those that are due are sent at the present rate. A queued one waits for a lookup, whatever the rate is."""
    drains = provider.due and per_minute > 0 and provider.paused_ms is None
    drained_ms = now_ms + round(provider.due / per_minute * MINUTE_MS) if drains else None
    return replace(provider, settled_per_min=round(per_minute), drained_ms=drained_ms, looked_up_by_ms=looked_up_by_ms)


def _last_lookup(some: Iterable[_Open], within_ms: int | None) -> int | None:
    """When the last of the queued pushes can no longer be applied."""
    sent = [int(part.last_sent_ms) for part in some if part.last_sent_ms is not None]
    return max(sent) + within_ms if sent and within_ms is not None else None


def applied_within(ticks: Iterable[Any]) -> dict[str, int]:
    """How long after a send each provider may still apply it, as the newest tick that used it told."""
    found: dict[str, int] = {}
    for row in ticks:
        found = {**json.loads(row.report).get("applied_within_ms", {}), **found}
    return found


def settled_per_minute(ticks: Iterable[Any], now_ms: int) -> Mapping[str, float]:
    """Pushes that ticks saw accepted, by provider, a minute: those of the last quarter of an hour, back to the last one
    that saw none. What was before an outage says nothing of when it will be over."""
    totals: dict[str, int] = {}
    since: dict[str, int] = {}
    ended: set[tuple[str, int]] = set()
    for row in ticks:
        for provider, count in json.loads(row.report).get("accepted_at", {}).items():
            if not count:
                ended.add((provider, row.bucket_lo))
            elif (provider, row.bucket_lo) not in ended:
                totals[provider] = totals.get(provider, 0) + count
                since[provider] = min(since.get(provider, now_ms), row.started_ms)
    return {name: count * MINUTE_MS / max(now_ms - since[name], MINUTE_MS) for name, count in totals.items()}
