"""`drawdown push`: commands that work in portions or call providers.

The other commands are declared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Final, NoReturn, cast

import sqlalchemy as sa
import typer

from drawdown.cli.app import App
from drawdown.cli.declared import of_noun
from drawdown.cli.options import Actor, DryRun, Reason
from drawdown.cli.rendering import show, show_change
from drawdown.providers.protocol import Cancelled, Cancels, Capabilities, ReadFailed
from drawdown.schema.errors import Exit, UsageError, worst
from drawdown.schema.text import counted, typed
from drawdown.schema.typed.parsing import show_time
from drawdown.worker.catalog.terms import require_terms, wire_since
from drawdown.worker.engine.runner import ask, run
from drawdown.worker.history.incarnation import require_whole
from drawdown.worker.push import actions as pushes
from drawdown.worker.push.actions import (
    CancelReport,
    DoubtFilter,
    Intent,
    Outcome,
    PushEffect,
    ResolvedAll,
    conclude,
    effect_of,
    intend,
    require_lost,
    resolve_all,
    unready_of,
)
from drawdown.worker.push.faces import ACTIONS, LISTS, SEALED_AGAIN
from drawdown.worker.push.rows import find_pushes
from drawdown.worker.usage import prune
from drawdown.worker.verdict.rates import named_quantities

OUTCOMES: Final[tuple[Outcome, ...]] = ("accepted", "absent")
DONE: Final[Mapping[Outcome, str]] = {"accepted": "accepted", "absent": "voided; their usage is owed again"}


def resolve_doubted(
    app: App,
    chosen: DoubtFilter,
    outcome: Outcome | None,
    evidence: str,
    *,
    dry_run: bool,
    actor: str | None,
    reason: str,
) -> NoReturn:
    """Resolve all pushes in doubt of a filter, and end with the exit status.

    A dry run without an outcome shows both outcomes. Errors: UsageError if the outcome or the evidence is missing,
    unless it is a dry run; Refused by the rules.
    """
    if outcome is None and not dry_run:
        raise UsageError("missing outcome. Pass --outcome accepted or absent, or --dry-run to see both")
    by = app.by(actor, reason)
    done = [
        resolve_all(app.write, chosen, one, by, evidence, dry_run=dry_run)
        for one in (OUTCOMES if outcome is None else [outcome])
    ]
    ends = Exit.SETTLED if outcome is None else worst(one.exit_status for one in done)
    result: dict[str, object] = {"dry_run": dry_run, "outcomes": [asdict(one) for one in done], "exit_status": ends}
    show(app, result, _doubted_lines(done, chosen, evidence))
    raise typer.Exit(ends)


def _doubted_lines(done: list[ResolvedAll], chosen: DoubtFilter, evidence: str) -> Iterator[str]:
    found = done[0].found
    if not found:
        yield "no push in doubt matches; nothing was changed"
        return
    for one in done:
        yield from _of_outcome(one)
        if one.dry_run and one.pushes:
            yield f"  {command_of(chosen, one.outcome, evidence, found)}"
    if done[0].dry_run:
        yield "nothing was changed"


def _of_outcome(one: ResolvedAll) -> Iterator[str]:
    """Yield the totals of one outcome, then the pushes that stay in doubt, by reason."""
    would = "would be " if one.dry_run else ""
    orgs = counted(one.orgs, "organisation")
    yield f"{one.pushes:,} of {counted(one.found, 'push', 'pushes')} in doubt, of {orgs}: {would}{DONE[one.outcome]}"
    if one.pushes:
        yield f"  worth {one.worth}"
        yield f"  quantities: {named_quantities(one.worth.quantities, most=len(one.worth.quantities))}"
    for stays in one.stays:
        yield f"  {stays.pushes:,} {'stays' if stays.pushes == 1 else 'stay'} in doubt, {stays.words}"
        yield f"    {stays.example}"


def command_of(chosen: DoubtFilter, outcome: Outcome, evidence: str, found: int) -> str:
    """Return the command for the change that a dry run showed.

    `found`: the number of pushes of the dry run, for --at-most.
    """
    options = {
        "--provider": chosen.provider,
        "--org": chosen.org,
        "--customer": chosen.customer,
        "--feature": chosen.feature,
        "--from": "" if chosen.from_ms is None else show_time(chosen.from_ms),
        "--to": "" if chosen.to_ms is None else show_time(chosen.to_ms),
        "--error": chosen.error,
    }
    words = [word for name, value in options.items() if value for word in (name, value)]
    end = ("--outcome", outcome, "--evidence", evidence or "EVIDENCE", "--at-most", str(found))
    return typed("drawdown", "push", "resolve-all", *words, *end)


CancelKeys = Annotated[
    list[str], typer.Argument(metavar="KEY...", help="Keys of pushes, usage:ORG:WINDOW:FEATURE[:rN]")
]


def _register(commands: typer.Typer) -> None:
    """Add the command to those of pushes."""
    commands.command("cancel")(cancel)


def cancel(
    context: typer.Context, keys: CancelKeys, dry_run: DryRun = False, actor: Actor = None, reason: Reason = "not given"
) -> None:
    """Cancel accepted pushes at their provider.

    The provider cancels them first. Then Drawdown voids them, and their usage is owed again. Stripe cancels within 24
    hours of the send, and only with its v1 API. Final invoices do not change. If the provider did not confirm a
    cancellation, the exit status is 1. In that case, repeat the command.
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
    show(app, result, _cancel_lines(done))
    raise typer.Exit(Exit.PERSON if done.unconfirmed else Exit.SETTLED)


def _askable(app: App) -> Mapping[str, Capabilities]:
    """Return the capabilities of the providers at which Drawdown can cancel pushes.

    Such a provider has a key, and its settings have not changed. Changed settings would change the name of an event.
    """
    changed = app.context().changed
    ready = {name for name, provider in app.registry.providers.items() if provider.dormant is None}
    return {name: can for name, can in app.registry.capabilities.items() if name in ready and name not in changed}


async def _cancel_all(app: App, intents: Sequence[Intent]) -> list[Cancelled | ReadFailed]:
    providers = app.registry.providers
    return [await cast(Cancels, providers[intent.provider]).cancel(intent.request) for intent in intents]


def _cancel_lines(done: CancelReport) -> list[str]:
    lines = []
    if done.voided:
        lines = [f"{len(done.voided):,} cancelled and voided; {SEALED_AGAIN}"]
        lines += [f"  {key}" for key in done.voided]
    lines += [f"{key}: cancelled. Another call voided the push meanwhile" for key in done.before]
    lines += [
        f"{key}: the provider did not confirm the cancellation ({why}). The push is in doubt. Repeat the command, "
        "or wait until a tick looks the push up in an hour"
        for key, why in done.unconfirmed.items()
    ]
    return lines


commands = of_noun("push", *LISTS, *ACTIONS)
_register(commands)


@commands.command("resolve-all")
def resolve_all_(
    context: typer.Context,
    outcome: Annotated[
        str | None,
        typer.Option(
            metavar="accepted|absent", help="Outcome at the provider: accepted, or absent, which voids the pushes"
        ),
    ] = None,
    evidence: Annotated[str, typer.Option(help="Evidence of the outcome")] = "",
    org: Annotated[str, typer.Option(help="Organisation of the pushes")] = "",
    provider: Annotated[str, typer.Option(help="Provider of the pushes")] = "",
    customer: Annotated[str, typer.Option(help="Customer of the pushes")] = "",
    feature: Annotated[str, typer.Option(help="Feature of the pushes")] = "",
    from_: Annotated[str, typer.Option("--from", help="Earliest window of the pushes")] = "",
    to: Annotated[str, typer.Option("--to", help="Time before which the windows begin")] = "",
    error: Annotated[str, typer.Option(help="Text in the last error of the pushes")] = "",
    at_most: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of pushes; the command fails if more match")
    ] = None,
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Record the outcome of all matching pushes in doubt.

    If a rule protects a push, the push stays in doubt, and Drawdown counts it by reason. The dry run shows the amount
    in credits, and needs neither an outcome nor evidence. The exit status is 75 if you can resolve the rest later, and
    1 if a rule rejects some of the pushes for good.
    """
    app: App = context.obj
    app.require_any_provider(provider)
    if outcome is not None and outcome not in OUTCOMES:
        raise UsageError(f"invalid --outcome {outcome!r}: expected {' or '.join(OUTCOMES)}")
    times = (app.past(from_, "--from") if from_ else None, app.moment(to, "--to") if to else None)
    found = DoubtFilter(provider, org, customer, feature, *times, error, at_most)
    chosen = next((one for one in OUTCOMES if one == outcome), None)
    resolve_doubted(app, found, chosen, evidence, dry_run=dry_run, actor=actor, reason=reason)


@commands.command("void-lost")
def void_lost(
    context: typer.Context,
    keys: CancelKeys,
    evidence: Annotated[str, typer.Option(help="Evidence that the provider does not have the pushes")] = "",
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Void pushes that their provider accepted and lost.

    If the provider supports lookups, Drawdown first looks up the pushes there.
    """
    app: App = context.obj
    by = app.by(actor, reason)
    app.write(require_whole)  # check for a restored database before calling a provider
    rows = list(app.read(lambda c: find_pushes(c, keys)).values())
    ready = app.context()
    known = {name: ready.capabilities[name] for name in ready.ready() if name in ready.capabilities}
    since_ms = app.read(lambda c: {name: wire_since(c, name) for name in known})
    run(require_lost(rows, known, unready_of(ready), since_ms, by.now_ms), app.world())

    def work(connection: sa.Connection) -> tuple[list[str], PushEffect]:
        done = pushes.void(connection, keys, by, evidence, lost=rows)
        for provider in sorted({str(push.provider) for push in rows} & known.keys()):
            require_terms(connection, provider, known[provider])  # with other terms, the lookups were at another place
        return done, effect_of(connection, done)

    done, effect = app.write(work, rollback=dry_run)
    lines = [f"{len(done):,} voided; {SEALED_AGAIN}", f"  {effect}", *(f"  {key}" for key in done)]
    show_change(app, {"pushes": done, "effect": effect}, lines, dry_run=dry_run)


@commands.command("fold")
def fold_(
    context: typer.Context,
    before: Annotated[str, typer.Option(metavar="MONTH", help="First month that stays, such as 2025-01")],
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Fold settled pushes of old months into daily sums.

    The command folds and deletes pushes of the embedded ledger below the floor, which `drawdown sample prune` raises.
    The ledger keeps the entry of each charge, and `drawdown verify` proves the sums against these entries.
    """
    app: App = context.obj
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", before):
        raise UsageError(f"invalid --before {before!r}: expected a month as YYYY-MM, such as 2025-01")
    by, moment = app.by(actor, reason), app.moment(f"{before}-01", "--before")
    done = prune.fold(app.write, moment, by, dry_run=dry_run)
    did = "would fold" if dry_run else "folded"
    pushes = counted(done.pushes, "push", "pushes")
    text = f"{did} {pushes} of windows before {show_time(done.before_ms)} into sums of a day"
    kept = (
        f"; {counted(done.kept, 'push stays', 'pushes stay')}, of {counted(done.held_back, 'organisation')}: above the "
        "floor, beside an open push, or with a charge dated before its usage"
        if done.kept
        else ""
    )
    show(app, {"folded": done, "dry_run": dry_run}, [text + kept])
