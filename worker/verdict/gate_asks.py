"""The gate's read of an organisation, the guard's facts in it, and its leave to have the provider asked.

Guarantee: of all processes and requests that want to ask about one organisation at once, one may, and then none for ten
seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import sqlalchemy as sa

from drawdown.guard.decide import BLOCK_ALL, Counted, Facts, Limit, Override
from drawdown.schema.sql import queries
from drawdown.schema.units import EXEMPT_PROVIDERS, SECOND_MS
from drawdown.worker.verdict.asks import mark_for_projection

SQL = queries(__file__)

ASK_EVERY_MS: Final = 10 * SECOND_MS
BUSY_MS: Final = 60 * SECOND_MS
"""Longer than any call may last: an ask whose process died keeps others waiting no longer."""


@dataclass(frozen=True)
class Gated:
    """An organisation as the gate sees it. `unknown`: neither a provider nor an operator has said anything of it;
    `overridden`: an operator's word stands in place of the provider's."""

    billing_provider: str | None
    is_halted: bool
    halt_reason: str | None
    max_concurrent_sandboxes: int | None
    projection_read_ms: int | None
    plan: str | None
    unknown: bool
    overridden: bool

    def facts(self, *, open_in_doubt: bool) -> Facts:
        """What the guard decides by whether one more sandbox may be made. How many run is for the host to count, so
        that nothing of the limit is used here."""
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
    """Leave to ask, and whom: its biller by now, which `orgs` may name only from the next tick on."""

    at_ms: int
    provider: str


def in_doubt(code: str | None, *, allowed: bool) -> Facts:
    """Of an organisation of which nothing else is known: no limit ends. `code`: why its credit is not known."""
    limits = (Limit("at_once", None, plan="*"),)
    return Facts(BLOCK_ALL, 0, False, limits, {"at_once": Counted()}, no_credit=code, fails_open=allowed)


def read_gated(connection: sa.Connection, org_id: str) -> Gated | None:
    """One read of its row; None where there is none."""
    row = SQL.run(connection, "gated", {"org_id": org_id}).mappings().one_or_none()
    if row is None:
        return None
    return Gated(**{**row, **{name: bool(row[name]) for name in ("is_halted", "unknown", "overridden")}})


def may_ask(connection: sa.Connection, org_id: str, now_ms: int) -> LeaveToAsk | None:
    """Have the organisation asked about again, where nobody did just now."""
    now = {"org_id": org_id, "now_ms": now_ms}
    values = {**now, "earlier_ms": now_ms - ASK_EVERY_MS, "busy_until_ms": now_ms + BUSY_MS}
    provider = SQL.run(connection, "biller", now).scalar()
    if provider is None or SQL.run(connection, "may_ask", values).first() is None:
        return None
    mark_for_projection(connection, [org_id], now_ms)
    return LeaveToAsk(now_ms, str(provider))


def asked(connection: sa.Connection, org_id: str, at_ms: int) -> None:
    """The ask that began then has ended."""
    SQL.run(connection, "asked", {"org_id": org_id, "asked_ms": at_ms})
