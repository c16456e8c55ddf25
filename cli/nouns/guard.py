"""`drawdown guard`: manage metrics, check and record their uses, and list blocks."""

from __future__ import annotations

from typing import Annotated

import typer

from drawdown.cli.app import App
from drawdown.cli.declared import of_noun
from drawdown.cli.nouns.limits import Metric
from drawdown.cli.options import Actor, DryRun, Most, Reason
from drawdown.cli.rendering import show, table
from drawdown.schema.errors import AnswerLost, Exit
from drawdown.schema.text import counted
from drawdown.schema.typed.parsing import (
    parse_length,
    parse_percent,
    show_credits,
    show_percent,
    show_time,
)
from drawdown.worker.checks import checks
from drawdown.worker.guard import limits
from drawdown.worker.guard import lists as views
from drawdown.worker.guard import options as guard_ways
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.lists import Drift
from drawdown.worker.guard.options import WaysTold
from drawdown.worker.guard.use import Answer, Wish

Key = Annotated[str, typer.Argument(metavar="KEY", help="Key of the use, which you choose")]
Quantity = Annotated[int, typer.Argument(metavar="QUANTITY", help="Quantity in base units")]
Org = Annotated[str, typer.Option(help="Organisation of the use")]
Payer = Annotated[str | None, typer.Option(help="Wallet that pays, if its owner allowed it", show_default="as set")]
Project = Annotated[str | None, typer.Option(help="Label for the project")]
Subject = Annotated[str | None, typer.Option(help="Label for the actor, or for the object of the use")]
HoldFor = Annotated[
    str | None, typer.Option("--for", metavar="TIME", help="Length of the reservation, such as 10m", show_default="1h")
]


def _register(commands: typer.Typer) -> None:
    """Add the commands to the noun."""
    for work in (check, options, consume, reserve, settle, release, extend):
        commands.command(work.__name__)(work)


def check(context: typer.Context, metric: Metric, org: Org, quantity: Quantity = 1, payer: Payer = None) -> int:
    """Check whether a use is allowed, without any change.

    The exit status is 1 if the use is blocked.
    """
    app: App = context.obj
    wish = Wish(org, metric, quantity, payer=payer)
    return _tell(app, app.read(lambda c: guard.check(c, wish, app.clock.now_ms())), wish=wish)


def options(
    context: typer.Context,
    org: Annotated[str, typer.Argument(metavar="ORG", help="Organisation of the use")],
    metric: Metric,
    quantity: Quantity = 1,
    payer: Payer = None,
) -> None:
    """List the ways out for a blocked organisation.

    For each way out, the command shows whether it is open, and the next step. The command does not change anything.
    """
    app: App = context.obj
    found = _read_ways(app, Wish(org, metric, quantity, payer=payer))
    rows = [
        (
            way.option.replace("_", " "),
            "open" if way.open else way.code,
            way.description,
            way.command or way.link or "-",
        )
        for way in found.options
    ]
    title = f"{found.decision}: {found.metric} {found.quantity:,} by {found.rule} ({found.reason}); ways out"
    show(app, vars(found), [table(title, ("way", "state", "reason", "next step"), rows)])


def consume(
    context: typer.Context,
    key: Key,
    metric: Metric,
    org: Org,
    quantity: Quantity = 1,
    payer: Payer = None,
    project: Project = None,
    subject: Subject = None,
    let_through: Annotated[
        bool, typer.Option("--let-through", help="Record of a use that your product allowed without a response")
    ] = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> int:
    """Use a quantity at once, if it is allowed.

    Drawdown counts and charges the use. If you repeat the command with the same key, Drawdown does not count the use
    again. The exit status is 1 if the use is blocked.
    """
    app: App = context.obj
    by, wish = app.by(actor, reason), Wish(org, metric, quantity, None, project, subject, payer)
    if let_through:
        return _tell(app, app.write(lambda c: guard.let_through(c, key, wish, by, "used")), wish=wish)
    return _tell(app, app.write(lambda c: guard.consume(c, key, wish, by)), wish=wish)


def reserve(
    context: typer.Context,
    key: Key,
    metric: Metric,
    org: Org,
    quantity: Quantity = 1,
    for_: HoldFor = None,
    payer: Payer = None,
    project: Project = None,
    subject: Subject = None,
    actor: Actor = None,
    reason: Reason = "not given",
) -> int:
    """Reserve a quantity before the use, if it is allowed.

    Use this command if you do not know the final quantity yet. The exit status is 1 if the use is blocked.
    """
    app: App = context.obj
    for_ms = None if for_ is None else parse_length(for_, "--for")
    by, wish = app.by(actor, reason), Wish(org, metric, quantity, for_ms, project, subject, payer)
    return _tell(app, app.write(lambda c: guard.reserve(c, key, wish, by)), wish=wish)


def settle(
    context: typer.Context, key: Key, quantity: Quantity, actor: Actor = None, reason: Reason = "not given"
) -> int:
    """Settle a reservation with the total quantity used.

    You can also settle a reservation that expired.
    """
    app: App = context.obj
    by = app.by(actor, reason)
    return _tell(app, app.write(lambda c: guard.settle(c, key, quantity, by)))


def release(
    context: typer.Context, key: Key, quantity: Quantity = 0, actor: Actor = None, reason: Reason = "not given"
) -> int:
    """Release a reservation and charge only QUANTITY."""
    app: App = context.obj
    by = app.by(actor, reason)
    return _tell(app, app.write(lambda c: guard.release(c, key, quantity, by)))


def extend(
    context: typer.Context,
    key: Key,
    to: Annotated[
        int | None, typer.Option(help="Total quantity to reserve, in base units", show_default="unchanged")
    ] = None,
    for_: HoldFor = None,
    actor: Actor = None,
    reason: Reason = "not given",
) -> int:
    """Extend a reservation for another hour, or for --for.

    You can also increase the reserved quantity.
    """
    app: App = context.obj
    by, for_ms = app.by(actor, reason), None if for_ is None else parse_length(for_, "--for")
    found = app.write(lambda c: guard.extend(c, key, to, for_ms, by))
    less = to is not None and to < found.quantity
    sooner = for_ms is not None and by.now_ms + for_ms < (found.expires_ms or 0)
    return _tell(
        app,
        found,
        *(
            ["a reservation cannot shrink or end sooner, so this part of the call had no effect"]
            if less or sooner
            else []
        ),
    )


def _read_ways(app: App, wish: Wish) -> WaysTold:
    page = app.settings.server().my_page
    return app.read(lambda c: guard_ways.describe_ways(c, wish, page, app.clock.now_ms()))


def _ways(app: App, wish: Wish) -> list[str]:
    """Return a line for each way out: its state, and the command or link."""
    found = _read_ways(app, wish).options
    return [
        f"{way.option.replace('_', ' ')}: {way.code or 'open'}: {way.description}"
        + (f": {way.command or way.link}" if way.command or way.link else "")
        for way in found
    ]


def _tell(app: App, found: Answer, *more: str, wish: Wish | None = None) -> int:
    """Print the guard's response, and return the exit status: 1 for a block."""
    said = f"{found.decision}: {found.metric} {found.quantity:,} by {found.rule} ({found.reason})"
    if found.state in ("settled", "released") and found.decision != "block":
        was = "; unchanged" if found.repeated else ""
        said = f"{found.state}: {found.metric} {found.quantity:,}, allowed by {found.rule}{was}"
    if found.would != found.decision:
        said += f"; it would be: {found.would}"
    lines = [said]
    if found.limit is not None and found.remaining is not None:
        lines.append(f"{found.remaining:,} of {found.limit:,} left until {show_time(found.resets_ms)}")
    if found.price_micro:
        before = found.charged_before_micro  # a repeat does not charge again
        charged = (
            f"charged before: {show_credits(before)}" if before else f"charged {show_credits(found.charged_micro)}"
        )
        lines.append(f"costs {show_credits(found.price_micro)}, {charged}")
    if found.state == "held" and found.expires_ms is not None:
        lines.append(f"reserved until {show_time(found.expires_ms)}")
    if found.options and wish is not None:
        lines += _ways(app, wish)
    elif found.options:
        lines.append(f"ways out: {', '.join(found.options)}")
    show(app, vars(found), [*lines, *more])
    return Exit.PERSON if found.decision == "block" else Exit.SETTLED


commands = of_noun("guard", *guard_terms.ACTIONS, *limits.LISTS)
PUT_RIGHT = "repeat the command. `drawdown audit list --action guard_correct` shows each corrected counter"
_register(commands)


@commands.command()
def uses(
    context: typer.Context,
    metric: Annotated[str, typer.Option(help="Metric of the uses")] = "",
    org: Annotated[str, typer.Option(help="Organisation of the uses")] = "",
    fail_open: Annotated[bool, typer.Option("--fail-open", help="Uses allowed while the credit was unknown")] = False,
    most: Most = 50,
) -> None:
    """List uses, newest first."""
    app: App = context.obj
    found = app.read(lambda c: views.list_uses(c, metric, org, app.clock.now_ms(), most, fail_open=fail_open))
    rows = [
        (one.use_key, one.org_id, one.metric, one.state, one.quantity, show_credits(one.charged_micro), one.decision,
         one.would, one.rule, show_time(one.at_ms), one.actor)
        for one in found
    ]  # fmt: skip
    columns = ("key", "organisation", "metric", "state", "#quantity", "#charged", "decision", "would be", "rule", "at",
               "by")  # fmt: skip
    show(app, {"uses": found}, [table("Uses", columns, rows)])


@commands.command()
def report(
    context: typer.Context,
    metric: Metric,
    phase: Annotated[int, typer.Option(min=0, max=3, help="Phase that you plan to set")] = 3,
    since: Annotated[str, typer.Option(help="Start of the range of requests")] = "7d",
) -> None:
    """Show the requests that a phase would have blocked.

    Run the command before you set the phase. The result also shows how many of the blocked organisations ever bought
    credit.
    """
    app: App = context.obj
    since_ms = app.past(since, "--since")
    found = app.read(lambda c: views.report(c, metric, phase, since_ms))
    part = show_percent(0 if not found.requests else found.blocked * 1_000_000 // found.requests)
    said = f"{metric} in phase {phase} since {show_time(since_ms)}: {found.blocked:,} of {found.requests:,} blocked "
    said += f"({part}), {counted(found.quantity, 'unit')} of {counted(found.orgs, 'organisation')}, "
    said += f"{found.paying:,} of which bought credit"
    show(app, vars(found), [said])


@commands.command()
def reconcile(
    context: typer.Context,
    since: Annotated[str, typer.Option(help="Earliest start of the periods")] = "35d",
    tolerance: Annotated[str, typer.Option(metavar="PERCENT", help="Tolerance in per cent")] = "0",
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Correct counters that differ from the sum of their uses.

    A counter without uses does not change, because its uses are unknown. The exit status is 1 if a counter differed
    by more than the tolerance.
    """
    app: App = context.obj
    by, ppm = app.by(actor, reason), parse_percent(tolerance)
    since_ms = app.past(since, "--since")
    drifts = app.read(lambda c: checks.look(c, since_ms))
    try:
        done = checks.judge_drift(drifts, ppm) if dry_run else app.write(lambda c: checks.put_right(c, drifts, ppm, by))
    except AnswerLost as error:
        raise AnswerLost(error.why, f"{counted(len(drifts), 'counter')} differed; {PUT_RIGHT}") from error
    rows = [
        (one.org_id, one.metric, one.period, show_time(one.start_ms), one.counted,
         one.quantity if one.has_uses else None, _describe_drift(one, dry_run))
        for one in drifts
    ]  # fmt: skip
    columns = ("organisation", "metric", "a", "from", "#counted", "#used", "")
    differ = counted(len(drifts), "counter differs", "counters differ")
    text = f"{differ}, {done.above_tolerance:,} by more than the tolerance"
    show(app, {**vars(done), "exit_status": done.exit_status}, [table(text, columns, rows)])
    raise typer.Exit(done.exit_status)


def _describe_drift(one: Drift, dry_run: bool) -> str:
    if not one.has_uses:
        return "unchanged, because the counter does not have uses"
    return "would be corrected" if dry_run else "corrected"
