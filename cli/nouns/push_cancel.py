"""`drawdown push cancel`: a wrong push is undone at its provider, then voided here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, cast

import typer

from drawdown.cli.app import App
from drawdown.cli.options import Actor, DryRun, Reason
from drawdown.cli.rendering import show
from drawdown.providers.protocol import Cancelled, Cancels, Capabilities, ReadFailed
from drawdown.schema.errors import Exit
from drawdown.worker.engine.runner import ask
from drawdown.worker.push.actions import CancelReport, Intent, conclude, intend

Keys = Annotated[list[str], typer.Argument(metavar="KEY...", help="Keys of pushes, usage:ORG:WINDOW:FEATURE[:rN]")]


def register(commands: typer.Typer) -> None:
    """Add the command to those of pushes."""
    commands.command("cancel")(cancel)


def cancel(
    context: typer.Context, keys: Keys, dry_run: DryRun = False, actor: Actor = None, reason: Reason = "not given"
) -> None:
    """Undo accepted pushes at their provider; their usage is owed again.

    The provider cancels them first, then they are voided here. Stripe cancels within 24 hours of the send, by v1 only;
    invoices that are final stay as they are. Run it again for a push that was not confirmed.
    """
    app: App = context.obj
    by = app.by(actor, reason)
    can = _askable(app)
    intents = app.write(lambda c: intend(c, keys, by, can), rollback=dry_run)
    if dry_run:
        lines = [f"  {intent.key} at {intent.provider}" for intent in intents]
        head = f"{len(intents):,} would be cancelled and voided; nothing was changed"
        return show(app, {"cancelled": [intent.key for intent in intents], "dry_run": True}, [head, *lines])
    answers = ask(lambda: _cancel_all(app, intents), app.world())
    done = app.write(lambda c: conclude(c, intents, answers, by))
    cancelled = [*done.voided, *done.before]
    result = {"cancelled": cancelled, "unconfirmed": done.unconfirmed, "dry_run": False}
    show(app, result, _lines(done))
    raise typer.Exit(Exit.PERSON if done.unconfirmed else Exit.SETTLED)


def _askable(app: App) -> Mapping[str, Capabilities]:
    """Providers with a key, on the settings that the pushes were sent by: a changed name would name another event."""
    changed = app.context().changed
    ready = {name for name, provider in app.registry.providers.items() if provider.dormant is None}
    return {name: can for name, can in app.registry.capabilities.items() if name in ready and name not in changed}


async def _cancel_all(app: App, intents: Sequence[Intent]) -> list[Cancelled | ReadFailed]:
    providers = app.registry.providers
    return [await cast(Cancels, providers[intent.provider]).cancel(intent.request) for intent in intents]


def _lines(done: CancelReport) -> list[str]:
    lines = []
    if done.voided:
        lines = [f"{len(done.voided):,} cancelled and voided; the next tick seals what they held"]
        lines += [f"  {key}" for key in done.voided]
    lines += [f"{key}: cancelled; it was voided meanwhile" for key in done.before]
    lines += [
        f"{key}: the provider did not confirm it: {why}. The push is in doubt: run this again, or let a tick look it "
        "up an hour from now"
        for key, why in done.unconfirmed.items()
    ]
    return lines
