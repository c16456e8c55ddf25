"""List all declared actions and lists.

The HTTP API has an operation for each action and list. The console has a form for each action that names the page to
show next (`place`).
"""

from __future__ import annotations

from typing import Final

from drawdown.schema.declare import Action, Declared
from drawdown.worker.access import audit, keys
from drawdown.worker.batches import actions as batch_actions
from drawdown.worker.executions import blocks
from drawdown.worker.features import actions as feature_actions
from drawdown.worker.features import lists as feature_lists
from drawdown.worker.guard import limits as guard_limits
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.halts import cells
from drawdown.worker.hooks import actions as hook_actions
from drawdown.worker.hooks import lists as hook_lists
from drawdown.worker.jobs import accept_action, assign_action, queue
from drawdown.worker.jobs import lists as job_lists
from drawdown.worker.orgs import actions as org_actions
from drawdown.worker.orgs import lists as org_lists
from drawdown.worker.provider import faces as provider_faces
from drawdown.worker.provider import vendor_faces
from drawdown.worker.push import faces as push_faces
from drawdown.worker.settlements import actions as settlement_actions
from drawdown.worker.settlements import lists as settlement_lists
from drawdown.worker.status import lists as status_lists
from drawdown.worker.topup import actions as topup_actions
from drawdown.worker.topup import lists as topup_lists
from drawdown.worker.usage import backfill_actions, intake, sample_faces, totals, withdrawals
from drawdown.worker.wallets import actions as wallet_actions
from drawdown.worker.wallets import lists as wallet_lists
from drawdown.worker.wallets import pools, tiers

DECLARED: Final[tuple[Declared, ...]] = (
    *assign_action.ACTIONS,
    *org_actions.ACTIONS,
    *org_lists.LISTS,
    *status_lists.LISTS,
    *feature_actions.ACTIONS,
    *feature_lists.LISTS,
    *guard_terms.ACTIONS,
    *guard_limits.ACTIONS,
    *guard_limits.LISTS,
    *guard_overrides.ACTIONS,
    *guard_overrides.LISTS,
    *cells.ACTIONS,
    *cells.LISTS,
    *keys.ACTIONS,
    *keys.LISTS,
    *audit.LISTS,
    *blocks.ACTIONS,
    *provider_faces.ACTIONS,
    *provider_faces.LISTS,
    *vendor_faces.ACTIONS,
    *vendor_faces.LISTS,
    *push_faces.ACTIONS,
    *push_faces.LISTS,
    *hook_actions.ACTIONS,
    *hook_lists.LISTS,
    *queue.ACTIONS,
    *accept_action.ACTIONS,
    *job_lists.LISTS,
    *withdrawals.ACTIONS,
    *intake.LISTS,
    *totals.LISTS,
    *backfill_actions.ACTIONS,
    *backfill_actions.LISTS,
    *sample_faces.ACTIONS,
    *sample_faces.LISTS,
    *batch_actions.ACTIONS,
    *batch_actions.LISTS,
    *settlement_actions.ACTIONS,
    *settlement_lists.LISTS,
    *wallet_actions.ACTIONS,
    *wallet_actions.LISTS,
    *wallet_lists.LISTS,
    *pools.ACTIONS,
    *pools.LISTS,
    *tiers.ACTIONS,
    *tiers.LISTS,
    *topup_actions.ACTIONS,
    *topup_lists.LISTS,
)
BY_NAME: Final = {one.name: one for one in DECLARED}
ACTIONS: Final = {one.name: one for one in DECLARED if isinstance(one, Action)}
"""The declared actions, by name."""
