"""`drawdown supplier`: who is owed a share of what runs cost."""

from __future__ import annotations

from drawdown.cli.declared import of_noun
from drawdown.worker.settlements.actions import ACTIONS
from drawdown.worker.settlements.lists import LISTS

commands = of_noun("supplier", *ACTIONS, *LISTS)
