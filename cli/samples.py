"""`drawdown sample`: taking samples back, and deleting old ones."""

from __future__ import annotations

from typing import Annotated

import typer

from drawdown.cli.options import Actor, DryRun, Reason
from drawdown.cli.render import show, table
from drawdown.cli.state import State
from drawdown.cli.times import parse_time, show_time
from drawdown.worker import corrections, prune

app = typer.Typer(help="Samples: withdraw wrong ones, prune old ones.", no_args_is_help=True)


@app.command()
def withdraw(
    context: typer.Context,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Samples")],
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Declare samples wrong; the next tick gives back what was billed for them."""
    state: State = context.obj
    said = state.said(actor, reason)
    done = state.write(lambda c: corrections.withdraw(c, ids, said), rollback=dry_run)
    rows = [(d.sample_id, d.org_id, show_time(d.window_ms), d.interval_s, d.already) for d in done]
    columns = ("sample", "org", "window", "#seconds", "withdrawn before")
    show(state, {"withdrawn": done, "dry_run": dry_run}, [table("Withdrawn", columns, rows)])


@app.command("prune")
def prune_(
    context: typer.Context,
    before: Annotated[str, typer.Option(help="Delete samples of windows before this time")],
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Close old windows for good and delete their samples. What is pending or unsettled keeps its organisation back."""
    state: State = context.obj
    said, moment = state.said(actor, reason), parse_time(before, "--before")
    done = state.write(lambda c: prune.prune(c, moment, said), rollback=dry_run)
    text = f"{'would delete' if dry_run else 'deleted'} {done.samples:,} samples before {show_time(done.before_ms)}"
    held = f"; {done.held_back:,} organisations have something open before that" if done.held_back else ""
    show(state, {"pruned": done, "dry_run": dry_run}, [text + held])
