"""`drawdown hook`: webhooks to the operator's product."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from rich.table import Table

from drawdown.cli.app import App
from drawdown.cli.options import Actor, Most, New, Reason
from drawdown.cli.rendering import show, table
from drawdown.schema.errors import AnswerLost, Exit, Refused, UsageError
from drawdown.schema.messages import EVENTS
from drawdown.schema.text import typed
from drawdown.schema.typed.parsing import in_credits, parse_credits, parse_length, show_credits, show_time
from drawdown.worker.engine import runner
from drawdown.worker.halts.addresses import origin
from drawdown.worker.hooks import actions as hooks
from drawdown.worker.hooks.deliver import deliver
from drawdown.worker.hooks.hook_settings import HookSettings
from drawdown.worker.hooks.lists import (
    DeliveryRow,
    EndpointRow,
    MessageFilter,
    find_endpoint,
    list_endpoints,
    list_levels,
    list_messages,
    show_message,
)

commands = typer.Typer()


class StateName(StrEnum):
    """Of a message, at one endpoint."""

    due = "due"
    delivered = "delivered"
    failed = "failed"


Name = Annotated[str, typer.Argument(metavar="NAME", help="The endpoint's name, yours to choose")]
MessageId = Annotated[str, typer.Argument(metavar="MESSAGE", help="A message's id, msg_…")]
AtEndpoint = Annotated[str, typer.Option("--endpoint", metavar="NAME", help="At this endpoint alone")]
MOST_LEVELS = 100


@commands.command("set")
def set_(
    context: typer.Context,
    name: Name,
    url: Annotated[str, typer.Argument(help="Where your product listens")],
    event: Annotated[
        list[str] | None, typer.Option(metavar="EVENT", help=f"For this; may be repeated: {', '.join(EVENTS)}")
    ] = None,
    new: New = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Say where your product listens, and for what; without --event as before, or for everything. A new one's secret is
    printed. It is called only if DRAWDOWN_HOOK_ORIGINS allows its origin."""
    app: App = context.obj
    by = app.by(actor, reason)
    made, before = app.write(lambda c: hooks.set_endpoint(c, name, url, event or (), by, new=new))
    why = app.settings.hooks().why_not(url)
    lines = [f"{name}: {url}; {', '.join(made.events)}" + ("" if before is None else f"; before: {before.url}")]
    lines += [] if why is None else [f"it will not be called yet: {why}"]
    result = {"name": name, "url": url, "events": made.events, "was": before, "allowed": why is None}
    if before is None:
        secrets = app.settings.hooks().secrets_of(name, (made.generation,))
        result["secret"] = secrets[0] if secrets else None
        lines.append(f"its secret: {secrets[0]}" if secrets else "it has no secret yet: set DRAWDOWN_HOOK_SECRET")
    show(app, result, lines)


@commands.command("list")
def list_(context: typer.Context) -> None:
    """List endpoints, and at which balances organisations are low. Never a secret."""
    app: App = context.obj
    settings = app.settings.hooks()
    rows = app.read(list_endpoints)
    levels = app.read(lambda c: list_levels(c, MOST_LEVELS))
    found = [{**vars(row), "allowed": origin(row.url) in settings.allowed} for row in rows]
    shown = [
        (
            row.name,
            row.url,
            " ".join(row.events),
            row.due,
            show_time(row.oldest_due_ms),
            row.failed,
            _state(row, settings),
        )
        for row in rows
    ]
    columns = ("endpoint", "url", "events", "#due", "oldest", "#failed", "state")
    at = [(level.org_id or "all others", _low(level.low_micro)) for level in levels]
    tables = [table("Endpoints", columns, shown), table("Low at or below", ("organisation", "#credits"), at)]
    said = [{**vars(level), "low": _credits(level.low_micro)} for level in levels]
    show(app, {"endpoints": found, "levels": said}, tables)


@commands.command()
def secret(context: typer.Context, name: Name) -> None:
    """Print an endpoint's secret, for the person who sets up your product. Nothing else signs what it is sent."""
    app: App = context.obj
    found = app.read(lambda c: find_endpoint(c, name))
    if found.ended_ms is not None:
        raise Refused(f"{name} was ended: nothing signs for it")
    shown = _secret(app, name, found.generation)
    show(app, {"name": name, "secret": shown}, [shown])


@commands.command()
def rotate(
    context: typer.Context,
    name: Name,
    overlap: Annotated[
        str, typer.Option(metavar="TIME", help="For how long the old secret signs, too: 0s, 2h, 7d")
    ] = "1d",
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Sign by a new secret, and print it; the old one signs for a while yet."""
    app: App = context.obj
    before = app.read(lambda c: find_endpoint(c, name))
    _secret(app, name, 1)  # one that cannot be printed is not made
    by, overlap_ms = app.by(actor, reason), parse_length(overlap, "--overlap")
    try:
        done = app.write(lambda c: hooks.rotate(c, name, by, overlap_ms=overlap_ms))
    except AnswerLost as error:
        again = (
            f"where `drawdown --json hook list` has {name} with the generation {before.generation}, it was not "
            f"rotated: give it again; else `drawdown hook secret {typed(name)}` prints the new secret, and one more "
            "would end the old one"
        )
        raise AnswerLost(error.why, again) from error
    shown = _secret(app, name, done.generation)
    line = f"{name}: the old secret signs, too, until {show_time(done.old_until_ms)}"
    show(app, {"name": name, "secret": shown, **vars(done)}, [line, f"the new secret: {shown}"])


@commands.command()
def end(context: typer.Context, name: Name, actor: Actor = None, reason: Reason = "not given") -> None:
    """Send an endpoint nothing more, for good: another one needs another name."""
    app: App = context.obj
    by = app.by(actor, reason)
    left = app.write(lambda c: hooks.end(c, name, by))
    line = f"{name}: was ended before" if left is None else f"{name}: ended; {left:,} messages were still due there"
    show(app, {"name": name, "changed": left is not None, "untold": left}, [line])


@commands.command("test")
def test_(context: typer.Context, name: Name, actor: Actor = None, reason: Reason = "not given") -> None:
    """Send an endpoint a message of the event endpoint.test, now; with exit status 75 where it was not taken."""
    app: App = context.obj
    found = app.read(lambda c: find_endpoint(c, name))
    if origin(found.url) not in app.settings.hooks().origins:
        needs = "DRAWDOWN_HOOK_ORIGINS has to allow its origin, and DRAWDOWN_HOOK_SECRET to be set"
        raise UsageError(f"this machine sends {name} nothing: {needs}")
    by = app.by(actor, reason)
    message_id = app.write(lambda c: hooks.try_endpoint(c, name, by))
    runner.run(deliver(app.context(), name), app.world())
    _, (row,) = app.read(lambda c: show_message(c, message_id))
    show(app, {"message": row}, [f"{message_id}: {_came_to(row)}"])
    raise typer.Exit(Exit.SETTLED if row.state == "delivered" else Exit.LEFT)


@commands.command()
def low(
    context: typer.Context,
    credits: Annotated[str | None, typer.Argument(metavar="[CREDITS]", help="At or below: it is low")] = None,
    org: Annotated[str | None, typer.Option(help="Of this organisation", show_default="all without its own")] = None,
    never: Annotated[bool, typer.Option("--never", help="No balance is low")] = False,
    new: New = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Say at or below which balance `balance.low` is told: for everybody, or for one organisation."""
    app: App = context.obj
    if (credits is None) != never:
        raise UsageError("give a number of credits, or --never: one of them")
    micro, by = None if credits is None else parse_credits(credits), app.by(actor, reason)
    there, was = app.write(lambda c: hooks.set_low(c, org or hooks.EVERYBODY, micro, by, new=new))
    line = f"{org or 'all others'}: {_low(micro)}; before: {_low(was) if there else 'nothing was said'}"
    show(app, {"org_id": org, "low_micro": micro, "was_micro": was, "was_set": there}, [line])


@commands.command()
def messages(
    context: typer.Context,
    endpoint: AtEndpoint = "",
    org: Annotated[str, typer.Option(help="Of this organisation alone")] = "",
    state: Annotated[list[StateName] | None, typer.Option(help="In this state; may be repeated")] = None,
    most: Most = 50,
) -> None:
    """List messages and what became of them, the newest first."""
    app: App = context.obj
    chosen = MessageFilter(tuple(one.value for one in state or StateName), endpoint, org)
    found = app.read(lambda c: list_messages(c, chosen, most))
    show(app, {"messages": found}, [_table(found)])


@commands.command("show")
def show_(context: typer.Context, message: MessageId) -> None:
    """Show a message as it is sent, and what became of it at each endpoint."""
    app: App = context.obj
    body, found = app.read(lambda c: show_message(c, message))
    show(app, {"message_id": message, "body": body, "deliveries": found}, [body, _table(found)])


@commands.command()
def replay(
    context: typer.Context,
    message: Annotated[str | None, typer.Argument(metavar="[MESSAGE]", help="A message's id, msg_…")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that an endpoint failed to take")] = False,
    endpoint: AtEndpoint = "",
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Send a message again, delivered or not; or all that an endpoint failed to take. The bytes and the id are the
    same as before."""
    app: App = context.obj
    by = app.by(actor, reason)
    if (message is None) != failed or (failed and not endpoint):
        raise UsageError("name a message, or give --failed --endpoint NAME: one of them")
    if message is not None:
        sent_to = app.write(lambda c: hooks.replay(c, message, by, endpoint=endpoint))
        show(app, {"message_id": message, "endpoints": sent_to}, [f"{message}: is sent again to {', '.join(sent_to)}"])
        return
    done = app.write(lambda c: hooks.replay_failed(c, endpoint, by))
    more = f"; {done.left:,} more have failed: the same command again takes them" if done.left else ""
    show(app, {"endpoint": endpoint, **vars(done)}, [f"{endpoint}: {done.replayed:,} are sent again{more}"])


def _secret(app: App, name: str, generation: int) -> str:
    found = app.settings.hooks().secrets_of(name, (generation,))
    if not found:
        raise UsageError("set DRAWDOWN_HOOK_SECRET: each endpoint's own secret is made from it")
    return found[0]


def _state(row: EndpointRow, settings: HookSettings) -> str:
    if row.ended_ms is not None:
        return "ended"
    return "is called" if origin(row.url) in settings.allowed else "not on the allow-list"


def _table(found: list[DeliveryRow]) -> Table:
    rows = [
        (row.message_id, row.event, row.org_id, row.endpoint, row.state, row.attempts, show_time(row.at_ms),
         show_time(row.due_at_ms) if row.state == "due" else "-", row.last_error)
        for row in found
    ]  # fmt: skip
    columns = ("message", "event", "organisation", "endpoint", "state", "#calls", "happened", "next", "said last")
    return table("Messages", columns, rows)


def _came_to(row: DeliveryRow) -> str:
    if row.state == "delivered":
        return f"{row.endpoint} took it ({row.last_status})"
    return f"{row.endpoint} did not take it: {row.last_error or 'it was not reached in time'}"


def _low(micro: int | None) -> str:
    return "never" if micro is None else show_credits(micro)


def _credits(micro: int | None) -> int | float | None:
    return None if micro is None else in_credits(micro)
