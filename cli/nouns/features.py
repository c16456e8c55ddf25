"""`drawdown feature`: map memory sizes and event types to features."""

from __future__ import annotations

from drawdown.cli.declared import of_noun
from drawdown.worker.features.actions import ACTIONS
from drawdown.worker.features.lists import LISTS

commands = of_noun("feature", *ACTIONS, *LISTS)
