"""Who is asked about: marks of organisations whose provider is asked again, and a round of reads that answers them.

Guarantee: a round ends, however often somebody asks meanwhile. It reads nobody twice for the same ask, and nobody more
than MOST_READS times; whom it passes over stays asked for, and the next round begins anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from drawdown.providers.protocol import Capabilities
from drawdown.schema.sql import queries
from drawdown.schema.units import MINUTE_MS, SECOND_MS
from drawdown.worker.engine.shard import Shard

SQL = queries(__file__)

MOST_READS: Final = 3
"""Of one organisation in a round. Asked about again during each read, by programs or the watch, it would have the round
last until time is up: others, who have more, would have no turn, and neither pushes nor halts."""


SECOND_READ_MS: Final = 5 * SECOND_MS
"""How long after the read began that a webhook called for, the provider is read once more: its first answer may be
stale."""

HALTED_AGAIN_MS: Final = 5 * MINUTE_MS
"""How old a halted organisation's last read is when a tick reads it again: it uses nothing, and a provider may send no
message of a grant. A watch reads it sooner."""

HALTED_READS_MS: Final = 10 * SECOND_MS
"""How long the reads may take that a tick asks for by it, at the rate that a provider declares."""

READS_A_S: Final = 200
"""Where a provider declares no rate."""

READ_TWICE: Final = 0
"""As `read_by_ms`: the next read is followed by a second one, by the clock of whoever makes the first."""


@dataclass(frozen=True)
class DueProjection:
    """One organisation whose projection is due."""

    org_id: str
    customer_id: str
    asks: int
    """How often it had been asked for: a later ask is not answered by this read."""
    read_before_ms: int | None
    """The read that was last written when this one was asked for."""
    balance_before_ms: int | None
    """The balance that was last written then: by that read, or by the answer to a push."""
    wallets_wait: bool = False
    """Whether something is to be looked at again in a wallet, whosesoever: most often usage that was charged late."""

    @property
    def before_ms(self) -> int:
        """When the newest of what was known then was read."""
        return max(self.read_before_ms or 0, self.balance_before_ms or 0)


@dataclass
class OneRound:
    """What a round has read."""

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
    """Have the provider asked again about these organisations. The count of asks grows each time, so that a
    projection answers only those asks that came before its read."""
    orgs = [{"org_id": org_id} for org_id in sorted(set(org_ids))]
    SQL.run(connection, "mark_for_projection", {"now_ms": now_ms, "orgs": orgs})


def mark_halted(
    connection: sa.Connection, provider: str, capabilities: Capabilities, shard: Shard, now_ms: int
) -> None:
    """Have the provider asked about the halted whose last read is old, the oldest first. A person's halt and override
    are no matter of credit. A wallet of the embedded ledger asks by itself when credit comes in."""
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
