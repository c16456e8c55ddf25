"""`drawdown source`: folders whose files ticks take."""

from __future__ import annotations

from typing import Annotated

import typer

from drawdown.cli.app import App
from drawdown.cli.options import Actor, Reason, Undo
from drawdown.cli.rendering import show, table
from drawdown.schema.typed.parsing import show_time
from drawdown.worker.batches import sources

commands = typer.Typer()

Name = Annotated[str, typer.Argument(metavar="SOURCE", help="The source's name")]


@commands.command("add")
def add(
    context: typer.Context,
    source: Name,
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="On each host that ticks, or s3://BUCKET/PREFIX; nothing below it")
    ],
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Watch a folder, or a prefix of an object store. Each tick takes the new files, a minute after they were written
    last."""
    app: App = context.obj
    by = app.by(actor, reason)
    found = app.write(lambda c: sources.add_source(c, source, folder, by))
    watches = "watches" if found.paused_ms is None else "is paused, and `source pause --undo` has it watch"
    show(app, {"source": found}, [f"{source}: {watches} {found.folder}"])


@commands.command("list")
def list_(context: typer.Context) -> None:
    """List watched folders."""
    app: App = context.obj
    found = app.read(sources.list_sources)
    columns = ("source", "folder", "#batches", "since", "paused", "by")
    rows = [(s.source, s.folder, s.batches, show_time(s.at_ms), show_time(s.paused_ms), s.actor) for s in found]
    show(app, {"sources": found}, [table("Watched folders", columns, rows)])


@commands.command()
def pause(
    context: typer.Context,
    source: Name,
    undo: Undo = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Take nothing more from a folder, until that is taken back. What was taken stays."""
    app: App = context.obj
    by = app.by(actor, reason)
    app.write(lambda c: sources.pause_source(c, source, by, resume=undo))
    show(app, {"source": source, "paused": not undo}, [f"{source}: " + ("watched" if undo else "paused")])
