"""`drawdown status`: show the backlog with its reason, age, amount and likely end.

Guarantee: the command only reads. Its exit status is the verdict's. For people, it has at most 80 columns, and the
verdict first. If all is settled without halted organisations, it has three lines.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.table import Table

from drawdown.cli.app import App
from drawdown.cli.nouns.sealing import sealed_to, sealing
from drawdown.cli.rendering import show, table
from drawdown.schema.errors import Exit
from drawdown.schema.push_states import OPEN
from drawdown.schema.text import counted, typed
from drawdown.schema.typed.parsing import lasting, show_credits, show_time
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.batches.lists import FilesLeft
from drawdown.worker.cluster.lists import worker_lines
from drawdown.worker.history.witness import WitnessFile
from drawdown.worker.push.backlog import Waiting
from drawdown.worker.push.unresolved import AWAITING_CREDIT, UNTIL_CREDIT, Unresolved
from drawdown.worker.status.backlog import JobsLeft
from drawdown.worker.status.status import org_status, status
from drawdown.worker.status.system_state import (
    OpenReplay,
    Standing,
    Status,
    how_much,
    missed_ticks,
    uncompared,
    unwatched_minutes,
)

if TYPE_CHECKING:
    from drawdown.worker.verdict.org_state import OrgStatus

WIDTH: Final = 79
LABEL: Final = 10
MOMENT: Final = "%H:%M UTC"
DAY_AND_MOMENT: Final = "%Y-%m-%d %H:%M UTC"


def wrapped(label: str, text: str, *, shorten: int | None = None) -> str:
    """Return text beside its label, wrapped at the width of a terminal."""
    flat = " ".join(text.split())
    if shorten is not None and len(flat) > shorten:
        flat = flat[: shorten - 2] + " …"
    first = label.ljust(LABEL) if label else ""
    indent = " " * (LABEL if label else 2)
    # Do not break a word with a hyphen, because it may be part of a command.
    lines = textwrap.wrap(flat, WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join(lines) or first


def since(ms: int, now: int) -> str:
    """Return a text such as `since 3 h 12 min (2026-01-01T00:00:00Z)`."""
    return f"since {lasting(now - ms)} ({show_time(ms)})"


def provider_lines(provider: Waiting, now: int) -> list[str]:
    """Return the lines of a provider with open pushes.

    The lines have the counts, age, cause, amount and likely end.
    """
    states = {state.words: getattr(provider, name) for name, state in OPEN.items()}
    counts = ", ".join(f"{count:,} {state}" for state, count in states.items() if count)
    name = provider.provider
    lines = []
    if counts:
        lines.append(wrapped(name, f"{counts}; the oldest {since(provider.oldest_ms, now)}"))
        name = " "
    if provider.paused_ms is not None:
        by = f" by {provider.paused_by}" if provider.paused_by else ""
        paused = f"paused{by} {since(provider.paused_ms, now)}: {provider.paused_reason}"
        lines.append(wrapped(name, paused, shorten=140))
    if provider.error is not None:
        error = f"error of {provider.error_pushes:,} of {sum(states.values()):,}: {provider.error}"
        lines.append(wrapped(" ", error, shorten=130))
    if provider.waiting or provider.rejected:
        lines.append(wrapped(" ", _worth(provider)))
    if provider.due:
        lines.append(wrapped(" ", _drained(provider, now)))
    if provider.queued:
        lines.append(wrapped(" ", _looked_up(provider, now)))
    return lines


def unresolved_lines(one: Unresolved, now: int) -> list[str]:
    """Return the lines of pushes in doubt, with a command for all these pushes.

    Pushes that wait for credit have a separate line.
    """
    if one.state == AWAITING_CREDIT:
        return [f"{one.size}, {one.worth}, {one.waits} for credit: {UNTIL_CREDIT}"]
    if one.state != "in_doubt":
        return []
    text = f"in doubt: {one.size}, {one.worth}, the oldest window {since(one.oldest_window_ms, now)}"
    if one.looked_up_ms is not None:
        text += f"; looked up again {_by(one.looked_up_ms, now) or 'by the next tick'}"
    return [text, one.command]


def _by(ms: int, now: int) -> str:
    """Return a text such as `by 00:14 UTC`; '' for a past time.

    The time is rounded up to a minute. The text has the day unless the day is today.
    """
    if ms <= now:
        return ""
    moment = datetime.fromtimestamp(-(-ms // MINUTE_MS) * 60, UTC)
    is_today = moment.date() == datetime.fromtimestamp(now // 1000, UTC).date()
    return f"by {moment.strftime(MOMENT if is_today else DAY_AND_MOMENT)}"


def _looked_up(provider: Waiting, now: int) -> str:
    """Return the time until which Drawdown looks up queued pushes.

    After that time, return the next step.
    """
    until = "" if provider.looked_up_by_ms is None else _by(provider.looked_up_by_ms, now)
    if until:
        return (
            f"{provider.queued:,} queued: looked up {until} at the latest. Afterwards you must resolve those in doubt"
        )
    return f"{provider.queued:,} queued: ticks look them up again. You must resolve those still in doubt"


def _worth(provider: Waiting) -> str:
    units = [f"{quantity:,} {feature}" for feature, quantity in sorted(provider.units.items())]
    some = ", ".join(units[:3]) + (f" and {counted(len(units) - 3, 'more feature')}" if len(units) > 3 else "")
    if len(provider.unpriced) == len(provider.units):
        return f"worth: unknown, because no price is set; {some}"
    without = f", without {', '.join(sorted(provider.unpriced))}, which has no price" if provider.unpriced else ""
    return f"worth {show_credits(provider.price_micro)} credits by the rate card{without}; {some}"


def _drained(provider: Waiting, now: int) -> str:
    if provider.paused_ms is not None:
        return "not draining: paused"
    if provider.drained_ms is None:
        return "not draining: the ticks of the last 15 min settled no push"
    until = _by(provider.drained_ms, now).removeprefix("by ")
    return f"drained at {provider.settled_per_min:,}/min: about {until}"


MOST_CELLS: Final = 5
"""Maximum number of lines about undelivered halts in `drawdown status`."""
VERDICTS: Final = {
    "settled": ("ALL SETTLED", Exit.SETTLED),
    "behind": ("BEHIND", Exit.LEFT),
    "person_needed": ("A PERSON IS NEEDED", Exit.PERSON),
}


def register(commands: typer.Typer) -> None:
    """Add the command."""
    commands.command("status")(status_)


def status_(
    context: typer.Context, org: Annotated[str | None, typer.Argument(help="Organisation to show")] = None
) -> None:
    """Show the open work, its cause and the next command.

    The command shows the age and the amount of open work, and the time at which it likely ends. The exit status is 0 if
    all work is settled, 75 if some work is late, and 1 if a person must act. For one organisation, the exit status is
    about its work. A halt does not change the exit status.
    """
    app: App = context.obj
    now = app.clock.now_ms()
    if org is not None:
        found = app.read(lambda c: org_status(c, org, now))
        ends = org_exit(found)
        show(app, {**asdict(found), "exit_status": ends}, _split(org_lines(found, now)))
        raise typer.Exit(ends)
    witness = WitnessFile(app.settings.state_folder()).load(app.ready())
    whole = app.read(lambda c: status(c, now, witness, is_trusted=app.clock.trusted))
    ends = VERDICTS[whole.headline.verdict][1]
    show(app, {**as_object(whole), "exit_status": ends}, _split(status_lines(whole)))
    raise typer.Exit(ends)


def as_object(found: Status) -> dict[str, object]:
    """Return the whole status for programs."""
    return asdict(found.standing) | asdict(found.headline)


def org_exit(found: OrgStatus) -> Exit:
    """Return the verdict on one organisation as an exit status."""
    states = {pushes.state for pushes in found.pushes}
    if found.stopped_at_ms is not None or states & {"in_doubt", "rejected"}:
        return Exit.PERSON
    due = any(halt.due_at_ms is not None for halt in found.halts)
    return Exit.LEFT if due or found.pending or states & {"due", "queued"} else Exit.SETTLED


def status_lines(found: Status) -> list[str]:
    """Return the whole status for people."""
    standing, headline = found.standing, found.headline
    now = standing.at_ms
    lines = [wrapped("", f"{VERDICTS[headline.verdict][0]}: {headline.reason}", shorten=240)]
    if headline.verdict != "settled":
        lines.append("  next:".ljust(LABEL) + headline.next)  # on one line of any length, so that a person can paste it
    for provider in standing.providers:
        lines += provider_lines(provider, now)
        lines += [
            wrapped(" ", text)
            for one in standing.unresolved
            if one.provider == provider.provider
            for text in unresolved_lines(one, now)
        ]
    lines.append(wrapped("sealing", sealing(standing)))
    lines += [
        wrapped(
            "pending" if not number else "",
            f"{usage.reason}: {how_much(usage)} of {_orgs(usage.orgs)}, {since(usage.since_ms, now)}",
        )
        for number, usage in enumerate(standing.pending)
    ]
    lines += [wrapped(label, text, shorten=200) for label, text in other_lines(standing, now)]
    if standing.halted:
        lines.append(wrapped("halted", _halted(standing, now)))
    lines.append(wrapped("tick", _tick(standing)))
    if standing.cluster is not None:
        lines += [wrapped(label, text, shorten=240) for label, text in worker_lines(standing.cluster)]
    return lines


def _halted(found: Standing, now: int) -> str:
    named = [
        f"{org.org_id} ({org.halt_reason or 'no reason'}, {lasting(now - org.halted_at)})" for org in found.halted_orgs
    ]
    more = ", …; `drawdown org list --state halted`" if found.halted > len(named) else ""
    return f"{_orgs(found.halted)}: {', '.join(named)}{more}"


def _orgs(count: int) -> str:
    return counted(count, "organisation")


def _split(lines: Iterable[str | Table]) -> Iterator[str | Table]:
    """Yield each line of wrapped lines."""
    for line in lines:
        yield from line.split("\n") if isinstance(line, str) else (line,)


def other_lines(found: Standing, now: int) -> list[tuple[str, str]]:
    """Return the labels and the texts of the other faults."""
    left = found.left
    lines = [("bad", f"{counted(count, 'sample')} quarantined: {reason}") for reason, count in left.quarantined.items()]
    if left.dated_ahead:
        ahead = f"{counted(left.dated_ahead, 'sample')} dated in the future: billed when their time comes"
        lines.append(("ahead", ahead))
    if found.stopped:
        oldest = min(org.stopped_at_ms for org in found.stopped)
        names = ", ".join(org.org_id for org in found.stopped[:3])
        lines.append(("stopped", f"{_orgs(left.stopped_orgs)} ({names}), {since(oldest, now)}"))
    lines += [
        ("halts" if not number else "", one.description) for number, one in enumerate(found.undelivered[:MOST_CELLS])
    ]
    lines += [("ignored" if not number else "", halt.description) for number, halt in enumerate(found.ignored[:3])]
    if left.projections_due:
        lines.append(("reading", f"{_orgs(left.projections_due)} due for a refresh from their provider"))
    lines += [
        ("unread", f"{_orgs(unread.orgs)} of {unread.provider or 'no provider'}, {since(unread.since_ms, now)}")
        for unread in found.unread
    ]
    if (minutes := unwatched_minutes(found)) and found.watch_ms is not None:
        lines.append(("watch", f"no round for {minutes:,} min ({show_time(found.watch_ms)})"))
    lines += [
        ("totals", f"{counted(days.days, 'daily total')} {days.verdict} at {days.provider}, at the last comparison")
        for days in found.differing
    ]
    lines += [("shadow", str(one)) for one in found.shadow]
    lines += [("types", str(one)) for one in found.short_of_types]
    lines += [("owed", str(one)) for one in found.paused_debts]
    lines += [("compared", said) for one in found.uncompared for said in uncompared(one)]
    open_ = found.open_transaction
    if open_ is not None and open_.age_ms is not None:
        text = f"{open_.who} has a transaction open for {lasting(open_.age_ms)}: its inserts are not billed yet"
        lines.append(("open", text))
    lines += [("replay", _replay(replay, now)) for replay in found.replays]
    if jobs := _jobs(found.jobs, now):
        lines.append(("jobs", f"{jobs}: `drawdown job list`"))
    if files := _files(found.files):
        lines.append(("files", f"{files}: `drawdown batch list`"))
    return lines


def _files(found: FilesLeft) -> str:
    """Return the counts of files that were not imported; '' if there are none."""
    counts = ((found.refused, "refused"), (found.conflicts, "in conflict"), (found.failing, "failing"))
    return ", ".join(f"{count:,} {word}" for count, word in counts if count)


def _jobs(found: JobsLeft, now: int) -> str:
    """Return the counts of open and failed jobs; '' if there are none."""
    waits = "" if found.since_ms is None else f"{found.open:,} open, the oldest {since(found.since_ms, now)}"
    failed = f"{found.failed:,} failed in a day" if found.failed else ""
    return "; ".join(part for part in (waits, failed) if part)


def _replay(replay: OpenReplay, now: int) -> str:
    span = f"{show_time(replay.from_ms)} to {show_time(replay.to_ms)}, reached {show_time(replay.next_ms)}"
    stands = "running" if replay.lease_ms > now else "stopped; the same command continues it"
    return f"{stands}: by {replay.actor}, {span}"


def _tick(found: Standing) -> str:
    last, now = found.last_tick, found.at_ms
    if last is None:
        return "none yet"
    text = (
        f"{lasting(now - last.finished_ms)} ago ({show_time(last.started_ms)}), took {lasting(last.took_ms)}, "
        f"exit status {last.exit_status}"
    )
    if missed := missed_ticks(found):
        return f"{missed}: check that cron runs. The last: {text}"
    running = last.another_began_ms
    return text + (f"; another began {lasting(now - running)} ago" if running else "")


def org_lines(found: OrgStatus, now: int) -> list[str | Table]:
    """Return the status of one organisation for people."""
    lines: list[str | Table] = [wrapped("", f"{found.org_id}: {_stands(found, now)}", shorten=240)]
    if found.watermark_ms:
        lines.append(wrapped("sealed", sealed_to(found.watermark_ms, now)))
    if found.floor_ms:
        lines.append(wrapped("floor", f"{show_time(found.floor_ms)}; earlier windows are closed for good"))
    for usage in found.pending:
        of = f"s of {usage.memory_mb:,} MB" if usage.event_type is None else f"units of {usage.event_type}"
        text = f"{usage.seconds:,} {of}, {since(usage.since_ms, now)}: {usage.reason}"
        lines.append(wrapped("pending", text))
    for halt in found.halts:
        told = f"due {since(halt.due_at_ms, now)}" if halt.due_at_ms else "acknowledged"
        text = f"cell {halt.cell_id}: {told}" + (f"; {halt.last_error}" if halt.last_error else "")
        lines.append(wrapped("halt", text, shorten=200))
    billed = [(show_time(a.start_ms), show_time(a.end_ms), a.provider, a.customer_id) for a in found.assignments[-5:]]
    lines.append(table("Billed by", ("from", "to", "provider", "customer"), billed))
    rows = [(p.provider, p.feature, p.state, p.pushes, p.quantity) for p in found.pushes]
    lines.append(table("Pushes", ("provider", "feature", "state", "#pushes", "#quantity"), rows))
    return lines


def _stands(found: OrgStatus, now: int) -> str:
    if found.stopped_at_ms is not None:
        why = found.stopped_reason
        return (
            f"stopped {since(found.stopped_at_ms, now)}: {why}; fix it, then run `drawdown org resume "
            f"{typed(found.org_id)}`"
        )
    biller = found.billing_provider or "no provider"
    if found.is_halted:
        when = "" if found.halted_at is None else f" {since(found.halted_at, now)}"
        return f"billed by {biller}, halted{when}: {found.halt_reason}"
    most = found.max_concurrent_sandboxes
    return f"billed by {biller}, running" + (
        f", {counted(most, 'concurrent sandbox', 'concurrent sandboxes')}" if most is not None else ""
    )
