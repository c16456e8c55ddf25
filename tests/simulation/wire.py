"""What is checked at the moment bytes leave, against the committed database.

Guarantee: invariants 5 and 6, and rules P1 and P2, are judged where a provider would see them broken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.providers.protocol import Outcome, PushRequest, Rejected, RetryAt
from drawdown.schema.database import read
from drawdown.worker.engine.effects import HaltRequest

_OUTBOX = """
SELECT p.key, p.customer_id, p.feature, p.sent_qty, p.window_ms, p.provider, p.state, p.revision, p.org_id, p.wire_key,
    (SELECT MAX(a.attempt) FROM attempts a WHERE a.window_ms = p.window_ms AND a.org_id = p.org_id
        AND a.feature = p.feature AND a.revision = p.revision), p.refused_attempts,
    (SELECT a.outcome FROM attempts a WHERE a.window_ms = p.window_ms AND a.org_id = p.org_id AND a.feature = p.feature
        AND a.revision = p.revision AND a.attempt = :attempt)
FROM pushes p WHERE p.key = :key OR (p.wire_key = :key AND p.attempts > 0)
"""


class Wire:
    """Watches every request that reaches a provider or a cell."""

    def __init__(self, engine: sa.Engine, breaches: list[str]) -> None:
        self._engine = engine
        self._breaches = breaches
        self.sent: dict[tuple[str, str], tuple[str, str, int, int]] = {}
        self.may_send_ms: dict[str, int] = {}
        """How long after a first attempt that may have arrived a provider's key may be sent again (P2)."""
        self.arrived: set[tuple[str, str]] = set()
        self.began: dict[tuple[str, str], int] = {}
        self.still = False
        """Whether the database stands still, until it is recovered (R1)."""
        self.flying: set[tuple[str, str]] = set()
        """Claimed in a history that was lost, by processes that lived on."""
        self.left: dict[tuple[str, str], int] = {}
        """When each key was sent last, in whichever history."""
        self.forgotten: set[tuple[str, str]] = set()
        """Keys that were sent in a history that was lost."""
        self.decided: set[tuple[Any, ...]] = set()
        """Halts of lost histories."""
        self.applied_within_ms: dict[str, int] = {}

    def check(self, provider: str, batch: Sequence[PushRequest]) -> None:
        """Judge the requests of one call."""
        for request in batch:
            if (provider, request.key) in self.flying:
                continue
            if self.still:
                self._breaches.append(f"R1: {request.key} was sent while history was lost")
            said = (request.customer_id, request.feature, request.quantity, request.ts)
            before = self.sent.setdefault((provider, request.key), said)
            if before != said:
                self._breaches.append(f"P2: {request.key} was sent with other bytes: {before}, then {said}")
            self._check_outbox(provider, request)

    def first(self, provider: str, request: PushRequest, now_ms: int) -> None:
        """A request leaves for a provider that forgets."""
        place = (provider, request.key)
        if place in self.forgotten and now_ms - self.left[place] >= self.applied_within_ms.get(provider, 0):
            # It was looked up later than it could still be applied: no send of the lost history arrived, nor counts.
            self.began.pop(place, None)
            self.arrived.discard(place)
            self.forgotten.discard(place)
        self.left[place] = now_ms
        began = self.began.setdefault(place, now_ms)
        if now_ms - began > self.may_send_ms.get(provider, now_ms):
            self._breaches.append(
                f"P2: {request.key} was sent again {(now_ms - began) // 1000} s after its first attempt"
            )

    def answered(self, provider: str, request: PushRequest, outcome: Outcome) -> None:
        """Only an answer that proves a first attempt not to have arrived makes the next one the first."""
        proven = isinstance(outcome, RetryAt | Rejected)
        if proven and (provider, request.key) not in self.arrived:
            self.began.pop((provider, request.key), None)
        elif not proven:
            self.arrived.add((provider, request.key))

    def lose(self, known: set[str], flying: set[tuple[str, str]], *, all_known: bool = False) -> None:
        """History since some moment is gone: what nobody knows of any more may be sent anew, with other bytes, once its
        provider was asked. The embedded ledger's books went back as well."""
        self.still = True
        self.flying |= flying
        for place in [one for one in self.sent if one[1] not in known or one[0] == EMBEDDED]:
            if not all_known:
                del self.sent[place]
        self.forgotten |= self.began.keys()

    def known(self, outbox: Mapping[str, int]) -> set[str]:
        """The keys of a restored outbox that stand there as they were sent, or were not sent.

        `outbox`: quantities by key. A backup of a history that was given up before can have another quantity under a
        key than what was sent since. This push, too, may be sent once its provider was asked.
        """
        sent = {(key, said[2]) for (_, key), said in self.sent.items()}
        keys = {key for key, _ in sent}
        return {key for key, quantity in outbox.items() if key not in keys or (key, quantity) in sent}

    def recovered(self) -> None:
        self.still = False
        self.forgotten |= self.flying & self.began.keys()

    def _check_outbox(self, provider: str, request: PushRequest) -> None:
        asked = {"key": request.key, "attempt": request.attempt}
        rows = read(self._engine, lambda c: c.execute(sa.text(_OUTBOX), asked).all())
        if len(rows) != 1:
            self._breaches.append(f"5: {request.key} was sent and {len(rows)} committed pushes carry that key")
            return
        key, customer, feature, sent, window, biller, state, revision, org, wire_key, attempt, then, outcome = rows[0]
        committed = (wire_key or key, customer, feature, sent, window, biller)
        start = request.ts - request.ts % 300_000
        wanted = (request.key, request.customer_id, request.feature, request.quantity, start, provider)
        if committed != wanted:
            self._breaches.append(f"5: sent {wanted}, committed {committed}")
        if outcome is not None:
            self._breaches.append(f"P1: {key} attempt {request.attempt} was sent after it ended ({outcome})")
        if attempt is None or attempt < request.attempt:
            self._breaches.append(f"P1: {key} attempt {request.attempt} was sent before it was on record ({attempt})")
        refused = provider == EMBEDDED and state == "voided"  # by the ledger itself; what it charged is judged there
        # Refused late, by a webhook, between its claim and its call: it is looked up once that call has surely arrived.
        under_way = state == "in_doubt" and then is not None and request.attempt <= then
        if state in ("in_doubt", "voided") and not refused and not under_way:
            self._breaches.append(f"6: {key} was sent while {state}")
        plain = f"usage:{org}:{window}:{feature}" + (f":r{revision}" if revision else "")
        if key != plain:
            self._breaches.append(f"P6: {key} is not the key of its push, {plain}")
        if wire_key is not None and wire_key != f"usage:{hashlib.sha256(plain.encode()).hexdigest()}":
            self._breaches.append(f"P6: {wire_key} is not the hash of {plain}")

    def check_halts(self, halts: Sequence[HaltRequest]) -> None:
        """A halt that is sent was once decided, for that very moment."""
        for one in halts:
            if (one.org_id, one.halted_at) in self.decided:
                continue
            known = read(
                self._engine,
                lambda c, one=one: c.execute(  # type: ignore[misc]
                    sa.text("SELECT 1 FROM projections WHERE org_id = :org AND is_halted AND at_ms = :at"),
                    {"org": one.org_id, "at": one.halted_at},
                ).first(),
            )
            if known is None:
                self._breaches.append(f"7: a halt of {one.org_id} at {one.halted_at} was sent, never decided")
