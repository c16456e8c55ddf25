"""What the operator's product is told of verdicts and balances, in the transaction that writes them.

Guarantee: a halt is told once, and so is its end. That a balance is low, or exhausted, is told by the level and never
by the edge: once from the read that finds it there to the one that finds it above again. What runs have reserved counts
as there: a hold that comes and goes is no news. Where no endpoint wants to know, nothing is read or written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.messages import (
    BALANCE_EXHAUSTED,
    BALANCE_LOW,
    ORG_HALTED,
    ORG_RESUMED,
    Message,
    amount,
    tell,
    wanted,
)
from drawdown.schema.sql import queries

SQL = queries(__file__)

LEVELS: Final = {"low": BALANCE_LOW, "exhausted": BALANCE_EXHAUSTED}


def tell_verdicts(
    connection: sa.Connection, verdicts: Sequence[Mapping[str, Any]], left: Mapping[str, int], now_ms: int
) -> None:
    """Tell of verdicts that changed (rows of the history, with what was before), and of what organisations have left,
    in micro-credits, by a read that was just written. Their rows are held by this transaction."""
    turned = [verdict for verdict in verdicts if bool(verdict["is_halted"]) != bool(verdict["was_halted"])]
    if not turned and not left:
        return
    events = wanted(connection)
    turned = turned if events & {ORG_HALTED, ORG_RESUMED} else []
    levels = {level: event for level, event in LEVELS.items() if event in events}
    if not turned and not levels:
        return
    org_ids = {*(str(verdict["org_id"]) for verdict in turned), *(left if levels else ())}
    values = {"orgs": [{"org_id": org_id} for org_id in sorted(org_ids)], "now_ms": now_ms}
    found = {row.org_id: row for row in SQL.run(connection, "standing", values)}
    messages = [_of_verdict(verdict, found[verdict["org_id"]]) for verdict in turned]
    for org_id in sorted(left) if levels else ():
        messages += _of_levels(connection, found[org_id], left[org_id], levels, now_ms)
    tell(connection, messages)


def _of_verdict(verdict: Mapping[str, Any], org: sa.Row[Any]) -> Message:
    """A halt is named by its beginning; so is its end."""
    halted = bool(verdict["is_halted"])
    since_ms = verdict["at_ms"] if halted else verdict["was_halted_at"]
    event = ORG_HALTED if halted else ORG_RESUMED
    data = {
        "provider": org.provider,
        "halted_at_ms": since_ms,
        "reason": verdict["reason"],
        **amount("balance", verdict["balance_micro"]),
        "max_concurrent_sandboxes": verdict["max_concurrent_sandboxes"],
    }
    fact = f"{event}:{org.org_id}:{since_ms}"
    return Message(event, fact, verdict["at_ms"], data, org.org_id, org.customer_id or None)


def _of_levels(
    connection: sa.Connection, org: sa.Row[Any], left_micro: int, levels: Mapping[str, str], now_ms: int
) -> list[Message]:
    """Begin and end an organisation's episodes; what is told of those that begin."""
    messages = []
    for level, event in levels.items():
        at_micro = org.low_micro if level == "low" else 0
        is_there = at_micro is not None and left_micro <= at_micro
        is_open = bool(org.is_low if level == "low" else org.is_exhausted)
        values = {"org_id": org.org_id, "level": level, "now_ms": now_ms}
        if is_open and not is_there:
            SQL.run(connection, "end_episode", values)
        elif is_there and not is_open:
            episode = SQL.run(connection, "begin_episode", values).scalar_one()
            data = {
                "provider": org.provider,
                **amount("balance", left_micro),
                **amount("level", at_micro),
                "episode": episode,
            }
            fact = f"{event}:{org.org_id}:{episode}"
            messages.append(Message(event, fact, now_ms, data, org.org_id, org.customer_id or None))
    return messages
