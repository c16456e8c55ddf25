"""`drawdown ledger`: the embedded provider's wallets and rate card."""

from __future__ import annotations

from typing import Annotated

import sqlalchemy as sa
import typer

from drawdown.cli.app import App, new_key
from drawdown.cli.options import MAX_CONCURRENT, Actor, Most, New, Reason
from drawdown.cli.parsing import in_credits, parse_credits, show_credits, show_time
from drawdown.cli.rendering import show, table
from drawdown.ledger import accounts, wallet
from drawdown.ledger.rates import Rate
from drawdown.schema.errors import AnswerLost, UsageError
from drawdown.worker.commands import credit
from drawdown.worker.views.ledger import list_entries, list_rates, list_wallets

commands = typer.Typer()

MAX_RATE = 10**12
"""A million credits for a second: whatever is above is a slip."""


@commands.command()
def grant(
    context: typer.Context,
    customer: Annotated[str, typer.Argument(help="The customer (by default the organisation's id)")],
    amount: Annotated[str, typer.Argument(metavar="CREDITS", help="12.50; a negative amount after -- takes back")],
    key: Annotated[
        str | None,
        typer.Option(help="Makes a repetition harmless, e.g. an invoice's number", show_default="one of its own"),
    ] = None,
    plan: Annotated[str | None, typer.Option(help="Also put the customer on this plan")] = None,
    new: New = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Give a customer credit. Organisations billed as this customer are looked at again by the next tick."""
    app: App = context.obj
    by, micro = app.by(actor, reason), parse_credits(amount)

    if key is not None and key != (key.strip() or None):
        raise UsageError(f"--key {key!r} is empty, or has blanks at its ends: give what makes this grant unlike others")
    grant_key = key or new_key()

    def work(connection: sa.Connection) -> tuple[wallet.Granted, accounts.Wallet]:
        granted = credit.grant(connection, customer, micro, by, key=grant_key, plan=plan, new=new)
        return granted, credit.wallet_of(connection, customer)

    try:
        granted, held = app.write(work)
    except AnswerLost as error:
        raise AnswerLost(error.why, f"give it again with --key {grant_key}, and it counts once") from error
    repeated, balance = granted.repeated, granted.balance_micro
    line = f"{customer}: {show_credits(balance)} credits, plan {held.plan or '-'}; "
    line += (
        f"the grant {grant_key} was made before: nothing was added"
        if repeated
        else f"before: {show_credits(balance - micro)}"
    )
    result = {"customer_id": customer, "granted_micro": 0 if repeated else micro, "balance_micro": balance}
    show(app, {**result, "key": grant_key, "repeated": repeated, "plan": held.plan}, [line])


@commands.command("show")
def show_(
    context: typer.Context,
    customer: Annotated[str | None, typer.Argument(help="One customer's entries")] = None,
    most: Most = 20,
) -> None:
    """Show wallets, lowest first, and the rate card; or one customer's wallet and its last entries."""
    app: App = context.obj
    if customer is None:
        wallets = app.read(lambda c: list_wallets(c, most))
        rates = app.read(list_rates)
        tables = [
            table(
                "Wallets",
                ("customer", "#credits", "plan"),
                [(w.account_id.split(":", 1)[1], show_credits(w.balance_micro), w.plan) for w in wallets],
            ),
            table(
                "Rate card",
                ("feature", "#micro-credits", "#per", "from"),
                [(r.feature, r.micro_credits, r.per_quantity, show_time(r.start_ms)) for r in rates],
            ),
        ]
        show(app, {"wallets": wallets, "rates": rates}, tables)
        return
    found = app.read(lambda c: credit.require_wallet(c, customer))
    entries = app.read(lambda c: list_entries(c, customer, most))
    rows = [
        (show_time(e.ts), e.kind, show_credits(-e.amount_micro if e.kind != "grant" else e.amount_micro),
         e.feature, e.quantity, e.key)
        for e in entries
    ]  # fmt: skip
    title = f"{customer}: {show_credits(found.available_micro)} credits available, "
    title += f"{show_credits(found.held_micro)} reserved, plan {found.plan or '-'}"
    columns = ("at", "kind", "#credits", "feature", "#quantity", "key")
    buckets = {"available": in_credits(found.available_micro), "reserved": in_credits(found.held_micro)}
    result = {"customer_id": customer, **buckets, "wallet": found, "entries": entries}
    show(app, result, [table(title, columns, rows)])


@commands.command()
def rate(
    context: typer.Context,
    feature: Annotated[str, typer.Argument(help="The feature")],
    micro_credits: Annotated[int, typer.Option(min=0, max=MAX_RATE, help="Micro-credits (a credit is a million)")],
    per: Annotated[
        int, typer.Option(min=1, max=MAX_RATE, help="For this many base units (seconds, or MB-seconds)")
    ] = 1,
    from_: Annotated[str | None, typer.Option("--from", help="For usage from this window on")] = None,
    new: New = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Set a feature's price. What was charged keeps its price; the first rate of a feature counts from ever.

    Each push is charged by itself, rounded to a whole micro-credit, half of one up.
    """
    app: App = context.obj
    by, start = app.by(actor, reason), app.window(from_, "--from")

    def work(connection: sa.Connection) -> tuple[int, Rate | None]:
        was = credit.rate_at(connection, feature, by.now_ms if start is None else start)
        return credit.set_rate(connection, feature, micro_credits, per, by, from_ms=start, new=new), was

    begins, was = app.write(work)
    before = "no rate" if was is None else f"{was.micro_credits:,} per {was.per_quantity:,}"
    show(
        app,
        {"feature": feature, "micro_credits": micro_credits, "per_quantity": per, "start_ms": begins, "was": was},
        [f"{feature}: {micro_credits:,} micro-credits per {per:,} from {show_time(begins)} on; before: {before}"],
    )


@commands.command()
def plan(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The plan's name")],
    max_concurrent: Annotated[int, typer.Option(min=0, max=MAX_CONCURRENT, help="Sandboxes at once")],
    new: New = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Change a plan, or with --new make one."""
    app: App = context.obj
    by = app.by(actor, reason)
    was = app.write(lambda c: credit.set_plan_limit(c, name, max_concurrent, by, new=new))
    before = "no such plan" if was is None else f"{was:,}"
    line = f"plan {name}: {max_concurrent:,} at once; before: {before}"
    show(app, {"plan": name, "max_concurrent": max_concurrent, "was": was}, [line])


@commands.command()
def plans(context: typer.Context) -> None:
    """List the plans: how many sandboxes at once, and how many customers each has."""
    app: App = context.obj
    found = app.read(credit.list_plans)
    rows = [(row.plan, row.max_concurrent, row.customers) for row in found]
    show(app, {"plans": found}, [table("Plans", ("plan", "#at once", "#customers"), rows)])
