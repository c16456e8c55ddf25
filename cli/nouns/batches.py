"""`drawdown batch`: take files of usage once, list them, and withdraw whole files."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from drawdown.cli.app import App
from drawdown.cli.declared import of_noun
from drawdown.cli.options import Actor, FileMap, FileSet, Reason
from drawdown.cli.rendering import show
from drawdown.schema.errors import DrawdownError, Exit
from drawdown.schema.text import counted, typed
from drawdown.worker.batches.actions import ACTIONS, LISTS
from drawdown.worker.batches.files import found_file
from drawdown.worker.batches.objects import is_prefix, object_at
from drawdown.worker.batches.take import (
    BY_HAND,
    TakenFile,
    meet_types,
    most_samples,
    take,
    unread,
)
from drawdown.worker.sources.field_map import FieldMap, field_map

commands = of_noun("batch", *ACTIONS, *LISTS)


@commands.command("take")
def take_(
    context: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Parquet, CSV or JSON lines, the latter two optionally as .gz or .zst; or s3://BUCKET/NAME",
        ),
    ],
    map_: FileMap = None,
    set_: FileSet = None,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Take files of usage.

    The columns are org_id, ts, and either memory_mb with interval_s or event_type with quantity. Drawdown takes a
    file's content once, even under another name. If you repeat the command, Drawdown does not count the usage twice. It
    sets aside rows that it cannot bill. The exit status is 1 if Drawdown set aside rows, or did not take a file because
    of a conflict or a withdrawal. If you pass several files, Drawdown tries each file. Then the status is also 1 or 75
    if a file cannot be read.
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
    show(app, {"files": done}, [line for one in done for line in _report(one)])
    if any(fault.exit_status != Exit.LEFT for fault in faults) or any(
        one.outcome == "conflict" or one.withdrawn or (one.outcome == "taken" and one.refused) for one in done
    ):  # exit with 1 even after a wrong path (status 2), because other files may be taken
        raise typer.Exit(Exit.PERSON)
    if faults:
        raise typer.Exit(Exit.LEFT)


def _take(app: App, place: str, fields: FieldMap, actor: str | None, reason: str) -> TakenFile:
    from drawdown.worker.batches.file_sums import add_up  # `add_up` loads DuckDB, which only files need

    by = app.by(actor, reason)
    file = object_at(app.settings.objects(), place) if is_prefix(place) else found_file(Path(place))
    with closing(add_up(file, by.now_ms, app.read(most_samples), fields=fields)) as sums:
        app.write(lambda c: meet_types(c, sums, by.now_ms))
        return app.write(lambda c: take(c, sums, BY_HAND, by))


def _report(one: TakenFile) -> list[str]:
    if one.outcome != "taken":
        return [str(one)]
    lines = [f"{one.name}: taken, {counted(one.rows, 'row')}, {one.refused:,} refused; batch {one.batch}"]
    if one.refused:
        lines.append(f"  to see the refused rows, run `{typed('drawdown', 'batch', 'show', one.batch)}`")
    return lines
