"""Note the credit left in responses to pushes, and request refreshes for them.

Guarantee: after an answered push, Drawdown reads the organisation at its provider immediately, or in the organisation's
turn within the hour (`ask_at_ms`). Only a read halts or resumes an organisation, never a response. The credit of a
response is written only on these conditions. The organisation was not read since the push was claimed, and a read of it
is not requested. The provider accepted all its pushes of the claim. Its other pushes are not claimed, and do not wait
for the time of a retry or a lookup. The credit of a response never raises a balance.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import sqlalchemy as sa

from drawdown.ledger.rates import RateCard
from drawdown.providers.protocol import Accepted, Capabilities, Outcome, PushRequest, ShownCredit
from drawdown.schema.sql import queries
from drawdown.worker.catalog.balance_parts import last_look_ms
from drawdown.worker.catalog.mapping import FOREVER_MS
from drawdown.worker.verdict.holds import read_held
from drawdown.worker.verdict.rates import rate_card_of
from drawdown.worker.verdict.refresh_requests import mark_for_projection
from drawdown.worker.verdict.rules import LAST_LOOK_MS, KnownState, Remaining, ask_at_ms, is_limit_near

SQL = queries(__file__)


class Charge(Protocol):
    """A push that was claimed."""

    @property
    def org_id(self) -> str: ...
    @property
    def request(self) -> PushRequest: ...
    @property
    def read_before_ms(self) -> int | None: ...


@dataclass
class OrgAnswers:
    """The responses to one claim's pushes of one organisation.

    `shown_credits`: the credits that the responses show (None: a response does not show credit). `all_charged`: True if
    the provider accepted each push. `all_answered`: True if all pushes have a response.
    """

    org_id: str
    customer_ids: set[str] = field(default_factory=set)
    quantities: Counter[str] = field(default_factory=Counter)
    """The base units of the pushes, by feature."""
    reads_before: set[int | None] = field(default_factory=set)
    """The last reads of the organisation before the pushes were claimed (milliseconds)."""
    shown_credits: list[ShownCredit | None] = field(default_factory=list)
    part_ends: set[int | None] = field(default_factory=set)
    """The ends of the parts that the responses show."""
    all_charged: bool = True
    all_answered: bool = False

    def take(self, push: Charge, outcome: Outcome) -> None:
        self.customer_ids.add(push.request.customer_id)
        self.quantities[push.request.feature] += push.request.quantity
        self.reads_before.add(push.read_before_ms)
        self.all_charged &= isinstance(outcome, Accepted)
        self.shown_credits.append(outcome.shown_credit if isinstance(outcome, Accepted) else None)
        parts = outcome.parts if isinstance(outcome, Accepted) else ()
        self.part_ends.update(part.ends_ms for part in parts)

    def limits_left(self, stored: str | None) -> dict[str, int]:
        """Return the base units that usage limits leave after these pushes, by feature.

        `stored`: the base units that they left before the pushes, as JSON.
        """
        limits: dict[str, int] = json.loads(stored or "{}")
        return {feature: left - max(self.quantities[feature], 0) for feature, left in limits.items()}

    def remaining(self) -> Remaining | None:
        """Return the credit left by all responses; None if a response does not show it.

        If several responses show a balance, the smallest counts, because responses may arrive in any order.
        """
        told = [left for left in self.shown_credits if left is not None]
        if len(told) < len(self.shown_credits):
            return None
        charged = sum(left.charged_micro for left in told)
        least: dict[str | None, int] = {}
        for left in told:
            if left.balance_micro is None:
                return Remaining(None, charged, whole=True)
            least[left.part] = min(left.balance_micro, least.get(left.part, left.balance_micro))
        whole = least.get(None)
        if whole is not None:
            return Remaining(whole, charged, whole=True)
        return Remaining(sum(least.values()), charged, whole=False, largest_micro=max(least.values(), default=None))


class ClaimAnswers:
    """The responses to a claim, by organisation, which arrive in portions."""

    def __init__(self, batch: Sequence[Charge]) -> None:
        self._open = Counter(push.org_id for push in batch)
        self._answers: dict[str, OrgAnswers] = {}

    def take(self, portion: Sequence[Charge], outcomes: Sequence[Outcome]) -> list[OrgAnswers]:
        """Add a portion, and return its organisations with all their responses so far.

        While charges are under way, a balance does not show them. So the balance is used only after the last response.
        """
        for push, outcome in zip(portion, outcomes, strict=True):
            self._answers.setdefault(push.org_id, OrgAnswers(push.org_id)).take(push, outcome)
            self._open[push.org_id] -= 1
        found = [self._answers[org_id] for org_id in sorted({push.org_id for push in portion})]
        for org in found:
            org.all_answered = not self._open[org.org_id]
        return found


@dataclass(frozen=True)
class ClaimedAt:
    """The provider of claimed pushes, its capabilities, and the time of the claim."""

    provider: str
    capabilities: Capabilities
    claimed_ms: int


@dataclass(frozen=True)
class Noted:
    """The effects of responses on organisations.

    `refresh_now`: organisations to refresh immediately. `turns`: the turns of the other organisations (milliseconds).
    `balances`: the credit left, in micro-credits. `limits`: the base units that usage limits leave, as JSON.
    """

    refresh_now: set[str]
    turns: dict[str, int]
    balances: dict[str, int]
    limits: dict[str, str]


def ask_after_push(connection: sa.Connection, *, lane: ClaimedAt, answers: Sequence[OrgAnswers], now_ms: int) -> None:
    """Request refreshes of organisations with answered pushes; note the credit left.

    A refresh comes immediately, or in the organisation's turn. If balances are in our own database, all organisations
    are refreshed immediately, because that does not need a call.
    """
    org_ids = [org.org_id for org in answers]
    if lane.capabilities.same_database or lane.capabilities.balance_in_ledger:
        mark_for_projection(connection, org_ids, now_ms)
        return
    values = {"org_ids": org_ids, "provider": lane.provider, "now_ms": now_ms}
    rows = {row.org_id: row for row in SQL.run(connection, "answered", values)}
    billed = {row.org_id: row.customer_id for row in SQL.run(connection, "customers_billed", values)}
    held = read_held(connection, lane.provider, org_ids, now_ms)
    by_org = {org.org_id: org for org in answers}
    estimated = _estimated(connection, lane.provider, rows.values(), by_org, now_ms)
    asked, turns, left, limits = set[str](), dict[str, int](), dict[str, int](), dict[str, str]()
    for org in (org for org in answers if org.org_id in rows):
        row = rows[org.org_id]
        known = _read_known_state(row, held.get(org.org_id, 0), estimated=org.org_id in estimated)
        fresh = org.customer_ids == {billed.get(org.org_id)} and org.reads_before == {row.projection_read_ms}
        remaining = org.remaining() if fresh else None
        limits_left = org.limits_left(row.feature_limits)
        at_ms = _ask_at_ms(org, known, remaining, limits_left, now_ms) if fresh or not org.all_answered else now_ms
        if at_ms <= now_ms:
            asked.add(org.org_id)
        else:
            turns[org.org_id] = at_ms
            if limits_left and org.all_answered:
                limits[org.org_id] = json.dumps(limits_left, sort_keys=True)
        balance = _to_note(row, remaining) if org.all_answered and org.all_charged else None
        if balance is not None:
            left[org.org_id] = balance
    if left:
        claimed = {**values, "org_ids": sorted(left), "claimed_ms": lane.claimed_ms}
        for org_id in SQL.run(connection, "unsure", claimed).scalars():
            del left[org_id]
    _note(connection, lane, Noted(asked, turns, left, limits), rows, now_ms)


def _note(connection: sa.Connection, lane: ClaimedAt, noted: Noted, rows: Mapping[str, Any], now_ms: int) -> None:
    """Write the requests, turns and balances.

    A balance is dated a millisecond after the claim, because it includes the pushes of the claim, but not later pushes.
    If the stored date is later than the claim, the balance is dated a millisecond after that date. The date always
    changes, so that a read under way notices the change.
    """
    answers = [
        {
            "org_id": org_id,
            "asked": int(org_id in noted.refresh_now),
            "refresh_deadline_ms": noted.turns.get(org_id),
            "balance_micro": noted.balances.get(org_id),
            "balance_read_ms": max(lane.claimed_ms, rows[org_id].balance_read_ms) + 1
            if org_id in noted.balances
            else None,
            "feature_limits": noted.limits.get(org_id),
        }
        for org_id in rows
        if org_id in noted.refresh_now or org_id in noted.turns or org_id in noted.balances
    ]
    if answers:
        SQL.run(connection, "note_answers", {"answers": answers, "now_ms": now_ms})


def _ask_at_ms(
    org: OrgAnswers, known: KnownState, remaining: Remaining | None, limits_left: Mapping[str, int], now_ms: int
) -> int:
    if not org.all_charged:
        return now_ms
    if any(is_limit_near(left, org.quantities[name]) for name, left in limits_left.items() if name in org.quantities):
        return now_ms
    if not org.all_answered:  # until the last response arrives, the known state decides
        remaining = Remaining(known.balance_micro, charged_micro=0, whole=False)
    return min(ask_at_ms(known, remaining, now_ms), last_look_ms(org.part_ends, now_ms) or FOREVER_MS)


def _estimated(
    connection: sa.Connection, provider: str, rows: Iterable[Any], answers: Mapping[str, OrgAnswers], now_ms: int
) -> set[str]:
    """Return the organisations with a known end of credit.

    A watch looks at each of them, and each feature of their pushes has a rate. The watch of a shard may have ended
    while others continue, so each organisation's own `watch_due_ms` counts.
    """
    late_ms = now_ms - LAST_LOOK_MS
    watched = [row.org_id for row in rows if row.runs_out_ms is not None and (row.watch_due_ms or 0) > late_ms]
    card = rate_card_of(connection, provider) if watched else RateCard([])
    return {
        org_id
        for org_id in watched
        if all(card.rate(feature, now_ms) is not None for feature in answers[org_id].quantities)
    }


def _read_known_state(row: Any, held_micro: int, *, estimated: bool) -> KnownState:
    return KnownState(
        row.org_id,
        bool(row.is_halted),
        row.projection_read_ms,
        row.unread_since_ms is not None or row.balance_read_ms is None,
        row.balance_micro,
        row.unconfirmed_micro or 0,
        held_micro,
        row.low_micro,
        row.runs_out_ms if estimated else None,
    )


def _to_note(row: Any, remaining: Remaining | None) -> int | None:
    """Return the balance to write; None: keep the stored balance.

    A push uses credit. If a response shows more credit than stored, the response is older or follows a payment. In that
    case, a read decides.
    """
    if remaining is None or not remaining.whole or remaining.left_micro is None:
        return None
    if row.balance_micro is None or row.balance_read_ms is None or remaining.left_micro > row.balance_micro:
        return None
    return remaining.left_micro
