"""`drawdown guard`: what is counted, whether it may be used, and what was refused."""

from __future__ import annotations

from typing import Annotated

import typer

from drawdown.cli.app import App
from drawdown.cli.nouns.limits import Metric, Phase
from drawdown.cli.options import Actor, DryRun, Most, New, Reason
from drawdown.cli.rendering import show, table
from drawdown.schema.errors import AnswerLost, Exit, UsageError
from drawdown.schema.typed.parsing import (
    parse_credits,
    parse_length,
    parse_percent,
    show_credits,
    show_percent,
    show_time,
)
from drawdown.worker.checks import checks
from drawdown.worker.guard import lists as views
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard import use as guard
from drawdown.worker.guard import ways as guard_ways
from drawdown.worker.guard.lists import Drift
from drawdown.worker.guard.terms import Change
from drawdown.worker.guard.use import Answer, Wish
from drawdown.worker.guard.ways import WaysTold

Key = Annotated[str, typer.Argument(metavar="KEY", help="The use's key, which is yours to choose")]
Amount = Annotated[int, typer.Argument(metavar="AMOUNT", help="Base units")]
Org = Annotated[str, typer.Option(help="The organisation that uses it")]
Payer = Annotated[str | None, typer.Option(help="The wallet that pays, if its owner allowed it", show_default="as set")]
Project = Annotated[str | None, typer.Option(help="A label")]
Subject = Annotated[str | None, typer.Option(help="A label: who acts, or on what")]
HoldFor = Annotated[
    str | None, typer.Option("--for", metavar="TIME", help="How long it is held: 10m", show_default="1h")
]


def is_open(text: str) -> bool:
    """Errors: UsageError."""
    if text not in ("open", "closed"):
        raise UsageError("--fail is open or closed")
    return text == "open"


def _register(commands: typer.Typer) -> None:
    """Add them to the noun."""
    for work in (check, options, consume, reserve, settle, release, extend):
        commands.command(work.__name__)(work)


def check(context: typer.Context, metric: Metric, org: Org, amount: Amount = 1, payer: Payer = None) -> int:
    """Say whether so much may be used now. Changes nothing."""
    app: App = context.obj
    wish = Wish(org, metric, amount, payer=payer)
    return _tell(app, app.read(lambda c: guard.check(c, wish, app.clock.now_ms())), wish=wish)


def options(
    context: typer.Context,
    org: Annotated[str, typer.Argument(metavar="ORG", help="The organisation that uses it")],
    metric: Metric,
    amount: Amount = 1,
    payer: Payer = None,
) -> None:
    """Say what an organisation can do where the guard blocks it: each way out, whether it is open, and how it is taken.
    Changes nothing."""
    app: App = context.obj
    found = _told(app, Wish(org, metric, amount, payer=payer))
    rows = [
        (way.option.replace("_", " "), "open" if way.open else way.code, way.said, way.command or way.link or "-")
        for way in found.options
    ]
    title = f"{found.decision}: {found.metric} {found.amount:,} by {found.rule} ({found.reason}); ways out"
    show(app, vars(found), [table(title, ("way", "state", "why", "taken by"), rows)])


def consume(
    context: typer.Context,
    key: Key,
    metric: Metric,
    org: Org,
    amount: Amount = 1,
    payer: Payer = None,
    project: Project = None,
    subject: Subject = None,
    let_through: Annotated[
        bool, typer.Option("--let-through", help="It was let through without an answer: it counts whatever the limit")
    ] = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> int:
    """Use so much at once, where it may be used: it is counted, and charged. The same again changes nothing."""
    app: App = context.obj
    by, wish = app.by(actor, reason), Wish(org, metric, amount, None, project, subject, payer)
    if let_through:
        return _tell(app, app.write(lambda c: guard.let_through(c, key, wish, by, "used")), wish=wish)
    return _tell(app, app.write(lambda c: guard.consume(c, key, wish, by)), wish=wish)


def reserve(
    context: typer.Context,
    key: Key,
    metric: Metric,
    org: Org,
    amount: Amount = 1,
    for_: HoldFor = None,
    payer: Payer = None,
    project: Project = None,
    subject: Subject = None,
    actor: Actor = None,
    reason: Reason = "not given",
) -> int:
    """Hold so much to be used, where it may be used, before it is known how much it will be."""
    app: App = context.obj
    for_ms = None if for_ is None else parse_length(for_, "--for")
    by, wish = app.by(actor, reason), Wish(org, metric, amount, for_ms, project, subject, payer)
    return _tell(app, app.write(lambda c: guard.reserve(c, key, wish, by)), wish=wish)


def settle(context: typer.Context, key: Key, amount: Amount, actor: Actor = None, reason: Reason = "not given") -> int:
    """End what is held with what was used in all, also after its hold was over."""
    app: App = context.obj
    by = app.by(actor, reason)
    return _tell(app, app.write(lambda c: guard.settle(c, key, amount, by)))


def release(
    context: typer.Context, key: Key, amount: Amount = 0, actor: Actor = None, reason: Reason = "not given"
) -> int:
    """Give up what is held; what was used all the same counts, and is charged."""
    app: App = context.obj
    by = app.by(actor, reason)
    return _tell(app, app.write(lambda c: guard.release(c, key, amount, by)))


def extend(
    context: typer.Context,
    key: Key,
    to: Annotated[int | None, typer.Option(help="Hold so many base units in all", show_default="as it is")] = None,
    for_: HoldFor = None,
    actor: Actor = None,
    reason: Reason = "not given",
) -> int:
    """Say that what is held goes on: for another hour, or as long as is said; it may grow."""
    app: App = context.obj
    by, for_ms = app.by(actor, reason), None if for_ is None else parse_length(for_, "--for")
    found = app.write(lambda c: guard.extend(c, key, to, for_ms, by))
    less = to is not None and to < found.amount
    sooner = for_ms is not None and by.now_ms + for_ms < (found.expires_ms or 0)
    return _tell(app, found, *(["what is held neither shrinks nor ends sooner"] if less or sooner else []))


def _told(app: App, wish: Wish) -> WaysTold:
    page = app.settings.server().my_page
    return app.read(lambda c: guard_ways.told(c, wish, page, app.clock.now_ms()))


def _ways(app: App, wish: Wish) -> list[str]:
    """Each way out in one line: whether it is open, and what takes it."""
    found = _told(app, wish).options
    return [
        f"{way.option.replace('_', ' ')}: {way.code or 'open'}: {way.said}"
        + (f": {way.command or way.link}" if way.command or way.link else "")
        for way in found
    ]


def _tell(app: App, found: Answer, *more: str, wish: Wish | None = None) -> int:
    """A use that is blocked ends with 1, as anything that a rule refuses."""
    said = f"{found.decision}: {found.metric} {found.amount:,} by {found.rule} ({found.reason})"
    if found.state in ("settled", "released") and found.decision != "block":
        was = "; it was so before" if found.repeated else ""
        said = f"{found.state}: {found.metric} {found.amount:,}, let through by {found.rule}{was}"
    if found.would != found.decision:
        said += f"; it would be: {found.would}"
    lines = [said]
    if found.limit is not None and found.remaining is not None:
        lines.append(f"{found.remaining:,} of {found.limit:,} left until {show_time(found.resets_ms)}")
    if found.price_micro:
        before = found.charged_before_micro  # what is given again is charged no more
        charged = (
            f"charged before: {show_credits(before)}" if before else f"charged {show_credits(found.charged_micro)}"
        )
        lines.append(f"costs {show_credits(found.price_micro)}, {charged}")
    if found.state == "held" and found.expires_ms is not None:
        lines.append(f"held until {show_time(found.expires_ms)}")
    if found.options and wish is not None:
        lines += _ways(app, wish)
    elif found.options:
        lines.append(f"what can be done: {', '.join(found.options)}")
    show(app, vars(found), [*lines, *more])
    return Exit.PERSON if found.decision == "block" else Exit.SETTLED


commands = typer.Typer()
PUT_RIGHT = "give it again, and `drawdown audit list --action guard_correct` shows each that was put right"
_register(commands)


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
        fails_open=None if fail is None else is_open(fail),
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
