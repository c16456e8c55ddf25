"""`drawdown ledger statement`: an account's month, as tables, JSON or CSV."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

import typer
from rich.table import Table

from drawdown.cli.app import App
from drawdown.cli.options import PageSize
from drawdown.cli.rendering import show, table
from drawdown.cli.streams import print_file
from drawdown.schema.currencies import show_money
from drawdown.schema.errors import Exit, UsageError
from drawdown.schema.typed.parsing import show_credits, show_time
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets.statement import LINES, CreditLine, Statement, as_object, csv_lines, of_customer, span_of

WORDS: Final = {
    "given": "given", "began": "began", "topped_up": "topped up", "expired": "expired", "taken_back": "taken back",
    "other": "other",
}  # fmt: skip


def statement(
    context: typer.Context,
    customer: Annotated[str, typer.Argument(help="The customer (by default the organisation's id)")],
    month: Annotated[str | None, typer.Option(metavar="MONTH", help="2026-02, in UTC")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="Or: what was booked from this time on")] = None,
    to: Annotated[str | None, typer.Option("--to", help="...and before this time")] = None,
    most: PageSize = LINES,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, safe to open in a spreadsheet")] = False,
) -> None:
    """Show what a wallet began a month with, what moved it, and what it ended with, to be added up on paper.

    It goes by the time of booking: usage that came late is in the month that it was booked in, and its own month stands
    beside. Each section ends with one line for all that --most leaves out.
    """
    app: App = context.obj
    if as_csv and app.json:
        raise UsageError("give --csv or --json, not both")
    first = None if from_ is None else app.past(from_, "--from")
    end = None if to is None else app.moment(to, "--to")
    span = span_of(month, first, end)
    app.read(lambda c: credit.require_wallet(c, customer))
    found = app.read(lambda c: of_customer(c, customer, span, app.clock.now_ms(), most))
    if as_csv:
        print_file(csv_lines(found))
    else:
        show(app, as_object(found), _shown(found))
    if found.problems:
        raise typer.Exit(Exit.PERSON)


def _shown(found: Statement) -> Iterator[str | Table]:
    yield _addition(found)
    if found.usage:
        yield _usage(found)
    if found.runs:
        yield _runs(found)
    if found.held:
        yield _held(found)
    for problem in found.problems:
        yield f"this does not add up: {problem}"


def _addition(found: Statement) -> Table:
    """The opening balance, all changes, the closing balance."""
    moved = {change.section: show_credits(change.moved_micro) for change in found.changes}
    rows: list[tuple[object, ...]] = [("opening balance", "", None, show_credits(found.opening_micro))]
    rows += [(WORDS[line.section], _what(line), line.entries, show_credits(line.moved_micro)) for line in found.credits]
    if found.usage:
        rows.append(("usage", "below", sum(line.charges for line in found.usage), moved["usage"]))
    if found.runs:
        rows.append(("runs", "below", sum(line.runs for line in found.runs), moved["runs"]))
    rows.append(("closing balance", "", None, show_credits(found.closing_micro)))
    when = "" if found.is_final else "; it may still change"
    title = f"{found.customer_id}, booked from {show_time(found.from_ms)} to {show_time(found.to_ms)}{when}"
    return table(title, ("what", "of", "#how many", "#credits"), rows)


def _what(line: CreditLine) -> str:
    if line.money_minor is None or line.currency is None:
        return line.what
    return f"{line.what}, for {show_money(line.money_minor, line.currency)}"


def _usage(found: Statement) -> Table:
    rows: list[tuple[object, ...]] = [
        (_more(line.more) or line.feature, line.month, line.charges, line.quantity, line.micro_credits,
         line.per_quantity, line.rounding_micro, show_credits(line.charged_micro))
        for line in found.usage
    ]  # fmt: skip
    charged = show_credits(sum(line.charged_micro for line in found.usage))
    rows.append(("all", None, sum(line.charges for line in found.usage), None, None, None, None, charged))
    columns = ("feature", "used in", "#charges", "#quantity", "#micro-credits", "#per", "#rounding", "#credits")
    title = "Usage: quantity times micro-credits, per so many, plus what rounding made of the charges"
    return table(title, columns, rows)


def _runs(found: Statement) -> Table:
    rows: list[tuple[object, ...]] = []
    for line in found.runs:
        amounts = (line.drawn_micro, line.settled_micro, line.late_micro, -line.written_off_micro, line.charged_micro)
        rows.append((_more(line.more) or line.project, line.runs, *map(show_credits, amounts)))
    charged = show_credits(sum(line.charged_micro for line in found.runs))
    rows.append(("all", sum(line.runs for line in found.runs), None, None, None, None, charged))
    columns = ("project", "#runs", "#drawn", "#settled", "#late", "#written off", "#credits")
    return table("Runs: drawn, settled, settled late, less what was written off", columns, rows)


def _held(found: Statement) -> Table:
    rows: list[tuple[object, ...]] = [
        (_more(line.more) or line.run, line.org_id, line.project, show_time(line.expires_ms),
         show_credits(line.held_micro))
        for line in found.held
    ]  # fmt: skip
    rows.append(("all", None, None, None, show_credits(found.reserved_micro)))
    columns = ("run", "organisation", "project", "until", "#credits")
    return table("Reserved at the end: of the closing balance, and not spent", columns, rows)


def _more(lines: int) -> str | None:
    return f"{lines:,} more" if lines else None
