"""The effective balance: a provider's balance - sealed but not in it yet - used but not sealed.

Guarantee: an estimate is made of committed rows alone, at prices that somebody set. Usage without a price is left out
and named. A push that may be in the balance or not (on its way, or accepted within the time by which balances trail) is
counted until the balance was seen to fall by it, so it is never taken off twice for good. What lots that are over still
pay for is not taken off: they are in the balance no more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Final, Protocol

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.catalog.mapping import mapping_rows, segments
from drawdown.worker.verdict.holds import Lapsed, read_held, read_lapsed
from drawdown.worker.verdict.org_row import Effective, Row
from drawdown.worker.verdict.rates import rate_card_of

SQL = queries(__file__)

LATELY_MS: Final = 5 * MINUTE_MS
JUST_NOW_MS: Final = MINUTE_MS
READINGS: Final = 3


@dataclass
class Used:
    """What one organisation used that its balance may not show yet, in micro-credits."""

    unsealed: int = 0
    """Without what lots that are over pay for."""
    unsampled: int = 0
    """Not told by any sample yet: what runs is taken to go on until its next one."""
    unsent: int = 0
    """Sealed, and not sent yet or proven not to have arrived."""
    sent_since: int = 0
    """First sent after the balance was read that is stored."""
    held: int = 0
    """What runs have reserved of its wallet."""
    maybe: int = 0
    """Of what was sent, whatever a balance read now may or may not show."""
    lately: int = 0
    just_now: int = 0
    unpriced: set[str] = field(default_factory=set)
    """Features it uses that have no rate: they are in no estimate."""

    @property
    def burn_a_minute(self) -> int:
        """The faster of the last minute and the last five: who begins is soon known, who pauses a while is kept."""
        return max(self.just_now, self.lately * JUST_NOW_MS // LATELY_MS, 0)


class Balanced(Protocol):
    """An organisation with the balance that was last read: a row of `orgs`."""

    @property
    def balance_micro(self) -> int | None: ...
    @property
    def balance_read_ms(self) -> int | None: ...
    @property
    def unseen_micro(self) -> int | None: ...
    @property
    def is_halted(self) -> bool: ...


def unseen(before: int | None, was: int | None, balance: int, used: Used) -> int:
    """What was sent and a balance just read does not show yet: whatever was unseen before (`was`), and sent since, less
    what the balance fell by. Never more than what may be unseen at all, and all of that at the first read."""
    low, high = min(used.maybe, 0), max(used.maybe, 0)
    if before is None:
        return used.maybe
    return max(low, min((was or 0) + used.sent_since - (before - balance), high))


def effective_after(org: Balanced, balance: int, used: Used) -> tuple[Effective, int]:
    """The effective balance by a fresh read, and what of its pushes it does not show."""
    hidden = unseen(org.balance_micro, org.unseen_micro, balance, used)
    return Effective(balance, hidden + used.unsent, _unsealed(org, used), used.held), hidden


def since_read(org: Balanced, used: Used) -> Effective | None:
    """The effective balance by the last read; None where there was none, or no end to the balance."""
    if org.balance_read_ms is None or org.balance_micro is None:
        return None
    hidden = (org.unseen_micro or 0) + used.sent_since
    return Effective(org.balance_micro, hidden + used.unsent, _unsealed(org, used), used.held)


def _unsealed(org: Balanced, used: Used) -> int:
    return used.unsealed + (0 if org.is_halted else max(used.unsampled, 0))


def read_used(
    connection: sa.Connection, provider: str, orgs: Sequence[Row], *, now_ms: int, read_ms: int, lag_ms: int
) -> Mapping[str, Used]:
    """What organisations of one provider used, whatever their stored balance (`orgs` are rows) may not show.

    `read_ms`: when the read began that is to be compared with, `lag_ms` how far balances trail.
    """
    if not orgs:
        return defaultdict(Used)
    # What a seal makes pushes of between the two statements is in both. Then it is read again, and if that never ends,
    # the least holds: a seal can only make it too much.
    best: dict[str, Used] = {}
    for _ in range(READINGS):
        before = _last_seals(connection)
        found = _read_once(connection, provider, orgs, now_ms=now_ms, read_ms=read_ms, lag_ms=lag_ms)
        if _last_seals(connection) == before:
            return found
        best = {org.org_id: min(best.get(org.org_id, found[org.org_id]), found[org.org_id], key=_owed) for org in orgs}
    return defaultdict(Used, best)


def _owed(used: Used) -> int:
    return used.unsealed + used.unsent + used.sent_since


def _last_seals(connection: sa.Connection) -> Sequence[int]:
    return SQL.run(connection, "last_seals").scalars().all()


def _read_once(
    connection: sa.Connection, provider: str, orgs: Sequence[Row], *, now_ms: int, read_ms: int, lag_ms: int
) -> dict[str, Used]:
    found: dict[str, Used] = defaultdict(Used)
    for org_id, held_micro in read_held(connection, provider, [org.org_id for org in orgs], now_ms).items():
        found[org_id].held = held_micro
    lapsed = read_lapsed(connection, provider, [org.org_id for org in orgs], now_ms)
    in_time: dict[str, int] = defaultdict(int)
    """What was used before lots that are over ended, and is not charged yet."""
    reads = {org.org_id: org.balance_read_ms for org in orgs}
    read_before = min(now_ms if read_at is None else read_at for read_at in reads.values())
    run = _Run(connection, provider, sorted(reads), now_ms)
    for row in run.rows("unsealed"):
        used = found[row.org_id]
        amount = run.price(used, row, row.owed)
        used.unsealed += amount
        in_time[row.org_id] += amount if _is_in_time(row, lapsed) else 0
        used.unsampled += run.price(used, row, row.unsampled)
        used.lately += run.price(used, row, row.lately)
        used.just_now += run.price(used, row, row.just_now)
    for row in run.rows("unseen_pushes", since_ms=max(min(read_before, read_ms - lag_ms), now_ms - DAY_MS)):
        used = found[row.org_id]
        amount = run.price(used, row, row.sent_qty)
        if row.state == "rejected" or row.first_attempt_ms is None:
            used.unsent += amount
            in_time[row.org_id] += amount if _is_in_time(row, lapsed) else 0
            continue
        read = reads[row.org_id] or 0
        # What was settled when the read began, in the same millisecond, was judged by that read: it is in `unseen`.
        settled_before = row.state == "accepted" and row.settled_ms is not None and row.settled_ms <= read
        used.sent_since += amount if row.first_attempt_ms >= read and not settled_before else 0
        used.maybe += amount if row.state != "accepted" or (row.settled_ms or read_ms) > read_ms - lag_ms else 0
    for org_id, over in lapsed.items():
        found[org_id].unsealed -= min(over.lapsed_micro, max(in_time[org_id], 0))
    return found


def _is_in_time(row: Row, lapsed: Mapping[str, Lapsed]) -> bool:
    return row.org_id in lapsed and bool(row.window_ms < lapsed[row.org_id].until_ms)


class _Run:
    """Runs the statements for some organisations, and prices what they say."""

    def __init__(self, connection: sa.Connection, provider: str, orgs: Sequence[str], now_ms: int) -> None:
        self._connection = connection
        self._card = rate_card_of(connection, provider)
        self._values: dict[str, object] = {
            "orgs": [{"org_id": org_id} for org_id in orgs],
            "segments": [asdict(segment) for segment in segments(mapping_rows(connection))],
            "provider": provider,
            "now_ms": now_ms,
            "lately_ms": now_ms - LATELY_MS,
            "just_now_ms": now_ms - JUST_NOW_MS,
        }

    def rows(self, name: str, **values: int) -> Sequence[Row]:
        return SQL.run(self._connection, name, {**self._values, **values}).all()

    def price(self, used: Used, row: Row, quantity: int | Decimal) -> int:
        amount = self._card.price(row.feature, row.window_ms, int(quantity))
        if amount is None:
            used.unpriced.add(row.feature)
            return 0
        return amount
