"""`drawdown limit`: manage the amounts of metrics that plans allow."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from drawdown.cli.app import App
from drawdown.cli.declared import of_noun
from drawdown.cli.rendering import show, table
from drawdown.guard.periods import PERIODS, Period
from drawdown.schema.errors import UsageError
from drawdown.schema.text import quote_value
from drawdown.schema.typed.parsing import is_quantity, show_time
from drawdown.worker.guard import limits
from drawdown.worker.guard.allowances import standing_of
from drawdown.worker.guard.limits import amount_in_words as shown

commands = of_noun("limit", *limits.ACTIONS, *limits.LISTS)

Metric = Annotated[str, typer.Argument(metavar="METRIC", help="Name of the metric")]
Per = Annotated[str, typer.Option(metavar="PERIOD", help=f"Period in UTC: {', '.join(PERIODS)}")]


@commands.command("show")
def show_(
    context: typer.Context,
    org: Annotated[str, typer.Argument(metavar="ORG", help="Organisation with the limits")],
    after: Annotated[str, typer.Option(help="Last metric of the previous page")] = "",
) -> None:
    """Show an organisation's limits, use and reset times."""
    app: App = context.obj
    found = app.read(lambda c: standing_of(c, org, app.clock.now_ms(), after=after))
    rows = [
        (one.metric, one.period, shown(one.amount), one.used, shown(one.remaining), one.rule, show_time(one.resets_ms),
         show_time(one.until_ms))
        for one in found.rows
    ]  # fmt: skip
    columns = ("metric", "period", "#limit", "#used", "#left", "source", "resets", "limit override ends")
    refused = [
        (one.metric, one.reason, one.times, one.quantity, one.enforced, show_time(one.last_ms))
        for one in found.refusals
    ]
    heads = ("metric", "reason", "#times", "#quantity", "blocked", "last")
    more = [f"more metrics exist: --after {found.next_after}"] if found.next_after is not None else []
    halted = [f"{org} is {found.halted}, so it cannot use any metric"] if found.halted else []
    plan = f"Limits of {org}, {f'plan {found.plan}' if found.plan else 'without a plan'}"
    refusals = table("Blocked in 24 hours, or would be in phase 3", heads, refused)
    lines: list[str | Table] = [*halted, table(plan, columns, rows), *more, refusals]
    show(app, vars(found), lines)


def period_of(text: str) -> Period:
    """Return a period by its name. Errors: UsageError."""
    for period in PERIODS:
        if text == period:
            return period
    raise UsageError(f"invalid --per {text!r}: expected {', '.join(PERIODS)}")


def units_of(text: str) -> int | None:
    """Return base units; None for an unlimited amount. Errors: UsageError."""
    if text == "none":
        return None
    if not is_quantity(text):
        raise UsageError(
            f"invalid amount {quote_value(text)}: expected a whole number of base units, of at most 18 digits, or none "
            "for unlimited"
        )
    return int(text)
