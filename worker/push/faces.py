"""Pushes, as programs see and change them. The commands do more: a portion at a time, and a look at the provider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import sqlalchemy as sa

from drawdown.schema.declare import (
    ID,
    KEY,
    ORG,
    TEXT,
    TIME,
    Action,
    Asked,
    Fact,
    Listing,
    Look,
    Page,
    Showing,
    Size,
    Values,
    whole,
)
from drawdown.schema.errors import Refused, UnknownId, UsageError
from drawdown.schema.typed.parsing import show_time
from drawdown.worker.push import actions as pushes
from drawdown.worker.push.actions import Chosen, PushEffect, effect_of
from drawdown.worker.push.explanation import ExplainedPush, explain_push
from drawdown.worker.push.lists import PushFilter, PushLine, list_pushes
from drawdown.worker.push.rows import PUSH, find_pushes
from drawdown.worker.verdict.rates import size_of

RETRIED: Final = ("due", "rejected")
PROVEN: Final = ("in_doubt", "rejected")
MOST_CHOSEN: Final = 1_000
"""Pushes that one call changes; more are for the command line, or for a narrower filter."""
MOST_FACTS: Final = 20
"""Pushes that a dry run of a call names."""

Keys = Annotated[list[str], KEY, "Keys of pushes, usage:ORG:WINDOW:FEATURE[:rN]; or choose them by the other fields"]
State = Literal["due", "rejected", "in_doubt", "awaiting_credit"]
OfState = Annotated[list[State] | None, "All in this state"]
OfOrg = Annotated[str | None, ORG, "All of this organisation"]
OfProvider = Annotated[str, ID, "All at this provider"]
OfError = Annotated[str, TEXT, "All with this text in their last error"]
Expect = Annotated[int | None, whole(1, 10**9), "Refuse it unless it is so many"]
Evidence = Annotated[str, TEXT, "What shows it"]


@dataclass(frozen=True)
class PushesChanged:
    """Pushes that were changed, all or none, by their keys; of how many organisations, from which window on, and what
    they are worth."""

    pushes: list[str]
    effect: PushEffect


def _found(
    connection: sa.Connection,
    possible: Sequence[str],
    keys: Sequence[str] | None,
    state: Sequence[str] | None,
    org_id: str | None,
    provider: str,
    error: str,
    expect: int | None = None,
) -> list[str]:
    """Errors: as `Chosen.find`; Refused for none, or for more than a call changes."""
    chosen = Chosen(list(keys or ()) or None, list(state or ()) or None, org_id or "", provider, error, expect)
    found = chosen.find(connection, possible)
    if not found:
        raise Refused("no push is like that")
    if len(found) > MOST_CHOSEN:
        raise Refused(f"{len(found):,} pushes are like that, and one call changes {MOST_CHOSEN:,}: narrow the filter")
    return found


def _retry(
    connection: sa.Connection,
    asked: Asked,
    keys: Keys | None = None,
    *,
    state: OfState = None,
    org_id: OfOrg = None,
    provider: OfProvider = "",
    error: OfError = "",
    expect: Expect = None,
) -> PushesChanged:
    found = _found(connection, RETRIED, keys, state, org_id, provider, error, expect)
    effect = effect_of(connection, found)
    return PushesChanged(pushes.retry(connection, found, asked.by), effect)


def _resolve(
    connection: sa.Connection,
    asked: Asked,
    keys: Keys | None = None,
    *,
    outcome: Annotated[Literal["accepted", "absent"], "The provider has it; or it does not, and it is voided"],
    evidence: Evidence,
    state: OfState = None,
    org_id: OfOrg = None,
    provider: OfProvider = "",
    error: OfError = "",
    expect: Expect = None,
) -> PushesChanged:
    found = _found(connection, PROVEN, keys, state, org_id, provider, error, expect)
    effect = effect_of(connection, found)
    work = pushes.resolve_accepted if outcome == "accepted" else pushes.void
    return PushesChanged(work(connection, found, asked.by, evidence), effect)


def _void(
    connection: sa.Connection,
    asked: Asked,
    keys: Keys | None = None,
    *,
    evidence: Evidence,
    state: OfState = None,
    org_id: OfOrg = None,
    provider: OfProvider = "",
    error: OfError = "",
    expect: Expect = None,
) -> PushesChanged:
    found = _found(connection, PROVEN, keys, state, org_id, provider, error, expect)
    effect = effect_of(connection, found)
    return PushesChanged(pushes.void(connection, found, asked.by, evidence), effect)


def _said(done: PushesChanged) -> list[str]:
    return [f"{len(done.pushes):,} pushes", f"{done.effect}"]


def _choose(connection: sa.Connection, possible: Sequence[str], values: Values) -> list[str]:
    names = ("keys", "state", "org_id", "provider", "error", "expect")
    return _found(connection, possible, *(values.get(name) for name in names))  # type: ignore[arg-type]


def _standing(possible: Sequence[str], connection: sa.Connection, values: Values) -> Sequence[Fact]:
    """Return the worth of the pushes, their organisations, their first window, and the state of the first ones."""
    states = (*possible, "voided", "accepted")  # the dry run looks again when they are changed
    keys = list(values.get("keys") or ())
    if not keys:
        try:
            keys = _choose(connection, possible, values)
        except Refused:
            return [Fact("Pushes", "none is like that")]
    effect = effect_of(connection, keys)
    there = find_pushes(connection, keys[:MOST_FACTS])
    named = [Fact(key, there[key].state.replace("_", " ")) for key in sorted(there) if there[key].state in states]
    orgs = sorted({str(row.org_id) for row in there.values()})
    return [
        Fact("Worth", str(effect.worth)),
        Fact("Organisations", f"{effect.orgs:,}: {', '.join(orgs[:5])}"),
        Fact("Used from", "-" if effect.from_ms is None else show_time(effect.from_ms)),
        *named,
    ]


def _facts_of_retry(connection: sa.Connection, _asked: Asked, values: Values) -> Sequence[Fact]:
    return _standing(RETRIED, connection, values)


def _facts_of_proven(connection: sa.Connection, _asked: Asked, values: Values) -> Sequence[Fact]:
    return _standing(PROVEN, connection, values)


def _rows(connection: sa.Connection, _asked: Asked, values: Values) -> Size:
    return Size(rows=len(_choose(connection, RETRIED, values)))


def _worth(connection: sa.Connection, _asked: Asked, values: Values) -> Size:
    """Return the size of a decision that charges pushes again, or lets them go."""
    keys = _choose(connection, PROVEN, values)
    return size_of(effect_of(connection, keys).worth, len(keys))


def _list(
    connection: sa.Connection,
    look: Look,
    *,
    state: Annotated[
        Literal["open", "due", "queued", "in_doubt", "rejected", "accepted", "voided", "carried", "shadow", "any"],
        "In this state; open: all that is not settled",
    ] = "open",
    org_id: Annotated[str | None, ORG, "Only this organisation's"] = None,
    provider: Annotated[str, ID, "Only this provider's"] = "",
    feature: Annotated[str, ID, "Only of this feature"] = "",
    from_ms: Annotated[int | None, TIME, "Only of windows from this moment on"] = None,
    to_ms: Annotated[int | None, TIME, "Only of windows that begin before this moment"] = None,
    why: Annotated[str, TEXT, "Only those with this last error"] = "",
) -> Page[PushLine]:
    if from_ms is not None and from_ms > look.now_ms:
        raise UsageError("--from lies in the future: two days ago is 2d", at="from_ms")
    chosen = PushFilter(state, provider, org_id or "", feature, from_ms, to_ms, why)
    page = list_pushes(connection, chosen, look.now_ms, look.after, look.most)
    return Page(page.lines, page.next_after)


def _show(connection: sa.Connection, look: Look, key: Annotated[str, KEY, "The push's key"]) -> ExplainedPush:
    if look.only is not None and not key.startswith(f"usage:{look.only}:"):
        raise UnknownId(f"{look.only} has no push of this key", PUSH.noun)
    found = explain_push(connection, key)
    if look.only is not None and found.push.org_id != look.only:
        raise UnknownId(f"{look.only} has no push of this key", PUSH.noun)
    return found


READ: Final = "usage:read"
WRITE: Final = "usage:write"
ACTIONS: Final = (
    Action(
        "push retry",
        "Send pushes again",
        "Send again with the next tick. A rejected push is voided and sealed again, under its next revision.",
        _retry,
        _said,
        path="/v1/pushes/retry",
        scope=WRITE,
        facts=_facts_of_retry,
        size=_rows,
        by_hand=True,
    ),
    Action(
        "push resolve",
        "Resolve pushes",
        "Record the outcome of pushes that are in doubt or rejected. All of them are changed, or none.",
        _resolve,
        _said,
        path="/v1/pushes/resolve",
        scope=WRITE,
        facts=_facts_of_proven,
        size=_worth,
        by_hand=True,
    ),
    Action(
        "push void",
        "Void pushes",
        "Declare that rejected or doubtful pushes never reached their provider; their usage is sealed and sent again.",
        _void,
        _said,
        path="/v1/pushes/void",
        scope=WRITE,
        facts=_facts_of_proven,
        size=_worth,
        by_hand=True,
    ),
)
LISTS: Final = (
    Listing(
        "push list",
        "Pushes",
        "List pushes. Open ones: what needs a person first. All others: the latest window first.",
        _list,
        ("key", "provider", "sent_qty", "state", "attempts", "last_error"),
        holds="pushes",
        path="/v1/pushes",
        scope=READ,
        paged=True,
        by_hand=True,
    ),
    Showing(
        "push show",
        "Push",
        "Explain one push: samples, mapping, quantity, attempts, the provider's answer.",
        _show,
        path="/v1/pushes/{key}",
        scope=READ,
        most=0,
        open=True,
        by_hand=True,
    ),
)
