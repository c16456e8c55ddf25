"""`drawdown tick`, `run`, `replay`: what meters."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from drawdown.cli import scheduler
from drawdown.cli.options import DryRun
from drawdown.cli.render import show, table
from drawdown.cli.state import State
from drawdown.cli.times import parse_time, parse_window, show_time
from drawdown.schema.errors import UsageError
from drawdown.schema.units import BUCKETS, SECOND_MS
from drawdown.worker import runner
from drawdown.worker.context import Context
from drawdown.worker.replay import replay
from drawdown.worker.report import Report
from drawdown.worker.shard import NewOrgs, Shard
from drawdown.worker.tick import tick

NewOrgProvider = Annotated[str | None, typer.Option(help="Assign organisations to this provider as they appear")]
NewOrgFrom = Annotated[str | None, typer.Option(help="...from this window on", show_default="what is not sealed yet")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("tick")(tick_)
    app.command("run")(run_)
    app.command("replay")(replay_)


def parse_shard(text: str | None) -> Shard:
    """`i/n`, i from 0: a contiguous part of the buckets."""
    if text is None:
        return Shard()
    found = re.fullmatch(r"(\d{1,3})/(\d{1,3})", text)
    index, of = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 0 <= index < of <= BUCKETS:
        raise UsageError(f"--shard {text!r}: write i/n with i from 0 to n-1, and n at most {BUCKETS}, such as 0/4")
    return Shard(index * BUCKETS // of, (index + 1) * BUCKETS // of - 1)


def new_orgs(state: State, provider: str | None, start: str | None) -> NewOrgs | None:
    """What `--new-org-provider` and `--new-org-from` say."""
    if provider is None:
        if start is not None:
            raise UsageError("--new-org-from goes with --new-org-provider")
        return None
    return NewOrgs(state.require_provider(provider), parse_window(start, "--new-org-from"))


def tick_(
    context: typer.Context,
    shard: Annotated[str | None, typer.Option(help="Only this part of the organisations: i/n, i from 0")] = None,
    deadline: Annotated[
        float | None, typer.Option(help="Leave what remains after so many seconds", min=0, max=86_400)
    ] = None,
    new_org_provider: NewOrgProvider = None,
    new_org_from: NewOrgFrom = None,
    accept_clock: Annotated[bool, typer.Option("--accept-clock", help="The clock is right, though it jumped")] = False,
) -> None:
    """Settle everything once and exit: the cron form, every five minutes."""
    state: State = context.obj
    state.ready()
    made = state.context()
    made.shard = parse_shard(shard)
    made.new_orgs = new_orgs(state, new_org_provider, new_org_from)
    made.accept_clock = accept_clock
    if deadline is not None:
        made.deadline_ms = state.clock.now_ms() + round(deadline * SECOND_MS)
    report = run_tick(state, made)
    show(state, {"tick": {**asdict(report), "exit_status": report.exit_status}}, report_lines(report))
    raise typer.Exit(report.exit_status)


def run_tick(state: State, made: Context, *, always: bool = False) -> Report:
    """One tick with a progress bar, where somebody looks or `always`."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=state.err, disable=not (always or sys.stderr.isatty())) as progress:
        tasks = {
            "pushed": progress.add_task("pushed of sealed", total=0),
            "projected": progress.add_task("organisations read", total=None),
        }
        totals = {"sealed": 0}

        def advanced(what: str, count: int) -> None:
            if what == "sealed":
                totals["sealed"] += count
                progress.update(tasks["pushed"], total=totals["sealed"])
            else:
                progress.advance(tasks[what], count)

        made.progress = advanced
        return runner.run(tick(made), state.world())


def report_lines(report: Report) -> list[str]:
    """A tick in a few lines."""
    left = report.left
    lines = [
        f"windows up to {show_time(report.horizon_ms)}: {report.sealed:,} sealed, {report.accepted:,} accepted, "
        f"{report.not_accepted:,} not; {report.halted:,} halted, {report.resumed:,} resumed, "
        f"{report.halts_acknowledged:,} halts acknowledged, {report.halts_failed:,} failed"
    ]
    if report.swept:
        lines.append(
            f"the nightly sweep found {report.swept:,} that the arrival cursor had missed: tell the developers"
        )
    facts = {
        "due": left.due,
        "queued": left.queued,
        "in doubt": left.in_doubt,
        "rejected": left.rejected,
        "windows to seal again": left.dirty_windows,
        "halts due": left.halts_due,
        "organisations to read": left.projections_due,
        "stopped organisations": left.stopped_orgs,
        **{f"seconds pending ({reason})": seconds for reason, seconds in left.pending_s.items()},
        **{f"samples quarantined ({reason})": number for reason, number in left.quarantined.items()},
    }
    lines += [f"  left: {number:,} {what}" for what, number in facts.items() if number]
    lines += [f"  {problem}" for problem in report.problems]
    lines += [f"  stopped: {org}; `drawdown org show {org}` says why" for org in report.stopped_orgs]
    return lines + [f"  failed: {failure}" for failure in report.failures]


def run_(
    context: typer.Context,
    shard: Annotated[str | None, typer.Option(help="Only this part of the organisations: i/n, i from 0")] = None,
    new_org_provider: NewOrgProvider = None,
    new_org_from: NewOrgFrom = None,
    accept_clock: Annotated[bool, typer.Option("--accept-clock", help="The clock is right, though it jumped")] = False,
    every: Annotated[int, typer.Option(help="Seconds between ticks", min=1, max=86_400)] = 300,
) -> None:
    """Tick every five minutes until told to end (SIGTERM, Ctrl-C)."""
    state: State = context.obj
    state.ready()
    options = scheduler.Options(
        parse_shard(shard), new_orgs(state, new_org_provider, new_org_from), accept_clock, every
    )
    raise typer.Exit(scheduler.run(state, options))


def replay_(
    context: typer.Context,
    org: Annotated[str | None, typer.Argument(help="One organisation")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All organisations")] = False,
    from_: Annotated[str, typer.Option("--from", help="The range's begin")] = "",
    to: Annotated[str, typer.Option("--to", help="The range's end")] = "",
    zone: Annotated[str, typer.Option(help="The zone of times that name none")] = "UTC",
    dry_run: DryRun = False,
) -> None:
    """Seal a past range again, and push what it still owes. What is billed already is not billed again."""
    state: State = context.obj
    if (org is None) != all_:
        raise UsageError("name one organisation, or give --all")
    if not from_ or not to:
        raise UsageError("give the range: --from and --to")
    start, end = parse_time(from_, "--from", zone), parse_time(to, "--to", zone)
    state.ready()
    found = runner.run(
        replay(state.context(), None if org is None else [org], start, end, dry_run=dry_run), state.world()
    )
    rows = [(f.org_id, show_time(f.window_ms), f.feature, f.revision, f.quantity) for f in found.first]
    verb = "would seal" if dry_run else "sealed"
    span = f"{show_time(found.from_ms)} to {show_time(found.to_ms)}"
    text = f"{span}: {verb} {found.pushes:,} pushes, {found.quantity:,} units"
    tables = [table("Owed", ("org", "window", "feature", "#revision", "#quantity"), rows)] if rows else []
    show(state, {"replay": found, "dry_run": dry_run}, [text, *tables])
