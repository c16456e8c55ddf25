"""`drawdown reconcile`: compare Drawdown's totals with the providers'."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from drawdown.cli.app import App
from drawdown.cli.nouns.jobs import QUEUED
from drawdown.cli.options import Actor, Queued, Reason, only_with
from drawdown.cli.rendering import show, table
from drawdown.schema.audit import By, require_org
from drawdown.schema.errors import UsageError
from drawdown.schema.text import counted, typed
from drawdown.schema.typed.parsing import require_range, show_time
from drawdown.schema.units import DAY_MS, show_difference, show_quantity
from drawdown.worker.engine.runner import run
from drawdown.worker.history.incarnation import require_whole
from drawdown.worker.jobs.job_payloads import CorrectJob
from drawdown.worker.jobs.queue import place
from drawdown.worker.reconcile import lists as reconciliations
from drawdown.worker.reconcile.acknowledgement import acknowledge, find_unbilled
from drawdown.worker.reconcile.lists import ComparedFilter
from drawdown.worker.reconcile.reconcile import Reconciled, ReconcileScope, reconcile

FromDay = Annotated[
    str | None, typer.Option("--from", help="First day, in UTC", show_default="days of recently settled pushes")
]
ShadowThreshold = Annotated[
    float, typer.Option(min=0, max=100, help="Largest difference to ignore in shadow mode, in per cent")
]
Correct = Annotated[bool, typer.Option("--correct", help="Void of lost pushes, and refund of double charges")]
Acknowledge = Annotated[
    bool, typer.Option("--acknowledge", help="Acknowledgement of reported balance differences and unbilled days")
]

Kept = Annotated[bool, typer.Option("--kept", help="Last result, shown without a call to a provider")]


def register(commands: typer.Typer) -> None:
    """Add the command."""
    commands.command("reconcile")(reconcile_)


def reconcile_(
    context: typer.Context,
    org: Annotated[str, typer.Argument(help="Organisation to compare", show_default="all")] = "",
    provider: Annotated[str, typer.Option(help="Provider to compare", show_default="all that have totals")] = "",
    from_: FromDay = None,
    to: Annotated[str | None, typer.Option("--to", help="Day after the last day, in UTC")] = None,
    threshold: Annotated[float, typer.Option(min=0, max=100, help="Largest difference to ignore, in per cent")] = 0.0,
    shadow_threshold: ShadowThreshold = 15.0,
    correct: Correct = False,
    acknowledge: Acknowledge = False,
    kept: Kept = False,
    queue: Queued = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Compare accepted pushes with the providers' charges.

    The comparison is by organisation, feature and day. The exit status is 1 if a difference needs a person. Otherwise
    it is 75 if Drawdown corrected a difference, could not read a provider, or ran out of time.
    """
    app: App = context.obj
    if acknowledge or kept:
        other = ("actor", "reason") if acknowledge else ("provider", "kept")
        only_with(context, "--acknowledge" if acknowledge else "--kept", "org", *other)
        by = app.by(actor, reason)
        return _acknowledge(app, org, by) if acknowledge else _show_kept(app, ComparedFilter(provider, org))
    if provider:
        app.require_provider(provider)
    start, end = _days(app, from_, to)
    if queue:
        return _queue(context, CorrectJob(org, provider, start, end), app.by(actor, reason), correct=correct)
    scope = ReconcileScope(
        from_ms=start or 0,
        to_ms=2**53 if end is None else end,
        org_id=org,
        provider=provider,
        threshold=threshold / 100,
        shadow_threshold=shadow_threshold / 100,
        correct=correct,
        recent=start is None and end is None,
    )
    if org:
        app.read(lambda c: require_org(c, org))
    # The clock dates a correction, and the mark of how far a comparison reached.
    if correct or (scope.recent and not org):
        app.require_clock()
    found = compare(app, scope, app.by(actor, reason))
    done = {**asdict(found), "exit_status": found.exit_status}
    show(
        app, {"reconcile": {**done, "shadow_threshold": shadow_threshold}}, _report(found, threshold, shadow_threshold)
    )
    raise typer.Exit(found.exit_status)


def _queue(context: typer.Context, asked: CorrectJob, by: By, *, correct: bool) -> None:
    app: App = context.obj
    only_with(context, "--queue", "org", "provider", "from_", "to", "correct", "actor", "reason")
    if not correct:
        raise UsageError("--queue applies only to a correction. Pass --correct, too")
    if asked.org_id:
        app.read(lambda c: require_org(c, asked.org_id))
    job_id = app.write(lambda c: place(c, asked, by))
    show(app, {"job": job_id}, [QUEUED.format(job_id)])


def compare(app: App, scope: ReconcileScope, by: By) -> Reconciled:
    """Compare, and correct if the scope requests it.

    Errors: DatabaseNotReady; for a correction, also HistoryDoubted and ClockDoubted.
    """
    if scope.correct:
        app.write(require_whole)
    app.ready()
    return run(reconcile(app.context(), scope, by), app.world())


def _show_kept(app: App, chosen: ComparedFilter) -> None:
    differing, found, runs = app.read(
        lambda c: (reconciliations.differing(c, chosen), reconciliations.page(c, chosen), reconciliations.runs(c))
    )
    columns = ("day", "org", "provider", "feature", "#ours", "#theirs", "", "compared")
    tables = [
        table(title, columns, [
            (show_time(one.day_ms)[:10], one.org_id, one.provider, one.feature, one.ours_qty, one.theirs_qty,
             one.verdict, show_time(one.at_ms)) for one in lines
        ])
        for title, lines in (("Differences, in base units", differing), ("The latest days", found.lines))
    ]  # fmt: skip
    last = "never" if not runs else show_time(runs[0].at_ms)
    result = {"differing": differing, "lines": found.lines, "runs": runs}
    show(app, result, [*tables, f"last compared: {last}"])


def _acknowledge(app: App, org: str, by: By) -> None:
    if org:
        app.read(lambda c: require_org(c, org))
    seen = app.write(lambda c: acknowledge(c, org, by))
    others = [] if org else sorted({one.org_id for one in app.read(find_unbilled)})
    done = [
        f"{one.org_id}, {one.provider}, {one.feature}: "
        f"{show_difference(int(one.told_qty), int(one.unsure_qty), int(one.scale))}"
        for one in seen.balances
    ]
    unbilled = [str(one) for one in seen.unbilled]
    lines = [f"{counted(len(done), 'reported balance difference is', 'reported balance differences are')} acknowledged"]
    lines += done
    if unbilled:
        days = counted(sum(one.days for one in seen.unbilled), "unbilled day is", "unbilled days are")
        lines += [f"{days} acknowledged", *unbilled]
    for other in others[:100]:
        command = typed("drawdown", "reconcile", other, "--acknowledge")
        lines.append(f"{other}: its unbilled days are not acknowledged. Run `{command}`")
    show(app, {"acknowledged": done, "unbilled": seen.unbilled}, lines)


def _days(app: App, from_: str | None, to: str | None) -> tuple[int | None, int | None]:
    """Return the range of days, in milliseconds.

    Errors: UsageError if a text is not a day, or the range is empty.
    """
    start = None if from_ is None else app.past(from_, "--from")
    end = None if to is None else app.moment(to, "--to")
    if any(day is not None and day % DAY_MS for day in (start, end)):
        raise UsageError("--from and --to must be days, such as 2026-01-31")
    require_range(start, end)  # --to is the day after the last day of the range
    return start, end


def _report(found: Reconciled, threshold: float, shadow_threshold: float) -> list[str | Table]:
    differ = counted(len(found.differing), "differs", "differ")
    text = f"{found.compared:,} compared (organisation, feature, day), {differ}"
    if found.forgiven:
        allowed = f"{shadow_threshold:g} % in shadow" + (f", {threshold:g} % otherwise" if threshold else "")
        text += f" by more than {allowed}; {found.forgiven:,} by less (--shadow-threshold 0 lists them)"
    if found.waiting:
        text += "; with due, queued or in-doubt pushes, or newer than the provider's lag, so not compared yet: "
        text += f"{found.waiting:,}"
    if found.covered:
        text += f"; charged, but lower in events, because the customer's balance fell by the amount: {found.covered:,}"
    if found.left_out:
        text += f"; {counted(len(found.left_out), 'balance was', 'balances were')} not compared"
    if found.unfinished:
        text += "; time ran out before the comparison was complete"
    if found.unread:
        text += f"; {found.unread:,} could not be read"
    if found.open_days:
        text += f"; settled more than a day ago, but still open: {found.open_days:,}"
    if found.other_terms:
        text += f"; sent on earlier terms, so not compared: {found.other_terms:,}"
    lines: list[str | Table] = [text, *(f"{name}: not compared: {why}" for name, why in found.skipped.items())]
    lines += [f"not read: {reason}" for reason in found.reasons]
    lines += [f"{one.customer_id}, {one.feature}: balance not compared: {one.reason}" for one in found.left_out[:100]]
    if found.differing:
        columns = ("day", "org", "provider", "feature", "#ours", "#theirs", "", "#corrected")
        rows = [
            (
                show_time(d.day_ms)[:10],
                d.org_id,
                d.provider,
                d.feature,
                *(show_quantity(quantity, d.scale) for quantity in (d.ours, d.theirs)),
                d.verdict,
                show_quantity(d.corrected, d.scale),
            )
            for d in found.differing[:100]
        ]
        lines.append(table("Differences, in base units; of a credit system in credits", columns, rows))
        lines += [f"{line.org_id}, {line.feature}: {line.note}" for line in found.differing[:100] if line.note]
    return lines
