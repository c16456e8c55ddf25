"""Explain a push by its samples, responses, ledger entries, verdicts and halts.

This module only reads.

Guarantee: this module reads each part by a key. Each part except the attempts has a bound.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.catalog.mapping import MB_SECONDS, mapping_rows, resolve
from drawdown.worker.push.rows import dated, find_push
from drawdown.worker.push.wallet_mirror import PREFIX
from drawdown.worker.verdict.org_state import HaltRow

SQL = queries(__file__)

SAMPLES_SHOWN: Final = 200
MOST_REVISIONS: Final = 100
"""Most revisions of a window on a push's page."""


@dataclass(frozen=True)
class PushColumns:
    """A stored push.

    `sealed_qty`: the sealed base units. `sent_qty`: the whole units of the provider, in base units. `seal_id`: the seal
    that wrote the push. `claim_owner`: the last claim to send the push or look it up. `wire_key`: the push's key at the
    provider (None: `key`, or the push was never sent). `by_hand`: True if a person billed the push. A time is None if
    its event did not happen.

    `lookup_answer`: `found`, `found N` for another quantity, `absent`, `drawn` (only the balance shows the push),
    `cannot_tell` or `not_read`. None: no lookup has a response yet.
    """

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
    """The key, customer and time (`ts`, milliseconds) that the provider gets."""

    key: str
    customer: str
    ts: int


@dataclass(frozen=True)
class ShownSample:
    """A sample that counts for the push's feature.

    `ts`: the time in milliseconds. `interval_s`: seconds of a sandbox with `memory_mb`, or units of `event_type`, with
    its meter in `memory_mb`.
    """

    id: str
    ts: int
    memory_mb: int
    interval_s: int
    withdrawn: bool
    event_type: str | None
    sandbox_id: str | None = None
    cell_id: str | None = None


@dataclass(frozen=True)
class ShownAttempt:
    """An attempt to send a push. `owner`: the claim, `WORKER/NUMBER`.

    `outcome` None: the outcome is not recorded. `finished_ms` None: the attempt did not end. `detail`: the provider's
    reason.
    """

    attempt: int
    started_ms: int
    finished_ms: int | None
    owner: str
    outcome: str | None
    detail: str | None


@dataclass(frozen=True)
class ShownVoid:
    """The void of a push, with the evidence that its provider did not charge it.

    `evidence_kind`: rejected (by the provider), absent (by a lookup), operator (by a person), or adopted (the provider
    charged another quantity). `evidence`: the proof, in words.
    """

    at_ms: int
    evidence_kind: str
    evidence: str
    actor: str
    reason: str


@dataclass(frozen=True)
class Adoption:
    """The adoption of a push.

    `kind`: `other`, `excess` or `drawn`. `other`: only the provider had the push, or it had another quantity. `excess`:
    the provider's totals differ from the window's pushes. `drawn`: only the customer's balance shows the charge, or
    that a charge was lost.
    """

    at_ms: int
    kind: str
    evidence: str
    actor: str
    reason: str


@dataclass(frozen=True)
class Revision:
    """A push of the same window and feature, with its revision.

    `sealed_qty`, `sent_qty`: base units, as in `PushColumns`. `settled_ms`: the time of the last outcome, also
    of an open push (None: without an outcome).
    """

    revision: int
    key: str
    state: str
    sealed_qty: int
    sent_qty: int
    sealed_at_ms: int
    settled_ms: int | None


@dataclass(frozen=True)
class ExplainedPush:
    """A push with the rows that explain it.

    `samples`: the first SAMPLES_SHOWN samples. `samples_in_force_qty`: the base units of all samples in force.
    `sealed_qty`: the base units of all revisions that are not voided. `void`, `adoption` None: the push was not voided
    or adopted. `revisions`: the first MOST_REVISIONS revisions.
    """

    push: PushColumns
    sent_as: SentAs
    samples: list[ShownSample]
    samples_in_force_qty: int
    sealed_qty: int
    attempts: list[ShownAttempt]
    void: ShownVoid | None
    adoption: Adoption | None
    revisions: list[Revision]


def explain_push(connection: sa.Connection, key: str) -> ExplainedPush:
    """Return a push with its samples, attempts, void, adoption and revisions.

    Errors: UnknownId if the push does not exist; Refused if `push fold` replaced the pushes of its day with daily sums.
    """
    found = find_push(connection, key)
    stored = {column.name: getattr(found, column.name) for column in fields(PushColumns)}
    push = PushColumns(**{**stored, "by_hand": bool(stored["by_hand"])})
    push_id = {"window_ms": push.window_ms, "org_id": push.org_id, "feature": push.feature, "revision": push.revision}
    samples, quantity = _samples(connection, push)
    said = {row.what: row for row in SQL.run(connection, "said", push_id)}
    void, adoption = said.get("void"), said.get("adoption")
    revisions = SQL.run(connection, "revisions", {**push_id, "at_most": MOST_REVISIONS}).all()
    return ExplainedPush(
        push=push,
        sent_as=SentAs(push.wire_key or push.key, push.customer_id, dated(push.window_ms, push.revision)),
        samples=samples,
        samples_in_force_qty=quantity,
        sealed_qty=int(revisions[0].sealed_in_all),
        attempts=[ShownAttempt(**row._mapping) for row in SQL.run(connection, "attempts", push_id)],
        void=None if void is None else ShownVoid(void.at_ms, void.kind, void.evidence, void.actor, void.reason),
        adoption=None
        if adoption is None
        else Adoption(adoption.at_ms, adoption.kind, adoption.evidence, adoption.actor, adoption.reason),
        revisions=[Revision(**_without(row, "sealed_in_all")) for row in revisions],
    )


def _samples(connection: sa.Connection, push: PushColumns) -> tuple[list[ShownSample], int]:
    """Return the first samples of a push's feature, and the quantity of all samples.

    The quantity counts only samples in force. The database adds up the samples by size, because their number is not
    bounded.
    """
    rules = mapping_rows(connection)
    values = {"org_id": push.org_id, "window_ms": push.window_ms, "window_end_ms": push.window_ms + WINDOW_MS}
    quantity, sizes = 0, []
    for row in SQL.run(connection, "sizes", values):
        rule = resolve(rules, row.memory_mb, push.window_ms)
        if rule is not None and rule.feature == push.feature:
            sizes.append(int(row.memory_mb))
            quantity += int(row.in_force) * (row.memory_mb if rule.unit == MB_SECONDS else 1)
    if not sizes:
        return [], quantity
    rows = SQL.run(connection, "samples", {**values, "sizes": sizes, "at_most": SAMPLES_SHOWN})
    said = ((row, int(row.interval_s), bool(row.withdrawn)) for row in rows)
    return [
        ShownSample(row.id, row.ts, row.memory_mb, seconds, gone, row.event_type, row.sandbox_id, row.cell_id)
        for row, seconds, gone in said
    ], quantity


def _without(row: sa.Row[tuple[object, ...]], name: str) -> dict[str, Any]:
    return {str(other): value for other, value in row._mapping.items() if other != name}


MOST_VERDICTS: Final = 3
"""Most verdicts after a push that the push's page shows."""
MOST_TOLD: Final = 100
"""Most halts of cells on a push's page."""


@dataclass(frozen=True)
class PushEntry:
    """An entry of a push in the embedded ledger.

    The entry is the push's charge, or its first draw that mirrors a charge at another provider. `from_account`,
    `to_account`: the accounts of the ledger that lose and get the amount.
    """

    key: str
    kind: str
    from_account: str
    to_account: str
    amount_micro: int
    at_ms: int


@dataclass(frozen=True)
class VerdictAfter:
    """A verdict in force when the push was settled, or a later verdict.

    For a push without an outcome, the time of the seal counts. `balance_micro`: the balance that the read showed (None:
    unlimited or unknown).
    """

    at_ms: int
    is_halted: bool
    reason: str | None
    balance_micro: int | None


@dataclass(frozen=True)
class PushChain:
    """The effects of a push, in their order: ledger entries, verdicts and halts.

    `told`: the halts that `verdicts` caused, a row for each cell.
    """

    entries: list[PushEntry]
    verdicts: list[VerdictAfter]
    told: list[HaltRow]


def chain_of(connection: sa.Connection, push: PushColumns) -> PushChain:
    """Return a push's ledger entries, and verdicts and halts from its settlement.

    The first verdict is the one in force at the last outcome of the push, or at its seal if it has none. At most
    MOST_VERDICTS later verdicts are returned. The entries do not include draws that were given back or drawn again.
    """
    names = [push.key, f"{PREFIX}{push.key}"]
    at_ms = push.sealed_at_ms if push.settled_ms is None else push.settled_ms
    asked = {"org_id": push.org_id, "at_ms": at_ms, "at_most": MOST_VERDICTS}
    verdicts = [
        VerdictAfter(row.at_ms, bool(row.is_halted), row.reason, row.balance_micro)
        for row in SQL.run(connection, "verdicts", asked)
    ]
    entries = [PushEntry(**row._mapping) for row in SQL.run(connection, "entries", {"names": names})]
    return PushChain(entries, verdicts, _list_halts(connection, push.org_id, verdicts))


def _list_halts(connection: sa.Connection, org_id: str, verdicts: list[VerdictAfter]) -> list[HaltRow]:
    """Return the halts that these verdicts caused.

    A halt has the same time as the verdict that caused the halt.
    """
    halting = [one.at_ms for one in verdicts if one.is_halted]
    if not halting:
        return []
    values = {"org_id": org_id, "from_ms": min(halting), "to_ms": max(halting), "at_most": MOST_TOLD}
    return [HaltRow(**row._mapping) for row in SQL.run(connection, "told", values)]
