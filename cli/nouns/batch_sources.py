"""`drawdown source`: manage the folders and queries that ticks read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from drawdown.cli.app import App
from drawdown.cli.declared import of_noun
from drawdown.cli.options import Actor, FileMap, FileSet, Reason, only_with
from drawdown.cli.rendering import show
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.text import quote_value, why_unread
from drawdown.schema.typed.parsing import parse_length, show_time
from drawdown.worker.batches import sources
from drawdown.worker.batches.actions import ACTIONS, LISTS
from drawdown.worker.batches.files import NotNow
from drawdown.worker.batches.objects import is_prefix, require_listed
from drawdown.worker.batches.query_source import MAX_QUERY_CHARS, PERIODS_MS, Question
from drawdown.worker.engine.stores import Databases
from drawdown.worker.sources.field_map import OWN_NAMES, field_map

commands = of_noun("source", *ACTIONS, *LISTS)

Every = Literal["hour", "day"]
Name = Annotated[str, typer.Argument(metavar="SOURCE", help="Name of the source")]


@commands.command("add")
def add(
    context: typer.Context,
    source: Name,
    folder: Annotated[
        str | None,
        typer.Argument(
            metavar="[FOLDER]", help="Folder on each machine that ticks, or s3://BUCKET/PREFIX; without subfolders"
        ),
    ] = None,
    query: Annotated[Path | None, typer.Option(help="File with a query, in place of a folder")] = None,
    database: Annotated[str, typer.Option(help="Database of the query: NAME of DRAWDOWN_QUERY_NAME_URL")] = "",
    every: Annotated[Every, typer.Option(help="Period of the query, in UTC")] = "hour",
    closed_after: Annotated[str, typer.Option(help="Delay after a period's end before it is queried")] = "1h",
    from_: Annotated[
        str | None, typer.Option("--from", help="First period to query, or to query again", show_default="now")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Addition even if the object store does not list the prefix yet")
    ] = False,
    map_: FileMap = None,
    set_: FileSet = None,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Add a folder or a query that ticks read.

    Each tick takes the new files of a folder, or of a prefix of an object store, one minute after their last write.
    For a query, each tick takes the rows of the periods that are closed.
    """
    app: App = context.obj
    by = app.by(actor, reason)
    if (folder is None) == (query is None):
        raise UsageError("specify either a folder or --query, not both")
    fields = field_map(map_, set_)
    if query is None:
        only_with(context, "FOLDER", "source", "folder", "force", "map_", "set_", "actor", "reason")
        if is_prefix(str(folder)) and not force:
            _listed(app, str(folder))
        found = app.write(lambda c: sources.add_source(c, source, str(folder), by, fields))
    else:
        if fields != OWN_NAMES:
            raise UsageError("--map and --set apply only to files. In a query, name the columns with AS")
        question = _question(app, query, database, every, closed_after)
        from_ms = None if from_ is None else app.moment(from_, "--from")
        found = app.write(lambda c: sources.add_query(c, source, question, by, from_ms))
    watches = "watches" if found.paused_ms is None else "is paused (`source pause --undo` resumes it), and watches"
    line = f"{source}: {watches} {found.folder}"
    if found.query is not None:
        line += f" of {found.asked_of}, each {every} from {show_time(found.next_ms)} on"
    if found.field_map is not None:
        line += f", with {found.fields}"
    show(app, {"source": found}, [line])


def _listed(app: App, prefix: str) -> None:
    """Check that this machine's key can list the object store. Errors: Refused."""
    try:
        require_listed(app.settings.objects(), prefix)
    except NotNow as error:
        raise Refused(f"the source was not added: {error}. Fix the cause, or pass --force") from error


def _question(app: App, query: Path, database: str, every: Every, closed_after: str) -> Question:
    """Return a query with its database, period and delay.

    Errors: UsageError if the file is unreadable, or this machine does not have the database.
    """
    if not database:
        raise UsageError("--query needs a database. Pass --database NAME, with the NAME of DRAWDOWN_QUERY_NAME_URL")
    if database.lower() not in (known := app.settings.databases().urls):
        named = (
            f"expected one of {', '.join(sorted(known))}" if known else "this machine does not have a database to query"
        )
        raise UsageError(
            f"unknown --database {quote_value(database)}: {named}. To add this database, set "
            f"{Databases.setting(database)}. The name can have only letters, digits and _"
        )
    try:
        with query.open(encoding="utf-8") as file:
            text = file.read(MAX_QUERY_CHARS + 1).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--query: {query} cannot be read: {why_unread(error)}. Check the file") from error
    return Question(text, database.lower(), PERIODS_MS[every], parse_length(closed_after, "--closed-after"))
