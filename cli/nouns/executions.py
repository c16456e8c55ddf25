"""`drawdown execution`: runs, from the preview to what they cost."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import typer

from drawdown.cli.app import App
from drawdown.cli.options import Actor, Most, New, Reason, Undo
from drawdown.cli.parsing import in_credits, parse_credits, parse_length, show_credits, show_time
from drawdown.cli.rendering import facts, show, table
from drawdown.ledger.runs.draws import Cost
from drawdown.ledger.runs.reservations import Reservation
from drawdown.schema.errors import Exit, UsageError
from drawdown.worker.commands import executions
from drawdown.worker.commands.run_permission import Request
from drawdown.worker.commands.run_results import Accepted, Settled
from drawdown.worker.views.executions import RunFilter, list_runs, show_run

commands = typer.Typer()


class OverageName(StrEnum):
    """What becomes of what a run costs above its hold."""

    charge = "charge"
    cap = "cap"
    refuse = "refuse"


class StateName(StrEnum):
    """Of a run."""

    held = "held"
    settled = "settled"
    released = "released"
    expired = "expired"


Key = Annotated[
    str, typer.Argument(metavar="KEY", help="The run's key, yours to choose; the same again changes nothing")
]
OfOrg = Annotated[str, typer.Option("--org", help="The organisation that runs it")]
Estimate = Annotated[str | None, typer.Option(metavar="CREDITS", help="What it may cost, in credits")]
Uses = Annotated[
    list[str] | None, typer.Option("--use", metavar="FEATURE=N", help="Or base units of a feature; may be repeated")
]
Project = Annotated[str | None, typer.Option(help="A label that lists are narrowed by")]
Subject = Annotated[str | None, typer.Option(help="Who or what runs it; a label")]
Action = Annotated[str | None, typer.Option(help="What is done; a label")]
OfSupplier = Annotated[str | None, typer.Option("--supplier", help="Who is owed a share of what it costs")]
Overage = Annotated[OverageName, typer.Option(help="What becomes of a cost above the hold")]
For = Annotated[str | None, typer.Option("--for", metavar="TIME", help="How long the hold stands: 45m, 6h")]
Queued = Annotated[bool, typer.Option("--queued", help="It waits in a queue: the hold stands for a day")]
Actual = Annotated[str | None, typer.Option(metavar="CREDITS", help="What it cost in all, in credits")]


@commands.command()
def preview(
    context: typer.Context,
    org: OfOrg,
    estimate: Estimate = None,
    use: Uses = None,
    project: Project = None,
    subject: Subject = None,
    action: Action = None,
    supplier: OfSupplier = None,
) -> None:
    """Say whether a run would be accepted now, and what would be held. Changes nothing."""
    app: App = context.obj
    labels = {"project": project, "subject": subject, "action": action, "supplier": supplier}
    request = _request(org, estimate, use, **labels)
    found = app.read(lambda c: executions.preview(c, request, app.clock.now_ms()))
    amount = None if found.amount_micro is None else show_credits(found.amount_micro)
    available = "no bound" if found.available_micro is None else f"{show_credits(found.available_micro)} available"
    line = f"allowed: {amount} credits would be held of {available} ({found.hold}{_read(found.balance_read_ms)})"
    if not found.allowed:
        line = f"refused at {found.step or 'the request'} ({found.code}): {found.reason}"
    show(app, {**vars(found), **_credits(amount=found.amount_micro, available=found.available_micro)}, [line])
    if not found.allowed:
        raise typer.Exit(Exit.PERSON)


@commands.command()
def accept(
    context: typer.Context,
    key: Key,
    org: OfOrg,
    estimate: Estimate = None,
    use: Uses = None,
    project: Project = None,
    subject: Subject = None,
    action: Action = None,
    supplier: OfSupplier = None,
    overage: Overage = OverageName.charge,
    for_: For = None,
    queued: Queued = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Hold what a run may cost, before it starts."""
    app: App = context.obj
    labels = {"project": project, "subject": subject, "action": action, "supplier": supplier}
    request = _request(org, estimate, use, **labels, overage=overage.value, for_ms=_length(for_), queued=queued)
    by = app.by(actor, reason)
    done = app.write(lambda c: executions.accept(c, key, request, by))
    found = done.reservation
    said = "was accepted before: nothing was added" if done.repeated else "accepted"
    line = f"{key}: {said}; {show_credits(found.left_micro)} credits are held until {show_time(found.expires_ms)}"
    _show(app, found, done, line, repeated=done.repeated)


@commands.command()
def draw(
    context: typer.Context,
    key: Key,
    number: Annotated[int, typer.Argument(min=0, help="Its number: the same again changes nothing")],
    credits: Annotated[str | None, typer.Option("--credits", metavar="CREDITS", help="What this part cost")] = None,
    use: Uses = None,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Charge a part of a run that goes on."""
    app: App = context.obj
    by, cost = app.by(actor, reason), _cost(credits, use)
    _show_settled(app, app.write(lambda c: executions.draw(c, key, number, cost, by)), f"{key}: draw {number}")


@commands.command()
def extend(
    context: typer.Context,
    key: Key,
    to: Annotated[str | None, typer.Option(metavar="CREDITS", help="What it may cost in all, from now on")] = None,
    for_: For = None,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Say that a run goes on: its hold stands for another hour, or for --for, and may grow."""
    app: App = context.obj
    by, to_micro, for_ms = app.by(actor, reason), None if to is None else parse_credits(to), _length(for_)
    done = app.write(lambda c: executions.extend(c, key, to_micro, for_ms, by))
    found = done.reservation
    said = "nothing changes" if done.repeated else "extended"
    line = f"{key}: {said}; {show_credits(found.left_micro)} credits are held until {show_time(found.expires_ms)}"
    _show(app, found, done, line, repeated=done.repeated)


@commands.command()
def settle(
    context: typer.Context,
    key: Key,
    actual: Actual = None,
    use: Uses = None,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """End a run: charge what it cost in all, once, and free the rest of its hold."""
    app: App = context.obj
    by, cost = app.by(actor, reason), _cost(actual, use)
    _show_settled(app, app.write(lambda c: executions.settle(c, key, cost, by)), f"{key}: settled")


@commands.command()
def release(
    context: typer.Context,
    key: Key,
    incurred: Annotated[
        str | None, typer.Option(metavar="CREDITS", help="What it cost all the same", show_default="what was drawn")
    ] = None,
    use: Uses = None,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Give a run up: free its hold; what it drew or incurred is charged."""
    app: App = context.obj
    by = app.by(actor, reason)
    cost = None if incurred is None and not use else _cost(incurred, use)
    _show_settled(app, app.write(lambda c: executions.release(c, key, cost, by)), f"{key}: released")


@commands.command()
def block(
    context: typer.Context,
    org: OfOrg,
    project: Project = None,
    action: Action = None,
    undo: Undo = False,
    new: New = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Accept no more runs of a project, or none that do an action; what runs goes on."""
    app: App = context.obj
    if (project is None) == (action is None):
        raise UsageError("give --project or --action")
    by, name = app.by(actor, reason), project if project is not None else str(action)
    kind: Literal["project", "action"] = "action" if project is None else "project"
    changed = app.write(lambda c: executions.block(c, org, kind, name, by, undo=undo, new=new))
    said = {(True, False): "is blocked", (False, False): "was blocked before", (True, True): "runs again"}
    line = f"{org}: the {kind} {name} {said.get((changed, undo), 'was not blocked')}"
    show(app, {"org_id": org, kind: name, "blocked": not undo, "changed": changed}, [line])


@commands.command("list")
def list_(
    context: typer.Context,
    org: Annotated[str, typer.Option(help="Of this organisation alone")] = "",
    state: Annotated[list[StateName] | None, typer.Option(help="In this state; may be repeated")] = None,
    project: Annotated[str, typer.Option(help="Of this project alone")] = "",
    subject: Annotated[str, typer.Option(help="Of this subject alone")] = "",
    action: Annotated[str, typer.Option(help="Of this action alone")] = "",
    most: Most = 50,
) -> None:
    """List runs, the newest first."""
    app: App = context.obj
    states = tuple(one.value for one in state or StateName)
    chosen = RunFilter(states, org, project, subject, action)
    found = app.read(lambda c: list_runs(c, chosen, most))
    rows = [
        (run.reservation, run.org_id, run.project, run.state, show_credits(run.amount_micro),
         show_credits(run.drawn_micro), show_credits(run.left_micro), show_time(run.expires_ms))
        for run in found
    ]  # fmt: skip
    columns = ("run", "org", "project", "state", "#reserved", "#drawn", "#held", "expires")
    show(app, {"runs": [_said(run) for run in found]}, [table("Runs", columns, rows)])


@commands.command("show")
def show_(context: typer.Context, key: Key, most: Most = 100) -> None:
    """Show one run: what was reserved, what it drew, and how it ended."""
    app: App = context.obj
    run, entries = app.read(lambda c: show_run(c, key, most))
    rows = [
        (show_time(entry.at_ms), show_credits(entry.amount_micro), entry.feature, entry.quantity, entry.key)
        for entry in entries
    ]
    columns = ("at", "#credits", "feature", "#quantity", "key")
    said = [(name, value) for name, value in facts(vars(run)) if name != "fingerprint"]
    tables = [table(key, ("", ""), said), table("Drawn", columns, rows)]
    show(app, {"run": _said(run), "entries": entries}, tables)


def _request(org: str, estimate: str | None, use: list[str] | None, **more: object) -> Request:
    amount = None if estimate is None else parse_credits(estimate)
    return Request(org, amount, _quantities(use), **more)  # type: ignore[arg-type]


def _cost(credits: str | None, use: list[str] | None) -> Cost:
    return Cost(None if credits is None else parse_credits(credits), _quantities(use))


def _quantities(use: list[str] | None) -> dict[str, int] | None:
    """Base units by feature, of `tokens=1200`. Errors: UsageError."""
    found: dict[str, int] = {}
    for text in use or []:
        feature, _, quantity = text.partition("=")
        if not feature or not (quantity.isascii() and quantity.isdigit()) or feature in found:
            raise UsageError(f"--use {text!r}: write FEATURE=N, each feature once, N a whole number of base units")
        found[feature] = int(quantity)
    return found or None


def _length(text: str | None) -> int | None:
    return None if text is None else parse_length(text, "--for")


def _said(run: Reservation) -> dict[str, object]:
    kept = {name: value for name, value in vars(run).items() if name != "fingerprint"}
    return {**kept, **_credits(reserved=run.amount_micro, drawn=run.drawn_micro, held=run.left_micro)}


def _credits(**micro: int | None) -> dict[str, object]:
    return {name: None if value is None else in_credits(value) for name, value in micro.items()}


def _show_settled(app: App, done: Settled, said: str) -> None:
    drawn = done.drawn
    line = f"{said}; {show_credits(drawn.charged_micro)} credits were charged"
    if drawn.repeated:
        line = f"{said} before, at {show_credits(drawn.reservation.drawn_micro)} credits: nothing was charged"
    if drawn.written_off_micro:
        line += f", {show_credits(drawn.written_off_micro)} above the hold were not"
    charged = _credits(charged=drawn.charged_micro, written_off=drawn.written_off_micro)
    _show(app, drawn.reservation, done, line, repeated=drawn.repeated, **charged)


def _show(app: App, run: Reservation, done: Accepted | Settled, line: str, **more: object) -> None:
    there, credits = "nothing bounds what is held: it is declared", _credits(available=None, balance=None)
    if (wallet := done.wallet) is not None:
        there = f"{show_credits(wallet.available_micro)} available, {show_credits(wallet.held_micro)} held"
        credits = _credits(available=wallet.available_micro, balance=wallet.balance_micro)
    more |= {**_said(run), **credits, "balance_read_ms": done.balance_read_ms}
    show(app, more, [line, f"{run.customer_id}: {there}{_read(done.balance_read_ms)}"])


def _read(read_ms: int | None) -> str:
    """Of a balance that a provider keeps: how old it is."""
    return "" if read_ms is None else f", by the balance that was read {show_time(read_ms)}"
