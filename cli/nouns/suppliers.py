"""`drawdown supplier`: suppliers, who earn a share of the cost of runs."""

from __future__ import annotations

from drawdown.cli.declared import of_noun
from drawdown.worker.settlements.actions import ACTIONS
from drawdown.worker.settlements.lists import LISTS

commands = of_noun("supplier", *ACTIONS, *LISTS)
