"""All that is declared in the rooms: HTTP has an operation for each, and the console a form for each action."""

from __future__ import annotations

from typing import Final

from drawdown.schema.declare import Action, Declared
from drawdown.worker.orders import assigning
from drawdown.worker.orgs import actions as org_actions
from drawdown.worker.orgs import lists as org_lists
from drawdown.worker.settlements import actions as settlement_actions
from drawdown.worker.settlements import lists as settlement_lists
from drawdown.worker.status import lists as status_lists

DECLARED: Final[tuple[Declared, ...]] = (
    *assigning.ACTIONS,
    *org_actions.ACTIONS,
    *org_lists.LISTS,
    *status_lists.LISTS,
    *settlement_actions.ACTIONS,
    *settlement_lists.LISTS,
)
ACTIONS: Final = {one.name: one for one in DECLARED if isinstance(one, Action)}
"""By their names."""
