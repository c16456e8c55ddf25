"""Requests to refresh verdicts: marks on organisations, a round of reads that answers them, and the gate's own read.

Guarantee: a round ends, however often a request comes meanwhile. It reads no organisation twice for the same request,
nor more than MOST_READS times. An organisation that it passes over stays requested, and the next round begins again. If
many processes and requests at the gate want to read one organisation at once, one may, and then none for ten seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import sqlalchemy as sa

from drawdown.guard.decide import BLOCK_ALL, Counted, Facts, Limit, Override
from drawdown.providers.protocol import Capabilities
from drawdown.schema.sql import queries
from drawdown.schema.units import EXEMPT_PROVIDERS, MINUTE_MS, SECOND_MS
from drawdown.worker.engine.shard import Shard

SQL = queries(__file__)

MOST_READS: Final = 3
"""Reads of one organisation in a round of verdicts. Programs or the watch may request another during each read. Without
a bound, the round would last until time is up, and other organisations, pushes and halts would have no turn.
"""


SECOND_READ_MS: Final = 5 * SECOND_MS
"""The time after a read that a webhook caused at which the provider is read once more: its first answer may be stale.
"""

HALTED_AGAIN_MS: Final = 5 * MINUTE_MS
"""The age of a halted organisation's last read at which a tick reads it again; a watch reads it sooner.

The organisation uses nothing, and a provider may send no message of a grant.
"""

HALTED_READS_MS: Final = 10 * SECOND_MS
"""The time that these reads of a tick may take, at the rate that a provider declares."""

READS_A_S: Final = 200
"""Reads a second, if a provider declares no rate."""

READ_TWICE: Final = 0
"""As `refresh_deadline_ms`: the next read is followed by a second one. The reader's clock decides when."""


@dataclass(frozen=True)
class DueProjection:
    """An organisation with a projection that is due."""

    org_id: str
    customer_id: str
    asks: int
    """The number of requests so far: this read does not answer a later one."""
    read_before_ms: int | None
    """The last written read, when this one was requested."""
    balance_before_ms: int | None
    """The balance that was last written then: by that read, or by the answer to a push."""
    wallets_wait: bool = False
    """True if a wallet has to be looked at again: most often usage was charged late."""

    @property
    def before_ms(self) -> int:
        """When the newest of what was known then was read."""
        return max(self.read_before_ms or 0, self.balance_before_ms or 0)


@dataclass
class OneRound:
    """The organisations that a round has read."""

    passed: set[str] = field(default_factory=set)
    """Those that are due, and are left to the next round."""
    _asks: dict[str, list[int]] = field(default_factory=dict)

    def to_read(self, found: Iterable[DueProjection]) -> list[DueProjection]:
        """Those that are to be read; the others are passed over from here on."""
        due: list[DueProjection] = []
        for wanted in found:
            before = self._asks.get(wanted.org_id, [])
            if wanted.asks in before or len(before) >= MOST_READS:
                self.passed.add(wanted.org_id)
            else:
                due.append(wanted)
        return due

    def note(self, due: Sequence[DueProjection]) -> None:
        """They are read now."""
        for wanted in due:
            self._asks.setdefault(wanted.org_id, []).append(wanted.asks)


def mark_for_projection(connection: sa.Connection, org_ids: Sequence[str], now_ms: int) -> None:
    """Request a read of these organisations at their provider.

    The count of requests grows each time, so that a projection answers only the requests that came before its read.
    """
    orgs = [{"org_id": org_id} for org_id in sorted(set(org_ids))]
    SQL.run(connection, "mark_for_projection", {"now_ms": now_ms, "orgs": orgs})


def mark_halted(
    connection: sa.Connection, provider: str, capabilities: Capabilities, shard: Shard, now_ms: int
) -> None:
    """Request a refresh of halted organisations with an old read, the oldest first.

    A person's halt or override does not depend on credit, so it is left out. A wallet of the embedded ledger requests
    its own refresh when credit comes in.
    """
    if capabilities.same_database or capabilities.balance_in_ledger:
        return
    a_second = capabilities.reads_per_s if capabilities.reads_per_s is not None else READS_A_S
    values = {
        "provider": provider,
        "now_ms": now_ms,
        "read_ms": now_ms - HALTED_AGAIN_MS,
        "lo": shard.lo,
        "hi": shard.hi,
        "at_most": max(int(a_second * HALTED_READS_MS / SECOND_MS), 1) * capabilities.reads_a_call,
    }
    halted = SQL.run(connection, "halted_unread", values).scalars().all()
    if halted:
        mark_for_projection(connection, halted, now_ms)


def mark_for_two_reads(connection: sa.Connection, org_ids: Sequence[str], now_ms: int) -> None:
    """The same, and once more SECOND_READ_MS after the first read is written. The second read calls for no third."""
    mark_for_projection(connection, org_ids, now_ms)
    SQL.run(connection, "read_twice", {"orgs": [{"org_id": one} for one in sorted(set(org_ids))], "twice": READ_TWICE})


ASK_EVERY_MS: Final = 10 * SECOND_MS
"""Shortest time between two requests for an organisation."""
BUSY_MS: Final = 60 * SECOND_MS
"""Longest wait for a read of another process, which may have died. It is longer than any call."""


@dataclass(frozen=True)
class Gated:
    """An organisation as the gate reads it.

    `unknown`: neither a provider nor an operator has decided about it; `overridden`: an operator's decision replaces
    the provider's.
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

        The host counts running sandboxes, so none of the limit is used here.
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
    """Leave to read an organisation at its biller, which `orgs` may name only from the next tick on."""

    at_ms: int
    provider: str


def in_doubt(code: str | None, *, allowed: bool) -> Facts:
    """Return the facts of an unknown organisation: it is unlimited. `code`: why its credit is unknown."""
    limits = (Limit("at_once", None, plan="*"),)
    return Facts(BLOCK_ALL, 0, False, limits, {"at_once": Counted()}, no_credit=code, fails_open=allowed)


def read_gated(connection: sa.Connection, org_id: str) -> Gated | None:
    """Return an organisation's row for the gate; None if there is none."""
    row = SQL.run(connection, "gated", {"org_id": org_id}).mappings().one_or_none()
    if row is None:
        return None
    return Gated(**{**row, **{name: bool(row[name]) for name in ("is_halted", "unknown", "overridden")}})


def may_ask(connection: sa.Connection, org_id: str, now_ms: int) -> LeaveToAsk | None:
    """Request a read of the organisation, if there was none just now."""
    now = {"org_id": org_id, "now_ms": now_ms}
    values = {**now, "earlier_ms": now_ms - ASK_EVERY_MS, "busy_until_ms": now_ms + BUSY_MS}
    provider = SQL.run(connection, "biller", now).scalar()
    if provider is None or SQL.run(connection, "may_ask", values).first() is None:
        return None
    mark_for_projection(connection, [org_id], now_ms)
    return LeaveToAsk(now_ms, str(provider))


def end_request(connection: sa.Connection, org_id: str, at_ms: int) -> None:
    """The ask that began then has ended."""
    SQL.run(connection, "asked", {"org_id": org_id, "asked_ms": at_ms})
