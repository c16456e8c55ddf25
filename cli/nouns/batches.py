"""`drawdown batch`: files of usage, taken once, listed, withdrawn whole."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from drawdown.cli.app import App
from drawdown.cli.options import Actor, FileMap, FileSet, PageSize, Reason, only_with
from drawdown.cli.rendering import show, table
from drawdown.schema.errors import DrawdownError, Exit
from drawdown.schema.typed.parsing import show_time
from drawdown.worker.batches import sources
from drawdown.worker.batches.files import found_file
from drawdown.worker.batches.objects import is_prefix, object_at
from drawdown.worker.batches.take import (
    BY_HAND,
    TakenFile,
    WithdrawnBatch,
    accept,
    judge_batch,
    meet_types,
    most_samples,
    take,
    unread,
    withdraw_some,
)
from drawdown.worker.sources.field_map import FieldMap, field_map

commands = typer.Typer()


@commands.command("take")
def take_(
    context: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...", help="Parquet, CSV, JSON lines, these two also as .gz or .zst; or s3://BUCKET/NAME"
        ),
    ],
    map_: FileMap = None,
    set_: FileSet = None,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Take files of usage: org_id, ts, and memory_mb with interval_s, or event_type with quantity.

    A file's content is taken once, whatever it is called; taking it again changes nothing. Rows that cannot be billed
    are set aside. The exit status is 1 where there are any in a file that is taken, where a name stands for other
    content, and where the file's content was withdrawn. Of several files each is tried, whatever becomes of the others.
    """
    app: App = context.obj
    app.ready()
    fields = field_map(map_, set_)
    done: list[TakenFile] = []
    faults: list[DrawdownError] = []
    for place in files:
        try:
            done.append(_take(app, place, fields, actor, reason))
        except DrawdownError as error:
            if len(files) == 1:
                raise
            faults.append(error)
            done.append(unread(BY_HAND, Path(place).name, error))
    show(app, {"files": done}, [line for one in done for line in _lines(one)])
    if any(fault.exit_status != Exit.LEFT for fault in faults) or any(
        one.outcome == "conflict" or one.withdrawn or (one.outcome == "taken" and one.refused) for one in done
    ):  # also where a path is wrong: others may be taken
        raise typer.Exit(Exit.PERSON)
    if faults:
        raise typer.Exit(Exit.LEFT)


def _take(app: App, place: str, fields: FieldMap, actor: str | None, reason: str) -> TakenFile:
    from drawdown.worker.batches.file_sums import add_up  # with DuckDB, which no other command needs

    by = app.by(actor, reason)
    file = object_at(app.settings.objects(), place) if is_prefix(place) else found_file(Path(place))
    with closing(add_up(file, by.now_ms, app.read(most_samples), fields=fields)) as sums:
        app.write(lambda c: meet_types(c, sums, by.now_ms))
        return app.write(lambda c: take(c, sums, BY_HAND, by))


def _lines(one: TakenFile) -> list[str]:
    if one.outcome != "taken":
        return [str(one)]
    lines = [f"{one.name}: taken, {one.rows:,} rows, {one.refused:,} refused; batch {one.batch}"]
    if one.refused:
        lines.append(f"  `drawdown batch list --refused {quote(one.batch)}` shows the refused rows")
    return lines


@commands.command("accept")
def accept_(
    context: typer.Context,
    batch: Annotated[str, typer.Argument(metavar="BATCH", help="The file's batch, as `batch list` shows it")],
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Bill a file whole although it shares rows with a batch that was taken.

    The next tick takes a file of a watched folder. Give `batch take` again for a file that you named by hand.
    """
    app: App = context.obj
    by = app.by(actor, reason)
    files = app.write(lambda c: accept(c, batch, by))
    show(app, {"accepted": {"batch": batch, "files": files}}, [f"{batch}: the next tick takes it, with all its rows"])


@commands.command("list")
def list_(
    context: typer.Context,
    source: Annotated[str | None, typer.Option(help="Only of this watched folder")] = None,
    refused: Annotated[str | None, typer.Option("--refused", help="The refused rows of this batch instead")] = None,
    most: PageSize = 100,
) -> None:
    """List files as they came, the latest first, with what became of each; or the refused rows of a batch."""
    app: App = context.obj
    if refused is not None:
        only_with(context, "--refused")
        rows = app.read(lambda c: sources.refused_rows(c, refused))
        lines = [(row.number, row.wrong_column, row.said) for row in rows]
        return show(app, {"rows": rows}, [table(f"Refused of {refused}", ("#row", "column", "says"), lines)])
    found = app.read(lambda c: sources.list_batches(c, source=source, most=most))
    plain = [
        (
            one.batch,
            one.source,
            one.name,
            "withdrawn" if one.withdrawn_ms is not None else one.outcome,
            show_time(one.seen_ms),
            one.rows,
            one.refused,
            show_time(one.from_ms),
            show_time(one.to_ms),
            one.said,
        )
        for one in found
    ]
    columns = ("batch", "source", "file", "state", "seen", "#rows", "#refused", "from", "to", "")
    return show(app, {"batches": found}, [table("Batches", columns, plain)])


@commands.command()
def withdraw(
    context: typer.Context,
    batch: Annotated[str, typer.Argument(metavar="BATCH", help="The batch's id, as `batch list` shows it")],
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Withdraw all that a file put in. The next tick gives back what was billed for it.

    For good: what is right comes as a file of other content, which may have the same name. Ended half-way, give it
    again.
    """
    app: App = context.obj
    by, judged = app.by(actor, reason), app.read(lambda c: judge_batch(c, batch))
    done: str | WithdrawnBatch = ""
    while isinstance(done, str):
        done = app.write(partial(withdraw_some, batch=batch, by=by, after=done, judged=judged))
    said = f"{done.samples:,} samples withdrawn"
    if done.closed:
        said += f"; {done.closed:,} lie below a floor and are closed for good: what was billed of them stays billed"
    show(app, {"withdrawn": done}, [f"{batch}: " + ("was withdrawn before" if done.already else said)])
