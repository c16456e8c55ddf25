"""`drawdown audit`: list the changes that people and programs made."""

from __future__ import annotations

from drawdown.cli.declared import of_noun
from drawdown.worker.access.audit import LISTS

commands = of_noun("audit", *LISTS)


@commands.callback()
def group() -> None:
    """Make `audit` a noun, because Typer would drop the verb of a single command."""
