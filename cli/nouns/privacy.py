"""`drawdown privacy`: scan reports for private data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from drawdown.cli.app import App
from drawdown.cli.rendering import show, table
from drawdown.events.privacy.leaves import MAX_REPORT_BYTES
from drawdown.events.privacy.rules import MAX_RULES_FILE_BYTES, ForeignRule, meanings, rules_of
from drawdown.schema.errors import DatabaseNotReady, Exit, UsageError
from drawdown.schema.text import counted
from drawdown.worker.usage.privacy import Beside, ScannedFile, scan_file

commands = typer.Typer()


@commands.callback()
def privacy() -> None:
    """Group the commands of `drawdown privacy`."""


@commands.command("scan")
def scan(
    context: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="JSON or JSON lines; - for standard input")],
    shape: Annotated[str | None, typer.Option(help="Shape that each report must have: usage-summary")] = None,
    rules: Annotated[Path | None, typer.Option(metavar="FILE", help="File with more rules: a gitleaks.toml")] = None,
) -> None:
    """Scan reports for private data.

    The scan looks for secrets, ids, addresses and image bytes. It also looks for the configured secrets, and for the
    ids of the database if it exists. A finding shows the place and the rule, not the value. The exit status is 1 with
    findings and 0 without. If a file cannot be read, the status is 2, and the scan still reads other files.
    """
    app: App = context.obj
    by = Beside(shape, app.settings.secrets(), () if rules is None else _others(str(rules)))
    alone = _alone(app)
    found: list[ScannedFile] = []
    unread: list[UsageError] = []
    for name in files:
        try:
            found.append(_scanned(app, name, by, beside_database=not alone))
        except UsageError as error:
            unread.append(error)
    if unread and not found:
        raise unread[0]
    not_read = [str(error) for error in unread]
    result = {"files": found, "database": not alone, "unread": not_read}
    show(app, result, [*_report(found, alone), *not_read])
    if unread:
        raise typer.Exit(Exit.USAGE)
    if any(one.count for one in found):
        raise typer.Exit(Exit.PERSON)


def _alone(app: App) -> str:
    """Return the reason why the scan cannot read the ids of a database; '' if it can."""
    try:
        app.ready()
    except DatabaseNotReady as error:
        return str(error)
    return ""


def _scanned(app: App, name: str, by: Beside, *, beside_database: bool) -> ScannedFile:
    """Scan a file. Errors: UsageError if the file cannot be read."""
    content = _content(name, MAX_REPORT_BYTES)
    if beside_database:
        return app.read(lambda c: scan_file(c, name, content, by))
    return scan_file(None, name, content, by)


@commands.command("rules")
def rules_(context: typer.Context) -> None:
    """List the rules of a scan by the names in its findings.

    Rules of a gitleaks.toml are not in the list.
    """
    found = meanings()
    show(context.obj, {"rules": found}, [table("Rules", ("rule", "finds"), list(found.items()))])


def _others(name: str) -> tuple[ForeignRule, ...]:
    content = _content(name, MAX_RULES_FILE_BYTES)
    if len(content) > MAX_RULES_FILE_BYTES:
        raise UsageError(f"{name} is too large: expected at most {MAX_RULES_FILE_BYTES:,} bytes", code="bad_rules")
    try:
        return rules_of(content)
    except UsageError as error:
        raise UsageError(f"{name}: {error}", code=error.code) from None


def _content(name: str, most: int) -> bytes:
    """Return the content of a file, up to one byte above the limit.

    The extra byte shows that the file is too large. Errors: UsageError.
    """
    try:
        if name == "-":
            return sys.stdin.buffer.read(most + 1)
        with Path(name).open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror or 'unknown error'}. Check the path") from error


def _report(found: list[ScannedFile], alone: str) -> list[str]:
    lines = [f"{one.file}: {finding.path}: {finding.rule}" for one in found for finding in one.findings]
    told, count = len(lines), sum(one.count for one in found)
    if count > told:
        lines.append(f"and {count - told:,} more")
    reports = sum(one.reports for one in found)
    compared = f". The scan did not compare the reports with the ids of a database: {alone}" if alone else ""
    what = (
        ". Remove each value, or replace it with a reference. To see the rules, run `drawdown privacy rules`"
        if count
        else ""
    )
    return [*lines, f"{counted(reports, 'report')}: {counted(count, 'finding')}{what}{compared}"]
