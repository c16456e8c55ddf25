"""Request refreshes of verdicts, and bound the reads that answer them.

Guarantee: a round ends, for any number of new requests during the round. It reads an organisation once for each
request, and at most MOST_READS times. If it passes over an organisation, the request stays for the next round. If many
requests at the gate want to read an organisation at the same time, only the first may read it. Another may read it ten
seconds later, or a minute later if the first has not ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import sqlalchemy as sa

from drawdown.guard.decide import BLOCK_ALL, Counted, Facts, Limit, Override
from drawdown.providers.protocol import Capabilities, CustomerRead, ReadFailed
from drawdown.schema.sql import queries
from drawdown.schema.units import EXEMPT_PROVIDERS, MINUTE_MS, SECOND_MS
from drawdown.worker.engine.shard import Shard
from drawdown.worker.verdict.rules import HOLD_MS

SQL = queries(__file__)

MOST_READS: Final = 3
"""Most reads of an organisation in a round of verdicts.

Programs or the watch may request another read during each read. Without a bound, the round could use up all of its
time, and other organisations, pushes and halts would wait.
"""


SECOND_READ_MS: Final = 5 * SECOND_MS
"""Milliseconds from the start of the first read after a webhook to the second read. The result of the first read may be
stale.
"""

NOT_ASKED: Final = ReadFailed("not requested: the provider did not answer a moment ago")

HALTED_AGAIN_MS: Final = 5 * MINUTE_MS
"""Milliseconds from a read of a halted organisation until a tick reads it again.

A watch reads it sooner. Without use, a push does not cause a read. A provider may not send a webhook of a grant.
"""

HALTED_READS_MS: Final = 10 * SECOND_MS
"""Milliseconds that reads of halted organisations may take in a tick, at the declared rate."""

READS_A_S: Final = 200
"""Reads a second, if a provider does not declare a rate."""

READ_TWICE: Final = 0
"""The value of `refresh_deadline_ms` for two reads.

The reader's clock sets the time of the second read.
"""


def find_answer(states: Mapping[str, CustomerRead], customer_id: str) -> CustomerRead:
    """Return the result of a read for a customer; ReadFailed if it is missing."""
    return states.get(customer_id, ReadFailed("the provider did not answer about this customer"))


@dataclass(frozen=True)
class DueProjection:
    """An organisation with a projection that is due."""

    org_id: str
    customer_id: str
    asks: int
    """The number of requests so far. This read does not answer later requests."""
    read_before_ms: int | None
    """The time of the last written read before this read; None: never."""
    balance_before_ms: int | None
    """The time of the last written balance before this read; None: never.

    The balance is from a read, or from the response to a push.
    """
    wallets_wait: bool = False
    """True if due changes of a wallet must be applied first, mostly because usage was charged late."""

    @property
    def before_ms(self) -> int:
        """Return the time of the newest read or balance that was stored."""
        return max(self.read_before_ms or 0, self.balance_before_ms or 0)


@dataclass
class OneRound:
    """The organisations that a round has read."""

    passed: set[str] = field(default_factory=set)
    """The due organisations that are left to the next round."""
    _asks: dict[str, list[int]] = field(default_factory=dict)

    def to_read(self, found: Iterable[DueProjection]) -> list[DueProjection]:
        """Return the organisations to read; leave the others to the next round."""
        due: list[DueProjection] = []
        for wanted in found:
            before = self._asks.get(wanted.org_id, [])
            if wanted.asks in before or len(before) >= MOST_READS:
                self.passed.add(wanted.org_id)
            else:
                due.append(wanted)
        return due

    def note(self, due: Sequence[DueProjection]) -> None:
        """Record that these organisations are read now."""
        for wanted in due:
            self._asks.setdefault(wanted.org_id, []).append(wanted.asks)


def mark_for_projection(connection: sa.Connection, org_ids: Sequence[str], now_ms: int) -> None:
    """Request a read of these organisations at their provider.

    Each request increases a count, so that a projection answers only the requests from before its read.
    """
    orgs = [{"org_id": org_id} for org_id in sorted(set(org_ids))]
    SQL.run(connection, "mark_for_projection", {"now_ms": now_ms, "orgs": orgs})


def mark_halted(
    connection: sa.Connection, provider: str, capabilities: Capabilities, shard: Shard, now_ms: int
) -> None:
    """Request a refresh of halted organisations with an old read, the oldest first.

    Halts and org overrides by a person do not depend on credit, so these organisations are left out. A wallet requests
    a refresh itself when it gets credit, so its organisations are only read once more, after HOLD_MS.
    """
    in_ledger = capabilities.same_database or capabilities.balance_in_ledger
    a_second = capabilities.reads_per_s if capabilities.reads_per_s is not None else READS_A_S
    values = {
        "provider": provider,
        "now_ms": now_ms,
        **({"hold_ms": HOLD_MS} if in_ledger else {"read_ms": now_ms - HALTED_AGAIN_MS}),
        "lo": shard.lo,
        "hi": shard.hi,
        "at_most": max(int(a_second * HALTED_READS_MS / SECOND_MS), 1) * capabilities.reads_a_call,
    }
    halted = SQL.run(connection, "held_unread" if in_ledger else "halted_unread", values).scalars().all()
    if halted:
        mark_for_projection(connection, halted, now_ms)


def mark_for_two_reads(connection: sa.Connection, org_ids: Sequence[str], now_ms: int) -> None:
    """Request two reads of these organisations at their provider.

    The second read comes SECOND_READ_MS after the start of the first.
    """
    mark_for_projection(connection, org_ids, now_ms)
    SQL.run(connection, "read_twice", {"orgs": [{"org_id": one} for one in sorted(set(org_ids))], "twice": READ_TWICE})


ASK_EVERY_MS: Final = 10 * SECOND_MS
"""Shortest time between two refresh requests for an organisation, in milliseconds."""
BUSY_MS: Final = 60 * SECOND_MS
"""Longest wait for a read of another process, longer than any call. The other process may have died."""


@dataclass(frozen=True)
class Gated:
    """An organisation's row for the gate.

    `unknown`: True if neither a provider nor an operator has decided about the organisation. `overridden`: True if an
    operator's decision replaces the provider's. `projection_read_ms`: the start of the last read (None: never).
    `max_concurrent_sandboxes` None: unlimited.
    """

    billing_provider: str | None
    is_halted: bool
    halt_reason: str | None
    max_concurrent_sandboxes: int | None
    projection_read_ms: int | None
    plan: str | None
    unknown: bool
    overridden: bool

    def facts(self, *, open_in_doubt: bool) -> Facts:
        """Return the facts by which the guard decides about one more sandbox.

        The host counts running sandboxes, so the full limit is returned.
        """
        operator = self.is_halted and self.halt_reason == "operator"
        code = None
        if self.is_halted and not operator:
            code = self.halt_reason or "halted"
        elif self.unknown and not self.is_halted and self.billing_provider not in EXEMPT_PROVIDERS:
            code = "never_projected"
        most = self.max_concurrent_sandboxes
        return replace(
            in_doubt(code, allowed=open_in_doubt),
            limits=(Limit("at_once", most, plan=self.plan or "*"),),
            overrides=(Override(0, "org", "at_once", most),) if self.overridden else (),
            halted="operator" if operator else None,
        )


@dataclass(frozen=True)
class LeaveToAsk:
    """Permission to read an organisation at its biller.

    `provider`: the organisation's biller now. Its row of `orgs` may name another biller until the next tick.
    """

    at_ms: int
    provider: str


def in_doubt(code: str | None, *, allowed: bool) -> Facts:
    """Return the facts of an organisation without a limit.

    `code`: the reason why its credit is missing or unknown, or None. `allowed`: True if the gate allows the
    organisation in doubt.
    """
    limits = (Limit("at_once", None, plan="*"),)
    return Facts(BLOCK_ALL, 0, False, limits, {"at_once": Counted()}, no_credit=code, fails_open=allowed)


def read_gated(connection: sa.Connection, org_id: str) -> Gated | None:
    """Return an organisation's row for the gate; None if it does not exist."""
    row = SQL.run(connection, "gated", {"org_id": org_id}).mappings().one_or_none()
    if row is None:
        return None
    return Gated(**{**row, **{name: bool(row[name]) for name in ("is_halted", "unknown", "overridden")}})


def may_ask(connection: sa.Connection, org_id: str, now_ms: int) -> LeaveToAsk | None:
    """Request a read of an organisation unless another request is recent.

    None: the organisation is not billed, or a request came within ASK_EVERY_MS or is still in progress.
    """
    now = {"org_id": org_id, "now_ms": now_ms}
    values = {**now, "earlier_ms": now_ms - ASK_EVERY_MS, "busy_until_ms": now_ms + BUSY_MS}
    provider = SQL.run(connection, "biller", now).scalar()
    if provider is None or SQL.run(connection, "may_ask", values).first() is None:
        return None
    mark_for_projection(connection, [org_id], now_ms)
    return LeaveToAsk(now_ms, str(provider))


def end_request(connection: sa.Connection, org_id: str, at_ms: int) -> None:
    """Record that the request that began at `at_ms` has ended."""
    SQL.run(connection, "asked", {"org_id": org_id, "asked_ms": at_ms})
