"""`drawdown pool`: wallets that allot credit to others."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from drawdown.cli.app import App, new_key
from drawdown.cli.options import Actor, Most, New, PageSize, Reason
from drawdown.cli.rendering import show, table
from drawdown.schema.errors import AnswerLost
from drawdown.schema.typed.parsing import parse_ahead, parse_credits, show_credits, show_time
from drawdown.worker.wallets import pools
from drawdown.worker.wallets.pools import list_pools, show_pool

commands = typer.Typer()

Pool = Annotated[str, typer.Argument(metavar="POOL", help="The pool's name")]
COLUMNS: Final = (
    "member", "state", "#allotted", "#left", "#waits", "#used", "#returned", "#taken back", "begins", "ends", "lot",
)  # fmt: skip


@commands.command()
def make(
    context: typer.Context, pool: Pool, new: New = False, actor: Actor = None, reason: Reason = "not given"
) -> None:
    """Make a pool: a wallet of its own, to be filled as any other (`ledger grant POOL CREDITS`). Where its name is like
    that of a pool or a customer, only with --new."""
    app: App = context.obj
    by = app.by(actor, reason)
    is_new = app.write(lambda c: pools.make(c, pool, by, new=new))
    said = "made; give it credit with `drawdown ledger grant`" if is_new else "it is there already: nothing changes"
    show(app, {"pool": pool, "made": is_new}, [f"pool {pool}: {said}"])


@commands.command()
def allot(
    context: typer.Context,
    pool: Pool,
    customer: Annotated[str, typer.Argument(help="The customer (by default the organisation's id)")],
    amount: Annotated[str, typer.Argument(metavar="CREDITS", help="How much, e.g. 12.50")],
    expires: Annotated[str, typer.Option(help="When what is left of it goes back to the pool: +30d, 2026-03-01")],
    key: Annotated[
        str | None,
        typer.Option(help="Makes a repetition harmless, e.g. a budget's name", show_default="one of its own"),
    ] = None,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Move credit out of a pool into a customer's wallet, where it is used before all else. What nobody used of it by
    its end goes back. `ledger take-back LOT` takes it back sooner."""
    app: App = context.obj
    by, micro, own = app.by(actor, reason), parse_credits(amount), key or new_key()
    expires_ms = parse_ahead(expires, "--expires", by.now_ms)
    try:
        done = app.write(lambda c: pools.allot(c, pool, customer, micro, expires_ms, by, key=own))
    except AnswerLost as error:
        again = f"give it again with --key {own} --expires {show_time(expires_ms)}, and it counts once"
        raise AnswerLost(error.why, again) from error
    said, ends_ms = "was allotted before: nothing was moved" if done.repeated else "allotted", done.lot.expires_ms
    line = f"{show_credits(micro)} credits of {pool} to {customer} until {show_time(ends_ms)}: {said}; "
    line += f"{pool} has {show_credits(done.pool.available_micro)} available, "
    line += f"{customer} {show_credits(done.member.available_micro)}"
    result = {"pool": pool, "customer_id": customer, "lot": done.lot.lot, "key": own, "repeated": done.repeated}
    result |= {"allotted_micro": 0 if done.repeated else micro, "expires_ms": ends_ms}
    wallets = {"pool_available_micro": done.pool.available_micro, "available_micro": done.member.available_micro}
    show(app, {**result, **wallets}, [line])


@commands.command("list")
def list_(context: typer.Context, most: Most = 50) -> None:
    """List pools: what each has, what it allotted in all and what of that came back, and to how many at present."""
    app: App = context.obj
    found = app.read(lambda c: list_pools(c, app.clock.now_ms(), most))
    rows = [
        (one.pool, show_credits(one.available_micro), show_credits(one.allotted_micro),
         show_credits(one.returned_micro), one.members)
        for one in found
    ]  # fmt: skip
    columns = ("pool", "#available", "#allotted", "#returned", "#members now")
    show(app, {"pools": found}, [table("Pools", columns, rows)])


@commands.command("show")
def show_(context: typer.Context, pool: Pool, most: PageSize = 100) -> None:
    """Show a pool: what it has, and its members with what became of each allotment. An amount is what is left, waits to
    come back, was used, returned and was taken back."""
    app: App = context.obj
    found = app.read(lambda c: show_pool(c, pool, app.clock.now_ms(), most))
    rows = [
        (row.customer_id, row.state,
         *map(show_credits, (row.amount_micro, row.left_micro, row.waits_micro, row.used_micro, row.returned_micro,
                             row.taken_micro)),
         show_time(row.begins_ms), show_time(row.expires_ms), row.lot)
        for row in found.allotments
    ]  # fmt: skip
    title = f"{pool}: {show_credits(found.wallet.available_micro)} credits available, "
    title += f"{show_credits(found.wallet.held_micro)} reserved"
    show(app, vars(found), [table(title, COLUMNS, rows)])
