"""`drawdown audit`: people's actions."""

from __future__ import annotations

from drawdown.cli.declared import of_noun
from drawdown.worker.access.audit import LISTS

commands = of_noun("audit", *LISTS)


@commands.callback()
def group() -> None:
    """A noun, though it has one verb."""
