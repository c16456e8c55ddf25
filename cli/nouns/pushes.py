"""`drawdown push`: lists of pushes, and a person's decisions about them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple
from shlex import quote
from typing import Annotated, Final, NoReturn, cast

import sqlalchemy as sa
import typer
from rich.table import Table

from drawdown.cli.app import App
from drawdown.cli.options import Actor, DryRun, Expect, Keys, PageSize, Reason, only_with
from drawdown.cli.rendering import facts, show, table
from drawdown.providers.protocol import Cancelled, Cancels, Capabilities, ReadFailed
from drawdown.schema.errors import Exit, UsageError, worst
from drawdown.schema.text import typed
from drawdown.schema.typed.parsing import require_range, show_time
from drawdown.worker.engine.runner import ask, run
from drawdown.worker.history.incarnation import require_whole
from drawdown.worker.push import actions as pushes
from drawdown.worker.push.actions import (
    CancelReport,
    Chosen,
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
)
from drawdown.worker.push.explanation import PushColumns, explain_push
from drawdown.worker.push.lists import NO_ERROR, STATES, PushFilter, PushPage, PushSum, list_pushes, sum_pushes
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
    """Resolve all pushes in doubt of a filter; a dry run without an outcome shows both.

    Errors: UsageError without an outcome or evidence, unless it is a dry run; Refused as the rules have it.
    """
    if outcome is None and not dry_run:
        raise UsageError("no outcome is given: pass --accepted or --absent, or --dry-run to see both")
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
        yield "no push in doubt is like that; nothing was changed"
        return
    for one in done:
        yield from _of_outcome(one)
        if one.dry_run and one.pushes:
            yield f"  {command_of(chosen, one.outcome, evidence, found)}"
    if done[0].dry_run:
        yield "nothing was changed"


def _of_outcome(one: ResolvedAll) -> Iterator[str]:
    """Totals of one outcome, then what stays, by reason."""
    would = "would be " if one.dry_run else ""
    yield f"{one.pushes:,} of {one.found:,} pushes in doubt, of {one.orgs:,} organisations: {would}{DONE[one.outcome]}"
    if one.pushes:
        yield f"  worth {one.worth}"
        yield f"  quantities: {named_quantities(one.worth.quantities, most=len(one.worth.quantities))}"
    for stays in one.stays:
        yield f"  {stays.pushes:,} stay in doubt, {stays.words}"
        yield f"    {stays.example}"


def command_of(chosen: DoubtFilter, outcome: Outcome, evidence: str, found: int) -> str:
    """The command that does what a dry run showed, to no more pushes than it counted."""
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
    end = (f"--{outcome}", "--evidence", evidence or "EVIDENCE", "--at-most", str(found))
    return typed("drawdown", "push", "resolve", "--all-in-doubt", *words, *end)


CancelKeys = Annotated[
    list[str], typer.Argument(metavar="KEY...", help="Keys of pushes, usage:ORG:WINDOW:FEATURE[:rN]")
]


def _register(commands: typer.Typer) -> None:
    """Add the command to those of pushes."""
    commands.command("cancel")(cancel)


def cancel(
    context: typer.Context, keys: CancelKeys, dry_run: DryRun = False, actor: Actor = None, reason: Reason = "not given"
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
    show(app, result, _cancel_lines(done))
    raise typer.Exit(Exit.PERSON if done.unconfirmed else Exit.SETTLED)


def _askable(app: App) -> Mapping[str, Capabilities]:
    """Providers with a key, on the settings that the pushes were sent by: a changed name would name another event."""
    changed = app.context().changed
    ready = {name for name, provider in app.registry.providers.items() if provider.dormant is None}
    return {name: can for name, can in app.registry.capabilities.items() if name in ready and name not in changed}


async def _cancel_all(app: App, intents: Sequence[Intent]) -> list[Cancelled | ReadFailed]:
    providers = app.registry.providers
    return [await cast(Cancels, providers[intent.provider]).cancel(intent.request) for intent in intents]


def _cancel_lines(done: CancelReport) -> list[str]:
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


commands = typer.Typer()
_register(commands)

LISTED: Final = ("key", "provider", "#quantity", "state", "#attempts", "last error")
OF_ALL: Final = (
    "provider", "org", "customer", "feature", "from_", "to", "error", "at_most", "accepted", "absent", "evidence",
    "dry_run", "actor", "reason",
)  # fmt: skip
"""Options of `resolve` that count beside --all-in-doubt."""
SUMMED: Final = ("provider", "customer", "feature", "state", "#pushes", "#quantity")


@commands.command("list")
def list_(
    context: typer.Context,
    state_: Annotated[
        list[str] | None,
        typer.Option("--state", help=f"Only those that are {', '.join(STATES)}", show_default=STATES[0]),
    ] = None,
    org: Annotated[str, typer.Option(help="Only this organisation's")] = "",
    provider: Annotated[str, typer.Option(help="Only this provider's")] = "",
    feature: Annotated[str, typer.Option(help="Only of this feature")] = "",
    from_: Annotated[str, typer.Option("--from", help="Only of windows from this moment on")] = "",
    to: Annotated[str, typer.Option("--to", help="Only of windows that begin before this moment")] = "",
    why: Annotated[str, typer.Option(help=f"Only those with this last error, as it stands here, or '{NO_ERROR}'")] = "",
    after: Annotated[str, typer.Option(help="Go on behind this place: a page's `next_after`")] = "",
    most: PageSize = 100,
) -> None:
    """List pushes; without --state, those that are not settled, with sums by customer.

    Pushes that need a person come first.
    """
    app: App = context.obj
    if len(state_ or ()) > 1:
        raise UsageError("--state: give one; 'open' is all that is not settled, 'any' is all there ever was")
    app.require_any_provider(provider)
    times = (app.past(from_, "--from") if from_ else None, app.moment(to, "--to") if to else None)
    require_range(*times)
    chosen, now_ms = PushFilter((state_ or STATES)[0], provider, org, feature, *times, why), app.clock.now_ms()

    def work(connection: sa.Connection) -> tuple[PushPage, list[PushSum]]:
        page = list_pushes(connection, chosen, now_ms, after, most)
        return page, sum_pushes(connection, chosen) if chosen.is_open else []

    page, sums = app.read(work)
    shown = [(r.key, r.provider, r.sent_qty, r.state, r.attempts, r.last_error) for r in page.lines]
    result: dict[str, object] = {"pushes": page.lines, "next_after": page.next_after}
    lines: list[str | Table] = [table("Pushes", LISTED, shown)]
    of_all = ""
    if chosen.is_open:  # whatever is settled is all there ever was
        total = sum(sum_.pushes for sum_ in sums)
        result |= {"total": total, "sums": sums}
        of_all = f"{len(page.lines):,} of {total:,} are listed; "
    if page.next_after is not None:
        more = "this page looked no further, and the next one goes on" if page.is_cut else "there are more"
        lines.append(f"{of_all}{more}: --after {quote(page.next_after)}")
    if sums:
        lines.append(table("In all", SUMMED, [astuple(sum_) for sum_ in sums[:most]]))
    show(app, result, lines)


@commands.command("show")
def show_(context: typer.Context, key: Annotated[str, typer.Argument(help="The push's key")]) -> None:
    """Explain one push: samples, mapping, quantity, attempts, the provider's answer."""
    app: App = context.obj
    found = app.read(lambda c: explain_push(c, key))
    push, sent_as = found.push, found.sent_as
    samples = [(s.id, show_time(s.ts), s.event_type or s.memory_mb, s.interval_s, s.withdrawn) for s in found.samples]
    attempts = [
        (a.attempt, show_time(a.started_ms), show_time(a.finished_ms), a.outcome, a.detail) for a in found.attempts
    ]
    show(
        app,
        asdict(found),
        [
            table(key, ("", ""), facts(asdict(push))),
            f"sent to {push.provider} as customer {sent_as.customer}, key {sent_as.key}, dated {show_time(sent_as.ts)}",
            *_looked_up(push),
            table(
                f"Samples of {show_time(push.window_ms)}, this feature: {found.samples_in_force_qty:,} in force, "
                f"{found.sealed_qty:,} sealed in all revisions",
                ("id", "at", "#MB or event type", "#seconds or units", "withdrawn"),
                samples,
            ),
            table("Attempts", ("#no.", "started", "finished", "outcome", "detail"), attempts),
        ],
    )


def _looked_up(push: PushColumns) -> list[str]:
    """Return the text about look-ups at the provider, and the time of the next one."""
    if not push.lookups:
        return []
    said = f"{push.lookup_answer} at {show_time(push.looked_up_ms)}" if push.looked_up_ms else "no answer yet"
    again = f"; again from {show_time(push.due_at_ms)} on" if push.state in ("queued", "in_doubt") else ""
    return [f"looked up there {push.lookups:,} times, last answer: {said.replace('_', ' ')}{again}"]


OfState = Annotated[list[str] | None, typer.Option("--state", help="All in this state")]
OfOrg = Annotated[str, typer.Option("--org", help="All of this organisation")]
OfProvider = Annotated[str, typer.Option("--provider", help="All at this provider")]
Saying = Annotated[str, typer.Option("--error", help="All with this text in their last error")]
AllInDoubt = Annotated[
    bool, typer.Option("--all-in-doubt", help="All in doubt that match the filter; what a rule protects stays")
]
OfCustomer = Annotated[str, typer.Option("--customer", help="With --all-in-doubt: this customer's")]
OfFeature = Annotated[str, typer.Option("--feature", help="With --all-in-doubt: this feature's")]
Since = Annotated[str, typer.Option("--from", help="With --all-in-doubt: of windows from this moment on")]
Until = Annotated[str, typer.Option("--to", help="With --all-in-doubt: of windows that begin before this moment")]
AtMost = Annotated[int | None, typer.Option(min=1, help="With --all-in-doubt: refuse if there are more")]


@commands.command()
def retry(
    context: typer.Context,
    keys: Keys = None,
    states: OfState = None,
    org: OfOrg = "",
    provider: OfProvider = "",
    error: Saying = "",
    expect: Expect = None,
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Send again with the next tick. A rejected push is voided and sealed again, under its next revision."""
    app: App = context.obj
    app.require_any_provider(provider)
    by, chosen = app.by(actor, reason), Chosen(keys, states, org, provider, error, expect)
    done, effect = _with_effect(
        app, lambda c: pushes.retry(c, chosen.find(c, ("due", "rejected")), by), dry_run=dry_run
    )
    lines = _report(done, "sent again by the next tick", effect, dry_run, will="will be ")
    show(app, {"retried": done, "effect": effect, "dry_run": dry_run}, lines)


@commands.command()
def resolve(
    context: typer.Context,
    keys: Keys = None,
    accepted: Annotated[bool, typer.Option("--accepted", help="The provider has it")] = False,
    absent: Annotated[bool, typer.Option("--absent", help="The provider does not have it: void it")] = False,
    evidence: Annotated[str, typer.Option(help="What shows it")] = "",
    states: OfState = None,
    org: OfOrg = "",
    provider: OfProvider = "",
    error: Saying = "",
    expect: Expect = None,
    all_in_doubt: AllInDoubt = False,
    customer: OfCustomer = "",
    feature: OfFeature = "",
    from_: Since = "",
    to: Until = "",
    at_most: AtMost = None,
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Record the outcome of pushes that are in doubt or rejected.

    Name them by their keys, or by a filter: then all of them are changed, or none. With --all-in-doubt, pushes that a
    rule protects are counted by reason and stay in doubt. Its dry run shows the amount in credits, and needs neither
    an outcome nor evidence. Exit status: 75 if the rest can be resolved later, 1 if a rule refuses some for good.
    """
    app: App = context.obj
    app.require_any_provider(provider)
    if all_in_doubt:
        only_with(context, "--all-in-doubt", *OF_ALL)
        if accepted and absent:
            raise UsageError("give --accepted or --absent")
        times = (app.past(from_, "--from") if from_ else None, app.moment(to, "--to") if to else None)
        found = DoubtFilter(provider, org, customer, feature, *times, error, at_most)
        outcome: Outcome | None = "accepted" if accepted else "absent" if absent else None
        resolve_doubted(app, found, outcome, evidence, dry_run=dry_run, actor=actor, reason=reason)
    _only_in_doubt({"--customer": customer, "--feature": feature, "--from": from_, "--to": to, "--at-most": at_most})
    if accepted == absent:
        raise UsageError("give --accepted or --absent")
    by, chosen = app.by(actor, reason), Chosen(keys, states, org, provider, error, expect)
    work = pushes.resolve_accepted if accepted else pushes.void
    done, effect = _with_effect(
        app, lambda c: work(c, chosen.find(c, ("in_doubt", "rejected")), by, evidence), dry_run=dry_run
    )
    what = "accepted" if accepted else "voided; what they held is owed again"
    result = {"resolved": done, "accepted": accepted, "effect": effect, "dry_run": dry_run}
    show(app, result, _report(done, what, effect, dry_run))


def _with_effect(
    app: App, work: Callable[[sa.Connection], list[str]], *, dry_run: bool
) -> tuple[list[str], PushEffect]:
    """Change pushes, or try to; with what they come to."""

    def both(connection: sa.Connection) -> tuple[list[str], PushEffect]:
        done = work(connection)
        return done, effect_of(connection, done)

    return app.write(both, rollback=dry_run)


def _only_in_doubt(given: Mapping[str, object]) -> None:
    """Refuse options that narrow --all-in-doubt alone. Errors: UsageError."""
    if typed := [name for name, value in given.items() if value not in ("", None)]:
        raise UsageError(f"{' and '.join(typed)}: only with --all-in-doubt")


@commands.command()
def void(
    context: typer.Context,
    keys: Keys = None,
    evidence: Annotated[str, typer.Option(help="What shows that the provider does not have it")] = "",
    states: OfState = None,
    org: OfOrg = "",
    provider: OfProvider = "",
    error: Saying = "",
    expect: Expect = None,
    although_accepted: Annotated[
        bool, typer.Option(help="Also one that the provider accepted and lost; it is asked first")
    ] = False,
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Declare that rejected or doubtful pushes never reached their provider; their usage is sealed and sent again."""
    app: App = context.obj
    app.require_any_provider(provider)
    by, chosen = app.by(actor, reason), Chosen(keys, states, org, provider, error, expect)
    if although_accepted and not keys:
        raise UsageError("name each push that was accepted and has to be voided: no filter finds those")
    if although_accepted:
        app.write(require_whole)  # a restored database is noticed before a provider is asked
        rows = list(app.read(lambda c: find_pushes(c, keys or ())).values())
        ready = app.context()
        known = {name: ready.capabilities[name] for name in ready.ready() if name in ready.capabilities}
        run(require_lost(rows, known, by.now_ms), app.world())
    done, effect = _with_effect(
        app,
        lambda c: pushes.void(
            c, chosen.find(c, ("in_doubt", "rejected")), by, evidence, although_accepted=although_accepted
        ),
        dry_run=dry_run,
    )
    lines = _report(done, "voided; the next tick seals what they held", effect, dry_run)
    show(app, {"voided": done, "effect": effect, "dry_run": dry_run}, lines)


def _report(keys: Sequence[str], what: str, effect: PushEffect, dry_run: bool, *, will: str = "") -> list[str]:
    what += ", all in one transaction" if len(keys) > 1 else ""
    what = f"would be {what}; nothing was changed" if dry_run else will + what
    shown = [f"  {key}" for key in keys[:20]]
    again = [f"for just these: --expect {len(keys)}"] if dry_run and len(keys) > 1 else []
    return [f"{len(keys):,} {what}", f"  {effect}", *shown, *(["  …"] if len(keys) > 20 else []), *again]


@commands.command("fold")
def fold_(
    context: typer.Context,
    before: Annotated[str, typer.Option(metavar="MONTH", help="The first month that stays, as 2025-01")],
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Fold the embedded ledger's settled pushes of old months into sums of a day, and delete them.

    Only below the floor that `drawdown sample prune` raised. The ledger keeps the entry of each charge; `drawdown
    verify` proves the sums against them.
    """
    app: App = context.obj
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", before):
        raise UsageError(f"--before: {before!r} is no month; write 2025-01")
    by, moment = app.by(actor, reason), app.moment(f"{before}-01", "--before")
    done = prune.fold(app.write, moment, by, dry_run=dry_run)
    did = "would fold" if dry_run else "folded"
    text = f"{did} {done.pushes:,} pushes of windows before {show_time(done.before_ms)} into sums of a day"
    kept = (
        f"; {done.kept:,} of {done.held_back:,} organisations stay, above their floor or beside one that is open"
        if done.kept
        else ""
    )
    show(app, {"folded": done, "dry_run": dry_run}, [text + kept])
