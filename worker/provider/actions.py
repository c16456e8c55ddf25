"""Change a provider for a person.

A person can accept terms, bill usage in shadow, pause, resume, set rates for estimates, and set policies for outages.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import sqlalchemy as sa

from drawdown.providers.protocol import Capabilities
from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.clock import utc
from drawdown.schema.database import Transact
from drawdown.schema.errors import DrawdownError, Refused, UsageError
from drawdown.schema.locks import lock_buckets
from drawdown.schema.sql import queries
from drawdown.schema.text import counted, quote_value
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import WINDOW_MS, next_window, window_of
from drawdown.worker.catalog.terms import WIRE, StoredTerms, _keep, _stored, _terms, _text, differing, is_same, paused
from drawdown.worker.history.incarnation import require_whole
from drawdown.worker.push.void import void_many
from drawdown.worker.verdict.rates import (
    POLICIES,
    Prices,
    Quantity,
    Worth,
    policies_of,
    rate_card_of,
    tells_costs,
    uses_ledger,
)

SQL = queries(__file__)

CHUNK: Final = 200
"""Pushes that one transaction changes. Seals wait for that transaction."""
UNCHANGED: Final = (
    "the terms of {} have not changed: this machine has the settings that are in force. If ticks report a change, "
    "this machine lacks one of their settings"
)
MAX_SHADOW_BILLED: Final = 20_000
"""Pushes that one call of `bill_shadow` lets the next tick seal again."""


@dataclass(frozen=True)
class Portion:
    """The progress of `accept` after one of its transactions.

    `voided`: the number of pushes that this transaction voided. `pushes_left`: the number of pushes that are still to
    be voided. The new terms are in force when `pushes_left` is 0.
    """

    voided: int
    pushes_left: int


def accept(transact: Transact, provider: str, capabilities: Capabilities, by: By, *, dry_run: bool = False) -> int:
    """Accept a provider's new terms from now on. Return the number of voided pushes.

    The call voids pushes that were sealed with the old terms and never sent. The next tick seals their usage again,
    with the terms that are in force then. Each transaction voids up to CHUNK pushes, and the last transaction brings
    the new terms into force. If the command is interrupted, a repeated command does the rest. `dry_run`: only return
    the number of pushes to void. Errors: as `accept_some`.
    """
    done, left = 0, 1
    while left:
        try:
            work = partial(accept_some, provider=provider, capabilities=capabilities, by=by, before=done)
            some = transact(work, rollback=dry_run)
        except DrawdownError as error:
            if done:
                error.args = (f"{error}; {half_way(provider, done)}",)
            raise
        done, left = done + some.voided, some.pushes_left
        if dry_run:
            return int(done + left)
    return done


def half_way(provider: str, voided: int) -> str:
    """Return the text that describes the state after an interrupted `accept`."""
    return (
        f"{counted(voided, 'unsent push was', 'unsent pushes were')} voided before that, and the next tick seals the "
        f"usage again; {provider} still has its old terms. Repeat the command"
    )


def accept_some(
    connection: sa.Connection, provider: str, capabilities: Capabilities, by: By, *, before: int = 0
) -> Portion:
    """Void one portion of unsent pushes. With the last portion, accept the new terms.

    `before`: the number of pushes that earlier portions voided.

    Errors: Refused while a push sent with the old terms is neither settled nor rejected, or if the terms did not
    change. HistoryDoubted while the database is stopped, because the lost history may have sent an unsent push (R1).
    """
    lock_buckets(connection)
    require_whole(connection)
    stored = _stored(connection).get(provider)
    if stored is None or is_same(stored.terms, capabilities):
        raise Refused(UNCHANGED.format(provider))
    unsent = SQL.run(connection, "unsent_pushes", {"provider": provider, "at_most": CHUNK}).all()
    counts = SQL.run(connection, "count_open", {"provider": provider}).one()
    if counts.sent:
        raise Refused(
            f"cannot accept the new terms of {provider}: ticks have not settled "
            f"{counted(int(counts.sent), 'push', 'pushes')} that Drawdown sent on the old terms. Restore the old "
            "settings until ticks have settled these pushes. Resolve pushes in doubt with `drawdown push resolve KEY "
            "--outcome OUTCOME --evidence TEXT`"
        )
    why = f"never sent: the terms of {provider} changed before"
    void_many(connection, unsent, by, [why] * len(unsent), "operator")
    left = int(counts.due) - len(unsent)
    if not left:
        _use(connection, provider, stored, capabilities, by, before + len(unsent))
    return Portion(len(unsent), left)


def terms_of(capabilities: Capabilities) -> str:
    """Return a provider's declaration as text to store.

    Equal declarations have equal texts.
    """
    return _text(capabilities)


def terms_in_force(connection: sa.Connection, provider: str) -> str | None:
    """Return a provider's terms in force as stored text; None before the first tick."""
    stored = _stored(connection).get(provider)
    return None if stored is None else stored.terms


def changes(connection: sa.Connection, provider: str, capabilities: Capabilities) -> dict[str, tuple[object, object]]:
    """Return the terms that differ, each with the value in force and as declared."""
    stored = terms_in_force(connection, provider)
    return differing(json.loads(stored or "{}"), _terms(capabilities))


def open_at(connection: sa.Connection, provider: str) -> tuple[int, int]:
    """Return the number of pushes that `accept` voids, and of those that prevent it.

    A push prevents `accept` if it was sent, and is neither settled nor rejected.
    """
    counts = SQL.run(connection, "count_open", {"provider": provider}).one()
    return int(counts.due), int(counts.sent)


def _use(
    connection: sa.Connection, provider: str, stored: StoredTerms, capabilities: Capabilities, by: By, voided: int
) -> None:
    live_from = _live_from(stored.live_from_ms, capabilities.live_from_ms, by.now_ms, _sealed_to(connection))
    moved = not WIRE.isdisjoint(differing(json.loads(stored.terms), _terms(capabilities)))
    # Begin after the last push that a tick sent or adopted on the former terms. The tick may have done this since the
    # command began, or its clock may be ahead.
    values = {"provider": provider, "since_ms": by.now_ms}
    since_ms = int(SQL.run(connection, "after_last_sent", values).scalar_one() or by.now_ms)
    _keep(connection, provider, _text(capabilities), live_from, since_ms if moved else stored.wire_since_ms)
    details = {"was": stored.terms, "is": _text(capabilities), "live_from_ms": live_from, "voided": voided}
    record(connection, "provider_accept", provider, details, by)


def _sealed_to(connection: sa.Connection) -> int:
    return int(SQL.run(connection, "sealed_to").scalar_one())


def _live_from(was: int | None, declared: int | None, now_ms: int, sealed_to: int) -> int | None:
    """Return the new start of sending, in milliseconds.

    The start never moves back over windows that another system billed. If the provider was in shadow, it goes live from
    the next window on, and after all sealed windows. A machine with a faster clock may have sealed later windows in
    shadow.
    """
    if was is not None and was > now_ms:
        return max(declared or 0, next_window(now_ms), sealed_to)
    return declared if was is None else max(was, declared or 0)


@dataclass(frozen=True)
class Shadow:
    """A feature's usage that was sealed in shadow, in base units.

    `orgs`: the number of organisations with this usage. `from_ms`: the first window of the usage.
    """

    feature: str
    quantity: int
    orgs: int
    from_ms: int


@dataclass(frozen=True)
class CutOver:
    """The cut-over of a provider.

    `since_ms`: the cut-over in the provider's settings. `live_from_ms`: the time from which Drawdown sends pushes
    (None: always). `unbilled`: the usage between these times that was sealed in shadow, and that this provider does not
    bill. `unsealed_s`: seconds and units of samples between these times in windows that are not sealed yet. `worth`:
    the worth of `unbilled`, by the rates of each feature's first window.
    """

    live_from_ms: int | None
    since_ms: int
    unbilled: list[Shadow]
    unsealed_s: int
    worth: Worth = field(default_factory=Worth)


def cut_over(connection: sa.Connection, provider: str, capabilities: Capabilities, now_ms: int) -> CutOver:
    """Return the cut-over that `accept` would make now, or has already made."""
    stored = _stored(connection).get(provider)
    live = None if stored is None else stored.live_from_ms
    if stored is not None and not is_same(stored.terms, capabilities):
        live = _live_from(live, capabilities.live_from_ms, now_ms, _sealed_to(connection))
    since = capabilities.live_from_ms or 0
    if live is None or live <= since:
        return CutOver(live, since, [], 0)
    span = {"provider": provider, "from_ms": since, "until_ms": live}
    shadow, worth = shadow_between(connection, provider, since, live)
    return CutOver(live, since, shadow, int(SQL.run(connection, "unsealed_between", span).scalar_one()), worth)


def shadow_between(connection: sa.Connection, provider: str, from_ms: int, until_ms: int) -> tuple[list[Shadow], Worth]:
    """Return the usage in a span that was sealed in shadow, and its worth.

    The span is [from_ms, until_ms). Drawdown sends this usage only after `bill_shadow`. The worth is by the rates of
    each feature's first window in the span.
    """
    span = {"provider": provider, "from_ms": from_ms, "until_ms": until_ms}
    shadow = [Shadow(**row._mapping) for row in SQL.run(connection, "shadow_between", span)]
    worth = Prices(connection).worth(Quantity(provider, one.feature, one.from_ms, one.quantity) for one in shadow)
    return shadow, worth


def bill_shadow(connection: sa.Connection, provider: str, from_ms: int, by: By) -> int:
    """Bill usage that was sealed in shadow, from a window on.

    The provider becomes live from that window on. The next tick seals the usage again, and sends it.

    Return the number of pushes that the next tick seals again.

    Errors: Refused if the provider was never in shadow, is not live, or lacks shadow usage since `from_ms`. Refused for
    more than MAX_SHADOW_BILLED pushes. UsageError for a time that is not the start of a window. HistoryDoubted while a
    recovery is needed.
    """
    if from_ms % WINDOW_MS:
        raise UsageError(
            f"invalid --from {show_time(from_ms)}: expected the start of a five-minute window, such as "
            f"{utc(window_of(from_ms))}"
        )
    lock_buckets(connection)
    require_whole(connection)
    stored = _stored(connection).get(provider)
    live = None if stored is None else stored.live_from_ms
    if live is None or live > by.now_ms + WINDOW_MS:
        when = "it was never in shadow" if live is None else "it is not live yet"
        raise Refused(f"cannot bill shadow usage at {provider}: {when}. See `drawdown provider list`")
    values = {"provider": provider, "from_ms": from_ms, "at_most": MAX_SHADOW_BILLED + 1}
    found = SQL.run(connection, "shadow_pushes", values).all()
    if from_ms >= live or not found:
        raise Refused(
            f"{provider} does not have shadow usage since {utc(from_ms)}. It is live from {utc(live)}. To bill earlier "
            "usage, first check that no other system billed it, and then pass an earlier --from"
        )
    if len(found) > MAX_SHADOW_BILLED:
        raise Refused(
            f"{provider} has more than {MAX_SHADOW_BILLED:,} pushes in shadow since {utc(from_ms)}. Pass a later --from"
        )
    SQL.run(connection, "go_live_from", values)
    void_many(
        connection,
        found,
        by,
        [f"never sent: sealed in shadow, and billed from {utc(from_ms)} on"] * len(found),
        "operator",
    )
    record(
        connection,
        "provider_bill_shadow",
        provider,
        {"was_ms": live, "live_from_ms": from_ms, "pushes": len(found)},
        by,
    )
    return len(found)


def pause(connection: sa.Connection, provider: str, by: By) -> tuple[int, str] | None:
    """Pause a provider.

    Drawdown does not send pushes to it until it is resumed, but may look up earlier pushes. A repeated pause keeps the
    start, and replaces the reason.

    Return the start (milliseconds) and the reason of the existing pause; None if the provider was not paused.
    """
    before = paused(connection).get(provider)
    SQL.run(connection, "pause", {"provider": provider, "paused_ms": by.now_ms, "paused_reason": by.reason})
    record(connection, "provider_pause", provider, {"was": before}, by)
    return before


def resume(connection: sa.Connection, provider: str, by: By) -> int:
    """Resume sending to a provider. Return the start of its pause, in milliseconds.

    Errors: Refused if the provider is not paused.
    """
    since = paused(connection).get(provider)
    if since is None:
        raise Refused(f"{provider} is not paused. See `drawdown provider list`")
    SQL.run(connection, "resume", {"provider": provider})
    details = {"paused_ms": since[0]}
    record(connection, "provider_resume", provider, details, by)
    return since[0]


def set_rate(
    connection: sa.Connection,
    provider: str,
    feature: str,
    rate: tuple[int, int],
    by: By,
    *,
    from_ms: int | None,
    new: bool = True,
    tells: bool = True,
) -> int:
    """Set the rate of a feature at a provider, for estimates.

    Return the window from which the rate counts, in milliseconds.

    `rate`: (micro-units of the balance, base units). Without `from_ms`, a feature's first rate counts for all its
    usage, and a later rate from the next window on. If the same rate is already in force then, nothing changes. So a
    caller that lost the response can repeat the call, and gets the same window. `tells`: the provider declares that it
    reports costs.

    Errors: UsageError for an invalid feature name. Refused if the provider uses the ledger's rate card, if it reports
    costs, or for a second rate from the same window on. UnknownId for an unknown feature unless `new`.
    """
    ids.require_feature_name(feature)
    if uses_ledger(connection, provider):
        raise Refused(
            f"cannot set the rate: {provider} uses the ledger's rate card. Run `drawdown ledger rate {feature} "
            "--micro-credits N`"
        )
    if tells and tells_costs(connection, provider):
        raise Refused(
            f"cannot set the rate of {feature}: {provider} reports its own costs, and estimates use these costs. "
            f"To list them, run `drawdown provider rates {provider}`"
        )
    ids.require(connection, ids.FEATURE, feature, new=new)
    card = rate_card_of(connection, provider)
    known = any(given.feature == feature for given in card.rates)
    start = from_ms if from_ms is not None else (next_window(by.now_ms) if known else 0)
    holds = card.rate(feature, start)
    is_so = holds is not None and (holds.micro_credits, holds.per_quantity) == rate
    # The rate in force may still change before `from_ms`, so only a row with this start is a repetition.
    if holds is not None and is_so and from_ms in (None, holds.start_ms):
        return holds.start_ms
    details = {"feature": feature, "micro": rate[0], "per_quantity": rate[1], "start_ms": start}
    person = {"at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    # If two people set a rate at the same moment, the insert decides, and the second person gets the error.
    if SQL.run(connection, "insert_rate", {**details, "provider": provider, **person}).first() is None:
        taken = rate_card_of(connection, provider).explain_taken_start(feature, start, by.now_ms)
        raise Refused(f"cannot set the rate of {feature} at {provider}: {taken}")
    record(connection, "provider_rate", provider, details, by)
    return start


def set_when_down(
    connection: sa.Connection, provider: str, plan: str, policy: str, by: By, *, new: bool = True
) -> str | None:
    """Set the policy for customers of a plan while the provider is unreadable.

    Return the former policy, or None. `plan` '': every plan without its own policy.

    Errors: UsageError for an invalid policy; UnknownId for an unknown plan unless `new`.
    """
    if policy not in POLICIES:
        raise UsageError(f"invalid policy {quote_value(policy)}: expected {', '.join(POLICIES)}")
    if plan:
        ids.require(connection, ids.ANY_PLAN, plan, new=new)
    was = policies_of(connection, provider).get(plan)
    SQL.run(connection, "set_when_down", {"provider": provider, "plan": plan, "policy": policy})
    details = {"plan": plan, "policy": policy, "was": was}
    record(connection, "provider_when_down", provider, details, by)
    return was


def end_when_down(connection: sa.Connection, provider: str, plan: str, by: By) -> str:
    """End the policy of a plan, and return that policy.

    `plan` '': every plan without its own policy.

    Errors: Refused if the plan does not have a policy.
    """
    was = policies_of(connection, provider).get(plan)
    if was is None:
        raise Refused(
            f"the policy of {provider} for {f'the plan {plan}' if plan else 'all other plans'} is not set. See "
            f"`drawdown provider show {provider}`"
        )
    SQL.run(connection, "delete_when_down", {"provider": provider, "plan": plan})
    details = {"plan": plan, "was": was}
    action = "provider_when_down_undo"
    record(connection, action, provider, details, by)
    return was
