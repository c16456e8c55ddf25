"""`drawdown limit`: how much of a metric plans allow."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from drawdown.cli.app import App
from drawdown.cli.options import Actor, Most, Reason
from drawdown.cli.rendering import show, table
from drawdown.guard.periods import PERIODS, Period
from drawdown.schema.errors import UsageError
from drawdown.schema.typed.parsing import is_quantity, show_time
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.lists import limit_periods, list_limits
from drawdown.worker.guard.standing import standing_of
from drawdown.worker.guard.terms import ANY_PLAN, PlanLimit

commands = typer.Typer()

Metric = Annotated[str, typer.Argument(metavar="METRIC", help="What is counted")]
Per = Annotated[str, typer.Option(metavar="PERIOD", help=f"In UTC: {', '.join(PERIODS)}")]
Phase = Annotated[
    int | None, typer.Option(min=0, max=3, help="0 silent, 1 warn, 2 block who never bought credit, 3 block all")
]


@commands.command("set")
def set_(
    context: typer.Context,
    metric: Metric,
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help="Base units; none: without an end")],
    per: Per = "month",
    plan: Annotated[str, typer.Option(help="The plan; *: every other one, and who is on none")] = ANY_PLAN,
    phase: Phase = None,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Have a plan allow so much of a metric. It counts from now on, also in the current period."""
    app: App = context.obj
    by, terms = app.by(actor, reason), PlanLimit(metric, plan, period_of(per), units_of(amount), phase)
    changed = app.write(lambda c: guard_terms.set_limit(c, terms, by))
    said = f"{metric} of {plan}, per {per}: {shown(terms.amount)}"
    show(app, {**vars(terms), "changed": changed}, [said if changed else f"{said}; it was so before"])


@commands.command()
def end(
    context: typer.Context,
    metric: Metric,
    per: Per = "month",
    plan: Annotated[str, typer.Option(help="The plan; *: every other one, and who is on none")] = ANY_PLAN,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Have a plan say nothing of a metric and a period any more. Where it then says nothing at all, it allows none."""
    app: App = context.obj
    by, terms = app.by(actor, reason), PlanLimit(metric, plan, period_of(per), None)
    changed, periods = app.write(
        lambda c: (guard_terms.set_limit(c, terms, by, ended=True), limit_periods(c, metric, [plan]))
    )
    none = f"where {plan} has no other limit of {metric}, it allows none of it now"
    but = f", and one per {' and per '.join(periods)} that counts on" if periods else ""
    said = f"{metric} of {plan}, per {per}: {f'ended; {none}' if changed else f'there is no such limit{but}'}"
    show(app, {"metric": metric, "plan": plan, "period": per, "changed": changed}, [said])


@commands.command("list")
def list_(
    context: typer.Context,
    metric: Annotated[str, typer.Option(help="Of this metric alone")] = "",
    most: Most = 100,
) -> None:
    """List what plans allow."""
    app: App = context.obj
    found = app.read(lambda c: list_limits(c, metric, most))
    rows = [
        (one.metric, one.plan, one.period, shown(one.amount), one.phase, show_time(one.at_ms), one.actor, one.reason)
        for one in found
    ]
    columns = ("metric", "plan", "a", "#amount", "#phase", "since", "by", "reason")
    show(app, {"limits": found}, [table("Limits", columns, rows)])


@commands.command("show")
def show_(
    context: typer.Context,
    org: Annotated[str, typer.Argument(metavar="ORG", help="The organisation with the limits")],
    after: Annotated[str, typer.Option(help="Go on after this metric: the last one of a page")] = "",
) -> None:
    """Show what an organisation may use of each metric now, what it has used, and when it is reset."""
    app: App = context.obj
    found = app.read(lambda c: standing_of(c, org, app.clock.now_ms(), after=after))
    rows = [
        (one.metric, one.period, shown(one.amount), one.used, shown(one.left), one.rule, show_time(one.resets_ms),
         show_time(one.until_ms))
        for one in found.rows
    ]  # fmt: skip
    columns = ("metric", "a", "#limit", "#used", "#left", "by", "begins anew", "override until")
    refused = [
        (one.metric, one.reason, one.times, one.amount, one.enforced, show_time(one.last_ms)) for one in found.refusals
    ]
    heads = ("metric", "why", "#times", "#amount", "blocked", "last")
    more = [f"there are more: --after {found.next_after}"] if found.next_after is not None else []
    halted = [f"{org} is {found.halted}: nothing may be used"] if found.halted else []
    plan = f"Limits of {org}, {f'plan {found.plan}' if found.plan else 'on no plan'}"
    refusals = table("Blocked in 24 hours, or would be in phase 3", heads, refused)
    lines: list[str | Table] = [*halted, table(plan, columns, rows), *more, refusals]
    show(app, vars(found), lines)


def period_of(text: str) -> Period:
    """Errors: UsageError."""
    for period in PERIODS:
        if text == period:
            return period
    raise UsageError(f"--per is {', '.join(PERIODS)}")


def units_of(text: str) -> int | None:
    """Base units, None where it has no end. Errors: UsageError."""
    if text == "none":
        return None
    if not is_quantity(text):
        raise UsageError("an amount is a whole number of base units, or none: without an end")
    return int(text)


def shown(amount: int | None) -> str:
    return "without an end" if amount is None else f"{amount:,}"
