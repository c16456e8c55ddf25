"""Finds the organisations that a seal fails on, so that they alone are left out (S8).

Guarantee: they are found by dry runs of halves, which leave nothing behind. A failure that remains without any
organisation is no organisation's fault, and goes up as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from drawdown.schema.text import in_short
from drawdown.worker.engine.effects import Steps, Transaction

Probe = Callable[[tuple[str, ...]], Callable[[sa.Connection], object]]
"""The work that fails, for some organisations alone."""


@dataclass(frozen=True)
class Bad:
    """An organisation that cannot be sealed, and what the database says of it."""

    org_id: str
    reason: str


def find_bad(candidates: Sequence[str], probe: Probe) -> Steps[list[Bad]]:
    """Those of the candidates on which the work fails.

    Errors: the database's own, where the work fails without any of them.
    """
    yield Transaction("probe", probe(()), rollback=True)
    groups = [tuple(candidates)] if candidates else []
    found: list[Bad] = []
    while groups:
        group = groups.pop()
        try:
            yield Transaction("probe", probe(group), rollback=True)
        except DBAPIError as error:
            middle = len(group) // 2
            if middle:
                groups += [group[middle:], group[:middle]]
            else:
                found.append(Bad(group[0], f"cannot be sealed: {in_short(error)}"))
    return found
