"""`drawdown import`: import samples from files."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from drawdown.cli.app import App
from drawdown.cli.options import FileMap, FileSet
from drawdown.cli.rendering import show
from drawdown.schema.errors import Exit
from drawdown.schema.text import clean, counted
from drawdown.worker.sources.field_map import field_map
from drawdown.worker.sources.samples.importer import ImportReport, import_samples
from drawdown.worker.sources.samples.rows import SAMPLE_FIELDS, ImportOptions


def register(commands: typer.Typer) -> None:
    """Add the command."""
    names = [f"{name} (optional)" if one.optional else name for name, one in SAMPLE_FIELDS.items()]
    help_ = (import_.__doc__ or "").format(fields=f"{', '.join(names[:-1])} and {names[-1]}")
    commands.command("import", help=help_)(import_)


def import_(
    context: typer.Context,
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="CSV or JSON lines, optionally as .gz; - for standard input")
    ],
    map_: FileMap = None,
    set_: FileSet = None,
    id_from_line: Annotated[bool, typer.Option("--id-from-line", help="Ids of samples as PREFIX:LINE")] = False,
    id_prefix: Annotated[
        str | None, typer.Option(help="Prefix of ids made by --id-from-line", show_default="the file's name")
    ] = None,
    time_format: Annotated[
        str, typer.Option(help="Format of times: iso, s, ms, or a pattern such as '%d.%m.%Y %H:%M:%S'")
    ] = "iso",
    zone: Annotated[str, typer.Option(help="Time zone of times without an offset")] = "UTC",
    format_: Annotated[
        str | None, typer.Option("--format", help="Format of the file: csv or jsonl", show_default="by the file's name")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Rollback of the import if a row is rejected or conflicts")
    ] = False,
    rejects: Annotated[Path | None, typer.Option(help="CSV file for the rejected rows")] = None,
) -> None:
    """Import usage samples from a file.

    The columns are {fields}. The import is
    idempotent by id. If you repeat the import after a failure, Drawdown adds only the missing samples. If a row is
    invalid, Drawdown reports its file, line, column and reason, and imports the other rows unless you pass --strict.
    The exit status is 1 if a row is invalid, or has the id of a stored sample with different content.
    """
    app: App = context.obj
    fields = field_map(map_, set_)
    options = ImportOptions(
        format=format_,
        columns=fields.columns,
        constants=fields.constants,
        id_from_line=id_from_line,
        id_prefix=id_prefix,
        time_format=time_format,
        zone=zone,
        strict=strict,
        rejects=rejects,
    )
    report = _import(app, files, options)
    show(app, {"import": _plain(report)}, _report(report, rejects))
    if report.rejected or report.conflicts:
        raise typer.Exit(Exit.PERSON)


def _import(app: App, files: list[str], options: ImportOptions) -> ImportReport:
    engine = app.ready()
    app.require_clock()
    now = app.clock.now_ms()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=app.err, disable=not sys.stderr.isatty()) as progress:
        tasks = {name: progress.add_task(escape(clean(name)), total=_size(name), rows=0) for name in files}
        return import_samples(
            engine,
            files,
            options,
            now,
            on_progress=lambda name, size, rows: progress.update(tasks[name], completed=size, rows=rows),
        )


def _size(name: str) -> int | None:
    path = Path(name)
    return path.stat().st_size if path.is_file() else None


def _plain(report: ImportReport) -> dict[str, object]:
    return {**asdict(report), "reasons": dict(report.reasons)}


def _report(report: ImportReport, rejects: Path | None) -> list[str]:
    lines = [
        f"{counted(report.read, 'row')} read: {report.inserted:,} new, {report.already_there:,} already stored"
        f"{f' ({report.withdrawn:,} of them withdrawn)' if report.withdrawn else ''}, "
        f"{report.rejected:,} refused, {report.conflicts:,} with a stored id but different content"
    ]
    if not report.committed:
        lines[0] += "; nothing was imported (--strict)"
    for title, rows in (("refused", report.first_rejects), ("different content", report.first_conflicts)):
        lines += [f"  {title}: {row}" for row in rows]
    if report.conflicts and report.committed:
        lines.append("  quarantined: rows with different content. To list them, run `drawdown sample quarantined`")
    if report.withdrawn:
        lines.append("  withdrawn: Drawdown never bills a withdrawn id again. To bill such a row, give it a new id")
    shown = len(report.first_rejects)
    if report.rejected > shown:
        where = f"all are in {rejects}" if rejects else "to see all, pass --rejects FILE"
        lines.append(f"  … and {report.rejected - shown:,} more refused; {where}")
    return lines
