"""What is done to wallets, plans, top-ups and settlements."""

from __future__ import annotations

from typing import Final

from drawdown.server.console.screens.money.acts import asked, lots, settlements, topups, wallet
from drawdown.server.console.screens.money.acts.wallet import GRANT as GRANT

ACTIONS: Final = (*wallet.ACTIONS, *lots.ACTIONS, *topups.ACTIONS, *asked.ACTIONS, *settlements.ACTIONS)
