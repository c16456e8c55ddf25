"""`drawdown export`: print the ledger and sealed usage as CSV or JSON lines."""

from __future__ import annotations

from typing import Annotated, cast

import sqlalchemy as sa
import typer

from drawdown.cli.app import App
from drawdown.cli.streams import Stderr, print_file
from drawdown.schema.errors import Exit, UsageError
from drawdown.schema.typed.parsing import require_range, show_time
from drawdown.worker.engine.clock_check import MAX_SKEW_MS, database_now
from drawdown.worker.wallets import export
from drawdown.worker.wallets.export import ByTime, Format, Kind, Span
from drawdown.worker.wallets.statement import FINAL_AFTER_MS

commands = typer.Typer()

Org = Annotated[str, typer.Option("--org", help="Organisation to export", show_default="all")]
From = Annotated[str, typer.Option("--from", help="Start of the range")]
To = Annotated[str | None, typer.Option("--to", help="End of the range", show_default="now")]
Form = Annotated[str, typer.Option("--format", help="Format: csv, safe to open in a spreadsheet, or jsonl")]
By = Annotated[
    str, typer.Option(help="Time that the range is of: booked (final an hour after the end), or used (never final)")
]


@commands.command()
def ledger(
    context: typer.Context, from_: From, org: Org = "", to: To = None, by: By = "booked", format_: Form = "csv"
) -> None:
    """Print the ledger's entries in order of time.

    If you pass --org, the command prints the entries of the wallet that pays for the organisation now, and the change
    of the wallet's balance by each entry. If entries of the range may still be added, a message names the time before
    which the range is final. With --to, the exit status is then 75.
    """
    if by not in ("booked", "used"):
        raise UsageError(f"invalid --by {by!r}: expected booked or used")
    _print(context.obj, "ledger", org, from_, to, format_, cast(ByTime, by))


@commands.command()
def usage(context: typer.Context, from_: From, org: Org = "", to: To = None, format_: Form = "csv") -> None:
    """Print sealed usage by window, a line for each push.

    Quantities are in base units. A voided push has the quantity 0.
    """
    _print(context.obj, "usage", org, from_, to, format_)


def _print(app: App, kind: Kind, org: str, from_: str, to: str | None, form: str, by: ByTime = "booked") -> None:
    if form not in ("csv", "jsonl"):
        raise UsageError(f"invalid --format {form!r}: expected csv or jsonl")
    if app.json:
        raise UsageError("--json does not apply to an export. Pass --format jsonl")
    end_ms = app.moment("now" if to is None else to, "--to")
    span = Span(org, app.past(from_, "--from"), end_ms, by)
    require_range(span.from_ms, span.to_ms)
    now_ms = app.clock.now_ms()

    def work(connection: sa.Connection) -> int:
        # If this machine's clock is more than MAX_SKEW_MS ahead of the database's, the database's clock decides. Fewer
        # entries are then final.
        slower_ms = min(now_ms, database_now(connection, now_ms) + MAX_SKEW_MS)
        print_file(export.export_lines(connection, kind, span, cast(Format, form), now_ms))
        return slower_ms

    slower_ms = app.read(work)
    if kind == "ledger" and by == "booked":
        _require_final(span, slower_ms, is_asked=to is not None)


def _require_final(span: Span, now_ms: int, *, is_asked: bool) -> None:
    """Print the time from which entries of a printed span may be missing.

    `is_asked`: the caller named the end of the span. Errors: typer.Exit with the status LEFT if `is_asked` and the span
    is not final.
    """
    final_ms = export.final_before(span, now_ms)
    if final_ms == span.to_ms:
        return
    Stderr().write(
        f"drawdown: entries booked from {show_time(final_ms)} on may be missing. Repeat this export at "
        f"{show_time(span.to_ms + FINAL_AFTER_MS)}. Or keep only the entries before {show_time(final_ms)}, and begin "
        "the next export there\n"
    )
    if is_asked:
        raise typer.Exit(Exit.LEFT)
