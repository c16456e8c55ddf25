"""`drawdown audit`: people's actions."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from drawdown.cli.app import App
from drawdown.cli.options import PageSize
from drawdown.cli.rendering import show, table
from drawdown.schema.typed.parsing import require_range, show_time
from drawdown.worker.access.audit import VIAS, AuditFilter, list_audit

commands = typer.Typer()


@commands.callback()
def group() -> None:
    """A noun, though it has one verb."""


@commands.command("list")
def list_(
    context: typer.Context,
    actor: Annotated[str, typer.Option(help="Only what this person did")] = "",
    action: Annotated[str, typer.Option(help="Only this, such as org_halt")] = "",
    target: Annotated[str, typer.Option(help="Only to this organisation, customer, feature, push, …")] = "",
    via: Annotated[str, typer.Option(help=f"Only through {', '.join(VIAS)}")] = "",
    from_: Annotated[str | None, typer.Option("--from", help="From this time on")] = None,
    to: Annotated[str | None, typer.Option("--to", help="Up to this time")] = None,
    before: Annotated[int, typer.Option(min=0, help="Go on before this number: the last one of a page")] = 0,
    most: PageSize = 100,
) -> None:
    """List what people changed, the newest first: when, who, what, why, and through what."""
    app: App = context.obj
    start = 0 if from_ is None else app.past(from_, "--from")
    end = 2**53 if to is None else app.moment(to, "--to")
    require_range(start, end)
    chosen = AuditFilter(actor, action, target, via, start, end)
    page = app.read(lambda c: list_audit(c, chosen, before=before, most=most))
    rows = [
        (
            entry.action_id,
            show_time(entry.at_ms),
            entry.actor,
            entry.via,
            entry.action,
            entry.target,
            entry.reason,
            _short(entry.details),
        )
        for entry in page.actions
    ]
    columns = ("#", "at", "who", "through", "what", "to", "why", "details")
    more = [f"there are older ones: --before {page.next_before}"] if page.next_before is not None else []
    show(app, {"actions": page.actions, "next_before": page.next_before}, [table("Actions", columns, rows), *more])


def _short(details: dict[str, object]) -> str:
    """What there is to say, on one line."""
    told = {name: value for name, value in details.items() if value is not None}
    return ", ".join(f"{name} {json.dumps(value, ensure_ascii=False)}" for name, value in told.items())[:200]
