"""The ways out of a block as they are told, over HTTP and on the command line: each with the call, link or command that
takes it.

Guarantee: reads only. What is open is decided by the functions of the guard itself (`guard_options`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.clock import utc
from drawdown.schema.text import typed
from drawdown.schema.units import in_credits
from drawdown.worker.guard.answers import Option
from drawdown.worker.guard.facts import Wish
from drawdown.worker.guard.options import Way, ways_out

CONSUME: Final = "/v1/guard/consume"
OVERRIDES: Final = "/v1/guard/overrides"


@dataclass(frozen=True)
class WayTold:
    """One way out. `code`: why it is not open (None: it is). `call`: what a program sends, besides a key of the use;
    `link`: where the organisation's own people do it; `command`: what an operator does; `missing`: in credits."""

    option: Option
    open: bool
    code: str | None
    said: str
    call: Mapping[str, object] | None
    link: str | None
    command: str | None
    payers: list[str]
    at: str | None
    missing: int | float | None
    missing_micro: int | None
    asked: int


@dataclass(frozen=True)
class WaysTold:
    """What the guard answers of the wish now, and the four ways, always all of them."""

    org_id: str
    metric: str
    amount: int
    decision: str
    would: str
    rule: str
    reason: str
    options: list[WayTold]
    as_of_ms: int


def told(connection: sa.Connection, wish: Wish, page: str, now_ms: int) -> WaysTold:
    """`page`: where an organisation's own people see their usage; empty: nowhere. Errors: as `guard.check`."""
    found = ways_out(connection, wish, now_ms)
    answer = found.answer
    ways = [_told(way, wish, answer.payer or wish.org_id, page) for way in found.ways]
    kept = (answer.metric, answer.amount, answer.decision, answer.would, answer.rule, answer.reason)
    return WaysTold(wish.org_id, *kept, ways, answer.as_of_ms)


def _told(way: Way, wish: Wish, payer: str, page: str) -> WayTold:
    return WayTold(
        option=way.option,
        open=way.is_open,
        code=way.code,
        said=way.said,
        call=_call(way, wish),
        link=(page or None) if way.is_open and way.option in ("top_up", "request_override") else None,
        command=_command(way, wish, payer),
        payers=list(way.payers),
        at=way.at,
        missing=None if way.missing_micro is None else in_credits(way.missing_micro),
        missing_micro=way.missing_micro,
        asked=way.asked,
    )


def _call(way: Way, wish: Wish) -> Mapping[str, object] | None:
    body: dict[str, str | int] = {"org": wish.org_id, "metric": wish.metric}
    if way.option == "sponsor" and way.payers:
        return {"method": "POST", "path": CONSUME, "body": {**body, "amount": wish.amount, "payer": way.payers[0]}}
    if way.option == "request_override" and way.override is not None:
        return {"method": "POST", "path": OVERRIDES, "body": {**body, **vars(way.override)}}
    return None


def _command(way: Way, wish: Wish, payer: str) -> str | None:
    if way.option == "top_up" and way.is_open and way.at is None:
        return typed("drawdown", "ledger", "grant", payer, "CREDITS")
    if way.option == "sponsor" and way.code == "no_sponsor":
        return typed("drawdown", "payer", "allow", "PAYER", wish.org_id)
    if way.option == "request_override" and way.asked:
        return typed("drawdown", "override", "list", "--metric", wish.metric)
    if way.option == "request_override" and (asks := way.override) is not None:
        ask = ("drawdown", "override", "ask", wish.metric, str(asks.amount), "--per", asks.period)
        return typed(*ask, "--org", wish.org_id, "--expires", utc(asks.ends_ms))
    return None
