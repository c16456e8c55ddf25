"""What stands behind one push: its entry in the ledger, the verdict that followed, and the cells
that were told. Reads only.

Guarantee: each part is bounded, and goes by a key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.worker.push.shown import PushColumns
from drawdown.worker.push.wallet_mirror import PREFIX
from drawdown.worker.verdict.standing import HaltRow

SQL = queries(__file__)

MOST_VERDICTS: Final = 3
"""Of those after it."""
MOST_TOLD: Final = 100
"""Cells that one page names."""


@dataclass(frozen=True)
class PushEntry:
    """What a push moved in the embedded ledger: as its own charge, or drawn from a wallet beside another provider."""

    key: str
    kind: str
    from_account: str
    to_account: str
    amount_micro: int
    at_ms: int


@dataclass(frozen=True)
class VerdictAfter:
    """A verdict on its organisation: the one that held when the push was settled, or one that came next."""

    at_ms: int
    is_halted: bool
    reason: str | None
    balance_micro: int | None


@dataclass(frozen=True)
class PushChain:
    """What stands around a push; `told`: the cells of its organisation that were told to halt by those verdicts."""

    entries: list[PushEntry]
    verdicts: list[VerdictAfter]
    told: list[HaltRow]


def chain_of(connection: sa.Connection, push: PushColumns) -> PushChain:
    """From the push to the cells that were told."""
    names = [push.key, f"{PREFIX}{push.key}"]
    at_ms = push.sealed_at_ms if push.settled_ms is None else push.settled_ms
    asked = {"org_id": push.org_id, "at_ms": at_ms, "at_most": MOST_VERDICTS}
    verdicts = [
        VerdictAfter(row.at_ms, bool(row.is_halted), row.reason, row.balance_micro)
        for row in SQL.run(connection, "verdicts", asked)
    ]
    entries = [PushEntry(**row._mapping) for row in SQL.run(connection, "entries", {"names": names})]
    return PushChain(entries, verdicts, _told(connection, push.org_id, verdicts))


def _told(connection: sa.Connection, org_id: str, verdicts: list[VerdictAfter]) -> list[HaltRow]:
    """By the verdicts that halted; a halt bears the moment of its verdict."""
    halting = [one.at_ms for one in verdicts if one.is_halted]
    if not halting:
        return []
    values = {"org_id": org_id, "from_ms": min(halting), "to_ms": max(halting), "at_most": MOST_TOLD}
    return [HaltRow(**row._mapping) for row in SQL.run(connection, "told", values)]
