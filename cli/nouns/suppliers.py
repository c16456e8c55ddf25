"""`drawdown supplier`: manage suppliers, which get a share of executions' cost."""

from __future__ import annotations

from drawdown.cli.declared import of_noun
from drawdown.worker.settlements.actions import ACTIONS
from drawdown.worker.settlements.lists import LISTS

commands = of_noun("supplier", *ACTIONS, *LISTS)
