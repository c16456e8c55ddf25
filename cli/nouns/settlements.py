"""`drawdown settlement`: manage the amounts that suppliers are owed, and payouts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import sqlalchemy as sa
import typer

from drawdown.cli.app import App
from drawdown.cli.declared import of_noun
from drawdown.cli.streams import print_file
from drawdown.worker.settlements import lists
from drawdown.worker.settlements.actions import ACTIONS

commands = of_noun("settlement", *ACTIONS, *lists.LISTS)


@commands.command()
def export(
    context: typer.Context,
    payout: Annotated[str, typer.Argument(metavar="PAYOUT", help="Payout, as payout:SUPPLIER:MONTH")],
) -> None:
    """Print a payout's file as CSV.

    The file is safe to open in a spreadsheet. With --json, the command prints one JSON object.
    """
    app: App = context.obj

    def parts(connection: sa.Connection) -> Iterator[str]:
        found = lists.require_payout(connection, payout)
        return (lists.json_file if app.json else lists.csv_file)(connection, found)

    app.read(lambda c: print_file(parts(c)))
