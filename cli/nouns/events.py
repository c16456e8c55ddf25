"""`drawdown event`: finding usage events, and taking them back."""

from __future__ import annotations

from typing import Annotated

import typer

from drawdown.cli.app import App
from drawdown.cli.options import Actor, DryRun, Most, PageSize, Reason
from drawdown.cli.rendering import show, table
from drawdown.providers.protocol import HOUR_MS
from drawdown.schema.audit import require_org
from drawdown.schema.typed.parsing import require_range, show_time
from drawdown.worker.usage import intake as event_intake
from drawdown.worker.usage.intake import EventFilter, EventRow, list_events, show_event
from drawdown.worker.usage.invalid import invalid_items
from drawdown.worker.usage.privacy import summarise
from drawdown.worker.usage.withdrawals import withdraw_events


def summary(
    context: typer.Context,
    from_: Annotated[str, typer.Option("--from", help="From this day on, in UTC")],
    to: Annotated[str, typer.Option("--to", help="Up to this day")] = "today",
) -> None:
    """Sum up usage events by plan, kind and day, so that it may be published.

    Each row is of five organisations at least; the rest stands under `other`, or is left out where it is of fewer. What
    is private in a plan or kind has it refused: the place and the rule are named.
    """
    app: App = context.obj
    start, end = app.past(from_, "--from"), app.moment(to, "--to")
    report = app.read(lambda c: summarise(c, start, end, app.clock.now_ms(), app.settings.secrets()))
    columns = ("day", "kind", "plan", "#events", "#quantity")
    rows = [[row[name.lstrip("#")] for name in columns] for row in report["rows"]]
    notes = ["something is left out: it is of fewer organisations"] if report["withheld"] else []
    show(app, report, [table(f"Usage from {report['from']} to {report['to']}", columns, rows), *notes])


commands = typer.Typer()

Of = Annotated[
    str | None,
    typer.Option("--org", help="The source of the event, if several used the id", show_default="whose there is"),
]
Source = Annotated[str, typer.Argument(metavar="SOURCE", help="The source, as the events say it")]


@commands.command("list")
def list_(
    context: typer.Context,
    org: Annotated[str, typer.Option("--org", help="Of this organisation")],
    from_: Annotated[str, typer.Option("--from", help="Used from this time on")],
    to: Annotated[str, typer.Option("--to", help="Used before this time")] = "now",
    after: Annotated[str, typer.Option(help="Only events after this sample: a page's `next_after`")] = "",
    most: PageSize = 100,
) -> None:
    """List an organisation's usage events by the time of their use."""
    app: App = context.obj
    start, end = app.past(from_, "--from"), app.moment(to, "--to")
    require_range(start, end)
    app.read(lambda c: require_org(c, org))
    page = app.read(lambda c: list_events(c, org, start, end, after=after, most=most))
    columns = ("source", "event", "at", "type", "#quantity", "feature", "subject", "project", "")
    rows = [
        (e.source, e.event_id, show_time(e.ts), e.event_type, e.quantity, e.feature or "-", e.subject or "-",
         e.project or "-", "" if e.withdrawn is None else "withdrawn")
        for e in page.events
    ]  # fmt: skip
    more = (
        []
        if page.next_after is None
        else [f"there are more: --from {show_time(page.next_from_ms)} --after {page.next_after}"]
    )
    show(app, vars(page), [table(f"Events of {org}", columns, rows), *more])


@commands.command("show")
def show_(
    context: typer.Context,
    source: Source,
    event: Annotated[str, typer.Argument(metavar="ID", help="The event's id")],
    org: Of = None,
) -> None:
    """Show all that an event said, and what became of it."""
    app: App = context.obj
    found = app.read(lambda c: show_event(c, source, event, _of(app, org)))
    show(app, {"event": found}, [f"{name}: {text}" for name, text in _facts(found).items()])


def _of(app: App, org: str | None) -> str | None:
    """Errors: UnknownId."""
    if org is not None:
        app.read(lambda c: require_org(c, org))
    return org


def _facts(found: EventRow) -> dict[str, str]:
    facts = {**vars(found), "ts": show_time(found.ts), "ingested_ms": show_time(found.ingested_ms)}
    if found.withdrawn is not None:
        facts["withdrawn"] = f"yes; reason: {found.withdrawn}"
    named = {"ts": "used", "ingested_ms": "came in", "plan_key": "plan", "event_id": "event", "sample_id": "sample"}
    return {named.get(name, name.replace("_", " ")): str(value) for name, value in facts.items() if value is not None}


@commands.command()
def withdraw(
    context: typer.Context,
    source: Source,
    given: Annotated[list[str], typer.Argument(metavar="ID...", help="Events")],
    org: Of = None,
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Declare events wrong; the next tick gives back what was billed for them. Their ids are never taken again."""
    app: App = context.obj
    by, of = app.by(actor, reason), _of(app, org)
    done = app.write(lambda c: withdraw_events(c, source, given, by, of), rollback=dry_run)
    rows = [
        (event, d.org_id, show_time(d.window_ms), d.interval_s, d.already)
        for event, d in zip(dict.fromkeys(given), done, strict=True)
    ]
    columns = ("event", "org", "window", "#quantity", "withdrawn before")
    title = "Would withdraw; nothing was changed" if dry_run else "Withdrawn"
    show(app, {"withdrawn": done, "dry_run": dry_run}, [table(title, columns, rows)])


@commands.command()
def sources(
    context: typer.Context,
    source: Annotated[str, typer.Option(help="Of this source alone")] = "",
    type_: Annotated[str, typer.Option("--type", help="Of this type alone")] = "",
    org: Annotated[str, typer.Option("--org", help="Of this organisation alone")] = "",
) -> None:
    """List what came in lately, by source and type: of so many of the newest events."""
    app: App = context.obj
    found = app.read(lambda c: event_intake.sources(c, app.clock.now_ms(), EventFilter(source, type_, org)))
    rows = [
        (one.source, one.event_type, one.of_day, one.events, one.orgs, show_time(one.first_ms), show_time(one.last_ms))
        for one in found.rows
    ]
    columns = ("source", "type", "#in 24 hours", "#events", "#organisations", "first came in", "last came in")
    since = [] if found.whole else [f"of the newest {found.seen:,}, which came in since {show_time(found.since_ms)}"]
    show(app, vars(found), [table("Events by source and type", columns, rows), *since])


@commands.command()
def invalid(
    context: typer.Context,
    from_: Annotated[str, typer.Option("--from", help="Sent from the hour of this time on")] = "1d",
    key: Annotated[str, typer.Option(help="Sent by this key alone")] = "",
    most: Most = 50,
) -> None:
    """List what programs sent over HTTP and was answered `invalid`, events and samples: by key and reason, with the
    name of one. The items themselves are not kept."""
    app: App = context.obj
    since = app.past(from_, "--from")
    found = app.read(lambda c: invalid_items(c, since - since % HOUR_MS, most, key=key))
    rows = [
        (one.key_name, one.code, one.kind, one.items, show_time(one.first_ms), show_time(one.last_ms),
         one.item_id or "-", one.source or "-")
        for one in found
    ]  # fmt: skip
    columns = ("key", "why", "of", "#items", "first", "last", "one of them", "its source, or cell")
    show(app, {"invalid": found}, [table("Invalid, by key and reason", columns, rows)])


commands.command("summary")(summary)
