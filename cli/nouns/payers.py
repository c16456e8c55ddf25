"""`drawdown payer`: whose wallet pays for runs of other organisations."""

from __future__ import annotations

from typing import Annotated

import typer

from drawdown.cli.app import App
from drawdown.cli.options import Actor, Most, Reason
from drawdown.cli.rendering import show, table
from drawdown.schema.typed.parsing import parse_credits, show_credits, show_time
from drawdown.worker.wallets import pools
from drawdown.worker.wallets.pools import list_payers

commands = typer.Typer()

Payer = Annotated[str, typer.Argument(metavar="PAYER", help="The customer, or pool, that pays")]
Org = Annotated[str, typer.Argument(metavar="ORG", help="The organisation with the executions that it pays for")]


@commands.command()
def allow(
    context: typer.Context,
    payer: Payer,
    org: Org,
    limit: Annotated[
        str | None,
        typer.Option(metavar="CREDITS", help="What runs from now on may hold and cost in all", show_default="no limit"),
    ] = None,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Let runs of an organisation that name this payer (`execution accept --payer`) be paid from its wallet. A run
    keeps its payer. Another limit begins to count from zero."""
    app: App = context.obj
    by, limit_micro = app.by(actor, reason), None if limit is None else parse_credits(limit)
    found, was = app.write(lambda c: pools.allow(c, payer, org, by, limit_micro=limit_micro))
    said = "; nothing changes" if found == was else ""
    most = "without a limit" if found.limit_micro is None else f"up to {show_credits(found.limit_micro)} credits"
    line = f"{payer} pays for runs of {org} from {show_time(found.since_ms)} on, {most}{said}"
    show(app, {**vars(found), "changed": found != was}, [line])


@commands.command()
def end(context: typer.Context, payer: Payer, org: Org, actor: Actor = None, reason: Reason = "not given") -> None:
    """Let no more runs of an organisation be paid from another wallet. Those that were accepted are paid for."""
    app: App = context.obj
    by = app.by(actor, reason)
    changed = app.write(lambda c: pools.end(c, payer, org, by))
    said = "pays for no more runs of" if changed else "was no payer of"
    show(
        app,
        {"payer": payer, "org_id": org, "changed": changed},
        [f"{payer} {said} {org}{'' if changed else ' before'}"],
    )


@commands.command("list")
def list_(
    context: typer.Context,
    payer: Annotated[str, typer.Option(help="This payer alone")] = "",
    org: Annotated[str, typer.Option(help="Of this organisation alone")] = "",
    most: Most = 50,
) -> None:
    """List who pays for whose runs, up to which limit, and what those runs hold and have cost."""
    app: App = context.obj
    found = app.read(lambda c: list_payers(c, payer, org, app.clock.now_ms(), most))
    rows = [
        (row.payer, row.org_id, "yes" if row.allowed else "ended", show_credits(row.spent_micro),
         None if row.limit_micro is None else show_credits(row.limit_micro), show_time(row.since_ms), row.reason)
        for row in found
    ]  # fmt: skip
    columns = ("payer", "org", "pays", "#spent", "#limit", "since", "reason")
    show(app, {"payers": found}, [table("Payers", columns, rows)])
