"""`drawdown backfill`: stage past usage events, show, close and revert them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated, Final

import typer

from drawdown.cli.app import App
from drawdown.cli.declared import of_noun
from drawdown.cli.rendering import show, table
from drawdown.events.envelope import Unfit, UsageEvent
from drawdown.schema.errors import Exit
from drawdown.schema.text import clean, counted
from drawdown.schema.typed.parsing import parse_length, show_time
from drawdown.worker.sources.events.types import values
from drawdown.worker.sources.samples.importer import open_lines
from drawdown.worker.usage import backfills
from drawdown.worker.usage.backfill_actions import ACTIONS, LISTS
from drawdown.worker.usage.backfills import TAKEN_AT_ONCE, read_events, show_backfill

commands = of_noun("backfill", *ACTIONS, *LISTS)

FIRST_FEW: Final = 20
"""Maximum number of refused lines that the result shows."""
WHY: Final = {"open_long": "open for too long", "below_floor": "partly below the floor, which is never billed"}
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the backfill")]


@commands.command()
def stage(
    context: typer.Context,
    name: Name,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="JSON lines of events, optionally as .gz; - for standard input")
    ],
) -> None:
    """Add a file's events to a backfill.

    If you repeat the command after a failure, Drawdown adds only the missing events. The exit status is 1 if an event
    is invalid, or has the id of a staged event with different content.
    """
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
    said = (
        ", ".join(f"{times:,} {status}" for status, times in sorted(counts.items()))
        or "the file does not have an event"
    )
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


@commands.command()
def overdue(
    context: typer.Context,
    open_for: Annotated[
        str, typer.Option("--open-for", help="Maximum time that a backfill may stay open: 36h, 7d")
    ] = "7d",
) -> None:
    """List backfills that are open too long or below a floor.

    The command does not close or revert a backfill. The exit status is 1 if the list is not empty. Then close or
    revert each backfill.
    """
    app: App = context.obj
    found = app.read(lambda c: backfills.overdue(c, app.clock.now_ms(), parse_length(open_for, "--open-for")))
    rows = [(one.backfill, one.org_id, show_time(one.at_ms), one.actor, WHY[one.why]) for one in found]
    columns = ("backfill", "org", "open since", "by", "")
    text = f"{counted(len(found), 'backfill is', 'backfills are')} overdue. Close or revert each"
    status = Exit.PERSON if found else Exit.SETTLED
    show(app, {"overdue": found, "exit_status": int(status)}, [table(text, columns, rows)])
    raise typer.Exit(status)
