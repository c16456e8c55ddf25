"""`drawdown source`: folders whose files ticks take."""

from __future__ import annotations

from typing import Annotated

import typer

from drawdown.cli.app import App
from drawdown.cli.options import Actor, Reason, Undo
from drawdown.cli.rendering import show, table
from drawdown.schema.errors import Refused
from drawdown.schema.typed.parsing import show_time
from drawdown.worker.batches import sources
from drawdown.worker.batches.files import NotNow
from drawdown.worker.batches.objects import is_prefix, require_listed

commands = typer.Typer()

Name = Annotated[str, typer.Argument(metavar="SOURCE", help="The source's name")]


@commands.command("add")
def add(
    context: typer.Context,
    source: Name,
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="On each host that ticks, or s3://BUCKET/PREFIX; nothing below it")
    ],
    force: Annotated[bool, typer.Option("--force", help="Also where the object store does not list it yet")] = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Watch a folder, or a prefix of an object store. Each tick takes the new files, a minute after they were written
    last. A prefix is listed first, with this host's key: one that cannot be is not added."""
    app: App = context.obj
    if is_prefix(folder) and not force:
        try:
            require_listed(app.settings.objects(), folder)
        except NotNow as error:
            raise Refused(f"{error}; nothing was added: mend it, or --force") from error
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


@commands.command()
def remove(
    context: typer.Context,
    source: Name,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Forget a source that never took anything: one that was mistyped. One that did is paused."""
    app: App = context.obj
    by = app.by(actor, reason)
    app.write(lambda c: sources.remove_source(c, source, by))
    show(app, {"source": source, "removed": True}, [f"{source}: removed"])
