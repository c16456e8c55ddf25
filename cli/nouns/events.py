"""`drawdown event`: find usage events, and withdraw them."""

from __future__ import annotations

from typing import Annotated

import typer

from drawdown.cli.app import App
from drawdown.cli.declared import of_noun
from drawdown.cli.options import Most
from drawdown.cli.rendering import show, table
from drawdown.providers.protocol import HOUR_MS
from drawdown.schema.typed.parsing import show_time
from drawdown.worker.usage import intake, withdrawals
from drawdown.worker.usage.invalid import invalid_items
from drawdown.worker.usage.privacy import summarise


def summary(
    context: typer.Context,
    from_: Annotated[str, typer.Option("--from", help="First day, in UTC")],
    to: Annotated[str, typer.Option("--to", help="Day after the last day, in UTC")] = "today",
) -> None:
    """Summarise usage events for publication.

    Each row is by plan, kind and day, and covers at least five organisations. Drawdown adds smaller groups to
    `other`. If `other` covers fewer than five organisations, Drawdown omits `other`. If a plan or kind holds
    private text, the command fails and names the place and the rule.
    """
    app: App = context.obj
    start, end = app.past(from_, "--from"), app.moment(to, "--to")
    report = app.read(lambda c: summarise(c, start, end, app.clock.now_ms(), app.settings.secrets()))
    columns = ("day", "kind", "plan", "#events", "#quantity")
    rows = [[row[name.lstrip("#")] for name in columns] for row in report["rows"]]
    notes = ["some usage is skipped: fewer than five organisations have it"] if report["withheld"] else []
    show(app, report, [table(f"Usage from {report['from']} to {report['to']}", columns, rows), *notes])


commands = of_noun("event", *withdrawals.ACTIONS, *intake.LISTS)


@commands.command()
def invalid(
    context: typer.Context,
    from_: Annotated[str, typer.Option("--from", help="Earliest hour of arrival")] = "1d",
    key: Annotated[str, typer.Option(help="Key that sent the items")] = "",
    most: Most = 50,
) -> None:
    """List events and samples that the API rejected as invalid.

    The list groups the items by API key, kind and reason. Each group has the id of an example. Drawdown does not store
    the items.
    """
    app: App = context.obj
    since = app.past(from_, "--from")
    found = app.read(lambda c: invalid_items(c, since - since % HOUR_MS, most, key=key))
    rows = [
        (one.key_name, one.code, one.kind, one.items, show_time(one.first_ms), show_time(one.last_ms),
         one.item_id or "-", one.source or "-")
        for one in found
    ]  # fmt: skip
    columns = ("key", "why", "of", "#items", "first", "last", "example", "source or cell of the example")
    show(app, {"invalid": found}, [table("Invalid, by key and reason", columns, rows)])


commands.command("summary")(summary)
