"""`drawdown tier`: sandboxes at once that customers buy by the month, beside their plan."""

from __future__ import annotations

from typing import Annotated

import typer

from drawdown.cli.app import App
from drawdown.cli.options import Actor, AtOnce, DryRun, New, Reason, Undo
from drawdown.cli.rendering import show, show_change, table
from drawdown.schema.typed.parsing import parse_credits, show_credits, show_time
from drawdown.worker.wallets import tiers
from drawdown.worker.wallets.tiers import list_tiers

commands = typer.Typer()


@commands.command("set")
def set_(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The tier's name")],
    at_once: AtOnce = None,
    price: Annotated[
        str | None, typer.Option(metavar="CREDITS", help="What a calendar month costs", show_default="as it is")
    ] = None,
    new: New = False,
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Change a tier, or with --new make one: sandboxes at once beside what plans allow, bought with `tier buy`. Another
    price is that of months to come."""
    app: App = context.obj
    by = app.by(actor, reason)
    change = tiers.Change(at_once, None if price is None else parse_credits(price))
    found, was = app.write(lambda c: tiers.set_tier(c, name, change, by, new=new), rollback=dry_run)
    line = f"tier {name}: {found.at_once:,} at once for {show_credits(found.price_micro)} credits a month; before: "
    line += "no such tier" if was is None else f"{was.at_once:,} for {show_credits(was.price_micro)}"
    show_change(app, {**vars(found), "was": was}, [line], dry_run=dry_run)


@commands.command("list")
def list_(context: typer.Context) -> None:
    """List the tiers: how many sandboxes at once, what a month costs, and how many customers hold each."""
    app: App = context.obj
    found = app.read(list_tiers)
    rows = [(row.tier, row.at_once, show_credits(row.price_micro), row.customers) for row in found]
    show(app, {"tiers": found}, [table("Tiers", ("tier", "#at once", "#a month", "#customers"), rows)])


@commands.command()
def buy(
    context: typer.Context,
    customer: Annotated[str, typer.Argument(help="The customer (by default the organisation's id)")],
    name: Annotated[str, typer.Argument(metavar="TIER", help="The tier's name")],
    undo: Undo = False,
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Have a customer hold a tier: this calendar month is charged at once, each other as it begins. With --undo it ends
    with the month that is paid for. It ends, too, where there is no credit for the next month."""
    app: App = context.obj
    by = app.by(actor, reason)
    act = tiers.let_end if undo else tiers.buy
    done = app.write(lambda c: act(c, customer, name, by), rollback=dry_run)
    held, most = done.holder, done.wallet.max_concurrent
    until = show_time(held.paid_to_ms)
    how = f"it ended at {show_time(held.ended_ms)}" if held.ended_ms is not None else f"paid for until {until}"
    how += ", and goes on then" if held.renews and held.ended_ms is None else ""
    line = f"{customer}: {name}, {how}; {show_credits(done.charged_micro)} credits charged, "
    line += f"{'any number of' if most is None else f'{most:,}'} sandboxes at once"
    line += "" if done.changed else "; nothing changes"
    result = {**vars(held), "charged_micro": done.charged_micro, "changed": done.changed, "max_concurrent": most}
    show_change(app, {**result, "balance_micro": done.wallet.balance_micro}, [line], dry_run=dry_run)
