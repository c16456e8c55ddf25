"""`drawdown pool`: manage wallets that allot credit to others."""

from __future__ import annotations

from drawdown.cli.declared import of_noun
from drawdown.worker.wallets.pools import ACTIONS, LISTS

commands = of_noun("pool", *ACTIONS, *LISTS)
