"""`drawdown provider`: the services that bill, and whether they can be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Final

import typer

from drawdown.cli.app import App
from drawdown.cli.nouns import provider_estimates
from drawdown.cli.options import Actor, DryRun, Name, Reason, Undo, only_with
from drawdown.cli.parsing import show_time
from drawdown.cli.rendering import show, table
from drawdown.providers.protocol import ReadFailed
from drawdown.schema.errors import Exit, Refused, UsageError
from drawdown.schema.units import EXEMPT_PROVIDERS
from drawdown.worker.catalog import terms
from drawdown.worker.commands import providers
from drawdown.worker.engine.runner import ask
from drawdown.worker.push.notices import apply_notices
from drawdown.worker.views.features import mapped_features
from drawdown.worker.views.providers import ProviderLoad, customers_at, provider_loads

app = typer.Typer()
provider_estimates.register(app)

MAX_WEBHOOK_BYTES: Final = 1_000_000


@app.command("list")
def list_(context: typer.Context) -> None:
    """List providers: ready, dormant, paused or broken; organisations, and what is open."""
    state: App = context.obj
    now = state.clock.now_ms()
    loads = state.read(lambda c: provider_loads(c, now))
    paused, changed = state.read(terms.paused), state.context().changed
    found = []
    for name in sorted({*state.registry.providers, *state.registry.broken, *loads} - EXEMPT_PROVIDERS):
        stands, why = _stands(state, name, paused, changed)
        held = asdict(loads.get(name, ProviderLoad()))
        found.append({"provider": name, "state": stands, "why": why, **held})
    columns = ("provider", "state", "why", "#orgs", "#without customer", "#open pushes")
    show(state, {"providers": found}, [table("Providers", columns, [tuple(one.values()) for one in found])])


def _stands(
    state: App, name: str, paused: Mapping[str, tuple[int, str]], changed: Mapping[str, str]
) -> tuple[str, str | None]:
    if name in state.registry.broken:
        return "broken", state.registry.broken[name]
    provider = state.registry.providers.get(name)
    if provider is None:
        return "missing", "its package is not installed here"
    if name in paused:
        since, reason = paused[name]
        return "paused", f"since {show_time(since)}: {reason}"
    if provider.dormant is not None:
        return "dormant", provider.dormant
    if name in changed:
        return "changed", changed[name]
    live = provider.capabilities.live_from_ms
    if live is not None and live > state.clock.now_ms():
        return "shadow", "usage is sealed and compared, and nothing is sent"
    return "ready", None


@app.command()
def check(
    context: typer.Context,
    name: Name,
    feature: Annotated[list[str] | None, typer.Option(help="Only these features", show_default="all mapped")] = None,
    customer: Annotated[
        list[str] | None, typer.Option(help="Only these customers", show_default="the assigned ones")
    ] = None,
    most: Annotated[int, typer.Option(min=0, max=100_000, help="Assigned customers at most")] = 50,
) -> None:
    """Prove key, version, features and customers, before anything is billed. Charges nothing."""
    state: App = context.obj
    if state.require_provider(name) in EXEMPT_PROVIDERS:
        raise Refused(f"{name} bills nothing here: there is nothing to check")
    if customer:
        only_with(context, "--customer", "name", "feature")
    provider = state.registry.providers[name]
    now = state.clock.now_ms()
    features = feature or state.read(mapped_features)
    customers = customer or state.read(lambda c: customers_at(c, name, now, most))
    found = (
        [provider.dormant]
        if provider.dormant
        else list(ask(lambda: provider.check(features, customers), state.world()))
    )
    done = {"provider": name, "problems": found, "features": features, "customers": len(customers)}
    good = f"{name}: well ({len(features)} features, {len(customers)} customers looked at)"
    show(state, done, [f"{name}: {line}" for line in found] or [good])
    raise typer.Exit(Exit.PERSON if found else Exit.SETTLED)


@app.command()
def pause(
    context: typer.Context, name: Name, undo: Undo = False, actor: Actor = None, reason: Reason = "not given"
) -> None:
    """Send nothing to a provider until --undo. Usage goes on being sealed, and waits."""
    if undo:
        return resume(context, name, actor, reason)
    state: App = context.obj
    if state.require_provider(name) in EXEMPT_PROVIDERS:
        raise Refused(f"{name} bills nothing here: there is nothing to pause")
    by = state.by(actor, reason)
    before = state.write(lambda c: providers.pause(c, name, by))
    was = "not paused" if before is None else f"paused since {show_time(before[0])}: {before[1]}"
    line = f"{name}: paused; before: {was}; `drawdown provider pause {name} --undo` ends it"
    return show(state, {"provider": name, "paused": True, "was": before}, [line])


@app.command(hidden=True)
def resume(context: typer.Context, name: Name, actor: Actor = None, reason: Reason = "not given") -> None:
    """Send to a paused provider again: the next tick sends what has waited."""
    state: App = context.obj
    by = state.by(actor, reason)
    state.known_provider(name)
    since = state.write(lambda c: providers.resume(c, name, by))
    text = f"{name}: resumed; it had been paused since {show_time(since)}"
    show(state, {"provider": name, "paused": False, "since_ms": since}, [text])


@app.command()
def accept(
    context: typer.Context, name: Name, dry_run: DryRun = False, actor: Actor = None, reason: Reason = "not given"
) -> None:
    """Use a provider on its changed settings (meters, units, shadow mode, cut-over) from now on.

    What was sealed on the old ones and never sent is sealed anew; what was billed stays where it is.
    """
    state: App = context.obj
    if state.require_provider(name) in EXEMPT_PROVIDERS:
        raise Refused(f"{name} bills nothing here: it has no settings")
    provider, by = state.registry.providers[name], state.by(actor, reason)
    if provider.dormant is not None:
        raise Refused(provider.dormant)
    voided = providers.accept(state.write, name, provider.capabilities, by, dry_run=dry_run)
    text = (
        f"{name}: {'would be' if dry_run else 'is'} used on its present settings; {voided:,} unsent pushes sealed anew"
    )
    show(state, {"provider": name, "voided": voided, "dry_run": dry_run}, [text])


@app.command()
def webhook(
    context: typer.Context,
    name: Name,
    body: Annotated[typer.FileBinaryRead, typer.Argument(help="The body, byte for byte; - for standard input")],
    header: Annotated[list[str], typer.Option(help="'Name: value', each header that came with it")],
) -> None:
    """Take a webhook that came in elsewhere: verified here, by the provider's own scheme, before it changes anything.

    Exit status 75: it is genuine, and what it names could not be fetched; give it again.
    """
    state: App = context.obj
    if state.require_provider(name) in EXEMPT_PROVIDERS:
        raise Refused(f"{name} bills nothing here: it sends no webhooks")
    headers = {}
    for one in header:
        key, colon, value = one.partition(":")
        if not colon:
            raise UsageError(f"--header {one.split(' ')[0]!r}: write 'Name: value'")
        headers[key.strip().lower()] = value.strip()
    provider, now = state.registry.providers[name], state.clock.now_ms()
    content = body.read(MAX_WEBHOOK_BYTES + 1)
    if len(content) > MAX_WEBHOOK_BYTES:
        raise UsageError(f"a webhook of more than {MAX_WEBHOOK_BYTES:,} bytes is none")
    state.ready()
    notices = ask(lambda: provider.notices(headers, content, now), state.world())
    if isinstance(notices, ReadFailed):
        show(state, {"provider": name, "done": [], "later": notices.reason}, [f"{name}: later: {notices.reason}"])
        raise typer.Exit(Exit.LEFT)
    done = state.write(lambda c: apply_notices(c, name, notices, now))
    show(state, {"provider": name, "done": done}, done or [f"{name}: nothing that concerns us"])
