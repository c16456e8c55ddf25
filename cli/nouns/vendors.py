"""`drawdown vendor`: compare the cost of usage at vendors with their bills."""

from __future__ import annotations

from dataclasses import asdict
from decimal import InvalidOperation
from typing import Annotated, Final

import typer
from rich.table import Table

from drawdown.cli.app import App
from drawdown.cli.declared import of_noun
from drawdown.cli.options import Actor, Reason, only_with
from drawdown.cli.rendering import show, table
from drawdown.schema.errors import UsageError
from drawdown.schema.text import counted
from drawdown.schema.typed.parsing import parse_percent, plain_decimal, show_credits, show_percent, show_time
from drawdown.schema.units import micro_of
from drawdown.worker.checks import checks
from drawdown.worker.provider import vendor_faces
from drawdown.worker.provider import vendors as views
from drawdown.worker.provider.vendors import Drifted, DriftLine, import_bills, read_bills, tell

commands = of_noun("vendor", *vendor_faces.ACTIONS, *vendor_faces.LISTS)

SHOWN: Final = 100
"""Maximum number of rows of a table for people."""


@commands.command("import")
def import_(
    context: typer.Context,
    file: Annotated[
        str, typer.Argument(help="CSV with FOCUS columns, or with day, vendor, service, amount, currency, final")
    ],
    final: Annotated[bool, typer.Option("--final", help="Final bill, which a provisional bill cannot replace")] = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Import vendors' bills.

    The latest file replaces a vendor's whole day. If you import the same file again, Drawdown does not count the bills
    twice.
    """
    app: App = context.obj
    found, by = read_bills(file, is_final=final), app.by(actor, reason)
    is_new = app.write(lambda c: import_bills(c, found, by))
    days = {(line.vendor, line.day_ms) for line in found.lines}
    text = f"{counted(len(found.lines), 'line')} (vendor, service, day, currency) of "
    text += counted(len(days), "day of a vendor", "days of vendors")
    text += "" if is_new else ". The same file was imported before, so this call added no lines"
    show(app, {"lines": len(found.lines), "is_new": is_new, "import_id": found.import_id}, [text])


@commands.command()
def drift(
    context: typer.Context,
    from_: Annotated[str, typer.Option("--from", help="First day, in UTC")] = "",
    to: Annotated[str, typer.Option("--to", help="Day after the last day, in UTC", show_default="today")] = "",
    tolerance: Annotated[str, typer.Option(help="Tolerated difference in per cent of the estimate")] = "15",
    least: Annotated[str, typer.Option(help="Smallest difference that counts, in money, at any tolerance")] = "1",
    keep: Annotated[
        bool, typer.Option("--keep", help="Result stored for metrics and the alert, as by `drawdown nightly`")
    ] = False,
) -> None:
    """Compare vendors' bills with the expected cost of usage.

    The comparison is by vendor, service and day. The exit status is 1 if a bill differs by more than the tolerance on
    two successive days. Today and the two days before it do not cause status 1, because vendors may still add costs.

    Without --from and --to, the comparison covers the last 14 days. It also covers earlier days with bills that were
    imported in the last 14 days.
    """
    app: App = context.obj
    now_ms, bounds = app.clock.now_ms(), (parse_percent(tolerance), _micro_of(least, "--least"))
    if keep:
        only_with(context, "--keep", "keep", "tolerance", "least")
        found = app.write(lambda c: checks.check_vendors(c, now_ms, *bounds))
    else:
        start = app.moment(from_, "--from") if from_ else None
        end = app.moment(to, "--to") if to else None
        found = Drifted.of(app.read(lambda c: views.drift_of(c, start, end, now_ms, *bounds)))
    tell(found)
    show(app, asdict(found), _report(found.drift, found.alerts, bounds[0]))
    raise typer.Exit(found.exit_status)


def _report(found: list[DriftLine], alerts: int, tolerance_ppm: int) -> list[str | Table]:
    text = f"{counted(len(found), 'line')} (vendor, service, day), {alerts:,} drifted by more than "
    text += f"{show_percent(tolerance_ppm)} on two successive days"
    rows = [
        (show_time(line.day_ms)[:10], line.vendor, line.service, _format_credits(line.estimated_micro),
         _format_credits(line.billed_micro), line.currency, line.state,
         "alert" if line.alerts else "off" if line.is_off else "")
        for line in views.most_urgent(found, SHOWN)
    ]  # fmt: skip
    columns = ("day", "vendor", "service", "#estimated", "#billed", "currency", "", "")
    lines: list[str | Table] = [text, table("Estimates and bills", columns, rows)]
    if len(found) <= SHOWN:
        return lines
    return [*lines, f"{counted(len(found) - SHOWN, 'more line')}. To see all, pass --json"]


def _micro_of(text: str, option: str) -> int:
    """Return millionths of the currency. Errors: UsageError."""
    try:
        amount = micro_of(plain_decimal(text))
        if amount < 0:
            raise ValueError
        return amount
    except (InvalidOperation, ValueError) as error:
        raise UsageError(
            f"{option}: invalid amount of money {text!r}: expected a decimal from 0 to 1,000,000,000 such as 12.50, "
            "with at most six places"
        ) from error


def _format_credits(micro: int | None) -> str | None:
    return None if micro is None else show_credits(micro)
