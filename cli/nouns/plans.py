"""`drawdown plan`: what customers may do at once, what their runs hold, and what they are given."""

from __future__ import annotations

from drawdown.cli.declared import of_noun
from drawdown.worker.wallets.actions import ACTIONS, LISTS

commands = of_noun("plan", *ACTIONS, *LISTS)
