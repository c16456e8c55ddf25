"""`drawdown key`: manage the API keys of programs."""

from __future__ import annotations

from drawdown.cli.declared import of_noun
from drawdown.worker.access.keys import ACTIONS, LISTS

commands = of_noun("key", *ACTIONS, *LISTS)
