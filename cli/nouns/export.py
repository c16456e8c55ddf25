"""`drawdown export`: print the ledger and sealed usage as CSV or JSON lines."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from drawdown.cli.app import App
from drawdown.cli.streams import print_file
from drawdown.schema.errors import UsageError
from drawdown.schema.typed.parsing import require_range
from drawdown.worker.wallets import export
from drawdown.worker.wallets.export import ByTime, Format, Kind, Span

commands = typer.Typer()

Org = Annotated[str, typer.Option("--org", help="Organisation to export", show_default="all")]
From = Annotated[str, typer.Option("--from", help="Start of the range")]
To = Annotated[str, typer.Option("--to", help="End of the range")]
Form = Annotated[str, typer.Option("--format", help="Format: csv, safe to open in a spreadsheet, or jsonl")]
By = Annotated[str, typer.Option(help="Time of the range: booked, which never changes for a past range, or used")]


@commands.command()
def ledger(
    context: typer.Context, from_: From, org: Org = "", to: To = "now", by: By = "booked", format_: Form = "csv"
) -> None:
    """Print the ledger's entries in order of time.

    If you pass --org, the command prints the entries of this organisation's wallet, and how each entry changed the
    wallet's balance.
    """
    if by not in ("booked", "used"):
        raise UsageError(f"invalid --by {by!r}: expected booked or used")
    _print(context.obj, "ledger", org, from_, to, format_, cast(ByTime, by))


@commands.command()
def usage(context: typer.Context, from_: From, org: Org = "", to: To = "now", format_: Form = "csv") -> None:
    """Print sealed usage by window, a line for each push.

    Quantities are in base units. A voided push has the quantity 0.
    """
    _print(context.obj, "usage", org, from_, to, format_)


def _print(app: App, kind: Kind, org: str, from_: str, to: str, form: str, by: ByTime = "booked") -> None:
    if form not in ("csv", "jsonl"):
        raise UsageError(f"invalid --format {form!r}: expected csv or jsonl")
    if app.json:
        raise UsageError("--json does not apply to an export. Pass --format jsonl")
    span = Span(org, app.past(from_, "--from"), app.moment(to, "--to"), by)
    require_range(span.from_ms, span.to_ms)
    now_ms = app.clock.now_ms()
    app.read(lambda c: print_file(export.export_lines(c, kind, span, cast(Format, form), now_ms)))
