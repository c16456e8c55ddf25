"""`drawdown supplier`: who is owed a share of what runs cost."""

from __future__ import annotations

from typing import Annotated

import typer

from drawdown.cli.app import App
from drawdown.cli.options import Actor, Most, New, Reason, Undo
from drawdown.cli.rendering import show, table
from drawdown.schema.typed.parsing import (
    lasting,
    parse_credits,
    parse_length,
    parse_percent,
    show_credits,
    show_percent,
)
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.settlements.lists import list_suppliers

commands = typer.Typer()

Name = Annotated[str, typer.Argument(metavar="SUPPLIER", help="The supplier's id")]


@commands.command("set")
def set_(
    context: typer.Context,
    name: Name,
    share: Annotated[
        str | None, typer.Option(metavar="PERCENT", help="Its share of what a run is charged", show_default="as it is")
    ] = None,
    hold: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="How long a settlement waits: 45d", show_default="as it is; 35d of a new one"
        ),
    ] = None,
    threshold: Annotated[
        str | None,
        typer.Option(metavar="CREDITS", help="A batch is of more than this", show_default="as it is; 100 of a new one"),
    ] = None,
    clawbacks: Annotated[
        bool | None,
        typer.Option("--clawbacks/--no-clawbacks", help="Whether what was released may be taken back"),
    ] = None,
    new: New = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Change a supplier's terms, or with --new make one. They are those of runs that end from now on."""
    app: App = context.obj
    change = settlements.Change(
        None if share is None else parse_percent(share),
        None if hold is None else parse_length(hold, "--hold"),
        None if threshold is None else parse_credits(threshold),
        clawbacks,
    )
    by = app.by(actor, reason)
    found, was = app.write(lambda c: settlements.set_supplier(c, name, change, by, new=new))
    terms = found.terms
    said = "" if was is None or found.revision != was.revision else "nothing changes; "
    line = (
        f"supplier {name}: {said}{show_percent(terms.share_ppm)}, held for {lasting(terms.hold_ms)}, a batch of more "
    )
    line += (
        f"than {show_credits(terms.threshold_micro)} credits, claw-backs: {'yes' if terms.takes_clawbacks else 'no'}"
    )
    show(app, {"supplier": name, **vars(terms), "was": None if was is None else was.terms}, [line])


@commands.command()
def freeze(
    context: typer.Context, name: Name, undo: Undo = False, actor: Actor = None, reason: Reason = "not given"
) -> None:
    """Release nothing to a supplier until it is undone. Runs that name it go on, and are settled."""
    app: App = context.obj
    by = app.by(actor, reason)
    done = app.write(lambda c: settlements.freeze_supplier(c, name, by, undo=undo))
    line = f"supplier {name}: {'not frozen' if undo else 'frozen'}{'' if done else ' before; nothing changes'}"
    show(app, {"supplier": name, "is_frozen": not undo, "changed": done}, [line])


@commands.command("list")
def list_(context: typer.Context, most: Most = 50) -> None:
    """List suppliers: terms, and what each is owed, was paid and gave back, in credits.

    Net is all that its settlements ever came to: hold, eligible, frozen, released and reversed add up to it.
    """
    app: App = context.obj
    found = app.read(lambda c: list_suppliers(c, app.clock.now_ms(), most))
    money = ("net", "hold", "eligible", "frozen", "released", "reversed", "clawed_back", "carried", "paid", "unsettled")
    rows = [
        (one.supplier, show_percent(one.share_ppm), lasting(one.hold_ms), "yes" if one.is_frozen else "no",
         *(show_credits(getattr(one.sums, f"{name}_micro")) for name in money))
        for one in found
    ]  # fmt: skip
    columns = ("supplier", "#share", "#held for", "all frozen", *(f"#{name.replace('_', ' ')}" for name in money))
    show(app, {"suppliers": found}, [table("Suppliers", columns, rows)])
