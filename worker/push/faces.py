"""Offer lists and actions on pushes to the CLI, the HTTP API and the console."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import require_org
from drawdown.schema.declare import (
    ID,
    KEY,
    ORG,
    TEXT,
    TIME,
    Action,
    Column,
    Fact,
    Invocation,
    Listing,
    Look,
    Page,
    Showing,
    Size,
    Values,
    whole,
)
from drawdown.schema.errors import Refused, UnknownId, UsageError
from drawdown.schema.text import counted
from drawdown.schema.typed.parsing import require_range, show_time
from drawdown.schema.units import EXEMPT_PROVIDERS
from drawdown.worker.push import actions as pushes
from drawdown.worker.push.actions import Chosen, PushEffect, effect_of
from drawdown.worker.push.explanation import ExplainedPush, explain_push
from drawdown.worker.push.lists import (
    NO_ERROR,
    AnyState,
    OpenState,
    PushFilter,
    PushLine,
    PushSum,
    list_pushes,
    sum_pushes,
)
from drawdown.worker.push.rows import PUSH, find_pushes
from drawdown.worker.verdict.rates import size_of

SEALED_AGAIN: Final = "the next tick seals their usage again"
"""The effect of a void, in messages."""
RETRIED: Final = ("due", "rejected")
PROVEN: Final = ("in_doubt", "rejected")
MOST_CHOSEN: Final = 1_000
"""Most pushes that one call or form changes. The command changes any number."""
MOST_FACTS: Final = 20
"""Most pushes that a dry run or a result names."""

Keys = Annotated[list[str], KEY, "Keys of pushes (usage:ORG:WINDOW:FEATURE[:rN]), instead of filters"]
State = Literal["due", "rejected", "in_doubt", "awaiting_credit"]
OfState = Annotated[list[State] | None, "State of the pushes"]
OfOrg = Annotated[str | None, ORG, "Organisation of the pushes"]
OfProvider = Annotated[str, ID, "Provider of the pushes"]
OfError = Annotated[str, TEXT, "Text in the last error of the pushes"]
Expect = Annotated[int | None, whole(1, 10**9), "Expected count, as the dry run showed"]
Evidence = Annotated[str, TEXT, "Evidence of the outcome"]


@dataclass(frozen=True)
class PushesChanged:
    """The keys of the changed pushes, and their effect.

    If one push cannot be changed, the command does not change any of them.
    """

    pushes: list[str]
    effect: PushEffect


@dataclass(frozen=True)
class PushesResolved:
    """The keys of the resolved pushes, their outcome and effect.

    If one push cannot be resolved, the command does not resolve any of them.
    """

    pushes: list[str]
    outcome: str
    effect: PushEffect


def _find_pushes(
    connection: sa.Connection,
    asked: Invocation,
    possible: Sequence[str],
    keys: Sequence[str] | None,
    state: Sequence[str] | None,
    org_id: str | None,
    provider: str,
    error: str,
    expect: int | None = None,
) -> list[str]:
    """Return the keys of the chosen pushes.

    The organisation of a bound key restricts the keys, and does not count as a filter.

    Errors: those of `Chosen.find`; UnknownId for a push of another organisation than a bound key's; Refused if the
    selection is empty.
    """
    if keys and asked.only is not None:
        _require_own(connection, keys, asked.only)
        org_id = None
    chosen = Chosen(list(keys or ()) or None, list(state or ()) or None, org_id or "", provider, error, expect)
    found = chosen.find(connection, possible)
    if not found:
        raise Refused("the selection does not match any push. To find pushes, run `drawdown push list`")
    return found


def _require_own(connection: sa.Connection, keys: Sequence[str], only: str) -> None:
    """Refuse a push of another organisation than `only`. Errors: UnknownId."""
    own = {key for key, row in find_pushes(connection, keys).items() if row.org_id == only}
    for key in keys:
        if key not in own:
            raise ids.not_of(PUSH, key, only)


def _retry(
    connection: sa.Connection,
    asked: Invocation,
    keys: Keys | None = None,
    *,
    state: OfState = None,
    org_id: OfOrg = None,
    provider: OfProvider = "",
    error: OfError = "",
    expect: Expect = None,
) -> PushesChanged:
    found = _find_pushes(connection, asked, RETRIED, keys, state, org_id, provider, error, expect)
    effect = effect_of(connection, found)
    return PushesChanged(pushes.retry(connection, found, asked.by), effect)


def _resolve(
    connection: sa.Connection,
    asked: Invocation,
    keys: Keys | None = None,
    *,
    outcome: Annotated[
        Literal["accepted", "absent"], "Outcome at the provider: accepted, or absent, which voids the push"
    ],
    evidence: Evidence,
    state: OfState = None,
    org_id: OfOrg = None,
    provider: OfProvider = "",
    error: OfError = "",
    expect: Expect = None,
) -> PushesResolved:
    found = _find_pushes(connection, asked, PROVEN, keys, state, org_id, provider, error, expect)
    effect = effect_of(connection, found)
    work = pushes.resolve_accepted if outcome == "accepted" else pushes.void
    return PushesResolved(work(connection, found, asked.by, evidence), outcome, effect)


def _void(
    connection: sa.Connection,
    asked: Invocation,
    keys: Keys | None = None,
    *,
    evidence: Evidence,
    state: OfState = None,
    org_id: OfOrg = None,
    provider: OfProvider = "",
    error: OfError = "",
    expect: Expect = None,
) -> PushesChanged:
    found = _find_pushes(connection, asked, PROVEN, keys, state, org_id, provider, error, expect)
    effect = effect_of(connection, found)
    return PushesChanged(pushes.void(connection, found, asked.by, evidence), effect)


def _says(what: str, of_one: str = "") -> Callable[[PushesChanged], list[str]]:
    """Return a function that describes changed pushes: number, worth, first keys.

    `of_one`: the text if a single push changed.
    """

    def says(done: PushesChanged) -> list[str]:
        keys = [f"  {key}" for key in done.pushes[:MOST_FACTS]]
        more = ["  …"] if len(done.pushes) > MOST_FACTS else []
        many = f"{len(done.pushes):,} pushes: {what}, all in one transaction"
        first = f"1 push: {of_one or what}" if len(done.pushes) == 1 else many
        return [first, f"  {done.effect}", *keys, *more]

    return says


def _resolved(done: PushesResolved) -> list[str]:
    what = "accepted" if done.outcome == "accepted" else f"voided; {SEALED_AGAIN}"
    return _says(what)(PushesChanged(done.pushes, done.effect))


def _count(done: PushesChanged | PushesResolved) -> int:
    return len(done.pushes)


def _choose(connection: sa.Connection, asked: Invocation, possible: Sequence[str], values: Values) -> list[str]:
    names = ("keys", "state", "org_id", "provider", "error", "expect")
    return _find_pushes(connection, asked, possible, *(values.get(name) for name in names))  # type: ignore[arg-type]


def _standing(possible: Sequence[str], connection: sa.Connection, asked: Invocation, values: Values) -> Sequence[Fact]:
    """Return the facts of a dry run: worth, organisations, time, and first states.

    If the action has a filter, also return the number of matches. A dry run reads the facts again after the change. The
    number of matches is then 0.
    """
    states = (*possible, "voided", "accepted")
    keys, matches = list(values.get("keys") or ()), list[Fact]()
    if not keys:
        try:
            keys = _choose(connection, asked, possible, values)
        except Refused:
            return [Fact("Pushes that match", "0")]
        matches = [Fact("Pushes that match", f"{len(keys):,}")]
    effect = effect_of(connection, keys)
    there = find_pushes(connection, keys[:MOST_FACTS])
    named = [Fact(key, there[key].state.replace("_", " ")) for key in sorted(there) if there[key].state in states]
    orgs = sorted({str(row.org_id) for row in there.values()})
    return [
        *matches,
        Fact("Worth", str(effect.worth)),
        Fact("Organisations", f"{effect.orgs:,}: {', '.join(orgs[:5])}"),
        Fact("Used from", "-" if effect.from_ms is None else show_time(effect.from_ms)),
        *named,
    ]


def _facts_of_retry(connection: sa.Connection, asked: Invocation, values: Values) -> Sequence[Fact]:
    return _standing(RETRIED, connection, asked, values)


def _facts_of_proven(connection: sa.Connection, asked: Invocation, values: Values) -> Sequence[Fact]:
    return _standing(PROVEN, connection, asked, values)


def _rows(connection: sa.Connection, asked: Invocation, values: Values) -> Size:
    return Size(rows=len(_choose(connection, asked, RETRIED, values)))


def _worth(connection: sa.Connection, asked: Invocation, values: Values) -> Size:
    """Return the worth and number of the pushes that a decision voids or accepts."""
    keys = _choose(connection, asked, PROVEN, values)
    return size_of(effect_of(connection, keys).worth, len(keys))


OnlyOrg = Annotated[str | None, ORG, "Organisation of the pushes"]
OnlyProvider = Annotated[str, ID, "Provider of the pushes"]
OnlyFeature = Annotated[str, ID, "Feature of the pushes"]
Since = Annotated[int | None, TIME, "Earliest window of the pushes"]
Until = Annotated[int | None, TIME, "Time before which the windows begin"]
OnlyError = Annotated[str, TEXT, f"Last error of the pushes, as listed, or '{NO_ERROR}'"]


def _require_filter(connection: sa.Connection, look: Look, provider: str, from_ms: int | None) -> None:
    """Check a filter's start and provider.

    Errors: UsageError for a start in the future; UnknownId for an unknown provider, with the nearest names.
    """
    if from_ms is not None and from_ms > look.now_ms:
        raise UsageError(f"--from is in the future, at {show_time(from_ms)}. For two days ago, pass 2d", at="from_ms")
    known = look.providers
    names = set() if known is None else {*known.providers, *known.broken, *EXEMPT_PROVIDERS}
    if provider and provider not in names and not ids.is_known(connection, ids.PROVIDER, provider):
        ids.require_among(ids.PROVIDER, provider, names)


def _list(
    connection: sa.Connection,
    look: Look,
    *,
    state: Annotated[AnyState, "State of the pushes; open for all that are not settled"] = "open",
    org_id: OnlyOrg = None,
    provider: OnlyProvider = "",
    feature: OnlyFeature = "",
    from_ms: Since = None,
    to_ms: Until = None,
    why: OnlyError = "",
) -> Page[PushLine]:
    _require_filter(connection, look, provider, from_ms)
    chosen = PushFilter(state, provider, org_id or "", feature, from_ms, to_ms, why)
    page = list_pushes(connection, chosen, look.now_ms, look.after, look.most)
    notes = ["the page reached its limit, and the next one continues"] if page.is_cut else []
    return Page(page.lines, page.next_after, notes)


def _sum(
    connection: sa.Connection,
    look: Look,
    *,
    state: Annotated[OpenState, "State of the pushes; open for all that are not settled"] = "open",
    org_id: OnlyOrg = None,
    provider: OnlyProvider = "",
    feature: OnlyFeature = "",
    from_ms: Since = None,
    to_ms: Until = None,
    why: OnlyError = "",
) -> Page[PushSum]:
    _require_filter(connection, look, provider, from_ms)
    require_range(from_ms, to_ms)
    if feature:
        ids.require(connection, ids.FEATURE, feature)
    if org_id:
        require_org(connection, org_id)
    sums = sum_pushes(connection, PushFilter(state, provider, org_id or "", feature, from_ms, to_ms, why))
    if len(sums) > look.most:
        raise Refused(f"too many sums: {len(sums):,} exceed {look.most:,}. Narrow the filter, or raise `most`")
    return Page(sums, notes=[f"{counted(sum(one.pushes for one in sums), 'push', 'pushes')} in all"])


def _show(connection: sa.Connection, look: Look, push: Annotated[str, KEY, "Key of the push"]) -> ExplainedPush:
    if look.only is not None and not push.startswith(f"usage:{look.only}:"):
        raise ids.not_of(PUSH, push, look.only)
    try:
        found = explain_push(connection, push)
    except UnknownId:
        if look.only is None:
            raise
        raise ids.not_of(PUSH, push, look.only) from None  # the nearest key may be another organisation's
    if look.only is not None and found.push.org_id != look.only:
        raise ids.not_of(PUSH, push, look.only)
    return found


def _lookups(found: ExplainedPush) -> list[str]:
    """Return the text about lookups at the provider, and the time of the next lookup."""
    push = found.push
    if not push.lookups:
        return []
    answer = f"{push.lookup_answer} at {show_time(push.looked_up_ms)}" if push.looked_up_ms else "no response yet"
    again = f"; again from {show_time(push.due_at_ms)} on" if push.state in ("queued", "in_doubt") else ""
    return [f"looked up {counted(push.lookups, 'time')}, last response: {answer.replace('_', ' ')}{again}"]


def _lost_hint(_values: Values) -> str:
    return "repeat the command. If Drawdown refuses it because a push is voided or accepted, that push is settled"


READ: Final = "usage:read"
WRITE: Final = "usage:write"
ACTIONS: Final = (
    Action(
        "push retry",
        "Send pushes again",
        "Send pushes again with the next tick. Drawdown voids a rejected push. Then the next tick seals its usage "
        "under the next revision.",
        _retry,
        _says("the next tick sends them again", "the next tick sends it again"),
        path="/v1/pushes/retry",
        scope=WRITE,
        facts=_facts_of_retry,
        size=_rows,
        at_once=MOST_CHOSEN,
        count=_count,
        lost_hint=_lost_hint,
    ),
    Action(
        "push resolve",
        "Resolve pushes",
        "Record the outcome of pushes in doubt or rejected. You can also resolve queued pushes with --outcome "
        "accepted. If Drawdown refuses one of the pushes, it does not change any push.",
        _resolve,
        _resolved,
        path="/v1/pushes/resolve",
        scope=WRITE,
        facts=_facts_of_proven,
        size=_worth,
        at_once=MOST_CHOSEN,
        count=_count,
        lost_hint=_lost_hint,
    ),
    Action(
        "push void",
        "Void pushes",
        "Void pushes that their provider did not charge. The pushes must be rejected or in doubt. The next tick seals "
        "their usage again.",
        _void,
        _says(f"voided; {SEALED_AGAIN}"),
        path="/v1/pushes/void",
        scope=WRITE,
        facts=_facts_of_proven,
        size=_worth,
        at_once=MOST_CHOSEN,
        count=_count,
        lost_hint=_lost_hint,
    ),
)
LISTS: Final = (
    Listing(
        "push list",
        "Pushes",
        "List pushes, those that need a person first. Other pushes are sorted by window, latest first.",
        _list,
        ("key", "provider", Column("sent_qty", "#quantity"), "state", Column("attempts", "#attempts"),
         Column("last_error", "last error")),
        holds="pushes",
        path="/v1/pushes",
        scope=READ,
        paged=True,
    ),
    Listing(
        "push sums",
        "Open pushes by customer",
        "Sum open pushes by provider, customer, feature and state.",
        _sum,
        ("provider", Column("customer_id", "customer"), "feature", "state", Column("pushes", "#pushes"),
         Column("quantity", "#quantity")),
        holds="sums",
        path="/v1/pushes/sums",
        scope=READ,
        most=1_000,
    ),
    Showing(
        "push show",
        "Push",
        "Explain a push: samples, mapping, quantity, attempts.",
        _show,
        path="/v1/pushes/{push}",
        scope=READ,
        most=0,
        open=True,
        parts={
            "samples": (
                "Samples of this window and feature",
                ("id", Column("ts", "at", show=show_time),
                 Column("memory_mb", "#MB or event type", of_row=lambda row: row.event_type or row.memory_mb),
                 Column("interval_s", "#seconds or units"), "withdrawn"),
            ),
            "attempts": (
                "Attempts",
                (Column("attempt", "#no."), "started_ms", "finished_ms", "outcome", "detail"),
            ),
            "revisions": ("Revisions", ("key", "state", Column("sealed_qty", "#sealed"), Column("sent_qty", "#sent"))),
        },
        notes=_lookups,
    ),
)  # fmt: skip
