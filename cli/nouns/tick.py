"""`drawdown tick`, `run`: the commands that meter."""

from __future__ import annotations

import logging
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from drawdown.cli import after_tick, scheduler
from drawdown.cli.app import App
from drawdown.cli.opening import set_up_logs
from drawdown.cli.rendering import show
from drawdown.cli.stopping import Stopping
from drawdown.schema.errors import Exit, UsageError
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import BUCKETS, SECOND_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.shard import NewOrgs, Shard
from drawdown.worker.tick import tick
from drawdown.worker.views.tick_report import Report
from drawdown.worker.watch import ROUND_MS

NewOrgProvider = Annotated[str | None, typer.Option(help="Assign organisations to this provider as they appear")]
NewOrgFrom = Annotated[str | None, typer.Option(help="...from this window on", show_default="what is not sealed yet")]


def register(commands: typer.Typer) -> None:
    """Add the commands."""
    commands.command("tick")(tick_)
    commands.command("run")(run_)


def parse_shard(text: str | None) -> Shard:
    """`i/n`, i from 0: a contiguous part of the buckets."""
    if text is None:
        return Shard()
    found = re.fullmatch(r"(\d{1,3})/(\d{1,3})", text)
    index, of = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 0 <= index < of <= BUCKETS:
        raise UsageError(f"--shard {text!r}: write i/n with i from 0 to n-1, and n at most {BUCKETS}, such as 0/4")
    return Shard(index * BUCKETS // of, (index + 1) * BUCKETS // of - 1)


def new_orgs(app: App, provider: str | None, start: str | None) -> NewOrgs | None:
    """What `--new-org-provider` and `--new-org-from` say."""
    if provider is None:
        if start is not None:
            raise UsageError("--new-org-from goes with --new-org-provider")
        return None
    from_ms = app.window(start, "--new-org-from")
    return NewOrgs(app.require_provider(provider), from_ms)


def tick_(
    context: typer.Context,
    shard: Annotated[str | None, typer.Option(help="Only this part of the organisations: i/n, i from 0")] = None,
    deadline: Annotated[
        float | None, typer.Option(help="Leave what remains after so many seconds", min=0, max=86_400)
    ] = None,
    new_org_provider: NewOrgProvider = None,
    new_org_from: NewOrgFrom = None,
    accept_clock: Annotated[bool, typer.Option("--accept-clock", help="The clock is right, though it jumped")] = False,
    metrics_file: Annotated[
        Path | None, typer.Option(help="Write Prometheus metrics here afterwards, whatever became of the tick")
    ] = None,
    heartbeat_url: Annotated[str | None, typer.Option(help="Get this URL after a tick that ended with 0 or 75")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing where all is settled: for cron's mail")] = False,
) -> None:
    """Settle everything once and exit: the cron form, every five minutes."""
    app: App = context.obj
    if quiet:
        set_up_logs(app.settings.log_level, at_least=logging.WARNING)
    try:
        report = _tick_once(app, shard, deadline, new_org_provider, new_org_from, accept_clock=accept_clock)
    finally:
        if metrics_file is not None:
            after_tick.write_metrics(app, metrics_file)
    if heartbeat_url is not None and report.exit_status in (Exit.SETTLED, Exit.LEFT):
        after_tick.beat(app, heartbeat_url)
    lines = [] if quiet and report.exit_status == Exit.SETTLED else report_lines(report)
    show(app, {"tick": {**asdict(report), "exit_status": report.exit_status}}, lines)
    raise typer.Exit(report.exit_status)


def _tick_once(
    app: App,
    shard: str | None,
    deadline: float | None,
    new_org_provider: str | None,
    new_org_from: str | None,
    *,
    accept_clock: bool,
) -> Report:
    part, appearing = parse_shard(shard), new_orgs(app, new_org_provider, new_org_from)
    app.ready()
    made = app.context()
    made.shard, made.new_orgs = part, appearing
    made.accept_clock = accept_clock
    if deadline is not None:
        made.deadline_ms = app.clock.now_ms() + round(deadline * SECOND_MS)
    return run_tick(app, made)


def run_tick(app: App, made: Context, *, always: bool = False) -> Report:
    """One tick with a progress bar, where somebody looks or `always`."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=app.err, disable=not (always or sys.stderr.isatty())) as progress:
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
        return runner.run(tick(made), app.world())


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
        "halts acknowledged without effect": left.halts_unheeded,
        "organisations to read": left.projections_due,
        "stopped organisations": left.stopped_orgs,
        **{f"seconds pending ({reason})": seconds for reason, seconds in left.pending_s.items()},
        **{f"units of events pending ({reason})": units for reason, units in left.pending_units.items()},
        **{f"samples quarantined ({reason})": number for reason, number in left.quarantined.items()},
        "samples dated later than now": left.dated_ahead,
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
    deadline: Annotated[
        float | None,
        typer.Option(
            help="A tick leaves what remains after so many seconds", min=0, max=86_400, show_default="0.8 of --every"
        ),
    ] = None,
    watch: Annotated[bool, typer.Option(help="Halt within seconds between ticks, too")] = True,
) -> None:
    """Tick every five minutes, and watch between ticks, until told to end (SIGTERM, Ctrl-C)."""
    app: App = context.obj
    if deadline is not None and deadline > every:
        raise UsageError(f"--deadline {deadline:g}: a tick would hold up the next one, {every:,} s later (--every)")
    appearing = new_orgs(app, new_org_provider, new_org_from)
    rounds_s = ROUND_MS // SECOND_MS if watch else None
    options = scheduler.Options(parse_shard(shard), appearing, accept_clock, every, rounds_s, deadline)
    app.ready()
    stopping = Stopping()
    stopping.on_signals()
    between = f"a watch round every {options.watch_every_s} s between them; " if options.watch_every_s else "no watch; "
    show(
        app,
        {"tick_every_s": every, "watch_every_s": options.watch_every_s},
        [f"a tick now, and one every {every:,} s; {between}SIGTERM or Ctrl-C ends it"],
    )
    sys.stdout.flush()
    raise typer.Exit(scheduler.run(app, options, stopping))
