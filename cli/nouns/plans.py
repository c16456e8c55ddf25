"""`drawdown plan`: what customers may do at once, what their runs hold, and what they are given."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

import typer

from drawdown.cli.app import App
from drawdown.cli.options import Actor, AtOnce, DryRun, New, Reason
from drawdown.cli.rendering import show, show_change, table
from drawdown.ledger.accounts import ONE_PPM
from drawdown.schema.typed.parsing import parse_credits, show_credits
from drawdown.worker.wallets import actions as credit

commands = typer.Typer()

Included = Annotated[str | None, typer.Option(metavar="CREDITS", help="What it includes each month; none: nothing")]
RolloverMin = Annotated[
    str | None, typer.Option(metavar="CREDITS", help="What is left rolls over where it is this much at least")
]
RolloverMax = Annotated[
    str | None, typer.Option(metavar="CREDITS", help="So much of it rolls over at most; none: nothing")
]
First = Annotated[str | None, typer.Option(metavar="CREDITS", help="What a new customer is given once; none: nothing")]
HoldFactor = Annotated[
    str | None, typer.Option(metavar="N", help="A run holds its estimate times this", show_default="as it is")
]
UnknownHold = Annotated[
    str | None, typer.Option(metavar="CREDITS", help="What a run without an estimate holds; none: it is refused")
]
MostHold = Annotated[str | None, typer.Option(metavar="CREDITS", help="The most that one run may hold; none: no end")]
MostHeld = Annotated[
    str | None, typer.Option(metavar="CREDITS", help="The most that all runs of a wallet may hold; none: no end")
]
HoldsHalt = Annotated[
    bool | None, typer.Option("--holds-halt/--holds-pass", help="Whether what is held counts for halts")
]


@commands.command("set")
def set_(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The plan's name")],
    max_concurrent: AtOnce = None,
    included: Included = None,
    rollover_min: RolloverMin = None,
    rollover_max: RolloverMax = None,
    first: First = None,
    hold_factor: HoldFactor = None,
    unknown_hold: UnknownHold = None,
    most_hold: MostHold = None,
    most_held: MostHeld = None,
    holds_halt: HoldsHalt = None,
    new: New = False,
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Change a plan, or with --new make one. What it gives changes for months that begin later, and for who comes onto
    it from now on."""
    app: App = context.obj
    by = app.by(actor, reason)
    asked = {"unknown_hold_micro": unknown_hold, "most_hold_micro": most_hold, "most_held_micro": most_held}
    changed: dict[str, Any] = {field: _amount(text) for field, text in asked.items() if text is not None}
    changed |= {} if hold_factor is None else {"hold_factor_ppm": parse_credits(hold_factor)}
    changed |= {} if holds_halt is None else {"holds_halt": holds_halt}
    given = {"included_micro": included, "rollover_min_micro": rollover_min, "rollover_max_micro": rollover_max}
    given |= {"first_micro": first}
    gives_now = {field: _amount(text) or 0 for field, text in given.items() if text is not None}

    holds = dict(changed)
    was = app.write(
        lambda c: credit.set_plan_limit(c, name, max_concurrent, by, new=new, holds=holds, gives=gives_now),
        rollback=dry_run,
    )
    most = was if max_concurrent is None else max_concurrent
    assert most is not None
    before = "no such plan" if was is None else f"{was:,}"
    lines = [f"plan {name}: {most:,} at once; before: {before}"]
    changed |= gives_now
    lines += [f"{_named(field)}: {_said(field, value)}" for field, value in sorted(changed.items())]
    show_change(app, {"plan": name, "max_concurrent": most, "was": was, **changed}, lines, dry_run=dry_run)


def _amount(text: str) -> int | None:
    return None if text == "none" else parse_credits(text)


def _named(field: str) -> str:
    """As its option is called."""
    return field.removesuffix("_micro").removesuffix("_ppm").replace("_", "-")


def _said(field: str, value: object) -> str:
    if field == "hold_factor_ppm":
        return f"{Decimal(str(value)) / ONE_PPM:f}"
    return show_credits(value) if type(value) is int else "none" if value is None else str(value).lower()


@commands.command("list")
def list_(context: typer.Context) -> None:
    """List the plans: how many sandboxes at once, how many customers each has, what its runs hold, and what it
    gives."""
    app: App = context.obj
    found = app.read(credit.list_plans)
    rows = [
        (row.plan, row.max_concurrent, row.customers, f"{Decimal(row.hold_factor_ppm) / ONE_PPM:f}",
         *(None if micro is None else show_credits(micro)
           for micro in (row.unknown_hold_micro, row.most_hold_micro, row.most_held_micro)), row.holds_halt,
         *map(show_credits, (row.included_micro, row.rollover_min_micro, row.rollover_max_micro, row.first_micro)))
        for row in found
    ]  # fmt: skip
    columns = ("plan", "#at once", "#customers", "#factor", "#without estimate", "#one run", "#all runs", "holds halt",
               "#included", "#rolls over from", "#up to", "#first")  # fmt: skip
    show(app, {"plans": found}, [table("Plans", columns, rows)])
