"""`drawdown override`: manage limits that replace a plan's limit for a time."""

from __future__ import annotations

from typing import Annotated

import sqlalchemy as sa
import typer

from drawdown.cli.app import App
from drawdown.cli.declared import of_noun
from drawdown.cli.nouns.limits import Metric, Per, period_of, units_of
from drawdown.cli.options import Actor, DryRun, Reason
from drawdown.cli.rendering import show_change
from drawdown.guard.decide import Reach
from drawdown.schema.errors import AnswerLost, UsageError
from drawdown.schema.typed.parsing import parse_ahead, show_time
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard.allowances import plans_of
from drawdown.worker.guard.limits import amount_in_words as shown
from drawdown.worker.guard.lists import fits_nobody, limit_periods
from drawdown.worker.guard.overrides import OverrideRow, Terms
from drawdown.worker.guard.terms import ANY_PLAN

commands = of_noun("override", *guard_overrides.ACTIONS, *guard_overrides.LISTS)

Amount = Annotated[
    str, typer.Argument(metavar="AMOUNT", help="Quantity in base units, in place of the limit; none for no limit")
]
Org = Annotated[str | None, typer.Option(help="Organisation, or a pattern for several: 'acme-*'")]
Plan = Annotated[str | None, typer.Option(help="Plan of the organisations")]
Expires = Annotated[str | None, typer.Option(help="End of the limit override, in at most 90 days: +7d, 2026-03-01")]
Permanent = Annotated[bool, typer.Option("--permanent", help="Limit override that does not expire")]


@commands.command()
def make(
    context: typer.Context,
    metric: Metric,
    amount: Amount,
    org: Org = None,
    plan: Plan = None,
    per: Per = "month",
    expires: Expires = None,
    permanent: Permanent = False,
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Create a limit override, in force from now on.

    The most specific limit override takes precedence: for an organisation, then for a pattern, then for a plan. If
    several are equal, the newest takes precedence.
    """
    app: App = context.obj
    terms = _terms(app, metric, amount, org, plan, per, expires)
    _add(app, terms, actor, reason, permanent, asked=False, dry_run=dry_run)


@commands.command()
def ask(
    context: typer.Context,
    metric: Metric,
    amount: Amount,
    org: Org = None,
    plan: Plan = None,
    per: Per = "month",
    expires: Expires = None,
    permanent: Permanent = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Request a limit override, which a person must approve."""
    app: App = context.obj
    _add(app, _terms(app, metric, amount, org, plan, per, expires), actor, reason, permanent, asked=True)


def _terms(
    app: App, metric: str, amount: str, org: str | None, plan: str | None, per: str, expires: str | None
) -> Terms:
    if (org is None) == (plan is None):
        raise UsageError("specify either --org or --plan, not both")
    target = org or plan or ""
    reach: Reach = "plan" if org is None else "pattern" if target.endswith("*") else "org"
    ends = None if expires is None else parse_ahead(expires, "--expires", app.clock.now_ms())
    return Terms(metric, reach, target, period_of(per), units_of(amount), ends)


def _add(
    app: App, terms: Terms, actor: str | None, reason: str, permanent: bool, *, asked: bool, dry_run: bool = False
) -> None:
    by = app.by(actor, reason)
    try:
        (made, changed), beside = app.write(
            lambda c: (
                guard_overrides.add(c, terms, by, asked=asked, permanent=permanent),
                _beside(c, terms, by.now_ms),
            ),
            rollback=dry_run,
        )
    except AnswerLost as error:
        end = "--permanent" if terms.ends_ms is None else f"--expires {show_time(terms.ends_ms)}"
        raise AnswerLost(error.why, f"repeat the command with {end}. Drawdown makes the change only once") from error
    said = (
        f"limit override {made.number}: {shown(terms.amount)} of {terms.metric} per {terms.period} for {terms.target}, "
    )
    said += f"{_until(made)}; "
    waits = made.state == "asked"
    said += f"to put it in force, run `drawdown override approve {made.number}`" if waits else "in force"
    lines = [f"{said}{'' if changed else '; unchanged'}", *beside]
    show_change(app, {**vars(made), "changed": changed}, lines, dry_run=dry_run)


def _beside(connection: sa.Connection, terms: Terms, now_ms: int) -> list[str]:
    """Return warnings about a limit override.

    A warning names limits of other periods, which stay in force, or a pattern that does not match an organisation.
    """
    if terms.reach == "pattern":
        plans: list[str] = []
    else:
        plans = [terms.target, ANY_PLAN] if terms.reach == "plan" else plans_of(connection, terms.target, now_ms)
    periods = limit_periods(connection, terms.metric, plans)
    others = " and per ".join(one for one in periods if one != terms.period)
    none = (
        ""
        if terms.period in periods
        else f"the limit override does not replace a limit, because no limit per {terms.period} exists; "
    )
    lines = [f"{none}limits per {others} stay in force"] if others else []
    if terms.reach == "pattern" and fits_nobody(connection, terms.target):
        lines.append(f"no organisation matches {terms.target} yet")
    return lines


def _until(one: OverrideRow) -> str:
    return "for good" if one.ends_ms is None else f"until {show_time(one.ends_ms)}"
