"""`drawdown tier`: manage monthly offers of more concurrent sandboxes."""

from __future__ import annotations

from drawdown.cli.declared import of_noun
from drawdown.worker.wallets.tiers import ACTIONS, LISTS

commands = of_noun("tier", *ACTIONS, *LISTS)
