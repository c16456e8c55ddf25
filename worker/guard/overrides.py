"""Request, decide, make and list limit overrides.

A limit override replaces a plan's limit for a limited time.

Guarantee: a limit override has an end, unless it is marked as permanent. Each read checks whether the end has passed,
so that a job does not have to end the limit override. The amount of a limit override never changes. Each change is
recorded with actor and reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal, TypeAlias, get_args

import sqlalchemy as sa

from drawdown.guard.decide import Reach
from drawdown.guard.periods import Period
from drawdown.ledger.reservations import Denied
from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.declare import (
    FLAG,
    ID,
    MAX_NUMBER,
    Action,
    Column,
    Fact,
    Invocation,
    Listing,
    Look,
    Page,
    Size,
    Values,
    whole,
)
from drawdown.schema.declare import one as one_thing
from drawdown.schema.errors import Refused, UnknownId, UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.messages import (
    OVERRIDE_APPROVED,
    OVERRIDE_ENDED,
    OVERRIDE_REFUSED,
    OVERRIDE_REQUESTED,
    Message,
    tell,
)  # fmt: skip
from drawdown.schema.sql import queries
from drawdown.schema.text import quote_value
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import DAY_MS
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.limits import amount_in_words
from drawdown.worker.guard.lists import list_limits
from drawdown.worker.guard.terms import MAX_UNITS

SQL = queries(__file__)

OverrideState: TypeAlias = Literal["asked", "in_force", "refused", "ended"]
Word: TypeAlias = Literal["approve", "refuse", "end"]

MOST_LIFE_MS: Final = 90 * DAY_MS
"""Longest lifetime of a temporary limit override, in milliseconds."""
MOST_ASKED: Final = 20
"""Pending requests for limit overrides of a metric and a target.

The target is an organisation, a pattern or a plan. Without this bound, a program that sends requests in a loop could
fill the disk.
"""
SOON_MS: Final = 7 * DAY_MS
"""Milliseconds before its end in which a limit override counts as ending soon."""
_AFTER: Final[dict[Word, OverrideState]] = {"approve": "in_force", "refuse": "refused", "end": "ended"}
_TOLD: Final[dict[Word, str]] = {"approve": OVERRIDE_APPROVED, "refuse": OVERRIDE_REFUSED, "end": OVERRIDE_ENDED}
_MAY_FOLLOW: Final[dict[Word, OverrideState]] = {"approve": "asked", "refuse": "asked", "end": "in_force"}


@dataclass(frozen=True)
class Terms:
    """The terms of a limit override.

    `reach`: the kind of `target`, which is an organisation, a pattern such as `acme-*`, or a plan. `amount`: base units
    in each `period` (None: unlimited). `ends_ms`: the end in milliseconds (None: permanent).
    """

    metric: str
    reach: Reach
    target: str
    period: Period
    amount: int | None
    ends_ms: int | None


@dataclass(frozen=True)
class OverrideRow:
    """A limit override: terms, requester, reason, and the actor who decided.

    The fields from `metric` to `ends_ms` are as in `Terms`. `at_ms`, `actor`, `reason`: those of the call that
    requested or made it. `decided_ms`, `decided_by`, `decided_reason`: those of the decision (None: not decided).
    """

    number: int
    metric: str
    reach: Reach
    target: str
    period: Period
    amount: int | None
    ends_ms: int | None
    state: OverrideState
    at_ms: int
    actor: str
    reason: str
    decided_ms: int | None
    decided_by: str | None
    decided_reason: str | None

    def is_over(self, now_ms: int) -> bool:
        return self.state in ("asked", "in_force") and self.ends_ms is not None and self.ends_ms <= now_ms

    def ends_soon(self, now_ms: int) -> bool:
        return self.state == "in_force" and self.ends_ms is not None and now_ms < self.ends_ms <= now_ms + SOON_MS


def add(
    connection: sa.Connection, terms: Terms, by: By, *, asked: bool, permanent: bool = False
) -> tuple[OverrideRow, bool]:
    """Make a limit override, or request it (`asked`).

    A limit override counts immediately, and a requested limit override from its approval on. Return the limit override,
    and True if the call created it. If the same actor repeats the call with the same terms, the call returns the first
    limit override. This applies while that limit override is in force, and while a newer limit override is not in
    force. A repeated request also returns a limit override that waits for a decision. A call without `asked` does not.

    Errors: UnknownId; UsageError for an invalid target, end or amount; Denied `too_many_asked`.
    """
    guard_terms.find(connection, terms.metric)
    _require_target(connection, terms)
    if terms.amount is not None and not 0 <= terms.amount <= MAX_UNITS:
        raise UsageError(
            f"invalid amount {terms.amount}: expected a whole number from 0 to {MAX_UNITS:,}, or none for unlimited",
            at="amount",
        )
    _require_end(terms, by.now_ms, permanent)
    before = _before(connection, terms, by, asked)
    if before is not None:
        return before, False
    decided = (None, None, None) if asked else (by.now_ms, by.actor, by.reason)
    values = {**vars(terms), "state": "asked" if asked else "in_force", "at_ms": by.now_ms, "actor": by.actor}
    values |= dict(zip(("decided_ms", "decided_by", "decided_reason"), decided, strict=True))
    number = int(SQL.run(connection, "add", {**values, "reason": by.reason}).scalar_one())
    record(connection, "override_ask" if asked else "override_make", str(number), vars(terms), by)
    made = OverrideRow(number, reason=by.reason, **values)
    if asked:
        _tell(connection, OVERRIDE_REQUESTED, made, by)
    return made, True


def decide(connection: sa.Connection, number: int, word: Word, by: By) -> tuple[OverrideRow, bool]:
    """Approve, refuse or end a limit override.

    Return the limit override after the call, and True if the call changed it.

    Errors: UnknownId; Denied `ended` if its state does not allow the decision, or for an approval after its end.
    Refused for an approval while a newer limit override of the same target and period is in force, because the newer
    limit override would still apply.
    """
    found = show(connection, number)
    state = _AFTER[word]
    if found.state == state:
        return found, False
    if found.state != _MAY_FOLLOW[word]:
        instead = {
            "asked": f"Run `drawdown override refuse {number}`",
            "in_force": f"Run `drawdown override end {number}`",
        }
        next_ = instead.get(found.state, "To make another limit override, run `drawdown override make METRIC AMOUNT`")
        raise Denied("ended", f"limit override {number} is {found.state.replace('_', ' ')}. {next_}")
    if word == "approve" and found.ends_ms is not None and found.ends_ms <= by.now_ms:
        raise Denied(
            "ended",
            f"cannot approve limit override {number}: its end has passed. Make a limit override that ends later",
        )
    if word == "approve":
        _require_newest(connection, found, by.now_ms)
    after = replace(found, state=state, decided_ms=by.now_ms, decided_by=by.actor, decided_reason=by.reason)
    SQL.run(connection, "decide", vars(after))
    record(connection, f"override_{word}", str(number), {"was": found.state}, by)
    _tell(connection, _TOLD[word], after, by)
    return after, True


def _require_newest(connection: sa.Connection, found: OverrideRow, now_ms: int) -> None:
    newer = SQL.run(connection, "replaced_by", {"number": found.number, "now_ms": now_ms}).scalar()
    if newer is not None:
        raise Refused(
            f"cannot approve limit override {found.number}: the newer limit override {newer} of {found.metric} per "
            f"{found.period} for {found.target} is in force, and takes precedence. First run `drawdown override end "
            f"{newer}`, or run `drawdown override refuse {found.number}`"
        )


def show(connection: sa.Connection, number: int) -> OverrideRow:
    """Lock and return a limit override.

    Other transactions cannot decide it until this transaction ends. Errors: UnknownId.
    """
    row = SQL.run(connection, "read", {"number": number}).mappings().one_or_none()
    if row is None:
        text = f"unknown limit override {number}. Run `drawdown override list --all`"
        raise UnknownId(text, "override")
    return OverrideRow(**row)


def _before(connection: sa.Connection, terms: Terms, by: By, asked: bool) -> OverrideRow | None:
    """Return an equal limit override; None if it does not exist.

    The function locks the metric, so that other calls cannot make the same limit override now. Errors: Denied
    `too_many_asked`.
    """
    guard_terms.hold(connection, terms.metric)
    said = {"asked": int(asked), "actor": by.actor, "now_ms": by.now_ms}
    row = SQL.run(connection, "same", {**vars(terms), **said}).mappings().one_or_none()
    if row is not None:
        return OverrideRow(**row)
    if asked and SQL.run(connection, "asked_for", {**vars(terms), "now_ms": by.now_ms}).scalar_one() >= MOST_ASKED:
        text = f"{MOST_ASKED} limit overrides of {terms.metric} for {terms.target} already wait for approval"
        raise Denied("too_many_asked", f"cannot request a limit override: {text}. Run `drawdown override list`")
    return None


def _tell(connection: sa.Connection, event: str, row: OverrideRow, by: By) -> None:
    """Send the webhook event of a limit override to the operator's product."""
    said = {name: getattr(row, name) for name in ("metric", "reach", "target", "period", "amount", "ends_ms")}
    data = {"override": row.number, **said, "actor": by.actor, "reason": by.reason}
    org = row.target if row.reach == "org" else None
    tell(connection, [Message(event, f"{event}:{row.number}", by.now_ms, data, org)])


def list_overrides(
    connection: sa.Connection, metric: str, now_ms: int, most: int, *, everything: bool = False, soon: bool = False,
    org_id: str = "", state: OverrideState | Literal[""] = "", after: int = 0, known: bool = False,
) -> list[OverrideRow]:  # fmt: skip
    """Return limit overrides, first those that wait for a decision.

    The others follow, sorted by their ends.

    `metric`: empty for all. `everything`: include refused and ended limit overrides. `soon`: only those that end within
    7 days. `org_id`: only those with this organisation as target. `after`: with `state`, only those after the limit
    override of that number. `known`: the caller has checked the metric.

    Errors: UnknownId for an unknown metric, organisation or limit override.
    """
    if metric and not known:
        ids.require(connection, ids.METRIC, metric)
    if org_id:
        ids.require(connection, ids.CUSTOMER, org_id)
    if after and SQL.run(connection, "is_there", {"number": after}).first() is None:
        raise UnknownId(f"unknown limit override {after}. Start at the first page", "override")
    values = {"metric": metric, "org_id": org_id, "now_ms": now_ms, "at_most": most, "everything": int(everything)}
    before_ms = now_ms + SOON_MS if soon else None
    more = {"before_ms": before_ms, "state": state, "after": after}
    rows = SQL.run(connection, "list", {**values, **more}).mappings()
    return [OverrideRow(**row) for row in rows]


def _require_target(connection: sa.Connection, terms: Terms) -> None:
    if terms.reach not in get_args(Reach):
        raise UsageError(
            f"invalid scope {quote_value(terms.reach)} of a limit override: expected {', '.join(get_args(Reach))}"
        )
    if terms.reach == "org":
        ids.require(connection, ids.CUSTOMER, terms.target)
    elif terms.reach == "plan":
        ids.require(connection, ids.ANY_PLAN, terms.target)
    elif not is_clean_id(terms.target) or not terms.target.endswith("*") or len(terms.target) < 2:
        raise UsageError(
            f"invalid prefix of ids {quote_value(terms.target)}: expected a beginning and a star, such as 'acme-*'"
        )


def _require_end(terms: Terms, now_ms: int, permanent: bool) -> None:
    if permanent != (terms.ends_ms is None):
        raise UsageError("specify either --expires, at most 90 days from now, or --permanent")
    if terms.ends_ms is not None and not now_ms < terms.ends_ms <= now_ms + MOST_LIFE_MS:
        raise UsageError(
            f"invalid end {show_time(terms.ends_ms)} of a limit override: expected a time in the next 90 days",
            at="ends_ms",
        )


# Actions and lists.

Number = Annotated[int, whole(1, MAX_NUMBER, 1), "Number of the limit override"]
MOST_LIMITS: Final = 1_000
"""Limits of one metric that a dry run reads for its facts.

Limit overrides have the same bound.
"""


@dataclass(frozen=True)
class OverrideDecided(OverrideRow):
    """A limit override as it is now.

    `changed`: True if this call decided it.
    """

    changed: bool


def _deciding(word: Word) -> Callable[[sa.Connection, Invocation, int], OverrideDecided]:
    def do(connection: sa.Connection, asked: Invocation, number: Number) -> OverrideDecided:
        found, changed = decide(connection, number, word, asked.by)
        return OverrideDecided(**vars(found), changed=changed)

    return do


def _sentence(done: OverrideDecided) -> str:
    return f"override {done.number}: {done.state.replace('_', ' ')}{'' if done.changed else '; unchanged'}"


def _facts(connection: sa.Connection, asked: Invocation, values: Values) -> Sequence[Fact]:
    found = show(connection, values["number"])
    metric, now_ms = found.metric, asked.by.now_ms
    same = list_overrides(connection, metric, now_ms, MOST_LIMITS, state="in_force")
    numbers = [f"{one.number} ({amount_in_words(one.amount)})" for one in same if one.target == found.target]
    plans = [one for one in list_limits(connection, metric, MOST_LIMITS) if one.period == found.period]
    allowed = ", ".join(f"{one.plan}: {amount_in_words(one.amount)}" for one in plans)
    terms = f"{amount_in_words(found.amount)} of {metric} per {found.period} for {found.target}; end: {_until(found)}"
    return [
        Fact("Override", terms),
        Fact("State", found.state.replace("_", " ")),
        Fact("In force for this target", ", ".join(numbers) or "none"),
        Fact(f"Limits of plans, per {found.period}", allowed or "none set, so none is allowed"),
    ]


def _size_of_approval(connection: sa.Connection, _asked: Invocation, values: Values) -> Size:
    """Return the size of an approval.

    The size is the use that the approval allows in one period, at the metric's price.
    """
    found = show(connection, values["number"])
    if found.amount is None or found.reach != "org":
        return Size(unbounded=True)
    return Size(micro=guard_terms.find(connection, found.metric).price.of(found.amount))


@dataclass(frozen=True)
class OverrideShown(OverrideRow):
    """A limit override in a list.

    `standing`: its state in words, which also shows whether its end has passed.
    """

    standing: str


def _list(
    connection: sa.Connection,
    look: Look,
    *,
    metric: Annotated[str, ID, "Metric of the limit overrides"] = "",
    soon: Annotated[bool, FLAG, "Limit overrides that end within 7 days"] = False,
    all_: Annotated[bool, FLAG, "Refused and ended limit overrides, too"] = False,
) -> Page[OverrideShown]:
    found = list_overrides(connection, metric, look.now_ms, look.most, everything=all_, soon=soon)
    return Page([OverrideShown(**vars(one), standing=_standing(one, look.now_ms)) for one in found])


def _standing(one: OverrideRow, now_ms: int) -> str:
    if one.is_over(now_ms):
        return "over"
    return f"{one.state.replace('_', ' ')}{', ends soon' if one.ends_soon(now_ms) else ''}"


def _until(one: OverrideRow) -> str:
    return _end_in_words(one.ends_ms)


def _end_in_words(ends_ms: int | None) -> str:
    return "never" if ends_ms is None else f"{show_time(ends_ms)}"


def _decision(word: Word, title: str, said: str) -> Action[OverrideDecided]:
    return Action(
        f"override {word}",
        title,
        said,
        _deciding(word),
        _sentence,
        path=f"/v1/overrides/{{number}}/{word}",
        scope="guard:write",
        facts=_facts,
        size=_size_of_approval if word == "approve" else one_thing,
        place="/console/limits",
    )


ACTIONS: Final = (
    _decision("approve", "Approve a limit override", "Approve a limit override, which is then in force."),
    _decision("refuse", "Refuse a limit override", "Refuse a requested limit override."),
    _decision("end", "End a limit override", "End a limit override that is in force."),
)
LISTS: Final = (
    Listing(
        "override list",
        "Overrides",
        "List limit overrides. Requested limit overrides come first, then those in force, sorted by their end.",
        _list,
        (
            Column("number", "#number"), Column("standing", "state"), "metric", "target",
            "period", Column("amount", "#amount", amount_in_words),
            Column("ends_ms", "ends", _end_in_words), Column("actor", "by"), "reason",
            Column("decided_by", "decided by"),
        ),
        "overrides",
        path="/v1/overrides",
        scope="catalog:read",
        most=50,
    ),
)  # fmt: skip
