"""`drawdown backfill`: usage events of the past, staged, shown, put in, taken back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated, Final

import sqlalchemy as sa
import typer
from rich.table import Table

from drawdown.cli.app import App
from drawdown.cli.options import Actor, PageSize, Reason
from drawdown.cli.rendering import facts, show, table
from drawdown.events.envelope import Unfit, UsageEvent
from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema.clock import utc
from drawdown.schema.errors import Exit
from drawdown.schema.text import clean, typed
from drawdown.schema.typed.parsing import parse_length, show_credits, show_time
from drawdown.worker.sources.events.types import values
from drawdown.worker.sources.samples.importer import open_lines
from drawdown.worker.usage import backfills
from drawdown.worker.usage.backfills import (
    TAKEN_AT_ONCE,
    BackfillRow,
    Diff,
    Left,
    list_backfills,
    read_events,
    show_backfill,
)
from drawdown.worker.usage.withdrawals import judge_backfill

commands = typer.Typer()

FIRST_FEW: Final = 20
"""Lines that are shown of those that were refused."""
WHY: Final = {"open_long": "open for long", "below_floor": "a part of it never goes in: below the floor"}
Name = Annotated[str, typer.Argument(metavar="NAME", help="The backfill's name")]


@commands.command("open")
def open_(
    context: typer.Context,
    name: Name,
    org: Annotated[str, typer.Option("--org", help="Of this organisation")],
    from_: Annotated[str, typer.Option("--from", help="Of events used from this window boundary on")],
    to: Annotated[str, typer.Option("--to", help="Of events used before this window boundary")],
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Begin a backfill: events of the past that are no usage until it is closed. An organisation has one at a time."""
    app: App = context.obj
    start, end, by = app.window(from_, "--from"), app.window(to, "--to"), app.by(actor, reason)
    assert start is not None and end is not None
    found = app.write(lambda c: backfills.open_backfill(c, name, org, start, end, by))
    show(app, {"backfill": found}, [f"{name}: open for {org}, {show_time(start)} to {show_time(end)}"])


@commands.command()
def stage(
    context: typer.Context,
    name: Name,
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON lines of events, .gz too; - is stdin")],
) -> None:
    """Add a file's events to a backfill. Staged again, also after a kill half-way, only what is missing is added."""
    app: App = context.obj
    org, now = app.read(lambda c: show_backfill(c, name)).org_id, app.clock.now_ms()
    event_values = app.read(values)
    counts: Counter[str] = Counter()
    wrong: list[tuple[int, str, str]] = []
    with open_lines(file) as lines:
        items = read_events(lines, org, now, event_values)
        while some := list(islice(items, TAKEN_AT_ONCE)):
            for number, status, code, message in _stage(app, name, some, now):
                counts[status] += 1
                if status in ("invalid", "conflict") and len(wrong) < FIRST_FEW:
                    wrong.append((number, code, message))
    said = ", ".join(f"{times:,} {status}" for status, times in sorted(counts.items())) or "no event"
    wrong.sort()
    rows = [f"line {number}: {code}: {clean(message)}" for number, code, message in wrong]
    result = {
        "backfill": name,
        "events": dict(counts),
        "wrong": [{"line": n, "code": c, "message": m} for n, c, m in wrong],
    }
    show(app, result, [f"{name}: {said}", *rows])
    if counts["invalid"] or counts["conflict"]:
        raise typer.Exit(Exit.PERSON)


def _stage(
    app: App, name: str, some: Sequence[tuple[int, UsageEvent | Unfit]], now: int
) -> Iterator[tuple[int, str, str, str]]:
    good = [(number, one) for number, one in some if not isinstance(one, Unfit)]
    answers = app.write(lambda c: backfills.stage(c, name, [event for _, event in good], now))
    for (number, _), answer in zip(good, answers, strict=True):
        yield number, answer.status, answer.code or "", answer.message or ""
    for number, one in some:
        if isinstance(one, Unfit):
            yield number, "invalid", one.code, str(one)


@commands.command("list")
def list_(
    context: typer.Context,
    org: Annotated[str, typer.Option("--org", help="Of this organisation alone")] = "",
    most: PageSize = 100,
) -> None:
    """List backfills, the latest first."""
    app: App = context.obj
    found = app.read(lambda c: list_backfills(c, org_id=org, most=most))
    columns = ("backfill", "org", "from", "to", "state", "#events", "#withdrawn", "by")
    rows = [
        (b.backfill, b.org_id, show_time(b.from_ms), show_time(b.to_ms), b.state, b.events, b.withdrawn, b.actor)
        for b in found
    ]
    show(app, {"backfills": found}, [table("Backfills", columns, rows)])


@commands.command()
def overdue(
    context: typer.Context,
    open_for: Annotated[str, typer.Option("--open-for", help="How long one may stay open: 36h, 7d")] = "7d",
) -> None:
    """List backfills that are open for too long, or below a floor. It closes and reverts nothing.

    Exit status 1: there is one, and a person has to close or revert it.
    """
    app: App = context.obj
    found = app.read(lambda c: backfills.overdue(c, app.clock.now_ms(), parse_length(open_for, "--open-for")))
    rows = [(one.backfill, one.org_id, show_time(one.at_ms), one.actor, WHY[one.why]) for one in found]
    columns = ("backfill", "org", "open since", "by", "")
    text, status = f"{len(found):,} backfills wait for a person's word", Exit.PERSON if found else Exit.SETTLED
    show(app, {"overdue": found, "exit_status": int(status)}, [table(text, columns, rows)])
    raise typer.Exit(status)


@commands.command("show")
def show_(context: typer.Context, name: Name) -> None:
    """Show what closing a backfill would bill, with the hash that closes it; or what became of it."""
    app: App = context.obj
    found = app.read(lambda c: show_backfill(c, name))
    diff = app.read(lambda c: backfills.diff(c, name)) if found.state == "open" else None
    left = None if diff is None else app.read(lambda c: _left(c, found, diff, app.clock.now_ms()))
    lines = [f"{key}: {value}" for key, value in facts(vars(found))]
    said = [*lines, *([] if diff is None else _diff_lines(diff, left))]
    show(app, {"backfill": found, "diff": diff, "left": left}, said)


@commands.command()
def close(
    context: typer.Context,
    name: Name,
    hash_: Annotated[str, typer.Option("--hash", help="Of what `backfill show` showed")],
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Make usage of what was shown. The next tick bills it as usage that came late."""
    app: App = context.obj
    by = app.by(actor, reason)
    diff = app.write(lambda c: backfills.close(c, name, hash_, by))
    found = app.read(lambda c: show_backfill(c, name))
    left = app.read(lambda c: _left(c, found, diff, app.clock.now_ms()))
    said = [f"{name}: closed; {found.went_in}", *_left_lines(left, "the next tick")]
    show(app, {"backfill": found, "diff": diff, "left": left}, said)


@commands.command()
def revert(context: typer.Context, name: Name, actor: Actor = None, reason: Reason = "not given") -> None:
    """Withdraw all that went in by a backfill; the next tick gives back what was billed.

    For good: what is right after all comes in under ids of its own. Ended half-way, give it again.
    """
    app: App = context.obj
    by, done = app.by(actor, reason), False
    was = app.read(lambda c: show_backfill(c, name)).state
    judged = app.read(lambda c: judge_backfill(c, name))
    while not done:
        _, done = app.write(lambda c: backfills.revert(c, name, by, judged))
    withdrawn = app.read(lambda c: show_backfill(c, name)).withdrawn  # also by a command that was ended half-way
    said = {
        "reverted": f"was reverted before; {withdrawn:,} events are withdrawn",
        "open": "reverted; it was open, and nothing of it was usage",
    }.get(
        was,
        f"reverted; {withdrawn:,} of its events are withdrawn now, and the next tick gives back what is still billed",
    )
    show(app, {"backfill": name, "withdrawn": withdrawn}, [f"{name}: {said}"])


def _left(connection: sa.Connection, found: BackfillRow, diff: Diff, now_ms: int) -> Left | None:
    """What it leaves of the wallet here that it is charged to; None: of none, or what it costs is not known."""
    prices = [one.price_micro for one in diff.lines if one.provider == EMBEDDED and one.code is None]
    known = [price for price in prices if price is not None]
    if not prices or len(known) < len(prices):
        return None
    return backfills.left_after(connection, found, sum(known), now_ms)


def _left_lines(left: Left | None, what: str) -> list[str]:
    """`what`: what takes it."""
    if left is None:
        return []
    command = typed("drawdown", "ledger", "grant", left.customer_id, "CREDITS")
    then = f", which halts {left.org_id}, unless `{command}` comes first" if left.halts else ""
    has, rest = show_credits(left.has_micro), show_credits(left.left_micro)
    return [f"{left.customer_id} has {has} credits: {what} leaves {rest}{then}"]


def _waits_lines(diff: Diff) -> list[str]:
    """What bills the events that would wait."""
    org, since = diff.backfill.org_id, utc(diff.backfill.from_ms)
    commands: dict[str, tuple[str, ...]] = {}
    for one in diff.lines:
        if one.code == "unassigned":
            commands[one.code] = ("drawdown", "org", "assign", org, "--from", since)
        elif one.code == "unmapped":
            commands[one.what] = ("drawdown", "feature", "map-event", one.what, "FEATURE", "--from", since)
    return [f"{clean(what)}: waits, and costs nothing before `{typed(*words)}`" for what, words in commands.items()]


def _diff_lines(diff: Diff, left: Left | None) -> list[str | Table]:
    counts = ", ".join(f"{times:,} {what}" for what, times in sorted(diff.counts.items())) or "no event"
    columns = ("feature", "provider", "#events", "#quantity", "#windows", "#credits", "")
    rows = [
        (one.what, one.provider or "-", one.events, one.quantity, one.windows,
         "-" if one.code or one.price_micro is None else show_credits(one.price_micro),
         f"waits: {one.code}" if one.code else "")
        for one in diff.lines
    ]  # fmt: skip
    total = (
        "not known: a feature has no price" if diff.price_micro is None else f"{show_credits(diff.price_micro)} credits"
    )
    close_it = f"drawdown backfill close {typed(diff.backfill.backfill, '--hash', diff.hash)}"
    told = [f"in all: {total}", *_waits_lines(diff), *_left_lines(left, "closing"), f"to close it: {close_it}"]
    return [counts, table("Closing would bill", columns, rows), *told]
