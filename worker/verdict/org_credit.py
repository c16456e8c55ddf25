"""An organisation's credit: the effective balance with its parts, and the last changes of its verdict.

Guarantee: reads only, and estimates as the watch does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.schema.units import EXEMPT_PROVIDERS
from drawdown.worker.catalog.wallets import wallets_at
from drawdown.worker.verdict.effective_balance import read_used, since_read
from drawdown.worker.verdict.rates import policies_of, policy_for

SQL = queries(__file__)

MOST_HOLDERS: Final = 10


@dataclass(frozen=True)
class Holder:
    """A run that holds credit (micro-credits) until a time."""

    reservation: str
    left_micro: int
    expires_ms: int


@dataclass(frozen=True)
class Credit:
    """The effective balance with its parts, in millionths of the provider's credits. None: nothing was read yet, or
    there is no end to the balance."""

    provider: str
    balance_micro: int | None
    read_ms: int | None
    unaccepted_micro: int | None
    unsealed_micro: int
    not_sampled_micro: int
    held_micro: int
    effective_micro: int | None
    burn_a_minute_micro: int
    no_estimate_for: list[str]
    unread_since_ms: int | None
    when_down: str
    holders: list[Holder]


@dataclass(frozen=True)
class VerdictChange:
    """A transition, why, and the figures it rests on."""

    at_ms: int
    read_ms: int
    is_halted: bool
    reason: str | None
    max_concurrent_sandboxes: int | None
    balance_micro: int | None
    unaccepted_micro: int | None
    unsealed_micro: int | None
    held_micro: int | None


def credit_status(connection: sa.Connection, org: sa.Row[tuple[object, ...]], now_ms: int) -> Credit | None:
    """The effective balance by the last read, or by a wallet that lies here; None where nobody bills the organisation
    (`org`: its row)."""
    provider = SQL.run(connection, "biller", {"org_id": org.org_id, "now_ms": now_ms}).scalar_one_or_none()
    if provider is None or provider in EXEMPT_PROVIDERS:
        return None
    used = read_used(connection, provider, [org], now_ms=now_ms, read_ms=now_ms, lag_ms=0)[org.org_id]
    found = since_read(org, used)
    return Credit(
        provider=provider,
        balance_micro=org.balance_micro if found is None else found.balance,
        read_ms=org.balance_read_ms if found is None or used.wallet is None else now_ms,
        unaccepted_micro=None if found is None else found.unaccepted,
        unsealed_micro=used.unsealed,
        not_sampled_micro=0 if org.is_halted else used.unsampled,
        held_micro=used.held,
        effective_micro=None if found is None else found.value,
        burn_a_minute_micro=used.burn_a_minute,
        no_estimate_for=sorted(used.unpriced),
        unread_since_ms=org.unread_since_ms,
        when_down=policy_for(policies_of(connection, provider), org.plan),
        holders=_holders(connection, str(org.org_id), provider, now_ms) if used.held else [],
    )


def _holders(connection: sa.Connection, org_id: str, provider: str, now_ms: int) -> list[Holder]:
    elsewhere = provider not in wallets_at(connection)
    values = {"org_id": org_id, "now_ms": now_ms, "at_most": MOST_HOLDERS, "elsewhere": elsewhere}
    return [Holder(**row._mapping) for row in SQL.run(connection, "holders", values)]


def verdict_history(connection: sa.Connection, org_id: str) -> list[VerdictChange]:
    """The last transitions, newest first."""
    rows = SQL.run(connection, "verdicts", {"org_id": org_id}).mappings()
    return [VerdictChange(**{**row, "is_halted": bool(row["is_halted"])}) for row in rows]
