"""`drawdown provider`: the services that bill, and whether they can be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Final

import sqlalchemy as sa
import typer

from drawdown.cli.app import App
from drawdown.cli.nouns.jobs import QUEUED
from drawdown.cli.options import Actor, DryRun, New, ProviderName, Queued, Reason, Undo, only_with
from drawdown.cli.rendering import show, table
from drawdown.providers.protocol import Provider, ReadFailed
from drawdown.schema.errors import Exit, Refused, UsageError
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import EXEMPT_PROVIDERS, MINUTE_MS
from drawdown.worker.catalog import terms
from drawdown.worker.engine.runner import ask
from drawdown.worker.features.lists import mapped_features
from drawdown.worker.jobs.job_payloads import AcceptJob
from drawdown.worker.jobs.queue import place
from drawdown.worker.provider import actions as providers
from drawdown.worker.provider.actions import CutOver, end_when_down, set_rate, set_when_down
from drawdown.worker.provider.lists import ProviderLine, customers_at, features_used, provider_lines
from drawdown.worker.provider.shadows import FOR_GOOD_MS, in_shadow
from drawdown.worker.push.webhooks import apply_notices
from drawdown.worker.verdict import rates
from drawdown.worker.verdict.rates import Worth
from drawdown.worker.verdict.rules import UNREAD_STOP_MS
from drawdown.worker.wallets.actions import MAX_RATE


def _register(commands: typer.Typer) -> None:
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


commands = typer.Typer()
_register(commands)

MAX_WEBHOOK_BYTES: Final = 1_000_000


@commands.command("list")
def list_(context: typer.Context) -> None:
    """List providers: ready, dormant, paused or broken; organisations, and what is open."""
    app: App = context.obj
    now = app.clock.now_ms()
    kept = {one.provider: one for one in app.read(lambda c: provider_lines(c, now))}
    paused, changed = app.read(terms.paused), app.context().changed
    found = []
    for name in sorted({*app.registry.providers, *app.registry.broken, *kept} - EXEMPT_PROVIDERS):
        stands, why = _stands(app, name, paused, changed)
        one = kept.get(name, ProviderLine(name))
        counts = {"orgs": one.orgs, "without_customer": one.without_customer, "open_pushes": one.open_pushes}
        found.append({"provider": name, "state": stands, "why": why, **counts})
    columns = ("provider", "state", "why", "#orgs", "#without customer", "#open pushes")
    show(app, {"providers": found}, [table("Providers", columns, [tuple(row.values()) for row in found])])


def _stands(
    app: App, name: str, paused: Mapping[str, tuple[int, str]], changed: Mapping[str, str]
) -> tuple[str, str | None]:
    if name in app.registry.broken:
        return "broken", app.registry.broken[name]
    provider = app.registry.providers.get(name)
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
    if live is not None and live > app.clock.now_ms():
        kept = [str(one) for one in app.read(lambda c: in_shadow(c, app.clock.now_ms())) if one.provider == name]
        return "shadow", next(iter(kept), "usage is sealed and compared, and nothing is sent")
    return "ready", None


@commands.command()
def check(
    context: typer.Context,
    name: ProviderName,
    feature: Annotated[
        list[str] | None, typer.Option(help="Only these features, of each customer", show_default="what each uses")
    ] = None,
    customer: Annotated[
        list[str] | None, typer.Option(help="Only these customers", show_default="the assigned ones")
    ] = None,
    most: Annotated[int, typer.Option(min=0, max=100_000, help="Assigned customers at most")] = 50,
) -> None:
    """Prove key, version, features and customers, before anything is billed. Charges nothing."""
    app: App = context.obj
    if app.require_provider(name) in EXEMPT_PROVIDERS:
        raise Refused(f"{name} bills nothing here: there is nothing to check")
    if customer:
        only_with(context, "--customer", "name", "feature")
    provider = app.registry.providers[name]
    now = app.clock.now_ms()
    customers = customer or app.read(lambda c: customers_at(c, name, now, most))
    by_use = (
        {tuple(feature): list(customers)} if feature else app.read(lambda c: features_used(c, name, customers, now))
    )
    features = feature or sorted({one for used in by_use for one in used}) or app.read(mapped_features)
    found = [provider.dormant] if provider.dormant else _checked(app, provider, features, by_use)
    done = {"provider": name, "problems": found, "features": features, "customers": len(customers)}
    good = f"{name}: well ({len(features)} features, {len(customers)} customers looked at)"
    show(app, done, [f"{name}: {line}" for line in found] or [good])
    raise typer.Exit(Exit.PERSON if found else Exit.SETTLED)


def _checked(
    app: App, provider: Provider, features: Sequence[str], by_use: Mapping[tuple[str, ...], Sequence[str]]
) -> list[str]:
    """What is wrong with features, and with customers for the features that each uses; each said once."""
    asked = [(list(features), list[str]()), *((list(used), list(some)) for used, some in by_use.items())]
    if len(asked) == 2 and asked[1][0] == asked[0][0]:
        del asked[0]
    said: dict[str, None] = {}
    for some, customers in asked:
        said |= dict.fromkeys(ask(partial(provider.check, some, customers), app.world()))
    return list(said)


@commands.command()
def pause(
    context: typer.Context, name: ProviderName, undo: Undo = False, actor: Actor = None, reason: Reason = "not given"
) -> None:
    """Send nothing to a provider until --undo. Usage is still sealed, and waits."""
    if undo:
        return resume(context, name, actor, reason)
    app: App = context.obj
    if app.require_provider(name) in EXEMPT_PROVIDERS:
        raise Refused(f"{name} bills nothing here: there is nothing to pause")
    by = app.by(actor, reason)
    before = app.write(lambda c: providers.pause(c, name, by))
    was = "not paused" if before is None else f"paused since {show_time(before[0])}: {before[1]}"
    line = f"{name}: paused; before: {was}; `drawdown provider pause {name} --undo` ends it"
    return show(app, {"provider": name, "paused": True, "was": before}, [line])


@commands.command(hidden=True)
def resume(context: typer.Context, name: ProviderName, actor: Actor = None, reason: Reason = "not given") -> None:
    """Send to a paused provider again: the next tick sends what has waited."""
    app: App = context.obj
    by = app.by(actor, reason)
    app.require_any_provider(name)
    since = app.write(lambda c: providers.resume(c, name, by))
    text = f"{name}: resumed; it had been paused since {show_time(since)}"
    show(app, {"provider": name, "paused": False, "since_ms": since}, [text])


@commands.command()
def accept(
    context: typer.Context,
    name: ProviderName,
    dry_run: DryRun = False,
    queue: Queued = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Use a provider on its changed settings (meters, units, way, shadow mode, cut-over) from now on.

    Its settings are those of this shell: set what ticks have, also where it is in their environment alone.

    What was sealed on the old ones and never sent is sealed again; what was billed stays where it is.
    """
    app: App = context.obj
    if app.require_provider(name) in EXEMPT_PROVIDERS:
        raise Refused(f"{name} bills nothing here: it has no settings")
    provider, by = app.registry.providers[name], app.by(actor, reason)
    if provider.dormant is not None:
        raise Refused(provider.dormant)
    if queue and dry_run:
        raise UsageError("specify either --dry-run or --queue, not both")
    if queue:
        asked = AcceptJob(name, providers.terms_of(provider.capabilities))
        job_id = app.write(lambda c: place(c, asked, by))
        return show(app, {"provider": name, "job": job_id}, [QUEUED.format(job_id)])
    effect = app.read(lambda c: providers.cut_over(c, name, provider.capabilities, by.now_ms))
    voided = providers.accept(app.write, name, provider.capabilities, by, dry_run=dry_run)
    if not dry_run:
        effect = app.read(lambda c: providers.cut_over(c, name, provider.capabilities, by.now_ms))
    text = (
        f"{name}: {'would be' if dry_run else 'is'} used on its present settings; {voided:,} unsent pushes sealed anew"
    )
    done = {"provider": name, "voided": voided, "dry_run": dry_run, "cut_over": effect}
    return show(app, done, [text, *_effect(name, effect)])


def _effect(name: str, effect: CutOver) -> list[str]:
    """From when a provider is live, and what nobody bills before that."""
    if effect.live_from_ms is None:
        return []
    if effect.live_from_ms >= FOR_GOOD_MS:
        return [f"in shadow: usage is sealed and compared, and {name} is sent nothing"]
    live = show_time(effect.live_from_ms)
    lines = [f"live from {live}: usage of windows before that is not sent to {name}"]
    if not (effect.unbilled or effect.unsealed_s):
        return lines
    since = show_time(effect.since_ms or min((one.from_ms for one in effect.unbilled), default=0))
    parts = [f"{one.quantity:,} of {one.feature} ({one.orgs:,} organisations)" for one in effect.unbilled]
    parts += [f"{effect.unsealed_s:,} not sealed yet"] if effect.unsealed_s else []
    if not effect.since_ms:
        return [*lines, f"in shadow since {since}, and not billed here: {', '.join(parts)}; worth {effect.worth}"]
    return [
        *lines,
        f"since {since} stay unbilled here, in base units: {', '.join(parts)}; what is sealed is worth {effect.worth}",
        f"if no other system billed them, bill them here: drawdown provider bill-shadow {name} --from {since}",
    ]


@commands.command("bill-shadow")
def bill_shadow(
    context: typer.Context,
    name: ProviderName,
    from_: Annotated[str, typer.Option("--from", help="The first window that is billed, such as the cut-over")],
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Bill usage that was sealed in shadow before a provider went live.

    The next tick seals and sends it. No other system may have billed it: Drawdown cannot know that.
    """
    app: App = context.obj
    if app.require_provider(name) in EXEMPT_PROVIDERS:
        raise Refused(f"{name} bills nothing here: it has no shadow")
    by, start = app.by(actor, reason), app.past(from_, "--from")

    def work(connection: sa.Connection) -> tuple[int, tuple[list[providers.Shadow], Worth]]:
        effect = providers.shadow_between(connection, name, start, FOR_GOOD_MS)
        return providers.bill_shadow(connection, name, start, by), effect

    done, (usage, worth) = app.write(work, rollback=dry_run)
    would = "would be" if dry_run else "are"
    parts = ", ".join(f"{one.quantity:,} of {one.feature} ({one.orgs:,} organisations)" for one in usage)
    lines = [
        f"{name}: {done:,} pushes in shadow since {show_time(start)} {would} sealed again and sent by the next tick",
        f"{parts}: {worth}",
    ]
    result = {"provider": name, "from_ms": start, "pushes": done, "usage": usage, "worth": worth}
    show(app, {**result, "dry_run": dry_run}, lines)


@commands.command()
def webhook(
    context: typer.Context,
    name: ProviderName,
    body: Annotated[typer.FileBinaryRead, typer.Argument(help="The body, byte for byte; - for standard input")],
    header: Annotated[list[str], typer.Option(help="'Name: value', each header that came with it")],
) -> None:
    """Take a webhook that came in elsewhere: verified here, by the provider's own scheme, before it changes anything.

    Exit status 75: it is genuine, and what it names could not be fetched; give it again.
    """
    app: App = context.obj
    if app.require_provider(name) in EXEMPT_PROVIDERS:
        raise Refused(f"{name} bills nothing here: it sends no webhooks")
    headers = {}
    for line in header:
        key, colon, value = line.partition(":")
        if not colon:
            raise UsageError(f"--header {line.split(' ')[0]!r}: write 'Name: value'")
        headers[key.strip().lower()] = value.strip()
    provider, now = app.registry.providers[name], app.clock.now_ms()
    content = body.read(MAX_WEBHOOK_BYTES + 1)
    if len(content) > MAX_WEBHOOK_BYTES:
        raise UsageError(f"a webhook of more than {MAX_WEBHOOK_BYTES:,} bytes is none")
    app.ready()
    notices = ask(lambda: provider.notices(headers, content, now), app.world())
    if isinstance(notices, ReadFailed):
        show(app, {"provider": name, "done": [], "later": notices.reason}, [f"{name}: later: {notices.reason}"])
        raise typer.Exit(Exit.LEFT)
    done = app.write(lambda c: apply_notices(c, name, notices, now))
    show(app, {"provider": name, "done": done}, done or [f"{name}: nothing that concerns us"])
