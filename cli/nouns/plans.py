"""`drawdown plan`: manage plans, the terms of customers."""

from __future__ import annotations

from drawdown.cli.declared import of_noun
from drawdown.worker.wallets.actions import ACTIONS, LISTS

commands = of_noun("plan", *ACTIONS, *LISTS)
