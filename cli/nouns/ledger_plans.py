"""`drawdown ledger plan` and `tier`: what customers may do at once, what plans give, and what is bought besides."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Annotated, Any

import sqlalchemy as sa
import typer

from drawdown.cli.app import App
from drawdown.cli.options import MAX_CONCURRENT, Actor, New, Reason, Undo
from drawdown.cli.parsing import parse_credits, show_credits, show_time
from drawdown.cli.rendering import show, table
from drawdown.ledger.monthly.terms import newest
from drawdown.ledger.plans import ONE_PPM, HoldTerms, read_hold_terms
from drawdown.worker.commands import credit, tiers
from drawdown.worker.views.tiers import list_tiers

AtOnce = Annotated[
    int | None, typer.Option(min=0, max=MAX_CONCURRENT, help="Sandboxes at once", show_default="as it is")
]
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


def register(commands: typer.Typer) -> None:
    """Add the commands to `drawdown ledger`."""
    commands.command("plan")(plan)
    commands.command("plans")(plans)
    commands.command("tier")(tier)
    commands.command("tiers")(tiers_)
    commands.command("tier-buy")(tier_buy)


def plan(
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

    def work(connection: sa.Connection) -> int | None:
        before = read_hold_terms(connection, name) or HoldTerms()
        holds = replace(before, **changed) if changed else None
        gives = replace(newest(connection, name), **gives_now) if gives_now else None
        return credit.set_plan_limit(connection, name, max_concurrent, by, new=new, holds=holds, gives=gives)

    was = app.write(work)
    most = was if max_concurrent is None else max_concurrent
    assert most is not None
    before = "no such plan" if was is None else f"{was:,}"
    lines = [f"plan {name}: {most:,} at once; before: {before}"]
    changed |= gives_now
    lines += [f"{field.removesuffix('_micro')}: {_said(field, value)}" for field, value in sorted(changed.items())]
    show(app, {"plan": name, "max_concurrent": most, "was": was, **changed}, lines)


def _amount(text: str) -> int | None:
    return None if text == "none" else parse_credits(text)


def _said(field: str, value: object) -> str:
    if field == "hold_factor_ppm":
        return f"{Decimal(str(value)) / ONE_PPM:f}"
    return show_credits(value) if type(value) is int else "none" if value is None else str(value).lower()


def plans(context: typer.Context) -> None:
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


def tier(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The tier's name")],
    at_once: AtOnce = None,
    price: Annotated[
        str | None, typer.Option(metavar="CREDITS", help="What a calendar month costs", show_default="as it is")
    ] = None,
    new: New = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Change a tier, or with --new make one: sandboxes at once beside what plans allow, bought with `tier-buy`. Another
    price is that of months to come."""
    app: App = context.obj
    by = app.by(actor, reason)
    change = tiers.Change(at_once, None if price is None else parse_credits(price))
    found, was = app.write(lambda c: tiers.set_tier(c, name, change, by, new=new))
    line = f"tier {name}: {found.at_once:,} at once for {show_credits(found.price_micro)} credits a month; before: "
    line += "no such tier" if was is None else f"{was.at_once:,} for {show_credits(was.price_micro)}"
    show(app, {**vars(found), "was": was}, [line])


def tiers_(context: typer.Context) -> None:
    """List the tiers: how many sandboxes at once, what a month costs, and how many customers hold each."""
    app: App = context.obj
    found = app.read(list_tiers)
    rows = [(row.tier, row.at_once, show_credits(row.price_micro), row.customers) for row in found]
    show(app, {"tiers": found}, [table("Tiers", ("tier", "#at once", "#a month", "#customers"), rows)])


def tier_buy(
    context: typer.Context,
    customer: Annotated[str, typer.Argument(help="The customer (by default the organisation's id)")],
    name: Annotated[str, typer.Argument(metavar="TIER", help="The tier's name")],
    undo: Undo = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Have a customer hold a tier: this calendar month is charged at once, each other as it begins. With --undo it ends
    with the month that is paid for. It ends, too, where there is no credit for the next month."""
    app: App = context.obj
    by = app.by(actor, reason)
    act = tiers.let_end if undo else tiers.buy
    done = app.write(lambda c: act(c, customer, name, by))
    held, most = done.holder, done.wallet.max_concurrent
    until = show_time(held.paid_to_ms)
    how = f"it ended at {show_time(held.ended_ms)}" if held.ended_ms is not None else f"paid for until {until}"
    how += ", and goes on then" if held.renews and held.ended_ms is None else ""
    line = f"{customer}: {name}, {how}; {show_credits(done.charged_micro)} credits charged, "
    line += f"{'any number of' if most is None else f'{most:,}'} sandboxes at once"
    line += "" if done.changed else "; nothing changes"
    result = {**vars(held), "charged_micro": done.charged_micro, "changed": done.changed, "max_concurrent": most}
    show(app, {**result, "balance_micro": done.wallet.balance_micro}, [line])
