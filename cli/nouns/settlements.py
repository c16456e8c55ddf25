"""`drawdown settlement`: what suppliers are owed for runs, until it is handed over to be paid."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

import sqlalchemy as sa
import typer

from drawdown.cli.app import App, new_key
from drawdown.cli.options import Actor, DryRun, Most, Reason, Undo
from drawdown.cli.rendering import facts, show, table
from drawdown.cli.streams import print_file
from drawdown.ledger.payouts import Payout, period_of
from drawdown.ledger.settlements import Settlement
from drawdown.schema.errors import AnswerLost, UsageError
from drawdown.schema.text import typed
from drawdown.schema.typed.parsing import in_credits, parse_credits, show_credits, show_percent, show_time
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.settlements import lists
from drawdown.worker.settlements.lists import SettlementFilter, list_batches, page, show_settlement, unpaid

commands = typer.Typer()


class StateName(StrEnum):
    """Of a settlement."""

    hold = "hold"
    eligible = "eligible"
    frozen = "frozen"
    released = "released"
    reversed = "reversed"


Run = Annotated[str, typer.Argument(metavar="RUN", help="The key of the run that it is for")]
OfSupplier = Annotated[str, typer.Option("--supplier", help="Of this supplier alone")]


@commands.command("list")
def list_(
    context: typer.Context,
    supplier: OfSupplier = "",
    state: Annotated[list[StateName] | None, typer.Option(help="In this state; may be repeated")] = None,
    org: Annotated[str, typer.Option(help="Of runs of this organisation alone")] = "",
    project: Annotated[str, typer.Option(help="Of runs of this project alone")] = "",
    after: Annotated[str, typer.Option(help="Go on after the settlement of this run: the last one of a page")] = "",
    most: Most = 50,
) -> None:
    """List settlements, the newest first."""
    app: App = context.obj
    chosen = SettlementFilter(tuple(one.value for one in state or StateName), supplier, org, project)
    found, following = app.read(lambda c: page(c, chosen, app.clock.now_ms(), after, most))
    rows = [
        (one.reservation, one.supplier, one.state, show_credits(one.gross_micro), show_percent(one.share_ppm),
         show_credits(one.owed_micro), show_credits(one.clawed_back_micro), show_time(one.hold_until_ms))
        for one in found
    ]  # fmt: skip
    columns = ("run", "supplier", "state", "#charged", "#share", "#owed", "#clawed back", "held until")
    more = [] if following is None else [f"there are more: --after {following}"]
    result = {"settlements": [_said(one) for one in found], "next_after": following}
    show(app, result, [table("Settlements", columns, rows), *more])


@commands.command("show")
def show_(context: typer.Context, run: Run, most: Most = 100) -> None:
    """Show one settlement: what its supplier is owed, what was taken back, when it was frozen."""
    app: App = context.obj
    found, reversals, freezes = app.read(lambda c: show_settlement(c, run, app.clock.now_ms(), most))
    taken = [
        (show_time(one.at_ms), show_credits(one.amount_micro), one.is_clawback, one.actor, one.reason, one.reversal)
        for one in reversals
    ]
    frozen = [
        (one.reservation or "all of it", show_time(one.from_ms), one.actor, one.reason, show_time(one.ended_ms),
         one.ended_by, one.ended_reason)
        for one in freezes
    ]  # fmt: skip
    tables = [
        table(run, ("", ""), facts({**vars(found), "owed_micro": found.owed_micro})),
        table("Reversed", ("at", "#credits", "claw-back", "actor", "reason", "key"), taken),
        table("Frozen", ("what", "from", "actor", "reason", "until", "ended by", "why"), frozen),
    ]
    show(app, {"settlement": _said(found), "reversals": reversals, "freezes": freezes}, tables)


@commands.command()
def freeze(
    context: typer.Context, run: Run, undo: Undo = False, actor: Actor = None, reason: Reason = "not given"
) -> None:
    """Keep one settlement from being released until it is undone."""
    app: App = context.obj
    by = app.by(actor, reason)
    found, done = app.write(lambda c: settlements.freeze(c, run, by, undo=undo))
    said = "not frozen" if undo else "frozen"
    line = f"{run}: {said}{'' if done else ' before; nothing changes'}; its state is {found.state}"
    show(app, {**_said(found), "changed": done}, [line])


@commands.command()
def reverse(
    context: typer.Context,
    run: Run,
    amount: Annotated[
        str | None, typer.Option(metavar="CREDITS", help="Of what its supplier is owed", show_default="all of it")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Makes a repetition harmless, e.g. a ticket", show_default="one of its own")
    ] = None,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Take back what a supplier is owed for a run. After its release the next batch is less by it.

    The customer is given nothing back by this: `drawdown ledger grant` does that.
    """
    app: App = context.obj
    by, micro, reversal = app.by(actor, reason), None if amount is None else parse_credits(amount), key or new_key()
    try:
        done = app.write(lambda c: settlements.reverse(c, run, reversal, micro, by))
    except AnswerLost as error:
        raise AnswerLost(error.why, f"give it again with --key {reversal}, and it counts once") from error
    made, found = done.reversal, done.settlement
    how = "to be taken off the next batch" if made.is_clawback else "no longer owed"
    line = f"{run}: {show_credits(made.amount_micro)} credits are {how}"
    line += (
        "; it was done before: nothing was added" if done.repeated else f"; {show_credits(found.left_micro)} are left"
    )
    show(app, {**_said(found), "reversal": made, "repeated": done.repeated}, [line])


@commands.command()
def batch(
    context: typer.Context,
    supplier: Annotated[str, typer.Argument(metavar="SUPPLIER", help="The supplier's id")],
    period: Annotated[str | None, typer.Option(metavar="MONTH", help="2026-01", show_default="this month")] = None,
    dry_run: DryRun = False,
    expect: Annotated[str | None, typer.Option(metavar="CREDITS", help="Its amount, as the dry run showed it")] = None,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Release what a supplier is owed and is eligible: one batch a month, after a dry run. Pays nothing."""
    app: App = context.obj
    by, expected = app.by(actor, reason), None if expect is None else parse_credits(expect)
    month = period or period_of(by.now_ms)
    if not dry_run and expected is None:
        raise UsageError("give --expect CREDITS, what the dry run came to: the same with --dry-run shows it")

    def work(connection: sa.Connection) -> tuple[Payout, bool, int]:
        made, repeated = settlements.batch(connection, supplier, month, by, expected)
        return made, repeated, unpaid(connection, made.payout)

    made, repeated, owed = app.write(work, rollback=dry_run)
    line = f"{made.payout}: {show_credits(made.total_micro)} credits, {show_credits(made.released_micro)} released"
    line += f" and {show_credits(-made.carried_micro)} clawed back" if made.carried_micro else ""
    line += f", {made.lines:,} lines"
    if repeated:
        line += "; it was made before: nothing changes"
    elif dry_run:
        line += f"; nothing was changed, --expect {in_credits(made.total_micro)} makes it"
    else:
        line += f"; `drawdown settlement export {typed(made.payout)}` is its file"
    lines = [line]
    if owed:
        text = (
            "of it are for runs of wallets that owe by now: nobody has paid for them yet; `drawdown settlement freeze`"
        )
        lines.append(f"{show_credits(owed)} credits {text} holds one back")
    more = {"repeated": repeated, "dry_run": dry_run, "unpaid": in_credits(owed), "unpaid_micro": owed}
    show(app, {**_batch_said(made), **more}, lines)


@commands.command()
def batches(context: typer.Context, supplier: OfSupplier = "", most: Most = 50) -> None:
    """List the batches, the newest first."""
    app: App = context.obj
    found = app.read(lambda c: list_batches(c, supplier, most))
    rows = [
        (one.payout, show_credits(one.released_micro), show_credits(-one.carried_micro), show_credits(one.total_micro),
         one.lines, show_time(one.at_ms), one.actor)
        for one in found
    ]  # fmt: skip
    columns = ("batch", "#released", "#clawed back", "#total", "#lines", "at", "by")
    show(app, {"batches": [_batch_said(one) for one in found]}, [table("Batches", columns, rows)])


@commands.command()
def export(
    context: typer.Context,
    payout: Annotated[str, typer.Argument(metavar="BATCH", help="payout:SUPPLIER:MONTH")],
) -> None:
    """Print the file of a batch, to be handed over: CSV, safe to open in a spreadsheet; with --json one object."""
    app: App = context.obj

    def parts(connection: sa.Connection) -> Iterator[str]:
        found = lists.require_payout(connection, payout)
        return (lists.json_file if app.json else lists.csv_file)(connection, found)

    app.read(lambda c: print_file(parts(c)))


def _said(found: Settlement) -> dict[str, object]:
    return {**vars(found), "owed_micro": found.owed_micro, "owed": in_credits(found.owed_micro)}


def _batch_said(found: Payout) -> dict[str, object]:
    return {**vars(found), "total": in_credits(found.total_micro)}
