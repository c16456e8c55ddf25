"""`drawdown sample`: finding samples, fixing quarantined ones, taking samples back, deleting old ones."""

from __future__ import annotations

from typing import Annotated

import sqlalchemy as sa
import typer

from drawdown.cli.app import App
from drawdown.cli.declared import of_noun
from drawdown.cli.options import Actor, DryRun, Expect, PageSize, Reason, Undo
from drawdown.cli.rendering import show, table
from drawdown.schema.errors import Exit, UsageError
from drawdown.schema.typed.parsing import require_range, show_time
from drawdown.worker.sources.samples.quarantine import QuarantineFilter, SampleRow, list_quarantined
from drawdown.worker.usage import prune, withdrawals
from drawdown.worker.usage import quarantined as samples
from drawdown.worker.usage.lists import list_samples
from drawdown.worker.usage.sample_faces import LISTS, chosen_of, require_choice, require_expected

commands = of_noun("sample", *LISTS)

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Samples")]
OfOrg = Annotated[str, typer.Option("--org", help="Only of this organisation")]
OfReason = Annotated[str, typer.Option("--why", help="Only for this reason, as `sample list --quarantined` shows it")]
Since = Annotated[str | None, typer.Option("--from", help="Only what came in from this time on")]
Until = Annotated[str | None, typer.Option("--to", help="Only what came in before this time")]


@commands.command("list")
def list_(
    context: typer.Context,
    quarantined: Annotated[bool, typer.Option("--quarantined", help="Those that cannot be billed, and why")] = False,
    org: OfOrg = "",
    why: OfReason = "",
    from_: Annotated[str | None, typer.Option("--from", help="Used from this time on; quarantined: came in")] = None,
    to: Annotated[str | None, typer.Option("--to", help="Used before this time; quarantined: came in")] = None,
    after: Annotated[str, typer.Option(help="Quarantined: go on after this sample, the last one of a page")] = "",
    most: PageSize = 100,
) -> None:
    """List an organisation's samples by the time of their use; or quarantined samples with their repaired time.

    A quarantined sample's own time may be the very thing that is wrong: there, --from and --to go by when it came in.
    """
    app: App = context.obj
    chosen = _filter(app, None, org, why, from_, to)
    if quarantined:
        return _list_quarantined(app, chosen, after, most)
    if not org or chosen.from_ms is None or why or after:
        but = "; --reason and --after are of --quarantined alone" if why or after else ""
        raise UsageError(f"give --quarantined; or --org and --from, for its samples in the order of their use{but}")
    until = app.clock.now_ms() if chosen.to_ms is None else chosen.to_ms
    require_range(chosen.from_ms, until)
    found = app.read(lambda c: list_samples(c, org, chosen.from_ms or 0, until, most))
    columns = ("sample", "sandbox", "at", "#MB or event type", "#seconds or units", "")
    times = [show_time(int(s.ts)) for s in found]
    plain = [
        (s.sample_id, s.sandbox_id, at, s.event_type or s.memory_mb, s.interval_s, s.reason or "")
        for s, at in zip(found, times, strict=True)
    ]
    on = "" if times[:1] == times[-1:] else f"--from {times[-1]}, or "  # of one moment, the same page came again
    more = [f"there may be more: {on}a larger --most"] if len(found) == most else []
    return show(app, {"samples": found}, [table(f"Samples of {org}", columns, plain), *more])


def _list_quarantined(app: App, chosen: QuarantineFilter, after: str, most: int) -> None:
    page = app.read(lambda c: list_quarantined(c, chosen, app.clock.now_ms(), after=after, most=most))
    meant = ["-" if s.meant_ms is None else f"{show_time(s.meant_ms)} ({s.meant_as})" for s in page.samples]
    rows = [(_id(s), s.org_id, s.reason, s.ts, time) for s, time in zip(page.samples, meant, strict=True)]
    more = [f"there are more: --after {page.next_after}"] if page.next_after is not None else []
    found = table("Quarantined", ("sample", "org", "why", "its time", "meant, perhaps"), rows)
    show(app, {"samples": page.samples, "next_after": page.next_after}, [found, *more])


def _id(sample: SampleRow) -> str:
    """Whole, so that it can be copied; of one that is too long, how long it is, and how many begin so."""
    if sample.id_bytes is None:
        return sample.sample_id
    alike = f"; {sample.samples:,} begin so" if sample.samples > 1 else ""
    return f"{sample.sample_id} ({sample.id_bytes:,} bytes{alike})"


def _filter(
    app: App, given: list[str] | None, org: str, why: str, from_: str | None, to: str | None
) -> QuarantineFilter:
    """Return the filter of a command. Errors: UnknownId for an unknown organisation or reason."""
    start, end = (None if text is None else app.moment(text, name) for text, name in ((from_, "--from"), (to, "--to")))
    return app.read(lambda connection: chosen_of(connection, given, org, why, start, end))


@commands.command("repair")
def repair_(
    context: typer.Context,
    given: Ids = None,
    org: OfOrg = "",
    why: OfReason = "",
    from_: Since = None,
    to: Until = None,
    as_: Annotated[str, typer.Option("--as", help="Read their times as s, ms, us, ns, iso; auto: as fits")] = "auto",
    expect: Expect = None,
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Enter quarantined samples with a wrong time again: in seconds, microseconds, nanoseconds or ISO text.

    The sample itself never changes: the repaired copy has its own id, and the next tick seals it. If a sample of the
    same sandbox and moment exists, the copy is left out. If several copies mean one moment, the first by id goes in.
    """
    app: App = context.obj
    by, chosen = app.by(actor, reason), _filter(app, given, org, why, from_, to)
    require_choice(chosen)

    def work(connection: sa.Connection) -> list[samples.Mended]:
        done = samples.fix(connection, chosen, by, unit=as_)
        require_expected(expect, sum(sample.new_id is not None for sample in done))
        return done

    done = app.write(work, rollback=dry_run)
    good = [sample for sample in done if sample.new_id is not None]
    rows = [
        (row.sample_id, row.org_id, row.ts, show_time(row.ts_ms), row.unit, row.interval_s, row.new_id or row.why_not)
        for row in done[:50]
    ]
    title = f"{'Would enter' if dry_run else 'Entered'} {len(good):,} of {len(done):,} again"
    title += f", {sum(sample.interval_s for sample in good):,} s"
    columns = ("sample", "org", "its time", "meant", "in", "#seconds", "entered as, or why not")
    again = [f"for just these: --expect {len(good)}"] if dry_run else []
    cut = [f"… and {len(done) - 50:,} more"] if len(done) > 50 else []
    show(app, {"repaired": done, "dry_run": dry_run}, [table(title, columns, rows), *cut, *again])
    if len(good) < len(done):
        raise typer.Exit(Exit.PERSON)


@commands.command()
def dismiss(
    context: typer.Context,
    given: Ids = None,
    org: OfOrg = "",
    why: OfReason = "",
    from_: Since = None,
    to: Until = None,
    undo: Undo = False,
    expect: Expect = None,
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Set quarantined samples aside: they are never billed, and no longer counted as quarantined."""
    app: App = context.obj
    if undo and (org or why or from_ or to):
        raise UsageError("--undo takes back by id alone: name the samples (`drawdown audit list` has their ids)")
    by, chosen = app.by(actor, reason), _filter(app, given, org, why, from_, to)
    require_choice(chosen)

    def work(connection: sa.Connection) -> list[str]:
        done = samples.undo_dismiss(connection, chosen.ids, by) if undo else samples.dismiss(connection, chosen, by)
        require_expected(expect, len(done))
        return done

    done = app.write(work, rollback=dry_run)
    what = "quarantined again" if undo else "set aside, and never billed; --undo takes it back"
    lines = [f"{len(done):,} {'would be ' if dry_run else ''}{what}", *(f"  {name}" for name in done[:20])]
    again = [f"for just these: --expect {len(done)}"] if dry_run else []
    show(app, {"dismissed": done, "undo": undo, "dry_run": dry_run}, [*lines, *again])


@commands.command()
def withdraw(
    context: typer.Context,
    given: Annotated[list[str], typer.Argument(metavar="ID...", help="Samples")],
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Declare samples wrong; the next tick gives back what was billed for them."""
    app: App = context.obj
    by = app.by(actor, reason)
    done = app.write(lambda c: withdrawals.withdraw(c, given, by), rollback=dry_run)
    rows = [(d.sample_id, d.org_id, show_time(d.window_ms), d.interval_s, d.already) for d in done]
    columns = ("sample", "org", "window", "#seconds or units", "withdrawn before")
    title = "Would withdraw; nothing was changed" if dry_run else "Withdrawn"
    show(app, {"withdrawn": done, "dry_run": dry_run}, [table(title, columns, rows)])


@commands.command("prune")
def prune_(
    context: typer.Context,
    before: Annotated[str, typer.Option(help="Delete samples of windows before this time")],
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Close old windows for good and delete their samples. Pending or unsettled usage keeps its organisation back.

    Quarantined samples stay until they are corrected or dismissed: their time may be the very field that is wrong.
    """
    app: App = context.obj
    by, moment = app.by(actor, reason), app.moment(before, "--before")
    done = prune.prune(app.write, moment, by, dry_run=dry_run)
    text = f"{'would delete' if dry_run else 'deleted'} {done.samples:,} samples before {show_time(done.before_ms)}"
    held = f"; {done.held_back:,} organisations have something open before that" if done.held_back else ""
    kept = [
        f"{done.quarantined:,} quarantined samples {'would be' if dry_run else 'were'} kept: see `drawdown sample list "
        "--quarantined`; `drawdown sample repair` bills those with a readable time, and a prune deletes those that "
        "`drawdown sample dismiss` set aside"
    ]
    show(app, {"pruned": done, "dry_run": dry_run}, [text + held, *(kept if done.quarantined else [])])
