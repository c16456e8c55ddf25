"""`drawdown order`: what was ordered, how far it is; and an order that waits, taken back."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from drawdown.cli.app import App
from drawdown.cli.options import Actor, PageSize, Reason
from drawdown.cli.rendering import show, table
from drawdown.schema.text import typed
from drawdown.schema.typed.parsing import show_time
from drawdown.worker.orders import orders
from drawdown.worker.orders.lists import list_orders

commands = typer.Typer()
ORDERED: Final = "order {}: the next tick does it, or begins to; `drawdown order list` shows how far it is"


@commands.command("list")
def list_(context: typer.Context, most: PageSize = 100) -> None:
    """List orders, the latest first. `drawdown replay --later` and the console place them; ticks do them."""
    app: App = context.obj
    found = app.read(lambda c: list_orders(c, most=most))
    columns = ("#order", "kind", "state", "what", "by", "reason", "since", "progress", "what became of it")
    rows = [
        (one.order_id, one.kind, one.state_in_words, one.what, one.actor, one.reason, show_time(one.at_ms),
         one.progress or "-", one.said or "-")
        for one in found
    ]  # fmt: skip
    made = [{**vars(one), "command": typed("drawdown", *one.command)} for one in found]
    show(app, {"orders": made}, [table("Orders", columns, rows)])


@commands.command()
def cancel(
    context: typer.Context,
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="The order's number", min=1, max=2**63 - 1)],
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Cancel an order that waits. What its replay has sealed by then stays sealed."""
    app: App = context.obj
    by = app.by(actor, reason)
    app.write(lambda c: orders.cancel(c, number, by))
    show(app, {"order": number, "state": "cancelled"}, [f"order {number}: cancelled"])
