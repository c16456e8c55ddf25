"""One push, explained from its samples to the provider's answer. Reads only."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.catalog.mapping import MB_SECONDS, mapping_rows, resolve
from drawdown.worker.push.rows import dated, find_push

SAMPLES_SHOWN: Final = 200
SQL = queries(__file__)


@dataclass(frozen=True)
class PushColumns:
    """A push as it is stored."""

    window_ms: int
    org_id: str
    feature: str
    revision: int
    provider: str
    customer_id: str
    sealed_qty: int
    sent_qty: int
    key: str
    sealed_at_ms: int
    seal_id: int
    state: str
    due_at_ms: int | None
    claim_owner: str | None
    attempts: int
    first_attempt_ms: int | None
    settled_ms: int | None
    last_error: str | None
    wire_key: str | None
    lookups: int
    by_hand: bool
    looked_up_ms: int | None
    lookup_answer: str | None


@dataclass(frozen=True)
class SentAs:
    """What the provider is told: the key, the customer, and the moment it is dated."""

    key: str
    customer: str
    ts: int


@dataclass(frozen=True)
class ShownSample:
    """A sample that makes the push's feature: seconds of `memory_mb`; or units of an `event_type`, of that meter."""

    id: str
    ts: int
    memory_mb: int
    interval_s: int
    withdrawn: bool
    event_type: str | None


@dataclass(frozen=True)
class ShownAttempt:
    """One send. Without an outcome its answer was never seen."""

    attempt: int
    started_ms: int
    finished_ms: int | None
    owner: str
    outcome: str | None
    detail: str | None


@dataclass(frozen=True)
class ShownVoid:
    """A person's or a lookup's statement that the push never reached its provider."""

    at_ms: int
    evidence_kind: str
    evidence: str
    actor: str
    reason: str


@dataclass(frozen=True)
class ExplainedPush:
    """A push with all that it rests on. `samples`: the first SAMPLES_SHOWN; `samples_in_force_qty`: of all of them;
    `sealed_qty`: of all revisions."""

    push: PushColumns
    sent_as: SentAs
    samples: list[ShownSample]
    samples_in_force_qty: int
    sealed_qty: int
    attempts: list[ShownAttempt]
    void: ShownVoid | None


def explain_push(connection: sa.Connection, key: str) -> ExplainedPush:
    """The push, the samples of its window and feature, its attempts, and its void if it has one.

    Errors: Refused where there is no such push.
    """
    found = find_push(connection, key)
    push = PushColumns(**{column.name: getattr(found, column.name) for column in fields(PushColumns)})
    push_id = {"window_ms": push.window_ms, "org_id": push.org_id, "feature": push.feature, "revision": push.revision}
    samples, quantity = _samples(connection, push)
    void = SQL.run(connection, "void", push_id).one_or_none()
    return ExplainedPush(
        push=push,
        sent_as=SentAs(push.wire_key or push.key, push.customer_id, dated(push.window_ms, push.revision)),
        samples=samples,
        samples_in_force_qty=quantity,
        sealed_qty=int(SQL.run(connection, "sealed", push_id).scalar_one()),
        attempts=[ShownAttempt(**row._mapping) for row in SQL.run(connection, "attempts", push_id)],
        void=None if void is None else ShownVoid(**void._mapping),
    )


def _samples(connection: sa.Connection, push: PushColumns) -> tuple[list[ShownSample], int]:
    """The first of those that make a push's feature, and the quantity of all that are in force."""
    rules = mapping_rows(connection)
    made_of = cache(lambda memory_mb: resolve(rules, memory_mb, push.window_ms))
    quantity = 0
    samples: list[ShownSample] = []
    values = {"org_id": push.org_id, "window_ms": push.window_ms, "window_end_ms": push.window_ms + WINDOW_MS}
    for row in SQL.run(connection, "samples", values):
        rule = made_of(row.memory_mb)
        if rule is None or rule.feature != push.feature:
            continue
        if not row.withdrawn:
            quantity += int(row.interval_s) * (row.memory_mb if rule.unit == MB_SECONDS else 1)
        if len(samples) < SAMPLES_SHOWN:
            said = (row.id, row.ts, row.memory_mb, int(row.interval_s), bool(row.withdrawn), row.event_type)
            samples.append(ShownSample(*said))
    return samples, quantity
