"""`drawdown replay`: seal and send the usage that a past range still owes.

Guarantee: before any change, the command shows the range in the typed zone and in UTC, with its windows.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from drawdown.cli.app import App
from drawdown.cli.nouns.jobs import QUEUED
from drawdown.cli.options import Actor, DryRun, Queued, Reason
from drawdown.cli.rendering import show, table
from drawdown.schema.audit import By
from drawdown.schema.errors import UsageError
from drawdown.schema.push_states import OPEN_STORED
from drawdown.schema.text import clean, counted
from drawdown.schema.typed.parsing import in_zone, is_said_twice, offset_of, parse_zone, show_credits, show_time
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.catalog.wallets import add
from drawdown.worker.engine import runner
from drawdown.worker.jobs.job_payloads import ReplayJob
from drawdown.worker.jobs.queue import place
from drawdown.worker.replay.plan import ReplayPlan, ReplayScope, notes, plan
from drawdown.worker.replay.replay import SHOWN, Replayed, Tally, replay

LISTED = 20
"""Maximum number of rows of a table for people.

--json has up to 1,000 pushes, and with --dry-run all pushes.
"""


def register(commands: typer.Typer) -> None:
    """Add the command."""
    commands.command("replay")(replay_)


def replay_(
    context: typer.Context,
    orgs: Annotated[list[str] | None, typer.Argument(metavar="[ORG]...", help="Organisations to replay")] = None,
    provider: Annotated[str | None, typer.Option(help="Provider that bills the windows")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All organisations")] = False,
    from_: Annotated[str, typer.Option("--from", help="Start of the range")] = "",
    to: Annotated[str, typer.Option("--to", help="End of the range")] = "",
    zone: Annotated[str, typer.Option(help="Time zone of times without an offset")] = "UTC",
    dry_run: DryRun = False,
    queue: Queued = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Seal a past range again, and send usage that is still owed.

    Drawdown does not bill usage twice. If a replay was interrupted, the same command continues it. --dry-run shows the
    pushes that the command would seal and send, with prices. It also shows why other usage is missing. With --json, the
    dry run lists each push. The exit status is 0 if all work is settled, 75 if work is left, and 1 if a person must
    act.
    """
    app: App = context.obj
    if bool(orgs) + (provider is not None) + all_ != 1:
        raise UsageError("specify exactly one of organisations, --provider NAME and --all")
    if not from_ or not to:
        raise UsageError("missing range. Pass --from and --to")
    if queue and dry_run:
        raise UsageError("specify either --dry-run or --queue, not both")
    parse_zone(zone)
    start, end = app.moment(from_, "--from", zone), app.moment(to, "--to", zone)
    app.require_any_provider(provider or "")
    now = app.clock.now_ms()
    scope = ReplayScope(tuple(orgs or ()), provider)
    made = app.read(lambda c: plan(c, scope, start, end, now))
    echo = echoed(made, (from_, to), (start, end), zone)
    if not app.json:
        for line in echo.lines:
            app.out.print(escape(clean(line)), highlight=False)
    ranged = asdict(echo) | _plan_json(made)
    if queue:
        job_id = app.write(lambda c: place(c, ReplayJob(scope, start, end), app.by(actor, reason)))
        show(app, {"job": job_id, "range": ranged}, [QUEUED.format(job_id)])
        return
    if not dry_run:
        app.require_clock()
    found = _run(app, made, dry_run, app.by(actor, reason))
    shown = {"replay": _plain(found), "range": ranged, "dry_run": dry_run}
    show(app, {**shown, "exit_status": found.exit_status}, lines_of(found))
    raise typer.Exit(found.exit_status)


def _run(app: App, made: ReplayPlan, dry_run: bool, by: By) -> Replayed:
    """Run a replay, with a progress bar on a terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=app.err, disable=not sys.stderr.isatty()) as progress:
        tasks = {
            "replayed": progress.add_task("windows replayed", total=0),
            "pushed": progress.add_task("pushed", total=None),
            "projected": progress.add_task("organisations read", total=None),
        }

        def advanced(what: str, count: int) -> None:
            if what == "range":
                progress.update(tasks["replayed"], total=count)
            else:
                progress.advance(tasks[what], count)

        context = app.context()
        context.progress = advanced
        most = None if dry_run and app.json else SHOWN
        return runner.run(replay(context, made, by, dry_run=dry_run, most=most), app.world())


@dataclass(frozen=True)
class Echo:
    """The requested range as Drawdown reads it. `lines`: the text for people."""

    zone: str
    utc: list[str]
    local: list[str]
    offsets: list[str]
    lines: list[str]


def echoed(made: ReplayPlan, given: tuple[str, str], asked: tuple[int, int], zone_name: str) -> Echo:
    """Return the range in the typed zone and in UTC, and the part that is replayed.

    Errors: UsageError for an unknown zone.
    """
    zone = parse_zone(zone_name)
    local = [in_zone(moment, zone) for moment in asked]
    offsets = [offset_of(moment) for moment in local]
    utc = [show_time(moment) for moment in asked]
    lines = [f"range    {utc[0]} to {utc[1]} (UTC)"]
    if zone_name != "UTC":
        lines.append(f"         {local[0].isoformat()} to {local[1].isoformat()} ({zone_name})")
    if offsets[0] != offsets[1]:
        lines.append(f"         the clocks of {zone_name} change in the range: from {offsets[0]} to {offsets[1]}")
    lines += [
        f"         {text}: this time occurs twice; read as {moment.isoformat()}. To choose, write the offset"
        for text, moment in zip(given, local, strict=True)
        if is_said_twice(text, zone)
    ]
    count = (made.to_ms - made.from_ms) // WINDOW_MS
    lines.append(f"windows  {show_time(made.from_ms)} to {show_time(made.to_ms)}: {count:,}, of {made.scope}")
    return Echo(
        zone_name,
        utc,
        [moment.isoformat() for moment in local],
        offsets,
        lines + [f"{what:9}{text}" for what, text in notes(made)],
    )


def _plan_json(made: ReplayPlan) -> dict[str, object]:
    found = asdict(made)
    del found["orgs"]
    return {**found, "orgs": None if made.orgs is None else len(made.orgs)}


def _plain(found: Replayed) -> dict[str, object]:
    return {
        **asdict(found),
        "by_provider": [asdict(tally) for tally in by_provider(found.totals)],
        "listed": len(found.first),
        "exit_status": found.exit_status,
    }


def by_provider(totals: list[Tally]) -> list[Tally]:
    """Return the sums of all organisations by provider and feature.

    Their `org_id` is empty.
    """
    made: dict[tuple[str, str], Tally] = {}
    for tally in totals:
        sum_ = made.setdefault((tally.provider, tally.feature), Tally("", tally.provider, tally.feature))
        sum_.pushes += tally.pushes
        sum_.quantity += tally.quantity
        sum_.price_micro = add(sum_.price_micro, tally.price_micro)
    return [made[name] for name in sorted(made)]


def priced(micro: int | None) -> str:
    """Return credits by the rate card, or `unknown` without a price."""
    return "unknown" if micro is None else f"{show_credits(micro)}"


def lines_of(found: Replayed) -> list[str | Table]:
    """Return the result of a replay for people, in a few lines and tables."""
    lines: list[str | Table] = []
    if found.resumed_from_ms is not None:
        lines.append(
            f"continued at {show_time(found.resumed_from_ms)}, where it had stopped; "
            f"sealed before that: {counted(found.pushes_before, 'push', 'pushes')}"
        )
    lines.append(_sealed(found))
    lines += [
        f"skipped {org.org_id} {org.reason}; the replay continued without it. Fix the fault, run `drawdown org "
        "resume "
        f"{org.org_id}`, and replay it"
        for org in found.stopped
    ]
    if found.pushes:
        rows = [(t.provider, t.feature, t.pushes, t.quantity, priced(t.price_micro)) for t in by_provider(found.totals)]
        columns = ("provider", "feature", "#pushes", "#quantity", "#credits, by the rate card")
        lines.append(table("By provider", columns, rows))
        rows_org = [
            (t.org_id, t.provider, t.feature, t.pushes, t.quantity, priced(t.price_micro))
            for t in found.totals[:LISTED]
        ]
        lines.append(table(_title("By organisation", len(found.totals)), ("org", *columns), rows_org))
        each = [
            (f.org_id, show_time(f.window_ms), f.feature, f.revision, f.quantity, priced(f.price_micro))
            for f in found.first[:LISTED]
        ]
        names = ("org", "window", "feature", "#revision", "#quantity", "#credits")
        lines.append(table(_title("Windows", found.pushes), names, each))
    lines += [
        f"excluded, {left.why}: {left.quantity:,} {left.unit} in {counted(left.windows, 'window')}"
        if left.unit != "samples"
        else f"excluded, {left.why}: {counted(left.quantity, 'sample')}"
        for left in found.left_out
    ]
    return lines + _after(found)


def _sealed(found: Replayed) -> str:
    """Return the sealed amount.

    The text also names pushes of earlier seals that are not settled.
    """
    verb, still = "would seal" if found.dry_run else "sealed", found.to_settle
    said = f"{verb} {counted(found.pushes, 'push', 'pushes')}, {counted(found.quantity, 'unit')}"
    if not found.pushes and not found.stopped:
        said += ": no more usage to seal" if still else ": no more usage is owed"
    return f"{said}; {still}" if still else said


def _title(what: str, count: int) -> str:
    return what if count <= LISTED else f"{what}: {LISTED} of {count:,} (--json has more)"


def _after(found: Replayed) -> list[str | Table]:
    if found.dry_run:
        return ["nothing was changed. To replay, repeat the command without --dry-run"]
    left = found.backlog
    lines: list[str | Table] = [
        f"{name}: Drawdown cannot send to it now, so its pushes wait" for name in found.not_ready
    ]
    lines += [f"failed: {failure}" for failure in found.failures]
    facts = {state.words: getattr(left, name) for name, state in OPEN_STORED.items()}
    some = ", ".join(f"{count:,} {what}" for what, count in facts.items() if count)
    if some:
        lines.append(f"left for the next tick, or for a person: {some} (`drawdown status`)")
    return lines
