"""Bugs about providers behind HTTP: what their answers mean, what they forget, what reconcile may correct."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import CodeType, ModuleType
from typing import Any, Final

from drawdown.providers import autumn, stripe
from drawdown.providers.autumn import events, wire
from drawdown.providers.protocol import Absent, Accepted, Duplicate, FoundPush, PushRequest, Queued, Rejected, Unknown
from drawdown.providers.stripe import stream as stripe_stream
from drawdown.providers.stripe import wire as stripe_wire
from drawdown.worker.engine import effects
from drawdown.worker.orgs import assignments
from drawdown.worker.push import adopt, claim, confirm, evidence, push, webhooks
from drawdown.worker.push import outcome as decide
from drawdown.worker.push.outcome import Settlement, Void, settle
from drawdown.worker.reconcile import balances as reconcile_drawn
from drawdown.worker.reconcile import comparison
from drawdown.worker.seal import seal


def _names_used(module: ModuleType) -> set[str]:
    """All that the code of a module's functions and methods looks up."""
    found, queue = (
        set[str](),
        [one for one in vars(module).values() if getattr(one, "__module__", "") == module.__name__],
    )
    while queue:
        one = queue.pop()
        code = getattr(one, "__code__", one if isinstance(one, CodeType) else None)
        if code is not None:
            found |= set(code.co_names)
            queue += [part for part in code.co_consts if isinstance(part, CodeType)]
        elif isinstance(one, type):
            queue += vars(one).values()
    return found


class Patches:
    """Changes that are undone."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def put(self, where: Any, name: str, value: Any) -> None:
        before = getattr(where, name)
        if isinstance(where, ModuleType) and getattr(before, "__module__", where.__name__) != where.__name__:
            assert name in _names_used(where), (
                f"{where.__name__} only imports {name}: the mutant has to follow the code"
            )
        self._undo.append(partial(setattr, where, name, before))
        setattr(where, name, value)

    def text(self, where: Any, name: str, old: str, new: str) -> None:
        """Replace a piece of a statement, which has to be there."""
        before = getattr(where, name)
        assert old in before, f"{name} no longer holds {old!r}: the mutant has to follow the code"
        self.put(where, name, before.replace(old, new))

    def query(self, where: Any, name: str, old: str, new: str) -> None:
        """Replace a piece of a module's statements (`where.SQL`), which has to be there, for each database."""
        held = {key: text for key, text in where.SQL.pieces.items() if key[0] == name and old in text}
        assert held, f"{where.SQL.path.name}: {name} no longer holds {old!r}: the mutant has to follow the code"
        for (_, dialect), text in held.items():
            where.SQL.put(name, text.replace(old, new), dialect)
            self._undo.append(partial(where.SQL.put, name, text, dialect))

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """The changes, for as long as the block runs."""
        try:
            yield
        finally:
            self.undo()


def settles_as(patches: Patches, kind: type, state: str) -> None:
    def wrong(outcome: Any, attempt: int, now_ms: int, capabilities: Any, **more: Any) -> Settlement:
        right = settle(outcome, attempt, now_ms, capabilities, **more)
        return replace(right, state=state) if isinstance(outcome, kind) else right

    patches.put(push, "settle", wrong)


def _looked_up(patches: Patches, wrong: Callable[[Any, Any, int, Any], Any]) -> None:
    """`wrong` answers None where the right answer stands."""
    right = decide.after_lookup

    def mutant(found: Any, asked: Any, now_ms: int, capabilities: Any) -> Any:
        answer = wrong(found, asked, now_ms, capabilities)
        return right(found, asked, now_ms, capabilities) if answer is None else answer

    patches.put(confirm, "after_lookup", mutant)


def _void_at_once(found: Any, asked: Any, now_ms: int, capabilities: Any) -> Any:
    return Void("absent") if isinstance(found, Absent) else None


def _void_after_lag(found: Any, asked: Any, now_ms: int, capabilities: Any) -> Any:
    soon = replace(capabilities, applied_within_ms=0)
    return decide.after_lookup(found, asked, now_ms, soon) if isinstance(found, Absent) else None


def _any_quantity(found: Any, asked: Any, now_ms: int, capabilities: Any) -> Any:
    return Settlement("accepted", now_ms, "found") if isinstance(found, FoundPush) else None


def _lookups_mixed_up(patches: Patches) -> None:
    right = effects.fetch_lookups

    def wrong(looking: Any, left: Any) -> Any:
        found = yield from right(looking, left)
        return dict(zip(found, list(found.values())[::-1], strict=True))

    patches.put(confirm, "fetch_lookups", wrong)


def _sent_to_stripe(patches: Patches, change: Callable[[PushRequest], PushRequest]) -> None:
    """By v1, and by the stream."""
    right, event = stripe.StripeProvider._push, stripe_stream._event

    async def wrong(self: Any, one: PushRequest) -> Any:
        return await right(self, change(one))

    patches.put(stripe.StripeProvider, "_push", wrong)
    patches.put(stripe_stream, "_event", lambda settings, one: event(settings, change(one)))


def _unit_forgotten(patches: Patches) -> None:
    right = stripe_wire.meter_event

    def wrong(settings: Any, one: PushRequest) -> Any:
        unit = settings.meter_of(one.feature).unit
        return right(settings, replace(one, quantity=one.quantity * unit) if one.feature == "compute_1gb" else one)

    patches.put(stripe, "meter_event", wrong)
    event = stripe_stream._event

    def streamed(settings: Any, one: PushRequest) -> Any:
        unit = settings.meter_of(one.feature).unit
        return event(settings, replace(one, quantity=one.quantity * unit) if one.feature == "compute_1gb" else one)

    patches.put(stripe_stream, "_event", streamed)


def _units_not_sealed(patches: Patches) -> None:
    right = seal._term_rows
    patches.put(
        seal,
        "_term_rows",
        lambda found, carrying: right({name: replace(can, units={}) for name, can in found.items()}, carrying),
    )


def _uncharged_is_fine(patches: Patches) -> None:
    right = wire._of_success

    def wrong(request: Any, answer: Any, now_ms: int, *costs: Any) -> Any:
        got = right(request, answer, now_ms, *costs)
        return Accepted() if isinstance(got, Rejected) else got

    patches.put(wire, "_of_success", wrong)


def _any_200_is_fine(patches: Patches) -> None:
    right = stripe_wire.outcome

    def wrong(result: Any, one: PushRequest, now_ms: int) -> Any:
        return Accepted() if getattr(result, "status", 0) == 200 else right(result, one, now_ms)

    patches.put(stripe, "outcome", wrong)
    patches.put(stripe_stream, "_judge_answer", lambda answer: Accepted())


def _keys_kept_for_good(patches: Patches) -> None:
    for module in (push, claim):
        patches.put(module, "safe_retention_ms", lambda capabilities: None)
    patches.put(decide, "safe_retention_ms", lambda capabilities: None)


def _no_lag(patches: Patches) -> None:
    for module in (autumn, stripe):
        right = module.capabilities
        patches.put(module, "capabilities", lambda settings, right=right: replace(right(settings), totals_lag_ms=0))


def adopts_twice(patches: Patches) -> None:
    """A bug that seeds show too rarely: `test_scenarios_remote` plants it."""
    right = adopt.adopt_excess

    def wrong(connection: Any, row: Any, *rest: Any, **more: Any) -> None:
        right(connection, row, *rest, **more)
        right(connection, row, *rest, **more)

    patches.put(comparison, "adopt_excess", wrong)
    patches.put(reconcile_drawn, "adopt_excess", wrong)


def _balance_not_asked(patches: Patches) -> None:
    """Absence among events is believed."""

    def weigh(*rest: Any) -> Any:
        yield from ()
        return confirm.Weighed()

    patches.put(confirm, "weigh", weigh)
    patches.put(comparison, "_charged_of", lambda *rest: frozenset())


def _top_ups_forgotten(patches: Patches) -> None:
    patches.put(
        evidence.Accounted, "beyond", lambda self, drawn: (drawn.quantity - self.most, drawn.quantity - self.least)
    )


_OLDEST = "AND (p.first_attempt_ms IS NULL OR p.first_attempt_ms > :oldest_attempt_ms)"
_NEVER = "AND :oldest_attempt_ms IS NOT NULL"
_LATEST = "(SELECT z.customer_id FROM assignments z WHERE z.org_id = w.org_id ORDER BY z.start_ms DESC LIMIT 1)"
REMOTE: Final[dict[str, Callable[[Patches], None]]] = {
    "409 at Autumn taken as delivered": lambda p: settles_as(p, Duplicate, "accepted"),
    "202 taken as accepted": lambda p: settles_as(p, Queued, "accepted"),
    "rejection taken as accepted": lambda p: settles_as(p, Rejected, "accepted"),
    "200 that charged nothing taken as accepted": _uncharged_is_fine,
    "any 200 of Stripe's taken as accepted": _any_200_is_fine,
    "no answer of a provider that can be asked taken as a rejection": lambda p: settles_as(p, Unknown, "rejected"),
    "fresh identifier at each attempt at Stripe": lambda p: _sent_to_stripe(
        p, lambda one: replace(one, key=f"{one.key}.{one.attempt}")
    ),
    "absent before the lag is over, voided at once": lambda p: _looked_up(p, _void_at_once),
    "absent after the lag, voided while it may be applied": lambda p: _looked_up(p, _void_after_lag),
    "found as nothing charged, taken as accepted": lambda p: _looked_up(p, _any_quantity),
    "lookups given to the wrong pushes": _lookups_mixed_up,
    "key retention ignored": _keys_kept_for_good,
    "keys expire only as a tick begins": lambda p: p.query(claim, "claim", _OLDEST, _NEVER),
    "late rejection ignored": lambda p: p.put(webhooks, "refuse_late", lambda *rest: "rejected"),
    "wire key not kept": lambda p: p.put(claim, "_keep_wire_keys", lambda connection, hashed: None),
    "paused provider still sent": lambda p: p.query(claim, "may_be_sent", " AND {is_not_paused}", ""),
    "unit of one feature forgotten on the wire": _unit_forgotten,
    "units of single features not sealed": _units_not_sealed,
    "whole units carried for ever": lambda p: p.query(
        seal, "sent_carried", "THEN r.quantity ELSE", "THEN r.quantity WHEN r.unit > 1 THEN 0 ELSE"
    ),
    "customer of the new biller for old windows": lambda p: p.query(
        seal, "owed", "a.provider, a.customer_id,", f"a.provider, {_LATEST} AS customer_id,"
    ),
    "customer filled in, usage left pending": lambda p: p.put(assignments, "_fix", lambda *rest: (0, 0)),
    "voided without asking the balance": _balance_not_asked,
    "top-ups that were told are not remembered": _top_ups_forgotten,
    "null deductions taken as unreadable": lambda p: p.put(events, "_applied", wire.deducted),
    "reconcile voids what merely lags": _no_lag,
}
