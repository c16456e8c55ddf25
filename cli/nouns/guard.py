"""`drawdown guard`: what is counted, whether it may be used, and what was refused."""

from __future__ import annotations

from typing import Annotated

import typer

from drawdown.cli.app import App
from drawdown.cli.nouns import guard_acts
from drawdown.cli.nouns.limits import Metric, Phase
from drawdown.cli.options import Actor, DryRun, Most, New, Reason
from drawdown.cli.rendering import show, table
from drawdown.schema.errors import AnswerLost
from drawdown.schema.typed.parsing import (
    parse_credits,
    parse_percent,
    show_credits,
    show_percent,
    show_time,
)
from drawdown.worker.checks import checks
from drawdown.worker.guard import lists as views
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.lists import Drift
from drawdown.worker.guard.terms import Change

commands = typer.Typer()
PUT_RIGHT = "give it again, and `drawdown audit list --action guard_correct` shows each that was put right"
guard_acts.register(commands)


@commands.command("set")
def set_(
    context: typer.Context,
    metric: Metric,
    price: Annotated[str | None, typer.Option("--credits", metavar="CREDITS", help="What it costs; 0: nothing")] = None,
    units: Annotated[int | None, typer.Option("--for", min=1, help="For so many base units")] = None,
    payer: Annotated[
        str | None, typer.Option(help="Who pays in place of the organisation; none: itself", show_default="as it is")
    ] = None,
    phase: Phase = None,
    warn_left: Annotated[
        str | None, typer.Option(metavar="PERCENT", help="It is warned at so much left", show_default="20")
    ] = None,
    fail: Annotated[
        str | None, typer.Option(metavar="open|closed", help="Where credit cannot be known", show_default="closed")
    ] = None,
    counts: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The event type or feature that it counts; none: what has its name",
            show_default="as it is",
        ),
    ] = None,
    new: New = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Change a metric, or with --new make one. What was used keeps its price. What the seal bills has no price here."""
    app: App = context.obj
    by = app.by(actor, reason)
    change = Change(
        price_micro=None if price is None else parse_credits(price),
        per_units=units,
        payer="" if payer == "none" else payer,
        phase=phase,
        warn_ppm=None if warn_left is None else parse_percent(warn_left),
        fails_open=None if fail is None else guard_acts.is_open(fail),
        counts="" if counts == "none" else counts,
    )
    now, was = app.write(lambda c: guard_terms.set_metric(c, metric, change, by, new=new))
    cost = "nothing" if not now.price_micro else f"{show_credits(now.price_micro)} for {now.per_units:,}"
    said = f"{metric}: costs {cost}, paid by {now.payer or 'the organisation'}; phase {now.phase}; "
    said += f"{'allowed' if now.fails_open else 'blocked'} where credit cannot be known"
    show(app, {**vars(now), "was": was}, [said if now != was else f"{said}; it was so before"])


@commands.command("list")
def list_(context: typer.Context, most: Most = 50) -> None:
    """List metrics: their terms, and of 24 hours, 7 and 30 days how much of what was asked was blocked, and would be in
    phase 3."""
    app: App = context.obj
    found = app.read(lambda c: views.list_metrics(c, app.clock.now_ms(), most))
    rows = [
        (one.metric, f"{show_credits(one.price_micro)} for {one.per_units:,}", one.payer, one.phase,
         "open" if one.fails_open else "closed",
         *(f"{rate.blocked:,} of {rate.asked:,}, would be {rate.would:,}" for rate in one.rates))
        for one in found
    ]  # fmt: skip
    columns = ("metric", "#credits", "paid by", "#phase", "fails", *(f"blocked in {span}" for span in views.SPANS))
    show(app, {"metrics": found}, [table("Metrics", columns, rows)])


@commands.command()
def uses(
    context: typer.Context,
    metric: Annotated[str, typer.Option(help="Of this metric alone")] = "",
    org: Annotated[str, typer.Option(help="Of this organisation alone")] = "",
    dark: Annotated[bool, typer.Option("--dark", help="What was let through without an answer alone")] = False,
    most: Most = 50,
) -> None:
    """List what was used, the latest first."""
    app: App = context.obj
    found = app.read(lambda c: views.list_uses(c, metric, org, app.clock.now_ms(), most, dark=dark))
    rows = [
        (one.use_key, one.org_id, one.metric, one.state, one.amount, show_credits(one.charged_micro), one.decision,
         one.would, one.rule, show_time(one.at_ms), one.actor)
        for one in found
    ]  # fmt: skip
    columns = ("key", "organisation", "metric", "state", "#amount", "#charged", "decision", "would be", "rule", "at",
               "by")  # fmt: skip
    show(app, {"uses": found}, [table("Uses", columns, rows)])


@commands.command()
def report(
    context: typer.Context,
    metric: Metric,
    phase: Annotated[int, typer.Option(min=0, max=3, help="The phase that is to be set")] = 3,
    since: Annotated[str, typer.Option(help="What was asked since then counts")] = "7d",
) -> None:
    """Say what a phase would have blocked, before it is set, and how many of those ever bought credit."""
    app: App = context.obj
    since_ms = app.past(since, "--since")
    found = app.read(lambda c: views.report(c, metric, phase, since_ms))
    part = show_percent(0 if not found.asked else found.blocked * 1_000_000 // found.asked)
    said = f"{metric} in phase {phase} since {show_time(since_ms)}: {found.blocked:,} of {found.asked:,} blocked "
    said += f"({part}), {found.amount:,} units of {found.orgs:,} organisations, {found.paying:,} of which bought credit"
    show(app, vars(found), [said])


@commands.command()
def reconcile(
    context: typer.Context,
    since: Annotated[str, typer.Option(help="Of periods that begin at this time or later")] = "35d",
    tolerance: Annotated[str, typer.Option(metavar="PERCENT", help="How far off is no alarm")] = "0",
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Compare counters with the uses they are sums of, and put them right. A counter without uses is left as it is:
    what is unknown is not nothing. Ends with 1 where one was off by more than the tolerance."""
    app: App = context.obj
    by, ppm = app.by(actor, reason), parse_percent(tolerance)
    since_ms = app.past(since, "--since")
    drifts = app.read(lambda c: checks.look(c, since_ms))
    try:
        done = checks.judged(drifts, ppm) if dry_run else app.write(lambda c: checks.put_right(c, drifts, ppm, by))
    except AnswerLost as error:
        raise AnswerLost(error.why, f"{len(drifts):,} counters were off: {PUT_RIGHT}") from error
    rows = [
        (one.org_id, one.metric, one.period, show_time(one.start_ms), one.counted, one.amount if one.known else None,
         _said(one, dry_run))
        for one in drifts
    ]  # fmt: skip
    columns = ("organisation", "metric", "a", "from", "#counted", "#used", "")
    text = f"{len(drifts):,} counters are off, {done.above_tolerance:,} by more than the tolerance"
    show(app, {**vars(done), "exit_status": done.exit_status}, [table(text, columns, rows)])
    raise typer.Exit(done.exit_status)


def _said(one: Drift, dry_run: bool) -> str:
    if not one.known:
        return "no uses: left as it is"
    return "to be put right" if dry_run else "put right"
