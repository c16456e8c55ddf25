"""`drawdown tick` and `run`: meter usage, and report a tick to monitoring.

Guarantee: the metrics file and the heartbeat do not change the result of a tick. The file is complete at any time, and
only a kill leaves a temporary file beside it. Logs do not contain the heartbeat URL, which often contains a secret.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import structlog
import typer

from drawdown.cli.app import App
from drawdown.cli.processes import MAX_PROCESSES, Stopping, in_processes, shards
from drawdown.cli.rendering import show
from drawdown.cli.startup import set_up_logs
from drawdown.cli.streams import Fault, as_error
from drawdown.providers.http import Answer, Call
from drawdown.schema.errors import Exit, UsageError, worst
from drawdown.schema.push_states import OPEN
from drawdown.schema.text import counted, typed
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import BUCKETS, SECOND_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.runner import ask
from drawdown.worker.engine.shard import NewOrgs, Shard
from drawdown.worker.status.backlog import read_backlog
from drawdown.worker.status.ticks import Report, summed
from drawdown.worker.tick import tick

if TYPE_CHECKING:
    from drawdown.cli import scheduler

NewOrgProvider = Annotated[str | None, typer.Option(help="Provider to assign to new organisations")]
Processes = Annotated[
    int, typer.Option(help="Number of processes that share the work; PostgreSQL only", min=1, max=MAX_PROCESSES)
]
NewOrgFrom = Annotated[
    str | None,
    typer.Option(help="First window that --new-org-provider bills", show_default="the first unsealed window"),
]


Every = Annotated[int, typer.Option(help="Seconds between ticks", min=1, max=86_400)]


def register(commands: typer.Typer) -> None:
    """Add the commands."""
    commands.command("tick")(tick_)
    commands.command("run")(run_)


def parse_shard(text: str | None) -> Shard:
    """Return the shard `i/n`, with i from 0: a contiguous part of the buckets.

    Errors: UsageError.
    """
    if text is None:
        return Shard()
    found = re.fullmatch(r"([0-9]{1,3})/([0-9]{1,3})", text)
    index, of = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 0 <= index < of <= BUCKETS:
        raise UsageError(
            f"invalid --shard {text!r}: expected I/N with I from 0 to N-1, and N at most {BUCKETS}, such as 0/4"
        )
    return shards(of)[index]


def parse_parts(app: App, shard: str | None, processes: int) -> list[Shard]:
    """Return the shards of a command, one for each process. Errors: UsageError."""
    if processes == 1:
        return [parse_shard(shard)]
    if shard is not None:
        raise UsageError("specify either --shard or --processes, not both")
    if app.ready().dialect.name == "sqlite":
        raise UsageError(
            "--processes needs PostgreSQL, because SQLite has one writer at a time. On SQLite, omit --processes"
        )
    return shards(processes)


def parse_nightly(text: str, other: str = "") -> dt.time:
    """Return the time in a text `HH:MM`.

    Errors: UsageError, which also names the `other` value.
    """
    found = re.fullmatch(r"([01][0-9]|2[0-3]):([0-5][0-9])", text)
    if found is None:
        raise UsageError(f"invalid --nightly-at {text!r}: expected an hour and minute in UTC, such as 02:17{other}")
    return dt.time(int(found[1]), int(found[2]))


def new_orgs(app: App, provider: str | None, start: str | None) -> NewOrgs | None:
    """Return the choice of `--new-org-provider` and `--new-org-from`.

    None: `provider` is None. Errors: UsageError; those of `App.require_provider`.
    """
    if provider is None:
        if start is not None:
            raise UsageError("--new-org-from needs --new-org-provider. Pass both")
        return None
    from_ms = app.window(start, "--new-org-from")
    return NewOrgs(app.require_provider(provider), from_ms)


def tick_(
    context: typer.Context,
    shard: Annotated[str | None, typer.Option(help="Part of the organisations, as I/N with I from 0")] = None,
    processes: Processes = 1,
    deadline: Annotated[
        float | None, typer.Option(help="Time limit in seconds; the next tick continues the work", min=0, max=86_400)
    ] = None,
    new_org_provider: NewOrgProvider = None,
    new_org_from: NewOrgFrom = None,
    accept_clock: Annotated[bool, typer.Option("--accept-clock", help="Acceptance of a clock that jumped")] = False,
    metrics_file: Annotated[
        Path | None, typer.Option(help="File for Prometheus metrics, written after each tick, failed ticks included")
    ] = None,
    heartbeat_url: Annotated[
        str | None, typer.Option(help="URL to request after a tick that ends with 0 or 75")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Output only if work is unsettled")] = False,
) -> None:
    """Settle all due work once and exit, for cron.

    Run the command every five minutes. The exit status is 0 if all work is settled, 75 if work is left for the next
    tick, and 1 if a person must act.
    """
    app: App = context.obj
    if quiet:
        set_up_logs(app.settings.log_level, at_least=logging.WARNING)
    try:
        parts, appearing = parse_parts(app, shard, processes), new_orgs(app, new_org_provider, new_org_from)
        ends_ms = None if deadline is None else app.clock.now_ms() + round(deadline * SECOND_MS)
        app.ready()
        report = _tick_once(app, parts, _TickOptions(appearing, ends_ms, accept_clock))
    finally:
        if metrics_file is not None:
            write_metrics(app, metrics_file)
    if heartbeat_url is not None and report.exit_status in (Exit.SETTLED, Exit.LEFT):
        beat(app, heartbeat_url)
    lines = [] if quiet and report.exit_status == Exit.SETTLED else report_lines(report)
    show(app, {"tick": {**asdict(report), "exit_status": report.exit_status}}, lines)
    raise typer.Exit(report.exit_status)


@dataclass(frozen=True)
class _TickOptions:
    """The options of every part of a tick."""

    new_orgs: NewOrgs | None
    deadline_ms: int | None
    accept_clock: bool

    def context(self, app: App, part: Shard) -> Context:
        made = app.context()
        made.shard, made.new_orgs = part, self.new_orgs
        made.deadline_ms, made.accept_clock = self.deadline_ms, self.accept_clock
        return made


def _tick_once(app: App, parts: Sequence[Shard], asked: _TickOptions) -> Report:
    if len(parts) == 1:
        return run_tick(app, asked.context(app, parts[0]))

    def one(part: Shard, stopping: Stopping) -> Report:
        own = app.apart(len(parts))
        made = asked.context(own, part)
        made.stopping = stopping.is_set
        try:
            return runner.run(tick(made), own.world())
        finally:
            own.close()

    app.close()  # a forked process must not share a connection
    ended = in_processes(parts, one)
    reports = [result for _, result in ended if isinstance(result, Report)]
    faults = [(part, result) for part, result in ended if isinstance(result, Fault)]
    if not reports:
        raise as_error(faults[0][1])
    report = summed(reports, app.read(lambda c: read_backlog(c, Shard(), reports[0].at_ms)))
    for part, fault in faults:
        told = report.failures if fault.status == Exit.LEFT else report.problems
        told.append(f"{part}: {fault.text}")
    return report


def run_tick(app: App, made: Context, *, always: bool = False) -> Report:
    """Run one tick, with a progress bar on a terminal or if `always`."""
    if not (always or sys.stderr.isatty()):
        return runner.run(tick(made), app.world())
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=app.err) as progress:
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
    """Return the report of a tick in a few lines."""
    left = report.left
    lines = [
        f"windows up to {show_time(report.horizon_ms)}: {report.sealed:,} sealed, {report.accepted:,} accepted, "
        f"{report.not_accepted:,} not accepted; {report.halted:,} halted, {report.resumed:,} resumed; "
        f"{counted(report.halts_acknowledged, 'halt')} acknowledged, "
        f"{report.halts_failed:,} not accepted by their cells"
    ]
    if report.swept:
        lines.append(
            f"the nightly sweep sealed {counted(report.swept, 'push', 'pushes')} that the arrival cursor had missed. "
            "Report this as a bug"
        )
    if report.batches_taken:
        lines.append(f"files of watched folders taken: {report.batches_taken:,}. The next tick bills them")
    lines += [
        f"{name} limited the rate of calls, so Drawdown lowered its concurrent calls to {at_once:,}"
        for name, at_once in report.calls_cut.items()
    ]
    facts = {
        **{state.words: getattr(left, name) for name, state in OPEN.items()},
        "windows to seal again": left.dirty_windows,
        "halts due": left.halts_due,
        "halts acknowledged without effect": left.halts_ignored,
        "organisations to read": left.projections_due,
        "stopped organisations": left.stopped_orgs,
        **{f"seconds pending ({reason})": seconds for reason, seconds in left.pending_s.items()},
        **{f"units of events pending ({reason})": units for reason, units in left.pending_units.items()},
        **{f"samples quarantined ({reason})": number for reason, number in left.quarantined.items()},
        "samples dated in the future": left.dated_ahead,
    }
    lines += [
        f"  left: {number:,} {what if number > 1 else _singular(what)}" for what, number in facts.items() if number
    ]
    if report.jobs_wait:
        lines.append("  left: jobs that wait for the next tick; `drawdown job list`")
    if report.batches_wait:
        lines.append("  left: files of watched folders that wait for the next tick; `drawdown batch list`")
    lines += [f"  {problem}" for problem in report.problems]
    lines += [f"  stopped: {org}; `drawdown org show {typed(org)}` shows the reason" for org in report.stopped_orgs]
    return lines + [f"  failed: {failure}" for failure in report.failures]


def _singular(what: str) -> str:
    return " ".join(COUNTED.get(word, word) for word in what.split(" "))


COUNTED: Final = {
    "windows": "window", "halts": "halt", "organisations": "organisation", "seconds": "second", "units": "unit",
    "samples": "sample",
}  # fmt: skip


def run_(
    context: typer.Context,
    shard: Annotated[str | None, typer.Option(help="Part of the organisations, as I/N with I from 0")] = None,
    processes: Processes = 1,
    new_org_provider: NewOrgProvider = None,
    new_org_from: NewOrgFrom = None,
    accept_clock: Annotated[bool, typer.Option("--accept-clock", help="Acceptance of a clock that jumped")] = False,
    every: Every = 300,
    deadline: Annotated[
        float | None,
        typer.Option(
            help="Time limit of a tick in seconds; the next tick continues the work",
            min=0,
            max=86_400,
            show_default="0.8 of --every",
        ),
    ] = None,
    watch: Annotated[bool, typer.Option(help="Watch between ticks, which halts organisations within seconds")] = True,
    nightly_at: Annotated[
        str | None,
        typer.Option(help="Time of day of `drawdown nightly`, in UTC, such as 02:17", show_default="never"),
    ] = None,
) -> None:
    """Run a tick every five minutes, and the watch between ticks.

    The command ends with SIGTERM or Ctrl-C. To run the server too, use `drawdown up`.
    """
    from drawdown.cli import scheduler  # imported here, because `drawdown tick` does not need it
    from drawdown.worker.watch import ROUND_MS

    app: App = context.obj
    if deadline is not None and deadline > every:
        raise UsageError(
            f"invalid --deadline {deadline:g}: it is longer than --every, so a tick could delay the next tick. Pass "
            f"at most {every}"
        )
    parts, appearing = parse_parts(app, shard, processes), new_orgs(app, new_org_provider, new_org_from)
    rounds_s = ROUND_MS // SECOND_MS if watch else None
    night = None if nightly_at is None else parse_nightly(nightly_at)
    options = scheduler.Options(parts[0], appearing, accept_clock, every, rounds_s, deadline, night)
    app.ready()
    stopping = Stopping()
    stopping.on_signals()  # before the first line of output, so that no signal is lost
    between = f"a watch round every {options.watch_every_s} s between them; " if options.watch_every_s else "no watch; "
    show(
        app,
        {"tick_every_s": every, "watch_every_s": options.watch_every_s},
        [f"a tick now, and another every {every:,} s; {between}SIGTERM or Ctrl-C ends the command"],
    )
    sys.stdout.flush()
    if len(parts) > 1:
        raise typer.Exit(_run_in_parts(app, parts, options, stopping))
    raise typer.Exit(scheduler.run(app, options, stopping))


def _run_in_parts(app: App, parts: Sequence[Shard], options: scheduler.Options, before: Stopping) -> int:
    """Run the ticks and the watch of each part in its own process.

    If one process ends, the others end, too, so that the supervisor of this command restarts all. `before`: a signal
    that came before the processes began.
    """
    from drawdown.cli import scheduler

    def one(part: Shard, stopping: Stopping) -> int:
        own = app.apart(len(parts))
        try:
            night = options.nightly_at if part is parts[0] else None  # the first part alone runs the nightly checks
            return scheduler.run(own, replace(options, shard=part, nightly_at=night), stopping)
        finally:
            own.close()

    app.close()  # a forked process must not share a connection
    ended = [result for _, result in in_processes(parts, one, together=True, before=before)]
    return worst(result.status if isinstance(result, Fault) else result for result in ended)


log = structlog.get_logger()

HEARTBEAT_TIMEOUT_S: Final = 10.0
"""Seconds that a tick waits for the response to its heartbeat."""
READABLE: Final = 0o644


def write_metrics(app: App, file: Path) -> None:
    """Write the metrics of the database to a file, for the textfile collector.

    If the file cannot be written, Drawdown logs the failure.
    """
    from drawdown.server import metrics  # imported here, because only ticks with --metrics-file need it

    try:
        found = metrics.render(app.engine, app.clock.now_ms())
        number, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        made = Path(name)
        try:
            with os.fdopen(number, "wb") as out:
                out.write(found)
            made.chmod(READABLE)
            made.replace(file)
        except BaseException:  # delete the temporary file after any failure
            made.unlink(missing_ok=True)
            raise
    except OSError as error:
        log.error("metrics_not_written", file=str(file), error=error.strerror)


def beat(app: App, url: str) -> None:
    """Report to the heartbeat URL that a tick ended with 0 or 75. A failure is logged."""
    try:
        world = app.world()  # this reads the database, which may be gone since the tick
        assert world.http is not None
        http = world.http
        answer = ask(lambda: http.send(Call("GET", url, timeout_s=HEARTBEAT_TIMEOUT_S)), world)
    except Exception as error:  # a failed heartbeat does not change the tick
        log.warning("heartbeat_failed", kind=type(error).__name__)
        return
    if not isinstance(answer, Answer):
        log.warning("heartbeat_failed", reason=answer.reason)
    elif not 200 <= answer.status < 300:
        log.warning("heartbeat_failed", status=answer.status)
