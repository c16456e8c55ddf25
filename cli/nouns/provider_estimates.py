"""`drawdown provider rate` and `when-down`: the watch's rates between reads, and its policy while there are none."""

from __future__ import annotations

from typing import Annotated

import typer

from drawdown.cli.app import App
from drawdown.cli.nouns.ledger import MAX_RATE
from drawdown.cli.options import Actor, New, ProviderName, Reason, Undo, only_with
from drawdown.cli.rendering import show, table
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import EXEMPT_PROVIDERS, MINUTE_MS
from drawdown.worker.provider.actions import end_when_down, set_rate, set_when_down
from drawdown.worker.verdict import rates
from drawdown.worker.verdict.rules import UNREAD_STOP_MS


def register(commands: typer.Typer) -> None:
    """Add the commands to `drawdown provider`."""
    commands.command("rate")(rate)
    commands.command("when-down")(when_down)


def rate(
    context: typer.Context,
    name: ProviderName,
    feature: Annotated[str, typer.Argument(help="The feature", show_default="list all rates")] = "",
    micro: Annotated[
        int | None, typer.Option(min=0, max=MAX_RATE, help="Millionths of the unit its balance is told in")
    ] = None,
    per: Annotated[
        int, typer.Option(min=1, max=MAX_RATE, help="For this many base units (seconds, or MB-seconds)")
    ] = 1,
    from_: Annotated[str | None, typer.Option("--from", help="For usage from this window on")] = None,
    new: New = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Set the rate of a feature at a provider, or list all rates.

    Rates serve estimates alone: Drawdown charges nothing by them. If the provider tells its own costs, such as the
    credit schema of Autumn, Drawdown uses those. At Autumn, a feature that draws from its own balance takes 1,000,000
    millionths for 1 base unit.
    """
    app: App = context.obj
    if app.require_provider(name) in EXEMPT_PROVIDERS:
        raise Refused(f"{name} bills nothing here: there is nothing to estimate")
    if not feature:
        only_with(context, "a list of rates", "name")
        _list_rates(app, name)
        return
    if micro is None:
        raise UsageError("give --micro: how many millionths of the balance's unit the feature takes")
    told = app.registry.capabilities.get(name)
    tells = told is None or told.costs
    by, start = app.by(actor, reason), app.window(from_, "--from")
    begins = app.write(lambda c: set_rate(c, name, feature, (micro, per), by, from_ms=start, new=new, tells=tells))
    show(
        app,
        {"provider": name, "feature": feature, "micro": micro, "per_quantity": per, "start_ms": begins},
        [f"{feature} at {name}: {micro:,} millionths per {per:,} from {show_time(begins)} on"],
    )


def _list_rates(app: App, name: str) -> None:
    rows = app.read(lambda c: rates.rate_rows(c, name))
    columns = ("feature", "from", "#millionths", "#per", "set by", "in use")
    lines = [
        (row.feature, show_time(row.start_ms), f"{row.micro:,}", f"{row.per_quantity:,}", _set_by(row), row.in_use)
        for row in rows
    ]
    found = {"provider": name, "rates": [vars(row) for row in rows]}
    show(app, found, [table(f"rates at {name}", columns, lines)] if rows else [f"{name} has no rates"])


def _set_by(row: rates.RateRow) -> str:
    return row.actor if row.balance is None else f"{row.balance}, as the provider tells"


def when_down(
    context: typer.Context,
    name: ProviderName,
    policy: Annotated[str, typer.Option(help="go_on, estimate (until that says zero; the default) or stop")] = "",
    plan: Annotated[str, typer.Option(help="Only customers of this plan", show_default="every other plan")] = "",
    undo: Undo = False,
    new: New = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Say what holds for running organisations while their provider cannot be read. Who is halted stays so."""
    app: App = context.obj
    if app.require_provider(name) in EXEMPT_PROVIDERS:
        raise Refused(f"{name} bills nothing here: nobody reads it")
    if undo and not policy:
        only_with(context, "--undo", "name", "plan", "actor", "reason")
    if undo == bool(policy):
        raise UsageError(f"give --policy ({', '.join(rates.POLICIES)}), or --undo")
    if policy and policy not in rates.POLICIES:
        raise UsageError(f"--policy {policy!r} is none of {', '.join(rates.POLICIES)}")
    by = app.by(actor, reason)
    who = f"the plan {plan}" if plan else "every other plan"
    if undo:
        was: str | None = app.write(lambda c: end_when_down(c, name, plan, by))
        now = "as for every other plan" if plan else rates.DEFAULT_POLICY
    else:
        was = app.write(lambda c: set_when_down(c, name, plan, policy, by, new=new))
        now = policy + (f" once it was unreadable for {UNREAD_STOP_MS // MINUTE_MS} min" if policy == "stop" else "")
    result = {"provider": name, "plan": plan, "policy": policy or None, "was": was}
    show(app, result, [f"{name}, {who}: {now}; before: {was or 'nothing said'}"])
