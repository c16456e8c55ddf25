"""Bugs of the door planted on purpose, one at a time: each has to be seen by what programs were told, or billed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa

from drawdown.events import cloudevents
from drawdown.events.envelope import Unfit, UsageEvent
from drawdown.schema.errors import DrawdownError
from drawdown.server.http.errors import ApiError
from drawdown.server.usage import intake
from drawdown.server.usage import items as item_routes
from drawdown.server.usage.intake import Body, ReceivedBody, Result
from drawdown.worker.access import keys as api_keys
from drawdown.worker.guard import counters as guard_counts
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.use import Answer, Ask
from drawdown.worker.sources.events import store as events_store
from drawdown.worker.sources.events.store import EventResult
from drawdown.worker.sources.samples import store as samples_store
from tests.simulation.door.life import lived
from tests.simulation.mutants_remote import Patches
from tests.simulation.planting import Kind


def _answered_before_the_commit(patches: Patches) -> None:
    """A batch whose commit fails is answered as if it had gone in."""

    def wrong(self: intake.Intake, engine: sa.Engine, body: Body, fit: Sequence[Any], now_ms: int) -> Sequence[Result]:
        kept: list[Result] = []

        def work(connection: sa.Connection) -> None:
            kept[:] = body.taker.store(connection, fit, replace(body.received, now_ms=now_ms))

        with suppress(DrawdownError):
            vars(intake)["write"](engine, work)
        return kept

    patches.put(intake.Intake, "_store", wrong)


def _one_bad_item_stops_all(patches: Patches) -> None:
    right = item_routes.EVENTS

    def wrong(connection: sa.Connection, found: Sequence[Any], sent: ReceivedBody) -> Sequence[Result]:
        read = list(right.read(sent))
        bad = any(isinstance(one, Unfit) for one in read)
        return [Result("invalid", "batch", "", "") for _ in found] if bad else right.store(connection, found, sent)

    patches.put(item_routes, "EVENTS", replace(right, store=wrong))


def _answers_shift(patches: Patches) -> None:
    """The answers stand in the order of what went in."""
    right = intake.Intake._answer_all

    def wrong(self: intake.Intake, engine: sa.Engine, bodies: Sequence[Body]) -> list[list[Result] | ApiError]:
        found = right(self, engine, bodies)
        return [
            one if isinstance(one, ApiError) else sorted(one, key=lambda each: each.status == "invalid")
            for one in found
        ]

    patches.put(intake.Intake, "_answer_all", wrong)


def _foreign_is_taken(patches: Patches) -> None:
    right = cloudevents._of_envelope
    patches.put(cloudevents, "_of_envelope", lambda item, org_id, *rest: right(item, None, *rest))


def _all_scopes(patches: Patches) -> None:
    right = api_keys.index_keys

    def wrong(rows: Iterable[Any]) -> Mapping[str, api_keys.ApiKey]:
        return {proof: replace(key, scopes=api_keys.SCOPES) for proof, key in right(rows).items()}

    patches.put(api_keys, "index_keys", wrong)


def _quota(patches: Patches, *, of_keys: bool) -> None:
    """Only one of both is asked for."""
    right = intake.Quotas.take

    def wrong(self: intake.Quotas, key: str, items: int, by_org: Counter[str], now_ms: int) -> None:
        right(self, key, items if of_keys else 0, Counter() if of_keys else by_org, now_ms)

    patches.put(intake.Quotas, "take", wrong)


def _tokens_are_spent_by_halves(patches: Patches) -> None:
    """A batch that is refused spends what its key has."""

    def wrong(self: intake.Quotas, key: str, items: int, by_org: Counter[str], now_ms: int) -> None:
        spent = self._keys.take(key, now_ms, items)
        if not spent or not all(self._orgs.take(org, now_ms, count) for org, count in by_org.items()):
            raise self._too_many("at once")

    patches.put(intake.Quotas, "take", wrong)


def _samples_go_in_as_they_come(patches: Patches) -> None:
    """What is said otherwise of a sample is taken for the same."""
    right = samples_store._same
    patches.put(samples_store, "_same", lambda stored, row: stored is None or right((*stored[:6], *row[6:8]), row))


def _repeated_use_counts(patches: Patches) -> None:
    """A consume that is given again is decided anew, under a key of its own."""
    right, count = guard.take_all, iter(range(10**6))

    def wrong(connection: sa.Connection, asked: Sequence[Ask]) -> list[Answer | DrawdownError]:
        there = guard_counts.read_uses(connection, [one.name for one in asked])
        anew = [replace(one, key=f"{one.key}+{next(count)}") if one.name in there else one for one in asked]
        return right(connection, anew)

    patches.put(guard, "take_all", wrong)


def _conflicts_are_billed(patches: Patches) -> None:
    right: Any = events_store.take

    def wrong(connection: sa.Connection, batch: Sequence[UsageEvent], now_ms: int, **more: Any) -> list[EventResult]:
        answers: list[EventResult] = right(connection, batch, now_ms, **more)
        others = [
            replace(event, event_id=f"{event.event_id}~{event.quantity}")
            for event, answer in zip(batch, answers, strict=True)
            if answer.status == "conflict"
        ]
        right(connection, others, now_ms, **more)
        return answers

    patches.put(item_routes, "take", wrong)


PLANTED: Final[dict[str, tuple[Callable[[Patches], None], str]]] = {
    "a batch is answered before it is committed": (_answered_before_the_commit, ""),
    "one bad item stops all events": (_one_bad_item_stops_all, "bad_items"),
    "answers stand in another order": (_answers_shift, "and should be"),
    "a bound key names another organisation": (_foreign_is_taken, "foreign_org"),
    "a key that was ended lets in": (
        lambda p: p.query(api_keys, "find", "AND ended_ms IS NULL", "AND created_ms >= 0"),
        "unauthorized",
    ),
    "a key that was rotated lets in for ever": (
        lambda p: p.query(api_keys, "find", ":now_ms < expires_ms", ":now_ms < expires_ms + 34560000000"),
        "unauthorized",
    ),
    "scopes are not asked for": (_all_scopes, "no_scope"),
    "only organisations have a quota": (lambda p: _quota(p, of_keys=False), "too_many_requests"),
    "only keys have a quota": (lambda p: _quota(p, of_keys=True), "too_many_requests"),
    "a refused batch spends its key's quota": (_tokens_are_spent_by_halves, "door:"),
    "what is said otherwise of a sample is the same": (_samples_go_in_as_they_come, "and should be"),
    "a use that is given again counts again": (_repeated_use_counts, " used"),
    "what is in conflict is billed, too": (_conflicts_are_billed, ""),
}
"""Each bug, and a part of what is said of it."""
SEEN_AT: Final[dict[str, int]] = {
    "a key that was rotated lets in for ever": 1,
    "only organisations have a quota": 2,
    "only keys have a quota": 1,
    "a refused batch spends its key's quota": 14,
    "what is in conflict is billed, too": 1,
}
"""Where a bug showed last, if not in the first life."""


def _wrong(seed: int) -> list[str]:
    return lived(seed)[1]


KIND: Final = Kind(_wrong, PLANTED, SEEN_AT)
