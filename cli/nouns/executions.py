"""`drawdown execution`: manage executions, from the preview to their cost."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from drawdown.cli.app import App
from drawdown.cli.declared import of_noun
from drawdown.cli.options import Actor, Most, PageSize, Reason
from drawdown.cli.rendering import facts, show, table
from drawdown.ledger.draws import Cost
from drawdown.ledger.reservations import Reservation
from drawdown.schema.errors import Exit, UsageError
from drawdown.schema.text import typed
from drawdown.schema.typed.parsing import (
    in_credits,
    parse_credits,
    parse_length,
    parse_quantities,
    show_credits,
    show_time,
)
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.blocks import ACTIONS
from drawdown.worker.executions.lists import EVER, MOST_LOOKED_AT, RunFilter, list_runs, show_run
from drawdown.worker.executions.request import Accepted, Preview, Request, Settled


def said_of(run: Reservation) -> dict[str, object]:
    kept = {name: value for name, value in vars(run).items() if name != "fingerprint"}
    return {
        **kept,
        "payer": run.customer_id,
        "sandboxes": run.named,
        **credits_of(reserved=run.amount_micro, drawn=run.drawn_micro, held=run.left_micro),
    }


def told_of(run: Reservation) -> dict[str, object]:
    """Return an execution for people, with the field names of the HTTP API."""
    own = ("reservation", "fingerprint", "estimate", "amount_micro", "drawn_micro", "sandboxes", "payer_number")
    used: dict[str, int] = {} if run.estimate is None else json.loads(run.estimate)
    return {
        "key": run.reservation,
        "use": " ".join(f"{feature}={quantity:,}" for feature, quantity in used.items()) or None,
        "reserved_micro": run.amount_micro,
        "drawn_micro": run.drawn_micro,
        "held_micro": run.left_micro,
        **{name: value for name, value in vars(run).items() if name not in own},
        "sandboxes": " ".join(run.named),
    }


def preview_of(found: Preview) -> str:
    """Return text with the credit from which an execution would reserve its amount."""
    if found.hold == "wallet" and found.available_micro is None:
        return f"{found.customer_id}'s"
    if found.available_micro is None:
        return f"an unlimited amount ({found.hold}{read_at(found.balance_read_ms)})"
    return f"{show_credits(found.available_micro)} available ({found.hold}{read_at(found.balance_read_ms)})"


def credits_of(**micro: int | None) -> dict[str, object]:
    return {name: None if value is None else in_credits(value) for name, value in micro.items()}


def show_settled(app: App, done: Settled, said: str) -> None:
    drawn = done.drawn
    if drawn.reservation.settled_by == "metering":
        _show_metered(app, done, said)
        return
    line = f"{said}. Drawdown charged {show_credits(drawn.charged_micro)} credits"
    if drawn.repeated:
        line = (
            f"{said} before, at {show_credits(drawn.reservation.drawn_micro)} credits. This call did not charge credit"
        )
    if drawn.written_off_micro:
        line += f". Drawdown wrote off {show_credits(drawn.written_off_micro)} above the reserved credit"
    more = credits_of(charged=drawn.charged_micro, written_off=drawn.written_off_micro)
    show_with_wallet(app, drawn.reservation, done, line, repeated=drawn.repeated, **more)


def _show_metered(app: App, done: Settled, said: str) -> None:
    found = done.drawn.reservation
    again = " before" if done.drawn.repeated else ""
    line = f"{said}{again}. Metering already charged {show_credits(found.drawn_micro)} credits, and charges the rest"
    show_with_wallet(app, found, done, line, repeated=done.drawn.repeated, **credits_of(charged=0, written_off=0))


def show_with_wallet(app: App, run: Reservation, done: Accepted | Settled, line: str, **more: object) -> None:
    there, credits = "no wallet limits this reservation", credits_of(available=None, balance=None)
    if (wallet := done.wallet) is not None:
        there = f"{show_credits(wallet.available_micro)} available, {show_credits(wallet.held_micro)} reserved"
        credits = credits_of(available=wallet.available_micro, balance=wallet.balance_micro)
    result = {**said_of(run), **more, **credits, "balance_read_ms": done.balance_read_ms}
    show(app, result, [line, f"{run.customer_id}: {there}{read_at(done.balance_read_ms)}"])


def read_at(read_ms: int | None) -> str:
    """Return text with the time at which a provider's balance was read.

    The text is empty if `read_ms` is None.
    """
    return "" if read_ms is None else f", by the balance read at {show_time(read_ms)}"


commands = of_noun("execution", *ACTIONS)


class OverageName(StrEnum):
    """The effect of a cost above the credit that an execution reserved."""

    charge = "charge"
    cap = "cap"
    refuse = "refuse"


class SettledByName(StrEnum):
    """The way in which an execution is charged."""

    receipt = "receipt"
    metering = "metering"


class StateName(StrEnum):
    """The state of an execution."""

    held = "held"
    settled = "settled"
    released = "released"
    expired = "expired"


Key = Annotated[
    str, typer.Argument(metavar="KEY", help="Key of the execution, which you choose; a repeated call counts once")
]
Made = Annotated[str, typer.Argument(metavar="KEY", help="Key of the execution")]
OfOrg = Annotated[str, typer.Option("--org", help="Organisation of the execution")]
Estimate = Annotated[str | None, typer.Option(metavar="CREDITS", help="Estimated cost in credits")]
Uses = Annotated[
    list[str] | None,
    typer.Option("--use", metavar="FEATURE=N", help="Base units of a feature, in place of an amount; may be repeated"),
]
Project = Annotated[str | None, typer.Option(help="Label for the project (case-sensitive)")]
Subject = Annotated[str | None, typer.Option(help="Label for the actor or object of the execution")]
Action = Annotated[str | None, typer.Option(help="Label for the action")]
OfSupplier = Annotated[str | None, typer.Option("--supplier", help="Supplier that gets a share of the cost")]
By = Annotated[
    SettledByName | None,
    typer.Option(
        "--settled-by", help="Source of the charge: a receipt, or the samples of its sandboxes", show_default="receipt"
    ),
]
Sandboxes = Annotated[
    list[str] | None, typer.Option("--sandbox", metavar="ID", help="Sandbox of the execution; may be repeated")
]
Payer = Annotated[
    str | None,
    typer.Option(help="Wallet that pays, if `payer allow` permits it", show_default="the organisation's own"),
]
Overage = Annotated[OverageName, typer.Option(help="Policy for a cost above the reservation")]
For = Annotated[
    str | None, typer.Option("--for", metavar="TIME", help="Length of the reservation: 45m, 6h; 1h if omitted")
]
Queued = Annotated[bool, typer.Option("--queued", help="Reservation for a day, for an execution that waits in a queue")]
Actual = Annotated[str | None, typer.Option(metavar="CREDITS", help="Total cost in credits")]


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
    settled_by: By = None,
    sandbox: Sandboxes = None,
    payer: Payer = None,
) -> None:
    """Check whether an execution would be accepted now.

    The command shows the credit that the execution would reserve, without any change. The exit status is 1 if Drawdown
    would refuse the execution.
    """
    app: App = context.obj
    labels = {"project": project, "subject": subject, "action": action, "supplier": supplier, "payer": payer}
    request = _request(org, estimate, use, **labels, **_settled_by(settled_by, sandbox))
    found = app.read(lambda c: executions.preview(c, request, app.clock.now_ms()))
    amount = None if found.amount_micro is None else show_credits(found.amount_micro)
    line = f"allowed: {amount} credits would be reserved of {preview_of(found)}"
    if not found.allowed:
        line = f"refused at {found.step or 'the request'} ({found.code}): {found.reason}"
    show(app, {**vars(found), **credits_of(amount=found.amount_micro, available=found.available_micro)}, [line])
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
    settled_by: By = None,
    sandbox: Sandboxes = None,
    payer: Payer = None,
    overage: Overage = OverageName.charge,
    for_: For = None,
    queued: Queued = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Reserve credit for an execution before it starts."""
    app: App = context.obj
    labels = {"project": project, "subject": subject, "action": action, "supplier": supplier, "payer": payer}
    more = {"overage": overage.value, "for_ms": _length(for_), "queued": queued, **_settled_by(settled_by, sandbox)}
    request = _request(org, estimate, use, **labels, **more)
    by = app.by(actor, reason)
    done = app.write(lambda c: executions.accept(c, key, request, by))
    found = done.reservation
    said = "was accepted before. This call did not reserve credit" if done.repeated else "accepted"
    line = f"{key}: {said}. {show_credits(found.left_micro)} credits are reserved until {show_time(found.expires_ms)}"
    if found.state != "held":
        at = f" at {show_credits(found.drawn_micro)} credits"
        line = f"{key}: was accepted before, and {'has' if found.state == 'expired' else 'was'} {found.state}{at}. "
        line += "It does not reserve credit. Accept another execution under another key"
    show_with_wallet(app, found, done, line, repeated=done.repeated)


@commands.command()
def draw(
    context: typer.Context,
    key: Made,
    number: Annotated[int, typer.Argument(min=0, help="Number of the part; a repeated call counts once")],
    credits: Annotated[
        str | None, typer.Option("--credits", metavar="CREDITS", help="Cost of this part in credits")
    ] = None,
    use: Uses = None,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Charge a part of an open execution's cost."""
    app: App = context.obj
    by, cost = app.by(actor, reason), _cost(credits, use)
    show_settled(app, app.write(lambda c: executions.draw(c, key, number, cost, by)), f"{key}: draw {number}")


@commands.command()
def extend(
    context: typer.Context,
    key: Made,
    to: Annotated[str | None, typer.Option(metavar="CREDITS", help="Total cost to reserve, in credits")] = None,
    for_: For = None,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Extend an execution's reservation for another hour.

    For another length, pass --for. You can also increase the reserved credit.
    """
    app: App = context.obj
    by, to_micro, for_ms = app.by(actor, reason), None if to is None else parse_credits(to), _length(for_)
    done = app.write(lambda c: executions.extend(c, key, to_micro, for_ms, by))
    found = done.reservation
    said = "unchanged" if done.repeated else "extended"
    line = f"{key}: {said}. {show_credits(found.left_micro)} credits are reserved until {show_time(found.expires_ms)}"
    show_with_wallet(app, found, done, line, repeated=done.repeated)


@commands.command()
def settle(
    context: typer.Context,
    key: Made,
    actual: Actual = None,
    use: Uses = None,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """End an execution and charge its total cost once.

    Drawdown releases the rest of the reservation. If metering charges the execution, omit the cost.
    """
    app: App = context.obj
    by, cost = app.by(actor, reason), None if actual is None and not use else _cost(actual, use)
    show_settled(app, app.write(lambda c: executions.settle(c, key, cost, by)), f"{key}: settled")


@commands.command()
def release(
    context: typer.Context,
    key: Made,
    incurred: Annotated[
        str | None,
        typer.Option(metavar="CREDITS", help="Incurred cost to charge, in credits", show_default="the drawn credits"),
    ] = None,
    use: Uses = None,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Release the reserved credit of an execution.

    Drawdown charges the cost in --incurred, or else only the parts that were drawn.
    """
    app: App = context.obj
    by = app.by(actor, reason)
    cost = None if incurred is None and not use else _cost(incurred, use)
    show_settled(app, app.write(lambda c: executions.release(c, key, cost, by)), f"{key}: released")


@commands.command("list")
def list_(
    context: typer.Context,
    org: Annotated[str, typer.Option(help="Organisation of the executions")] = "",
    state: Annotated[list[StateName] | None, typer.Option(help="State of the executions; may be repeated")] = None,
    project: Annotated[str, typer.Option(help="Project of the executions")] = "",
    subject: Annotated[str, typer.Option(help="Subject of the executions")] = "",
    action: Annotated[str, typer.Option(help="Action of the executions")] = "",
    payer: Annotated[str, typer.Option(help="Customer that pays for the executions")] = "",
    older_than: Annotated[str | None, typer.Option(help="Minimum age since acceptance: 6h, 7d")] = None,
    after: Annotated[str, typer.Option(help="Cursor of the next page: `next_after` of the previous page")] = "",
    most: PageSize = 50,
) -> None:
    """List executions.

    A list of `held` executions of all organisations starts with the reservation that ends first. Other lists start with
    the newest execution.
    """
    app: App = context.obj
    states, now_ms = tuple(one.value for one in state or ()), app.clock.now_ms()
    by_ms = EVER if older_than is None else now_ms - parse_length(older_than, "--older-than")
    chosen = RunFilter(states, org, payer, project, subject, action, by_ms)
    found = app.read(lambda c: list_runs(c, chosen, now_ms, after, most))
    rows = [
        (run.reservation, run.org_id, run.customer_id, run.project, run.state, run.settled_by,
         *map(show_credits, (run.amount_micro, run.drawn_micro, run.left_micro)), show_time(run.expires_ms))
        for run in found.runs
    ]  # fmt: skip
    columns = ("execution", "org", "payer", "project", "state", "settled by", "#reserved", "#drawn", "#held", "expires")
    why = f"the search stopped after {MOST_LOOKED_AT:,} executions" if found.is_cut else "more executions exist"
    more = [] if found.next_after is None else [f"{why}: --after {typed(found.next_after)}"]
    result = {"executions": list(map(said_of, found.runs)), "next_after": found.next_after, "is_cut": found.is_cut}
    show(app, result, [table("Executions", columns, rows), *more])


@commands.command("show")
def show_(context: typer.Context, key: Made, most: Most = 100) -> None:
    """Show an execution: reservation, charges and outcome."""
    app: App = context.obj
    run, entries = app.read(lambda c: show_run(c, key, app.clock.now_ms(), most))
    rows = [
        (show_time(entry.at_ms), show_credits(entry.amount_micro), entry.feature, entry.quantity, entry.key)
        for entry in entries
    ]
    columns = ("at", "#credits", "feature", "#quantity", "key")
    tables = [table(key, ("", ""), facts(told_of(run))), table("Draws", columns, rows)]
    show(app, {"execution": said_of(run), "entries": entries}, tables)


def _request(org: str, estimate: str | None, use: list[str] | None, **more: object) -> Request:
    try:
        amount = None if estimate is None else parse_credits(estimate)
    except UsageError as error:
        raise UsageError(f"--estimate: {error}", code="bad_estimate") from error
    return Request(org, amount, parse_quantities(use), **more)  # type: ignore[arg-type]


def _settled_by(name: SettledByName | None, sandbox: list[str] | None) -> dict[str, object]:
    return {"settled_by": None if name is None else name.value, "sandboxes": tuple(sandbox or ())}


def _cost(credits: str | None, use: list[str] | None) -> Cost:
    return Cost(None if credits is None else parse_credits(credits), parse_quantities(use))


def _length(text: str | None) -> int | None:
    return None if text is None else parse_length(text, "--for")
