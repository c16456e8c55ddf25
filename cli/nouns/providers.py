"""`drawdown provider`: manage and check the services that bill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Final

import sqlalchemy as sa
import typer

from drawdown.cli.app import App
from drawdown.cli.declared import of_noun, run
from drawdown.cli.nouns.jobs import QUEUED
from drawdown.cli.options import Actor, DryRun, ProviderName, Queued, Reason, only_with
from drawdown.cli.rendering import show
from drawdown.providers.protocol import Provider, ReadFailed
from drawdown.schema.errors import Exit, Refused, UsageError
from drawdown.schema.text import counted
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import EXEMPT_PROVIDERS
from drawdown.worker.catalog.terms import describe
from drawdown.worker.engine.runner import ask
from drawdown.worker.features.lists import mapped_features
from drawdown.worker.jobs.job_payloads import AcceptJob
from drawdown.worker.jobs.queue import place
from drawdown.worker.provider import actions as providers
from drawdown.worker.provider.actions import CutOver
from drawdown.worker.provider.faces import ACTIONS, LISTS, PAUSE
from drawdown.worker.provider.lists import customers_at, features_used
from drawdown.worker.provider.shadows import FOR_GOOD_MS
from drawdown.worker.push.webhooks import apply_notices
from drawdown.worker.verdict.rates import Worth

commands = of_noun("provider", *ACTIONS, *LISTS)

MAX_WEBHOOK_BYTES: Final = 1_000_000
"""Largest webhook that a person passes on the command line, in bytes."""


@commands.command()
def check(
    context: typer.Context,
    name: ProviderName,
    feature: Annotated[
        list[str] | None,
        typer.Option(help="Features to check of each customer", show_default="the features that each uses"),
    ] = None,
    customer: Annotated[
        list[str] | None, typer.Option(help="Customers to check", show_default="the assigned customers")
    ] = None,
    most: Annotated[int, typer.Option(min=0, max=100_000, help="Maximum number of assigned customers")] = 50,
) -> None:
    """Check a provider before you bill usage there.

    The command checks the key, version, features and customers. It does not charge a customer. The exit status is 1 if
    a check finds a problem.
    """
    app: App = context.obj
    if app.require_provider(name) in EXEMPT_PROVIDERS:
        raise Refused(f"{name} does not bill usage here, so you need not check it. Name another provider")
    if customer:
        only_with(context, "--customer", "name", "feature")
    provider = app.registry.providers[name]
    now = app.clock.now_ms()
    customers = customer or app.read(lambda c: customers_at(c, name, now, most))
    by_use = (
        {tuple(feature): list(customers)} if feature else app.read(lambda c: features_used(c, name, customers, now))
    )
    features = feature or sorted({one for used in by_use for one in used}) or app.read(mapped_features)
    found = [provider.dormant] if provider.dormant else check_account(app, provider, features, by_use)
    done = {"provider": name, "problems": found, "features": features, "customers": len(customers)}
    good = f"{name}: ready ({counted(len(features), 'feature')} and {counted(len(customers), 'customer')} checked)"
    show(app, done, [f"{name}: {line}" for line in found] or [good])
    raise typer.Exit(Exit.PERSON if found else Exit.SETTLED)


def check_account(
    app: App, provider: Provider, features: Sequence[str], by_use: Mapping[tuple[str, ...], Sequence[str]]
) -> list[str]:
    """Return the faults of features, and of customers for the features that they use.

    `by_use`: the customers by these features. If they do not use a feature yet, check each customer for all features.
    """
    if list(by_use) == [()]:
        by_use = {tuple(features): by_use[()]}
    asked = [(list(features), list[str]()), *((list(used), list(some)) for used, some in by_use.items())]
    if len(asked) == 2 and asked[1][0] == asked[0][0]:
        del asked[0]
    said: dict[str, None] = {}
    for some, customers in asked:
        said |= dict.fromkeys(ask(partial(provider.check, some, customers), app.world()))
    return list(said)


@commands.command(hidden=True)
def resume(
    context: typer.Context,
    name: ProviderName,
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Resume sending to a paused provider.

    The command does the same as `provider pause NAME --undo`.
    """
    given = {"provider": name, "undo": True, "dry_run": dry_run, "actor": actor, "reason": reason}
    run(context.obj, PAUSE, given)


@commands.command()
def accept(
    context: typer.Context,
    name: ProviderName,
    dry_run: DryRun = False,
    queue: Queued = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Accept a provider's changed settings from now on.

    The settings are meters, units, the way of sending, shadow mode and cut-over. Drawdown reads them from this shell,
    so set the values that ticks have. Drawdown seals unsent usage again with the new settings. Billed usage does not
    change.
    """
    app: App = context.obj
    if app.require_provider(name) in EXEMPT_PROVIDERS:
        raise Refused(f"{name} does not bill usage here, so it does not have settings. Name another provider")
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
    moved = app.read(lambda c: providers.changes(c, name, provider.capabilities))
    voided = providers.accept(app.write, name, provider.capabilities, by, dry_run=dry_run)
    if not dry_run:
        effect = app.read(lambda c: providers.cut_over(c, name, provider.capabilities, by.now_ms))
    held = "would be" if dry_run else "are"
    text = f"{name}: its present settings {held} in force; unsent pushes to seal again: {voided:,}"
    done = {"provider": name, "voided": voided, "dry_run": dry_run, "cut_over": effect}
    return show(app, done, [text, f"changed settings: {describe(moved)}", *_effect(name, effect)])


def _effect(name: str, effect: CutOver) -> list[str]:
    """Return lines about the time from which a provider is live.

    The lines also show the usage before that time, which Drawdown does not bill.
    """
    if effect.live_from_ms is None:
        return []
    if effect.live_from_ms >= FOR_GOOD_MS:
        return [f"in shadow, so Drawdown seals and compares usage, but does not send it to {name}"]
    live = show_time(effect.live_from_ms)
    lines = [f"live from {live}: usage of windows before that is not sent to {name}"]
    if not (effect.unbilled or effect.unsealed_s):
        return lines
    since = show_time(effect.since_ms or min((one.from_ms for one in effect.unbilled), default=0))
    parts = [f"{one.quantity:,} of {one.feature} ({counted(one.orgs, 'organisation')})" for one in effect.unbilled]
    parts += [f"{effect.unsealed_s:,} not sealed yet"] if effect.unsealed_s else []
    if not effect.since_ms:
        return [*lines, f"in shadow since {since}, and not billed here: {', '.join(parts)}; worth {effect.worth}"]
    return [
        *lines,
        f"unbilled here since {since}, in base units: {', '.join(parts)}; the sealed part is worth {effect.worth}",
        f"if no other system billed this usage, bill it here: drawdown provider bill-shadow {name} --from {since}",
    ]


@commands.command("bill-shadow")
def bill_shadow(
    context: typer.Context,
    name: ProviderName,
    from_: Annotated[str, typer.Option("--from", help="First window to bill, such as the cut-over")],
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Bill usage that was sealed in shadow mode.

    The usage is from the time before the provider went live. First make sure that another system did not bill this
    usage, because Drawdown cannot check that. The next tick seals and sends the usage.
    """
    app: App = context.obj
    if app.require_provider(name) in EXEMPT_PROVIDERS:
        raise Refused(f"{name} does not bill usage here, so it does not have shadow usage. Name another provider")
    by, start = app.by(actor, reason), app.past(from_, "--from")

    def work(connection: sa.Connection) -> tuple[int, tuple[list[providers.Shadow], Worth]]:
        effect = providers.shadow_between(connection, name, start, FOR_GOOD_MS)
        return providers.bill_shadow(connection, name, start, by), effect

    done, (usage, worth) = app.write(work, rollback=dry_run)
    would = "would be" if dry_run else "is" if done == 1 else "are"
    pushes = counted(done, "push", "pushes")
    parts = ", ".join(f"{one.quantity:,} of {one.feature} ({counted(one.orgs, 'organisation')})" for one in usage)
    lines = [
        f"{name}: {pushes} in shadow since {show_time(start)} {would} sealed again and sent by the next tick",
        f"{parts}: {worth}",
    ]
    result = {"provider": name, "from_ms": start, "pushes": done, "usage": usage, "worth": worth}
    show(app, {**result, "dry_run": dry_run}, lines)


@commands.command()
def webhook(
    context: typer.Context,
    name: ProviderName,
    body: Annotated[
        typer.FileBinaryRead, typer.Argument(help="File with the body, byte for byte; - for standard input")
    ],
    header: Annotated[list[str], typer.Option(help="Header of the webhook, as 'Name: value'; may be repeated")],
) -> None:
    """Process a webhook that another server received.

    Drawdown first verifies the webhook by the provider's own scheme. If Drawdown cannot fetch the object of a genuine
    webhook, the exit status is 75. In that case, repeat the command.
    """
    app: App = context.obj
    if app.require_provider(name) in EXEMPT_PROVIDERS:
        raise Refused(f"{name} does not bill usage here, so it does not send webhooks. Name another provider")
    headers = {}
    for line in header:
        key, colon, value = line.partition(":")
        if not colon:
            raise UsageError(f"invalid --header {line.split(' ')[0]!r}: expected 'Name: value'")
        headers[key.strip().lower()] = value.strip()
    provider, now = app.registry.providers[name], app.clock.now_ms()
    content = body.read(MAX_WEBHOOK_BYTES + 1)
    if len(content) > MAX_WEBHOOK_BYTES:
        raise UsageError(f"the webhook is too long: expected at most {MAX_WEBHOOK_BYTES:,} bytes. Check the file")
    app.ready()
    notices = ask(lambda: provider.notices(headers, content, now), app.world())
    if isinstance(notices, ReadFailed):
        show(app, {"provider": name, "done": [], "later": notices.reason}, [f"{name}: later: {notices.reason}"])
        raise typer.Exit(Exit.LEFT)
    done = app.write(lambda c: apply_notices(c, name, notices, now))
    show(app, {"provider": name, "done": done}, done or [f"{name}: the webhook does not concern this database"])
