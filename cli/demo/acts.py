"""An act: what a person or a product does at a moment of the month, by a real command.

Guarantee: acts of one span are done in the order of their moments, in one transaction; one that a rule refused leaves
nothing, and stops no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import sqlalchemy as sa

from drawdown.ledger.reservations import Denied
from drawdown.schema.audit import By
from drawdown.schema.errors import UnknownId

Work: TypeAlias = Callable[[sa.Connection, By], object]


@dataclass(frozen=True)
class Act:
    """What is done, when, by whom and why. `may_fail`: a rule may refuse it, as it would a product."""

    at_ms: int
    actor: str
    reason: str
    work: Work
    may_fail: bool = False


def perform(connection: sa.Connection, acts: Sequence[Act]) -> None:
    """Do them, each at its own moment."""
    for act in acts:
        by = By(act.at_ms, act.actor, act.reason, "cli")
        if not act.may_fail:
            act.work(connection, by)
            continue
        part = connection.begin_nested()
        try:
            act.work(connection, by)
        except (Denied, UnknownId):
            part.rollback()
        else:
            part.commit()
