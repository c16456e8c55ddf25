"""`drawdown payer`: manage wallets that pay for executions of other organisations."""

from __future__ import annotations

from drawdown.cli.declared import of_noun
from drawdown.worker.wallets.pools import ACTIONS, LISTS

commands = of_noun("payer", *ACTIONS, *LISTS)
