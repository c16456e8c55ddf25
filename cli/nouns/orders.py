"""`drawdown order`: what was ordered, how far it is; and an order that waits, taken back."""

from __future__ import annotations

from typing import Final

from drawdown.cli.declared import of_noun
from drawdown.worker.orders.lists import LISTS
from drawdown.worker.orders.orders import ACTIONS

ORDERED: Final = "order {}: the next tick does it, or begins to; `drawdown order list` shows how far it is"
commands = of_noun("order", *ACTIONS, *LISTS)
